//! The mirror beside MirrorMaker 2 and a bare copy loop, on real Kafka, in one run.
//!
//! Two brokers, each with a schema registry whose ids clash with the other's. Each contestant copies the same records of
//! an observation's size, first one record (what it costs to start), then all of them. At the target every record is
//! counted by its number, so that one lost or copied twice fails the run; of ours the schema ids are looked at as well.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod bare;
mod bridge;
mod contest;
mod wan;
mod world;

use bench::last_line;
use clap::{Parser, Subcommand};

use contest::{Contestant, Mode};
use world::World;

/// The mirror beside MirrorMaker 2 and a bare copy loop.
#[derive(Parser, Debug)]
struct Arguments {
    /// Records that each contestant copies
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// How long the long link is loaded, in seconds
    #[arg(long, default_value_t = 30)]
    wan_s: u64,
    /// MirrorMaker 2's heap
    #[arg(long, default_value_t = 256)]
    heap_mb: u32,
    /// Compression at the target, for all
    #[arg(long, default_value = "snappy")]
    compression: String,
    /// Only these: at-least-once, exactly-once, bare, mirrormaker, wan, bridge
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What it starts as processes of their own.
#[derive(Subcommand, Debug)]
enum Part {
    /// The bare copy loop.
    #[command(hide = true)]
    Bare(bare::BareArgs),
    /// The bridge's encoding and producing, without devices.
    #[command(hide = true)]
    Bridge(bridge::BridgeArgs),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Bare(args)) => bare::run(&args),
        Some(Part::Bridge(args)) => bridge::run(&args),
        None => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(compare(&arguments)),
    }
}

async fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let program = bench::release_program()?;
    let world = World::start(&program, arguments.records).await?;
    println!(
        "{} records, {} bytes each with their key, {} partitions, {} at the target",
        arguments.records,
        world.record_bytes,
        world::PARTITIONS,
        arguments.compression
    );
    let contestants = [
        Contestant::Ours(Mode::AtLeastOnce),
        Contestant::Ours(Mode::ExactlyOnce),
        Contestant::Bare,
        Contestant::MirrorMaker {
            heap_mb: arguments.heap_mb,
        },
    ];
    println!(
        "\ncontestant               CPU µs/record  start CPU s  total CPU s  records/s  start s  peak MB"
    );
    let mut results = Vec::new();
    for contestant in contestants {
        if !wanted(contestant.name()) {
            continue;
        }
        let result = contest::run(&world, &program, contestant, &arguments.compression).await?;
        println!("{result}");
        results.push(result);
    }
    if wanted("bridge") {
        bridge::report(&world, &arguments.compression).await?;
    }
    let mut wan_lag_s = f64::NAN;
    if wanted("wan") {
        wan_lag_s = wan::run(&program, arguments.wan_s).await?;
    }
    let of = |name: &str| {
        results
            .iter()
            .find(|result| result.contestant.name() == name)
    };
    if let (Some(ours), Some(alo), Some(bare), Some(peer)) = (
        of("exactly-once"),
        of("at-least-once"),
        of("bare"),
        of("mirrormaker"),
    ) {
        // Ours in its default mode, exactly once; so is the peer's delivery not, which costs it nothing here.
        let line = last_line(&[
            ("cpu_per_record", peer.cpu_us() / ours.cpu_us()),
            ("cpu_total", peer.cpu_total_s / ours.cpu_total_s),
            ("rss", peer.rss_peak_mb / ours.rss_peak_mb),
            ("start_s", ours.start_s),
            ("cpu_vs_bare_loop", alo.cpu_us() / bare.cpu_us()),
            ("wan_lag_s", wan_lag_s),
        ]);
        println!("\n{line}");
    }
    Ok(())
}
