use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use testkit::{Child, Launch, RunDir, free_port};

use crate::zeelos;

/// A service of the program as an operator runs it: one process, killed when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    launch: Launch,
    admin: String,
    // Goes after the process.
    dir: RunDir,
}

/// How long a service may take until its `/readyz` says so.
const READY: Duration = Duration::from_secs(60);

impl Service {
    /// Starts `zeelos <name> <arguments>` and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn start(
        name: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let mut service = Self::spawn(name, arguments)?;
        service.ready().await?;
        Ok(service)
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(
        name: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let dir = RunDir::new(name)?;
        let admin = format!("127.0.0.1:{}", free_port());
        let launch = Launch::new(name, zeelos())
            .arg(name)
            .args(arguments)
            .args(["--admin-listen", &admin])
            .current_dir(dir.path());
        let child = launch.spawn(&dir.path().join("log"))?;
        Ok(Self {
            child,
            launch,
            admin,
            dir,
        })
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When it ends, or does not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.admin);
        let client = http();
        self.child
            .ready(READY, async || {
                let answer = client.get(&url).send().await?;
                let (status, text) = (answer.status(), answer.text().await?);
                ensure!(status.is_success(), "/readyz says {status}: {text}");
                Ok(())
            })
            .await
    }

    /// The folder it runs in, for its data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `host:port` of its admin listener.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills it as a crash would.
    pub fn crash(&mut self) {
        self.child.kill();
    }

    /// Starts it again with the same arguments in the same folder, and does not wait.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill();
        self.child = self.launch.spawn(&self.dir.path().join("log"))?;
        Ok(())
    }

    /// [`Service::crash`], [`Service::restart`], and waits until it is ready.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn crash_and_restart(&mut self) -> anyhow::Result<()> {
        self.crash();
        self.restart()?;
        self.ready().await
    }
}

/// A client without a proxy and with a limit.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .expect("a client without certificates of its own can be built")
}
