//! The registry's 5-byte header before a datum (contract, section 2).
//!
//! ```text
//!  0    1    2    3    4    5 …
//! +----+----+----+----+----+--------------+
//! | 00 | schema id, big end | Avro binary  |
//! +----+----+----+----+----+--------------+
//! ```

use std::fmt;

use thiserror::Error;

/// The header's length, in bytes.
pub const HEADER_LEN: usize = 5;

const MAGIC: u8 = 0;

/// A schema's number in one registry; another registry's numbers mean other schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error(
        "not a registry's record: it does not start with the magic byte 0 (was it produced as plain text or JSON?)"
    )]
    NotFramed,
    #[error("a record of {len} bytes has no room for the registry's header of {HEADER_LEN}")]
    TooShort { len: usize },
}

/// Takes a key or value apart into the schema's id and the datum.
pub fn split(framed: &[u8]) -> Result<(SchemaId, &[u8]), FrameError> {
    match framed {
        [MAGIC, a, b, c, d, datum @ ..] => {
            Ok((SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), datum))
        }
        [MAGIC, ..] => Err(FrameError::TooShort { len: framed.len() }),
        _ => Err(FrameError::NotFramed),
    }
}

/// The schema's id alone.
pub fn schema_id(framed: &[u8]) -> Result<SchemaId, FrameError> {
    split(framed).map(|(id, _)| id)
}

/// Puts the header before a datum.
pub fn join(id: SchemaId, datum: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER_LEN + datum.len());
    framed.extend_from_slice(&header(id));
    framed.extend_from_slice(datum);
    framed
}

/// The header alone, to be overwritten in place where a copy is to be saved.
pub fn header(id: SchemaId) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = id.0.to_be_bytes();
    [MAGIC, a, b, c, d]
}
