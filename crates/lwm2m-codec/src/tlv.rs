//! The TLV format (TS 1.0.2, section 6.4.3; TS 1.1 core, section 7.4.5).
//!
//! ```text
//!  7 6 5 4 3 2 1 0
//! +---+-+---+-----+--------------+------------------+-------
//! |typ|I|LoL| len | id (1 or 2)  | length (0 to 3)  | value
//! +---+-+---+-----+--------------+------------------+-------
//! typ: 00 object instance, 01 resource instance, 10 multiple resource, 11 resource with value
//! I:   0 the id has 8 bits, 1 it has 16
//! LoL: bytes of the length field; with none, len is the length
//! ```

mod value;
mod write;

pub(crate) use write::encode;

use std::collections::BTreeMap;

use lwm2m_model::{
    InstanceNode, MAX_ID, Node, ObjectNode, ObjectPath, Registry, ResourceContent, ResourceNode,
    ValueType,
};

use crate::{DecodeError, NewInstance};

/// The most entries read from one payload: TLVs, counted over all levels, or records of SenML and OMA JSON.
pub const MAX_ENTRIES: usize = 32_768;

pub(crate) fn decode(
    payload: &[u8],
    path: &ObjectPath,
    registry: &Registry,
) -> Result<Node, DecodeError> {
    let mut tlv = Tlv {
        registry,
        entries: 0,
    };
    // What most notifications are: one value, read without a list of entries.
    if let ObjectPath::Resource(_, _, id) = *path
        && let Ok((entry, length)) = read_entry(payload, 0)
        && length == payload.len()
        && entry.kind == Kind::Resource
        && entry.id == id
    {
        return Ok(Node::Resource(tlv.resource(path, &entry)?));
    }
    let entries = tlv.entries(payload, 0)?;
    match *path {
        ObjectPath::Root => Err(DecodeError::NoNodeAtPath { path: *path }),
        ObjectPath::Object(id) => tlv.object(id, &entries),
        ObjectPath::Instance(..) => {
            let entries = tlv.unwrap_instance(path, entries)?;
            let id = path.instance_id().unwrap_or_default();
            Ok(Node::Instance(InstanceNode {
                id,
                resources: tlv.resources(path, &entries)?,
            }))
        }
        ObjectPath::Resource(_, _, id) => tlv.resource_at(path, id, entries),
        ObjectPath::ResourceInstance(_, _, _, id) => tlv.resource_instance_at(path, id, entries),
    }
}

pub(crate) fn decode_create(
    payload: &[u8],
    object: u16,
    registry: &Registry,
) -> Result<NewInstance, DecodeError> {
    let mut tlv = Tlv {
        registry,
        entries: 0,
    };
    let entries = tlv.entries(payload, 0)?;
    let path = ObjectPath::Object(object);
    if entries
        .first()
        .is_none_or(|entry| entry.kind != Kind::Instance)
    {
        // What a resource is does not depend on the instance, and the device has yet to choose one.
        let resources = tlv.resources(&ObjectPath::Instance(object, 0), &entries)?;
        return Ok(NewInstance {
            id: None,
            resources,
        });
    }
    let mut instances = tlv.instances(&path, &entries)?;
    match instances.pop_first() {
        Some((id, instance)) if instances.is_empty() => Ok(NewInstance {
            id: Some(id),
            resources: instance.resources,
        }),
        _ => Err(DecodeError::NotOneInstance {
            found: instances.len() + 1,
        }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Instance = 0b00,
    ResourceInstance = 0b01,
    Multiple = 0b10,
    Resource = 0b11,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Instance => "object instance",
            Self::ResourceInstance => "resource instance",
            Self::Multiple => "multiple resource",
            Self::Resource => "resource with value",
        }
    }
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    kind: Kind,
    id: u16,
    value: &'a [u8],
    /// Where the entry and its value start in the payload.
    offset: usize,
    value_offset: usize,
}

/// Reads a payload. Nothing recurses: the format has three levels, and each has its own function.
struct Tlv<'r> {
    registry: &'r Registry,
    entries: usize,
}

