//! TLV: the specification's examples in their own file, and here what devices and attackers send.

mod specification;

use lwm2m_codec::{ContentFormat, DecodeError, EncodeError, decode, decode_create, encode};
use lwm2m_model::{
    InstanceNode, Node, ObjectNode, ObjectPath, Registry, ResourceNode, Value, ValueType,
};

const TLV: ContentFormat = ContentFormat::Tlv;

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

fn read(payload: &[u8], at: &str) -> Result<Node, DecodeError> {
    decode(payload, &path(at), TLV, &Registry::oma())
}

fn write(node: &Node, at: &str) -> Result<Vec<u8>, EncodeError> {
    encode(node, &path(at), TLV)
}

/// Both directions at once.
fn is(payload: &str, at: &str, node: Node) {
    assert_eq!(read(&hex(payload), at).as_ref(), Ok(&node));
    assert_eq!(write(&node, at), Ok(hex(payload)));
}

fn text(id: u16, text: &str) -> ResourceNode {
    ResourceNode::single(id, Value::String(text.to_owned()))
}

fn integer(id: u16, v: i64) -> ResourceNode {
    ResourceNode::single(id, Value::Integer(v))
}

fn integers(id: u16, values: &[(u16, i64)]) -> ResourceNode {
    ResourceNode::multiple(
        id,
        ValueType::Integer,
        values.iter().map(|(id, v)| (*id, Value::Integer(*v))),
    )
}

#[test]
fn a_resource_and_a_resource_instance() {
    is("C1 09 64", "/3/0/9", Node::Resource(integer(9, 100)));
    is(
        "E8 16 44 08 40 37 80 00 00 00 00 00",
        "/3303/1/5700",
        Node::single(5700, Value::Float(23.5)),
    );
    is(
        "86 06 41 00 01 41 01 05",
        "/3/0/6",
        Node::Resource(integers(6, &[(0, 1), (1, 5)])),
    );
    is(
        "42 01 13 88",
        "/3/0/7/1",
        Node::ResourceInstance {
            id: 1,
            value: Value::Integer(5000),
        },
    );
    // Zephyr wraps the instance in its resource; a list of instances may come without it.
    let instance = Ok(Node::ResourceInstance {
        id: 1,
        value: Value::Integer(5000),
    });
    assert_eq!(read(&hex("84 07 42 01 13 88"), "/3/0/7/1"), instance);
    assert_eq!(
        read(&hex("41 00 01 41 01 05"), "/3/0/6"),
        Ok(Node::Resource(integers(6, &[(0, 1), (1, 5)])))
    );
    // A resource wrapped in its instance.
    assert_eq!(
        read(&hex("03 00 C1 09 64"), "/3/0/9"),
        Ok(Node::Resource(integer(9, 100)))
    );
    // The short float; an empty multiple resource.
    assert_eq!(
        read(&hex("E4 16 44 41 BC 00 00"), "/3303/0/5700"),
        Ok(Node::single(5700, Value::Float(23.5)))
    );
    assert_eq!(read(&[], "/3/0/7"), Ok(Node::Resource(integers(7, &[]))));
    is("80 07", "/3/0/7", Node::Resource(integers(7, &[])));
}

/// Payloads made by Leshan 2.0.0-M18's encoder from these nodes.
#[test]
fn leshan_writes_the_same_bytes() {
    let is_single = |payload, at: &str, id, value| is(payload, at, Node::single(id, value));
    is_single(
        "C8 00 08 40 37 80 00 00 00 00 00",
        "/6/0/0",
        0,
        Value::Float(23.5),
    );
    is_single(
        "C8 00 08 3F B9 99 99 99 99 99 9A",
        "/6/0/0",
        0,
        Value::Float(0.1),
    );
    is_single(
        "C4 0D 51 82 42 8F",
        "/3/0/13",
        13,
        Value::Time(1_367_491_215),
    );
    is_single("C2 09 FF 7F", "/3/0/9", 9, Value::Integer(-129));
    is_single(
        "C4 09 80 00 00 00",
        "/3/0/9",
        9,
        Value::Integer(-2_147_483_648),
    );
    is_single(
        "C8 09 08 00 00 00 00 80 00 00 00",
        "/3/0/9",
        9,
        Value::Integer(2_147_483_648),
    );
    let voltages = Node::Resource(integers(7, &[(0, 3800), (300, 5000)]));
    is("88 07 09 42 00 0E D8 62 01 2C 13 88", "/3/0/7", voltages);
    let instance = Node::Instance(InstanceNode::new(7, [integer(9, 100)]));
    assert_eq!(write(&instance, "/3/7"), Ok(hex("C1 09 64")));
    assert_eq!(write(&instance, "/3"), Ok(hex("03 07 C1 09 64")));
}

