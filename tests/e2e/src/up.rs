use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use testkit::{Child, Launch, wait_for};

use crate::processes::{Process, children_of};
use crate::service::http;
use crate::zeelos;

/// A Kafka cluster and its registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    pub bootstrap: String,
    pub registry: String,
}

/// A running `zeelos up` with the gateway `demo`.
#[derive(Debug)]
pub struct Up {
    child: Child,
    pub cloud: Site,
    pub edge: Site,
    /// `host:port` for devices.
    pub coap: String,
    data: PathBuf,
}

impl Up {
    /// Starts it with its data in `data`, and waits until it has printed where everything is.
    ///
    /// # Errors
    /// When it ends, or does not print that within 30 s.
    pub async fn start(data: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = data.with_extension(format!("{}.log", count_logs(data)));
        let mut child = Launch::new("zeelos up", zeelos())
            .args(["up", "--no-view", "--data-dir"])
            .arg(data)
            .args(arguments)
            .spawn(&log)?;
        child
            .wait_for_line(Duration::from_secs(30), "the addresses", |line| {
                line.starts_with("try, ")
            })
            .await?;
        let output = child.output();
        let word_after = |line: &str, word: &str| {
            let line = output.lines().find(|found| found.starts_with(line));
            let mut words = line.unwrap_or_default().split_whitespace();
            words.find(|found| *found == word);
            words
                .next()
                .map(str::to_owned)
                .with_context(|| format!("no '{word}' behind '{line:?}' in\n{output}"))
        };
        let site = |line: &str| {
            anyhow::Ok(Site {
                bootstrap: word_after(line, "Kafka")?,
                registry: word_after(line, "registry")?,
            })
        };
        let coap = output
            .split_whitespace()
            .find_map(|word| word.strip_prefix("coap://"))
            .with_context(|| format!("no coap:// in\n{output}"))?
            .to_owned();
        Ok(Self {
            cloud: site("cloud ")?,
            edge: site("demo ")?,
            coap,
            data: data.to_owned(),
            child,
        })
    }

    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it has ended, and answers how.
    ///
    /// # Errors
    /// When it has not in time; it is killed then.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.exited()? {
                return Ok(status);
            }
            if since.elapsed() > limit {
                let said = self.child.tail();
                self.child.kill();
                bail!("up did not end within {limit:?}:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its children.
    pub fn children(&self) -> Vec<Process> {
        children_of(self.child.id())
    }

    /// The child that runs the service named first, with arguments that end in the other words.
    ///
    /// # Errors
    /// When not exactly one has.
    pub fn child(&self, words: &[&str]) -> anyhow::Result<Process> {
        let mut found: Vec<Process> = self
            .children()
            .into_iter()
            .filter(|child| child.is(words))
            .collect();
        ensure!(
            found.len() == 1,
            "{} children have {words:?} among {:?}",
            found.len(),
            self.children()
        );
        Ok(found.remove(0))
    }

    /// Waits until every child is ready.
    ///
    /// # Errors
    /// When one is not within 40 s.
    pub async fn ready(&self) -> anyhow::Result<()> {
        wait_for(RESTART, "all children to be ready", async || {
            for child in self.children() {
                is_ready(&child).await?;
            }
            Ok(())
        })
        .await
    }

    /// Waits until a child that is not `old` runs in its place and is ready.
    ///
    /// # Errors
    /// When none is within 40 s.
    pub async fn replaced(&self, words: &[&str], old: u32) -> anyhow::Result<Process> {
        let what = format!("another child {words:?} than {old}");
        wait_for(RESTART, &what, async || {
            let child = self.child(words)?;
            ensure!(child.id != old, "the old one is there");
            is_ready(&child).await?;
            Ok(child)
        })
        .await
    }

    /// The embedded time-series store.
    pub fn time_series(&self) -> PathBuf {
        self.data.join("cloud").join("time-series.db")
    }

    /// The embedded graph.
    pub fn graph(&self) -> PathBuf {
        self.data.join("cloud").join("graph.db")
    }

    /// The ends of its own output and of all children's logs, for failure messages.
    pub fn logs(&self) -> String {
        format!("--- up\n{}\n{}", self.child.tail(), all_logs(&self.data))
    }

    /// The end of a child's log, for failure messages.
    pub fn log_of(&self, name: &str) -> String {
        let path = self.data.join("logs").join(format!("{name}.log"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The ends of all logs, for failure messages.
fn all_logs(data: &Path) -> String {
    let mut text = String::new();
    let logs = std::fs::read_dir(data.join("logs"));
    for log in logs.into_iter().flatten().flatten() {
        let all = std::fs::read_to_string(log.path()).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        let end = lines[lines.len().saturating_sub(12)..].join("\n");
        text.push_str(&format!("--- {}\n{end}\n", log.path().display()));
    }
    text
}

/// How long a child may take to be ready (again).
const RESTART: Duration = Duration::from_secs(40);

async fn is_ready(child: &Process) -> anyhow::Result<()> {
    let admin = child
        .option("--admin-listen")
        .context("no admin listener")?;
    let answer = http().get(format!("http://{admin}/readyz")).send().await;
    let answer = answer.with_context(|| format!("{:?}", child.args))?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(
        status.is_success(),
        "/readyz of {:?} says {status}: {text}",
        child.args
    );
    Ok(())
}

/// Each start writes a log of its own, so that addresses of an earlier one are not taken for its.
fn count_logs(data: &Path) -> usize {
    (0..)
        .take_while(|n| data.with_extension(format!("{n}.log")).exists())
        .count()
}
