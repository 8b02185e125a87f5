use std::collections::BTreeMap;

use lwm2m_model::{
    InstanceNode, MAX_ID, Node, ObjectNode, ObjectPath, Registry, ResourceContent, ResourceNode,
    Value, ValueType,
};

use super::{ConvertError, value_from_model, value_to_model};
use crate::record::{
    AvroInstanceResource, AvroMultipleResource, AvroObjectResource, AvroResource, ReadContent,
    ResourceKind, WriteNode,
};

/// What a device sent for `path` as a reply's or notification's content. A resource instance is its resource's
/// `AvroMultipleResource` with that one entry.
pub fn content_from_node(node: &Node, path: &ObjectPath) -> Result<ReadContent, ConvertError> {
    Ok(match (node, *path) {
        (Node::Object(object), ObjectPath::Object(id)) => {
            same_id("object", object.id, id, path)?;
            let instances = object
                .instances
                .values()
                .map(|i| instance_record(i, id))
                .collect();
            ReadContent::Object(AvroObjectResource {
                id: i32::from(id),
                kind: ResourceKind::Object,
                instances,
            })
        }
        (Node::Instance(instance), ObjectPath::Instance(object, id)) => {
            same_id("instance", instance.id, id, path)?;
            ReadContent::Instance(instance_record(instance, object))
        }
        (Node::Resource(resource), ObjectPath::Resource(_, _, id)) => {
            same_id("resource", resource.id, id, path)?;
            match &resource.content {
                ResourceContent::Single(value) => {
                    ReadContent::Resource(resource_record(id, *path, value))
                }
                ResourceContent::Multiple { kind, instances } => {
                    ReadContent::Multiple(multiple_record(id, path, *kind, instances))
                }
            }
        }
        (Node::ResourceInstance { id, value }, ObjectPath::ResourceInstance(o, i, r, ri)) => {
            same_id("resource instance", *id, ri, path)?;
            let one = BTreeMap::from([(ri, value.clone())]);
            ReadContent::Multiple(multiple_record(
                r,
                &ObjectPath::Resource(o, i, r),
                value.value_type(),
                &one,
            ))
        }
        (node, path) => {
            return Err(ConvertError::WrongPlace {
                what: what(node),
                path,
            });
        }
    })
}

