use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coap::Code;
use lwm2m_codec::NewInstance;
use lwm2m_model::{
    InstanceNode, MAX_ID, Node, ObjectModel, ObjectNode, ObjectPath, Registry, ResourceContent,
    ResourceModel, ResourceNode, Value,
};
use thiserror::Error;

use super::ObjectTree;
use crate::WriteMode;

/// The most instances of one object that a server can create.
const MAX_INSTANCES: usize = 1_000;
/// The most values of one resource that a server can write.
const MAX_VALUES: usize = 1_000;

/// An object tree held in memory, which enforces what the models say: which resources exist, their types, what may
/// be done with them, and which are mandatory.
#[derive(Clone, Debug)]
pub struct InMemoryTree {
    models: Arc<Registry>,
    objects: BTreeMap<u16, BTreeMap<u16, Instance>>,
}

#[derive(Clone, Debug, Default)]
struct Instance {
    values: BTreeMap<u16, ResourceContent>,
    executable: BTreeSet<u16>,
}

/// Why an instance or a value was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TreeError {
    #[error("no model of object {0} is known: add its DDF file")]
    UnknownObject(u16),
    #[error("the model has no resource for {0}")]
    UnknownResource(ObjectPath),
    #[error("{path} is a {expected}, not a {found}")]
    WrongType {
        path: ObjectPath,
        expected: String,
        found: String,
    },
    #[error("{0} has one value, not several")]
    NotMultiple(ObjectPath),
    #[error("{0} has several values: name one of them")]
    Multiple(ObjectPath),
    #[error("object {0} has one instance only")]
    SingleInstance(u16),
    #[error("{path} is mandatory: give it a value")]
    MissingMandatory { path: ObjectPath },
    #[error("there is nothing at {0}")]
    NotFound(ObjectPath),
}

impl InMemoryTree {
    /// A tree without objects.
    pub fn new(models: Arc<Registry>) -> Self {
        Self {
            models,
            objects: BTreeMap::new(),
        }
    }

    /// Adds an instance with these values. Mandatory executable resources are added by themselves, others with
    /// [`allow_execute`](Self::allow_execute).
    ///
    /// # Errors
    /// When the models don't know the object or a resource, a value does not fit, or a mandatory one is missing.
    pub fn add_instance(
        &mut self,
        object: u16,
        instance: u16,
        values: impl IntoIterator<Item = ResourceNode>,
    ) -> Result<(), TreeError> {
        let model = self
            .models
            .object(object)
            .ok_or(TreeError::UnknownObject(object))?;
        let others = self
            .objects
            .get(&object)
            .is_some_and(|there| there.keys().any(|id| *id != instance));
        if !model.multiple && others {
            return Err(TreeError::SingleInstance(object));
        }
        let mut added = Instance::default();
        for node in values {
            check(model, instance, &node)?;
            added.values.insert(node.id, node.content);
        }
        for resource in model
            .resources
            .values()
            .filter(|resource| resource.mandatory)
        {
            if resource.operations.execute {
                added.executable.insert(resource.id);
            } else if !added.values.contains_key(&resource.id) {
                let path = ObjectPath::Resource(object, instance, resource.id);
                return Err(TreeError::MissingMandatory { path });
            }
        }
        self.objects
            .entry(object)
            .or_default()
            .insert(instance, added);
        Ok(())
    }

    /// Lets an optional executable resource be executed.
    ///
    /// # Errors
    /// When the instance is not there, or the model says that the resource is not executable.
    pub fn allow_execute(&mut self, path: &ObjectPath) -> Result<(), TreeError> {
        let executable = self
            .models
            .resource(path)
            .is_some_and(|model| model.operations.execute);
        match (*path, self.instance_mut(path)) {
            (ObjectPath::Resource(_, _, id), Some(instance)) if executable => {
                instance.executable.insert(id);
                Ok(())
            }
            (_, None) => Err(TreeError::NotFound(*path)),
            _ => Err(TreeError::UnknownResource(*path)),
        }
    }

    /// The value of a resource with one value, or of a resource instance.
    pub fn get(&self, path: &ObjectPath) -> Option<&Value> {
        let content = self.instance(path)?.values.get(&path.resource_id()?)?;
        match (content, path) {
            (ResourceContent::Single(value), ObjectPath::Resource(..)) => Some(value),
            (ResourceContent::Multiple { instances, .. }, ObjectPath::ResourceInstance(.., id)) => {
                instances.get(id)
            }
            _ => None,
        }
    }