#[test]
fn both_ids_of_tlv_mean_the_same() {
    let node = Node::Resource(integer(9, 100));
    assert_eq!(
        encode(&node, &path("/3/0/9"), ContentFormat::OldTlv),
        Ok(hex("C1 09 64"))
    );
    assert_eq!(
        decode(
            &hex("C1 09 64"),
            &path("/3/0/9"),
            ContentFormat::OldTlv,
            &Registry::oma()
        ),
        Ok(node)
    );
}

#[test]
fn integers_take_the_fewest_bytes() {
    let bytes = |value: Value| write(&Node::single(0, value), "/65000/0/0").unwrap()[2..].to_vec();
    for (v, expected) in [
        (0, "00"),
        (-1, "FF"),
        (127, "7F"),
        (128, "00 80"),
        (-129, "FF 7F"),
        (32768, "00 00 80 00"),
        (-2_147_483_648, "80 00 00 00"),
    ] {
        assert_eq!(bytes(Value::Integer(v)), hex(expected), "{v}");
        assert_eq!(bytes(Value::Time(v)), hex(expected), "{v}");
    }
    let long = |value: Value| write(&Node::single(0, value), "/65000/0/0").unwrap();
    assert_eq!(
        long(Value::Integer(i64::MIN)),
        hex("C8 00 08 80 00 00 00 00 00 00 00")
    );
    assert_eq!(bytes(Value::Unsigned(255)), hex("FF"));
    assert_eq!(bytes(Value::Unsigned(65535)), hex("FF FF"));
    assert_eq!(
        long(Value::Unsigned(u64::MAX)),
        hex("C8 00 08 FF FF FF FF FF FF FF FF")
    );
}

#[test]
fn lengths_take_none_one_two_or_three_bytes() {
    for (length, head) in [
        (0, "C0 00"),
        (7, "C7 00"),
        (8, "C8 00 08"),
        (255, "C8 00 FF"),
        (256, "D0 00 01 00"),
        (65535, "D0 00 FF FF"),
        (65536, "D8 00 01 00 00"),
        (0x00ff_ffff, "D8 00 FF FF FF"),
    ] {
        let node = Node::single(0, Value::Opaque(vec![0xA5; length]));
        let payload = write(&node, "/5/0/0").unwrap();
        let head = hex(head);
        assert_eq!(
            (&payload[..head.len()], payload.len()),
            (&head[..], head.len() + length)
        );
        assert_eq!(read(&payload, "/5/0/0"), Ok(node));
    }
    let node = Node::single(0, Value::Opaque(vec![0; 0x0100_0000]));
    assert_eq!(
        write(&node, "/5/0/0"),
        Err(EncodeError::TooLong {
            path: path("/5/0/0"),
            bytes: 0x0100_0000
        })
    );
}

#[test]
fn without_a_model_the_bytes_decide() {
    let value =
        |payload: &str| match decode(&hex(payload), &path("/65000/0/1"), TLV, &Registry::new()) {
            Ok(Node::Resource(resource)) => resource.content,
            other => panic!("{other:?}"),
        };
    use lwm2m_model::ResourceContent::{Multiple, Single};
    assert_eq!(
        value("C3 01 61 62 63"),
        Single(Value::String("abc".to_owned()))
    );
    assert_eq!(value("C2 01 C3 A9"), Single(Value::String("é".to_owned())));
    assert_eq!(value("C0 01"), Single(Value::String(String::new())));
    assert_eq!(value("C1 01 05"), Single(Value::Opaque(vec![5])));
    assert_eq!(
        value("C2 01 FF 41"),
        Single(Value::Opaque(vec![0xFF, 0x41]))
    );
    // The values of one resource have one type.
    let Multiple { kind, instances } = value("86 01 41 00 61 41 01 05") else {
        panic!("not multiple")
    };
    assert_eq!(kind, ValueType::Opaque);
    assert_eq!(instances[&0], Value::Opaque(vec![0x61]));
}

