use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _, Timestamp};
use service::{Backoff, CancellationToken, Condition};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::Cluster;
use crate::member::Member;

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
    /// Whether that is the broker's, of when it was appended, and not the writer's.
    pub appended: bool,
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
/// processed is the processor's to dead-letter ([`crate::DeadLetters`]); it must not fail the batch. The future may
/// be dropped at any await once the service has to stop ([`consume`] says when): as after a crash, the records come
/// again.
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
    /// The most bytes of keys, values and headers of one batch (its last record may exceed it). Default 8 MiB.
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
/// How long a batch in work may still take once the service has to stop; then it is left uncommitted.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often brokers that went away are asked whether they are back.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The rest before a fenced member joins anew: if another process has the same instance id, the two take turns this slowly.
const FENCED_REST: Duration = Duration::from_secs(2);

/// Consumes, processes and commits until `shutdown`, from the earliest record not yet committed.
///
/// `condition` says whether it works: it fails while brokers are away or a batch has to be retried.
///
/// A batch that waits to be retried loses the records of partitions that went to another member meanwhile: they are
/// that member's now, and processing them here as well could overtake it. At `shutdown` a batch in work has 5 s to
/// end; then its future is dropped and its offsets stay uncommitted.
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
    let generation = cluster.generation();
    let mut run = Loop {
        member: Member::join(cluster, settings)?,
        cluster,
        generation,
        settings,
        carried: Batch::default(),
        unpacker: Unpacker::default(),
        // Until one was heard of.
        source_away: true,
        probe_at: Instant::now() + PROBE_EVERY,
        fenced: false,
    };
    let ended = run.run(processor, condition, shutdown).await;
    run.member.leave().await;
    ended
}

struct Loop<'a> {
    member: Member,
    cluster: &'a Cluster,
    /// Of the certificates that the member was made with.
    generation: u64,
    settings: &'a ConsumeSettings,
    /// Records that arrived while a batch was in work.
    carried: Batch,
    unpacker: Unpacker,
    /// No broker could be reached the last time anything was heard of them.
    source_away: bool,
    /// When they are asked next.
    probe_at: Instant,
    /// The broker gave the member's place in the group (`group.instance.id`) away: it reads nothing more.
    fenced: bool,
}

/// Records, and the assignment they were read under.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
    /// [`Member::generation`] when the last record came.
    generation: u64,
}

impl Batch {
    fn push(&mut self, record: Record, member: &Member) {
        self.drop_revoked(member);
        self.bytes += size(&record);
        self.records.push(record);
    }

    /// Leaves out what another member reads now, or what will be read here again from the last commit.
    fn drop_revoked(&mut self, member: &Member) {
        let now = member.generation();
        if self.generation == now {
            return;
        }
        let before = self.records.len();
        let since = self.generation;
        member.retain_held(&mut self.records, since);
        self.generation = now;
        if self.records.len() < before {
            self.bytes = self.records.iter().map(size).sum();
            let dropped = before - self.records.len();
            tracing::debug!(
                dropped,
                "records of revoked partitions left to their new reader"
            );
        }
    }
}

