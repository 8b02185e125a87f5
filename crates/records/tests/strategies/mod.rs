//! Any record there can be.
#![allow(dead_code, reason = "each test file uses its part")]

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use records::*;

fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn value() -> impl Strategy<Value = ResourceValue> {
    prop_oneof![
        text().prop_map(ResourceValue::String),
        // Infinities are in, NaN is not: it is not equal to itself.
        any::<f64>()
            .prop_filter("a number", |v| !v.is_nan())
            .prop_map(ResourceValue::Double),
        any::<i64>().prop_map(ResourceValue::Long),
        any::<bool>().prop_map(ResourceValue::Boolean),
    ]
}

pub(crate) fn resource() -> impl Strategy<Value = AvroResource> {
    (
        any::<i32>(),
        text(),
        any_of(ResourceKind::ALL),
        any_of(ResourceType::ALL),
        value(),
    )
        .prop_map(|(id, path, kind, r#type, value)| AvroResource {
            id,
            path,
            kind,
            r#type,
            value,
        })
}

fn multiple() -> impl Strategy<Value = AvroMultipleResource> {
    let resources = btree_map(text(), resource(), 0..4);
    (
        any::<i32>(),
        text(),
        any_of(ResourceKind::ALL),
        any_of(ResourceType::ALL),
        resources,
    )
        .prop_map(|(id, path, kind, r#type, resources)| AvroMultipleResource {
            id,
            path,
            kind,
            r#type,
            resources,
        })
}

fn instance() -> impl Strategy<Value = AvroInstanceResource> {
    (
        any::<i32>(),
        any_of(ResourceKind::ALL),
        vec(resource(), 0..4),
        option::of(vec(multiple(), 0..3)),
    )
        .prop_map(
            |(id, kind, resources, multiple_resources)| AvroInstanceResource {
                id,
                kind,
                resources,
                multiple_resources,
            },
        )
}

fn object() -> impl Strategy<Value = AvroObjectResource> {
    (
        any::<i32>(),
        any_of(ResourceKind::ALL),
        vec(instance(), 0..3),
    )
        .prop_map(|(id, kind, instances)| AvroObjectResource {
            id,
            kind,
            instances,
        })
}

fn links() -> impl Strategy<Value = Vec<AvroLink>> {
    vec(
        (text(), btree_map(text(), text(), 0..3)).prop_map(|(url, at)| AvroLink { url, at }),
        0..4,
    )
}

pub(crate) fn registration() -> impl Strategy<Value = RegistrationResponse> {
    let attributes = || option::of(btree_map(text(), text(), 0..4));
    let new = (
        (
            text(),
            text(),
            any::<i64>(),
            text(),
            any::<i32>(),
            text(),
            any::<i32>(),
            any::<i64>(),
        ),
        (
            option::of(text()),
            text(),
            any_of(Bnd::ALL),
            text(),
            links(),
            attributes(),
            text(),
            any::<i64>(),
        ),
    )
        .prop_map(|(a, b)| {
            let (ep, server_id, reg_date, address, port, reg_addr, reg_port, lt) = a;
            let (sms, ver, bnd, reg_id, links, attributes, root, last_up) = b;
            RegistrationResponse::New(RegistrationNew {
                ep,
                server_id,
                reg_date,
                address,
                port,
                reg_addr,
                reg_port,
                lt,
                sms,
                ver,
                bnd,
                reg_id,
                links,
                attributes,
                root,
                last_up,
            })
        });
    let update = (
        (
            text(),
            text(),
            text(),
            text(),
            any::<i32>(),
            option::of(any::<i64>()),
        ),
        (
            option::of(text()),
            option::of(any_of(Bnd::ALL)),
            option::of(links()),
            attributes(),
            any::<i64>(),
        ),
    )
        .prop_map(
            |(
                (ep, server_id, reg_id, address, port, lt),
                (sms, bnd, links, attributes, last_up),
            )| {
                RegistrationResponse::Update(RegistrationUpdate {
                    ep,
                    server_id,
                    reg_id,
                    address,
                    port,
                    lt,
                    sms,
                    bnd,
                    links,
                    attributes,
                    last_up,
                })
            },
        );
    let delete = (text(), text(), any::<bool>(), any::<i64>()).prop_map(
        |(ep, server_id, expired, last_up)| {
            RegistrationResponse::Delete(RegistrationDelete {
                ep,
                server_id,
                expired,
                last_up,
            })
        },
    );
    prop_oneof![new, update, delete]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let node = prop_oneof![
        object().prop_map(WriteNode::Object),
        instance().prop_map(WriteNode::Instance),
        resource().prop_map(WriteNode::Resource),
    ];
    let write = (any_of(WriteMode::ALL), node)
        .prop_map(|(mode, node)| RequestBody::Write(WriteRequest { mode, node }));
    let body = prop_oneof![
        instance().prop_map(RequestBody::Create),
        text().prop_map(RequestBody::Execute),
        text().prop_map(RequestBody::WriteAttributes),
        write,
    ];
    let payload = (
        any_of(RequestKind::ALL),
        text(),
        any_of(AvroContentFormat::ALL),
        option::of(body),
    )
        .prop_map(|(kind, path, content_format, body)| RequestPayload {
            kind,
            path,
            content_format,
            body,
        });
    (text(), text(), text(), payload).prop_map(|(server_id, ep, ticket, payload)| Request {
        server_id,
        ep,
        ticket,
        payload,
    })
}

fn payload() -> impl Strategy<Value = ResponsePayload> {
    let content = prop_oneof![
        object().prop_map(ReadContent::Object),
        instance().prop_map(ReadContent::Instance),
        resource().prop_map(ReadContent::Resource),
        multiple().prop_map(ReadContent::Multiple),
    ];
    let body = prop_oneof![
        content.prop_map(ResponseBody::Read),
        text().prop_map(ResponseBody::Discover),
        text().prop_map(ResponseBody::Create),
        text().prop_map(ResponseBody::Generic),
    ];
    (
        any_of(ResponseCode::ALL),
        any_of(RequestKind::ALL),
        option::of(body),
    )
        .prop_map(|(code, kind, body)| ResponsePayload { code, kind, body })
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    (text(), text(), text(), text(), any::<i64>(), payload()).prop_map(
        |(ticket, server_id, ep, path, timestamp, rep)| Response {
            ticket,
            server_id,
            ep,
            path,
            timestamp,
            rep,
        },
    )
}

pub(crate) fn notification() -> impl Strategy<Value = ResponseObserve> {
    (text(), response()).prop_map(|(observation_id, r)| ResponseObserve {
        ticket: r.ticket,
        observation_id,
        server_id: r.server_id,
        ep: r.ep,
        path: r.path,
        timestamp: r.timestamp,
        rep: r.rep,
    })
}
