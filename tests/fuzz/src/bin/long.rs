//! A long run on stable Rust: changed seeds for every target, or for those that are named, so many seconds each.
//!
//! ```text
//! cargo run --release -p fuzz --bin long -- 600 coap_datagram server_datagrams
//! ```
//!
//! Prints for each target how many inputs it took and the slowest of them. A panic ends the run, with the input written
//! to a file; so does an input that takes longer than 10 ms of CPU three times in a row, which is no accident of the
//! machine. A build without optimisation says nothing about time: it looks for panics only.
//! cargo-fuzz, which `../lib.rs` tells of, finds deeper paths; this needs nothing but the compiler.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::{Mutator, TARGETS, Target};
use nix::time::{ClockId, clock_gettime};

const SLOW: Duration = if cfg!(debug_assertions) {
    Duration::MAX
} else {
    Duration::from_millis(10)
};
/// What is kept as further seeds, since it took another amount of time than all before it.
const MOST_KEPT: usize = 1_000;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(seconds) = words.next().and_then(|word| word.parse().ok()) else {
        eprintln!("usage: long SECONDS [TARGET …]");
        return ExitCode::FAILURE;
    };
    let wanted: Vec<String> = words.collect();
    let mut good = true;
    for (name, target) in TARGETS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            good &= run(name, *target, Duration::from_secs(seconds));
        }
    }
    ExitCode::from(u8::from(!good))
}

fn run(name: &str, target: Target, limit: Duration) -> bool {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files = fs::read_dir(corpus).expect("a corpus folder for each target");
    let mut seeds: Vec<Vec<u8>> = files
        .flatten()
        .filter_map(|file| fs::read(file.path()).ok())
        .collect();
    let mut mutator = Mutator::new(0x5eed_0f2e);
    let (begun, mut inputs, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while begun.elapsed() < limit {
        let input = mutator.near(&seeds);
        let Some(mut took) = timed(target, &input) else {
            return report(name, "panics", &input);
        };
        for _ in 0..2 {
            if took <= SLOW {
                break;
            }
            took = timed(target, &input).unwrap_or(took).min(took);
        }
        if took > SLOW {
            return report(name, &format!("takes {took:?}"), &input);
        }
        if took > slowest {
            slowest = took;
            // What is slow may lie near what is slower.
            if seeds.len() < MOST_KEPT {
                seeds.push(input);
            }
        }
        inputs += 1;
    }
    let seconds = begun.elapsed().as_secs();
    println!("{name}: {inputs} inputs in {seconds} s, the slowest took {slowest:?}");
    true
}

/// How long it took; `None` if it panicked.
fn timed(target: Target, input: &[u8]) -> Option<Duration> {
    let begun = cpu();
    catch_unwind(AssertUnwindSafe(|| target(input))).ok()?;
    Some(cpu().saturating_sub(begun))
}

/// What this thread has used: it may share the machine.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn report(name: &str, what: &str, input: &[u8]) -> bool {
    let file = std::env::temp_dir().join(format!("zeelos-fuzz-{name}"));
    match fs::write(&file, input) {
        Ok(()) => println!("{name}: an input {what}; it is in {}", file.display()),
        Err(error) => println!("{name}: an input {what}, and was not kept: {error}: {input:02x?}"),
    }
    false
}
