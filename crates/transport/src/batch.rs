//! Datagrams that were received together.

use std::fmt;
use std::net::SocketAddr;

use coap::Peer;

/// The largest datagram there is: no peer can have one cut short here.
const MAX_DATAGRAM: usize = 65_535;

/// The datagrams of one wake-up, in one buffer that is used again and again.
///
/// Bounds: as many datagrams as asked for (64 by default), and as many bytes as fit the buffer of 256 KiB; at least one either way.
pub struct Batch {
    buffer: Box<[u8]>,
    used: usize,
    datagrams: Vec<(Peer, std::ops::Range<usize>)>,
    max_datagrams: usize,
}

impl Batch {
    /// A batch for at most so many datagrams; 0 counts as 1.
    pub fn new(max_datagrams: usize) -> Batch {
        let max_datagrams = max_datagrams.max(1);
        Batch {
            buffer: vec![0; 256 << 10].into(),
            used: 0,
            datagrams: Vec::with_capacity(max_datagrams.min(1024)),
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

    /// Its datagrams in the order of their arrival, and who sent them.
    pub fn iter(&self) -> impl Iterator<Item = (Peer, &[u8])> {
        self.into_iter()
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.datagrams.clear();
    }

    /// Room for a datagram of any size; `None` if the batch is full.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        let free = self.buffer.get_mut(self.used..)?;
        (self.datagrams.len() < self.max_datagrams && free.len() >= MAX_DATAGRAM).then_some(free)
    }

    /// Keeps the datagram that was put into the first bytes of `room`.
    pub(crate) fn push(&mut self, from: SocketAddr, len: usize) {
        let range = self.used..self.used + len;
        self.used = range.end;
        self.datagrams.push((Peer::plain(from), range));
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
            .field("bytes", &self.used)
            .finish()
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
