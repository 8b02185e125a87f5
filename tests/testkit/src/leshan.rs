use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::{self, Entry};
use crate::process::Child;
use crate::{RunDir, java, packages};

const ARTIFACTS: [&str; 2] = [
    "org.eclipse.leshan:leshan-lwm2m-client:2.0.0-M18",
    "org.eclipse.leshan:leshan-tl-cf-client-coap:2.0.0-M18",
];
const SOURCE: &str = include_str!("../java/TestClient.java");
const START: Duration = Duration::from_secs(60);

/// A LwM2M client on Eclipse Leshan's libraries: a device that nobody here wrote the protocol of.
///
/// Objects: Security (0), Server (1), Device (3, with a reboot that can be executed, and multiple resources 6, 7 and 11),
/// and Temperature (3303) with instances 0 and 1, whose 5700 changes every second until [`LeshanClient::set`] fixes it.
#[derive(Debug)]
pub struct LeshanClient {
    // Ends before its directory goes.
    child: Child,
    _dir: RunDir,
}

/// What a [`LeshanClient`] shall be like.
#[derive(Debug, Clone)]
pub struct LeshanClientBuilder {
    lifetime: Duration,
    settings: Vec<String>,
}

impl LeshanClientBuilder {
    /// The registration's lifetime, in whole seconds; default 300 s. It updates its registration a little before that.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// One of the settings that `TestClient.java` lists (`psk`, `cert`, `key`, `server`, `queue`).
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name}={value}"));
        self
    }

    /// Starts it; it tries to register until the server answers.
    pub async fn start(self, server_uri: &str, endpoint: &str) -> anyhow::Result<LeshanClient> {
        let installed = install().await?;
        start(&installed, &self, server_uri, endpoint).await
    }
}

impl LeshanClient {
    /// A client of LwM2M 1.1 that registers as `endpoint` at `server_uri` (`coap://127.0.0.1:5683`).
    pub async fn start(server_uri: &str, endpoint: &str) -> anyhow::Result<Self> {
        Self::builder().start(server_uri, endpoint).await
    }

    pub fn builder() -> LeshanClientBuilder {
        LeshanClientBuilder {
            lifetime: Duration::from_secs(300),
            settings: Vec::new(),
        }
    }

    /// Waits for its first successful registration, and answers the id that the server gave.
    pub async fn registered(&mut self, timeout: Duration) -> anyhow::Result<String> {
        let line = self.wait_for_line(timeout, "registered ").await?;
        Ok(line["registered ".len()..].to_owned())
    }

    /// Waits until it has printed a line that starts with `start`, and returns the first such.
    ///
    /// ```text
    /// registered <registration id>        updated                         deregistered
    /// registration failed <reason>        update failed <reason>
    /// executed <path> <arguments>         written <path> <value>          value <path> <value>
    /// collected                           sent <code>                     send failed <reason>
    /// ```
    pub async fn wait_for_line(
        &mut self,
        timeout: Duration,
        start: &str,
    ) -> anyhow::Result<String> {
        self.child
            .wait_for_line(
                timeout,
                &format!("the Leshan client to print '{start}…'"),
                |line| line.starts_with(start),
            )
            .await
    }

    /// All lines it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.child.output().lines().map(str::to_owned).collect()
    }

    /// Gives a reading (`3303/0/5700`) a value, which stays until the next call.
    pub fn set(&mut self, path: &str, value: f64) -> anyhow::Result<()> {
        self.child.write_line(&format!("set {path} {value}"))
    }

    /// Has it send (LwM2M's Send) what these paths have now, as `SENML_JSON` or `SENML_CBOR`; without paths, what it was
    /// told to [`LeshanClient::collect`], each value with its time.
    pub fn send(&mut self, format: &str, paths: &[&str]) -> anyhow::Result<()> {
        self.child
            .write_line(&format!("send {format} {}", paths.join(" ")))
    }

    /// Has it keep what these paths have now, for a later [`LeshanClient::send`].
    pub fn collect(&mut self, paths: &[&str]) -> anyhow::Result<()> {
        self.child
            .write_line(&format!("collect {}", paths.join(" ")))
    }

    /// Has it send a registration update now.
    pub fn update(&mut self) -> anyhow::Result<()> {
        self.child.write_line("update")
    }

    /// Has it deregister and stop talking.
    pub fn deregister(&mut self) -> anyhow::Result<()> {
        self.child.write_line("deregister")
    }

    /// The process, to kill or pause it, or to read its log.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }
}

async fn install() -> anyhow::Result<PathBuf> {
    let recipe = format!("{}{SOURCE}", ARTIFACTS.join(" "));
    let missing = match cache::entry("leshan-client-2.0.0-M18", &recipe).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    java::copy_dependencies(dir, &ARTIFACTS).await?;
    fs::write(dir.join("TestClient.java"), SOURCE)?;
    let lint = ["-Xlint:all,-processing,-classfile", "-Werror"];
    java::compile(dir, "TestClient.java", &lint).await?;
    // A class-data archive takes classes from jars only.
    let pack = [
        "--create",
        "--file",
        "lib/a-test-client.jar",
        "-C",
        "classes",
        ".",
    ];
    packages::run("jar", pack, Some(dir)).await?;
    let dir = missing.place()?;
    // Nobody answers at this port, but most classes are loaded by then.
    let unused = format!("coap://127.0.0.1:{}", crate::free_port());
    let trained = start(dir, &LeshanClient::builder(), &unused, "training").await?;
    let LeshanClient { child, _dir } = trained;
    java::write_archive(child, &archive(dir)).await?;
    missing.whole()
}

fn archive(installed: &Path) -> PathBuf {
    installed.join("leshan-client.jsa")
}

async fn start(
    installed: &Path,
    options: &LeshanClientBuilder,
    server_uri: &str,
    endpoint: &str,
) -> anyhow::Result<LeshanClient> {
    let dir = RunDir::new("leshan-client")?;
    let launch = java::jvm("Leshan client", &archive(installed))
        .arg("-cp")
        .arg(java::class_path(&installed.join("lib"))?)
        .arg("TestClient")
        .args([
            server_uri,
            endpoint,
            &options.lifetime.as_secs().to_string(),
        ])
        .args(&options.settings)
        .current_dir(dir.path());
    let mut child = launch.spawn(&dir.path().join("client.log"))?;
    child
        .wait_for_line(START, "the Leshan client to start", |line| {
            line == "started"
        })
        .await?;
    Ok(LeshanClient { child, _dir: dir })
}
