//! A consumer as the member of its group: what it holds, since when, and how it leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::{Cluster, ConsumeSettings, Record, SettingsError};

/// How long leaving the group may take; it is only a courtesy to the other members.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

const USUAL: [(&str, &str); 11] = [
    ("auto.offset.reset", "earliest"),
    // A new topic or member leaves everyone the partitions they keep: nothing is read twice for it.
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("session.timeout.ms", "10000"),
    ("heartbeat.interval.ms", "2000"),
    ("allow.auto.create.topics", "true"),
    // How soon a topic made later is found.
    ("topic.metadata.refresh.interval.ms", "1000"),
    // A new partition waits for the broker's fetch that is under way.
    ("fetch.wait.max.ms", "250"),
    ("fetch.error.backoff.ms", "100"),
    // The default of 1 s starves a consumer that is slower than its fetcher.
    ("fetch.queue.backoff.ms", "10"),
    ("queued.max.messages.kbytes", "16384"),
    ("fetch.message.max.bytes", "1048576"),
];

pub(crate) struct Member {
    /// Taken when it leaves.
    consumer: Option<Arc<StreamConsumer<Assignment>>>,
    assignment: Arc<Held>,
}

impl Member {
    pub(crate) fn join(
        cluster: &Cluster,
        settings: &ConsumeSettings,
    ) -> Result<Self, SettingsError> {
        let mut config = cluster.client_config();
        config
            .set("group.id", &settings.group)
            .set("enable.auto.commit", "true")
            // Only what `store_offsets` stored is ever committed.
            .set("enable.auto.offset.store", "false")
            .set(
                "auto.commit.interval.ms",
                settings.commit_interval.as_millis().to_string(),
            );
        // The operator's file of properties may say otherwise.
        for (key, value) in USUAL {
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        for (key, value) in &settings.properties {
            config.set(key, value);
        }
        let held = Arc::new(Held::default());
        let context = Assignment {
            held: Arc::clone(&held),
        };
        let consumer: StreamConsumer<Assignment> = config.create_with_context(context)?;
        let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics)?;
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
            assignment: held,
        })
    }

    pub(crate) fn consumer(&self) -> Arc<StreamConsumer<Assignment>> {
        Arc::clone(self.consumer.as_ref().expect("it is taken only on leaving"))
    }

    /// Changes with every change of what this member holds.
    pub(crate) fn generation(&self) -> u64 {
        self.assignment.generation.load(Ordering::Acquire)
    }

    /// Keeps the records whose partitions were held when `since` was the generation, and are held without a break.
    pub(crate) fn retain_held(&self, records: &mut Vec<Record>, since: u64) {
        let partitions = self.assignment.partitions.lock();
        records.retain(|record| {
            let from = partitions
                .get(&*record.topic)
                .and_then(|topic| topic.get(&record.partition));
            from.is_some_and(|from| *from <= since)
        });
    }

    /// Stops fetching, also from partitions that are assigned from now on.
    pub(crate) fn hold(&self) {
        self.assignment.paused.store(true, Ordering::Release);
        let consumer = self.consumer();
        if let Err(error) = consumer.assignment().and_then(|all| consumer.pause(&all)) {
            tracing::debug!(%error, "could not pause");
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.assignment.paused.load(Ordering::Acquire)
    }

    /// Fetches again where [`Member::hold`] had stopped it.
    pub(crate) fn release(&self) {
        if self.assignment.paused.swap(false, Ordering::AcqRel) {
            let consumer = self.consumer();
            if let Err(error) = consumer.assignment().and_then(|all| consumer.resume(&all)) {
                tracing::debug!(%error, "could not resume");
            }
        }
    }

    /// Notes these records as processed; the next commit says so. They are in order per partition.
    pub(crate) fn store_offsets(&self, records: &[Record]) {
        let mut next: HashMap<(&str, i32), i64> = HashMap::new();
        for record in records {
            next.insert((&record.topic, record.partition), record.offset + 1);
        }
        let mut offsets = TopicPartitionList::with_capacity(next.len());
        for ((topic, partition), offset) in next {
            if let Err(error) =
                offsets.add_partition_offset(topic, partition, Offset::Offset(offset))
            {
                tracing::error!(%error, topic, partition, offset, "an offset could not be noted");
            }
        }
        if offsets.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer().store_offsets(&offsets) {
            tracing::debug!(%error, "offsets not stored; a partition was revoked just now");
        }
    }

    /// Whether any broker answers.
    pub(crate) async fn source_answers(&self) -> bool {
        let consumer = self.consumer();
        // Asking for all topics also brings the subscription up to date.
        let answer =
            tokio::task::spawn_blocking(move || consumer.fetch_metadata(None, PROBE_LIMIT).is_ok());
        answer.await.unwrap_or(false)
    }

    /// Leaves the group after a last commit; both block, so off the runtime's threads.
    pub(crate) async fn leave(mut self) {
        let Some(consumer) = self.consumer.take() else {
            return;
        };
        let closed = tokio::task::spawn_blocking(move || {
            if let Err(error) = consumer.commit_consumer_state(CommitMode::Sync)
                && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
            {
                tracing::warn!(%error, "the last offsets were not committed; those records are processed again");
            }
            drop(consumer);
        });
        if tokio::time::timeout(LEAVE_LIMIT, closed).await.is_err() {
            tracing::warn!("the consumer did not leave its group in time");
        }
    }
}

impl Drop for Member {
    /// Dropped without [`Member::leave`], as when the whole loop is: closing blocks, and may need the very thread
    /// it is dropped on.
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            // Without a thread to be had it is closed here, by the closure's own end.
            let _ = std::thread::Builder::new()
                .name("kafka-close".to_owned())
                .spawn(move || drop(consumer));
        }
    }
}

/// What is held, since which generation.
#[derive(Default)]
struct Held {
    generation: AtomicU64,
    paused: AtomicBool,
    partitions: Mutex<HashMap<String, HashMap<i32, u64>>>,
}

/// What librdkafka tells of rebalances, on the thread that polls.
pub(crate) struct Assignment {
    held: Arc<Held>,
}

impl ClientContext for Assignment {
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        // The same comes to the loop as a result of reading, which says it once.
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Assignment {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut partitions = self.held.partitions.lock();
        match rebalance {
            Rebalance::Assign(_) => return,
            Rebalance::Revoke(revoked) => {
                for element in revoked.elements() {
                    if let Some(topic) = partitions.get_mut(element.topic()) {
                        topic.remove(&element.partition());
                    }
                }
            }
            Rebalance::Error(_) => partitions.clear(),
        }
        partitions.retain(|_, ids| !ids.is_empty());
        self.held.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(assigned) = rebalance else {
            return;
        };
        let mut partitions = self.held.partitions.lock();
        let generation = self.held.generation.fetch_add(1, Ordering::AcqRel) + 1;
        for element in assigned.elements() {
            partitions
                .entry(element.topic().to_owned())
                .or_default()
                .insert(element.partition(), generation);
        }
        if self.held.paused.load(Ordering::Acquire)
            && let Err(error) = consumer.pause(assigned)
        {
            tracing::debug!(%error, "could not pause what was assigned");
        }
    }
}
