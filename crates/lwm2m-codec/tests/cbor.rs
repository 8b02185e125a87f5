//! One value as CBOR.

use lwm2m_codec::{ContentFormat, DecodeError, EncodeError, decode, decode_create, encode};
use lwm2m_model::{InstanceNode, Node, ObjectPath, Registry, ResourceNode, Value, ValueType};

const CBOR: ContentFormat = ContentFormat::Cbor;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn path(text: &str) -> ObjectPath {
    text.parse().expect("a path")
}

fn read(payload: &str, at: &str) -> Result<Node, DecodeError> {
    decode(&hex(payload), &path(at), CBOR, &Registry::oma())
}

/// Payloads made by Leshan 2.0.0-M18's encoder.
#[test]
fn leshan_writes_the_same_bytes() {
    let both = |payload: &str, at: &str, value: Value| {
        let node = Node::single(path(at).resource_id().unwrap(), value);
        assert_eq!(read(payload, at).as_ref(), Ok(&node), "{payload}");
        assert_eq!(encode(&node, &path(at), CBOR), Ok(hex(payload)));
        // Without a model the item gives the type.
        let node = Node::single(4, node_value(&node));
        assert_eq!(read(payload, "/65000/0/4"), Ok(node), "{payload}");
    };
    for (v, payload) in [
        (0, "00"),
        (-1, "20"),
        (23, "17"),
        (24, "1818"),
        (1000, "1903E8"),
        (-1000, "3903E7"),
        (9_007_199_254_740_993, "1B0020000000000001"),
        (i64::MIN, "3B7FFFFFFFFFFFFFFF"),
        (i64::MAX, "1B7FFFFFFFFFFFFFFF"),
    ] {
        both(payload, "/3/0/9", Value::Integer(v));
    }
    both(
        "6E4772C3BCC39F65202278222F0A01",
        "/3/0/0",
        Value::String("Grüße \"x\"/\n\u{1}".into()),
    );
    both("FB3FB999999999999A", "/3303/0/5700", Value::Float(0.1));
    both("F5", "/1/0/6", Value::Boolean(true));
    both(
        "45010203FFFE",
        "/5/0/0",
        Value::Opaque(vec![1, 2, 3, 255, 254]),
    );
    both("C11A5182428F", "/3/0/13", Value::Time(1_367_491_215));
    assert_eq!(
        read("1BFFFFFFFFFFFFFFFF", "/65000/0/4"),
        Ok(Node::single(4, Value::Unsigned(u64::MAX)))
    );
    // Leshan's half floats are read; what is written has single precision, which more devices read.
    let node = Node::single(5700, Value::Float(23.5));
    assert_eq!(read("F94DE0", "/3303/0/5700").as_ref(), Ok(&node));
    assert_eq!(
        encode(&node, &path("/3303/0/5700"), CBOR),
        Ok(hex("FA41BC0000"))
    );
    let link = Node::single(4, Value::ObjectLink(3, 0));
    assert_eq!(
        encode(&link, &path("/65000/0/4"), CBOR),
        Ok(hex("63333A30"))
    );
}

fn node_value(node: &Node) -> Value {
    let values = node.values(&ObjectPath::Resource(0, 0, 0));
    values[0].1.clone()
}

#[test]
fn a_resource_instance_is_one_value_too() {
    let node = Node::ResourceInstance {
        id: 1,
        value: Value::Integer(5000),
    };
    assert_eq!(read("19 1388", "/3/0/7/1").as_ref(), Ok(&node));
    assert_eq!(encode(&node, &path("/3/0/7/1"), CBOR), Ok(hex("19 1388")));
    // A time without its tag, and one as a decimal fraction.
    let time = Ok(Node::single(13, Value::Time(1000)));
    assert_eq!(read("19 03e8", "/3/0/13"), time);
    assert_eq!(read("c1 c4 82 03 01", "/3/0/13"), time);
}

#[test]
fn what_is_not_one_value_of_the_type() {
    let at = path("/3/0");
    assert_eq!(
        read("00", "/3/0"),
        Err(DecodeError::NotASingleValue {
            format: CBOR,
            path: at
        })
    );
    assert!(decode_create(&[0], 3303, CBOR, &Registry::oma()).is_err());
    assert_eq!(
        encode(&Node::Instance(InstanceNode::new(0, [])), &at, CBOR),
        Err(EncodeError::NotASingleValue {
            format: CBOR,
            path: at
        })
    );
    let many = Node::Resource(ResourceNode::multiple(7, ValueType::Integer, []));
    assert!(encode(&many, &path("/3/0/7"), CBOR).is_err());
    assert_eq!(
        read("63 31 30 30", "/3/0/9").unwrap_err().to_string(),
        "the value of /3/0/9 is no Integer: it is a string"
    );
    assert_eq!(
        read("c1 00", "/3/0/9").unwrap_err().to_string(),
        "the value of /3/0/9 is no Integer: it is a time"
    );
    for payload in [
        "",
        "00 00",
        "80",
        "a0",
        "f6",
        "ff",
        "f8 15",
        "1f",
        "3f",
        "5f",
        "18",
        "43 00",
        "c1",
        "c1 60",
        "c1 c1 c1 00",
        "c2 49 ffffffffffffffffff",
        "fb 7ff0000000000000",
        "fa 7fc00000",
        "f9 fc00",
        "c4 9f 00 00",
        "c4 83 00 00 00",
        "c4 82 00 fa 00000000",
        "62 ff ff",
    ] {
        let result = read(payload, "/65000/0/4");
        assert!(
            matches!(result, Err(DecodeError::Malformed { format: CBOR, .. })),
            "{payload}: {result:?}"
        );
    }
}
