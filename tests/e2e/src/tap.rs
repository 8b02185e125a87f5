use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use testkit::{Child, Launch, RunDir, wait_for};

use crate::{Site, zeelos};

/// All records of a topic, from its beginning on, as `zeelos consume` prints them.
#[derive(Debug)]
pub struct Tap {
    child: Child,
    topic: String,
    // Goes after the process.
    _dir: RunDir,
}

/// A record as it was printed.
#[derive(Clone, Debug)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub headers: BTreeMap<String, String>,
    /// As printed: Avro JSON, with `@<window start>` behind it where the topic's keys have one.
    pub key: String,
    /// Avro JSON, or the text of what is not Avro.
    pub value: Value,
}

impl Tap {
    /// Opens a topic, once it exists.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn open(site: &Site, topic: &str) -> anyhow::Result<Self> {
        let dir = RunDir::new("tap")?;
        let launch = Launch::new(format!("consume {topic}"), zeelos())
            .args(["consume", "--from-beginning", "--print-key", "--print-meta"])
            .args(["--topic", topic])
            .args(["--kafka-bootstrap-server", &site.bootstrap])
            .args(["--kafka-schema-registry-url", &site.registry]);
        let log = dir.path().join("records");
        let what = format!("topic {topic} at {}", site.bootstrap);
        let child = wait_for(Duration::from_secs(60), &what, async || {
            let _ = std::fs::remove_file(&log);
            let mut child = launch.spawn(&log)?;
            // It ends at once where there is no such topic.
            for _ in 0..15 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if child.exited()?.is_some() {
                    bail!("{}", child.output());
                }
                if !child.output().is_empty() {
                    break;
                }
            }
            Ok(child)
        })
        .await?;
        Ok(Self {
            child,
            topic: topic.to_owned(),
            _dir: dir,
        })
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Seen> {
        self.child.output().lines().filter_map(parse).collect()
    }

    /// The first record that `wanted` accepts, now or later.
    ///
    /// # Errors
    /// When there is none in time; the message has the last records.
    pub async fn wait(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<Seen> {
        let line = self
            .child
            .wait_for_line(limit, what, |line| {
                parse(line).is_some_and(|seen| wanted(&seen))
            })
            .await
            .with_context(|| format!("{what} on {}", self.topic))?;
        parse(&line).context("it was parsed before")
    }

    /// The reply (or observation) with this ticket.
    ///
    /// # Errors
    /// As [`Tap::wait`].
    pub async fn ticket(&mut self, limit: Duration, ticket: &str) -> anyhow::Result<Seen> {
        let what = format!("ticket {ticket}");
        self.wait(limit, &what, |seen| seen.value["ticket"] == ticket)
            .await
    }
}

/// `<partition>/<offset> <timestamp> [<name>=<value> …] TAB <key> TAB <value>`
fn parse(line: &str) -> Option<Seen> {
    let mut parts = line.splitn(3, '\t');
    let (meta, key, value) = (parts.next()?, parts.next()?, parts.next()?);
    let mut words = meta.split(' ');
    let (partition, offset) = words.next()?.split_once('/')?;
    let timestamp_ms = words.next()?.parse().ok()?;
    // A header's value may have spaces: what has no '=' goes on with the one before.
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for word in words {
        match (word.split_once('='), &last) {
            (Some((name, value)), _) => {
                headers.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            (None, Some(name)) => {
                let value: &mut String = headers.entry(String::clone(name)).or_default();
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => return None,
        }
    }
    Some(Seen {
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        timestamp_ms,
        headers,
        key: key.to_owned(),
        value: serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
    })
}

impl Seen {
    /// The number in a reading of one resource.
    pub fn number(&self) -> Option<f64> {
        self.resource()["value"]["double"].as_f64()
    }

    /// The text in a reading of one resource.
    pub fn text(&self) -> Option<&str> {
        self.resource()["value"]["string"].as_str()
    }

    /// The resource that was read.
    pub fn resource(&self) -> &Value {
        &self.value["rep"]["body"]["io.zeelos.leshan.avro.response.AvroReadResponseBody"]["content"]
            ["io.zeelos.leshan.avro.resource.AvroResource"]
    }

    /// The message of a reply that has nothing else.
    pub fn message(&self) -> Option<&str> {
        self.value["rep"]["body"]["io.zeelos.leshan.avro.response.AvroGenericResponse"]["message"]
            .as_str()
    }

    /// The reply's code.
    pub fn code(&self) -> Option<&str> {
        self.value["rep"]["code"].as_str()
    }
}
