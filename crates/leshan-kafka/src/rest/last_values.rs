//! The last values seen of each device, so that whoever looks sees something at once.
//!
//! GET `/api/clients/<ep>/values` answers `{"observed": ["/3303/0/5700"], "composites": [["/3/0/9", …]], "values": [{"path":
//! …, "timestamp": <Unix ms>, "val": <node>}]}`: what is observed, and what notifications, Sends and reads showed, resource
//! by resource. The values are a convenience, in memory, gone with the registration and with the server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lwm2m::Target;
use lwm2m_model::{InstanceNode, Node, ObjectPath, ResourceContent, ResourceNode, Value};
use serde_json::{Value as Json, json};

use super::shape;

/// The most values kept; beyond them known ones are still renewed.
const ENTRIES: usize = 100_000;
/// The most bytes of values, as far as they can be counted.
const BYTES: usize = 64 * 1024 * 1024;
/// What an entry costs besides its value.
const OVERHEAD: usize = 64;

#[derive(Default)]
pub(super) struct Values(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    devices: HashMap<String, Device>,
    entries: usize,
    bytes: usize,
}

#[derive(Default)]
struct Device {
    values: BTreeMap<ObjectPath, Known>,
}

/// The last value of a resource, or of a resource instance.
struct Known {
    node: Node,
    at_unix_ms: i64,
    bytes: usize,
}

impl Values {
    /// A device showed this node at this path.
    pub(super) fn seen(&self, endpoint: &str, path: ObjectPath, node: &Node, at_unix_ms: i64) {
        let mut kept = self.lock();
        let one = |id: u16, of: &ResourceNode, instance: ObjectPath, kept: &mut Kept| {
            if let Some(path) = instance.child(id) {
                kept.put(
                    endpoint,
                    path,
                    || Node::Resource(of.clone()),
                    of_resource(of),
                    at_unix_ms,
                );
            }
        };
        let all = |instance: &InstanceNode, path: ObjectPath, kept: &mut Kept| {
            for (id, of) in &instance.resources {
                one(*id, of, path, kept);
            }
        };
        match node {
            Node::Object(object) => {
                for (id, instance) in &object.instances {
                    if let Some(path) = path.child(*id) {
                        all(instance, path, &mut kept);
                    }
                }
            }
            Node::Instance(instance) => all(instance, path, &mut kept),
            Node::Resource(of) => {
                kept.put(endpoint, path, || node.clone(), of_resource(of), at_unix_ms);
            }
            Node::ResourceInstance { value, .. } => {
                kept.put(endpoint, path, || node.clone(), of_value(value), at_unix_ms);
            }
        }
    }

    /// What was below a path is gone.
    pub(super) fn deleted(&self, endpoint: &str, path: ObjectPath) {
        let mut kept = self.lock();
        let Some(device) = kept.devices.get_mut(endpoint) else {
            return;
        };
        let (mut entries, mut bytes) = (0, 0);
        device.values.retain(|at, known| {
            let stays = !path.contains(at);
            if !stays {
                entries += 1;
                bytes += known.bytes;
            }
            stays
        });
        kept.entries -= entries;
        kept.bytes -= bytes;
    }

    /// A device is gone.
    pub(super) fn forget(&self, endpoint: &str) {
        self.lock().remove(endpoint);
    }

