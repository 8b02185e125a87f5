//! The key of a time-windowed record, as Kafka Streams' time-windowed serializer writes it (contract, section 8).
//!
//! ```text
//! +-------------------------------+-----------------------------------------+
//! | the key as it stands in Kafka | window start, Unix ms, 8 bytes, big end |
//! +-------------------------------+-----------------------------------------+
//! ```
//! The window's size is not in it: the reader has to know it.

use thiserror::Error;

const START_LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WindowedKeyError {
    #[error(
        "a key of {len} bytes is too short for a window's start: the topic's keys are not time-windowed"
    )]
    TooShort { len: usize },
}

/// The key of the window that starts at `start_ms`. `key` is the inner key with the registry's header, if it has one.
pub fn encode(key: &[u8], start_ms: i64) -> Vec<u8> {
    let mut windowed = Vec::with_capacity(key.len() + START_LEN);
    windowed.extend_from_slice(key);
    windowed.extend_from_slice(&start_ms.to_be_bytes());
    windowed
}

/// Takes a windowed key apart into the inner key and the window's start in Unix milliseconds.
pub fn decode(windowed: &[u8]) -> Result<(&[u8], i64), WindowedKeyError> {
    windowed
        .split_last_chunk::<START_LEN>()
        .map(|(key, start)| (key, i64::from_be_bytes(*start)))
        .ok_or(WindowedKeyError::TooShort {
            len: windowed.len(),
        })
}
