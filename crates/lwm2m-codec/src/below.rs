//! The same, with a device whose tree does not hang at `/` but at an alternate path such as `/lwm2m` (TS 1.1 transport,
//! section 6.4.1): in SenML its names begin with that path. 1.1 says nothing of it, 1.2 and OMA's answer to the question
//! (issue 564 of its tracker) do; what leaves it out is read as well. The other formats have no such names.

use std::collections::BTreeMap;

use lwm2m_model::{Node, ObjectPath, Registry};

use crate::{ContentFormat, DecodeError, EncodeError, NewInstance, Timestamped};
use crate::{composite, content};

/// Where a device's tree hangs: `/`, or an alternate path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below<'a>(pub &'a str);

impl Below<'_> {
    /// See [`encode`](crate::encode).
    pub fn encode(
        self,
        node: &Node,
        path: &ObjectPath,
        format: ContentFormat,
    ) -> Result<Vec<u8>, EncodeError> {
        content::write(self.0, node, path, format)
    }

    /// See [`encode_create`](crate::encode_create).
    pub fn encode_create(
        self,
        new: &NewInstance,
        object: u16,
        format: ContentFormat,
    ) -> Result<Vec<u8>, EncodeError> {
        content::write_new(self.0, new, object, format)
    }

    /// See [`encode_nodes`](crate::encode_nodes).
    pub fn encode_nodes(
        self,
        groups: &[Timestamped<BTreeMap<ObjectPath, Node>>],
        format: ContentFormat,
    ) -> Result<Vec<u8>, EncodeError> {
        composite::write_nodes(self.0, groups, format)
    }

    /// See [`encode_paths`](crate::encode_paths).
    pub fn encode_paths(
        self,
        paths: &[ObjectPath],
        format: ContentFormat,
    ) -> Result<Vec<u8>, EncodeError> {
        composite::write_paths(self.0, paths, format)
    }

    /// See [`decode`](crate::decode).
    pub fn decode(
        self,
        payload: &[u8],
        path: &ObjectPath,
        format: ContentFormat,
        registry: &Registry,
    ) -> Result<Node, DecodeError> {
        content::read(self.0, payload, path, format, registry)
    }

    /// See [`decode_timestamped`](crate::decode_timestamped).
    pub fn decode_timestamped(
        self,
        payload: &[u8],
        path: &ObjectPath,
        format: ContentFormat,
        registry: &Registry,
    ) -> Result<Vec<Timestamped<Node>>, DecodeError> {
        composite::timestamped(self.0, payload, path, format, registry)
    }

    /// See [`decode_nodes`](crate::decode_nodes).
    pub fn decode_nodes(
        self,
        payload: &[u8],
        paths: &[ObjectPath],
        format: ContentFormat,
        registry: &Registry,
    ) -> Result<Vec<Timestamped<BTreeMap<ObjectPath, Node>>>, DecodeError> {
        composite::nodes(self.0, payload, paths, format, registry)
    }
}
