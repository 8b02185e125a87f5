//! Replays every seed, cut short and with bytes changed, through its decoder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A small generator with a fixed seed: the same inputs in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn changed(seed: &[u8], random: &mut Seeded) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        match random.below(4) {
            0 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
            }
            2 => {
                let at = random.below(bytes.len() + 1);
                bytes.insert(at, random.below(256) as u8);
            }
            _ if !bytes.is_empty() => {
                bytes.remove(random.below(bytes.len()));
            }
            _ => {}
        }
    }
    bytes
}

/// How long one target's neighbours are tried.
const ENOUGH: Duration = Duration::from_secs(10);

#[test]
fn every_seed_and_what_is_near_it_is_taken_without_a_panic() {
    let mut random = Seeded(0x5eed_0f2e_e105);
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
                target(&changed(&seed, &mut random));
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
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = fuzz::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(folders, targets);
}
