use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{Site, zeelos};

/// A command of the program, run to its end.
#[derive(Debug)]
pub struct Zeelos {
    command: Command,
    input: String,
    limit: Duration,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Zeelos {
    /// `zeelos <words…>`, the words parted by spaces.
    pub fn new(words: &str) -> Self {
        Self::called(zeelos(), words.split_whitespace())
    }

    /// The same by another path, for links to the program.
    pub fn called(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        // The kernel ends it with the test's thread, so that a test that fails leaves nothing behind.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let ours = name
                .to_str()
                .is_some_and(|name| name.starts_with("ZEELOS_") || name.starts_with("KAFKA_"));
            if ours {
                command.env_remove(name);
            }
        }
        Self {
            command,
            input: String::new(),
            limit: Duration::from_secs(90),
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The options that lead to a site's broker and registry.
    pub fn at(self, site: &Site) -> Self {
        self.arg("--kafka-bootstrap-server")
            .arg(&site.bootstrap)
            .arg("--kafka-schema-registry-url")
            .arg(&site.registry)
    }

    /// What it reads from standard input, which ends then.
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = text.into();
        self
    }

    /// How long it may take; default 90 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it can't be started, or has not ended in time (it is killed then).
    pub async fn run(mut self) -> anyhow::Result<Outcome> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().context("can't start the program")?;
        let mut stdin = child.stdin.take().context("spawned with a pipe")?;
        let input = self.input;
        let fed = async move {
            // One that ends without reading is no error here.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let ended = async {
            let (output, ()) = tokio::join!(child.wait_with_output(), fed);
            output
        };
        let Ok(output) = tokio::time::timeout(self.limit, ended).await else {
            bail!("{:?} did not end within {:?}", self.command, self.limit);
        };
        let output = output?;
        Ok(Outcome {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; another code than 0 is an error that holds what it wrote.
    ///
    /// # Errors
    /// As [`Zeelos::run`], and when the command fails.
    pub async fn succeed(self) -> anyhow::Result<Outcome> {
        let said = format!("{:?}", self.command.as_std());
        let outcome = self.run().await?;
        if outcome.status.success() {
            Ok(outcome)
        } else {
            bail!("{said} failed: {outcome}")
        }
    }
}

impl Outcome {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON on {self}"))
    }

    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}
