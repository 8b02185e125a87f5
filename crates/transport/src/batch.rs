//! Datagrams that were received together.

use std::fmt;
use std::net::SocketAddr;

use coap::Peer;

/// The largest datagram there is: no peer can have one cut short here.
const MAX_DATAGRAM: usize = 65_535;

/// From one slot to the next. Not a power of two: the beginnings of all slots would share one set of the processor's
/// caches.
const STRIDE: usize = MAX_DATAGRAM + 1 + 5 * 64;

/// The most datagrams that one call to the system takes.
pub(crate) const MAX_AT_ONCE: usize = 64;

/// The datagrams of one wake-up, in one buffer that is used again and again.
///
/// Bounds: as many datagrams as asked for, 64 by default and at most. Each has a slot of 64 KiB of address space; memory
/// is taken by what was received only, so some hundred KiB of small datagrams.
pub struct Batch {
    buffer: Box<[u8]>,
    datagrams: Vec<(Peer, std::ops::Range<usize>)>,
    max_datagrams: usize,
}

impl Batch {
    /// A batch for at most so many datagrams; 0 counts as 1, more than 64 as 64.
    pub fn new(max_datagrams: usize) -> Batch {
        let max_datagrams = max_datagrams.clamp(1, MAX_AT_ONCE);
        Batch {
            // Zeroes from the system: no page is there before it is written to.
            buffer: vec![0; max_datagrams * STRIDE].into(),
            datagrams: Vec::with_capacity(max_datagrams),
            max_datagrams,
        }
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Does it hold none?
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Does it hold as many as it can? Then more may be ready.
    pub fn is_full(&self) -> bool {
        self.datagrams.len() >= self.max_datagrams
    }

    /// Its datagrams in the order of their arrival, and who sent them.
    pub fn iter(&self) -> impl Iterator<Item = (Peer, &[u8])> {
        self.into_iter()
    }

    /// Forgets its datagrams.
    pub fn clear(&mut self) {
        self.datagrams.clear();
    }

    /// Its slots, of an empty batch: room for a datagram of any size each.
    pub(crate) fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buffer
            .chunks_exact_mut(STRIDE)
            .take(self.max_datagrams)
    }

    /// Keeps the datagram that was put into the first bytes of the next slot.
    pub(crate) fn push(&mut self, from: SocketAddr, len: usize) {
        let start = self.datagrams.len() * STRIDE;
        self.datagrams
            .push((Peer::plain(from), start..start + len.min(STRIDE)));
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new(64)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("datagrams", &self.datagrams.len())
            .finish_non_exhaustive()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = (Peer, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter {
            buffer: &self.buffer,
            datagrams: self.datagrams.iter(),
        }
    }
}

/// Walks a [`Batch`].
#[derive(Debug)]
pub struct Iter<'a> {
    buffer: &'a [u8],
    datagrams: std::slice::Iter<'a, (Peer, std::ops::Range<usize>)>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Peer, &'a [u8]);

    fn next(&mut self) -> Option<(Peer, &'a [u8])> {
        let (peer, range) = self.datagrams.next()?;
        Some((*peer, &self.buffer[range.clone()]))
    }
}