#[test]
fn a_create_with_and_without_an_id() {
    let registry = Registry::oma();
    let instance = InstanceNode::new(7, [text(5750, "cellar")]);
    let resources = hex("E6 16 76 63 65 6C 6C 61 72");
    let bare = decode_create(&resources, 3303, TLV, &registry).unwrap();
    assert_eq!((bare.id, &bare.resources), (None, &instance.resources));
    assert_eq!(
        write(
            &Node::Instance(InstanceNode {
                id: 0,
                ..instance.clone()
            }),
            "/3303/0"
        ),
        Ok(resources)
    );

    let wrapped = write(&Node::Instance(instance.clone()), "/3303").unwrap();
    assert_eq!(wrapped, hex("08 07 09 E6 16 76 63 65 6C 6C 61 72"));
    let new = decode_create(&wrapped, 3303, TLV, &registry).unwrap();
    assert_eq!((new.id, new.resources), (Some(7), instance.resources));

    assert_eq!(decode_create(&[], 3303, TLV, &registry).unwrap().id, None);
    assert_eq!(
        decode_create(&hex("00 00 00 01"), 3303, TLV, &registry),
        Err(DecodeError::NotOneInstance { found: 2 })
    );
}

#[test]
fn a_value_that_does_not_fit_its_model_is_named() {
    let error = |payload: &str, at: &str| read(&hex(payload), at).unwrap_err().to_string();
    assert_eq!(
        error("C3 09 01 02 03", "/3/0/9"),
        "the value of /3/0/9 is no Integer: it has 3 bytes instead of 1, 2, 4 or 8"
    );
    assert_eq!(
        error("C1 06 02", "/1/0/6"),
        "the value of /1/0/6 is no Boolean: it is 2 instead of 0 or 1"
    );
    assert_eq!(
        error("E2 16 44 00 01", "/3303/0/5700"),
        "the value of /3303/0/5700 is no Float: it has 2 bytes instead of 4 or 8"
    );
    assert_eq!(
        error("C2 00 41 FF", "/3/0"),
        "the value of /3/0/0 is no String: it is not UTF-8 from byte 1 on"
    );
    assert_eq!(
        error("84 07 43 01 00 00", "/3/0/7"),
        "the TLV at byte 2 says 3 bytes follow, and 2 do"
    );
    assert!(
        error("85 07 43 01 00 00 01", "/3/0/7").contains("3 bytes"),
        "inner lengths are read"
    );
}

