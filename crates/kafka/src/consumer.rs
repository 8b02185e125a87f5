use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use service::{Backoff, CancellationToken, Condition};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{Cluster, SettingsError};

/// A record read from Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic (shared by the records of a batch).
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The timestamp in Unix milliseconds, where it has one.
    pub timestamp_ms: Option<i64>,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.as_deref())
    }
}

/// Why a batch was not processed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Something that may pass (a database away): the same batch is offered again.
    #[error("{0}")]
    Retry(String),
    /// Nothing that waiting mends: the loop ends with this.
    #[error(transparent)]
    Fatal(#[from] anyhow::Error),
}

/// What is done with the records.
///
/// A batch is in order per partition. When `process` returns `Ok`, its offsets are committed; until then they are
/// not, so after a crash the same records come again: processing has to be idempotent. A record that can't be
/// processed is the processor's to dead-letter ([`crate::DeadLetters`]); it must not fail the batch.
pub trait Process: Send {
    /// Processes one batch.
    fn process(
        &mut self,
        batch: &[Record],
    ) -> impl Future<Output = Result<(), ProcessError>> + Send;
}

/// How records are consumed.
#[derive(Clone, Debug)]
pub struct ConsumeSettings {
    /// The consumer group.
    pub group: String,
    /// Topics, or regular expressions that start with `^`.
    pub topics: Vec<String>,
    /// The most records of one batch. Default 1,000.
    pub batch_records: usize,
    /// The most bytes of keys and values of one batch (one record may exceed it). Default 8 MiB.
    pub batch_bytes: usize,
    /// How long a batch waits for company after its first record. Default 10 ms.
    pub batch_wait: Duration,
    /// How often offsets of processed records are committed. Default 1 s.
    pub commit_interval: Duration,
    /// How often a batch is offered again after [`ProcessError::Retry`] before the loop ends; `None`: for ever.
    pub max_retries: Option<u32>,
    /// The first wait before a batch is offered again; doubles up to `retry_longest`. Default 500 ms.
    pub retry_first: Duration,
    /// The longest such wait. Default 30 s.
    pub retry_longest: Duration,
    /// More librdkafka settings, for this consumer only.
    pub properties: Vec<(String, String)>,
}

impl ConsumeSettings {
    /// The defaults for a group and its topics.
    pub fn new(group: impl Into<String>, topics: Vec<String>) -> Self {
        Self {
            group: group.into(),
            topics,
            batch_records: 1_000,
            batch_bytes: 8 * 1024 * 1024,
            batch_wait: Duration::from_millis(10),
            commit_interval: Duration::from_secs(1),
            max_retries: None,
            retry_first: Duration::from_millis(500),
            retry_longest: Duration::from_secs(30),
            properties: Vec::new(),
        }
    }
}

/// While a batch is being processed longer than this, the loop keeps its place in the group by polling.
const KEEP_ALIVE_AFTER: Duration = Duration::from_millis(1_000);

/// Consumes, processes and commits until `shutdown`, from the earliest record not yet committed.
///
/// `condition` says whether it works: it fails while brokers are away or a batch has to be retried.
///
/// # Errors
/// When the settings are refused, a batch fails for good, or its retries are used up.
pub async fn consume<P: Process>(
    cluster: &Cluster,
    settings: &ConsumeSettings,
    processor: &mut P,
    condition: &Condition,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut run = Loop::subscribe(cluster, settings)?;
    while !shutdown.is_cancelled() {
        let batch = tokio::select! {
            batch = run.next_batch(condition) => batch,
            () = shutdown.cancelled() => break,
        };
        if batch.is_empty() {
            continue;
        }
        if !run
            .process_until_done(&batch, processor, condition, shutdown)
            .await?
        {
            break;
        }
        run.mark_processed(&batch);
    }
    run.close().await;
    Ok(())
}

struct Loop<'a> {
    consumer: Arc<StreamConsumer>,
    settings: &'a ConsumeSettings,
    /// Records that arrived from newly assigned partitions while a batch was in work.
    carried: Vec<Record>,
    unpacker: Unpacker,
}

