use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use bench::Usage;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use testkit::{Child, Launch, MirrorMaker, MirrorMakerSettings, RunDir};

use crate::world::{self, LOAD, PARTITIONS, WARM, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    AtLeastOnce,
    ExactlyOnce,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Contestant {
    Ours(Mode),
    Bare,
    MirrorMaker { heap_mb: u32 },
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours(Mode::AtLeastOnce) => "at-least-once",
            Self::Ours(Mode::ExactlyOnce) => "exactly-once",
            Self::Bare => "bare",
            Self::MirrorMaker { .. } => "mirrormaker",
        }
    }
}

/// What a contestant took.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) contestant: Contestant,
    records: u64,
    /// Until the one record was there.
    pub(crate) start_s: f64,
    start_cpu_s: f64,
    /// With its start.
    pub(crate) cpu_total_s: f64,
    /// From the first to the last record at the target.
    copying_s: f64,
    pub(crate) rss_peak_mb: f64,
    rewritten: u64,
}

impl Measured {
    /// Without its start.
    pub(crate) fn cpu_us(&self) -> f64 {
        (self.cpu_total_s - self.start_cpu_s).max(1e-3) * 1e6 / self.records as f64
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:>13.2} {:>12.2} {:>12.2} {:>10.0} {:>8.2} {:>8.0}   {} ids rewritten",
            self.contestant.name(),
            self.cpu_us(),
            self.start_cpu_s,
            self.cpu_total_s,
            self.records as f64 / self.copying_s,
            self.start_s,
            self.rss_peak_mb,
            self.rewritten,
        )
    }
}

/// Longest time for anything.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run(
    world: &World,
    program: &Path,
    contestant: Contestant,
    compression: &str,
) -> anyhow::Result<Measured> {
    world.clear_target().await?;
    let (start, warm) = copy(world, program, contestant, compression, WARM, 1).await?;
    let (_, load) = copy(world, program, contestant, compression, LOAD, world.records).await?;
    let rewritten = world.check_target().await?;
    if let Contestant::Ours(_) = contestant {
        ensure!(
            rewritten == world.records,
            "only {rewritten} records have the target's schema id"
        );
    }
    Ok(Measured {
        contestant,
        records: world.records,
        start_s: start.as_secs_f64(),
        start_cpu_s: warm.usage.cpu.as_secs_f64(),
        cpu_total_s: load.usage.cpu.as_secs_f64(),
        copying_s: load.copying.as_secs_f64(),
        rss_peak_mb: load.usage.rss_peak as f64 / 1e6,
        rewritten,
    })
}

struct Copied {
    usage: Usage,
    copying: Duration,
}

/// Answers how long until the first record was there, and what all of it took.
async fn copy(
    world: &World,
    program: &Path,
    contestant: Contestant,
    compression: &str,
    topic: &str,
    records: u64,
) -> anyhow::Result<(Duration, Copied)> {
    let (source, target) = (world.source.bootstrap(), world.target.bootstrap());
    let dir = RunDir::new("bench-mirror")?;
    let began = Instant::now();
    let mut process = match contestant {
        Contestant::Ours(mode) => {
            let (delivery, flow) = match mode {
                Mode::AtLeastOnce => ("at-least-once", format!("bench-alo-{topic}")),
                Mode::ExactlyOnce => ("exactly-once", format!("bench-eo-{topic}")),
            };
            let launch = Launch::new("mirror", program)
                .args(["mirror", "--topics", topic, "--flow", &flow])
                .args(["--delivery", delivery, "--compression", compression])
                .args(["--source-bootstrap-server", source])
                .args(["--target-bootstrap-server", target])
                .args(["--source-schema-registry-url", &world.source_registry])
                .args(["--target-schema-registry-url", &world.target_registry]);
            Process::Plain(launch.spawn(&dir.path().join("log"))?)
        }
        Contestant::Bare => {
            let launch = Launch::new("bare copy loop", std::env::current_exe()?)
                .args(["bare", "--topic", topic, "--compression", compression])
                .args(["--source", source, "--target", target]);
            Process::Plain(launch.spawn(&dir.path().join("log"))?)
        }
        Contestant::MirrorMaker { heap_mb } => Process::MirrorMaker(
            MirrorMaker::start(&MirrorMakerSettings {
                source,
                target,
                topics: topic,
                compression,
                heap_mb,
                tasks: u32::try_from(PARTITIONS)?,
            })
            .await?,
        ),
    };
    let consumer = world::reader(target)?;
    let mut first = None;
    loop {
        let there = arrived(&consumer, topic)?;
        if there > 0 && first.is_none() {
            first = Some(Instant::now());
        }
        if there >= records {
            break;
        }
        if let Some(status) = process.child().exited()? {
            bail!(
                "{} ended ({status}): {}",
                contestant.name(),
                process.child().tail()
            );
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "{}: {there} of {records} records arrived; {}",
            contestant.name(),
            process.child().tail()
        );
        tokio::time::sleep(Duration::from_millis(if first.is_some() { 50 } else { 10 })).await;
    }
    let copying = first.map_or(Duration::ZERO, |first| first.elapsed());
    let start = first.map_or(Duration::ZERO, |first| first - began);
    // What it still has to do for these records: offsets, acknowledgements.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let usage = Usage::of(process.child().id())?;
    process
        .child()
        .terminate(Duration::from_secs(30))
        .await
        .ok();
    Ok((start, Copied { usage, copying }))
}

/// Offsets at the target. Markers of transactions take some too, so the last records may come a moment later.
fn arrived(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        sum += consumer.fetch_watermarks(topic, partition, PATIENCE)?.1;
    }
    Ok(u64::try_from(sum)?)
}

enum Process {
    Plain(Child),
    MirrorMaker(MirrorMaker),
}

impl Process {
    fn child(&mut self) -> &mut Child {
        match self {
            Self::Plain(child) => child,
            Self::MirrorMaker(maker) => maker.process(),
        }
    }
}
