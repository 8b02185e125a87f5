//! Which messages were seen, and what they were answered with (RFC 7252 section 4.5).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::timers::later;
use crate::{Config, Peer};

/// Every entry of the map has exactly one in one of the queues, which are in the order of their deadlines.
#[derive(Debug)]
pub(super) struct Dedup {
    seen: HashMap<(Peer, u16), Seen>,
    confirmable: VecDeque<(Instant, Peer, u16)>,
    non_confirmable: VecDeque<(Instant, Peer, u16)>,
    reply_bytes: usize,
    serial: u64,
    evicted: u64,
    max_count: usize,
    max_bytes: usize,
    exchange_lifetime: Duration,
    non_lifetime: Duration,
}

#[derive(Debug)]
struct Seen {
    /// Tells this message from a later one with the same id.
    serial: u64,
    /// What a duplicate is answered with: nothing for NON, and nothing yet for CON that is being worked on.
    reply: Option<Bytes>,
}

#[derive(Debug)]
pub(super) enum Verdict {
    New { serial: u64 },
    Duplicate { reply: Option<Bytes> },
}

impl Dedup {
    pub(super) fn new(config: &Config) -> Dedup {
        Dedup {
            seen: HashMap::new(),
            confirmable: VecDeque::new(),
            non_confirmable: VecDeque::new(),
            reply_bytes: 0,
            serial: 0,
            evicted: 0,
            max_count: config.max_dedup.max(1),
            max_bytes: config.max_dedup_bytes,
            exchange_lifetime: config.exchange_lifetime(),
            non_lifetime: config.non_lifetime(),
        }
    }

    pub(super) fn check(
        &mut self,
        now: Instant,
        peer: Peer,
        id: u16,
        confirmable: bool,
    ) -> Verdict {
        self.expire(now);
        if let Some(seen) = self.seen.get(&(peer, id)) {
            return Verdict::Duplicate {
                reply: seen.reply.clone(),
            };
        }
        while self.seen.len() >= self.max_count {
            self.evict();
        }
        self.serial += 1;
        self.seen.insert(
            (peer, id),
            Seen {
                serial: self.serial,
                reply: None,
            },
        );
        let (queue, lifetime) = match confirmable {
            true => (&mut self.confirmable, self.exchange_lifetime),
            false => (&mut self.non_confirmable, self.non_lifetime),
        };
        queue.push_back((later(now, lifetime), peer, id));
        Verdict::New {
            serial: self.serial,
        }
    }

    /// Keeps the answer to a message; it takes the place of an earlier one.
    pub(super) fn set_reply(&mut self, peer: Peer, id: u16, reply: Bytes) {
        let Some(seen) = self.seen.get_mut(&(peer, id)) else {
            return;
        };
        self.reply_bytes += reply.len();
        self.reply_bytes -= seen.reply.replace(reply).map_or(0, |old| old.len());
        while self.reply_bytes > self.max_bytes && !self.seen.is_empty() {
            self.evict();
        }
    }

    /// Is this the message it was, and still without an answer?
    pub(super) fn is_unanswered(&self, peer: Peer, id: u16, serial: u64) -> bool {
        self.seen
            .get(&(peer, id))
            .is_some_and(|seen| seen.serial == serial && seen.reply.is_none())
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for confirmable in [true, false] {
            while self
                .queue(confirmable)
                .front()
                .is_some_and(|(deadline, ..)| *deadline <= now)
            {
                self.pop(confirmable);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The kind there is more of gives way, so that a flood of NON does not push the CON out.
    fn evict(&mut self) {
        let confirmable = self.confirmable.len() >= self.non_confirmable.len();
        self.pop(confirmable);
        self.evicted += 1;
    }

    fn pop(&mut self, confirmable: bool) {
        if let Some((_, peer, id)) = self.queue(confirmable).pop_front()
            && let Some(seen) = self.seen.remove(&(peer, id))
        {
            self.reply_bytes -= seen.reply.map_or(0, |reply| reply.len());
        }
    }

    fn queue(&mut self, confirmable: bool) -> &mut VecDeque<(Instant, Peer, u16)> {
        if confirmable {
            &mut self.confirmable
        } else {
            &mut self.non_confirmable
        }
    }
}