impl Tlv<'_> {
    /// Splits one level; `base` is where it starts in the payload.
    fn entries<'a>(&mut self, level: &'a [u8], base: usize) -> Result<Vec<Entry<'a>>, DecodeError> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < level.len() {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(DecodeError::TooManyEntries);
            }
            let (entry, length) = read_entry(&level[at..], base + at)?;
            entries.push(entry);
            at += length;
        }
        Ok(entries)
    }

    fn object(&mut self, id: u16, entries: &[Entry<'_>]) -> Result<Node, DecodeError> {
        let path = ObjectPath::Object(id);
        let bare = entries
            .first()
            .is_some_and(|entry| entry.kind != Kind::Instance);
        let single = self.registry.object(id).is_none_or(|model| !model.multiple);
        if bare && single {
            // Devices leave out the only instance of an object that can have no other; an object without
            // a model is taken for one.
            let resources = self.resources(&ObjectPath::Instance(id, 0), entries)?;
            return Ok(Node::Object(ObjectNode::new(
                id,
                [InstanceNode { id: 0, resources }],
            )));
        }
        Ok(Node::Object(ObjectNode {
            id,
            instances: self.instances(&path, entries)?,
        }))
    }

    fn instances(
        &mut self,
        path: &ObjectPath,
        entries: &[Entry<'_>],
    ) -> Result<BTreeMap<u16, InstanceNode>, DecodeError> {
        let mut instances = BTreeMap::new();
        for entry in entries {
            if entry.kind != Kind::Instance {
                return Err(wrong_level(entry, "object instances", path));
            }
            let path = below(path, entry)?;
            let inner = self.entries(entry.value, entry.value_offset)?;
            let instance = InstanceNode {
                id: entry.id,
                resources: self.resources(&path, &inner)?,
            };
            if instances.insert(entry.id, instance).is_some() {
                return Err(DecodeError::Duplicate { path });
            }
        }
        Ok(instances)
    }

    /// What an answer about one instance holds may be wrapped in that instance.
    fn unwrap_instance<'a>(
        &mut self,
        path: &ObjectPath,
        entries: Vec<Entry<'a>>,
    ) -> Result<Vec<Entry<'a>>, DecodeError> {
        let Some(first) = entries.first().filter(|entry| entry.kind == Kind::Instance) else {
            return Ok(entries);
        };
        if let Some(other) = entries
            .iter()
            .find(|entry| Some(entry.id) != path.instance_id())
        {
            return Err(DecodeError::WrongId {
                offset: other.offset,
                id: other.id,
                path: *path,
            });
        }
        if let Some(second) = entries.get(1) {
            return Err(wrong_level(second, "one object instance", path));
        }
        self.entries(first.value, first.value_offset)
    }

    fn resources(
        &mut self,
        path: &ObjectPath,
        entries: &[Entry<'_>],
    ) -> Result<BTreeMap<u16, ResourceNode>, DecodeError> {
        let mut resources = BTreeMap::new();
        for entry in entries {
            let path = below(path, entry)?;
            let resource = self.resource(&path, entry)?;
            if resources.insert(entry.id, resource).is_some() {
                return Err(DecodeError::Duplicate { path });
            }
        }
        Ok(resources)
    }

    fn resource(
        &mut self,
        path: &ObjectPath,
        entry: &Entry<'_>,
    ) -> Result<ResourceNode, DecodeError> {
        let content = match entry.kind {
            Kind::Resource => {
                ResourceContent::Single(value::decode(entry.value, self.type_at(path), path)?)
            }
            Kind::Multiple => {
                let inner = self.entries(entry.value, entry.value_offset)?;
                self.resource_instances(path, &inner)?
            }
            _ => {
                return Err(wrong_level(
                    entry,
                    "resources",
                    &path.parent().unwrap_or(*path),
                ));
            }
        };
        Ok(ResourceNode {
            id: entry.id,
            content,
        })
    }

    fn resource_instances(
        &mut self,
        path: &ObjectPath,
        entries: &[Entry<'_>],
    ) -> Result<ResourceContent, DecodeError> {
        let known = self.type_at(path);
        // Without a model the values get one type together: what all of them can be.
        let kind =
            known.unwrap_or_else(|| value::guess_all(entries.iter().map(|entry| entry.value)));
        let mut instances = BTreeMap::new();
        for entry in entries {
            if entry.kind != Kind::ResourceInstance {
                return Err(wrong_level(entry, "resource instances", path));
            }
            let path = below(path, entry)?;
            if instances
                .insert(entry.id, value::decode(entry.value, Some(kind), &path)?)
                .is_some()
            {
                return Err(DecodeError::Duplicate { path });
            }
        }
        Ok(ResourceContent::Multiple { kind, instances })
    }

    fn resource_at(
        &mut self,
        path: &ObjectPath,
        id: u16,
        entries: Vec<Entry<'_>>,
    ) -> Result<Node, DecodeError> {
        let entries = self.unwrap_instance(path, entries)?;
        let bare = entries
            .first()
            .is_some_and(|entry| entry.kind == Kind::ResourceInstance);
        let multiple = self
            .registry
            .resource(path)
            .is_some_and(|model| model.multiple);
        if bare || (entries.is_empty() && multiple) {
            return Ok(Node::Resource(ResourceNode {
                id,
                content: self.resource_instances(path, &entries)?,
            }));
        }
        let entry = only(&entries, path, id, "one resource")?;
        Ok(Node::Resource(self.resource(path, entry)?))
    }

    fn resource_instance_at(
        &mut self,
        path: &ObjectPath,
        id: u16,
        mut entries: Vec<Entry<'_>>,
    ) -> Result<Node, DecodeError> {
        if let Some(first) = entries
            .first()
            .copied()
            .filter(|entry| entry.kind == Kind::Multiple)
        {
            only(
                &entries,
                path,
                path.resource_id().unwrap_or_default(),
                "one resource",
            )?;
            entries = self.entries(first.value, first.value_offset)?;
        }
        let entry = only(&entries, path, id, "one resource instance")?;
        if entry.kind != Kind::ResourceInstance {
            return Err(wrong_level(entry, "one resource instance", path));
        }
        Ok(Node::ResourceInstance {
            id,
            value: value::decode(entry.value, self.type_at(path), path)?,
        })
    }

    fn type_at(&self, path: &ObjectPath) -> Option<ValueType> {
        self.registry
            .resource(path)
            .and_then(|model| model.value_type)
    }
}

/// The only entry, which must have this id.
fn only<'e, 'a>(
    entries: &'e [Entry<'a>],
    path: &ObjectPath,
    id: u16,
    expected: &'static str,
) -> Result<&'e Entry<'a>, DecodeError> {
    let entry = entries
        .first()
        .ok_or(DecodeError::Missing { path: *path })?;
    if entry.id != id {
        return Err(DecodeError::WrongId {
            offset: entry.offset,
            id: entry.id,
            path: *path,
        });
    }
    match entries.get(1) {
        Some(second) => Err(wrong_level(second, expected, path)),
        None => Ok(entry),
    }
}

