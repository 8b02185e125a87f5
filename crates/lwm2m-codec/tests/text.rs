//! text/plain and opaque: one value in each payload; and the content formats' numbers and names.

use lwm2m_codec::{
    ContentFormat, DecodeError, EncodeError, UnknownFormat, decode, decode_create, encode,
};
use lwm2m_model::{InstanceNode, Node, ObjectPath, Registry, ResourceNode, Value, ValueType};

fn path(text: &str) -> ObjectPath {
    text.parse().expect("a path")
}

fn read(payload: &str, at: &str) -> Result<Node, DecodeError> {
    decode(
        payload.as_bytes(),
        &path(at),
        ContentFormat::Text,
        &Registry::oma(),
    )
}

#[test]
fn each_type_is_read_and_written_as_text() {
    let both = |text: &str, at: &str, value: Value| {
        let node = Node::single(path(at).resource_id().unwrap(), value);
        assert_eq!(read(text, at).as_ref(), Ok(&node));
        assert_eq!(
            encode(&node, &path(at), ContentFormat::Text),
            Ok(text.as_bytes().to_vec())
        );
    };
    both(
        "Open Mobile Alliance",
        "/3/0/0",
        Value::String("Open Mobile Alliance".to_owned()),
    );
    both("", "/3/0/0", Value::String(String::new()));
    both("100", "/3/0/9", Value::Integer(100));
    both("-9223372036854775808", "/3/0/9", Value::Integer(i64::MIN));
    both("23.5", "/3303/0/5700", Value::Float(23.5));
    both("-0.000001", "/3303/0/5700", Value::Float(-0.000_001));
    both("1", "/1/0/6", Value::Boolean(true));
    both("0", "/1/0/6", Value::Boolean(false));
    both("1367491215", "/3/0/13", Value::Time(1_367_491_215));
    both("AQID/w==", "/5/0/0", Value::Opaque(vec![1, 2, 3, 255]));
    // What no model is known for is a string.
    both("100", "/65000/0/0", Value::String("100".to_owned()));
    assert_eq!(
        read("3800", "/3/0/7/0"),
        Ok(Node::ResourceInstance {
            id: 0,
            value: Value::Integer(3800)
        })
    );
}

#[test]
fn the_types_of_lwm2m_1_1_and_object_links() {
    let at = path("/3/0/0");
    let read = |text: &str, kind| lwm2m_codec::decode_text(text.as_bytes(), kind, &at);
    assert_eq!(
        read("18446744073709551615", ValueType::Unsigned),
        Ok(Value::Unsigned(u64::MAX))
    );
    assert_eq!(
        read("3:0", ValueType::ObjectLink),
        Ok(Value::ObjectLink(3, 0))
    );
    assert_eq!(
        lwm2m_codec::encode_text(&Value::ObjectLink(65535, 65535)),
        "65535:65535"
    );
    assert_eq!(
        read("</3/0>;x", ValueType::CoreLink),
        Ok(Value::CoreLink("</3/0>;x".to_owned()))
    );
    assert_eq!(read("1e3", ValueType::Float), Ok(Value::Float(1000.0)));
    assert_eq!(
        lwm2m_codec::encode_text(&Value::Float(1e21)),
        "1000000000000000000000"
    );
    assert_eq!(
        read("AQID/w", ValueType::Opaque),
        Ok(Value::Opaque(vec![1, 2, 3, 255])),
        "without padding"
    );
}

#[test]
fn white_space_belongs_to_strings_only() {
    assert_eq!(
        read(" 21 \n", "/3/0/9"),
        Ok(Node::single(9, Value::Integer(21)))
    );
    assert_eq!(
        read(" x ", "/3/0/0"),
        Ok(Node::single(0, Value::String(" x ".to_owned())))
    );
}

#[test]
fn text_that_is_no_such_value_is_named() {
    let error = |text: &str, at: &str| read(text, at).unwrap_err().to_string();
    assert_eq!(
        error("many", "/3/0/9"),
        "the value of /3/0/9 is no Integer: \"many\": invalid digit found in string"
    );
    assert_eq!(
        error("warm", "/3303/0/5700"),
        "the value of /3303/0/5700 is no Float: \"warm\" is no decimal number"
    );
    assert_eq!(
        error("true", "/1/0/6"),
        "the value of /1/0/6 is no Boolean: \"true\" is neither 0 nor 1"
    );
    for text in ["inf", "NaN", "infinity", "1e999", "", "1,5"] {
        assert!(read(text, "/3303/0/5700").is_err(), "{text}");
    }
    for text in ["", "9223372036854775808", "1.0", "0x10"] {
        assert!(read(text, "/3/0/9").is_err(), "{text}");
    }
    assert!(read("not base64!", "/5/0/0").is_err());
    assert!(lwm2m_codec::decode_text(b"3:70000", ValueType::ObjectLink, &path("/3/0/0")).is_err());
    assert!(
        decode(
            &[0xff],
            &path("/3/0/0"),
            ContentFormat::Text,
            &Registry::oma()
        )
        .is_err()
    );
    let long = "x".repeat(100_000);
    assert!(
        error(&long, "/3/0/9").len() < 200,
        "an error quotes only the start of what it got"
    );
}

