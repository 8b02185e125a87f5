use lwm2m_model::{ObjectPath, ValueType};
use thiserror::Error;

use crate::ContentFormat;

/// Why a node could not be written as a payload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("{format} is not supported for nodes: ask for TLV, SENML_JSON or SENML_CBOR")]
    Unsupported { format: ContentFormat },
    #[error("{node} does not fit the path {path}: the payload must be for the node the path names")]
    NodeDoesNotFitPath {
        node: &'static str,
        path: ObjectPath,
    },
    #[error("{format} carries one value only, and {path} has a node with several: use TLV")]
    NotASingleValue {
        format: ContentFormat,
        path: ObjectPath,
    },
    #[error(
        "{format} carries opaque values only, and {path} has a value of type {found}: use TEXT or TLV"
    )]
    NotOpaque {
        format: ContentFormat,
        path: ObjectPath,
        found: ValueType,
    },
    #[error(
        "the value of {path} is infinite or not a number, or its time is, which only TLV can carry: use TLV"
    )]
    NotFinite { path: ObjectPath },
    #[error("the value of {path} has {bytes} bytes, and a TLV carries 16777215 at most")]
    TooLong { path: ObjectPath, bytes: usize },
    #[error("{format} names every value by its full path: give the new instance an id, or use TLV")]
    NeedsInstanceId { format: ContentFormat },
    #[error(
        "{format} does not carry values of several paths or with times: use SENML_JSON or SENML_CBOR"
    )]
    NotComposite { format: ContentFormat },
}

/// Why a payload could not be read as a node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("{format} is not supported for nodes: ask for TLV, SENML_JSON or SENML_CBOR")]
    Unsupported { format: ContentFormat },
    #[error(
        "{format} carries one value only, and {path} is no resource or resource instance: use TLV"
    )]
    NotASingleValue {
        format: ContentFormat,
        path: ObjectPath,
    },
    #[error(
        "{path} cannot be read from a payload: name an object, an instance, a resource or a resource instance"
    )]
    NoNodeAtPath { path: ObjectPath },
    #[error("the TLV at byte {offset} says {needed} bytes follow, and {left} do")]
    Truncated {
        offset: usize,
        needed: usize,
        left: usize,
    },
    #[error("the TLV at byte {offset} is a {found}, and in {path} only {expected} may stand")]
    WrongLevel {
        offset: usize,
        found: &'static str,
        expected: &'static str,
        path: ObjectPath,
    },
    #[error("the TLV at byte {offset} has the id {id}, and the payload was asked for at {path}")]
    WrongId {
        offset: usize,
        id: u16,
        path: ObjectPath,
    },
    #[error("the id 65535 is reserved, and the TLV at byte {offset} has it")]
    ReservedId { offset: usize },
    #[error("{path} is in the payload twice")]
    Duplicate { path: ObjectPath },
    #[error("the payload has more than {} entries", crate::MAX_ENTRIES)]
    TooManyEntries,
    #[error("the payload has nothing for {path}")]
    Missing { path: ObjectPath },
    #[error("the value of {path} is no {expected}: {reason}")]
    BadValue {
        path: ObjectPath,
        expected: ValueType,
        reason: String,
    },
    #[error("the payload is no {format}: {reason}")]
    Malformed {
        format: ContentFormat,
        reason: String,
    },
    #[error("the payload is SenML version {version}, and only versions up to 10 are understood")]
    UnsupportedVersion { version: String },
    #[error(
        "the payload names {name:?}, which is no path of a resource or resource instance such as /3/0/9"
    )]
    BadName { name: String },
    #[error("the payload has a value for {found}, and it was asked for at {path}")]
    OutsidePath { found: ObjectPath, path: ObjectPath },
    #[error("the payload has a value for {found}, which is inside none of the paths asked for")]
    NotAskedFor { found: ObjectPath },
    #[error("the payload has {path} both as one value and as resource instances")]
    SingleAndMultiple { path: ObjectPath },
    #[error("{format} does not carry values of several paths: use SENML_JSON or SENML_CBOR")]
    NotComposite { format: ContentFormat },
    #[error("the payload has {found} instances, and a create makes one")]
    NotOneInstance { found: usize },
}