/// A reply's or notification's content as the node at `path`.
pub fn node_from_content(
    content: &ReadContent,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, ConvertError> {
    match (content, *path) {
        (ReadContent::Object(object), _) => object_node(object, path, registry),
        (ReadContent::Instance(instance), _) => instance_at(instance, path, registry),
        (ReadContent::Resource(resource), _) => resource_at(resource, path, registry),
        (ReadContent::Multiple(multiple), ObjectPath::Resource(_, _, id)) => {
            let node = multiple_node(multiple, path, registry)?;
            same_id("resource", node.id, id, path)?;
            Ok(Node::Resource(node))
        }
        (ReadContent::Multiple(multiple), ObjectPath::ResourceInstance(o, i, r, ri)) => {
            let resource = ObjectPath::Resource(o, i, r);
            let node = multiple_node(multiple, &resource, registry)?;
            same_id("resource", node.id, r, path)?;
            match node.content {
                ResourceContent::Multiple { mut instances, .. } if instances.len() == 1 => {
                    instances
                        .remove(&ri)
                        .map(|value| Node::ResourceInstance { id: ri, value })
                        .ok_or(ConvertError::WrongPlace {
                            what: "another resource instance",
                            path: *path,
                        })
                }
                _ => Err(ConvertError::WrongPlace {
                    what: "more than one resource instance",
                    path: *path,
                }),
            }
        }
        (ReadContent::Multiple(_), path) => Err(ConvertError::WrongPlace {
            what: "a multiple resource",
            path,
        }),
    }
}

/// What a write request carries, as the node at the request's path. Types are those of the object's model in `registry`,
/// or the record's own where it has none.
pub fn node_from_write(
    node: &WriteNode,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, ConvertError> {
    match node {
        WriteNode::Object(object) => object_node(object, path, registry),
        WriteNode::Instance(instance) => instance_at(instance, path, registry),
        WriteNode::Resource(resource) => resource_at(resource, path, registry),
    }
}

/// What a create request carries.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    /// `None`: the device chooses.
    pub id: Option<u16>,
    pub resources: BTreeMap<u16, ResourceNode>,
}

/// What a create request for `path` (`/o` or `/o/i`) carries. An instance whose id is -1 or 65535 leaves the choice to
/// the path, then to the device.
pub fn new_instance(
    instance: &AvroInstanceResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<NewInstance, ConvertError> {
    let given = match instance.id {
        -1 | 65535 => None,
        given => Some(id(given)?),
    };
    let id = match (*path, given) {
        (ObjectPath::Object(_), given) => given,
        (ObjectPath::Instance(_, id), None) => Some(id),
        (ObjectPath::Instance(_, id), Some(given)) => {
            same_id("instance", given, id, path)?;
            Some(id)
        }
        _ => {
            return Err(ConvertError::WrongPlace {
                what: "a new instance",
                path: *path,
            });
        }
    };
    let object = path.object_id().ok_or(ConvertError::WrongPlace {
        what: "a new instance",
        path: *path,
    })?;
    // While the device has not chosen, any id serves to look up the resources' types.
    let resources = instance_resources(
        instance,
        &ObjectPath::Instance(object, id.unwrap_or(0)),
        registry,
    )?;
    Ok(NewInstance { id, resources })
}

fn instance_record(instance: &InstanceNode, object: u16) -> AvroInstanceResource {
    let (mut resources, mut multiple) = (Vec::new(), Vec::new());
    for (id, resource) in &instance.resources {
        let path = ObjectPath::Resource(object, instance.id, *id);
        match &resource.content {
            ResourceContent::Single(value) => resources.push(resource_record(*id, path, value)),
            ResourceContent::Multiple { kind, instances } => {
                multiple.push(multiple_record(*id, &path, *kind, instances));
            }
        }
    }
    AvroInstanceResource {
        id: i32::from(instance.id),
        kind: ResourceKind::Instance,
        resources,
        multiple_resources: (!multiple.is_empty()).then_some(multiple),
    }
}

fn resource_record(id: u16, path: ObjectPath, value: &Value) -> AvroResource {
    let (r#type, value) = value_from_model(value);
    AvroResource {
        id: i32::from(id),
        path: path.to_string(),
        kind: ResourceKind::SingleResource,
        r#type,
        value,
    }
}

fn multiple_record(
    id: u16,
    path: &ObjectPath,
    kind: ValueType,
    instances: &BTreeMap<u16, Value>,
) -> AvroMultipleResource {
    let resources = instances
        .iter()
        .filter_map(|(id, value)| {
            Some((
                id.to_string(),
                resource_record(*id, path.child(*id)?, value),
            ))
        })
        .collect();
    AvroMultipleResource {
        id: i32::from(id),
        path: path.to_string(),
        kind: ResourceKind::MultipleResource,
        r#type: kind.into(),
        resources,
    }
}

fn object_node(
    object: &AvroObjectResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, ConvertError> {
    let ObjectPath::Object(wanted) = *path else {
        return Err(ConvertError::WrongPlace {
            what: "an object",
            path: *path,
        });
    };
    same_id("object", id(object.id)?, wanted, path)?;
    let mut instances = BTreeMap::new();
    for instance in &object.instances {
        let id = id(instance.id)?;
        let resources = instance_resources(instance, &ObjectPath::Instance(wanted, id), registry)?;
        insert(&mut instances, id, InstanceNode { id, resources }, path)?;
    }
    Ok(Node::Object(ObjectNode {
        id: wanted,
        instances,
    }))
}

fn instance_at(
    instance: &AvroInstanceResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, ConvertError> {
    let ObjectPath::Instance(_, wanted) = *path else {
        return Err(ConvertError::WrongPlace {
            what: "an instance",
            path: *path,
        });
    };
    same_id("instance", id(instance.id)?, wanted, path)?;
    let resources = instance_resources(instance, path, registry)?;
    Ok(Node::Instance(InstanceNode {
        id: wanted,
        resources,
    }))
}

fn resource_at(
    resource: &AvroResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, ConvertError> {
    let given = id(resource.id)?;
    let value = typed(resource, path, registry)?;
    match *path {
        ObjectPath::Resource(_, _, id) => {
            same_id("resource", given, id, path)?;
            Ok(Node::single(id, value))
        }
        ObjectPath::ResourceInstance(_, _, _, id) => {
            same_id("resource instance", given, id, path)?;
            Ok(Node::ResourceInstance { id, value })
        }
        _ => Err(ConvertError::WrongPlace {
            what: "a resource",
            path: *path,
        }),
    }
}

/// The resources of an instance by id; `path` is the instance's.
fn instance_resources(
    instance: &AvroInstanceResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<BTreeMap<u16, ResourceNode>, ConvertError> {
    let mut resources = BTreeMap::new();
    for resource in &instance.resources {
        let id = id(resource.id)?;
        let value = typed(resource, &child(path, id)?, registry)?;
        insert(&mut resources, id, ResourceNode::single(id, value), path)?;
    }
    for multiple in instance.multiple_resources.iter().flatten() {
        let node = multiple_node(multiple, &child(path, id(multiple.id)?)?, registry)?;
        insert(&mut resources, node.id, node, path)?;
    }
    Ok(resources)
}

/// `path` is the resource's.
fn multiple_node(
    multiple: &AvroMultipleResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<ResourceNode, ConvertError> {
    let id = id(multiple.id)?;
    let kind = wanted(path, registry).unwrap_or_else(|| multiple.r#type.into());
    let mut instances = BTreeMap::new();
    for (key, resource) in &multiple.resources {
        let instance = key.parse().ok().filter(|id| *id <= MAX_ID);
        let instance = instance.ok_or(ConvertError::BadId {
            id: i64::from(resource.id),
        })?;
        let value = typed(resource, &child(path, instance)?, registry)?;
        insert(&mut instances, instance, value, path)?;
    }
    Ok(ResourceNode {
        id,
        content: ResourceContent::Multiple { kind, instances },
    })
}

fn typed(
    resource: &AvroResource,
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Value, ConvertError> {
    value_to_model(resource.r#type, &resource.value, wanted(path, registry)).map_err(|reason| {
        ConvertError::At {
            path: *path,
            reason: Box::new(reason),
        }
    })
}

fn wanted(path: &ObjectPath, registry: &Registry) -> Option<ValueType> {
    registry.resource(path).and_then(|model| model.value_type)
}

fn child(path: &ObjectPath, id: u16) -> Result<ObjectPath, ConvertError> {
    path.child(id).ok_or(ConvertError::WrongPlace {
        what: "a node with children",
        path: *path,
    })
}

fn insert<T>(
    nodes: &mut BTreeMap<u16, T>,
    id: u16,
    node: T,
    path: &ObjectPath,
) -> Result<(), ConvertError> {
    match nodes.insert(id, node) {
        None => Ok(()),
        Some(_) => Err(ConvertError::TwiceTheSameId { id, path: *path }),
    }
}

fn same_id(
    what: &'static str,
    id: u16,
    wanted: u16,
    path: &ObjectPath,
) -> Result<(), ConvertError> {
    if id == wanted {
        Ok(())
    } else {
        Err(ConvertError::WrongId {
            what,
            id,
            path: *path,
        })
    }
}

fn id(id: i32) -> Result<u16, ConvertError> {
    u16::try_from(id)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or(ConvertError::BadId { id: i64::from(id) })
}

fn what(node: &Node) -> &'static str {
    match node {
        Node::Object(_) => "an object",
        Node::Instance(_) => "an instance",
        Node::Resource(_) => "a resource",
        Node::ResourceInstance { .. } => "a resource instance",
    }
}