#[test]
fn text_and_opaque_carry_one_value() {
    let at = path("/3/0");
    let node = Node::Instance(InstanceNode::new(0, []));
    for format in [ContentFormat::Text, ContentFormat::Opaque] {
        assert!(format.carries_nodes());
        assert_eq!(
            encode(&node, &at, format),
            Err(EncodeError::NotASingleValue { format, path: at })
        );
        assert_eq!(
            decode(b"1", &at, format, &Registry::oma()),
            Err(DecodeError::NotASingleValue { format, path: at })
        );
        assert!(decode_create(b"1", 3303, format, &Registry::oma()).is_err());
    }
    let many = Node::Resource(ResourceNode::multiple(
        7,
        ValueType::Integer,
        [(0, Value::Integer(1))],
    ));
    assert!(matches!(
        encode(&many, &path("/3/0/7"), ContentFormat::Text),
        Err(EncodeError::NotASingleValue { .. })
    ));
    let nan = Node::single(5700, Value::Float(f64::NAN));
    let at = path("/3303/0/5700");
    assert_eq!(
        encode(&nan, &at, ContentFormat::Text),
        Err(EncodeError::NotFinite { path: at })
    );
}

#[test]
fn opaque_is_the_bytes_themselves() {
    let firmware = Node::single(0, Value::Opaque(vec![0, 159, 146, 150]));
    let at = path("/5/0/0");
    assert_eq!(
        encode(&firmware, &at, ContentFormat::Opaque),
        Ok(vec![0, 159, 146, 150])
    );
    assert_eq!(
        decode(
            &[0, 159, 146, 150],
            &at,
            ContentFormat::Opaque,
            &Registry::oma()
        ),
        Ok(firmware)
    );
    let unknown = decode(
        b"abc",
        &path("/65000/0/0/3"),
        ContentFormat::Opaque,
        &Registry::oma(),
    );
    assert_eq!(
        unknown,
        Ok(Node::ResourceInstance {
            id: 3,
            value: Value::Opaque(b"abc".to_vec())
        })
    );

    let error = decode(
        b"1",
        &path("/3/0/9"),
        ContentFormat::Opaque,
        &Registry::oma(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the value of /3/0/9 is no Integer: the payload is OPAQUE(42), which carries opaque values only"
    );
    let error = encode(
        &Node::single(9, Value::Integer(1)),
        &path("/3/0/9"),
        ContentFormat::Opaque,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "OPAQUE(42) carries opaque values only, and /3/0/9 has a value of type Integer: use TEXT or TLV"
    );
}

#[test]
fn formats_have_their_numbers_and_names() {
    for (id, name) in [
        (0, "TEXT"),
        (40, "LINK"),
        (42, "OPAQUE"),
        (60, "CBOR"),
        (110, "SENML_JSON"),
        (112, "SENML_CBOR"),
    ] {
        let format = ContentFormat::from_id(id).unwrap();
        assert_eq!((format.id(), format.name()), (id, name));
    }
    for (id, format) in [
        (1542, ContentFormat::OldTlv),
        (11542, ContentFormat::Tlv),
        (1543, ContentFormat::OldJson),
        (11543, ContentFormat::Json),
    ] {
        assert_eq!(ContentFormat::from_id(id), Some(format));
        assert_eq!(id.to_string().parse(), Ok(format));
        assert_eq!(format.name().to_lowercase().parse(), Ok(format));
    }
    assert_eq!(ContentFormat::from_id(1541), Some(ContentFormat::Text));
    assert_eq!(ContentFormat::from_id(1544), Some(ContentFormat::Opaque));
    assert_eq!(ContentFormat::from_id(41), None);
    assert_eq!(
        "XML".parse::<ContentFormat>(),
        Err(UnknownFormat("XML".to_owned()))
    );
}
