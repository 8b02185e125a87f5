use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use service::{Backoff, CancellationToken, Condition};

use crate::{Cluster, SettingsError};

const CALL_LIMIT: Duration = Duration::from_secs(10);
/// One attempt of those that go on until they succeed: how long it takes to say that a cluster is away.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(4);

/// The cluster's own id, which tells two clusters apart whatever their addresses.
///
/// # Errors
/// When no broker answers within 10 s.
pub async fn fetch_cluster_id(cluster: &Cluster) -> anyhow::Result<String> {
    cluster_id_within(cluster, CALL_LIMIT).await
}

async fn cluster_id_within(cluster: &Cluster, limit: Duration) -> anyhow::Result<String> {
    let bootstrap = cluster.bootstrap().to_owned();
    let client: BaseConsumer = cluster.client_config().create()?;
    let id = tokio::task::spawn_blocking(move || client.client().fetch_cluster_id(limit)).await?;
    id.with_context(|| format!("no Kafka broker at {bootstrap} answers with its cluster id"))
}

/// Asks until the cluster answers; `None` when told to stop first.
pub async fn await_cluster_id(
    cluster: &Cluster,
    condition: &Condition,
    shutdown: &CancellationToken,
) -> Option<String> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return None,
            answer = cluster_id_within(cluster, ATTEMPT_LIMIT) => match answer {
                Ok(id) => {
                    condition.ok();
                    return Some(id);
                }
                Err(error) => condition.fail(cluster.explain(format!("{error:#}")).await),
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(backoff.wait()) => {}
        }
    }
}

/// Makes a topic where it is missing; `false` when it was there.
///
/// # Errors
/// When the cluster refuses it or does not answer within 10 s.
pub async fn ensure_topic(
    cluster: &Cluster,
    name: &str,
    partitions: i32,
    config: &[(&str, &str)],
) -> anyhow::Result<bool> {
    let admin: AdminClient<DefaultClientContext> = cluster.client_config().create()?;
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (key, value) in config {
        topic = topic.set(key, value);
    }
    let options = AdminOptions::new().request_timeout(Some(CALL_LIMIT));
    let results = match admin.create_topics([&topic], &options).await {
        Ok(results) => results,
        Err(error) => return Err(unanswered(error, "create", name, cluster).await),
    };
    match results.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => anyhow::bail!("can't create topic '{name}': {code}"),
        _ => Ok(true),
    }
}

/// Deletes a topic and its records.
///
/// # Errors
/// When there is none of this name, or the cluster refuses or does not answer within 10 s.
pub async fn delete_topic(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = cluster.client_config().create()?;
    let options = AdminOptions::new().request_timeout(Some(CALL_LIMIT));
    let results = match admin.delete_topics(&[name], &options).await {
        Ok(results) => results,
        Err(error) => return Err(unanswered(error, "delete", name, cluster).await),
    };
    match results.into_iter().next() {
        Some(Err((_, code))) => anyhow::bail!("can't delete topic '{name}': {code}"),
        _ => Ok(()),
    }
}

async fn unanswered(
    error: KafkaError,
    what: &str,
    topic: &str,
    cluster: &Cluster,
) -> anyhow::Error {
    let sentence = format!(
        "can't {what} topic '{topic}': no Kafka broker at {} answers (is it running there? --kafka-bootstrap-server names another)",
        cluster.bootstrap()
    );
    anyhow::Error::new(error).context(cluster.explain(sentence).await)
}

/// A topic as [`list_topics`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// How many offsets lie between its partitions' starts and ends.
    pub records: i64,
}

/// All topics of a cluster but Kafka's internal ones, by name.
///
/// # Errors
/// When the cluster does not answer within `limit`.
pub async fn list_topics(cluster: &Cluster, limit: Duration) -> anyhow::Result<Vec<TopicSummary>> {
    let consumer: BaseConsumer = cluster.client_config().create()?;
    let listed = tokio::task::spawn_blocking(move || {
        let metadata = consumer.fetch_metadata(None, limit).context(SILENT)?;
        let mut topics = Vec::new();
        for topic in metadata.topics() {
            if topic.name().starts_with("__") {
                continue;
            }
            let mut records = 0;
            for partition in topic.partitions() {
                let (low, high) = consumer.fetch_watermarks(topic.name(), partition.id(), limit)?;
                records += high - low;
            }
            topics.push(TopicSummary {
                name: topic.name().to_owned(),
                partitions: topic.partitions().len(),
                records,
            });
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    });
    explained(cluster, listed.await?).await
}

/// What a question ends with when nobody answered it.
pub(crate) const SILENT: &str = "no Kafka broker answers";

/// Adds where the brokers were looked for, and why TLS to them fails if it does, to an error of silence.
pub(crate) async fn explained<T>(
    cluster: &Cluster,
    result: anyhow::Result<T>,
) -> anyhow::Result<T> {
    match result {
        Err(error) if error.to_string() == SILENT => {
            let sentence = format!("no Kafka broker at {} answers", cluster.bootstrap());
            Err(error.context(cluster.explain(sentence).await))
        }
        other => other,
    }
}

/// Asks how far a consumer group is behind; keeps its connection between questions.
pub struct LagProbe {
    consumer: Arc<BaseConsumer>,
    topics: TopicMatch,
}

/// Which topics count for a lag.
#[derive(Clone, Debug)]
pub enum TopicMatch {
    /// Exactly these.
    Names(Vec<String>),
    /// All that start so, except one.
    Prefix {
        /// How they start.
        prefix: String,
        /// The one left out.
        except: String,
    },
}

impl TopicMatch {
    fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| name == topic),
            Self::Prefix { prefix, except } => topic.starts_with(prefix) && topic != except,
        }
    }
}

impl LagProbe {
    /// A probe for one group at one cluster.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn new(cluster: &Cluster, group: &str, topics: TopicMatch) -> Result<Self, SettingsError> {
        let consumer: BaseConsumer = cluster
            .client_config()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(Self {
            consumer: Arc::new(consumer),
            topics,
        })
    }

    /// Records the group has still to process: from its committed offset, or from the earliest record where it has
    /// committed none.
    ///
    /// # Errors
    /// When the cluster does not answer within 10 s.
    pub async fn lag(&self) -> anyhow::Result<i64> {
        let consumer = Arc::clone(&self.consumer);
        let topics = self.topics.clone();
        tokio::task::spawn_blocking(move || {
            let metadata = consumer.fetch_metadata(None, CALL_LIMIT)?;
            let mut partitions = TopicPartitionList::new();
            for topic in metadata
                .topics()
                .iter()
                .filter(|t| topics.matches(t.name()))
            {
                for partition in topic.partitions() {
                    partitions.add_partition(topic.name(), partition.id());
                }
            }
            let committed = consumer.committed_offsets(partitions, CALL_LIMIT)?;
            let mut lag = 0;
            for element in committed.elements() {
                let (low, high) =
                    consumer.fetch_watermarks(element.topic(), element.partition(), CALL_LIMIT)?;
                let from = match element.offset() {
                    Offset::Offset(next) => next,
                    _ => low,
                };
                lag += (high - from).max(0);
            }
            Ok(lag)
        })
        .await?
    }
}