    /// Sets a value as the device itself does, whether servers may write it or not; `true` when it is another one
    /// than before. Tell the client with [`Client::changed`](super::Client::changed).
    ///
    /// # Errors
    /// When the instance is not there, or the value does not fit the model.
    pub fn set(&mut self, path: &ObjectPath, value: Value) -> Result<bool, TreeError> {
        let (object, instance, id) = match *path {
            ObjectPath::Resource(o, i, r) | ObjectPath::ResourceInstance(o, i, r, _) => (o, i, r),
            _ => return Err(TreeError::NotFound(*path)),
        };
        let model = self
            .models
            .object(object)
            .ok_or(TreeError::UnknownObject(object))?;
        let kind = value.value_type();
        let node = match path.resource_instance_id() {
            None => ResourceNode::single(id, value.clone()),
            Some(value_id) => ResourceNode::multiple(id, kind, [(value_id, value.clone())]),
        };
        check(model, instance, &node)?;
        let slots = &mut self
            .instance_mut(path)
            .ok_or(TreeError::NotFound(*path))?
            .values;
        Ok(match (path.resource_instance_id(), slots.get_mut(&id)) {
            (Some(value_id), Some(ResourceContent::Multiple { instances, .. })) => {
                instances.insert(value_id, value.clone()).as_ref() != Some(&value)
            }
            _ => slots.insert(id, node.content.clone()).as_ref() != Some(&node.content),
        })
    }

    fn instance(&self, path: &ObjectPath) -> Option<&Instance> {
        self.objects
            .get(&path.object_id()?)?
            .get(&path.instance_id()?)
    }

    fn instance_mut(&mut self, path: &ObjectPath) -> Option<&mut Instance> {
        self.objects
            .get_mut(&path.object_id()?)?
            .get_mut(&path.instance_id()?)
    }

    fn model(&self, object: u16) -> Result<&ObjectModel, Code> {
        if !self.objects.contains_key(&object) {
            return Err(Code::NOT_FOUND);
        }
        self.models.object(object).ok_or(Code::NOT_FOUND)
    }

    /// An instance as far as servers may read it.
    fn readable(&self, model: &ObjectModel, id: u16, instance: &Instance) -> InstanceNode {
        let readable = instance
            .values
            .iter()
            .filter(|(id, _)| operations(model, **id).is_some_and(|o| o.read));
        InstanceNode::new(
            id,
            readable.map(|(id, content)| ResourceNode {
                id: *id,
                content: content.clone(),
            }),
        )
    }

    fn write_resource(&mut self, path: &ObjectPath, node: ResourceNode) -> Result<(), Code> {
        let (object, instance) = (
            path.object_id().unwrap_or_default(),
            path.instance_id().unwrap_or_default(),
        );
        let model = self.model(object)?;
        let there = self.instance(path).ok_or(Code::NOT_FOUND)?;
        if there.executable.contains(&node.id) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        if !there.values.contains_key(&node.id) {
            return Err(Code::NOT_FOUND);
        }
        if !operations(model, node.id).is_some_and(|operations| operations.write) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        check(model, instance, &node).map_err(|_| Code::BAD_REQUEST)?;
        let slots = &mut self.instance_mut(path).ok_or(Code::NOT_FOUND)?.values;
        slots.insert(node.id, node.content);
        Ok(())
    }

