//! Record batches of message format 2, looked at from outside: header and checksum, never the records' contents.
//!
//! ```text
//!  0 base offset i64 | 8 batch length i32 | 12 leader epoch i32 | 16 magic i8 | 17 crc u32
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records …
//! ```
//! "batch length" counts from byte 12; the CRC-32C covers byte 21 to the end, so the broker may set offset and
//! leader epoch without touching it.

use thiserror::Error;

/// Bytes before the first record.
pub(crate) const HEADER_LEN: usize = 61;
/// Bytes before those that "batch length" counts.
pub(crate) const PREFIX_LEN: usize = 12;
const CRC_FROM: usize = 21;

const TIMESTAMP_TYPE: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const COMPRESSION: i16 = 0x07;

/// Why bytes are not a record batch this broker takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BatchError {
    #[error("a record batch is cut short: {have} of {need} bytes")]
    Truncated { have: usize, need: usize },
    #[error("a record batch claims a length of {0} bytes")]
    Length(i32),
    #[error(
        "message format {0} is not supported: this broker stores format 2 only (clients since Kafka 0.11)"
    )]
    OldFormat(i8),
    #[error("a record batch fails its CRC-32C: it says {said:08x}, its bytes give {found:08x}")]
    Crc { said: u32, found: u32 },
    #[error("a record batch claims {count} records and a last offset delta of {delta}")]
    Count { count: i32, delta: i32 },
    #[error("a produce request must carry exactly one record batch per partition")]
    SeveralBatches,
    #[error("a client may not write control batches")]
    Control,
    #[error("transactions are not supported by this single-node broker: use Apache Kafka for them")]
    Transactional,
    #[error("compression type {0} is unknown")]
    Compression(i16),
    #[error("a record batch of {size} bytes is larger than max.message.bytes, {max}")]
    TooLarge { size: usize, max: usize },
    #[error("a record batch with a producer id must have an epoch and a sequence number")]
    Sequence,
}

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    pub(crate) batch_length: i32,
    pub(crate) magic: i8,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; the rest of the batch need not be there.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // Formats 0 and 1 are told from 2 by the same byte 16, and are shorter.
        if bytes.len() > 16 && bytes[16] != 2 {
            return Err(BatchError::OldFormat(bytes[16] as i8));
        }
        if bytes.len() < HEADER_LEN {
            return Err(BatchError::Truncated {
                have: bytes.len(),
                need: HEADER_LEN,
            });
        }
        let header = Self {
            base_offset: i64_at(bytes, 0),
            batch_length: i32_at(bytes, 8),
            magic: bytes[16] as i8,
            crc: i32_at(bytes, 17) as u32,
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            record_count: i32_at(bytes, 57),
        };
        if (header.batch_length as i64) < (HEADER_LEN - PREFIX_LEN) as i64 {
            return Err(BatchError::Length(header.batch_length));
        }
        if header.last_offset_delta < 0 {
            return Err(BatchError::Count {
                count: header.record_count,
                delta: header.last_offset_delta,
            });
        }
        Ok(header)
    }

    /// Bytes of the whole batch.
    pub(crate) fn total_len(&self) -> usize {
        PREFIX_LEN + self.batch_length as usize
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// The sequence number of the last record, which wraps at `i32::MAX`.
    pub(crate) fn last_sequence(&self) -> i32 {
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }

    pub(crate) fn compression(&self) -> i16 {
        self.attributes & COMPRESSION
    }

    pub(crate) fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE != 0
    }
}

/// Sequence numbers count from 0 to `i32::MAX` and start over.
pub(crate) fn sequence_plus(sequence: i32, delta: i32) -> i32 {
    ((i64::from(sequence) + i64::from(delta)) % (i64::from(i32::MAX) + 1)) as i32
}

/// Checks one whole batch's bytes against its checksum.
pub(crate) fn check_crc(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    let found = crc32c::crc32c(batch.get(CRC_FROM..).unwrap_or_default());
    if found == header.crc {
        Ok(())
    } else {
        Err(BatchError::Crc {
            said: header.crc,
            found,
        })
    }
}

/// Checks what a producer sent for one partition.
pub(crate) fn check_produced(bytes: &[u8], max: usize) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let len = header.total_len();
    if len > bytes.len() {
        return Err(BatchError::Truncated {
            have: bytes.len(),
            need: len,
        });
    }
    if len < bytes.len() {
        return Err(BatchError::SeveralBatches);
    }
    if len > max {
        return Err(BatchError::TooLarge { size: len, max });
    }
    check_crc(&header, bytes)?;
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::Count {
            count: header.record_count,
            delta: header.last_offset_delta,
        });
    }
    if header.attributes & CONTROL != 0 {
        return Err(BatchError::Control);
    }
    if header.attributes & TRANSACTIONAL != 0 {
        return Err(BatchError::Transactional);
    }
    if header.compression() > 4 {
        return Err(BatchError::Compression(header.compression()));
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return Err(BatchError::Sequence);
    }
    Ok(header)
}

/// Gives a batch its place in the log: the offset, and leader epoch 0 (one node never has another).
pub(crate) fn set_offset(batch: &mut [u8], base_offset: i64) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&0i32.to_be_bytes());
}

/// Stamps a batch with the time of its arrival (`message.timestamp.type=LogAppendTime`), which its checksum covers.
pub(crate) fn set_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes = i16_at(batch, 21) | TIMESTAMP_TYPE;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now_ms.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The bytes of the whole batches at the start of `bytes`, and the offset after them.
pub(crate) fn whole_batches(bytes: &[u8]) -> (usize, Option<i64>) {
    let (mut end, mut next) = (0, None);
    while let Ok(header) = BatchHeader::parse(&bytes[end..]) {
        if header.total_len() > bytes.len() - end {
            break;
        }
        end += header.total_len();
        next = Some(header.next_offset());
    }
    (end, next)
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    i64::from_be_bytes(eight)
}

/// The first record of a batch whose timestamp is at least `timestamp`, as offset and timestamp.
///
/// A compressed batch is not opened (its records' sizes are the sender's word): its first record stands for all, so the
/// answer may be earlier than the exact record, never later.
pub(crate) fn record_at_or_after(
    header: &BatchHeader,
    batch: &[u8],
    timestamp: i64,
) -> Option<(i64, i64)> {
    if header.max_timestamp < timestamp {
        return None;
    }
    if header.is_log_append_time() {
        return Some((header.base_offset, header.max_timestamp));
    }
    if header.compression() != 0 {
        return Some((header.base_offset, header.base_timestamp));
    }
    let mut rest = batch.get(HEADER_LEN..)?;
    for _ in 0..header.record_count {
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let (mut record, after) = rest.split_at_checked(length)?;
        rest = after;
        record = record.get(1..)?;
        let time = header.base_timestamp.saturating_add(varint(&mut record)?);
        let offset = header.base_offset.saturating_add(varint(&mut record)?);
        if time >= timestamp {
            return Some((offset, time));
        }
    }
    None
}

/// A zigzag-encoded number of up to ten bytes.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}
