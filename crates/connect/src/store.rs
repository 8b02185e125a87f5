use std::sync::Arc;
use std::time::Duration;

use kafka::{Cluster, OutRecord, Producer, await_cluster_id, ensure_topic};
use parking_lot::RwLock;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use service::{Backoff, CancellationToken, Condition};
use tokio::sync::watch;

use crate::Config;

/// What an operator wants of a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Started,
    Paused,
}

/// What the config topic says, record by record.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Configured(String, Config),
    Deleted(String),
    Target(String, Target),
    Restart(String, Scope),
}

/// What a restart is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All tasks.
    All,
    /// The tasks that failed.
    Failed,
    /// One task.
    Task(u32),
}

/// Why something wanted could not be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(
        "Request timed out: Kafka did not take the change within {} s; it may still come into effect",
        WRITE_LIMIT.as_secs()
    )]
    TimedOut,
    #[error("Kafka refuses the change: {0}")]
    Refused(String),
}

/// How long a REST call waits for Kafka.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What is wanted of the connectors, in a compacted topic of one partition, in Kafka Connect's form:
///
/// ```text
/// connector-<name>          {"properties": {…}}                         null: deleted
/// target-state-<name>       {"state": "STARTED"|"PAUSED"}               null: deleted
/// restart-connector-<name>  {"include-tasks": …, "only-failed": …}      (ours: "task": n)
/// ```
#[derive(Clone)]
pub(crate) struct Store {
    topic: Arc<str>,
    producer: Producer,
    /// The offset of the last record this worker has followed.
    followed: watch::Receiver<Option<i64>>,
}

/// The other end of a [`Store`]: reads the topic and hands on its events.
pub(crate) struct Follower {
    cluster: Cluster,
    topic: Arc<str>,
    followed: watch::Sender<Option<i64>>,
}

pub(crate) fn open(cluster: &Cluster, topic: &str, producer: Producer) -> (Store, Follower) {
    let (sender, followed) = watch::channel(None);
    let topic: Arc<str> = Arc::from(topic);
    let store = Store {
        topic: Arc::clone(&topic),
        producer,
        followed,
    };
    let follower = Follower {
        cluster: cluster.clone(),
        topic,
        followed: sender,
    };
    (store, follower)
}

impl Store {
    pub(crate) async fn configure(&self, name: &str, config: &Config) -> Result<(), StoreError> {
        let value = json!({ "properties": config.to_json() });
        self.put(&format!("connector-{name}"), Some(value)).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.put(&format!("connector-{name}"), None).await?;
        self.put(&format!("target-state-{name}"), None).await
    }

    pub(crate) async fn target(&self, name: &str, target: Target) -> Result<(), StoreError> {
        let state = match target {
            Target::Started => "STARTED",
            Target::Paused => "PAUSED",
        };
        let value = json!({ "state": state, "state.v2": state });
        self.put(&format!("target-state-{name}"), Some(value)).await
    }

    pub(crate) async fn restart(&self, name: &str, scope: Scope) -> Result<(), StoreError> {
        let mut value = json!({ "include-tasks": true, "only-failed": scope == Scope::Failed });
        if let Scope::Task(id) = scope {
            value["task"] = json!(id);
        }
        self.put(&format!("restart-connector-{name}"), Some(value))
            .await
    }

    /// Returns when this worker has read the record back, so that the next GET shows it.
    async fn put(&self, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        let value = value.map(|value| value.to_string());
        let written = async {
            let record = OutRecord {
                topic: &self.topic,
                partition: Some(0),
                key: Some(key.as_bytes()),
                value: value.as_deref().map(str::as_bytes),
                ..OutRecord::default()
            };
            let refused = |error: kafka::ProduceError| StoreError::Refused(error.to_string());
            let (_, offset) = self
                .producer
                .send(record)
                .await
                .map_err(refused)?
                .await
                .map_err(refused)?;
            let mut followed = self.followed.clone();
            followed
                .wait_for(|seen| seen.is_some_and(|seen| seen >= offset))
                .await
                .map_err(|_| StoreError::TimedOut)?;
            Ok(())
        };
        tokio::time::timeout(WRITE_LIMIT, written)
            .await
            .unwrap_or(Err(StoreError::TimedOut))
    }
}

