//! Nodes: the values in them with their paths, and their types made to fit the models.

use lwm2m_model::{
    InstanceNode, Node, ObjectNode, ObjectPath, Registry, ResourceNode, TypeMismatch, Value,
    ValueType,
};

fn path(text: &str) -> ObjectPath {
    text.parse().expect("a path")
}

fn device() -> InstanceNode {
    let voltages = [(0, Value::Integer(3800)), (1, Value::Integer(5000))];
    InstanceNode::new(
        0,
        [
            ResourceNode::single(9, Value::Integer(100)),
            ResourceNode::multiple(7, ValueType::Integer, voltages),
            ResourceNode::single(0, Value::String("OMA".to_owned())),
        ],
    )
}

#[test]
fn every_value_has_its_path() {
    let paths = |node: Node, at: &str| -> Vec<String> {
        let at = path(at);
        node.values(&at)
            .iter()
            .map(|(path, _)| path.to_string())
            .collect()
    };
    let all = ["/3/0/0", "/3/0/7/0", "/3/0/7/1", "/3/0/9"];
    assert_eq!(
        paths(Node::Object(ObjectNode::new(3, [device()])), "/3"),
        all
    );
    assert_eq!(paths(Node::Instance(device()), "/3/0"), all);
    assert_eq!(
        paths(Node::Resource(device().resources[&7].clone()), "/3/0/7"),
        all[1..3]
    );
    assert_eq!(
        paths(
            Node::ResourceInstance {
                id: 1,
                value: Value::Integer(1)
            },
            "/3/0/7/1"
        ),
        all[2..3]
    );
    // Not the node's path: a resource instance has no children.
    assert_eq!(paths(Node::Instance(device()), "/3/0/7/1"), [""; 0]);
}

#[test]
fn values_get_their_models_types_where_nothing_is_lost() {
    let oma = Registry::oma();
    let conform = |value: Value, at: &str| match oma.conform(
        Node::single(path(at).resource_id().unwrap(), value),
        &path(at),
    ) {
        Ok(Node::Resource(ResourceNode {
            content: lwm2m_model::ResourceContent::Single(value),
            ..
        })) => Ok(value),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(
        conform(Value::Integer(23), "/3303/0/5700"),
        Ok(Value::Float(23.0))
    );
    assert_eq!(
        conform(Value::Float(100.0), "/3/0/9"),
        Ok(Value::Integer(100))
    );
    assert_eq!(conform(Value::Integer(1), "/3/0/13"), Ok(Value::Time(1)));
    assert_eq!(
        conform(Value::String("x".to_owned()), "/65000/0/0"),
        Ok(Value::String("x".to_owned()))
    );
    let mismatch = |at, expected, found| {
        Err(TypeMismatch {
            path: path(at),
            expected,
            found,
        })
    };
    assert_eq!(
        conform(Value::Float(0.5), "/3/0/9"),
        mismatch("/3/0/9", ValueType::Integer, ValueType::Float)
    );
    assert_eq!(
        conform(Value::Integer(1), "/1/0/6"),
        mismatch("/1/0/6", ValueType::Boolean, ValueType::Integer)
    );
    assert_eq!(
        conform(Value::String("5".to_owned()), "/3/0/9")
            .unwrap_err()
            .to_string(),
        "/3/0/9 has the type Integer, and a String was given that cannot be converted exactly: send a value of that type"
    );
}

#[test]
fn whole_nodes_are_made_to_fit() {
    let oma = Registry::oma();
    let floats = [(0, Value::Float(3800.0)), (1, Value::Float(5000.0))];
    let given = InstanceNode::new(
        0,
        [
            ResourceNode::single(9, Value::Unsigned(100)),
            ResourceNode::multiple(7, ValueType::Float, floats),
            ResourceNode::single(0, Value::CoreLink("OMA".to_owned())),
        ],
    );
    let instance = Node::Instance(device());
    assert_eq!(
        oma.conform(Node::Instance(given.clone()), &path("/3/0"))
            .as_ref(),
        Ok(&instance)
    );
    assert_eq!(
        oma.conform(Node::Instance(given.clone()), &path("/3"))
            .as_ref(),
        Ok(&instance),
        "to create"
    );
    let object = Node::Object(ObjectNode::new(3, [given]));
    assert_eq!(
        oma.conform(object, &path("/3")),
        Ok(Node::Object(ObjectNode::new(3, [device()])))
    );
    let one = Node::ResourceInstance {
        id: 1,
        value: Value::Float(1.0),
    };
    assert_eq!(
        oma.conform(one, &path("/3/0/7/1")),
        Ok(Node::ResourceInstance {
            id: 1,
            value: Value::Integer(1)
        })
    );
    let bad = Node::Instance(InstanceNode::new(
        0,
        [ResourceNode::multiple(
            7,
            ValueType::Boolean,
            [(4, Value::Boolean(true))],
        )],
    ));
    let error = oma.conform(bad, &path("/3/0")).unwrap_err();
    assert_eq!(
        (error.path, error.found),
        (path("/3/0/7/4"), ValueType::Boolean)
    );
}

#[test]
fn numbers_convert_only_when_exact() {
    let to = |value: Value, kind| value.to_type(kind);
    assert_eq!(to(Value::Unsigned(u64::MAX), ValueType::Integer), None);
    assert_eq!(to(Value::Integer(-1), ValueType::Unsigned), None);
    assert_eq!(to(Value::Integer((1 << 53) + 1), ValueType::Float), None);
    assert_eq!(to(Value::Integer(i64::MIN), ValueType::Float), None);
    assert_eq!(to(Value::Float(f64::NAN), ValueType::Integer), None);
    assert_eq!(to(Value::Float(f64::INFINITY), ValueType::Time), None);
    assert_eq!(to(Value::Float(1e300), ValueType::Integer), None);
    assert_eq!(
        to(Value::Float(-3.0), ValueType::Integer),
        Some(Value::Integer(-3))
    );
    assert_eq!(
        to(Value::Time(5), ValueType::Float),
        Some(Value::Float(5.0))
    );
    assert_eq!(to(Value::Opaque(vec![1]), ValueType::String), None);
    assert_eq!(to(Value::Boolean(true), ValueType::Integer), None);
    assert_eq!(
        to(Value::Opaque(vec![1]), ValueType::Opaque),
        Some(Value::Opaque(vec![1]))
    );
}
