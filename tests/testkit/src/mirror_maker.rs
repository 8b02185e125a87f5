use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::cache::{self, Entry};
use crate::process::{Child, Launch};
use crate::{RunDir, java};

const ARTIFACTS: [&str; 3] = [
    "org.apache.kafka:connect-mirror:4.3.1",
    "org.apache.kafka:connect-runtime:4.3.1",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
];

const LOGGING: &str = "appender.out.type = Console\nappender.out.name = out\nappender.out.layout.type = PatternLayout\n\
    appender.out.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n\nrootLogger.level = WARN\nrootLogger.appenderRef.out.ref = out\n";

/// MirrorMaker 2 in its dedicated mode, copying topics under their own names: the peer of benchmarks.
#[derive(Debug)]
pub struct MirrorMaker {
    // Ends before its directory goes.
    child: Child,
    _dir: RunDir,
}

/// What a [`MirrorMaker`] copies and how.
#[derive(Debug, Clone)]
pub struct MirrorMakerSettings<'a> {
    /// `host:port` of the cluster read from.
    pub source: &'a str,
    /// `host:port` of the cluster written to.
    pub target: &'a str,
    /// A regular expression of topics.
    pub topics: &'a str,
    pub compression: &'a str,
    /// The JVM's `-Xmx`.
    pub heap_mb: u32,
    pub tasks: u32,
}

impl MirrorMaker {
    /// Fetches it, once.
    pub async fn install() -> anyhow::Result<PathBuf> {
        let recipe = format!("{}{LOGGING}", ARTIFACTS.join(" "));
        let missing = match cache::entry("mirror-maker-4.3.1", &recipe).await? {
            Entry::Whole(dir) => return Ok(dir),
            Entry::Missing(missing) => missing,
        };
        let dir = missing.draft();
        java::copy_dependencies(dir, &ARTIFACTS).await?;
        fs::write(dir.join("log4j2.properties"), LOGGING)?;
        missing.place()?;
        missing.whole()
    }

    /// Starts it; it copies when it does, some seconds later. Batches of 256 KiB, 20 ms of linger, 5,000 records a poll.
    pub async fn start(settings: &MirrorMakerSettings<'_>) -> anyhow::Result<Self> {
        let installed = Self::install().await?;
        let dir = RunDir::new("mirror-maker")?;
        let file = dir.path().join("mm2.properties");
        fs::write(&file, properties(settings)).context("cannot write its properties")?;
        let launch = Launch::new("MirrorMaker 2", "java")
            .arg(format!("-Xmx{}m", settings.heap_mb))
            .arg("-XX:+UseSerialGC")
            .arg("-XX:+ExitOnOutOfMemoryError")
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                installed.join("log4j2.properties").display()
            ))
            .arg("-cp")
            .arg(java::class_path(&installed.join("lib"))?)
            .arg("org.apache.kafka.connect.mirror.MirrorMaker")
            .arg(&file)
            .current_dir(dir.path());
        let child = launch.spawn(&dir.path().join("mm2.log"))?;
        Ok(Self { child, _dir: dir })
    }

    /// The process, for what it uses, and its log.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

fn properties(settings: &MirrorMakerSettings<'_>) -> String {
    let tasks = settings.tasks.to_string();
    let all = [
        ("clusters", "source, target"),
        ("source.bootstrap.servers", settings.source),
        ("target.bootstrap.servers", settings.target),
        ("source->target.enabled", "true"),
        ("target->source.enabled", "false"),
        ("source->target.topics", settings.topics),
        (
            "replication.policy.class",
            "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
        ),
        ("plugin.discovery", "service_load"),
        ("tasks.max", &tasks),
        ("replication.factor", "1"),
        ("checkpoints.topic.replication.factor", "1"),
        ("heartbeats.topic.replication.factor", "1"),
        ("offset-syncs.topic.replication.factor", "1"),
        ("config.storage.replication.factor", "1"),
        ("offset.storage.replication.factor", "1"),
        ("status.storage.replication.factor", "1"),
        ("emit.heartbeats.enabled", "false"),
        ("emit.checkpoints.enabled", "false"),
        ("sync.topic.acls.enabled", "false"),
        ("sync.topic.configs.enabled", "false"),
        ("sync.group.offsets.enabled", "false"),
        ("source.consumer.auto.offset.reset", "earliest"),
        ("source.consumer.max.poll.records", "5000"),
        ("source.consumer.max.partition.fetch.bytes", "4194304"),
        ("target.producer.acks", "all"),
        ("target.producer.batch.size", "262144"),
        ("target.producer.linger.ms", "20"),
        ("target.producer.compression.type", settings.compression),
    ];
    all.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "{key} = {value}").expect("writing to a string");
        text
    })
}