    fn delete_value(&mut self, path: &ObjectPath, id: u16) -> Result<(), Code> {
        let resource = path.resource_id().unwrap_or_default();
        let model = self.model(path.object_id().unwrap_or_default())?;
        let writable = operations(model, resource).is_some_and(|operations| operations.write);
        let content = self
            .instance_mut(path)
            .and_then(|instance| instance.values.get_mut(&resource))
            .ok_or(Code::NOT_FOUND)?;
        let ResourceContent::Multiple { instances, .. } = content else {
            return Err(Code::NOT_FOUND);
        };
        if !instances.contains_key(&id) {
            return Err(Code::NOT_FOUND);
        }
        if !writable {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        instances.remove(&id);
        Ok(())
    }

    fn write_instance(
        &mut self,
        path: &ObjectPath,
        node: InstanceNode,
        mode: WriteMode,
    ) -> Result<(), Code> {
        let (object, id) = (
            path.object_id().unwrap_or_default(),
            path.instance_id().unwrap_or_default(),
        );
        let model = self.model(object)?;
        self.instance(path).ok_or(Code::NOT_FOUND)?;
        for resource in node.resources.values() {
            match operations(model, resource.id) {
                None => return Err(Code::NOT_FOUND),
                Some(operations) if !operations.write => return Err(Code::METHOD_NOT_ALLOWED),
                Some(_) => check(model, id, resource).map_err(|_| Code::BAD_REQUEST)?,
            }
        }
        // What a replace does not mention goes, as far as servers may write it and it may be missing.
        let mut replaced = BTreeSet::new();
        if mode == WriteMode::Replace {
            let optional =
                |resource: &&ResourceModel| resource.operations.write && !resource.mandatory;
            replaced.extend(
                model
                    .resources
                    .values()
                    .filter(optional)
                    .map(|resource| resource.id),
            );
        }
        let slots = &mut self.instance_mut(path).ok_or(Code::NOT_FOUND)?.values;
        slots.retain(|id, _| !replaced.contains(id));
        slots.extend(
            node.resources
                .into_iter()
                .map(|(id, resource)| (id, resource.content)),
        );
        Ok(())
    }
}

fn operations(model: &ObjectModel, resource: u16) -> Option<lwm2m_model::Operations> {
    model
        .resources
        .get(&resource)
        .map(|resource| resource.operations)
}

/// Whether a resource's value or values fit its model.
fn check(model: &ObjectModel, instance: u16, node: &ResourceNode) -> Result<(), TreeError> {
    let path = ObjectPath::Resource(model.id, instance, node.id);
    let resource = model
        .resources
        .get(&node.id)
        .ok_or(TreeError::UnknownResource(path))?;
    let expected = resource
        .value_type
        .ok_or(TreeError::UnknownResource(path))?;
    match &node.content {
        ResourceContent::Single(_) if resource.multiple => return Err(TreeError::Multiple(path)),
        ResourceContent::Multiple { .. } if !resource.multiple => {
            return Err(TreeError::NotMultiple(path));
        }
        _ => {}
    }
    let wrong = |found: lwm2m_model::ValueType| {
        Err(TreeError::WrongType {
            path,
            expected: expected.to_string(),
            found: found.to_string(),
        })
    };
    match &node.content {
        ResourceContent::Multiple { instances, .. } => {
            let found = instances
                .values()
                .map(Value::value_type)
                .find(|found| *found != expected);
            found.map_or(Ok(()), wrong)
        }
        ResourceContent::Single(value) if value.value_type() != expected => {
            wrong(value.value_type())
        }
        ResourceContent::Single(_) => Ok(()),
    }
}

impl ObjectTree for InMemoryTree {
    fn models(&self) -> &Registry {
        &self.models
    }

    fn objects(&self) -> BTreeMap<u16, BTreeSet<u16>> {
        self.objects
            .iter()
            .map(|(id, instances)| (*id, instances.keys().copied().collect()))
            .collect()
    }

    fn resources(&self, object: u16, instance: u16) -> BTreeMap<u16, Option<usize>> {
        let Some(instance) = self.instance(&ObjectPath::Instance(object, instance)) else {
            return BTreeMap::new();
        };
        let values = instance.values.iter().map(|(id, content)| match content {
            ResourceContent::Single(_) => (*id, None),
            ResourceContent::Multiple { instances, .. } => (*id, Some(instances.len())),
        });
        values
            .chain(instance.executable.iter().map(|id| (*id, None)))
            .collect()
    }

