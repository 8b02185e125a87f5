use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::Part;

/// What is killed when, from a seed.
pub struct Plan {
    rng: StdRng,
    /// Parts that have not had their turn in this round: each is killed once before any is killed again.
    left: Vec<Part>,
}

/// One fault: these are killed together, and come back one after the other.
#[derive(Debug)]
pub struct Fault {
    /// The time from the end of the last fault.
    pub after: Duration,
    pub parts: Vec<Part>,
    /// How long they are away.
    pub away: Duration,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            left: Vec::new(),
        }
    }

    fn part(&mut self) -> Part {
        if self.left.is_empty() {
            self.left = Part::ALL.to_vec();
        }
        let index = self.rng.random_range(0..self.left.len());
        self.left.swap_remove(index)
    }

    /// A moment for something else that happens once in `every`.
    pub fn one_in(&mut self, every: u32) -> bool {
        self.rng.random_ratio(1, every)
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let after = Duration::from_millis(self.rng.random_range(200..3_000));
        let mut parts = vec![self.part()];
        if self.one_in(3) {
            let second = self.part();
            if !parts.contains(&second) {
                parts.push(second);
            }
        }
        Some(Fault {
            after,
            parts,
            away: Duration::from_millis(self.rng.random_range(0..4_000)),
        })
    }
}
