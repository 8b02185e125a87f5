//! The cap on what crosses the link: a token bucket over the bytes that librdkafka says it sent or received.
//!
//! A record is paid for as soon as a lane has it, by its size, and a lane of bulk topics waits while there is a debt.
//! What it was on the wire is known some time later, from the client's statistics: then the difference is paid, or given
//! back.
//!
//! ```text
//! records:  +10 k  +10 k      +10 k                 what lanes pay at once
//! wire:                  25 k            7 k        what the client says that it grew by
//! paid:      10 k   20 k 25 k  35 k     32 k        in the end what was on the wire
//! ```
//!
//! So over a second or more the cap holds exactly, and a burst is bounded by the queues, which are made small where a
//! cap is given. Prompt topics don't wait; they only add to the debt.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) struct Bandwidth {
    bytes_per_s: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Negative: a debt.
    level: f64,
    at: Instant,
}

/// What may be saved up while the link is idle, in seconds of the cap.
const MOST_SAVED_S: f64 = 0.25;
/// How often a lane pays, in seconds of the cap, and the most bytes at a time.
const PAY_EVERY_S: f64 = 0.05;
const MOST_AT_ONCE: f64 = 65_536.0;

impl Bandwidth {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s as f64,
            bucket: Mutex::new(Bucket {
                level: 0.0,
                at: Instant::now(),
            }),
        }
    }

    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s as u64
    }

    /// A lane that read so many bytes and has not paid for them yet has to do so.
    pub(crate) fn step(&self) -> usize {
        (self.bytes_per_s * PAY_EVERY_S).min(MOST_AT_ONCE) as usize
    }

    /// Takes these bytes out of the bucket; a negative number gives back what was paid too much.
    pub(crate) fn pay(&self, bytes: i64, now: Instant) {
        let mut bucket = self.bucket.lock();
        self.refill(&mut bucket, now);
        bucket.level -= bytes as f64;
    }

    /// How long until the debt is paid.
    pub(crate) fn debt(&self, now: Instant) -> Duration {
        let mut bucket = self.bucket.lock();
        self.refill(&mut bucket, now);
        if bucket.level >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-bucket.level / self.bytes_per_s).unwrap_or(Duration::MAX)
    }

    fn refill(&self, bucket: &mut Bucket, now: Instant) {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.at = bucket.at.max(now);
        let most = self.bytes_per_s * MOST_SAVED_S;
        // What was given back may be more, for a moment.
        if bucket.level < most {
            bucket.level = (bucket.level + passed * self.bytes_per_s).min(most);
        }
    }
}

/// A client's bytes on the wire, as its statistics tell them, and what was paid for them before.
#[derive(Default)]
pub(crate) struct Wire {
    told: AtomicU64,
    ahead: AtomicI64,
}

impl Wire {
    /// So much is paid for before the client told of it.
    pub(crate) fn pay_ahead(&self, bytes: usize) -> i64 {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// Takes note of the client's total; answers what it grew by, and what of that is still to be paid.
    pub(crate) fn grew(&self, total: u64) -> (u64, i64) {
        let grew = total.saturating_sub(self.told.swap(total, Ordering::Relaxed));
        let ahead = self.ahead.swap(0, Ordering::Relaxed);
        (grew, i64::try_from(grew).unwrap_or(i64::MAX) - ahead)
    }
}

/// A total at the end of librdkafka's statistics, such as `rx_bytes`, without reading all of that JSON: it tells of
/// every broker and partition, several times a second.
pub(crate) fn total(statistics: &[u8], name: &str) -> Option<u64> {
    let key = format!("\"{name}\":");
    let at = statistics
        .windows(key.len())
        .rposition(|window| window == key.as_bytes())?;
    let digits = statistics[at + key.len()..]
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<u64>, digit| {
        number
            .unwrap_or(0)
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_paid_by_time_alone() {
        let bandwidth = Bandwidth::new(1_000);
        // After it: nothing is saved up before it is there.
        let start = Instant::now();
        assert_eq!(bandwidth.debt(start), Duration::ZERO);
        bandwidth.pay(3_000, start);
        let debt = bandwidth.debt(start + Duration::from_secs(1));
        assert!(
            debt > Duration::from_millis(1_900) && debt <= Duration::from_secs(2),
            "{debt:?}"
        );
        assert_eq!(
            bandwidth.debt(start + Duration::from_secs(4)),
            Duration::ZERO
        );
        // An hour of silence saves up a quarter of a second only.
        let later = start + Duration::from_secs(3_600);
        bandwidth.pay(1_250, later);
        let debt = bandwidth.debt(later);
        assert!(
            debt > Duration::from_millis(990) && debt <= Duration::from_secs(1),
            "{debt:?}"
        );
    }

    #[test]
    fn a_total_is_found_at_the_end() {
        let statistics = br#"{"brokers":{"a":{"rxbytes":7}},"tx_bytes":12, "rx_bytes":345}"#;
        assert_eq!(total(statistics, "rx_bytes"), Some(345));
        assert_eq!(total(statistics, "tx_bytes"), Some(12));
        assert_eq!(total(statistics, "none"), None);
    }

    #[test]
    fn what_was_on_the_wire_is_paid_in_the_end() {
        let wire = Wire::default();
        assert_eq!((wire.pay_ahead(4), wire.grew(5)), (4, (5, 1)));
        assert_eq!((wire.pay_ahead(9), wire.pay_ahead(1)), (9, 1));
        assert_eq!((wire.grew(12), wire.grew(12)), ((7, -3), (0, 0)));

        let bandwidth = Bandwidth::new(1_000);
        let start = Instant::now();
        bandwidth.pay(3_000, start);
        bandwidth.pay(-2_500, start);
        let debt = bandwidth.debt(start);
        assert!(
            debt > Duration::from_millis(490) && debt <= Duration::from_millis(500),
            "{debt:?}"
        );
    }
}
