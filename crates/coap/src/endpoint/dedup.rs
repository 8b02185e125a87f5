//! Which messages were seen, and what they were answered with (RFC 7252 section 4.5).
//!
//! ```text
//! confirmable     [seen][seen][seen] …     in the order they came, which is the order of their deadlines
//! non-confirmable [seen][seen] …
//! table           peer and message id → a place in one of the two
//! ```
//!
//! A place is counted from the first message ever, so it stays valid while others leave in front of it, and tells a
//! message from a later one with the same id. 88 bytes a message, and its reply where that is more than an empty one.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::timers::later;
use crate::message::Type;
use crate::{Config, Peer};

#[derive(Debug)]
pub(super) struct Dedup {
    table: HashTable<Place>,
    hasher: RandomState,
    confirmable: Ring,
    non_confirmable: Ring,
    reply_bytes: usize,
    evicted: u64,
    max_count: usize,
    max_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    confirmable: bool,
    /// The lower half of the number; the upper is that of the ring's first, or one more.
    number: u32,
}

/// Messages of one kind.
#[derive(Debug)]
struct Ring {
    seen: VecDeque<Seen>,
    /// The number of the first in `seen`; the first message ever has 1.
    first: u64,
    lifetime: Duration,
}

#[derive(Debug)]
struct Seen {
    peer: Peer,
    id: u16,
    deadline: Instant,
    reply: Reply,
}

/// What a duplicate is answered with.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nothing for NON, and nothing yet for CON that is being worked on.
    Nothing,
    /// ACK or RST, without code and token.
    Empty(Type),
    /// A whole message.
    Message(Box<[u8]>),
}

