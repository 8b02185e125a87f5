//! Deadlines, in order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{ExchangeId, Peer, RequestId};

#[derive(Debug, Clone, Copy)]
pub(super) enum Timer {
    /// A confirmable message is sent again, or given up.
    Retransmit(Peer, u16),
    /// A request got no answer.
    Request(RequestId),
    /// An incoming request gets its empty acknowledgement; the second time it is forgotten.
    Exchange(ExchangeId),
    /// What is kept for a time only is looked through.
    Sweep,
}

/// Names an armed timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey(Instant, u64);

/// A cancelled timer leaves nothing behind: a heap with dead entries would hold millions of them under load.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<TimerKey, Timer>,
    serial: u64,
}

impl Timers {
    pub(super) fn arm(&mut self, at: Instant, timer: Timer) -> TimerKey {
        self.serial += 1;
        let key = TimerKey(at, self.serial);
        self.queue.insert(key, timer);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        self.queue.remove(&key);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// `now + after` without overflow, whatever a caller set: ten years are as good as for ever.
pub(super) fn later(now: Instant, after: Duration) -> Instant {
    now + after.min(Duration::from_secs(10 * 365 * 86_400))
}
