use std::time::{Duration, Instant};

use crate::target::Ticket;

use super::Window;

/// In which company a record is sent: brokers refuse whole batches for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Care {
    /// With whatever there is.
    Together,
    /// With few others.
    InGroups,
    /// With no other under way, so that a refusal is its own.
    Alone,
}

/// The most bytes of records that are sent together once larger batches of theirs were refused.
const GROUP_BYTES: usize = 32 * 1024;

/// What was handed over and is settled together.
pub(super) struct Epoch {
    /// Counts epochs, from 1.
    pub(super) number: u64,
    /// By which its records' reports are told from other epochs'.
    pub(super) slot: usize,
    pub(super) care: Care,
    /// Each record handed over: its place and offset.
    pub(super) handed: Vec<(usize, i64)>,
    pub(super) touched: Vec<Touched>,
    pub(super) letters: Vec<Letter>,
    pub(super) bytes: usize,
    /// When its first record came.
    pub(super) began: Instant,
    /// Whether a transaction is open for it.
    pub(super) in_transaction: bool,
}

/// A place of which an epoch has records.
pub(super) struct Touched {
    pub(super) place: usize,
    pub(super) first_ms: i64,
    /// The offset after its last record; known when the epoch closes.
    pub(super) end: i64,
}

/// A record that goes to the dead letters.
pub(super) struct Letter {
    pub(super) place: usize,
    pub(super) offset: i64,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Why a record is to be a dead letter, and how much of it the target takes.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) extent: Extent,
    /// It is the timestamp that the target refuses.
    pub(super) untimed: bool,
}

/// What of a record a dead letter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    WithoutValue,
    /// Nothing but the headers that say where the record still is.
    Bare,
}

impl Extent {
    pub(super) fn less(self) -> Self {
        match self {
            Self::Whole => Self::WithoutValue,
            Self::WithoutValue | Self::Bare => Self::Bare,
        }
    }
}

impl Epoch {
    pub(super) fn new(slot: usize, number: u64) -> Self {
        Self {
            number,
            slot,
            care: Care::Together,
            handed: Vec::new(),
            touched: Vec::new(),
            letters: Vec::new(),
            bytes: 0,
            began: Instant::now(),
            in_transaction: false,
        }
    }

    /// The same memory for another epoch.
    pub(super) fn reuse(mut self, slot: usize, number: u64) -> Self {
        self.handed.clear();
        self.touched.clear();
        self.letters.clear();
        Self {
            number,
            slot,
            care: Care::Together,
            bytes: 0,
            began: Instant::now(),
            in_transaction: false,
            ..self
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    pub(super) fn is_full(&self, window: &Window, longest: Duration) -> bool {
        if self.is_empty() {
            return false;
        }
        match self.care {
            Care::Together => {
                self.handed.len() >= window.epoch_records
                    || self.bytes >= window.epoch_bytes
                    || self.began.elapsed() >= longest
            }
            Care::InGroups => self.bytes >= GROUP_BYTES,
            Care::Alone => true,
        }
    }

    /// Of the next record.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            slot: self.slot,
            index: self.handed.len(),
        }
    }
}
