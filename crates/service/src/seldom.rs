use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often something is said.
const EVERY: Duration = Duration::from_secs(1);

/// Decides when to log what anybody can cause as often as they like: once a second at most. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Seldom(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether to log this one: then how many before it were not.
    pub(crate) fn turn(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said
            .last
            .is_some_and(|at| now.saturating_duration_since(at) < EVERY)
        {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_says_how_many_it_stands_for() {
        let seldom = Seldom::default();
        let now = Instant::now();
        assert_eq!(seldom.turn(now), Some(0));
        for _ in 0..1_000 {
            assert_eq!(seldom.clone().turn(now + EVERY / 2), None);
        }
        assert_eq!(seldom.turn(now + EVERY), Some(1_000));
        assert_eq!(seldom.turn(now + 2 * EVERY), Some(0));
    }
}
