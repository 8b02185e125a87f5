//! What the producer has of one topic.

use std::time::Instant;

use super::{Source, Wait};

/// A record that the producer has.
pub(super) struct Slot {
    /// Counts what was handed over: the order of the slots.
    pub(super) handed: u64,
    pub(super) since: Instant,
    /// Of its key: which partition it goes to.
    pub(super) hash: u32,
    /// It went without a timestamp.
    pub(super) untimed: bool,
    /// Its partition is stuck: it takes no room from others.
    pub(super) held: bool,
    pub(super) what: What,
}

pub(super) enum What {
    /// A row; the next turn of the outbox removes it when Kafka has it.
    Row(i64),
    /// A notification that is only in memory, with its value as it was sent.
    Direct(Notification, Vec<u8>),
}

/// Where a record came from, and whose acknowledgement waits for it.
pub(super) struct Notification {
    pub(super) source: Source,
    pub(super) wait: Option<Wait>,
}

/// By the number each was handed over with; numbers are used again, so there are as many as were ever under way at one
/// time.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<Option<Slot>>,
    free: Vec<u32>,
    in_flight: usize,
    held: usize,
    handed: u64,
    /// Room for values: used again.
    spare: Vec<Vec<u8>>,
}

/// The most values whose room is kept, and how large they may be: 2 MiB.
const SPARE: usize = 4_096;
const SPARE_BYTES: usize = 512;
/// What the value of a number takes, and some.
const USUAL_BYTES: usize = 192;

impl Slots {
    /// Room for a value.
    pub(super) fn room(&mut self) -> Vec<u8> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(USUAL_BYTES))
    }

    /// The room of a value that is not needed any more.
    pub(super) fn spare(&mut self, mut value: Vec<u8>) {
        if value.capacity() <= SPARE_BYTES && self.spare.len() < SPARE {
            value.clear();
            self.spare.push(value);
        }
    }

    /// A number for the next record: it is filled, or given back.
    pub(super) fn reserve(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        self.all.push(None);
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }

    pub(super) fn fill(&mut self, number: u32, now: Instant, hash: u32, untimed: bool, what: What) {
        self.handed += 1;
        self.in_flight += 1;
        self.all[number as usize] = Some(Slot {
            handed: self.handed,
            since: now,
            hash,
            untimed,
            held: false,
            what,
        });
    }

    /// The producer has it no more.
    pub(super) fn take(&mut self, number: u32) -> Option<Slot> {
        let slot = self.all.get_mut(number as usize)?.take()?;
        self.free.push(number);
        self.in_flight -= 1;
        self.held -= usize::from(slot.held);
        Some(slot)
    }

    /// All of them, in the order in which they were handed over: the producer is gone.
    pub(super) fn take_all(&mut self) -> Vec<Slot> {
        let mut all: Vec<Slot> = std::mem::take(&mut self.all)
            .into_iter()
            .flatten()
            .collect();
        all.sort_unstable_by_key(|slot| slot.handed);
        self.free.clear();
        (self.in_flight, self.held) = (0, 0);
        all
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Those whose partition is stuck.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Those that may be acknowledged at any moment.
    pub(super) fn flowing(&self) -> usize {
        self.in_flight - self.held
    }

    /// Those that may be acknowledged at any moment, one by one.
    pub(super) fn each_flowing(&self) -> impl Iterator<Item = &Slot> {
        self.all.iter().flatten().filter(|slot| !slot.held)
    }

    /// Says anew which ones are held. `since`: when the time of those begins that are held no more.
    pub(super) fn hold(&mut self, since: Option<Instant>, is_stuck: impl Fn(u32) -> bool) {
        self.held = 0;
        for slot in self.all.iter_mut().flatten() {
            let held = is_stuck(slot.hash);
            if let Some(since) = since
                && slot.held
                && !held
            {
                slot.since = since;
            }
            slot.held = held;
            self.held += usize::from(held);
        }
    }

    /// Held ones that are only in memory, in the order in which they were handed over: their numbers.
    pub(super) fn held_in_memory(&self) -> Vec<u32> {
        let mut found: Vec<(u64, u32)> = (0_u32..)
            .zip(&self.all)
            .filter_map(|(number, slot)| match slot {
                Some(slot) if slot.held && matches!(slot.what, What::Direct(..)) => {
                    Some((slot.handed, number))
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, number)| number).collect()
    }

    /// What is only in memory becomes this row; what it was.
    pub(super) fn becomes_row(&mut self, number: u32, row: i64) -> Option<(Notification, Vec<u8>)> {
        let slot = self.all.get_mut(number as usize)?.as_mut()?;
        match std::mem::replace(&mut slot.what, What::Row(row)) {
            What::Direct(notification, framed) => Some((notification, framed)),
            What::Row(row) => {
                slot.what = What::Row(row);
                None
            }
        }
    }
}
