use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use testkit::{Child, Launch, RunDir, free_port};

use crate::Usage;

/// The `zeelos` program to measure: what `ZEELOS_PROGRAM` names, else a release build, which is made or brought up to
/// date by cargo.
///
/// # Errors
/// When it does not build.
pub fn release_program() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("ZEELOS_PROGRAM") {
        return Ok(given.into());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace())
        .args(["build", "--release", "--locked", "-p", "zeelos"]);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the zeelos program does not build");
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    };
    Ok(target.join("release/zeelos"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies two levels below the workspace")
}

/// A service of the program as a process of its own, killed when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    launch: Launch,
    admin: String,
    // Goes after the process.
    dir: RunDir,
}

const READY: Duration = Duration::from_secs(120);

impl Service {
    /// Starts `<program> <name> <arguments>` in a folder of its own, and waits until its `/readyz` says so.
    ///
    /// # Errors
    /// When it ends, or is not ready in two minutes.
    pub async fn start(
        program: &Path,
        name: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let dir = RunDir::new(name)?;
        let admin = format!("127.0.0.1:{}", free_port());
        let launch = Launch::new(name, program)
            .arg(name)
            .args(arguments)
            .args(["--admin-listen", &admin])
            .current_dir(dir.path());
        let child = launch.spawn(&dir.path().join("log"))?;
        let mut service = Self {
            child,
            launch,
            admin,
            dir,
        };
        service.ready().await?;
        Ok(service)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.admin);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let probe = async || {
            let answer = client.get(&url).send().await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status.is_success(), "/readyz says {status}: {text}");
            Ok(())
        };
        self.child.ready(READY, probe).await
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again with the same arguments in the same folder, after [`Service::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = self.launch.spawn(&self.dir.path().join("log"))?;
        self.ready().await
    }

    /// What its process has used until now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// The text of its `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/metrics", self.admin);
        Ok(client.get(url).send().await?.text().await?)
    }

    /// The value of a metric, by its name with labels as it is written: `zeelos_spool_refused_total`.
    ///
    /// # Errors
    /// When it does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("there is no metric {name}"))?;
        Ok(value.trim().parse()?)
    }

    /// The folder it runs in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}
