//! Registrations and observations as rows: MessagePack, fields in their order without their names.
//!
//! A field that is added at a struct's end with a default reads rows that were written before it. Rows of format 1 are
//! JSON, and start with a brace, which no MessagePack array of that many fields does.

use lwm2m::{Observation, Registration};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

pub(super) fn write<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec(value).map_err(|error| unreadable(what, error.to_string()))
}

pub(super) fn registration(row: &[u8]) -> Result<Registration, StoreError> {
    read("registration", row)
}

pub(super) fn observation(row: &[u8]) -> Result<Observation, StoreError> {
    read("observation", row)
}

fn read<T: DeserializeOwned>(what: &'static str, row: &[u8]) -> Result<T, StoreError> {
    if row.first() == Some(&b'{') {
        return serde_json::from_slice(row).map_err(|error| unreadable(what, error.to_string()));
    }
    rmp_serde::from_slice(row).map_err(|error| unreadable(what, error.to_string()))
}

fn unreadable(what: &'static str, reason: String) -> StoreError {
    StoreError::Row { what, reason }
}
