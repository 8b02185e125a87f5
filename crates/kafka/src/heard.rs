use std::collections::VecDeque;
use std::time::Instant;

/// When it was first heard that a partition ends where it does: since when a record that nobody read yet must be waiting.
///
/// At most 512 ends are kept; beyond, every second one is forgotten, so that the oldest stays.
#[derive(Debug, Default)]
pub struct HeardEnds {
    /// Oldest first.
    ends: VecDeque<(Instant, i64)>,
}

const MOST: usize = 512;

impl HeardEnds {
    /// The partition ends before `end` now.
    pub fn ends_at(&mut self, end: i64, now: Instant) {
        if self.ends.back().is_some_and(|(_, known)| *known > end) {
            // It was made anew.
            self.ends.clear();
        }
        if self.ends.back().is_none_or(|(_, known)| *known < end) {
            if self.ends.len() >= MOST {
                let mut keep = false;
                self.ends.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.ends.push_back((now, end));
        }
    }

    /// What stands before `done` waits no more.
    pub fn is_done(&mut self, done: i64) {
        while self.ends.front().is_some_and(|(_, end)| *end <= done) {
            self.ends.pop_front();
        }
    }

    /// Since when at the latest there are records at or after `done`; `None` where none is known.
    pub fn waits_since(&self, done: i64) -> Option<Instant> {
        let first = self.ends.iter().find(|(_, end)| *end > done);
        first.map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_record_waits_since_an_end_beyond_it_was_heard_of() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut ends = HeardEnds::default();
        assert_eq!(ends.waits_since(0), None);
        for (end, s) in [(10, 0), (10, 1), (12, 2), (20, 3)] {
            ends.ends_at(end, after(s));
        }
        for (done, since) in [(9, Some(0)), (10, Some(2)), (19, Some(3)), (20, None)] {
            assert_eq!(ends.waits_since(done), since.map(after), "{done}");
        }
        ends.is_done(10);
        assert_eq!(ends.waits_since(0), Some(after(2)));
        // Made anew, and shorter.
        ends.ends_at(3, after(9));
        assert_eq!(ends.waits_since(0), Some(after(9)));
    }

    #[test]
    fn the_oldest_is_kept_and_the_memory_bounded() {
        let start = Instant::now();
        let mut ends = HeardEnds::default();
        for n in 1..=10_000 {
            ends.ends_at(n, start + Duration::from_secs(n.unsigned_abs()));
            assert!(ends.ends.len() <= MOST);
        }
        let since = ends.waits_since(0).unwrap();
        assert!(since <= start + Duration::from_secs(2_000), "{since:?}");
    }
}
