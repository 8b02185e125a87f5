//! The messages of one handshake: numbering, pieces, flights and their repetition (RFC 6347 section 4.2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;

use crate::Alert;
use crate::message::{self, Fragment};
use crate::protect::{Keys, Protector};
use crate::record::{ContentType, VERSION, put_plain};

/// The most bytes of one message: a chain of certificates.
const LONGEST_MESSAGE: usize = 16 << 10;
/// The most bytes of messages that wait for one before them.
const MOST_WAITING: usize = 20 << 10;
/// The most messages ahead of the one that is awaited: no flight has more.
const AHEAD: u16 = 8;
/// The most pieces that one message may come in, in disorder.
const MOST_PIECES: usize = 64;
/// The most bytes of all messages of a handshake, both ways.
const LONGEST_TRANSCRIPT: usize = 48 << 10;
/// A flight is not repeated for the other end's sake sooner than this: what repeats could be an attacker's.
const REPEAT_GAP: Duration = Duration::from_millis(250);

/// A message that has come whole.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) number: u16,
    pub(crate) epoch: u16,
    pub(crate) body: Vec<u8>,
}

/// A message of which pieces are here.
#[derive(Debug)]
struct Partial {
    kind: u8,
    epoch: u16,
    body: Vec<u8>,
    /// Sorted and apart from one another.
    have: Vec<(usize, usize)>,
}

impl Partial {
    fn is_whole(&self) -> bool {
        self.have.as_slice() == [(0, self.body.len())]
    }

    fn add(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Alert> {
        self.body[offset..offset + bytes.len()].copy_from_slice(bytes);
        let (mut start, mut end) = (offset, offset + bytes.len());
        self.have.retain(|&(from, to)| {
            let apart = to < start || end < from;
            if !apart {
                start = start.min(from);
                end = end.max(to);
            }
            apart
        });
        if self.have.len() >= MOST_PIECES {
            return Err(Alert::DECODE_ERROR);
        }
        let place = self.have.partition_point(|&(from, _)| from < start);
        self.have.insert(place, (start, end));
        Ok(())
    }
}

/// What is to be sent, and may have to be again.
#[derive(Debug)]
enum Out {
    Message {
        epoch: u16,
        kind: u8,
        number: u16,
        body: Vec<u8>,
    },
    ChangeCipherSpec,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    pub(crate) repetitions: u32,
}

/// The longest wait between two repetitions (RFC 6347 section 4.2.4.1).
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One handshake's messages in both directions.
#[derive(Debug)]
pub(crate) struct Exchange {
    next_in: u16,
    next_out: u16,
    partial: BTreeMap<u16, Partial>,
    waiting: usize,
    /// Every message so far as its hash has it: whole, with its header.
    pub(crate) transcript: Vec<u8>,
    flight: Vec<Out>,
    /// The next record's number in epoch 0 and in epoch 1.
    pub(crate) sequences: [u64; 2],
    pace: Pace,
    wait: Duration,
    repeated: u32,
    pub(crate) repeat_at: Option<Instant>,
    sent_at: Option<Instant>,
    mtu: usize,
}

/// What a piece did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was of use, or may be.
    Kept,
    /// The message was there already: the other end has not got what came after it.
    Stale,
}

impl Exchange {
    /// `first_in` and `first_out`: the numbers of the next messages. `sequence`: of the next record in epoch 0.
    pub(crate) fn new(
        first_in: u16,
        first_out: u16,
        sequence: u64,
        pace: Pace,
        mtu: usize,
    ) -> Self {
        Self {
            next_in: first_in,
            next_out: first_out,
            partial: BTreeMap::new(),
            waiting: 0,
            transcript: Vec::new(),
            flight: Vec::new(),
            sequences: [sequence, 0],
            pace,
            wait: pace.first,
            repeated: 0,
            repeat_at: None,
            sent_at: None,
            mtu,
        }
    }

    pub(crate) fn take_fragment(
        &mut self,
        epoch: u16,
        fragment: &Fragment<'_>,
    ) -> Result<Taken, Alert> {
        let ahead = fragment.number.wrapping_sub(self.next_in);
        if ahead >= 0x8000 {
            return Ok(Taken::Stale);
        }
        if ahead >= AHEAD || fragment.len > LONGEST_MESSAGE {
            return Err(Alert::ILLEGAL_PARAMETER);
        }
        if !self.partial.contains_key(&fragment.number) {
            if self.waiting + fragment.len > MOST_WAITING {
                return Err(Alert::INTERNAL_ERROR);
            }
            self.waiting += fragment.len;
            let partial = Partial {
                kind: fragment.kind,
                epoch,
                body: vec![0; fragment.len],
                have: Vec::new(),
            };
            self.partial.insert(fragment.number, partial);
        }
        let Some(partial) = self.partial.get_mut(&fragment.number) else {
            return Err(Alert::INTERNAL_ERROR);
        };
        if partial.kind != fragment.kind
            || partial.epoch != epoch
            || partial.body.len() != fragment.len
        {
            return Err(Alert::ILLEGAL_PARAMETER);
        }
        // What is there already stays: a second version of it could be an attacker's.
        if !partial.is_whole() {
            partial.add(fragment.offset, fragment.bytes)?;
        }
        Ok(Taken::Kept)
    }

