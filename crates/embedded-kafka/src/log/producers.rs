//! Idempotent producers: what each last wrote to a partition, so that a batch sent twice is stored once.

use std::collections::{HashMap, VecDeque};

use super::batch::{BatchHeader, sequence_plus};

/// Batches remembered per producer: clients keep at most five requests in flight.
const REMEMBERED: usize = 5;
/// Producers remembered per partition; the one silent for longest goes first.
const MAX_PRODUCERS: usize = 4_096;
/// A producer silent for this long is forgotten (`producer.id.expiration.ms`).
const EXPIRY_MS: i64 = 24 * 3600 * 1000;
const MAGIC: &[u8; 8] = b"zlkprd1\n";

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// It is stored already, from this offset on.
    Duplicate {
        base_offset: i64,
    },
    /// A batch before it is missing, or it is older than what is remembered.
    OutOfOrder,
    /// A newer instance of the producer has written already.
    Fenced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    first: i32,
    last: i32,
    base_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    last_seen_ms: i64,
    written: VecDeque<Written>,
}

/// The producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers(HashMap<i64, Producer>);

impl Producers {
    /// Judges a batch that was sent by a client.
    pub(crate) fn check(&self, header: &BatchHeader) -> Verdict {
        if header.producer_id < 0 {
            return Verdict::Append;
        }
        // Unknown producers may start anywhere: their earlier batches may have been forgotten.
        let Some(producer) = self.0.get(&header.producer_id) else {
            return Verdict::Append;
        };
        if header.producer_epoch < producer.epoch {
            return Verdict::Fenced;
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 {
                Verdict::Append
            } else {
                Verdict::OutOfOrder
            };
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        if let Some(same) = producer
            .written
            .iter()
            .find(|w| w.first == first && w.last == last)
        {
            return Verdict::Duplicate {
                base_offset: same.base_offset,
            };
        }
        match producer.written.back() {
            Some(before) if sequence_plus(before.last, 1) != first => Verdict::OutOfOrder,
            _ => Verdict::Append,
        }
    }

    /// Remembers a batch that is in the log.
    pub(crate) fn note(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 {
            return;
        }
        if self.0.len() >= MAX_PRODUCERS && !self.0.contains_key(&header.producer_id) {
            self.make_room(now_ms);
        }
        let producer = self
            .0
            .entry(header.producer_id)
            .or_insert_with(|| Producer {
                epoch: header.producer_epoch,
                last_seen_ms: now_ms,
                written: VecDeque::with_capacity(REMEMBERED),
            });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.written.clear();
        }
        if producer.written.len() == REMEMBERED {
            producer.written.pop_front();
        }
        producer.last_seen_ms = now_ms;
        producer.written.push_back(Written {
            first: header.base_sequence,
            last: header.last_sequence(),
            base_offset: header.base_offset,
        });
    }

    /// Forgets the expired, and if none are, the one silent for longest.
    fn make_room(&mut self, now_ms: i64) {
        self.expire(now_ms);
        if self.0.len() >= MAX_PRODUCERS {
            let oldest = self
                .0
                .iter()
                .min_by_key(|(_, p)| p.last_seen_ms)
                .map(|(id, _)| *id);
            if let Some(id) = oldest {
                self.0.remove(&id);
            }
        }
    }

    pub(crate) fn expire(&mut self, now_ms: i64) {
        self.0
            .retain(|_, p| now_ms.saturating_sub(p.last_seen_ms) < EXPIRY_MS);
    }

    /// The state as bytes, with a checksum.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (id, producer) in &self.0 {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&producer.epoch.to_be_bytes());
            bytes.extend_from_slice(&producer.last_seen_ms.to_be_bytes());
            bytes.push(producer.written.len() as u8);
            for written in &producer.written {
                bytes.extend_from_slice(&written.first.to_be_bytes());
                bytes.extend_from_slice(&written.last.to_be_bytes());
                bytes.extend_from_slice(&written.base_offset.to_be_bytes());
            }
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a snapshot; `None` if it is not whole.
    pub(crate) fn from_snapshot(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC.as_slice())?;
        let mut producers = HashMap::new();
        while !rest.is_empty() {
            let id = i64::from_be_bytes(take(&mut rest)?);
            let epoch = i16::from_be_bytes(take(&mut rest)?);
            let last_seen_ms = i64::from_be_bytes(take(&mut rest)?);
            let [count] = take(&mut rest)?;
            let mut written = VecDeque::with_capacity(REMEMBERED);
            for _ in 0..count {
                written.push_back(Written {
                    first: i32::from_be_bytes(take(&mut rest)?),
                    last: i32::from_be_bytes(take(&mut rest)?),
                    base_offset: i64::from_be_bytes(take(&mut rest)?),
                });
            }
            producers.insert(
                id,
                Producer {
                    epoch,
                    last_seen_ms,
                    written,
                },
            );
        }
        Some(Self(producers))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}
