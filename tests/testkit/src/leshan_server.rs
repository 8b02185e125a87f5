use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Entry};
use crate::process::{Child, Launch};
use crate::{RunDir, java, packages};

const ARTIFACTS: [&str; 2] = [
    "org.eclipse.leshan:leshan-lwm2m-server:2.0.0-M18",
    "org.eclipse.leshan:leshan-tl-cf-server-coap:2.0.0-M18",
];
const SOURCE: &str = include_str!("../java/BenchServer.java");
const START: Duration = Duration::from_secs(60);

/// Eclipse Leshan's LwM2M server on its libraries, everything in memory, at its defaults: the peer of benchmarks.
#[derive(Debug)]
pub struct LeshanServer {
    // Ends before its directory goes.
    child: Child,
    port: u16,
    asked: usize,
    _dir: RunDir,
}

/// What a [`LeshanServer`] says it has been told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeshanCounts {
    pub registered: u64,
    pub updated: u64,
    pub deregistered: u64,
    /// Notifications, the first value of each observation not included.
    pub notified: u64,
}

impl LeshanServer {
    /// Starts it on a free loopback port. `heap_mb` is the JVM's `-Xmx`; `None` leaves it at the JVM's default.
    pub async fn start(heap_mb: Option<u32>) -> anyhow::Result<Self> {
        let installed = install().await?;
        let dir = RunDir::new("leshan-server")?;
        let port = crate::free_port();
        let heap = heap_mb.map(|mb| format!("-Xmx{mb}m"));
        let launch = Launch::new("Leshan server", "java")
            .args(heap)
            .arg("-XX:+ExitOnOutOfMemoryError")
            .arg("-cp")
            .arg(java::class_path(&installed.join("lib"))?)
            .arg("BenchServer")
            .arg(port.to_string())
            .current_dir(dir.path());
        let mut child = launch.spawn(&dir.path().join("server.log"))?;
        child
            .wait_for_line(START, "the Leshan server to start", |line| {
                line == "started"
            })
            .await?;
        Ok(Self {
            child,
            port,
            asked: 0,
            _dir: dir,
        })
    }

    /// The UDP port on 127.0.0.1 where devices come to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Has it observe a path of the devices `<prefix>0`, `<prefix>1` …; how many of them said yes.
    pub async fn observe(&mut self, path: &str, prefix: &str, count: usize) -> anyhow::Result<u64> {
        let numbers = self
            .ask(&format!("observe {path} {prefix} {count}"), "observing ")
            .await?;
        numbers.first().copied().context("no number")
    }

    /// What it has been told so far.
    pub async fn counts(&mut self) -> anyhow::Result<LeshanCounts> {
        let numbers = self.ask("counts", "counts ").await?;
        let [registered, updated, deregistered, notified] = numbers[..] else {
            anyhow::bail!("not four numbers: {numbers:?}");
        };
        Ok(LeshanCounts {
            registered,
            updated,
            deregistered,
            notified,
        })
    }

    /// The process, for what reads `/proc`.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Writes a command and reads the numbers of its answer: the one after all answers before.
    async fn ask(&mut self, command: &str, answer: &str) -> anyhow::Result<Vec<u64>> {
        self.child.write_line(command)?;
        self.asked += 1;
        let asked = self.asked;
        let is_answer = |line: &&str| line.starts_with("observing ") || line.starts_with("counts ");
        let look = async |output: String| {
            let whole = output.rfind('\n').map_or("", |end| &output[..end]);
            let line = whole.lines().filter(is_answer).nth(asked - 1);
            line.map(str::to_owned).context("no answer yet")
        };
        let log = self._dir.path().join("server.log");
        let line = self
            .child
            .ready(Duration::from_secs(120), async || {
                look(fs::read_to_string(&log)?).await
            })
            .await?;
        line.strip_prefix(answer)
            .with_context(|| format!("the answer to '{command}' is '{line}'"))?
            .split(' ')
            .map(|number| Ok(number.parse()?))
            .collect()
    }
}

async fn install() -> anyhow::Result<PathBuf> {
    let recipe = format!("{}{SOURCE}", ARTIFACTS.join(" "));
    let missing = match cache::entry("leshan-server-2.0.0-M18", &recipe).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    java::copy_dependencies(dir, &ARTIFACTS).await?;
    fs::write(dir.join("BenchServer.java"), SOURCE)?;
    let lint = ["-Xlint:all,-processing,-classfile", "-Werror"];
    java::compile(dir, "BenchServer.java", &lint).await?;
    let pack = [
        "--create",
        "--file",
        "lib/a-bench-server.jar",
        "-C",
        "classes",
        ".",
    ];
    packages::run("jar", pack, Some(dir)).await?;
    missing.place()?;
    missing.whole()
}
