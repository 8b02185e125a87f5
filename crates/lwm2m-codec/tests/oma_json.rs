//! The JSON of LwM2M 1.0, under its old and its new content-format id.

use lwm2m_codec::{
    ContentFormat, DecodeError, MAX_ENTRIES, decode, decode_create, decode_timestamped, encode,
};
use lwm2m_model::{
    InstanceNode, Node, ObjectNode, ObjectPath, Registry, ResourceNode, Value, ValueType,
};

const JSON: ContentFormat = ContentFormat::Json;

fn path(text: &str) -> ObjectPath {
    text.parse().expect("a path")
}

fn read(payload: &str, at: &str) -> Result<Node, DecodeError> {
    decode(payload.as_bytes(), &path(at), JSON, &Registry::oma())
}

/// Both directions, under both ids.
fn is(payload: &str, at: &str, node: Node) {
    for format in [JSON, ContentFormat::OldJson] {
        assert!(format.carries_nodes());
        let written = encode(&node, &path(at), format).expect("a node that can be written");
        assert_eq!(String::from_utf8_lossy(&written), payload);
        assert_eq!(
            decode(payload.as_bytes(), &path(at), format, &Registry::oma()).as_ref(),
            Ok(&node)
        );
    }
}

fn integer(id: u16, v: i64) -> ResourceNode {
    ResourceNode::single(id, Value::Integer(v))
}

fn integers(id: u16, values: &[(u16, i64)]) -> ResourceNode {
    let values = values.iter().map(|(id, v)| (*id, Value::Integer(*v)));
    ResourceNode::multiple(id, ValueType::Integer, values)
}

/// Payloads made by Leshan 2.0.0-M18's encoder.
#[test]
fn leshan_writes_the_same_text() {
    let of = |at: &str, id, value, payload: &str| is(payload, at, Node::single(id, value));
    of(
        "/65000/0/0",
        0,
        Value::String("Grüße \"x\"/\n\u{1}".into()),
        r#"{"bn":"/65000/0/0","e":[{"sv":"Grüße \"x\"/\n\u0001"}]}"#,
    );
    of(
        "/3/0/9",
        9,
        Value::Integer(9_007_199_254_740_993),
        r#"{"bn":"/3/0/9","e":[{"v":9007199254740993}]}"#,
    );
    of(
        "/65000/0/2",
        2,
        Value::Unsigned(u64::MAX),
        r#"{"bn":"/65000/0/2","e":[{"v":18446744073709551615}]}"#,
    );
    of(
        "/3303/0/5700",
        5700,
        Value::Float(100.0),
        r#"{"bn":"/3303/0/5700","e":[{"v":100.0}]}"#,
    );
    of(
        "/1/0/6",
        6,
        Value::Boolean(true),
        r#"{"bn":"/1/0/6","e":[{"bv":true}]}"#,
    );
    of(
        "/5/0/0",
        0,
        Value::Opaque(vec![1, 2, 3, 255, 254]),
        r#"{"bn":"/5/0/0","e":[{"sv":"AQID//4="}]}"#,
    );
    of(
        "/3/0/13",
        13,
        Value::Time(1_367_491_215),
        r#"{"bn":"/3/0/13","e":[{"v":1367491215}]}"#,
    );
    is(
        r#"{"bn":"/3/0/7/","e":[{"n":"0","v":3800},{"n":"300","v":5000}]}"#,
        "/3/0/7",
        Node::Resource(integers(7, &[(0, 3800), (300, 5000)])),
    );
    is(
        r#"{"bn":"/3/0/7/","e":[]}"#,
        "/3/0/7",
        Node::Resource(integers(7, &[])),
    );
    is(
        r#"{"bn":"/3/0/7/1","e":[{"v":5000}]}"#,
        "/3/0/7/1",
        Node::ResourceInstance {
            id: 1,
            value: Value::Integer(5000),
        },
    );
    let float = |v| ResourceNode::single(5700, Value::Float(v));
    is(
        r#"{"bn":"/3303/","e":[{"n":"0/5700","v":22.5},{"n":"2/5700","v":-4.5}]}"#,
        "/3303",
        Node::Object(ObjectNode::new(
            3303,
            [
                InstanceNode::new(0, [float(22.5)]),
                InstanceNode::new(2, [float(-4.5)]),
            ],
        )),
    );
}

