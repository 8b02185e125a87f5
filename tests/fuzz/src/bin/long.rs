//! A long run on stable Rust: changed seeds for every target, or for those that are named, so many seconds each.
//!
//! ```text
//! cargo run --release -p fuzz --bin long -- 600 coap_datagram server_datagrams
//! ```
//!
//! Prints for each target how many inputs it took, the slowest of them, and the most that one took from the heap. A
//! panic ends the run, with the input written to a file; so does an input that takes longer than 10 ms of CPU three times
//! in a row, which is no accident of the machine, or, where it is a datagram, more memory than its length explains. A build
//! without optimisation says nothing about time: it looks for panics and for memory only.
//! cargo-fuzz, which `../lib.rs` tells of, finds deeper paths; this needs nothing but the compiler.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use fuzz::{FROM_THE_NETWORK, Mutator, TARGETS, Target};
use nix::time::{ClockId, clock_gettime};

const SLOW: Duration = if cfg!(debug_assertions) {
    Duration::MAX
} else {
    Duration::from_millis(10)
};
/// What is kept as further seeds, since it took another amount of time than all before it.
const MOST_KEPT: usize = 1_000;
/// From the heap, for each KiB of a datagram that is begun: 64 KiB for what is read of it, twice, since most entries write
/// what they have read, read that again, and compare the two.
const MOST_TAKEN: u64 = 2 * (64 << 10);
/// A longer step is one in which the process was stopped; it does not count as time of the run.
const LONGEST_STEP: Duration = Duration::from_millis(200);

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
    // What is made once per process, and what the entry itself sets up, is not the input's.
    target(&[]);
    let idle = measure(|| target(&[])).bytes_max;
    let (mut ran, mut inputs, mut slowest, mut most) = (Duration::ZERO, 0_u64, Duration::ZERO, 0);
    let is_datagram = FROM_THE_NETWORK.contains(&name);
    let (mut step, cpu_before) = (Instant::now(), cpu());
    while ran < limit {
        let input = mutator.near(&seeds);
        let Some((mut took, taken)) = measured(target, &input) else {
            return report(name, "panics", &input);
        };
        for _ in 0..2 {
            if took <= SLOW {
                break;
            }
            took = measured(target, &input).map_or(took, |(again, _)| again.min(took));
        }
        if took > SLOW {
            return report(name, &format!("takes {took:?}"), &input);
        }
        let taken = taken.saturating_sub(idle);
        if is_datagram && taken > MOST_TAKEN * input.len().div_ceil(1_024).max(1) as u64 {
            return report(name, &format!("takes {taken} bytes of memory"), &input);
        }
        // What is slow or large may lie near what is slower or larger.
        let further = took > slowest || taken > most;
        (slowest, most) = (slowest.max(took), most.max(taken));
        if further && seeds.len() < MOST_KEPT {
            seeds.push(input);
        }
        inputs += 1;
        let now = Instant::now();
        ran += (now - step).min(LONGEST_STEP);
        step = now;
    }
    let (seconds, used) = (ran.as_secs(), cpu().saturating_sub(cpu_before).as_secs());
    println!(
        "{name}: {inputs} inputs in {seconds} s ({used} s of CPU), the slowest took {slowest:?}, the largest {most} bytes"
    );
    true
}

/// How long it took, and how much of the heap at one time; `None` if it panicked.
fn measured(target: Target, input: &[u8]) -> Option<(Duration, u64)> {
    let (begun, mut whole) = (cpu(), true);
    let heap = measure(|| whole = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok());
    whole.then(|| (cpu().saturating_sub(begun), heap.bytes_max))
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