/// What a [`Follower`] tells about the topic.
pub(crate) trait Listener: Send + Sync {
    /// A record says this.
    fn event(&self, event: Event);
    /// Everything that stood in the topic at the start has been told.
    fn loaded(&self);
}

impl Follower {
    /// Makes the topic where it is missing and follows it until `shutdown`.
    ///
    /// # Errors
    /// When the consumer's settings are refused.
    pub(crate) async fn follow(
        self,
        listener: &dyn Listener,
        cluster_id: &RwLock<Option<String>>,
        condition: &Condition,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let Some(id) = await_cluster_id(&self.cluster, condition, shutdown).await else {
            return Ok(());
        };
        *cluster_id.write() = Some(id);
        loop {
            let made = tokio::select! {
                made = self.make_topic() => made,
                () = shutdown.cancelled() => return Ok(()),
            };
            let Err(error) = made else { break };
            condition.fail(format!("{error:#}"));
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
        let consumer = self.consumer()?;
        let mut loaded = false;
        loop {
            let next = tokio::select! {
                next = consumer.recv() => next,
                () = shutdown.cancelled() => return Ok(()),
            };
            match next {
                Ok(message) => {
                    condition.ok();
                    if let Some(event) = parse(&message) {
                        listener.event(event);
                    }
                    self.followed.send_replace(Some(message.offset()));
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    condition.ok();
                    if !loaded {
                        loaded = true;
                        listener.loaded();
                    }
                }
                Err(error) => {
                    condition.fail(format!("reading '{}': {error}", self.topic));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn make_topic(&self) -> anyhow::Result<()> {
        let compacted = [("cleanup.policy", "compact")];
        ensure_topic(&self.cluster, &self.topic, 1, &compacted).await?;
        Ok(())
    }

    fn consumer(&self) -> anyhow::Result<StreamConsumer> {
        let consumer: StreamConsumer = self
            .cluster
            .client_config()
            // Required by the client, joined by nobody: the partition is assigned by hand and nothing is committed.
            .set("group.id", format!("{}-reader", self.topic))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(&self.topic, 0, Offset::Beginning)?;
        consumer.assign(&partitions)?;
        Ok(consumer)
    }
}

/// `None` for records that are none of ours or can't be read: the topic may be one that Kafka Connect has used.
fn parse(message: &BorrowedMessage<'_>) -> Option<Event> {
    let key = std::str::from_utf8(message.key()?).ok()?;
    let value = match message.payload() {
        None => None,
        Some(text) => match serde_json::from_slice::<Value>(text) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(key, offset = message.offset(), %error, "a record of the config topic is not JSON; skipped");
                return None;
            }
        },
    };
    event(key, value.as_ref())
}

fn event(key: &str, value: Option<&Value>) -> Option<Event> {
    if let Some(name) = key.strip_prefix("connector-") {
        let name = name.to_owned();
        let Some(value) = value else {
            return Some(Event::Deleted(name));
        };
        let properties = value.get("properties")?.as_object()?;
        return match Config::from_json(properties) {
            Ok(config) => Some(Event::Configured(name, config)),
            Err(error) => {
                tracing::warn!(connector = name, %error, "a stored configuration can't be used; skipped");
                None
            }
        };
    }
    if let Some(name) = key.strip_prefix("target-state-") {
        let state = value?.get("state.v2").or_else(|| value?.get("state"))?;
        // Connect's STOPPED is PAUSED whose tasks are gone: ours are gone when paused.
        let target = match state.as_str()? {
            "STARTED" => Target::Started,
            "PAUSED" | "STOPPED" => Target::Paused,
            _ => return None,
        };
        return Some(Event::Target(name.to_owned(), target));
    }
    let name = key.strip_prefix("restart-connector-")?;
    let value = value?;
    let scope = match value.get("task").and_then(Value::as_u64) {
        Some(id) => Scope::Task(u32::try_from(id).ok()?),
        None if value.get("only-failed").and_then(Value::as_bool) == Some(true) => Scope::Failed,
        None => Scope::All,
    };
    Some(Event::Restart(name.to_owned(), scope))
}
