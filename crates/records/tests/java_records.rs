//! Each of our records is, byte for byte, what Java's Avro writes for it.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod golden;

use std::collections::BTreeMap;

use golden::find;
use records::*;

/// Java's bytes are this record's, and this record's bytes are Java's.
#[track_caller]
fn same<T: AvroRecord + std::fmt::Debug + PartialEq>(name: &str, record: T) {
    let golden = find(name);
    assert_eq!(
        hex::encode(record.to_datum()),
        hex::encode(&golden.resolved),
        "{name}: writing"
    );
    assert_eq!(
        T::from_datum(&golden.resolved).unwrap(),
        record,
        "{name}: reading"
    );
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

fn link<const N: usize>(url: &str, at: [(&str, &str); N]) -> AvroLink {
    AvroLink {
        url: url.into(),
        at: map(at),
    }
}

fn resource(id: i32, path: &str, r#type: ResourceType, value: ResourceValue) -> AvroResource {
    AvroResource {
        id,
        path: path.into(),
        kind: ResourceKind::SingleResource,
        r#type,
        value,
    }
}

fn instance(
    id: i32,
    resources: Vec<AvroResource>,
    multiple_resources: Option<Vec<AvroMultipleResource>>,
) -> AvroInstanceResource {
    AvroInstanceResource {
        id,
        kind: ResourceKind::Instance,
        resources,
        multiple_resources,
    }
}

#[test]
fn keys() {
    same("key-ascii", AvroKey::new("urn:imei:358000000000001"));
    same("key-unicode", AvroKey::new("Fühler-größe-温度-😀"));
    same("key-empty", AvroKey::new(""));
}

#[test]
fn registrations() {
    same(
        "registration-new",
        RegistrationResponse::New(RegistrationNew {
            ep: "sensor-1".into(),
            server_id: "rock64".into(),
            reg_date: 1_527_587_190_000,
            address: "192.168.1.20".into(),
            port: 56830,
            reg_addr: "0.0.0.0".into(),
            reg_port: 5683,
            lt: 300,
            sms: Some("+4912345".into()),
            ver: "1.0".into(),
            bnd: Bnd::Uq,
            reg_id: "aB3dE".into(),
            links: vec![
                link("/", [("rt", "oma.lwm2m")]),
                link("/3/0", []),
                link("/3303/1", [("ver", "1.1")]),
            ],
            attributes: Some(map([("b", "UQ")])),
            root: "/".into(),
            last_up: 1_527_587_190_001,
        }),
    );
    same(
        "registration-new-bare",
        RegistrationResponse::New(RegistrationNew {
            ep: String::new(),
            server_id: String::new(),
            reg_date: -1,
            address: "::1".into(),
            port: 0,
            reg_addr: String::new(),
            reg_port: i32::MIN,
            lt: i64::MIN,
            sms: None,
            ver: String::new(),
            bnd: Bnd::U,
            reg_id: String::new(),
            links: vec![],
            attributes: None,
            root: "/".into(),
            last_up: i64::MAX,
        }),
    );
    same(
        "registration-update",
        RegistrationResponse::Update(RegistrationUpdate {
            ep: "sensor-1".into(),
            server_id: "rock64".into(),
            reg_id: "aB3dE".into(),
            address: "192.168.1.21".into(),
            port: i32::MAX,
            lt: Some(86400),
            sms: Some(String::new()),
            bnd: Some(Bnd::Uqs),
            links: Some(vec![link("/3/0", [])]),
            attributes: Some(map([])),
            last_up: 1_527_587_200_000,
        }),
    );
    same(
        "registration-update-bare",
        RegistrationResponse::Update(RegistrationUpdate {
            ep: "sensor-1".into(),
            server_id: "rock64".into(),
            reg_id: "aB3dE".into(),
            address: "10.0.0.1".into(),
            port: 5683,
            lt: None,
            sms: None,
            bnd: None,
            links: None,
            attributes: None,
            last_up: -1_527_587_200_000,
        }),
    );
    for (name, expired, last_up) in [
        ("registration-delete", false, 1_527_587_300_000),
        ("registration-expired", true, 0),
    ] {
        same(
            name,
            RegistrationResponse::Delete(RegistrationDelete {
                ep: "sensor-1".into(),
                server_id: "rock64".into(),
                expired,
                last_up,
            }),
        );
    }
}

#[test]
fn requests() {
    use AvroContentFormat::{Json, Link, Opaque, Text, Tlv};
    let request = |server_id: &str, ticket: &str, kind, path: &str, content_format, body| Request {
        server_id: server_id.into(),
        ep: "EP".into(),
        ticket: ticket.into(),
        payload: RequestPayload {
            kind,
            path: path.into(),
            content_format,
            body,
        },
    };
    let write = |mode, node| Some(RequestBody::Write(WriteRequest { mode, node }));
    same(
        "request-observe",
        request(
            "rock64",
            "ticket#1",
            RequestKind::Observe,
            "/3303/0/5700",
            Tlv,
            None,
        ),
    );
    same(
        "request-observe-cancel",
        request(
            "rock64",
            "ticket#1",
            RequestKind::ObserveCancel,
            "/3303/0/5700",
            Json,
            None,
        ),
    );
    same(
        "request-read",
        request("rock64", "ticket#2", RequestKind::Read, "3/0/0", Text, None),
    );
    same(
        "request-delete",
        request(
            "rock64",
            "ticket#6",
            RequestKind::Delete,
            "/3303/1",
            Opaque,
            None,
        ),
    );
    same(
        "request-discover",
        request(
            "rock64",
            "ticket#7",
            RequestKind::Discover,
            "/3",
            Link,
            None,
        ),
    );
    let parameters = Some(RequestBody::Execute("param1,param2".into()));
    same(
        "request-execute",
        request(
            "server1",
            "ticket#5",
            RequestKind::Execute,
            "/3/0/4",
            Tlv,
            parameters,
        ),
    );
    let attributes = Some(RequestBody::WriteAttributes("pmin=10&pmax=60".into()));
    same(
        "request-write-attributes",
        request(
            "rock64",
            "ticket#8",
            RequestKind::WriteAttributes,
            "/3303/0",
            Tlv,
            attributes,
        ),
    );
    let off = resource(
        6,
        "/1/0/6",
        ResourceType::Boolean,
        ResourceValue::Boolean(false),
    );
    let body = write(WriteMode::Replace, WriteNode::Resource(off));
    same(
        "request-write-resource",
        request(
            "rock64",
            "ticket#4",
            RequestKind::Write,
            "/1/0/6",
            Tlv,
            body,
        ),
    );
    let one = instance(
        0,
        vec![resource(
            1,
            "/1/0/1",
            ResourceType::Integer,
            ResourceValue::Long(-300),
        )],
        None,
    );
    let body = write(WriteMode::Update, WriteNode::Instance(one));
    same(
        "request-write-instance",
        request("rock64", "ticket#9", RequestKind::Write, "/1/0", Tlv, body),
    );
    let empty = AvroObjectResource {
        id: 1,
        kind: ResourceKind::Object,
        instances: vec![],
    };
    let body = write(WriteMode::Replace, WriteNode::Object(empty));
    same(
        "request-write-object",
        request("rock64", "ticket#10", RequestKind::Write, "/1", Tlv, body),
    );
    let times = AvroMultipleResource {
        id: 7,
        path: "/3303/2/7".into(),
        kind: ResourceKind::MultipleResource,
        r#type: ResourceType::Time,
        resources: BTreeMap::from([(
            "1".to_owned(),
            resource(
                1,
                "/3303/2/7/1",
                ResourceType::Time,
                ResourceValue::Long(-1000),
            ),
        )]),
    };
    let body = Some(RequestBody::Create(instance(2, vec![], Some(vec![times]))));
    same(
        "request-create",
        request(
            "rock64",
            "ticket#11",
            RequestKind::Create,
            "/3303",
            Tlv,
            body,
        ),
    );
}

#[test]
fn responses() {
    use RequestKind::{Create, Discover, Execute, Observe, Read};
    use ResponseCode::{Changed, Content, Created, Unknown};
    let response = |path: &str, timestamp, code, kind, body| Response {
        ticket: "t".into(),
        server_id: "s".into(),
        ep: "e".into(),
        path: path.into(),
        timestamp,
        rep: ResponsePayload { code, kind, body },
    };
    let read = |content| Some(ResponseBody::Read(content));
    let single = |id, path: &str, r#type, value| {
        read(ReadContent::Resource(resource(id, path, r#type, value)))
    };

    let body = single(
        5700,
        "/3303/0/5700",
        ResourceType::Float,
        ResourceValue::Double(-21.5),
    );
    let minus = response("/3303/0/5700", 1_527_587_190_000, Content, Read, body);
    let minus = Response {
        ticket: "ticket#2".into(),
        server_id: "rock64".into(),
        ep: "EP".into(),
        ..minus
    };
    same("response-resource-double", minus);
    let text = ResourceValue::String("Größe \"1\"\n\u{1}".into());
    let body = single(0, "/3/0/0", ResourceType::String, text);
    same(
        "response-resource-string",
        response("/3/0/0", 0, Content, Read, body),
    );
    let body = single(
        3,
        "/0/0/3",
        ResourceType::Opaque,
        ResourceValue::String("AP/+".into()),
    );
    same(
        "response-resource-opaque",
        response("/0/0/3", 1, Content, Observe, body),
    );
    let body = single(
        6,
        "/1/0/6",
        ResourceType::Boolean,
        ResourceValue::Boolean(true),
    );
    same(
        "response-resource-boolean",
        response("/1/0/6", -5, Content, Read, body),
    );

    let at = 1_527_587_190_000;
    let links = AvroMultipleResource {
        id: 22,
        path: "/3/0/22".into(),
        kind: ResourceKind::MultipleResource,
        r#type: ResourceType::ObjectLink,
        resources: BTreeMap::from([(
            "0".to_owned(),
            resource(
                0,
                "/3/0/22/0",
                ResourceType::ObjectLink,
                ResourceValue::String("3:0".into()),
            ),
        )]),
    };
    same(
        "response-multiple",
        response(
            "/3/0/22",
            at,
            Content,
            Read,
            read(ReadContent::Multiple(links)),
        ),
    );
    let first = vec![
        resource(
            5700,
            "/3303/0/5700",
            ResourceType::Float,
            ResourceValue::Double(1.0e-7),
        ),
        resource(
            5518,
            "/3303/0/5518",
            ResourceType::Time,
            ResourceValue::Long(at),
        ),
    ];
    let object = AvroObjectResource {
        id: 3303,
        kind: ResourceKind::Object,
        instances: vec![instance(0, first, Some(vec![])), instance(1, vec![], None)],
    };
    same(
        "response-object",
        response(
            "/3303",
            at,
            Content,
            Read,
            read(ReadContent::Object(object)),
        ),
    );
    let lowest = resource(
        1,
        "/3303/1/1",
        ResourceType::Integer,
        ResourceValue::Long(i64::MIN),
    );
    let body = read(ReadContent::Instance(instance(1, vec![lowest], None)));
    same(
        "response-instance",
        response("/3303/1", at, Content, Read, body),
    );

    let body = Some(ResponseBody::Discover("</3/0>;pmin=10,</3/0/1>".into()));
    same(
        "response-discover",
        response("/3", at, Content, Discover, body),
    );
    let body = Some(ResponseBody::Create("/3303/2".into()));
    same(
        "response-create",
        response("/3303", at, Created, Create, body),
    );
    let body = Some(ResponseBody::Generic("CHANGED".into()));
    same(
        "response-generic",
        response("/3/0/4", at, Changed, Execute, body),
    );
    same(
        "response-unknown",
        response("/3", i64::MIN, Unknown, Create, None),
    );
}

fn notification(ticket: &str, path: &str, timestamp: i64, value: AvroResource) -> ResponseObserve {
    ResponseObserve {
        ticket: ticket.into(),
        observation_id: "0a".into(),
        server_id: "s".into(),
        ep: "e".into(),
        path: path.into(),
        timestamp,
        rep: ResponsePayload {
            code: ResponseCode::Content,
            kind: RequestKind::Observe,
            body: Some(ResponseBody::Read(ReadContent::Resource(value))),
        },
    }
}

#[test]
fn notifications() {
    let warm = resource(
        5700,
        "/3303/0/5700",
        ResourceType::Float,
        ResourceValue::Double(23.75),
    );
    let double = ResponseObserve {
        observation_id: "0a1b2c3d4e5f6071".into(),
        server_id: "upboard".into(),
        ep: "sensor-1".into(),
        ..notification("ticket#1", "/3303/0/5700", 1_527_587_190_000, warm)
    };
    same("observe-double", double);
    let battery = resource(
        9,
        "/3/0/9",
        ResourceType::Integer,
        ResourceValue::Long(-128),
    );
    let long = ResponseObserve {
        observation_id: "ff".into(),
        server_id: "upboard".into(),
        ep: "sensor-1".into(),
        ..notification(UNSET_TICKET, "/3/0/9", -1, battery)
    };
    same("observe-long", long);
    same(
        "observe-null",
        ResponseObserve {
            ticket: UNSET_TICKET.into(),
            observation_id: String::new(),
            server_id: String::new(),
            ep: String::new(),
            path: String::new(),
            timestamp: 0,
            rep: ResponsePayload {
                code: ResponseCode::InternalServerError,
                kind: RequestKind::Observe,
                body: None,
            },
        },
    );
}

#[test]
fn one_of_them_in_full() {
    let writer = Schema::parse(include_str!("golden/writer-newer-observe.avsc")).unwrap();
    let reader = RecordReader::<ResponseObserve>::new(&writer).unwrap();
    let warm = resource(
        5700,
        "/3303/0/5700",
        ResourceType::Float,
        ResourceValue::Double(23.75),
    );
    let expected = ResponseObserve {
        server_id: "upboard".into(),
        ep: "sensor-1".into(),
        ..notification("ticket#1", "/3303/0/5700", -1527, warm)
    };
    assert_eq!(
        reader.read(&find("newer-double").written).unwrap(),
        expected
    );
}
