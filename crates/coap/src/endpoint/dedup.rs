//! Which messages were seen, and what they were answered with (RFC 7252 section 4.5).
//!
//! ```text
//! confirmable     [seen][seen][seen] …     in the order they came, which is the order of their deadlines
//! non-confirmable [seen][seen] …
//! table           hash of peer and message id → a place in one of the two
//! messages        a place → the reply, where it is more than an empty one
//! ```
//!
//! A place is counted from the first message ever, so it stays valid while others leave in front of it, and tells a
//! message from a later one with the same id.
//!
//! A message is known by 64 bits of a keyed hash of its peer and id: 16 bytes a message, and 6 to 12 of the table. That a
//! new message is taken for one of 200,000 others happens once in 10^14 messages; nobody can aim at it without the key.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::message::Type;
use crate::{Config, Peer};

#[derive(Debug)]
pub(super) struct Dedup {
    table: HashTable<Place>,
    hasher: RandomState,
    confirmable: Ring,
    non_confirmable: Ring,
    messages: HashMap<Place, Box<[u8]>>,
    reply_bytes: usize,
    evicted: u64,
    max_count: usize,
    max_bytes: usize,
    /// When the first message came: what ticks are counted from.
    start: Option<Instant>,
}

/// The lowest bit says in which ring; above it the lower part of the number, whose upper part is that of the ring's
/// first, or one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place(u32);

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
    hash: u64,
    deadline: Tick,
    answer: Answer,
}

/// What of the reply is kept beside the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Nothing,
    Acknowledgement,
    Reset,
    /// It is in `messages`.
    Message,
}

/// What a duplicate is answered with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply<'a> {
    /// Nothing for NON, and nothing yet for CON that is being worked on.
    Nothing,
    /// ACK or RST, without code and token.
    Empty(Type),
    /// A whole message.
    Message(&'a [u8]),
}

#[derive(Debug)]
pub(super) enum Verdict<'a> {
    New { serial: u64 },
    Duplicate { reply: Reply<'a> },
}

/// A time, in steps of 4 ms since the first message. It wraps around after 198 days, so it is compared by distance:
/// nothing stays that long, as lifetimes are minutes and what has outlived its own is looked for every few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tick(u32);

impl Tick {
    const MS: u128 = 4;

    /// The last step that is over at this time.
    fn over(start: Instant, at: Instant) -> Tick {
        Tick((at.saturating_duration_since(start).as_millis() / Self::MS) as u32)
    }

    /// So much later, and not a moment earlier.
    fn later(self, by: Duration) -> Tick {
        let steps = (by.as_micros().div_ceil(1_000 * Self::MS) + 1).min(i32::MAX as u128);
        Tick(self.0.wrapping_add(steps as u32))
    }

    fn is_over(self, now: Tick) -> bool {
        now.0.wrapping_sub(self.0) <= i32::MAX as u32
    }
}

impl Place {
    fn new(confirmable: bool, number: u64) -> Place {
        Place((number as u32) << 1 | u32::from(confirmable))
    }

