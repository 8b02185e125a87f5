//! Block options, and the bodies that are on their way in blocks (RFC 7959).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Peer;

/// A block size as the exponent of the option: 16 << 0 ..= 16 << 6 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Szx(u8);

impl Szx {
    /// The largest block that is not larger than `size`; 16 bytes at least.
    pub(crate) fn fitting(size: u16) -> Szx {
        Szx((0..=6).rev().find(|szx| size >= 16 << szx).unwrap_or(0))
    }

    pub(crate) fn size(self) -> usize {
        16 << self.0
    }
}

/// The value of a Block1 or Block2 option (section 2.2):
///
/// ```text
///  0 .. 20 bits NUM | M | 3 bits SZX
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) num: u32,
    pub(crate) more: bool,
    pub(crate) szx: Szx,
}

/// NUM has 20 bits.
const MAX_NUM: usize = (1 << 20) - 1;

impl Block {
    /// Whether the value has the reserved SZX 7.
    pub(crate) fn is_reserved(value: &[u8]) -> bool {
        crate::message::uint(value, 3).is_some_and(|value| value & 7 == 7)
    }

    /// `None` for more than three bytes and for the reserved SZX 7.
    pub(crate) fn decode(value: &[u8]) -> Option<Block> {
        let value = crate::message::uint(value, 3)?;
        let szx = (value & 7) as u8;
        (szx < 7).then_some(Block {
            num: value >> 4,
            more: value & 8 != 0,
            szx: Szx(szx),
        })
    }

    pub(crate) fn encode(self) -> u32 {
        self.num << 4 | u32::from(self.more) << 3 | u32::from(self.szx.0)
    }

    pub(crate) fn offset(self) -> usize {
        self.num as usize * self.szx.size()
    }

    /// The block of a body of `len` bytes that starts at `offset`, a multiple of the block size.
    pub(crate) fn at(offset: usize, len: usize, szx: Szx) -> Block {
        let num = (offset / szx.size()).min(MAX_NUM) as u32;
        Block {
            num,
            more: offset + szx.size() < len,
            szx,
        }
    }

    /// Its bytes of a body: empty behind the end.
    pub(crate) fn range(self, len: usize) -> std::ops::Range<usize> {
        let start = self.offset().min(len);
        start..(start + self.szx.size()).min(len)
    }
}

/// The largest body that blocks of any size can number.
pub(crate) const LARGEST_BODY: usize = (MAX_NUM + 1) * 16;

/// Whose body, and of which resource: the options that make the cache key of RFC 7252 section 5.6, as bytes.
pub(crate) type BodyKey = (Peer, Arc<[u8]>);

/// Bodies in the making or being handed out: bounded in number, bytes and time, the one untouched for longest gives way.
#[derive(Debug)]
pub(crate) struct Bodies<V> {
    entries: HashMap<BodyKey, Entry<V>>,
    by_deadline: BTreeMap<(Instant, u64), BodyKey>,
    bytes: usize,
    serial: u64,
    max_count: usize,
    max_bytes: usize,
    lifetime: Duration,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    deadline: (Instant, u64),
}

impl<V> Bodies<V> {
    pub(crate) fn new(max_count: usize, max_bytes: usize, lifetime: Duration) -> Bodies<V> {
        Bodies {
            entries: HashMap::new(),
            by_deadline: BTreeMap::new(),
            bytes: 0,
            serial: 0,
            max_count: max_count.max(1),
            max_bytes,
            lifetime,
        }
    }

    pub(crate) fn get(&self, key: &BodyKey) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn remove(&mut self, key: &BodyKey) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.by_deadline.remove(&entry.deadline);
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Puts a body in, in place of the one under the same key. Returns how many others had to give way.
    pub(crate) fn insert(&mut self, now: Instant, key: BodyKey, value: V, bytes: usize) -> u64 {
        self.remove(&key);
        let mut evicted = 0;
        while self.entries.len() >= self.max_count || self.bytes + bytes > self.max_bytes {
            let Some((_, oldest)) = self.by_deadline.first_key_value() else {
                break;
            };
            let oldest = oldest.clone();
            self.remove(&oldest);
            evicted += 1;
        }
        self.serial += 1;
        let deadline = (now + self.lifetime, self.serial);
        self.by_deadline.insert(deadline, key.clone());
        self.entries.insert(
            key,
            Entry {
                value,
                bytes,
                deadline,
            },
        );
        self.bytes += bytes;
        evicted
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((&(deadline, _), key)) = self.by_deadline.first_key_value()
            && deadline <= now
        {
            let key = key.clone();
            self.remove(&key);
        }
    }
}
