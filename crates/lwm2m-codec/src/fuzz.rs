//! Entry points for fuzzing: each takes any bytes and must never panic.

use lwm2m_model::{Node, ObjectPath, Registry, ValueType};

use crate::{
    ContentFormat, decode, decode_create, decode_nodes, decode_paths, decode_timestamped, encode,
    encode_nodes, encode_paths, encode_timestamped, format_links, parse_links,
};

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

/// Reads bytes as SenML JSON, and checks that what was accepted is written and read back alike.
pub fn decode_senml_json(data: &[u8]) {
    reads_back(data, ContentFormat::SenmlJson);
    composites_read_back(data, ContentFormat::SenmlJson);
}

/// Reads bytes as SenML CBOR, and checks that what was accepted is written and read back alike.
pub fn decode_senml_cbor(data: &[u8]) {
    reads_back(data, ContentFormat::SenmlCbor);
    composites_read_back(data, ContentFormat::SenmlCbor);
}

/// Reads bytes as the JSON of LwM2M 1.0, and checks that what was accepted is written and read back alike.
pub fn decode_oma_json(data: &[u8]) {
    reads_back(data, ContentFormat::Json);
}

/// Reads bytes as one CBOR value, and checks that what was accepted is written and read back alike.
pub fn decode_cbor(data: &[u8]) {
    reads_back(data, ContentFormat::Cbor);
}

/// At every depth, in objects with models and in one without.
fn reads_back(data: &[u8], format: ContentFormat) {
    let registry = Registry::oma();
    for object in [3, 3303, 65000] {
        let resource = if object == 3303 { 5700 } else { 7 };
        for path in [
            ObjectPath::Root,
            ObjectPath::Object(object),
            ObjectPath::Instance(object, 0),
            ObjectPath::Resource(object, 0, resource),
            ObjectPath::Resource(object, 0, 13),
            ObjectPath::ResourceInstance(object, 0, resource, 0),
        ] {
            if let Ok(node) = decode(data, &path, format, &registry) {
                let written = encode(&node, &path, format).expect("what was read can be written");
                let again = decode(&written, &path, format, &registry);
                assert_eq!(again, Ok(node), "{path}");
            }
            if let Ok(nodes) = decode_timestamped(data, &path, format, &registry)
                && nodes.iter().any(|node| node.time_s.is_some())
            {
                let written = encode_timestamped(&nodes, &path, format)
                    .expect("what was read can be written");
                let again = decode_timestamped(&written, &path, format, &registry)
                    .expect("what was written can be read");
                assert_eq!(again.len(), nodes.len(), "{path}");
                assert!(nodes.iter().all(|node| again.contains(node)), "{path}");
            }
        }
        if let Ok(new) = decode_create(data, object, format, &registry) {
            assert!(
                new.resources
                    .iter()
                    .all(|(id, resource)| *id == resource.id)
            );
        }
    }
}

fn composites_read_back(data: &[u8], format: ContentFormat) {
    let registry = Registry::oma();
    if let Ok(groups) = decode_nodes(data, &[], format, &registry) {
        let written = encode_nodes(&groups, format).expect("what was read can be written");
        let again =
            decode_nodes(&written, &[], format, &registry).expect("what was written can be read");
        assert_eq!(again.len(), groups.len());
        assert!(groups.iter().all(|group| again.contains(group)));
    }
    if let Ok(paths) = decode_paths(data, format) {
        let written = encode_paths(&paths, format).expect("paths can be written");
        assert_eq!(decode_paths(&written, format), Ok(paths));
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
