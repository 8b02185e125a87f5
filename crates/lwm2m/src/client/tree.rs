use std::collections::{BTreeMap, BTreeSet};

use coap::Code;
use lwm2m_codec::NewInstance;
use lwm2m_model::{Node, ObjectPath, Registry};

use crate::WriteMode;

/// A device's objects, as its LwM2M client sees them. Refusals are CoAP codes: 4.04 for what is not there, 4.05 for
/// what may not be done with it, 4.00 for a value that does not fit.
pub trait ObjectTree {
    /// The models of the objects; payloads are read with them.
    fn models(&self) -> &Registry;

    /// The instances there are, by object; objects without an instance have an empty set.
    fn objects(&self) -> BTreeMap<u16, BTreeSet<u16>>;

    /// The resources of an instance, the executable ones included, with the number of values of those that may have
    /// several. Empty for an instance that is not there.
    fn resources(&self, object: u16, instance: u16) -> BTreeMap<u16, Option<usize>>;

    /// What stands at an object, an instance, a resource or a resource instance, as far as it is readable.
    ///
    /// # Errors
    /// The code to answer.
    fn read(&self, path: &ObjectPath) -> Result<Node, Code>;

    /// Writes an instance, a resource or a resource instance, wholly or not at all.
    ///
    /// # Errors
    /// The code to answer.
    fn write(&mut self, path: &ObjectPath, node: Node, mode: WriteMode) -> Result<(), Code>;

    /// Writes resources and resource instances by their paths, all of them or none (TS 1.1 core, section 6.3.9). What the
    /// nodes do not mention stays as it is. The values of a resource that has several come as the resource, and are added
    /// to those that are there.
    ///
    /// # Errors
    /// The code to answer.
    fn write_all(&mut self, nodes: BTreeMap<ObjectPath, Node>) -> Result<(), Code>;

    /// Executes a resource. What it does is for the device to do when it sees [`Event::Executed`](super::Event).
    ///
    /// # Errors
    /// The code to answer.
    fn execute(&mut self, path: &ObjectPath, arguments: &str) -> Result<(), Code>;

    /// Creates an instance and returns its id.
    ///
    /// # Errors
    /// The code to answer.
    fn create(&mut self, object: u16, instance: NewInstance) -> Result<u16, Code>;

    /// Deletes an instance, or a resource instance.
    ///
    /// # Errors
    /// The code to answer.
    fn delete(&mut self, path: &ObjectPath) -> Result<(), Code>;

    /// Whether there is something at this path.
    fn exists(&self, path: &ObjectPath) -> bool {
        let objects = self.objects();
        match *path {
            ObjectPath::Root => true,
            ObjectPath::Object(o) => objects.contains_key(&o),
            ObjectPath::Instance(o, i) => objects
                .get(&o)
                .is_some_and(|instances| instances.contains(&i)),
            ObjectPath::Resource(o, i, r) => self.resources(o, i).contains_key(&r),
            ObjectPath::ResourceInstance(..) => self.read(path).is_ok(),
        }
    }
}
