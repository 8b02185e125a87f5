//! How far a batch that is offered again has come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kafka::Record;

type Partition = (Arc<str>, i32);

/// In which company a record is sent: brokers refuse whole batches for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Care {
    /// With whatever there is.
    Together,
    /// With few others.
    InGroups,
    /// With no other under way, so that a refusal is its own.
    Alone,
}

impl Care {
    /// The next smaller company.
    pub(crate) fn more(self) -> Option<Self> {
        match self {
            Self::Together => Some(Self::InGroups),
            Self::InGroups => Some(Self::Alone),
            Self::Alone => None,
        }
    }
}

/// What is known of the batch in work. Bounded by the batch.
#[derive(Default)]
pub(crate) struct Progress {
    /// The last offset of each partition in the batch: by it a batch is known again.
    ends: HashMap<Partition, i64>,
    /// The offset before which everything of the batch is done.
    done_before: HashMap<Partition, i64>,
    /// Done, although something before it is not: records put aside, which need not be put aside twice.
    done_early: HashSet<(Partition, i64)>,
    suspects: HashMap<(Partition, i64), Care>,
    /// Partitions with a record that failed since everything under way was last awaited.
    broken: HashSet<Partition>,
}

fn partition(record: &Record) -> Partition {
    (Arc::clone(&record.topic), record.partition)
}

impl Progress {
    /// The same batch again, or what is left of it after a rebalance, goes on; another one starts anew.
    pub(crate) fn resume(&mut self, batch: &[Record]) {
        let mut ends = HashMap::new();
        for record in batch {
            ends.insert(partition(record), record.offset);
        }
        let same = ends
            .iter()
            .all(|(partition, end)| self.ends.get(partition) == Some(end));
        if !same {
            *self = Self::default();
        }
        self.ends = ends;
    }

    /// The batch is done.
    pub(crate) fn complete(&mut self) {
        *self = Self::default();
    }

    /// How a record is to be sent; `None` when it is done.
    pub(crate) fn care_for(&self, record: &Record) -> Option<Care> {
        if self.done_before.is_empty() && self.done_early.is_empty() && self.suspects.is_empty() {
            return Some(Care::Together);
        }
        let partition = partition(record);
        if self
            .done_before
            .get(&partition)
            .is_some_and(|before| record.offset < *before)
        {
            return None;
        }
        let place = (partition, record.offset);
        if self.done_early.contains(&place) {
            return None;
        }
        Some(*self.suspects.get(&place).unwrap_or(&Care::Together))
    }

    /// The record is done, unless one before it failed: then it is sent again after that one, for the order's sake.
    pub(crate) fn done(&mut self, record: &Record) {
        let partition = partition(record);
        if !self.broken.contains(&partition) {
            self.done_before.insert(partition, record.offset + 1);
        }
    }

    /// The record is done and has no place in its partition's order.
    pub(crate) fn done_out_of_turn(&mut self, record: &Record) {
        self.done_early.insert((partition(record), record.offset));
    }

    /// The record was refused, perhaps for a neighbour's sake.
    pub(crate) fn suspect(&mut self, record: &Record, care: Care) {
        self.suspects
            .insert((partition(record), record.offset), care);
        self.failed(record);
    }

    /// The record has to be sent again.
    pub(crate) fn failed(&mut self, record: &Record) {
        self.broken.insert(partition(record));
    }

    /// Everything under way was awaited.
    pub(crate) fn settled(&mut self) {
        self.broken.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64) -> Record {
        Record {
            topic: Arc::from("t"),
            partition: 0,
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_batch_goes_on_at_its_first_failure() {
        let batch: Vec<Record> = (0..4).map(record).collect();
        let mut progress = Progress::default();
        progress.resume(&batch);
        progress.done(&batch[0]);
        progress.suspect(&batch[1], Care::InGroups);
        progress.done(&batch[2]);
        progress.done_out_of_turn(&batch[3]);
        progress.settled();

        progress.resume(&batch);
        let cares: Vec<_> = batch.iter().map(|r| progress.care_for(r)).collect();
        let again = Some(Care::Together);
        assert_eq!(cares, [None, Some(Care::InGroups), again, None]);
    }

    #[test]
    fn another_batch_starts_anew() {
        let mut progress = Progress::default();
        progress.resume(&[record(0), record(1)]);
        progress.done(&record(0));
        progress.resume(&[record(0)]);
        assert_eq!(progress.care_for(&record(0)), Some(Care::Together));
    }
}
