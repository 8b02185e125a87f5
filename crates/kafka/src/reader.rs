use std::time::Duration;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer as _, StreamConsumer};

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
                .with_context(|| format!("no Kafka broker at {bootstrap} answers"))?;
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
        let (consumer, ends) = opened.await??;
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
