//! Entry points for fuzzing: each takes any bytes and must never panic.

use lwm2m_model::{Node, ObjectPath, Registry, ValueType};

use crate::{ContentFormat, decode, decode_create, encode, format_links, parse_links};

/// Reads bytes as TLV at every depth, and checks that what was accepted is written and read back alike. The
/// paths are of objects with multiple resources and of one that is not known.
pub fn decode_tlv(data: &[u8]) {
    let registry = Registry::oma();
    for object in [3, 3303, 65000] {
        for path in [
            ObjectPath::Root,
            ObjectPath::Object(object),
            ObjectPath::Instance(object, 0),
            ObjectPath::Resource(object, 0, 7),
            ObjectPath::ResourceInstance(object, 0, 7, 0),
        ] {
            if let Ok(node) = decode(data, &path, ContentFormat::Tlv, &registry) {
                let written =
                    encode(&node, &path, ContentFormat::Tlv).expect("what was read can be written");
                let again = decode(&written, &path, ContentFormat::Tlv, &registry)
                    .expect("what was written can be read");
                // NaN is not equal to itself, but its text is.
                assert_eq!(format!("{again:?}"), format!("{node:?}"));
            }
        }
        if let Ok(new) = decode_create(data, object, ContentFormat::Tlv, &registry) {
            assert!(
                new.resources
                    .iter()
                    .all(|(id, resource)| *id == resource.id)
            );
        }
    }
}

/// Reads bytes as links, and checks that what was accepted is written and read back alike.
pub fn decode_link_format(data: &[u8]) {
    if let Ok(links) = parse_links(data) {
        assert_eq!(parse_links(format_links(&links).as_bytes()), Ok(links));
    }
}

/// Reads bytes as text of every type, and checks that what was accepted is written and read back alike.
pub fn decode_text(data: &[u8]) {
    let path = ObjectPath::Resource(3, 0, 0);
    for kind in ValueType::ALL {
        if let Ok(value) = crate::decode_text(data, kind, &path) {
            let node = Node::single(0, value.clone());
            if let Ok(written) = encode(&node, &path, ContentFormat::Text) {
                assert_eq!(crate::decode_text(&written, kind, &path), Ok(value));
            }
        }
    }
}
