//! The model's values in records and back.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::collections::BTreeMap;

use lwm2m_model::{
    InstanceNode, Node, ObjectNode, ObjectPath, Registry, ResourceNode, Value, ValueType,
};
use proptest::prelude::*;
use records::*;

fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

fn no_models() -> Registry {
    Registry::new()
}

/// Every value with its form in a record, which is read back as it was.
#[test]
fn values_stand_in_the_contracts_form() {
    let string = |text: &str| ResourceValue::String(text.into());
    for (value, r#type, record) in [
        (
            Value::String("größe".into()),
            ResourceType::String,
            string("größe"),
        ),
        (
            Value::Integer(i64::MIN),
            ResourceType::Integer,
            ResourceValue::Long(i64::MIN),
        ),
        (
            Value::Float(-21.5),
            ResourceType::Float,
            ResourceValue::Double(-21.5),
        ),
        (
            Value::Boolean(true),
            ResourceType::Boolean,
            ResourceValue::Boolean(true),
        ),
        (
            Value::Opaque(vec![0, 255, 254, 1]),
            ResourceType::Opaque,
            string("AP/+AQ=="),
        ),
        (
            Value::Time(1_527_587_190),
            ResourceType::Time,
            ResourceValue::Long(1_527_587_190_000),
        ),
        (
            Value::Time(-1),
            ResourceType::Time,
            ResourceValue::Long(-1000),
        ),
        (
            Value::ObjectLink(3, 0),
            ResourceType::ObjectLink,
            string("3:0"),
        ),
        (
            Value::ObjectLink(65535, 65535),
            ResourceType::ObjectLink,
            string("65535:65535"),
        ),
    ] {
        assert_eq!(value_from_model(&value), (r#type, record.clone()));
        assert_eq!(value_to_model(r#type, &record, None), Ok(value));
    }
}

#[test]
fn lwm2m_1_1s_types_stand_as_those_of_1_0() {
    for (value, r#type, record) in [
        (
            Value::Unsigned(7),
            ResourceType::Integer,
            ResourceValue::Long(7),
        ),
        (
            Value::Unsigned(1 << 63),
            ResourceType::String,
            ResourceValue::String("9223372036854775808".into()),
        ),
        (
            Value::CoreLink("</3/0>".into()),
            ResourceType::String,
            ResourceValue::String("</3/0>".into()),
        ),
    ] {
        assert_eq!(value_from_model(&value), (r#type, record.clone()));
        assert_eq!(
            value_to_model(r#type, &record, Some(value.value_type())),
            Ok(value)
        );
    }
}

#[test]
fn a_time_keeps_within_its_type() {
    assert_eq!(
        value_from_model(&Value::Time(i64::MAX)).1,
        ResourceValue::Long(i64::MAX)
    );
    assert_eq!(
        value_from_model(&Value::Time(i64::MIN)).1,
        ResourceValue::Long(i64::MIN)
    );
    assert_eq!(
        value_to_model(ResourceType::Time, &ResourceValue::Long(-1), None),
        Ok(Value::Time(-1))
    );
    assert_eq!(
        value_to_model(ResourceType::Time, &ResourceValue::Long(1999), None),
        Ok(Value::Time(1))
    );
}

#[test]
fn operators_may_write_a_number_in_the_other_branch_if_nothing_is_lost() {
    use ResourceType::{Boolean, Float, Integer, ObjectLink, Opaque, String as Text};
    let read = |ty, value: ResourceValue, wanted| value_to_model(ty, &value, wanted);
    assert_eq!(
        read(Float, ResourceValue::Long(3), None),
        Ok(Value::Float(3.0))
    );
    assert_eq!(
        read(Integer, ResourceValue::Double(3.0), None),
        Ok(Value::Integer(3))
    );
    assert_eq!(
        read(Integer, ResourceValue::Long(3), Some(ValueType::Float)),
        Ok(Value::Float(3.0))
    );
    assert_eq!(
        read(Float, ResourceValue::Double(-3.0), Some(ValueType::Integer)),
        Ok(Value::Integer(-3))
    );

    let wrong_type = |given, wanted| Err(ConvertError::WrongType { given, wanted });
    let wrong_branch = |given, branch| Err(ConvertError::WrongBranch { given, branch });
    assert_eq!(
        read(Integer, ResourceValue::Double(3.5), None),
        wrong_branch(Integer, "double")
    );
    assert_eq!(
        read(Integer, ResourceValue::Double(9.3e18), None),
        wrong_branch(Integer, "double")
    );
    assert_eq!(
        read(Boolean, ResourceValue::Long(1), None),
        wrong_branch(Boolean, "long")
    );
    assert_eq!(
        read(Integer, ResourceValue::Long(-3), Some(ValueType::Unsigned)),
        wrong_type(ValueType::Integer, ValueType::Unsigned)
    );
    assert_eq!(
        read(
            Text,
            ResourceValue::String("on".into()),
            Some(ValueType::Boolean)
        ),
        wrong_type(ValueType::String, ValueType::Boolean)
    );
    assert_eq!(
        read(Opaque, ResourceValue::String("AP/+AQ".into()), None),
        Ok(Value::Opaque(vec![0, 255, 254, 1]))
    );
    assert_eq!(
        read(Opaque, ResourceValue::String("%".into()), None),
        Err(ConvertError::BadBase64)
    );
    for bad in ["3", "3:", "3:0:1", "65536:0", "a:b"] {
        assert_eq!(
            read(ObjectLink, ResourceValue::String(bad.into()), None),
            Err(ConvertError::BadObjectLink)
        );
    }
}

/// Two thermometers, one of which has a resource with two instances.
fn thermometers() -> Node {
    Node::Object(ObjectNode::new(
        3303,
        [
            InstanceNode::new(
                0,
                [
                    ResourceNode::single(5700, Value::Float(21.5)),
                    ResourceNode::multiple(
                        5750,
                        ValueType::String,
                        [
                            (0, Value::String("a".into())),
                            (3, Value::String("b".into())),
                        ],
                    ),
                    ResourceNode::single(5701, Value::String("Cel".into())),
                ],
            ),
            InstanceNode::new(7, []),
        ],
    ))
}

#[test]
fn a_node_has_every_resources_own_path() {
    let ReadContent::Object(object) = content_from_node(&thermometers(), &path("/3303")).unwrap()
    else {
        panic!("an object was expected")
    };
    assert_eq!((object.id, object.kind), (3303, ResourceKind::Object));
    let [first, second] = object.instances.as_slice() else {
        panic!("two instances were expected")
    };
    assert_eq!((first.id, first.kind), (0, ResourceKind::Instance));
    let paths: Vec<_> = first
        .resources
        .iter()
        .map(|r| (r.id, r.path.as_str(), r.kind))
        .collect();
    let single = ResourceKind::SingleResource;
    assert_eq!(
        paths,
        [
            (5700, "/3303/0/5700", single),
            (5701, "/3303/0/5701", single)
        ]
    );
    let [multiple] = first.multiple_resources.as_deref().unwrap() else {
        panic!("one multiple resource was expected")
    };
    assert_eq!(
        (multiple.id, multiple.path.as_str(), multiple.kind),
        (5750, "/3303/0/5750", ResourceKind::MultipleResource)
    );
    assert_eq!(multiple.r#type, ResourceType::String);
    let b = &multiple.resources["3"];
    assert_eq!(
        (b.id, b.path.as_str(), b.kind),
        (3, "/3303/0/5750/3", single)
    );
    assert_eq!((second.id, second.multiple_resources.as_ref()), (7, None));
}

#[test]
fn nodes_come_back_as_they_were() {
    let object = thermometers();
    let Node::Object(o) = &object else {
        panic!("an object was expected")
    };
    let instance = Node::Instance(o.instances[&0].clone());
    let multiple = Node::Resource(o.instances[&0].resources[&5750].clone());
    let one = Node::ResourceInstance {
        id: 3,
        value: Value::String("b".into()),
    };
    for (at, node) in [
        ("/3303", object.clone()),
        ("/3303/0", instance),
        ("/3303/0/5750", multiple),
        ("/3303/0/5750/3", one),
        ("/3303/0/5700", Node::single(5700, Value::Float(21.5))),
    ] {
        let content = content_from_node(&node, &path(at)).unwrap();
        assert_eq!(
            node_from_content(&content, &path(at), &no_models()),
            Ok(node),
            "{at}"
        );
    }
}

#[test]
fn a_resource_instance_is_its_resources_record() {
    let one = Node::ResourceInstance {
        id: 3,
        value: Value::Integer(5),
    };
    let ReadContent::Multiple(multiple) = content_from_node(&one, &path("/3/0/7/3")).unwrap()
    else {
        panic!("a multiple resource was expected")
    };
    assert_eq!((multiple.id, multiple.path.as_str()), (7, "/3/0/7"));
    assert_eq!(multiple.resources.keys().collect::<Vec<_>>(), ["3"]);
    assert_eq!(multiple.resources["3"].path, "/3/0/7/3");
}

#[test]
fn what_does_not_belong_at_a_path_is_refused() {
    let resource = Node::single(6, Value::Boolean(true));
    assert_eq!(
        content_from_node(&resource, &path("/1/0")),
        Err(ConvertError::WrongPlace {
            what: "a resource",
            path: path("/1/0")
        })
    );
    assert_eq!(
        content_from_node(&resource, &path("/1/0/7"))
            .unwrap_err()
            .to_string(),
        "the resource has the id 6, which is not the one of /1/0/7"
    );
    let write = |id, at: &str| {
        let resource = AvroResource {
            id,
            path: "/1/0/6".into(),
            kind: ResourceKind::SingleResource,
            r#type: ResourceType::Boolean,
            value: ResourceValue::Boolean(true),
        };
        node_from_write(&WriteNode::Resource(resource), &path(at), &no_models())
    };
    assert_eq!(
        write(6, "/1/0/6"),
        Ok(Node::single(6, Value::Boolean(true)))
    );
    assert_eq!(
        write(6, "/1/0/7/6"),
        Ok(Node::ResourceInstance {
            id: 6,
            value: Value::Boolean(true)
        })
    );
    assert!(matches!(
        write(6, "/1/0/7"),
        Err(ConvertError::WrongId { id: 6, .. })
    ));
    assert!(matches!(
        write(6, "/1/0"),
        Err(ConvertError::WrongPlace { .. })
    ));
    assert_eq!(
        write(65535, "/1/0/6"),
        Err(ConvertError::BadId { id: 65535 })
    );
    assert_eq!(write(-1, "/1/0/6"), Err(ConvertError::BadId { id: -1 }));
}

/// Object 1 as far as these tests go: 0 is an unsigned integer, 1 a float.
fn models() -> Registry {
    let mut registry = Registry::new();
    let ddf = r#"<LWM2M><Object ObjectType="MODefinition">
        <Name>Test</Name><ObjectID>1</ObjectID><ObjectVersion>1.0</ObjectVersion>
        <MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory>
        <Resources>
            <Item ID="0"><Name>A</Name><Operations>RW</Operations><MultipleInstances>Single</MultipleInstances>
                <Mandatory>Optional</Mandatory><Type>Unsigned Integer</Type><RangeEnumeration/><Units/></Item>
            <Item ID="1"><Name>B</Name><Operations>RW</Operations><MultipleInstances>Single</MultipleInstances>
                <Mandatory>Optional</Mandatory><Type>Float</Type><RangeEnumeration/><Units/></Item>
        </Resources></Object></LWM2M>"#;
    registry.add_ddf(ddf).unwrap();
    registry
}

fn written(id: i32, resources: &[(i32, ResourceType, ResourceValue)]) -> AvroInstanceResource {
    let resources = resources.iter().map(|(id, r#type, value)| AvroResource {
        id: *id,
        path: String::new(),
        kind: ResourceKind::SingleResource,
        r#type: *r#type,
        value: value.clone(),
    });
    AvroInstanceResource {
        id,
        kind: ResourceKind::Instance,
        resources: resources.collect(),
        multiple_resources: None,
    }
}

#[test]
fn a_written_value_takes_the_models_type() {
    let instance = written(
        0,
        &[
            (0, ResourceType::Integer, ResourceValue::Long(5)),
            (1, ResourceType::Integer, ResourceValue::Long(5)),
            (2, ResourceType::Integer, ResourceValue::Long(5)),
        ],
    );
    let expected = InstanceNode::new(
        0,
        [
            ResourceNode::single(0, Value::Unsigned(5)),
            ResourceNode::single(1, Value::Float(5.0)),
            ResourceNode::single(2, Value::Integer(5)),
        ],
    );
    assert_eq!(
        node_from_write(&WriteNode::Instance(instance), &path("/1/0"), &models()),
        Ok(Node::Instance(expected))
    );

    let text = written(
        0,
        &[(
            1,
            ResourceType::String,
            ResourceValue::String("warm".into()),
        )],
    );
    assert_eq!(
        node_from_write(&WriteNode::Instance(text), &path("/1/0"), &models())
            .unwrap_err()
            .to_string(),
        "the value at /1/0/1: String was given, Float is wanted"
    );
    let twice = written(
        0,
        &[
            (2, ResourceType::Integer, ResourceValue::Long(5)),
            (2, ResourceType::Integer, ResourceValue::Long(6)),
        ],
    );
    assert_eq!(
        node_from_write(&WriteNode::Instance(twice), &path("/1/0"), &models())
            .unwrap_err()
            .to_string(),
        "the id 2 stands twice at /1/0"
    );
}

#[test]
fn a_new_instance_has_the_id_of_the_request_or_the_device_chooses() {
    let create = |id, at: &str| {
        new_instance(
            &written(id, &[(0, ResourceType::Integer, ResourceValue::Long(5))]),
            &path(at),
            &models(),
        )
    };
    let resources = BTreeMap::from([(0, ResourceNode::single(0, Value::Unsigned(5)))]);
    for (id, at, chosen) in [
        (4, "/1", Some(4)),
        (-1, "/1", None),
        (65535, "/1", None),
        (4, "/1/4", Some(4)),
        (-1, "/1/4", Some(4)),
    ] {
        assert_eq!(
            create(id, at),
            Ok(NewInstance {
                id: chosen,
                resources: resources.clone()
            }),
            "{id} at {at}"
        );
    }
    assert!(matches!(
        create(3, "/1/4"),
        Err(ConvertError::WrongId { id: 3, .. })
    ));
    assert!(matches!(
        create(3, "/1/4/0"),
        Err(ConvertError::WrongPlace { .. })
    ));
    assert!(matches!(
        create(3, "/"),
        Err(ConvertError::WrongPlace { .. })
    ));
    assert_eq!(create(65536, "/1"), Err(ConvertError::BadId { id: 65536 }));
}

#[test]
fn a_reply_flattens_to_a_reading_for_each_resource() {
    let content = content_from_node(&thermometers(), &path("/3303")).unwrap();
    let payload = |body| ResponsePayload {
        code: ResponseCode::Content,
        kind: RequestKind::Read,
        body,
    };
    let read = |content| payload(Some(ResponseBody::Read(content)));
    let text = |text: &str| ReadingValue::Text(text.into());
    let flat = |payload: &ResponsePayload, at: &str| -> Vec<(String, ReadingValue)> {
        let readings = flatten(payload, at);
        assert!(readings.iter().all(|r| r.kind == RequestKind::Read));
        readings.into_iter().map(|r| (r.path, r.value)).collect()
    };
    let expected = [
        ("/3303/0/5700".to_owned(), ReadingValue::Number(21.5)),
        ("/3303/0/5701".to_owned(), text("Cel")),
        ("/3303/0/5750/0".to_owned(), text("a")),
        ("/3303/0/5750/3".to_owned(), text("b")),
    ];
    assert_eq!(flat(&read(content.clone()), "/3303"), expected);
    let ReadContent::Object(object) = content else {
        panic!("an object was expected")
    };
    assert_eq!(
        flat(
            &read(ReadContent::Instance(object.instances[0].clone())),
            "/3303/0"
        ),
        expected
    );
    let multiple = object.instances[0]
        .multiple_resources
        .clone()
        .unwrap()
        .remove(0);
    assert_eq!(
        flat(&read(ReadContent::Multiple(multiple)), "/3303/0/5750"),
        expected[2..]
    );

    let battery = content_from_node(&Node::single(9, Value::Integer(-7)), &path("/3/0/9")).unwrap();
    assert_eq!(
        flat(&read(battery), "/3/0/9"),
        [("/3/0/9".to_owned(), ReadingValue::Number(-7.0))]
    );
    let on = content_from_node(&Node::single(6, Value::Boolean(true)), &path("/1/0/6")).unwrap();
    assert_eq!(
        flat(&read(on), "/1/0/6"),
        [("/1/0/6".to_owned(), ReadingValue::Boolean(true))]
    );
    let message = payload(Some(ResponseBody::Generic("CHANGED".into())));
    assert_eq!(
        flat(&message, "/3/0/4"),
        [("/3/0/4".to_owned(), text("CHANGED"))]
    );
    for nothing in [
        None,
        Some(ResponseBody::Discover("</3>".into())),
        Some(ResponseBody::Create("/3/1".into())),
    ] {
        assert_eq!(flat(&payload(nothing), "/3"), []);
    }
}

#[test]
fn codes_are_coaps() {
    for code in ResponseCode::ALL {
        match code.to_coap() {
            Some((class, detail)) => {
                assert_eq!(ResponseCode::from_coap(class, detail), *code);
                assert_eq!(ResponseCode::from_coap_byte(class << 5 | detail), *code);
                assert_eq!(code.is_success(), class == 2);
            }
            None => assert_eq!(*code, ResponseCode::Unknown),
        }
    }
    assert_eq!(ResponseCode::from_coap_byte(0x45), ResponseCode::Content);
    assert_eq!(ResponseCode::from_coap_byte(0x84), ResponseCode::NotFound);
    assert_eq!(ResponseCode::from_coap(4, 2), ResponseCode::Unknown);
    assert_eq!(ResponseCode::from_coap(5, 4), ResponseCode::Unknown);
}

#[test]
fn content_formats_are_coaps() {
    for format in AvroContentFormat::ALL {
        assert_eq!(
            AvroContentFormat::from_coap_id(format.coap_id()),
            Some(*format)
        );
        assert_eq!(
            AvroContentFormat::from_short_name(format.name()),
            Some(*format)
        );
    }
    assert_eq!(
        AvroContentFormat::from_coap_id(1542),
        Some(AvroContentFormat::Tlv)
    );
    assert_eq!(AvroContentFormat::from_coap_id(112), None);
    assert_eq!(
        AvroContentFormat::from_short_name("json"),
        Some(AvroContentFormat::Json)
    );
    assert_eq!(AvroContentFormat::from_short_name("CBOR"), None);
}

#[test]
fn a_binding_keeps_the_letters_the_record_knows() {
    for (binding, queue_mode, bnd) in [
        ("U", false, Bnd::U),
        ("U", true, Bnd::Uq),
        ("UQ", false, Bnd::Uq),
        ("UQS", false, Bnd::Uqs),
        ("US", false, Bnd::Us),
        ("S", true, Bnd::Sq),
        ("T", false, Bnd::U),
        ("UT", true, Bnd::Uq),
        ("N", true, Bnd::Uq),
        ("", false, Bnd::U),
    ] {
        assert_eq!(
            Bnd::from_binding(binding, queue_mode),
            bnd,
            "{binding} {queue_mode}"
        );
        assert_eq!(bnd.is_queue_mode(), queue_mode || binding.contains('Q'));
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".*".prop_map(Value::String),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(Value::Unsigned),
        any::<f64>()
            .prop_filter("a number", |v| !v.is_nan())
            .prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        any::<Vec<u8>>().prop_map(Value::Opaque),
        (i64::MIN / 1000..=i64::MAX / 1000).prop_map(Value::Time),
        any::<(u16, u16)>().prop_map(|(o, i)| Value::ObjectLink(o, i)),
        ".*".prop_map(Value::CoreLink),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_value_comes_back_as_its_models_type(value in any_value()) {
        let (ty, record) = value_from_model(&value);
        prop_assert_eq!(value_to_model(ty, &record, Some(value.value_type())), Ok(value));
    }

    #[test]
    fn a_shown_value_is_the_datum_of_its_record(
        value in any_value(),
        (o, i, r) in any::<(u16, u16, u16)>(),
        other in any::<u16>(),
        observation_id in "[0-9a-f]{0,80}",
        timestamp: i64,
    ) {
        let resource = ObjectPath::Resource(o, i, r);
        let single = Node::single(r, value.clone());
        let several = ResourceNode::multiple(r, value.value_type(), [(other, value.clone())]);
        let instance = InstanceNode::new(i, [several.clone(), ResourceNode::single(other, value.clone())]);
        for (path, node) in [
            (resource, single.clone()),
            (resource, Node::Resource(several)),
            (ObjectPath::Instance(o, i), Node::Instance(instance)),
            (ObjectPath::ResourceInstance(o, i, r, other), Node::ResourceInstance { id: other, value }),
            // Nodes that do not stand where they should.
            (ObjectPath::Resource(o, i, other), single.clone()),
            (ObjectPath::Object(o), single),
        ] {
            let head = records::ObserveHead {
                ticket: "t1",
                observation_id: &observation_id,
                server_id: "gw",
                ep: "dev1",
                path: &path,
                timestamp,
            };
            let mut datum = vec![7];
            let written = ResponseObserve::write_shown(head, &path, &node, &mut datum);
            let record = content_from_node(&node, &path).map(|content| ResponseObserve {
                ticket: "t1".to_owned(),
                observation_id: observation_id.clone(),
                server_id: "gw".to_owned(),
                ep: "dev1".to_owned(),
                path: path.to_string(),
                timestamp,
                rep: ResponsePayload {
                    code: ResponseCode::Content,
                    kind: RequestKind::Observe,
                    body: Some(ResponseBody::Read(content)),
                },
            });
            match record {
                Ok(record) => {
                    prop_assert_eq!(written, Ok(()));
                    prop_assert_eq!(&datum[1..], records::AvroRecord::to_datum(&record));
                }
                Err(error) => {
                    prop_assert_eq!(written, Err(error));
                    prop_assert_eq!(datum, [7]);
                }
            }
        }
    }
}

#[test]
fn a_notification_written_from_borrowed_parts_is_the_same_datum() {
    let whole = records::ResponseObserve {
        ticket: "t1".to_owned(),
        observation_id: "abcd".to_owned(),
        server_id: "gw".to_owned(),
        ep: "dev1".to_owned(),
        path: "/3303/0/5700".to_owned(),
        timestamp: 1_700_000_000_123,
        rep: records::ResponsePayload {
            code: records::ResponseCode::Content,
            kind: records::RequestKind::Observe,
            body: Some(records::ResponseBody::Generic("text".to_owned())),
        },
    };
    let head = records::ObserveHead {
        ticket: &whole.ticket,
        observation_id: &whole.observation_id,
        server_id: &whole.server_id,
        ep: &whole.ep,
        path: &whole.path,
        timestamp: whole.timestamp,
    };
    let mut datum = Vec::new();
    records::ResponseObserve::write_datum(head, &whole.rep, &mut datum);
    assert_eq!(datum, records::AvroRecord::to_datum(&whole));
}
