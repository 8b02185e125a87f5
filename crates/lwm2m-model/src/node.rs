use std::collections::BTreeMap;

use crate::{ObjectPath, Value, ValueType};

/// A part of a device's tree with its values: what a read answers and a write carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Object(ObjectNode),
    Instance(InstanceNode),
    Resource(ResourceNode),
    ResourceInstance { id: u16, value: Value },
}

/// An object and its instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectNode {
    pub id: u16,
    pub instances: BTreeMap<u16, InstanceNode>,
}

/// An object instance and its resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceNode {
    pub id: u16,
    pub resources: BTreeMap<u16, ResourceNode>,
}

/// A resource with its value or values.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceNode {
    pub id: u16,
    pub content: ResourceContent,
}

/// One value, or any number of resource instances of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum ResourceContent {
    Single(Value),
    Multiple {
        kind: ValueType,
        instances: BTreeMap<u16, Value>,
    },
}

impl Node {
    /// A resource with one value.
    pub fn single(id: u16, value: Value) -> Self {
        Self::Resource(ResourceNode::single(id, value))
    }

    /// The node's own id.
    pub fn id(&self) -> u16 {
        match self {
            Self::Object(node) => node.id,
            Self::Instance(node) => node.id,
            Self::Resource(node) => node.id,
            Self::ResourceInstance { id, .. } => *id,
        }
    }

    /// Every value with its own path, in the tree's order. `path` is this node's path; values whose path
    /// would be deeper than the tree goes (a `path` that is not this node's) are left out.
    pub fn values(&self, path: &ObjectPath) -> Vec<(ObjectPath, &Value)> {
        let mut values = Vec::new();
        match self {
            Self::Object(node) => {
                for instance in node.instances.values() {
                    if let Some(path) = path.child(instance.id) {
                        instance.collect(path, &mut values);
                    }
                }
            }
            Self::Instance(node) => node.collect(*path, &mut values),
            Self::Resource(node) => node.collect(*path, &mut values),
            Self::ResourceInstance { value, .. } => values.push((*path, value)),
        }
        values
    }
}

impl ObjectNode {
    /// An object of these instances; of two with the same id the last stays.
    pub fn new(id: u16, instances: impl IntoIterator<Item = InstanceNode>) -> Self {
        Self {
            id,
            instances: instances.into_iter().map(|i| (i.id, i)).collect(),
        }
    }
}

impl InstanceNode {
    /// An instance of these resources; of two with the same id the last stays.
    pub fn new(id: u16, resources: impl IntoIterator<Item = ResourceNode>) -> Self {
        Self {
            id,
            resources: resources.into_iter().map(|r| (r.id, r)).collect(),
        }
    }

    fn collect<'a>(&'a self, path: ObjectPath, values: &mut Vec<(ObjectPath, &'a Value)>) {
        for resource in self.resources.values() {
            if let Some(path) = path.child(resource.id) {
                resource.collect(path, values);
            }
        }
    }
}

impl ResourceNode {
    pub fn single(id: u16, value: Value) -> Self {
        Self {
            id,
            content: ResourceContent::Single(value),
        }
    }

    pub fn multiple(
        id: u16,
        kind: ValueType,
        instances: impl IntoIterator<Item = (u16, Value)>,
    ) -> Self {
        Self {
            id,
            content: ResourceContent::Multiple {
                kind,
                instances: instances.into_iter().collect(),
            },
        }
    }

    /// The type of the resource's value or values.
    pub fn value_type(&self) -> ValueType {
        match &self.content {
            ResourceContent::Single(value) => value.value_type(),
            ResourceContent::Multiple { kind, .. } => *kind,
        }
    }

    fn collect<'a>(&'a self, path: ObjectPath, values: &mut Vec<(ObjectPath, &'a Value)>) {
        match &self.content {
            ResourceContent::Single(value) => values.push((path, value)),
            ResourceContent::Multiple { instances, .. } => {
                values.extend(
                    instances
                        .iter()
                        .filter_map(|(id, value)| Some((path.child(*id)?, value))),
                );
            }
        }
    }
}
