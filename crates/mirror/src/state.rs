//! What the parts of a running flow share: what was told to it, how far it is, and how well.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka::Cluster;
use parking_lot::Mutex;
use service::Condition;

use crate::bandwidth::Bandwidth;
use crate::{Flow, metrics};

/// What the target's clients can do, and what therefore is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Records and source offsets in one transaction.
    ExactlyOnce,
    /// Offsets are committed after the records' acknowledgements.
    AtLeastOnce,
}

impl Delivery {
    /// As options, metrics and status have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

/// A flow, for all its threads.
pub(crate) struct Shared {
    pub(crate) flow: Flow,
    pub(crate) source: Cluster,
    pub(crate) target: Cluster,
    pub(crate) source_id: String,
    pub(crate) target_id: String,
    /// Set before any record is read.
    pub(crate) delivery: OnceLock<Delivery>,
    /// Tells this run of the process from others: `<start in Unix ms, 13 digits>-<random>`, so that later ones sort higher.
    pub(crate) instance: String,
    /// How long a request to the source and to the target takes, measured at the start: queues are sized by it.
    pub(crate) source_rtt: Duration,
    pub(crate) target_rtt: Duration,
    pub(crate) bandwidth: Option<Bandwidth>,
    pub(crate) switches: Switches,
    pub(crate) partitions: Mutex<BTreeMap<(String, i32), Arc<Partition>>>,
    pub(crate) flow_health: Reasons,
    pub(crate) target_health: Reasons,
}

impl Shared {
    pub(crate) fn delivery(&self) -> Delivery {
        self.delivery
            .get()
            .copied()
            .unwrap_or(Delivery::AtLeastOnce)
    }
}

/// What was told to the flow.
#[derive(Default)]
pub(crate) struct Switches {
    /// Finish what is under way, then end.
    stop: AtomicBool,
    /// End at once, as if the process were killed.
    drop: AtomicBool,
    paused: AtomicBool,
}

impl Switches {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.drops()
    }

    pub(crate) fn drop_now(&self) {
        self.drop.store(true, Ordering::Release);
    }

    pub(crate) fn drops(&self) -> bool {
        self.drop.load(Ordering::Acquire)
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        metrics::PAUSED.set(paused.into());
    }

    pub(crate) fn paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Sleeps, but not past being told to stop; `false` when told.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.stops() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        false
    }
}

/// A condition that several parts of the flow can fail, each for reasons of its own.
pub(crate) struct Reasons {
    condition: Condition,
    known: Mutex<BTreeMap<&'static str, String>>,
}

impl Reasons {
    pub(crate) fn new(condition: Condition) -> Self {
        Self {
            condition,
            known: Mutex::default(),
        }
    }

    pub(crate) fn fail(&self, part: &'static str, reason: impl Into<String>) {
        let mut known = self.known.lock();
        known.insert(part, reason.into());
        self.tell(&known);
    }

    pub(crate) fn ok(&self, part: &'static str) {
        let mut known = self.known.lock();
        if known.remove(part).is_some() {
            self.tell(&known);
        }
    }

    pub(crate) fn has(&self, part: &'static str) -> bool {
        self.known.lock().contains_key(part)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.known.lock().values().cloned().collect()
    }

    fn tell(&self, known: &BTreeMap<&'static str, String>) {
        if known.is_empty() {
            self.condition.ok();
        } else {
            let all: Vec<&str> = known.values().map(String::as_str).collect();
            self.condition.fail(all.join("; "));
        }
    }
}

/// How far one partition of the source is, for lag and status.
pub(crate) struct Partition {
    pub(crate) prompt: bool,
    /// The offset before which everything is at the target.
    done: AtomicI64,
    /// The timestamp of the oldest record that is read and not at the target; [`NONE`] where there is none.
    oldest_ms: AtomicI64,
    /// The timestamp of the last record that reached the target; [`NONE`] where none did.
    last_ms: AtomicI64,
    /// The offset after the last record there is, as last heard.
    end: AtomicI64,
    pub(crate) copied: AtomicU64,
    pub(crate) dropped: AtomicU64,
    /// When which end was first heard of, oldest first: since when a record that is not even read must be waiting.
    heard: Mutex<VecDeque<(Instant, i64)>>,
}