impl Reply {
    fn bytes(&self) -> usize {
        match self {
            Reply::Nothing | Reply::Empty(_) => 0,
            Reply::Message(bytes) => bytes.len(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Verdict<'a> {
    New { serial: u64 },
    Duplicate { reply: &'a Reply },
}

impl Dedup {
    pub(super) fn new(config: &Config) -> Dedup {
        let ring = |lifetime| Ring {
            seen: VecDeque::new(),
            first: 1,
            lifetime,
        };
        Dedup {
            table: HashTable::new(),
            hasher: RandomState::new(),
            confirmable: ring(config.exchange_lifetime()),
            non_confirmable: ring(config.non_lifetime()),
            reply_bytes: 0,
            evicted: 0,
            // Two at least, so that what gives way to a message is another one; far fewer than there are numbers in a place.
            max_count: config.max_dedup.clamp(2, 1 << 30),
            max_bytes: config.max_dedup_bytes,
        }
    }

    pub(super) fn check(
        &mut self,
        now: Instant,
        peer: Peer,
        id: u16,
        confirmable: bool,
    ) -> Verdict<'_> {
        self.expire(now);
        // Before it grows: one more than its room doubles what a ring takes.
        if self.table.len() >= self.max_count {
            self.evict();
        }
        let hash = self.hash(peer, id);
        let (table, hasher) = (&mut self.table, &self.hasher);
        let (con, non) = (&mut self.confirmable, &mut self.non_confirmable);
        let found = table.entry(
            hash,
            |place| seen_at(con, non, *place).is_some_and(|seen| seen.is(peer, id)),
            |place| {
                seen_at(con, non, *place).map_or(0, |seen| hasher.hash_one((seen.peer, seen.id)))
            },
        );
        let vacant = match found {
            Entry::Occupied(known) => {
                let place = *known.get();
                let reply = seen_at(&self.confirmable, &self.non_confirmable, place)
                    .map_or(&Reply::Nothing, |seen| &seen.reply);
                return Verdict::Duplicate { reply };
            }
            Entry::Vacant(vacant) => vacant,
        };
        let ring = if confirmable { con } else { non };
        let serial = ring.first + ring.seen.len() as u64;
        vacant.insert(Place {
            confirmable,
            number: serial as u32,
        });
        ring.seen.push_back(Seen {
            peer,
            id,
            deadline: later(now, ring.lifetime),
            reply: Reply::Nothing,
        });
        Verdict::New { serial }
    }

    /// Keeps the answer to a message; it takes the place of an earlier one.
    pub(super) fn set_reply(&mut self, peer: Peer, id: u16, reply: Reply) {
        let Some(place) = self.place(peer, id) else {
            return;
        };
        let Some(seen) = self.ring(place.confirmable).at(place.number) else {
            return;
        };
        let (new, old) = (reply.bytes(), seen.reply.bytes());
        seen.reply = reply;
        self.reply_bytes = self.reply_bytes + new - old;
        while self.reply_bytes > self.max_bytes && !self.table.is_empty() {
            self.evict();
        }
    }

    /// Keeps an empty acknowledgement as the answer to a confirmable message that has none; `false` if it has one, or
    /// is forgotten.
    pub(super) fn acknowledge(&mut self, serial: u64) -> bool {
        let Some(at) = serial.checked_sub(self.confirmable.first) else {
            return false;
        };
        match self.confirmable.seen.get_mut(at as usize) {
            Some(Seen {
                reply: reply @ Reply::Nothing,
                ..
            }) => {
                *reply = Reply::Empty(Type::Acknowledgement);
                true
            }
            _ => false,
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for confirmable in [true, false] {
            while self
                .ring(confirmable)
                .seen
                .front()
                .is_some_and(|seen| seen.deadline <= now)
            {
                self.pop(confirmable);
            }
        }
    }

    /// Gives back memory that a busier time took.
    pub(super) fn tidy(&mut self) {
        for ring in [&mut self.confirmable, &mut self.non_confirmable] {
            if ring.seen.len() < ring.seen.capacity() / 4 {
                ring.seen.shrink_to(ring.seen.len() * 2);
            }
        }
        if self.table.len() < self.table.capacity() / 4 {
            let (con, non, hasher) = (&self.confirmable, &self.non_confirmable, &self.hasher);
            self.table.shrink_to(self.table.len() * 2, |place| {
                seen_at(con, non, *place).map_or(0, |seen| hasher.hash_one((seen.peer, seen.id)))
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The kind there is more of gives way, so that a flood of NON does not push the CON out.
    fn evict(&mut self) {
        let confirmable = self.confirmable.seen.len() >= self.non_confirmable.seen.len();
        self.pop(confirmable);
        self.evicted += 1;
    }

    fn pop(&mut self, confirmable: bool) {
        let ring = self.ring(confirmable);
        let Some(seen) = ring.seen.pop_front() else {
            return;
        };
        let place = Place {
            confirmable,
            number: ring.first as u32,
        };
        ring.first += 1;
        self.reply_bytes -= seen.reply.bytes();
        let hash = self.hash(seen.peer, seen.id);
        if let Ok(entry) = self.table.find_entry(hash, |it| *it == place) {
            entry.remove();
        }
    }

    fn place(&self, peer: Peer, id: u16) -> Option<Place> {
        let is_it = |place: &Place| {
            seen_at(&self.confirmable, &self.non_confirmable, *place)
                .is_some_and(|seen| seen.is(peer, id))
        };
        self.table.find(self.hash(peer, id), is_it).copied()
    }

    fn ring(&mut self, confirmable: bool) -> &mut Ring {
        if confirmable {
            &mut self.confirmable
        } else {
            &mut self.non_confirmable
        }
    }

    fn hash(&self, peer: Peer, id: u16) -> u64 {
        self.hasher.hash_one((peer, id))
    }
}

fn seen_at<'a>(con: &'a Ring, non: &'a Ring, place: Place) -> Option<&'a Seen> {
    let ring = if place.confirmable { con } else { non };
    ring.seen.get(ring.index(place.number))
}

impl Ring {
    /// Where in the queue the message of this number is: never 2^32 of them are there at once.
    fn index(&self, number: u32) -> usize {
        number.wrapping_sub(self.first as u32) as usize
    }

    fn at(&mut self, number: u32) -> Option<&mut Seen> {
        let index = self.index(number);
        self.seen.get_mut(index)
    }
}

impl Seen {
    fn is(&self, peer: Peer, id: u16) -> bool {
        self.id == id && self.peer == peer
    }
}
