//! The LwM2M server beside Eclipse Leshan's: CPU per operation, memory, latency to Kafka, a crash.
//!
//! Both get the same datagrams from the same tool in one run. Ours produces its events to Kafka (the embedded broker,
//! a process of its own whose CPU is not counted), Leshan keeps all in memory.

mod leshan;
mod ours;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context as _, ensure};
use bench::{Fleet, Outcome, last_line};
use clap::Parser;

/// Measures the LwM2M server beside Leshan 2.0.0-M18
#[derive(Parser, Clone, Debug)]
struct Args {
    /// Small numbers, for a look while one works
    #[arg(long)]
    quick: bool,
    /// Leaves Leshan out; there are no ratios then
    #[arg(long)]
    ours_only: bool,
    /// Takes these parts only: cpu, memory, latency, storm
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Args {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn sizes(&self) -> Sizes {
        if self.quick {
            Sizes {
                warm_up: 5_000,
                registrations: 10_000,
                observed: 500,
                warming_notifications: 50_000,
                notifications: 50_000,
                memory: [5_000, 20_000],
                long_run: 200_000,
                latency_seconds: 5,
            }
        } else {
            Sizes {
                warm_up: 60_000,
                registrations: 30_000,
                observed: 2_000,
                warming_notifications: 300_000,
                notifications: 300_000,
                memory: [10_000, 100_000],
                long_run: 1_000_000,
                latency_seconds: 20,
            }
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    warm_up: usize,
    registrations: usize,
    observed: usize,
    warming_notifications: usize,
    notifications: usize,
    memory: [usize; 2],
    long_run: usize,
    latency_seconds: u32,
}

/// Exchanges on their way at one time, where it goes as fast as it can.
const WINDOW: usize = 256;
const PATH: &str = "3303/0/5700";

/// CPU microseconds for each operation.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    register: f64,
    update: f64,
    notify: f64,
}

/// Resident megabytes with the smaller and with the larger number of registrations.
#[derive(Clone, Copy, Debug, Default)]
struct Memory([f64; 2]);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&args))
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let sizes = args.sizes();
    let program = bench::release_program()?;
    let mut line = Vec::new();
    let peer = !args.ours_only;
    if args.wants("cpu") {
        let ours = ours::cpu(&program, sizes).await?;
        if peer {
            let theirs = leshan::cpu(sizes).await?;
            for (name, ours, theirs) in [
                ("register", ours.register, theirs.register),
                ("update", ours.update, theirs.update),
                ("confirmable notification", ours.notify, theirs.notify),
            ] {
                println!("CPU µs each, {name}: ours {ours:.1}, Leshan {theirs:.1}");
            }
            line.push(("register_cpu", theirs.register / ours.register));
            line.push(("notify_cpu", theirs.notify / ours.notify));
        }
    }
    if args.wants("memory") {
        let ours = ours::memory(&program, sizes).await?;
        if peer {
            let default_heap = leshan::memory(sizes).await?;
            let smallest = leshan::smallest_memory(sizes).await?;
            for at in [0, 1] {
                println!(
                    "resident MB with {} registrations: ours {:.1}, Leshan {:.0}, Leshan with the smallest heap {:.0}",
                    sizes.memory[at], ours.0[at], default_heap.0[at], smallest.0[at]
                );
            }
            // The peer at its best: with the smallest heap that works.
            line.push(("rss_10k", smallest.0[0] / ours.0[0]));
            line.push(("rss_100k", smallest.0[1] / ours.0[1]));
        }
    }
    if args.wants("storm") {
        ours::storm(&program, sizes).await?;
    }
    if args.wants("latency") {
        let p99 = ours::latency(&program, sizes).await?;
        line.push(("notify_to_kafka_p99_ms", p99));
    }
    println!("{}", last_line(&line));
    Ok(())
}

fn said(who: &str, what: &str, outcome: &Outcome) {
    println!(
        "{who}: {} {what} in {:.1} s, {:.0}/s, answered p50 {:.2} ms, p99 {:.2} ms, sent again {}",
        outcome.succeeded,
        outcome.took.as_secs_f64(),
        outcome.per_second(),
        outcome.latency_ms(0.5),
        outcome.latency_ms(0.99),
        outcome.retransmitted
    );
}

/// Has this many of the devices observed, by a server that is asked to; they answer meanwhile.
async fn observed(
    mut fleet: Fleet,
    count: usize,
    asking: impl Future<Output = anyhow::Result<u64>>,
) -> anyhow::Result<Fleet> {
    static DONE: AtomicBool = AtomicBool::new(false);
    DONE.store(false, Relaxed);
    let serving = std::thread::spawn(move || {
        fleet.serve(|_| DONE.load(Relaxed))?;
        anyhow::Ok(fleet)
    });
    let observing = asking.await;
    DONE.store(true, Relaxed);
    let fleet = serving.join().expect("it does not panic")?;
    let observing = observing.context("observing")?;
    ensure!(
        observing == count as u64 && fleet.observed_devices() == count,
        "{count} devices were to be observed: the server says {observing}, {} were asked",
        fleet.observed_devices()
    );
    Ok(fleet)
}