    fn read(&self, path: &ObjectPath) -> Result<Node, Code> {
        let model = self.model(path.object_id().ok_or(Code::METHOD_NOT_ALLOWED)?)?;
        if let ObjectPath::Object(object) = *path {
            let instances = self.objects.get(&object).ok_or(Code::NOT_FOUND)?;
            let nodes = instances
                .iter()
                .map(|(id, instance)| self.readable(model, *id, instance));
            return Ok(Node::Object(ObjectNode::new(object, nodes)));
        }
        let instance = self.instance(path).ok_or(Code::NOT_FOUND)?;
        let Some(id) = path.resource_id() else {
            return Ok(Node::Instance(self.readable(
                model,
                path.instance_id().unwrap_or_default(),
                instance,
            )));
        };
        if instance.executable.contains(&id) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let content = instance.values.get(&id).ok_or(Code::NOT_FOUND)?;
        if !operations(model, id).is_some_and(|operations| operations.read) {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        match (path.resource_instance_id(), content) {
            (None, content) => Ok(Node::Resource(ResourceNode {
                id,
                content: content.clone(),
            })),
            (Some(id), ResourceContent::Multiple { instances, .. }) => {
                let value = instances.get(&id).ok_or(Code::NOT_FOUND)?.clone();
                Ok(Node::ResourceInstance { id, value })
            }
            (Some(_), ResourceContent::Single(_)) => Err(Code::NOT_FOUND),
        }
    }

    fn write(&mut self, path: &ObjectPath, node: Node, mode: WriteMode) -> Result<(), Code> {
        match (path, node) {
            (ObjectPath::Instance(..), Node::Instance(node)) => {
                self.write_instance(path, node, mode)
            }
            (ObjectPath::Resource(..), Node::Resource(node)) => {
                if let ResourceContent::Multiple { instances, .. } = &node.content
                    && instances.len() > MAX_VALUES
                {
                    return Err(Code::REQUEST_ENTITY_TOO_LARGE);
                }
                self.write_resource(path, node)
            }
            (
                ObjectPath::ResourceInstance(_, _, resource, _),
                Node::ResourceInstance { id, value },
            ) => {
                let there = self
                    .instance(path)
                    .and_then(|i| i.values.get(resource))
                    .ok_or(Code::NOT_FOUND)?;
                let ResourceContent::Multiple { kind, instances } = there else {
                    return Err(Code::NOT_FOUND);
                };
                let mut instances = instances.clone();
                instances.insert(id, value);
                if instances.len() > MAX_VALUES {
                    return Err(Code::REQUEST_ENTITY_TOO_LARGE);
                }
                self.write_resource(path, ResourceNode::multiple(*resource, *kind, instances))
            }
            (ObjectPath::Root | ObjectPath::Object(_), _) => Err(Code::METHOD_NOT_ALLOWED),
            _ => Err(Code::BAD_REQUEST),
        }
    }

    fn write_all(&mut self, nodes: BTreeMap<ObjectPath, Node>) -> Result<(), Code> {
        // A device's tree is small, and a composite write rare: a copy is the simplest way to all or nothing.
        let mut changed = self.clone();
        for (path, node) in nodes {
            match node {
                Node::Resource(ResourceNode {
                    content: ResourceContent::Multiple { instances, .. },
                    ..
                }) => {
                    for (id, value) in instances {
                        let at = path.child(id).ok_or(Code::BAD_REQUEST)?;
                        changed.write(
                            &at,
                            Node::ResourceInstance { id, value },
                            WriteMode::Update,
                        )?;
                    }
                }
                node => changed.write(&path, node, WriteMode::Update)?,
            }
        }
        *self = changed;
        Ok(())
    }

    fn execute(&mut self, path: &ObjectPath, _arguments: &str) -> Result<(), Code> {
        let ObjectPath::Resource(_, _, id) = *path else {
            return Err(Code::METHOD_NOT_ALLOWED);
        };
        let instance = self.instance(path).ok_or(Code::NOT_FOUND)?;
        if instance.executable.contains(&id) {
            Ok(())
        } else if instance.values.contains_key(&id) {
            Err(Code::METHOD_NOT_ALLOWED)
        } else {
            Err(Code::NOT_FOUND)
        }
    }

    fn create(&mut self, object: u16, instance: NewInstance) -> Result<u16, Code> {
        let model = self.model(object)?;
        let there = self.objects.get(&object).ok_or(Code::NOT_FOUND)?;
        // Objects that every device has are for itself, or for a bootstrap server, to make.
        if model.mandatory || (!model.multiple && !there.is_empty()) || there.len() >= MAX_INSTANCES
        {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let id = match instance.id {
            Some(id) => id,
            None => (0..=MAX_ID)
                .find(|id| !there.contains_key(id))
                .ok_or(Code::METHOD_NOT_ALLOWED)?,
        };
        if there.contains_key(&id) {
            return Err(Code::BAD_REQUEST);
        }
        let mut added = Instance::default();
        for node in instance.resources.into_values() {
            check(model, id, &node).map_err(|_| Code::BAD_REQUEST)?;
            added.values.insert(node.id, node.content);
        }
        for resource in model
            .resources
            .values()
            .filter(|resource| resource.mandatory)
        {
            if resource.operations.execute {
                added.executable.insert(resource.id);
            } else if resource.operations.write && !added.values.contains_key(&resource.id) {
                return Err(Code::BAD_REQUEST);
            }
        }
        self.objects.entry(object).or_default().insert(id, added);
        Ok(id)
    }

    fn delete(&mut self, path: &ObjectPath) -> Result<(), Code> {
        let (object, id) = match *path {
            ObjectPath::Instance(object, id) => (object, id),
            ObjectPath::ResourceInstance(.., id) => return self.delete_value(path, id),
            _ => return Err(Code::METHOD_NOT_ALLOWED),
        };
        let mandatory = self.model(object)?.mandatory;
        let instances = self.objects.get_mut(&object).ok_or(Code::NOT_FOUND)?;
        if !instances.contains_key(&id) {
            return Err(Code::NOT_FOUND);
        }
        if mandatory {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        instances.remove(&id);
        Ok(())
    }
}