    fn is_confirmable(self) -> bool {
        self.0 & 1 == 1
    }
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
            messages: HashMap::new(),
            reply_bytes: 0,
            evicted: 0,
            // Two at least, so that what gives way to a message is another one; far fewer than there are numbers in a place.
            max_count: config.max_dedup.clamp(2, 1 << 30),
            max_bytes: config.max_dedup_bytes,
            start: None,
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
        let start = *self.start.get_or_insert(now);
        let hash = self.hash(peer, id);
        let (con, non) = (&mut self.confirmable, &mut self.non_confirmable);
        let found = self.table.entry(
            hash,
            |place| seen_at(con, non, *place).is_some_and(|seen| seen.hash == hash),
            |place| seen_at(con, non, *place).map_or(0, |seen| seen.hash),
        );
        let vacant = match found {
            Entry::Occupied(known) => {
                let place = *known.get();
                return Verdict::Duplicate {
                    reply: self.reply_at(place),
                };
            }
            Entry::Vacant(vacant) => vacant,
        };
        let ring = if confirmable { con } else { non };
        let serial = ring.first + ring.seen.len() as u64;
        vacant.insert(Place::new(confirmable, serial));
        ring.seen.push_back(Seen {
            hash,
            deadline: Tick::over(start, now).later(ring.lifetime),
            answer: Answer::Nothing,
        });
        Verdict::New { serial }
    }

    /// Keeps the answer to a message; it takes the place of an earlier one.
    pub(super) fn set_reply(&mut self, peer: Peer, id: u16, reply: Reply<'_>) {
        let Some(place) = self.place(peer, id) else {
            return;
        };
        let Some(seen) = self.ring(place.is_confirmable()).at(place) else {
            return;
        };
        let before = seen.answer;
        seen.answer = match reply {
            Reply::Nothing => Answer::Nothing,
            Reply::Empty(Type::Reset) => Answer::Reset,
            Reply::Empty(_) => Answer::Acknowledgement,
            Reply::Message(_) => Answer::Message,
        };
        if before == Answer::Message {
            self.drop_message(place);
        }
        if let Reply::Message(bytes) = reply {
            self.messages.insert(place, bytes.into());
            self.reply_bytes += bytes.len();
        }
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
                answer: answer @ Answer::Nothing,
                ..
            }) => {
                *answer = Answer::Acknowledgement;
                true
            }
            _ => false,
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let Some(start) = self.start else {
            return;
        };
        let now = Tick::over(start, now);
        for confirmable in [true, false] {
            while self
                .ring(confirmable)
                .seen
                .front()
                .is_some_and(|seen| seen.deadline.is_over(now))
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
            let (con, non) = (&self.confirmable, &self.non_confirmable);
            self.table.shrink_to(self.table.len() * 2, |place| {
                seen_at(con, non, *place).map_or(0, |seen| seen.hash)
            });
        }
        if self.messages.len() < self.messages.capacity() / 4 {
            self.messages.shrink_to(self.messages.len() * 2);
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
        let place = Place::new(confirmable, ring.first);
        ring.first += 1;
        if let Ok(entry) = self.table.find_entry(seen.hash, |it| *it == place) {
            entry.remove();
        }
        if seen.answer == Answer::Message {
            self.drop_message(place);
        }
    }

    fn drop_message(&mut self, place: Place) {
        if let Some(bytes) = self.messages.remove(&place) {
            self.reply_bytes -= bytes.len();
        }
    }

    fn reply_at(&self, place: Place) -> Reply<'_> {
        let seen = seen_at(&self.confirmable, &self.non_confirmable, place);
        match seen.map_or(Answer::Nothing, |seen| seen.answer) {
            Answer::Nothing => Reply::Nothing,
            Answer::Acknowledgement => Reply::Empty(Type::Acknowledgement),
            Answer::Reset => Reply::Empty(Type::Reset),
            Answer::Message => match self.messages.get(&place) {
                Some(bytes) => Reply::Message(bytes),
                None => Reply::Nothing,
            },
        }
    }

    fn place(&self, peer: Peer, id: u16) -> Option<Place> {
        let hash = self.hash(peer, id);
        let is_it = |place: &Place| {
            seen_at(&self.confirmable, &self.non_confirmable, *place)
                .is_some_and(|seen| seen.hash == hash)
        };
        self.table.find(hash, is_it).copied()
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
    let ring = if place.is_confirmable() { con } else { non };
    ring.seen.get(ring.index(place))
}

impl Ring {
    /// Where in the queue the message of this place is: never 2^31 of them are there at once.
    fn index(&self, place: Place) -> usize {
        // The numbers' lowest 31 bits, at the top of the word, where a difference wraps as it should.
        let distance = (place.0 & !1).wrapping_sub((self.first as u32) << 1);
        (distance >> 1) as usize
    }

    fn at(&mut self, place: Place) -> Option<&mut Seen> {
        let index = self.index(place);
        self.seen.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_sixteen_bytes_and_a_place_four() {
        assert_eq!(size_of::<Seen>(), 16);
        assert_eq!(size_of::<Place>(), 4);
    }

    #[test]
    fn a_place_is_found_when_the_numbers_wrap_around() {
        let mut dedup = Dedup::new(&Config::default());
        let near = (1 << 31) - 2;
        dedup.confirmable.first = near;
        let peer = Peer::plain(([10, 0, 0, 1], 5683).into());
        let now = Instant::now();
        for id in 0..5 {
            let serial = near + u64::from(id);
            assert!(
                matches!(dedup.check(now, peer, id, true), Verdict::New { serial: new } if new == serial)
            );
            dedup.set_reply(peer, id, Reply::Message(&[id as u8]));
        }
        dedup.pop(true);
        for id in 1..5 {
            let Verdict::Duplicate {
                reply: Reply::Message(bytes),
            } = dedup.check(now, peer, id, true)
            else {
                panic!("message {id} is known");
            };
            assert_eq!(bytes, [id as u8]);
        }
        assert!(matches!(
            dedup.check(now, peer, 0, true),
            Verdict::New { .. }
        ));
    }

    #[test]
    fn a_time_is_never_over_too_early() {
        let start = Instant::now();
        let lifetime = Duration::from_secs(247);
        for us in [0, 1, 3_999, 4_000, 7_777_777] {
            let came = start + Duration::from_micros(us);
            let deadline = Tick::over(start, came).later(lifetime);
            let is_over = |at| deadline.is_over(Tick::over(start, at));
            assert!(!is_over(came) && !is_over(came + lifetime - Duration::from_micros(1)));
            assert!(is_over(came + lifetime + Duration::from_millis(8)));
        }
        // Beyond the point where the count begins anew.
        let old = Tick(u32::MAX - 1).later(lifetime);
        assert!(!old.is_over(Tick(u32::MAX)) && old.is_over(Tick(70_000)));
    }
}
