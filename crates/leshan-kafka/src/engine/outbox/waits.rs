//! Who waits for a record to be safe, and whose was refused.

use std::collections::{BTreeMap, HashMap};

use lwm2m::Observation;

use super::super::Ack;

/// An acknowledgement that waits for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For this one alone.
    One(Ack),
    /// For this one and others of the same message.
    Part(u64),
}

/// Messages of several records: as many as devices wait for an answer to.
#[derive(Default)]
pub(crate) struct Grouped {
    next: u64,
    groups: HashMap<u64, (usize, Ack)>,
}

impl Grouped {
    /// An acknowledgement for after so many records.
    pub(crate) fn wait_for(&mut self, ack: Ack, records: usize) -> Wait {
        self.next += 1;
        self.groups.insert(self.next, (records, ack));
        Wait::Part(self.next)
    }

    /// A record is safe; the acknowledgement, when it was the last that this waited for.
    pub(crate) fn settle(&mut self, wait: Wait) -> Option<Ack> {
        let group = match wait {
            Wait::One(ack) => return Some(ack),
            Wait::Part(group) => group,
        };
        let (left, ack) = self.groups.get_mut(&group)?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let ack = *ack;
        self.groups.remove(&group);
        Some(ack)
    }
}

/// An observation of which a notification was refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Refused {
    pub(crate) endpoint: String,
    /// What is observed.
    pub(crate) target: String,
}

impl Refused {
    pub(crate) fn of(observation: &Observation) -> Self {
        Self {
            endpoint: observation.endpoint.clone(),
            target: observation.target.to_string(),
        }
    }
}

/// As many as there are observations, which are bounded; with the acknowledgement the device still waits for.
#[derive(Default)]
pub(super) struct RefusedOnes {
    observations: BTreeMap<Refused, Option<Ack>>,
    /// Of values that devices sent of their own accord and that found no room at their second attempt: as many as the
    /// producer had.
    sends: Vec<Ack>,
}

impl RefusedOnes {
    pub(super) fn is_empty(&self) -> bool {
        self.observations.is_empty()
    }

    pub(super) fn insert(&mut self, observation: &Observation, ack: Option<Ack>) {
        let known = self
            .observations
            .entry(Refused::of(observation))
            .or_default();
        *known = ack.or(*known);
    }

    pub(super) fn take(&mut self, most: usize) -> Vec<(Refused, Option<Ack>)> {
        std::iter::from_fn(|| self.observations.pop_first())
            .take(most)
            .collect()
    }

    /// A device has to be told that what it sent was not taken.
    pub(super) fn send(&mut self, ack: Option<Ack>) {
        self.sends.extend(ack);
    }

    pub(super) fn take_sends(&mut self) -> Vec<Ack> {
        std::mem::take(&mut self.sends)
    }
}
