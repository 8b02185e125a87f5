//! How often a source may fail.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The failures a source has.
const ALLOWED: u32 = 10;
/// How long it takes to get one back.
const ONE_BACK: Duration = Duration::from_secs(30);
/// The most sources remembered. Beyond it the one that failed longest ago gives way.
const SOURCES: usize = 4_096;

/// Where a caller is: an IPv4 address, or the /64 that one machine commonly has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64, bool);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits()), false),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64, true),
        }
    }
}

#[derive(Default)]
pub(super) struct Failures(HashMap<Source, Failed>);

struct Failed {
    /// How many count at `at`.
    count: f64,
    at: Instant,
}

impl Failures {
    /// Takes one attempt of a source; tells how long it has to wait where it has none left.
    pub(super) fn attempt(&mut self, source: Source, now: Instant) -> Result<(), Duration> {
        if self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            self.make_room(now);
        }
        let failed = self.0.entry(source).or_insert(Failed {
            count: 0.0,
            at: now,
        });
        let count = failed.now(now);
        if count + 1.0 > f64::from(ALLOWED) {
            let over = count + 1.0 - f64::from(ALLOWED);
            return Err(ONE_BACK.mul_f64(over.min(1.0)));
        }
        *failed = Failed {
            count: count + 1.0,
            at: now,
        };
        Ok(())
    }

    /// The attempt was none that counts: it was right.
    pub(super) fn forgive(&mut self, source: Source, now: Instant) {
        if let Some(failed) = self.0.get_mut(&source) {
            *failed = Failed {
                count: (failed.now(now) - 1.0).max(0.0),
                at: now,
            };
            if failed.count <= 0.0 {
                self.0.remove(&source);
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, failed| failed.now(now) > 0.0);
        if self.0.len() >= SOURCES
            && let Some(oldest) = self
                .0
                .iter()
                .min_by_key(|(_, failed)| failed.at)
                .map(|(source, _)| *source)
        {
            self.0.remove(&oldest);
        }
    }
}

impl Failed {
    fn now(&self, now: Instant) -> f64 {
        let back = now.saturating_duration_since(self.at).as_secs_f64() / ONE_BACK.as_secs_f64();
        (self.count - back).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_then_one_every_half_minute() {
        let mut failures = Failures::default();
        let now = Instant::now();
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        let here = source("192.0.2.1");
        for _ in 0..10 {
            assert_eq!(failures.attempt(here, now), Ok(()));
        }
        assert_eq!(failures.attempt(here, now), Err(ONE_BACK));
        // Another one is not touched by that, and a /64 is one.
        assert_eq!(failures.attempt(source("192.0.2.2"), now), Ok(()));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), here);

        let later = now + ONE_BACK;
        assert_eq!(failures.attempt(here, later), Ok(()));
        assert!(failures.attempt(here, later).is_err());
        // What was right does not count.
        failures.forgive(here, later);
        assert_eq!(failures.attempt(here, later), Ok(()));
        assert_eq!(failures.attempt(here, now + 20 * ONE_BACK), Ok(()));
    }

    #[test]
    fn so_many_sources_are_remembered_and_no_more() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for number in 0..10_000_u32 {
            let at = now + Duration::from_millis(u64::from(number));
            let source = Source::from(IpAddr::from(number.to_be_bytes()));
            assert_eq!(failures.attempt(source, at), Ok(()));
        }
        assert_eq!(failures.0.len(), SOURCES);
    }
}
