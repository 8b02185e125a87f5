//! Memory for what lives for one turn only: payloads on their way to the caller, acknowledgements on their way out.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// One allocation that is cut into pieces, and used anew once all of them are dropped: so a notification and its
/// acknowledgement take nothing from the heap, as long as the caller drops both before the next turn's datagrams.
pub(crate) struct Scratch(BytesMut);

/// Some hundred small payloads, and a thousand acknowledgements.
const BYTES: usize = 32 << 10;
/// A longer piece gets an allocation of its own, that goes with it.
const LONGEST_PIECE: usize = 1_024;

impl Scratch {
    pub(crate) fn new() -> Scratch {
        // Allocated with the first piece.
        Scratch(BytesMut::new())
    }

    /// A copy of these bytes.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > LONGEST_PIECE {
            return Bytes::copy_from_slice(bytes);
        }
        if self.0.capacity() < bytes.len() && !self.0.try_reclaim(BYTES) {
            self.0 = BytesMut::with_capacity(BYTES);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }

    /// Uses the memory from its beginning again if no piece is left and half of it is gone. To be called when a turn
    /// begins.
    pub(crate) fn renew(&mut self) {
        if self.0.capacity() < BYTES / 2 {
            // Not now, if the caller still holds a piece.
            let _ = self.0.try_reclaim(BYTES);
        }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}
