use thiserror::Error;

use crate::{
    InstanceNode, Node, ObjectPath, Registry, ResourceContent, ResourceNode, Value, ValueType,
};

/// A value that its resource cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{path} has the type {expected}, and a {found} was given that cannot be converted exactly: send a value of that type"
)]
pub struct TypeMismatch {
    pub path: ObjectPath,
    pub expected: ValueType,
    pub found: ValueType,
}

impl Registry {
    /// Gives every value the type that its resource's model has, where that loses nothing
    /// ([`Value::to_type`]); values of resources without a model stay as they are.
    ///
    /// For nodes that come from outside of LwM2M (records, REST), whose types are fewer or were guessed:
    /// an integer for a float, say. `path` is the node's own path, or its parent's for an instance to create.
    pub fn conform(&self, node: Node, path: &ObjectPath) -> Result<Node, TypeMismatch> {
        Ok(match node {
            Node::Object(mut node) => {
                for instance in node.instances.values_mut() {
                    self.conform_instance(instance, path)?;
                }
                Node::Object(node)
            }
            Node::Instance(mut node) => {
                let object = path
                    .object_id()
                    .map_or(ObjectPath::Root, ObjectPath::Object);
                self.conform_instance(&mut node, &object)?;
                Node::Instance(node)
            }
            Node::Resource(mut node) => {
                self.conform_resource(&mut node, path)?;
                Node::Resource(node)
            }
            Node::ResourceInstance { id, mut value } => {
                self.conform_value(&mut value, path)?;
                Node::ResourceInstance { id, value }
            }
        })
    }

    fn conform_instance(
        &self,
        instance: &mut InstanceNode,
        object: &ObjectPath,
    ) -> Result<(), TypeMismatch> {
        let path = object.child(instance.id).unwrap_or(*object);
        for resource in instance.resources.values_mut() {
            let path = path.child(resource.id).unwrap_or(path);
            self.conform_resource(resource, &path)?;
        }
        Ok(())
    }

    fn conform_resource(
        &self,
        resource: &mut ResourceNode,
        path: &ObjectPath,
    ) -> Result<(), TypeMismatch> {
        match &mut resource.content {
            ResourceContent::Single(value) => self.conform_value(value, path),
            ResourceContent::Multiple { kind, instances } => {
                for (id, value) in instances {
                    self.conform_value(value, &path.child(*id).unwrap_or(*path))?;
                }
                *kind = self
                    .resource(path)
                    .and_then(|model| model.value_type)
                    .unwrap_or(*kind);
                Ok(())
            }
        }
    }

    fn conform_value(&self, value: &mut Value, path: &ObjectPath) -> Result<(), TypeMismatch> {
        let Some(expected) = self.resource(path).and_then(|model| model.value_type) else {
            return Ok(());
        };
        let found = value.value_type();
        if found != expected {
            let path = *path;
            *value = value.to_type(expected).ok_or(TypeMismatch {
                path,
                expected,
                found,
            })?;
        }
        Ok(())
    }
}

impl Value {
    /// The same value in another type: numbers (times among them) in each other's types where they are exact,
    /// strings and links in each other's. `None` where anything would be lost or guessed.
    pub fn to_type(&self, kind: ValueType) -> Option<Value> {
        if self.value_type() == kind {
            return Some(self.clone());
        }
        if let Self::String(text) | Self::CoreLink(text) = self {
            return match kind {
                ValueType::String => Some(Self::String(text.clone())),
                ValueType::CoreLink => Some(Self::CoreLink(text.clone())),
                _ => None,
            };
        }
        let whole = match *self {
            Self::Integer(v) | Self::Time(v) => i128::from(v),
            Self::Unsigned(v) => i128::from(v),
            Self::Float(v) if v.fract() == 0.0 && v.abs() <= EXACT as f64 => v as i128,
            _ => return None,
        };
        match kind {
            ValueType::Integer => i64::try_from(whole).ok().map(Self::Integer),
            ValueType::Time => i64::try_from(whole).ok().map(Self::Time),
            ValueType::Unsigned => u64::try_from(whole).ok().map(Self::Unsigned),
            ValueType::Float => (whole.abs() <= EXACT).then_some(Self::Float(whole as f64)),
            _ => None,
        }
    }
}

/// 2^53: up to here every whole number is a double.
const EXACT: i128 = 1 << 53;
