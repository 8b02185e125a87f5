//! What the disk does not take, for the readiness page: until the same can be written again.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

/// Failures by place: as many as there are partitions, and a few more.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    is_failing: AtomicBool,
    by_place: Mutex<BTreeMap<String, String>>,
}

impl Disk {
    /// Something could not be written.
    pub(crate) fn failed(&self, place: impl Display, error: impl Display) {
        let mut by_place = self.by_place.lock();
        by_place.insert(place.to_string(), error.to_string());
        self.is_failing.store(true, Ordering::Release);
    }

    /// It could be written.
    pub(crate) fn works(&self, place: impl Display) {
        if !self.is_failing.load(Ordering::Acquire) {
            return;
        }
        let mut by_place = self.by_place.lock();
        by_place.remove(&place.to_string());
        self.is_failing
            .store(!by_place.is_empty(), Ordering::Release);
    }

    /// Whatever came of it.
    pub(crate) fn note<T, E: Display>(&self, place: impl Display, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.works(place),
            Err(error) => self.failed(place, error),
        }
    }

    /// What does not work now, for a person.
    pub(crate) fn failing(&self) -> Option<String> {
        if !self.is_failing.load(Ordering::Acquire) {
            return None;
        }
        let by_place = self.by_place.lock();
        let (place, error) = by_place.first_key_value()?;
        let more = match by_place.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!(
            "{place}{more} can't be written: {error}: check the disk of the data directory (is it full?)"
        ))
    }
}