    /// The next message in order, if it is whole. It is not in the transcript yet.
    pub(crate) fn next_message(&mut self) -> Option<Message> {
        let number = self.next_in;
        if !self.partial.get(&number)?.is_whole() {
            return None;
        }
        let partial = self.partial.remove(&number)?;
        self.waiting -= partial.body.len();
        self.next_in = self.next_in.wrapping_add(1);
        Some(Message {
            kind: partial.kind,
            number,
            epoch: partial.epoch,
            body: partial.body,
        })
    }

    /// Adds a message to what the Finished messages confirm.
    pub(crate) fn note(&mut self, kind: u8, number: u16, body: &[u8]) -> Result<(), Alert> {
        if self.transcript.len() + message::HEADER + body.len() > LONGEST_TRANSCRIPT {
            return Err(Alert::INTERNAL_ERROR);
        }
        message::put_header(
            &mut self.transcript,
            kind,
            body.len(),
            number,
            0,
            body.len(),
        );
        self.transcript.extend_from_slice(body);
        Ok(())
    }

    /// The other end's flight is complete: ours is over, a new one begins.
    pub(crate) fn begin_flight(&mut self) {
        self.flight.clear();
        self.repeat_at = None;
        self.wait = self.pace.first;
        self.repeated = 0;
    }

    /// Adds a message to the flight and to the transcript.
    pub(crate) fn push(&mut self, epoch: u16, kind: u8, body: Vec<u8>) -> Result<(), Alert> {
        let number = self.next_out;
        self.next_out = self.next_out.wrapping_add(1);
        if kind != message::kind::HELLO_VERIFY_REQUEST {
            self.note(kind, number, &body)?;
        }
        self.flight.push(Out::Message {
            epoch,
            kind,
            number,
            body,
        });
        Ok(())
    }

    pub(crate) fn push_change_cipher_spec(&mut self) {
        self.flight.push(Out::ChangeCipherSpec);
    }

    /// Sends the flight; `awaits`: an answer is awaited, and it is repeated without one.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        awaits: bool,
        protector: &mut Protector,
        rng: &mut ChaCha12Rng,
        keys: Option<&Keys>,
    ) -> Result<Vec<Vec<u8>>, Alert> {
        self.sent_at = Some(now);
        self.repeat_at = awaits.then(|| now.checked_add(self.wait)).flatten();
        let mut datagrams = Vec::new();
        let mut datagram: Vec<u8> = Vec::new();
        for out in &self.flight {
            match out {
                Out::ChangeCipherSpec => {
                    if datagram.len() + 14 > self.mtu {
                        datagrams.push(std::mem::take(&mut datagram));
                    }
                    let sequence = take(&mut self.sequences[0]);
                    put_plain(
                        &mut datagram,
                        ContentType::ChangeCipherSpec,
                        VERSION,
                        sequence,
                        &[1],
                    );
                }
                Out::Message {
                    epoch,
                    kind,
                    number,
                    body,
                } => {
                    let mut offset = 0;
                    loop {
                        // Header of the record, of the message, and what protection adds at most.
                        let overhead = 13 + message::HEADER + if *epoch == 0 { 0 } else { 80 };
                        let room = self.mtu.saturating_sub(datagram.len() + overhead);
                        let left = body.len() - offset;
                        // Not to begin a piece of some bytes only, unless the datagram is a new one.
                        if room < left.min(64) && !datagram.is_empty() {
                            datagrams.push(std::mem::take(&mut datagram));
                            continue;
                        }
                        let len = left.min(room.max(1));
                        let mut piece = Vec::with_capacity(message::HEADER + len);
                        message::put_header(&mut piece, *kind, body.len(), *number, offset, len);
                        piece.extend_from_slice(&body[offset..offset + len]);
                        if *epoch == 0 {
                            let sequence = take(&mut self.sequences[0]);
                            put_plain(
                                &mut datagram,
                                ContentType::Handshake,
                                VERSION,
                                sequence,
                                &piece,
                            );
                        } else {
                            let keys = keys.ok_or(Alert::INTERNAL_ERROR)?;
                            let sequence = take(&mut self.sequences[1]);
                            protector.seal(
                                rng,
                                keys,
                                ContentType::Handshake,
                                sequence,
                                &piece,
                                &mut datagram,
                            )?;
                        }
                        offset += len;
                        if offset == body.len() {
                            break;
                        }
                    }
                }
            }
        }
        if !datagram.is_empty() {
            datagrams.push(datagram);
        }
        Ok(datagrams)
    }

    /// The time is over without an answer: `false` when it is over for good.
    pub(crate) fn back_off(&mut self) -> bool {
        self.repeated += 1;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self.repeated <= self.pace.repetitions
    }

    /// The other end repeats itself: may our flight be repeated now?
    pub(crate) fn may_repeat(&self, now: Instant) -> bool {
        let rested = self
            .sent_at
            .is_none_or(|at| now.saturating_duration_since(at) >= REPEAT_GAP);
        rested && !self.flight.is_empty()
    }

    /// Only what is needed to repeat the last flight.
    pub(crate) fn settle(&mut self) {
        self.partial = BTreeMap::new();
        self.waiting = 0;
        self.transcript = Vec::new();
        self.repeat_at = None;
    }
}

fn take(sequence: &mut u64) -> u64 {
    let taken = *sequence;
    *sequence += 1;
    taken
}
