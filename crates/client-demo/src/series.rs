//! Made-up temperatures, in degrees Celsius with one decimal.

use std::f64::consts::TAU;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Where a made-up temperature starts, and what it swings around.
const START: f64 = 20.0;
/// Samples in which a series rises, before it begins again.
const RISE: u32 = 600;
/// Samples of one swing of the sine.
const SWING: u32 = 60;
/// What a random walk keeps between.
const WALK: (f64, f64) = (-20.0, 40.0);

/// How a temperature goes on.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rises from 20 to 26 °C, and begins again
    Trend,
    /// The same with a sine of ±5 °C on it
    SineTrend,
    /// Steps of at most 1 °C at random, between −20 and 40 °C
    RandomWalk,
}

/// A temperature sample by sample: the same seed gives the same ones.
#[derive(Debug)]
pub(crate) struct Series {
    kind: Kind,
    sample: u32,
    current: f64,
    rng: StdRng,
}

impl Series {
    pub(crate) fn new(kind: Kind, seed: u64) -> Self {
        Self {
            kind,
            sample: 0,
            current: START,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn next_value(&mut self) -> f64 {
        let trend = START + f64::from(self.sample % RISE) / 100.0;
        let sine = 5.0 * (TAU * f64::from(self.sample % SWING) / f64::from(SWING)).sin();
        self.sample = (self.sample + 1) % (RISE * SWING);
        self.current = match self.kind {
            Kind::Trend => trend,
            Kind::SineTrend => trend + sine,
            Kind::RandomWalk => {
                (self.current + self.rng.random_range(-1.0..=1.0)).clamp(WALK.0, WALK.1)
            }
        };
        (self.current * 10.0).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(kind: Kind, seed: u64, count: usize) -> Vec<f64> {
        let mut series = Series::new(kind, seed);
        (0..count).map(|_| series.next_value()).collect()
    }

    #[test]
    fn series_are_repeatable_and_stay_in_their_range() {
        for kind in [Kind::Trend, Kind::SineTrend, Kind::RandomWalk] {
            let values = samples(kind, 7, 5_000);
            assert_eq!(values, samples(kind, 7, 5_000));
            assert!(
                values.iter().all(|value| (-20.0..=40.0).contains(value)),
                "{kind:?}"
            );
        }
        assert_ne!(
            samples(Kind::RandomWalk, 1, 10),
            samples(Kind::RandomWalk, 2, 10)
        );
    }

    #[test]
    fn a_trend_rises_and_a_sine_swings_around_it() {
        let trend = samples(Kind::Trend, 0, 600);
        assert!(trend.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((trend[0], trend[599]), (20.0, 26.0));
        let sine = samples(Kind::SineTrend, 0, 60);
        assert!(
            sine[15] > trend[15] + 4.9 && sine[45] < trend[45] - 4.9,
            "{sine:?}"
        );
    }

    #[test]
    fn a_random_walk_takes_small_steps() {
        let walk = samples(Kind::RandomWalk, 3, 1_000);
        assert!(walk.windows(2).all(|pair| (pair[0] - pair[1]).abs() <= 1.1));
    }
}