#[test]
fn a_payload_for_another_place_is_refused() {
    let error = |payload: &str, at: &str| read(&hex(payload), at).unwrap_err();
    assert_eq!(
        error("C1 0A 0F", "/3/0/9"),
        DecodeError::WrongId {
            offset: 0,
            id: 10,
            path: path("/3/0/9")
        }
    );
    assert_eq!(
        error("03 01 C1 09 64", "/3/0"),
        DecodeError::WrongId {
            offset: 0,
            id: 1,
            path: path("/3/0")
        }
    );
    assert!(matches!(
        error("C1 09 64 C1 09 64", "/3/0/9"),
        DecodeError::WrongLevel { offset: 3, .. }
    ));
    assert_eq!(
        error("C1 09 64 C1 09 65", "/3/0"),
        DecodeError::Duplicate {
            path: path("/3/0/9")
        }
    );
    assert_eq!(
        error("86 06 41 00 01 41 00 05", "/3/0"),
        DecodeError::Duplicate {
            path: path("/3/0/6/0")
        }
    );
    assert_eq!(
        error("00 00 00 00", "/3303"),
        DecodeError::Duplicate {
            path: path("/3303/0")
        }
    );
    // Which of several instances would these resources belong to?
    assert!(matches!(
        error("E4 16 44 41 BC 00 00", "/3303"),
        DecodeError::WrongLevel { offset: 0, .. }
    ));
    assert!(matches!(
        error("03 00 C1 09 64 C1 09 64", "/3"),
        DecodeError::WrongLevel { offset: 5, .. }
    ));
    assert!(matches!(
        error("41 00 01", "/3/0"),
        DecodeError::WrongLevel { .. }
    ));
    assert!(matches!(
        error("83 06 C1 00 01", "/3/0"),
        DecodeError::WrongLevel { offset: 2, .. }
    ));
    assert_eq!(
        error("", "/3/0/9"),
        DecodeError::Missing {
            path: path("/3/0/9")
        }
    );
    assert_eq!(
        error("", "/3/0/7/1"),
        DecodeError::Missing {
            path: path("/3/0/7/1")
        }
    );
    assert_eq!(
        error("C1 09 64", "/"),
        DecodeError::NoNodeAtPath {
            path: ObjectPath::Root
        }
    );
    assert_eq!(
        error("E1 FF FF 00", "/3/0"),
        DecodeError::ReservedId { offset: 0 }
    );
}

#[test]
fn a_node_for_another_place_is_refused() {
    let misfit = |node: Node, at: &str| {
        assert!(
            matches!(
                write(&node, at),
                Err(EncodeError::NodeDoesNotFitPath { .. })
            ),
            "{node:?} at {at}"
        );
    };
    misfit(Node::Resource(integer(9, 1)), "/3/0/10");
    misfit(Node::Resource(integer(9, 1)), "/3/0");
    misfit(Node::Instance(InstanceNode::new(1, [])), "/3/0");
    misfit(Node::Object(ObjectNode::new(4, [])), "/3");
    misfit(Node::Object(ObjectNode::new(3, [])), "/");
    misfit(
        Node::ResourceInstance {
            id: 0,
            value: Value::Integer(1),
        },
        "/3/0/7",
    );
}

#[test]
fn hostile_lengths_and_floods_end_in_errors() {
    assert_eq!(
        read(&hex("D8 00 FF FF FF"), "/5/0"),
        Err(DecodeError::Truncated {
            offset: 0,
            needed: 0x00ff_ffff,
            left: 0
        })
    );
    assert!(matches!(
        read(&[0xC8], "/3/0"),
        Err(DecodeError::Truncated { .. })
    ));
    assert!(matches!(
        read(&hex("E0 00"), "/3/0"),
        Err(DecodeError::Truncated { .. })
    ));
    // 32768 empty resource instances, then one more.
    let flood = [0x40, 0x00].repeat(lwm2m_codec::MAX_ENTRIES + 1);
    assert_eq!(read(&flood, "/3/0/7"), Err(DecodeError::TooManyEntries));
    for end in 0..hex(specification::DEVICE).len() {
        lwm2m_codec::fuzz::decode_tlv(&hex(specification::DEVICE)[..end]);
    }
}

#[test]
fn formats_that_are_not_supported_say_so() {
    let node = Node::Resource(integer(9, 100));
    for format in [
        ContentFormat::SenmlEtchJson,
        ContentFormat::SenmlEtchCbor,
        ContentFormat::Lwm2mCbor,
        ContentFormat::Link,
    ] {
        assert!(!format.carries_nodes());
        assert_eq!(
            encode(&node, &path("/3/0/9"), format),
            Err(EncodeError::Unsupported { format })
        );
        assert_eq!(
            decode(b"x", &path("/3/0/9"), format, &Registry::oma()),
            Err(DecodeError::Unsupported { format })
        );
        assert_eq!(
            decode_create(b"x", 3, format, &Registry::oma()),
            Err(DecodeError::Unsupported { format })
        );
    }
    let format = ContentFormat::Lwm2mCbor;
    assert_eq!(
        DecodeError::Unsupported { format }.to_string(),
        "LWM2M_CBOR(11544) is not supported for nodes: ask for TLV, SENML_JSON or SENML_CBOR"
    );
}