const NONE: i64 = i64::MIN;
/// Beyond, the oldest half is thinned out.
const MOST_HEARD: usize = 512;

impl Partition {
    pub(crate) fn new(prompt: bool, done: i64, end: i64) -> Self {
        let partition = Self {
            prompt,
            done: AtomicI64::new(done),
            oldest_ms: AtomicI64::new(NONE),
            last_ms: AtomicI64::new(NONE),
            end: AtomicI64::new(end),
            copied: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            heard: Mutex::default(),
        };
        partition.ends_at(end, Instant::now());
        partition
    }

    pub(crate) fn done(&self) -> i64 {
        self.done.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) fn last_ms(&self) -> Option<i64> {
        Some(self.last_ms.load(Ordering::Acquire)).filter(|ms| *ms != NONE)
    }

    /// Everything before `done` is at the target; of what is read beyond it, `oldest_ms` is the first timestamp.
    pub(crate) fn is_done(&self, done: i64, last_ms: Option<i64>, oldest_ms: Option<i64>) {
        self.oldest_ms
            .store(oldest_ms.unwrap_or(NONE), Ordering::Release);
        if let Some(last_ms) = last_ms {
            self.last_ms.store(last_ms, Ordering::Release);
        }
        self.done.store(done, Ordering::Release);
    }

    pub(crate) fn copy_some(&self, count: usize) {
        self.copied.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn drop_some(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// A record was read while none was waiting.
    pub(crate) fn is_read(&self, timestamp_ms: i64) {
        self.oldest_ms.store(timestamp_ms, Ordering::Release);
    }

    pub(crate) fn ends_at(&self, end: i64, now: Instant) {
        self.end.store(end, Ordering::Release);
        let mut heard = self.heard.lock();
        let done = self.done();
        while heard.front().is_some_and(|(_, end)| *end <= done) {
            heard.pop_front();
        }
        if end > done && heard.back().is_none_or(|(_, known)| *known < end) {
            if heard.len() >= MOST_HEARD {
                let mut keep = false;
                heard.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            heard.push_back((now, end));
        }
    }

    pub(crate) fn lag_records(&self) -> i64 {
        (self.end() - self.done()).max(0)
    }

    /// How old the oldest record is that is not at the target: by its timestamp where it is read already, else since
    /// it was first heard of.
    pub(crate) fn lag(&self, now: Instant, now_ms: i64) -> Duration {
        if self.lag_records() == 0 {
            return Duration::ZERO;
        }
        let oldest_ms = self.oldest_ms.load(Ordering::Acquire);
        if oldest_ms != NONE {
            return Duration::from_millis(u64::try_from(now_ms - oldest_ms).unwrap_or(0));
        }
        let done = self.done();
        let heard = self.heard.lock();
        heard
            .iter()
            .find(|(_, end)| *end > done)
            .map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| {
            i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_in_seconds_is_the_age_of_the_oldest_record_that_waits() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let partition = Partition::new(false, 10, 10);
        assert_eq!(
            (partition.lag_records(), partition.lag(after(5), 0)),
            (0, Duration::ZERO)
        );

        // Two are heard of and not read.
        partition.ends_at(12, after(5));
        partition.ends_at(20, after(7));
        assert_eq!(partition.lag_records(), 10);
        assert_eq!(partition.lag(after(9), 0), Duration::from_secs(4));
        partition.is_done(12, Some(1), None);
        assert_eq!(partition.lag(after(9), 0), Duration::from_secs(2));

        // Once it is read its timestamp counts: a backlog of days shows as days.
        partition.is_read(1_000);
        assert_eq!(partition.lag(after(9), 61_000), Duration::from_secs(60));
        partition.is_done(20, Some(1_000), None);
        assert_eq!(
            (partition.lag_records(), partition.lag(after(9), 61_000)),
            (0, Duration::ZERO)
        );
    }
}