impl Loop<'_> {
    async fn run<P: Process>(
        &mut self,
        processor: &mut P,
        condition: &Condition,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        while !shutdown.is_cancelled() {
            let (cluster, generation) = (self.cluster, self.generation);
            // Before the next batch is begun: the member has committed all that was processed.
            let batch = tokio::select! {
                batch = self.next_batch(condition) => Some(batch?),
                () = shutdown.cancelled() => break,
                () = cluster.renewed(generation) => None,
            };
            let Some(mut batch) = batch else {
                self.join_anew().await?;
                tracing::info!(
                    group = self.settings.group,
                    "joined anew with the renewed certificate"
                );
                continue;
            };
            if self.fenced {
                tokio::select! {
                    () = sleep(FENCED_REST) => {}
                    () = shutdown.cancelled() => break,
                }
                self.join_anew().await?;
                continue;
            }
            if !self
                .process_until_done(&mut batch, processor, condition, shutdown)
                .await?
            {
                break;
            }
            // What was revoked while the batch was in work was committed without it: it is read again.
            batch.drop_revoked(&self.member);
            self.member.store_offsets(&batch.records);
        }
        Ok(())
    }

    /// Leaves the group and joins it with a new client: librdkafka can't exchange certificates in one that runs, and
    /// one that was fenced is dead.
    async fn join_anew(&mut self) -> anyhow::Result<()> {
        self.generation = self.cluster.generation();
        let new = Member::join(self.cluster, self.settings)?;
        std::mem::replace(&mut self.member, new).leave().await;
        // What was taken and not processed is read again by the new member.
        self.carried = Batch::default();
        self.source_away = true;
        self.probe_at = Instant::now() + PROBE_EVERY;
        self.fenced = false;
        Ok(())
    }

    /// The first record there is, and what comes with it within the batch's wait. Safe to cancel: records that
    /// were taken and not processed are read again after a restart.
    async fn next_batch(&mut self, condition: &Condition) -> anyhow::Result<Batch> {
        let mut batch = std::mem::take(&mut self.carried);
        batch.drop_revoked(&self.member);
        while batch.records.is_empty() && !self.fenced {
            let consumer = self.member.consumer();
            tokio::select! {
                message = consumer.recv() => match message {
                    Ok(message) => {
                        self.source_away = false;
                        condition.ok();
                        batch.push(self.unpacker.unpack(&message), &self.member);
                    }
                    Err(error) => self.heed(error, Some(condition))?,
                },
                () = sleep_until(self.probe_at), if self.source_away => {
                    if self.member.source_answers().await {
                        self.source_away = false;
                        condition.ok();
                    } else {
                        let sentence = "no Kafka broker to read from answers".to_owned();
                        condition.fail(self.cluster.explain(sentence).await);
                        self.probe_at = Instant::now() + PROBE_EVERY;
                    }
                }
            }
        }
        let until = Instant::now() + self.settings.batch_wait;
        while batch.records.len() < self.settings.batch_records
            && batch.bytes < self.settings.batch_bytes
            && !self.fenced
        {
            let consumer = self.member.consumer();
            match timeout_at(until, consumer.recv()).await {
                Ok(Ok(message)) => batch.push(self.unpacker.unpack(&message), &self.member),
                // What is read already does not wait for a broker.
                Ok(Err(error)) => {
                    self.heed(error, None)?;
                    break;
                }
                Err(_elapsed) => break,
            }
        }
        Ok(batch)
    }

    /// `false` when told to stop before the batch was done.
    async fn process_until_done<P: Process>(
        &mut self,
        batch: &mut Batch,
        processor: &mut P,
        condition: &Condition,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let mut backoff = Backoff::new(self.settings.retry_first, self.settings.retry_longest);
        let mut retries = 0;
        let done = loop {
            batch.drop_revoked(&self.member);
            if batch.records.is_empty() {
                break true;
            }
            let work = processor.process(&batch.records);
            let outcome = tokio::select! {
                outcome = self.keep_alive_during(work) => outcome?,
                () = stopped_for(shutdown, STOP_GRACE) => break false,
            };
            match outcome {
                Ok(()) => {
                    if !self.source_away {
                        condition.ok();
                    }
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
                    // From here on the group may not wait for this batch, however short the attempts are.
                    self.member.hold();
                    let wait = sleep(backoff.wait());
                    tokio::select! {
                        rested = self.keep_alive_during(wait) => rested?,
                        () = shutdown.cancelled() => break false,
                    }
                }
            }
        };
        self.member.release();
        Ok(done)
    }

    /// Awaits `work`; when it takes long, pauses fetching and keeps polling, so that the group keeps this member.
    async fn keep_alive_during<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut work = std::pin::pin!(work);
        if !self.member.is_held() {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = sleep(KEEP_ALIVE_AFTER) => self.member.hold(),
            }
        }
        loop {
            if self.fenced {
                return Ok(work.await);
            }
            let consumer = self.member.consumer();
            tokio::select! {
                done = &mut work => return Ok(done),
                message = consumer.recv() => match message {
                    // Came between the assignment of its partition and the pause.
                    Ok(message) => {
                        let record = self.unpacker.unpack(&message);
                        self.carried.push(record, &self.member);
                        self.member.hold();
                    }
                    Err(error) => self.heed(error, None)?,
                },
            }
        }
    }

    /// Takes note of an error that reading met. With a condition, it says so there.
    fn heed(&mut self, error: KafkaError, condition: Option<&Condition>) -> anyhow::Result<()> {
        if let KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId) = error {
            // A broker that was killed may come back with a state of the group from before this member's last join; it
            // can't be told from another process with the same instance id.
            self.fenced = true;
            let reason = format!(
                "Kafka gave this consumer's place in group {} away; joining anew (if this repeats, another process runs \
                 with the same id)",
                self.settings.group
            );
            match condition {
                Some(condition) => condition.fail(reason),
                None => tracing::warn!(reason, "reading from Kafka"),
            }
            return Ok(());
        }
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(anyhow::Error::new(error).context("the Kafka consumer can't go on"));
        }
        match error.rdkafka_error_code() {
            // Neither is a failure: the topic appears when its first record does.
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::PartitionEOF) => {}
            // One connection that ends is no outage (brokers close idle ones); the probe decides.
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve,
            ) => {
                if !self.source_away {
                    self.source_away = true;
                    self.probe_at = Instant::now() + PROBE_EVERY;
                }
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => {
                let reason = format!(
                    "Kafka does not allow us to read {:?} as group {}: {error} (zeelos acls shows and makes the rules)",
                    self.settings.topics, self.settings.group
                );
                match condition {
                    Some(condition) => condition.fail(reason),
                    None => tracing::warn!(reason, "reading from Kafka"),
                }
            }
            _ => match condition {
                Some(condition) => condition.fail(format!("reading from Kafka: {error}")),
                None => tracing::warn!(%error, "reading from Kafka"),
            },
        }
        Ok(())
    }
}

/// Ends `grace` after the service was told to stop.
async fn stopped_for(shutdown: &CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    sleep(grace).await;
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
            appended: matches!(message.timestamp(), Timestamp::LogAppendTime(_)),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }
}

/// What a record takes, its headers included: they too are the sender's to choose.
fn size(record: &Record) -> usize {
    let headers = record
        .headers
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
    record.key.as_ref().map_or(0, Vec::len)
        + record.value.as_ref().map_or(0, Vec::len)
        + headers.sum::<usize>()
}
