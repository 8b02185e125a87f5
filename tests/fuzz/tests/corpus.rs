//! Replays every seed, cut short and with bytes changed, through its decoder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz::Mutator;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// How long one target's neighbours are tried.
const ENOUGH: Duration = Duration::from_secs(10);

#[test]
fn every_seed_and_what_is_near_it_is_taken_without_a_panic() {
    let mut mutator = Mutator::new(0x5eed_0f2e_e105);
    for (name, target) in fuzz::TARGETS {
        let mut inputs = 0;
        let started = Instant::now();
        for entry in fs::read_dir(corpus().join(name)).expect("a corpus folder for each target") {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            target(&seed);
            let steps = seed.len().min(200);
            for step in 0..steps {
                target(&seed[..seed.len() * step / steps]);
            }
            // A slow decoder gets fewer neighbours, never fewer seeds.
            for _ in 0..200 {
                if started.elapsed() > ENOUGH {
                    break;
                }
                let mut changed = seed.clone();
                mutator.change(&mut changed);
                target(&changed);
            }
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no seed");
    }
}

#[test]
fn every_corpus_folder_has_a_target() {
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = fuzz::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(folders, targets);
}