fn below(path: &ObjectPath, entry: &Entry<'_>) -> Result<ObjectPath, DecodeError> {
    if entry.id > MAX_ID {
        return Err(DecodeError::ReservedId {
            offset: entry.offset,
        });
    }
    path.child(entry.id)
        .ok_or(DecodeError::NoNodeAtPath { path: *path })
}

fn wrong_level(entry: &Entry<'_>, expected: &'static str, path: &ObjectPath) -> DecodeError {
    DecodeError::WrongLevel {
        offset: entry.offset,
        found: entry.kind.name(),
        expected,
        path: *path,
    }
}

/// Reads the entry that `bytes` start with, and says how long it is; `offset` is its place in the payload.
fn read_entry(bytes: &[u8], offset: usize) -> Result<(Entry<'_>, usize), DecodeError> {
    let truncated = |needed: usize, left: usize| DecodeError::Truncated {
        offset,
        needed,
        left,
    };
    let (&[first], rest) = bytes.split_first_chunk::<1>().ok_or(truncated(1, 0))?;
    let kind = match first >> 6 {
        0b00 => Kind::Instance,
        0b01 => Kind::ResourceInstance,
        0b10 => Kind::Multiple,
        _ => Kind::Resource,
    };
    let id_bytes = if first & 0b0010_0000 == 0 { 1 } else { 2 };
    let length_bytes = usize::from((first >> 3) & 0b11);
    let (head, rest) = rest
        .split_at_checked(id_bytes + length_bytes)
        .ok_or(truncated(id_bytes + length_bytes, rest.len()))?;
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b));
    let id = number(&head[..id_bytes]) as u16;
    let length = if length_bytes == 0 {
        usize::from(first & 0b111)
    } else {
        number(&head[id_bytes..])
    };
    let value = rest.get(..length).ok_or(truncated(length, rest.len()))?;
    let value_offset = offset + 1 + head.len();
    Ok((
        Entry {
            kind,
            id,
            value,
            offset,
            value_offset,
        },
        1 + head.len() + length,
    ))
}
