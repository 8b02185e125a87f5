//! What is written is read back alike, for nodes of every shape and for every type; and no input makes a decoder panic.

use lwm2m_codec::{
    ContentFormat, Link, NewInstance, Timestamped, decode, decode_create, decode_timestamped,
    encode, encode_create, encode_timestamped, format_links, fuzz, parse_links,
};
use lwm2m_model::{
    InstanceNode, Node, ObjectModel, ObjectNode, ObjectPath, Operations, Registry, ResourceContent,
    ResourceModel, ResourceNode, Value, ValueType,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// An object with a resource of each type, once single (0 and up) and once multiple (1000 and up).
const OBJECT: u16 = 40000;
const MULTIPLE: u16 = 1000;

fn registry() -> Registry {
    let model = |id: u16, kind: ValueType| ResourceModel {
        id,
        name: kind.oma_name().to_owned(),
        operations: Operations::RW,
        multiple: id >= MULTIPLE,
        mandatory: false,
        value_type: Some(kind),
        range: String::new(),
        units: String::new(),
        description: None,
    };
    let single = ValueType::ALL
        .into_iter()
        .zip(0..)
        .map(|(kind, id)| (id, model(id, kind)));
    let multiple = ValueType::ALL
        .into_iter()
        .zip(MULTIPLE..)
        .map(|(kind, id)| (id, model(id, kind)));
    let mut registry = Registry::new();
    registry.add(ObjectModel {
        id: OBJECT,
        version: "1.0".to_owned(),
        lwm2m_version: "1.0".to_owned(),
        name: "Everything".to_owned(),
        multiple: true,
        mandatory: false,
        resources: single.chain(multiple).collect(),
        description: None,
    });
    registry
}

fn value(kind: ValueType) -> BoxedStrategy<Value> {
    match kind {
        ValueType::String => "\\PC{0,300}".prop_map(Value::String).boxed(),
        ValueType::CoreLink => "</[0-9]{1,4}/0>".prop_map(Value::CoreLink).boxed(),
        // Shifted, so that every length comes up.
        ValueType::Integer => (any::<i64>(), 0..63)
            .prop_map(|(v, shift)| Value::Integer(v >> shift))
            .boxed(),
        ValueType::Time => (any::<i64>(), 0..63)
            .prop_map(|(v, shift)| Value::Time(v >> shift))
            .boxed(),
        ValueType::Unsigned => (any::<u64>(), 0..63)
            .prop_map(|(v, shift)| Value::Unsigned(v >> shift))
            .boxed(),
        ValueType::Float => {
            (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL)
                .prop_map(Value::Float)
                .boxed()
        }
        ValueType::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        ValueType::Opaque => prop::collection::vec(any::<u8>(), 0..300)
            .prop_map(Value::Opaque)
            .boxed(),
        ValueType::ObjectLink => any::<(u16, u16)>()
            .prop_map(|(object, instance)| Value::ObjectLink(object, instance))
            .boxed(),
    }
}

fn id() -> impl Strategy<Value = u16> {
    prop_oneof![0..=10u16, 250..=260u16, 0..=65534u16]
}

fn single() -> impl Strategy<Value = ResourceNode> {
    (0..ValueType::ALL.len()).prop_flat_map(|index| {
        value(ValueType::ALL[index])
            .prop_map(move |value| ResourceNode::single(index as u16, value))
    })
}

fn multiple() -> impl Strategy<Value = ResourceNode> {
    (0..ValueType::ALL.len()).prop_flat_map(|index| {
        let kind = ValueType::ALL[index];
        prop::collection::btree_map(id(), value(kind), 0..5).prop_map(move |instances| {
            ResourceNode::multiple(MULTIPLE + index as u16, kind, instances)
        })
    })
}

fn instance() -> impl Strategy<Value = InstanceNode> {
    (
        id(),
        prop::collection::vec(prop_oneof![single(), multiple()], 0..12),
    )
        .prop_map(|(id, resources)| InstanceNode::new(id, resources))
}

/// The formats that list values by their paths.
const LISTS: [ContentFormat; 3] = [
    ContentFormat::SenmlJson,
    ContentFormat::SenmlCbor,
    ContentFormat::Json,
];

/// Without multiple resources that are empty, and with one resource at least.
fn filled(mut instance: InstanceNode) -> InstanceNode {
    instance.resources.retain(|_, resource| {
        !matches!(&resource.content, ResourceContent::Multiple { instances, .. } if instances.is_empty())
    });
    if instance.resources.is_empty() {
        let boolean = ResourceNode::single(4, Value::Boolean(true));
        instance.resources.insert(4, boolean);
    }
    instance
}

fn comes_back(node: &Node, path: ObjectPath, format: ContentFormat) -> Result<(), TestCaseError> {
    let payload = encode(node, &path, format).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let again = decode(&payload, &path, format, &registry());
    prop_assert_eq!(again.as_ref(), Ok(node));
    Ok(())
}

/// The same cases at every run.
fn seeded() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(20_260_101),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn objects(instances in prop::collection::vec(instance(), 0..4)) {
        comes_back(&Node::Object(ObjectNode::new(OBJECT, instances)), ObjectPath::Object(OBJECT), ContentFormat::Tlv)?;
    }

    #[test]
    fn instances(instance in instance()) {
        let path = ObjectPath::Instance(OBJECT, instance.id);
        comes_back(&Node::Instance(instance), path, ContentFormat::Tlv)?;
    }

    #[test]
    fn new_instances(instance in instance()) {
        let payload = encode(&Node::Instance(instance.clone()), &ObjectPath::Object(OBJECT), ContentFormat::Tlv).unwrap();
        let new = decode_create(&payload, OBJECT, ContentFormat::Tlv, &registry()).unwrap();
        prop_assert_eq!((new.id, new.resources), (Some(instance.id), instance.resources));
    }

    #[test]
    fn resources(resource in prop_oneof![single(), multiple()], instance in id()) {
        let path = ObjectPath::Resource(OBJECT, instance, resource.id);
        comes_back(&Node::Resource(resource), path, ContentFormat::Tlv)?;
    }

    #[test]
    fn resource_instances(resource in single(), id in id()) {
        let lwm2m_model::ResourceContent::Single(value) = resource.content else { unreachable!() };
        let path = ObjectPath::ResourceInstance(OBJECT, 0, resource.id, id);
        let node = Node::ResourceInstance { id, value };
        comes_back(&node, path, ContentFormat::Tlv)?;
        comes_back(&node, path, ContentFormat::Text)?;
    }

    #[test]
    fn single_values_as_text(resource in single()) {
        let path = ObjectPath::Resource(OBJECT, 0, resource.id);
        comes_back(&Node::Resource(resource), path, ContentFormat::Text)?;
    }

    /// The formats that list values by their paths have no nodes without values.
    #[test]
    fn objects_with_values(instances in prop::collection::vec(instance().prop_map(filled), 1..4)) {
        for format in LISTS {
            comes_back(&Node::Object(ObjectNode::new(OBJECT, instances.clone())), ObjectPath::Object(OBJECT), format)?;
        }
    }

    #[test]
    fn instances_with_values(instance in instance().prop_map(filled)) {
        let new = NewInstance { id: Some(instance.id), resources: instance.resources.clone() };
        let path = ObjectPath::Instance(OBJECT, instance.id);
        for format in LISTS {
            comes_back(&Node::Instance(instance.clone()), path, format)?;
            let payload = encode_create(&new, OBJECT, format).unwrap();
            let again = decode_create(&payload, OBJECT, format, &registry());
            prop_assert_eq!(again.as_ref(), Ok(&new));
        }
    }

    #[test]
    fn resources_in_every_format(resource in prop_oneof![single(), multiple()], instance in id()) {
        let path = ObjectPath::Resource(OBJECT, instance, resource.id);
        let single = matches!(resource.content, ResourceContent::Single(_));
        let node = Node::Resource(resource);
        for format in LISTS {
            comes_back(&node, path, format)?;
        }
        if single {
            comes_back(&node, path, ContentFormat::Cbor)?;
        }
    }

    #[test]
    fn resource_instances_in_every_format(resource in single(), id in id()) {
        let ResourceContent::Single(value) = resource.content else { unreachable!() };
        let path = ObjectPath::ResourceInstance(OBJECT, 0, resource.id, id);
        for format in LISTS.into_iter().chain([ContentFormat::Cbor]) {
            comes_back(&Node::ResourceInstance { id, value: value.clone() }, path, format)?;
        }
    }

    #[test]
    fn histories(
        values in prop::collection::btree_map(0..4_000_000_000_u64, value(ValueType::Float), 2..8),
        thousandths in 0..1000_u32,
    ) {
        let path = ObjectPath::Resource(OBJECT, 0, 3);
        let nodes: Vec<_> = values
            .into_iter()
            .map(|(t, v)| Timestamped {
                time_s: Some(t as f64 + f64::from(thousandths) / 1000.0),
                content: Node::single(3, v),
            })
            .collect();
        for format in LISTS {
            let payload = encode_timestamped(&nodes, &path, format).unwrap();
            let again = decode_timestamped(&payload, &path, format, &registry());
            prop_assert_eq!(again.as_ref(), Ok(&nodes));
        }
    }

    #[test]
    fn any_bytes_as_cbor(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz::decode_cbor(&bytes);
        fuzz::decode_senml_cbor(&bytes);
    }

    #[test]
    fn damaged_lists(instance in instance(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        // Of object 65000, for which the entries have paths too.
        let path = ObjectPath::Instance(65000, 0);
        for format in LISTS {
            let node = Node::Instance(InstanceNode { id: 0, ..instance.clone() });
            let mut payload = encode(&node, &path, format).unwrap();
            for (at, byte) in &flips {
                let at = at.index(payload.len());
                payload[at] ^= byte;
            }
            match format {
                ContentFormat::SenmlJson => fuzz::decode_senml_json(&payload),
                ContentFormat::SenmlCbor => fuzz::decode_senml_cbor(&payload),
                _ => fuzz::decode_oma_json(&payload),
            }
            if let Ok(node) = decode(&payload, &path, format, &registry()) {
                prop_assert!(node.values(&path).iter().all(|(at, _)| path.contains(at)));
            }
        }
    }

    #[test]
    fn any_records_as_json(text in "\\[\\{(\"(bn|bt|bv|n|t|v|vs|vb|vd|vlo)\":(\"[/0-9:a-z]{0,9}\"|-?[0-9]{1,20}|[0-9]\\.[0-9]e[0-9]{1,3}|true),?){0,6}\\}\\]") {
        fuzz::decode_senml_json(text.as_bytes());
    }

    #[test]
    fn links(links in prop::collection::vec(
        ("[^<>]{0,12}", prop::collection::vec(("[a-z][a-z0-9*.-]{0,5}", prop::option::of("\\PC{0,12}")), 0..4)),
        0..6,
    )) {
        let links: Vec<Link> = links.into_iter().map(|(url, attributes)| Link { url, attributes }).collect();
        prop_assert_eq!(parse_links(format_links(&links).as_bytes()), Ok(links));
    }

    #[test]
    fn any_bytes_as_tlv(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz::decode_tlv(&bytes);
    }

    /// Damaged payloads get further into the decoder than random ones.
    #[test]
    fn damaged_tlv(instance in instance(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let path = ObjectPath::Instance(OBJECT, instance.id);
        let mut payload = encode(&Node::Instance(instance), &path, ContentFormat::Tlv).unwrap();
        let flips = if payload.is_empty() { &[] } else { &flips[..] };
        for (at, byte) in flips {
            let at = at.index(payload.len());
            payload[at] ^= byte;
        }
        fuzz::decode_tlv(&payload);
        if let Ok(node) = decode(&payload, &path, ContentFormat::Tlv, &registry()) {
            prop_assert!(node.values(&path).iter().all(|(at, _)| path.contains(at)));
        }
    }

    #[test]
    fn any_text_as_links(text in "[</>;,=\" a-z0-9\\\\\\PC]{0,60}") {
        fuzz::decode_link_format(text.as_bytes());
    }

    #[test]
    fn any_text_as_a_value(text in "[-+.eE0-9:=/A-Za-z ]{0,24}|\\PC{0,24}") {
        fuzz::decode_text(text.as_bytes());
    }
}