impl<'a> Loop<'a> {
    fn subscribe(cluster: &Cluster, settings: &'a ConsumeSettings) -> Result<Self, SettingsError> {
        let mut config = cluster.client_config();
        config
            .set("group.id", &settings.group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "true")
            // Only what `mark_processed` stored is ever committed.
            .set("enable.auto.offset.store", "false")
            .set(
                "auto.commit.interval.ms",
                settings.commit_interval.as_millis().to_string(),
            )
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            .set("allow.auto.create.topics", "true")
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("fetch.wait.max.ms", "250")
            // The default of 1 s starves a consumer that is slower than its fetcher.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.message.max.bytes", "1048576");
        for (key, value) in &settings.properties {
            config.set(key, value);
        }
        let consumer: StreamConsumer = config.create()?;
        let topics: Vec<&str> = settings.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics)?;
        Ok(Self {
            consumer: Arc::new(consumer),
            settings,
            carried: Vec::new(),
            unpacker: Unpacker::default(),
        })
    }

    /// The first record there is, and what comes with it within the batch's wait. Safe to cancel: records that
    /// were taken and not marked are read again after a restart.
    async fn next_batch(&mut self, condition: &Condition) -> Vec<Record> {
        let mut batch = std::mem::take(&mut self.carried);
        if batch.is_empty() {
            let consumer = Arc::clone(&self.consumer);
            match consumer.recv().await {
                Ok(message) => {
                    condition.ok();
                    batch.push(self.unpacker.unpack(&message));
                }
                Err(error) => {
                    report(&error, condition).await;
                    return batch;
                }
            }
        }
        let until = Instant::now() + self.settings.batch_wait;
        let mut bytes: usize = batch.iter().map(size).sum();
        while batch.len() < self.settings.batch_records && bytes < self.settings.batch_bytes {
            let consumer = Arc::clone(&self.consumer);
            match timeout_at(until, consumer.recv()).await {
                Ok(Ok(message)) => {
                    let record = self.unpacker.unpack(&message);
                    bytes += size(&record);
                    batch.push(record);
                }
                Ok(Err(error)) => {
                    report(&error, condition).await;
                    break;
                }
                Err(_elapsed) => break,
            }
        }
        batch
    }

    /// `false` when told to stop before the batch was done.
    async fn process_until_done<P: Process>(
        &mut self,
        batch: &[Record],
        processor: &mut P,
        condition: &Condition,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let mut backoff = Backoff::new(self.settings.retry_first, self.settings.retry_longest);
        let mut retries = 0;
        let mut paused = false;
        let done = loop {
            let outcome = self
                .keep_alive_during(&mut paused, processor.process(batch))
                .await;
            match outcome {
                Ok(()) => {
                    condition.ok();
                    break true;
                }
                Err(ProcessError::Fatal(error)) => return Err(error),
                Err(ProcessError::Retry(reason)) => {
                    if self
                        .settings
                        .max_retries
                        .is_some_and(|most| retries >= most)
                    {
                        condition.fail(reason.clone());
                        anyhow::bail!("gave up after {retries} retries: {reason}");
                    }
                    retries += 1;
                    condition.fail(reason);
                    let wait = backoff.wait();
                    let stop = shutdown.cancelled();
                    let rest = self.keep_alive_during(&mut paused, async {
                        tokio::select! {
                            () = sleep(wait) => false,
                            () = stop => true,
                        }
                    });
                    if rest.await {
                        break false;
                    }
                }
            }
        };
        if paused {
            self.resume();
        }
        Ok(done)
    }

    /// Awaits `work`; when it takes long, pauses fetching and keeps polling, so that the group keeps this member.
    async fn keep_alive_during<T>(
        &mut self,
        paused: &mut bool,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let consumer = Arc::clone(&self.consumer);
            if *paused {
                tokio::select! {
                    done = &mut work => return done,
                    message = consumer.recv() => match message {
                        // A partition that was assigned meanwhile: keep its record, hold it too.
                        Ok(message) => {
                            let record = self.unpacker.unpack(&message);
                            self.carried.push(record);
                            self.pause();
                        }
                        Err(_) => sleep(Duration::from_millis(200)).await,
                    },
                }
            } else {
                tokio::select! {
                    done = &mut work => return done,
                    () = sleep(KEEP_ALIVE_AFTER) => {
                        self.pause();
                        *paused = true;
                    }
                }
            }
        }
    }

    fn pause(&self) {
        if let Err(error) = self
            .consumer
            .assignment()
            .and_then(|all| self.consumer.pause(&all))
        {
            tracing::debug!(%error, "could not pause");
        }
    }

    fn resume(&self) {
        if let Err(error) = self
            .consumer
            .assignment()
            .and_then(|all| self.consumer.resume(&all))
        {
            tracing::debug!(%error, "could not resume");
        }
    }

    fn mark_processed(&self, batch: &[Record]) {
        let mut offsets = TopicPartitionList::new();
        for record in batch.iter().rev() {
            if offsets
                .find_partition(&record.topic, record.partition)
                .is_none()
            {
                let next = rdkafka::Offset::Offset(record.offset + 1);
                if let Err(error) =
                    offsets.add_partition_offset(&record.topic, record.partition, next)
                {
                    tracing::error!(%error, "an offset could not be noted");
                }
            }
        }
        // Fails for a partition that another member got meanwhile: it processes those records again.
        if let Err(error) = self.consumer.store_offsets(&offsets) {
            tracing::debug!(%error, "offsets not stored; the partition was revoked");
        }
    }

    /// Leaves the group after a last commit; closing blocks, so off the runtime's threads.
    async fn close(self) {
        let consumer = self.consumer;
        let closed = tokio::task::spawn_blocking(move || {
            if let Err(error) = consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync)
                && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
            {
                tracing::warn!(%error, "the last offsets were not committed; those records are processed again");
            }
            drop(consumer);
        });
        if tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .is_err()
        {
            tracing::warn!("the consumer did not close in time");
        }
    }
}

/// Turns librdkafka's messages into records, the topic's name shared between neighbours.
pub(crate) struct Unpacker {
    topic: Arc<str>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            topic: Arc::from(""),
        }
    }
}

impl Unpacker {
    pub(crate) fn unpack(&mut self, message: &BorrowedMessage<'_>) -> Record {
        if &*self.topic != message.topic() {
            self.topic = Arc::from(message.topic());
        }
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect()
        });
        Record {
            topic: Arc::clone(&self.topic),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }
}

fn size(record: &Record) -> usize {
    record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len)
}

async fn report(error: &KafkaError, condition: &Condition) {
    match error.rdkafka_error_code() {
        // Neither is a failure: the topic appears when its first record does.
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::PartitionEOF) => {}
        _ => condition.fail(format!("reading from Kafka: {error}")),
    }
    sleep(Duration::from_millis(200)).await;
}