    /// Whether nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().devices.is_empty()
    }

    /// Forgets all devices but these.
    pub(super) fn retain(&self, here: impl Fn(&str) -> bool) {
        let mut kept = self.lock();
        let gone: Vec<String> = kept
            .devices
            .keys()
            .filter(|endpoint| !here(endpoint))
            .cloned()
            .collect();
        for endpoint in gone {
            kept.remove(&endpoint);
        }
    }

    /// What is known of a device, of which these are observed.
    pub(super) fn of<'a>(
        &self,
        endpoint: &str,
        observed: impl Iterator<Item = &'a Target>,
    ) -> Json {
        let (mut single, mut composites) = (BTreeSet::new(), Vec::new());
        for target in observed {
            match target.path() {
                Some(path) => {
                    single.insert(*path);
                }
                None => composites.push(target.paths().iter().map(ToString::to_string).collect()),
            }
        }
        let kept = self.lock();
        let known = kept.devices.get(endpoint);
        let values = known.into_iter().flat_map(|device| &device.values);
        let values = values.map(|(path, known)| {
            json!({
                "path": path.to_string(),
                "timestamp": known.at_unix_ms,
                "val": shape::node(&known.node),
            })
        });
        json!({
            "observed": single.iter().map(ToString::to_string).collect::<Json>(),
            "composites": composites.into_iter().collect::<Vec<Vec<String>>>(),
            "values": values.collect::<Json>(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held; and old values are better than none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put(
        &mut self,
        endpoint: &str,
        path: ObjectPath,
        node: impl FnOnce() -> Node,
        bytes: usize,
        at_unix_ms: i64,
    ) {
        // The usual case first, with one look: there is a notification for each call.
        let known = self.devices.get_mut(endpoint);
        if let Some(known) = known.and_then(|device| device.values.get_mut(&path)) {
            let others = self.bytes - known.bytes;
            if others + bytes <= BYTES {
                *known = Known {
                    node: node(),
                    at_unix_ms,
                    bytes,
                };
                self.bytes = others + bytes;
            }
            return;
        }
        if self.entries >= ENTRIES || self.bytes + bytes > BYTES {
            return;
        }
        let known = Known {
            node: node(),
            at_unix_ms,
            bytes,
        };
        let device = self.devices.entry(endpoint.to_owned()).or_default();
        device.values.insert(path, known);
        self.bytes += bytes;
        self.entries += 1;
    }

    fn remove(&mut self, endpoint: &str) {
        if let Some(device) = self.devices.remove(endpoint) {
            self.entries -= device.values.len();
            self.bytes -= device
                .values
                .values()
                .map(|known| known.bytes)
                .sum::<usize>();
        }
    }
}

fn of_resource(resource: &ResourceNode) -> usize {
    match &resource.content {
        ResourceContent::Single(value) => of_value(value),
        ResourceContent::Multiple { instances, .. } => instances.values().map(of_value).sum(),
    }
}

fn of_value(value: &Value) -> usize {
    OVERHEAD
        + match value {
            Value::String(text) | Value::CoreLink(text) => text.len(),
            Value::Opaque(bytes) => bytes.len(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ObjectPath {
        text.parse().unwrap()
    }

    fn temperature(value: f64) -> Node {
        Node::single(5700, Value::Float(value))
    }

    #[test]
    fn the_last_value_of_each_resource_is_kept() {
        let values = Values::default();
        let instance = Node::Instance(InstanceNode::new(
            0,
            [
                ResourceNode::single(5700, Value::Float(19.0)),
                ResourceNode::single(5701, Value::String("Cel".to_owned())),
            ],
        ));
        values.seen("dev", path("/3303/0"), &instance, 1);
        values.seen("dev", path("/3303/0/5700"), &temperature(20.0), 2);
        let observed = [
            Target::Path(path("/3303/0/5700")),
            Target::list([path("/3303/0/5701"), path("/3/0/9")]),
        ];
        assert_eq!(
            values.of("dev", observed.iter()),
            json!({
                "observed": ["/3303/0/5700"],
                "composites": [["/3/0/9", "/3303/0/5701"]],
                "values": [
                    {"path": "/3303/0/5700", "timestamp": 2,
                        "val": {"kind": "singleResource", "id": 5700, "type": "FLOAT", "value": "20.0"}},
                    {"path": "/3303/0/5701", "timestamp": 1,
                        "val": {"kind": "singleResource", "id": 5701, "type": "STRING", "value": "Cel"}},
                ],
            })
        );
        values.deleted("dev", path("/3303/0"));
        let of = |endpoint| values.of(endpoint, std::iter::empty());
        assert_eq!(
            of("dev"),
            json!({"observed": [], "composites": [], "values": []})
        );
        assert_eq!(values.lock().entries, 0);
        assert_eq!(values.lock().bytes, 0);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let values = Values::default();
        let seen = |device: usize, value| {
            for id in 0..1_000 {
                let path = ObjectPath::Resource(3303, id, 5700);
                values.seen(&format!("dev{device}"), path, &temperature(value), 1);
            }
        };
        let of = |endpoint| values.of(endpoint, std::iter::empty());
        (0..101).for_each(|device| seen(device, 19.0));
        assert_eq!(values.lock().entries, ENTRIES);
        assert_eq!(of("dev100")["values"], json!([]));
        // Known ones are renewed, and who goes makes room.
        seen(0, 20.0);
        assert_eq!(of("dev0")["values"][0]["val"]["value"], "20.0");
        values.forget("dev1");
        seen(100, 19.0);
        assert_eq!(of("dev100")["values"].as_array().unwrap().len(), 1_000);
        values.retain(|endpoint| endpoint == "dev7");
        assert_eq!(values.lock().entries, 1_000);

        let long = Node::single(0, Value::Opaque(vec![0; BYTES]));
        values.seen("dev7", path("/5/0/0"), &long, 1);
        assert_eq!(values.lock().entries, 1_000);
        values.retain(|_| false);
        assert!(values.is_empty());
        assert_eq!(values.lock().bytes, 0);
    }
}