/// Object links have a member of their own (TS 1.0.2, section 6.4.4); Leshan writes them as strings.
#[test]
fn object_links() {
    let link = Node::single(4, Value::ObjectLink(66, 0));
    is(
        r#"{"bn":"/65000/0/4","e":[{"ov":"66:0"}]}"#,
        "/65000/0/4",
        link,
    );
    let nothing = Node::single(4, Value::ObjectLink(65535, 65535));
    is(
        r#"{"bn":"/65000/0/4","e":[{"ov":"65535:65535"}]}"#,
        "/65000/0/4",
        nothing,
    );
    assert!(read(r#"{"e":[{"ov":"66"}]}"#, "/65000/0/4").is_err());
}

#[test]
fn names_are_relative_to_the_base_name_or_the_request() {
    let expected = Ok(Node::Instance(InstanceNode::new(
        0,
        [integer(9, 1), integers(7, &[(0, 2), (10, 3)])],
    )));
    for payload in [
        r#"{"bn":"/3/0/","e":[{"n":"9","v":1},{"n":"7/0","v":2},{"n":"7/10","v":3}]}"#,
        r#"{"bn":"/3/0","e":[{"n":"9","v":1},{"n":"7/0","v":2},{"n":"7/10","v":3}]}"#,
        r#"{"e":[{"n":"9","v":1},{"n":"7/0","v":2},{"n":"7/10","v":3}]}"#,
        r#"{"e":[{"n":"9","v":1},{"n":"7/0","v":2},{"n":"7/10","v":3}],"bn":"/3/0/"}"#,
        r#"{"e":[{"n":"/3/0/9","v":1},{"n":"/3/0/7/0","v":2},{"n":"7/10","v":3}]}"#,
        r#"{"bn":"/","e":[{"n":"3/0/9","v":1},{"n":"3/0/7/0","v":2},{"n":"3/0/7/10","v":3}]}"#,
    ] {
        assert_eq!(read(payload, "/3/0"), expected, "{payload}");
    }
    let nine = Ok(Node::Resource(integer(9, 1)));
    for payload in [
        r#"{"e":[{"v":1}]}"#,
        r#"{"e":[{"n":"","v":1}]}"#,
        r#"{"bn":"/3/0/9","e":[{"n":"","v":1}]}"#,
    ] {
        assert_eq!(read(payload, "/3/0/9"), nine, "{payload}");
    }
    // Without a base name the first id under an object is the instance's.
    assert_eq!(
        read(r#"{"e":[{"n":"0/0/1","v":1}]}"#, "/65000"),
        Ok(Node::Object(ObjectNode::new(
            65000,
            [InstanceNode::new(0, [integers(0, &[(1, 1)])])]
        )))
    );
    assert!(matches!(
        read(r#"{"bn":"/3/1/","e":[{"n":"9","v":1}]}"#, "/3/0"),
        Err(DecodeError::OutsidePath { .. })
    ));
}

#[test]
fn a_history_with_a_base_time() {
    let payload = br#"{"bn":"/3303/0/","e":[{"n":"5700","v":22.4,"t":-5},{"n":"5700","v":22.9,"t":-30},{"n":"5700","v":24.1,"t":-50}],"bt":25462634}"#;
    let at = path("/3303/0/5700");
    let nodes = decode_timestamped(payload, &at, JSON, &Registry::oma()).unwrap();
    let got: Vec<_> = nodes
        .into_iter()
        .map(|node| (node.time_s, node.content))
        .collect();
    let value = |v| Node::single(5700, Value::Float(v));
    assert_eq!(
        got,
        [
            (Some(25_462_629.0), value(22.4)),
            (Some(25_462_604.0), value(22.9)),
            (Some(25_462_584.0), value(24.1)),
        ]
    );
    assert_eq!(
        decode(payload, &at, JSON, &Registry::oma()),
        Ok(value(22.4)),
        "a plain read takes the newest"
    );
    let late = br#"{"bn":"/3303/0/","e":[{"n":"5700","v":22.4,"t":1e300}]}"#;
    assert!(decode_timestamped(late, &at, JSON, &Registry::oma()).is_err());
}

#[test]
fn what_is_no_such_json() {
    for payload in [
        "",
        "[]",
        "{",
        r#"{"e":{}}"#,
        r#"{"e":[1]}"#,
        r#"{"e":[{"n":""}]}"#,
        r#"{"e":[],"e":[]}"#,
        r#"{"e":[{"v":1,"sv":"x"}]}"#,
        r#"{"e":[{"v":"1"}]}"#,
        r#"{"e":[{"v":1e999}]}"#,
        r#"{"e":[{"v":1}]} x"#,
    ] {
        assert!(
            matches!(read(payload, "/3/0/9"), Err(DecodeError::Malformed { .. })),
            "{payload}"
        );
    }
    let at = path("/3/0/9");
    assert_eq!(read("{}", "/3/0/9"), Err(DecodeError::Missing { path: at }));
    assert_eq!(
        read(r#"{"e":[{"v":1},{"v":2}]}"#, "/3/0/9"),
        Err(DecodeError::Duplicate { path: at })
    );
    assert!(matches!(
        read(r#"{"e":[{"sv":"no base64!"}]}"#, "/5/0/0"),
        Err(DecodeError::BadValue { .. })
    ));
    let many = vec![r#"{"n":"9","v":1}"#; MAX_ENTRIES + 1].join(",");
    assert_eq!(
        read(&format!(r#"{{"e":[{many}]}}"#), "/3/0"),
        Err(DecodeError::TooManyEntries)
    );
    let new = decode_create(
        br#"{"bn":"/3303/","e":[{"n":"4/5700","v":1}]}"#,
        3303,
        JSON,
        &Registry::oma(),
    );
    assert_eq!(new.map(|new| new.id), Ok(Some(4)));
}
