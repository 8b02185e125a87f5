use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;

use crate::admin::{SILENT, explained};
use crate::consumer::Unpacker;
use crate::{Cluster, Record};

/// Where a [`TopicReader`] starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the earliest record there is.
    Beginning,
    /// After the last record there is now.
    End,
    /// At this offset of every partition.
    Offset(i64),
}

/// Reads all partitions of a topic without a group: nothing is committed, nobody else is disturbed.
pub struct TopicReader {
    consumer: StreamConsumer,
    unpacker: Unpacker,
    /// Where each partition ended when it was opened.
    ends: Vec<(i32, i64)>,
}

const CALL_LIMIT: Duration = Duration::from_secs(10);

impl TopicReader {
    /// Opens a topic.
    ///
    /// # Errors
    /// When no broker answers within 10 s, or the topic does not exist.
    pub async fn open(cluster: &Cluster, topic: &str, start: StartAt) -> anyhow::Result<Self> {
        let consumer: StreamConsumer = cluster
            .client_config()
            // Needed to make a consumer, never joined.
            .set("group.id", "zeelos-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .create()?;
        let topic = topic.to_owned();
        let bootstrap = cluster.bootstrap().to_owned();
        // Metadata calls block, so off the runtime's threads.
        let opened = tokio::task::spawn_blocking(move || {
            let metadata = consumer
                .fetch_metadata(Some(&topic), CALL_LIMIT)
                .context(SILENT)?;
            let found = metadata.topics().first();
            let partitions: Vec<i32> = found
                .filter(|found| found.error().is_none())
                .map(|found| found.partitions().iter().map(|p| p.id()).collect())
                .unwrap_or_default();
            anyhow::ensure!(
                !partitions.is_empty(),
                "there is no topic '{topic}' at {bootstrap} (zeelos topics list shows those there are)"
            );
            let mut assignment = TopicPartitionList::new();
            let mut ends = Vec::new();
            for partition in partitions {
                let (low, high) = consumer.fetch_watermarks(&topic, partition, CALL_LIMIT)?;
                let from = match start {
                    StartAt::Beginning => low,
                    StartAt::End => high,
                    StartAt::Offset(offset) => offset.clamp(low, high),
                };
                assignment.add_partition_offset(
                    &topic,
                    partition,
                    rdkafka::Offset::Offset(from),
                )?;
                ends.push((partition, high));
            }
            consumer.assign(&assignment)?;
            Ok((consumer, ends))
        });
        let (consumer, ends) = explained(cluster, opened.await?).await?;
        Ok(Self {
            consumer,
            unpacker: Unpacker::default(),
            ends,
        })
    }

    /// The next record; waits for one. Passing trouble with brokers is waited out.
    pub async fn next(&mut self) -> Record {
        loop {
            match self.consumer.recv().await {
                Ok(message) => return self.unpacker.unpack(&message),
                Err(error) => {
                    tracing::debug!(%error, "reading goes on");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Where each partition ended when the topic was opened: the offset after its last record.
    pub fn ends(&self) -> &[(i32, i64)] {
        &self.ends
    }
}

/// What looks at records that [`read_to_end`] reads.
pub trait LookAt: Send + 'static {
    /// One record, in order by partition.
    fn look(&mut self, record: &Record);
}

/// Where each partition of a topic ends now; empty where there is no such topic.
///
/// # Errors
/// When the brokers do not answer within 10 s.
pub async fn watermarks(cluster: &Cluster, topic: &str) -> anyhow::Result<HashMap<i32, i64>> {
    let consumer = to_the_end(cluster)?;
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let found = bounds(&consumer, &topic)?;
        Ok(found
            .into_iter()
            .map(|(id, (_, high))| (id, high))
            .collect())
    })
    .await?
}

/// Shows every committed record of a topic from these offsets (by partition; where none is given, from the earliest) to
/// the topic's end, and gives back who looked.
///
/// # Errors
/// When the brokers do not answer for 10 s; with who looked as it was before.
pub async fn read_to_end<L: LookAt + Clone>(
    cluster: &Cluster,
    topic: &str,
    from: &HashMap<i32, i64>,
    looker: L,
) -> Result<L, (L, anyhow::Error)> {
    let before = looker.clone();
    let read = async {
        let consumer = to_the_end(cluster)?;
        let (topic, from) = (topic.to_owned(), from.clone());
        tokio::task::spawn_blocking(move || read_all(&consumer, &topic, &from, looker)).await?
    };
    read.await.map_err(|error| (before, error))
}

fn to_the_end(cluster: &Cluster) -> anyhow::Result<BaseConsumer> {
    Ok(cluster
        .client_config()
        .set("group.id", "zeelos-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .create()?)
}

fn bounds(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<HashMap<i32, (i64, i64)>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), CALL_LIMIT)
        .context("no Kafka broker answers")?;
    let found = metadata.topics().first();
    let partitions = found
        .filter(|found| found.error().is_none())
        .map_or(&[][..], |found| found.partitions());
    let mut bounds = HashMap::new();
    for partition in partitions {
        let marks = consumer.fetch_watermarks(topic, partition.id(), CALL_LIMIT)?;
        bounds.insert(partition.id(), marks);
    }
    Ok(bounds)
}

fn read_all<L: LookAt>(
    consumer: &BaseConsumer,
    topic: &str,
    from: &HashMap<i32, i64>,
    mut looker: L,
) -> anyhow::Result<L> {
    let mut left = HashSet::new();
    let mut assignment = TopicPartitionList::new();
    for (partition, (low, high)) in bounds(consumer, topic)? {
        let start = from.get(&partition).copied().unwrap_or(low);
        // An offset beyond the end is another topic's of the same name: made anew since.
        let start = if start > high { low } else { start.max(low) };
        if start < high {
            assignment.add_partition_offset(topic, partition, rdkafka::Offset::Offset(start))?;
            left.insert(partition);
        }
    }
    consumer.assign(&assignment)?;
    let mut unpacker = Unpacker::default();
    while !left.is_empty() {
        match consumer.poll(CALL_LIMIT) {
            Some(Ok(message)) => looker.look(&unpacker.unpack(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) => tracing::debug!(%error, "reading goes on"),
            None => anyhow::bail!("'{topic}' can't be read back: no Kafka broker answers"),
        }
    }
    Ok(looker)
}
