//! The record layer (RFC 6347 section 4.1): headers, and what has been received already.
//!
//! ```text
//! type 1 | version 2 | epoch 2 | sequence number 6 | length 2 | fragment
//! ```

use std::fmt;

/// A record's header.
pub(crate) const HEADER: usize = 13;
/// DTLS 1.2.
pub(crate) const VERSION: [u8; 2] = [0xfe, 0xfd];
/// The last sequence number of an epoch.
pub(crate) const LAST_SEQUENCE: u64 = (1 << 48) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    ChangeCipherSpec = 20,
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

impl ContentType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            20 => Self::ChangeCipherSpec,
            21 => Self::Alert,
            22 => Self::Handshake,
            23 => Self::ApplicationData,
            _ => return None,
        })
    }
}

/// A record as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: ContentType,
    pub(crate) version: [u8; 2],
    pub(crate) epoch: u16,
    pub(crate) sequence: u64,
    pub(crate) fragment: &'a [u8],
}

/// The records of a datagram. What is none ends it: nothing says where the next one would begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (header, rest) = self.0.split_first_chunk::<HEADER>()?;
        let [kind, major, minor, e0, e1, s0, s1, s2, s3, s4, s5, l0, l1] = *header;
        let kind = ContentType::from_byte(kind)?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        // Every version of DTLS 1 has this first byte, 1.0 in what comes before a version is agreed.
        if major != VERSION[0] || len > rest.len() {
            return None;
        }
        let (fragment, rest) = rest.split_at(len);
        self.0 = rest;
        Some(Record {
            kind,
            version: [major, minor],
            epoch: u16::from_be_bytes([e0, e1]),
            sequence: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
            fragment,
        })
    }
}

/// Epoch and sequence number in eight bytes, as records and their authentication have it.
pub(crate) fn numbered(epoch: u16, sequence: u64) -> [u8; 8] {
    (u64::from(epoch) << 48 | sequence & LAST_SEQUENCE).to_be_bytes()
}

/// Appends a record without protection.
pub(crate) fn put_plain(
    out: &mut Vec<u8>,
    kind: ContentType,
    version: [u8; 2],
    sequence: u64,
    fragment: &[u8],
) {
    out.push(kind as u8);
    out.extend_from_slice(&version);
    out.extend_from_slice(&numbered(0, sequence));
    crate::wire::put_vec16(out, fragment);
}

/// Which of the last 64 records have come (RFC 6347 section 4.1.2.6).
#[derive(Clone, Copy, Default)]
pub(crate) struct Window {
    /// One more than the highest number seen.
    next: u64,
    /// Bit n: number `next - 1 - n` has come.
    seen: u64,
}

impl Window {
    /// Whether a record of this number may be new. Says nothing of its authenticity.
    pub(crate) fn may_be_new(&self, sequence: u64) -> bool {
        if sequence >= self.next {
            return true;
        }
        let back = self.next - 1 - sequence;
        back < 64 && self.seen & 1 << back == 0
    }

    /// A record of this number has come, and is authentic.
    pub(crate) fn mark(&mut self, sequence: u64) {
        if sequence >= self.next {
            let forward = sequence - self.next + 1;
            self.seen = if forward < 64 {
                self.seen << forward
            } else {
                0
            } | 1;
            self.next = sequence + 1;
        } else {
            let back = self.next - 1 - sequence;
            if back < 64 {
                self.seen |= 1 << back;
            }
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({} {:064b})", self.next, self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    proptest! {
        /// Against a set of all numbers seen: what the window takes is never taken twice, and what is new and not
        /// too old is taken.
        #[test]
        fn a_window_takes_each_number_once(numbers in prop::collection::vec(0_u64..300, 1..400)) {
            let (mut window, mut seen, mut highest) = (Window::default(), BTreeSet::new(), 0);
            for number in numbers {
                let new = window.may_be_new(number);
                if seen.contains(&number) {
                    prop_assert!(!new, "{number} taken twice");
                } else if number + 64 > highest {
                    prop_assert!(new, "{number} not taken, highest {highest}");
                }
                if new {
                    window.mark(number);
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }

    #[test]
    fn the_last_number_does_not_overflow() {
        let mut window = Window::default();
        window.mark(LAST_SEQUENCE);
        assert!(!window.may_be_new(LAST_SEQUENCE) && !window.may_be_new(0));
        assert!(window.may_be_new(LAST_SEQUENCE - 63));
    }
}
