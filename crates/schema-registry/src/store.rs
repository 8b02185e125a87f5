//! The `_schemas` topic: read from the beginning and followed, written with acks=all and read back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kafka::Cluster;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use service::{Backoff, CancellationToken, Condition};
use tokio::sync::watch;

use crate::metrics;
use crate::record::Record;
use crate::state::State;

/// How often the broker is asked whether it is still there.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// How long an administrative call may take.
const ADMIN_LIMIT: Duration = Duration::from_secs(5);

/// Why a change could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0}")]
    Loading(String),
    #[error("Kafka topic '{topic}' can't be written now: {reason}; the change may be tried again")]
    Unavailable { topic: String, reason: String },
    #[error(
        "no answer from Kafka topic '{topic}' within {seconds} s; whether the change was made shows when it answers again"
    )]
    Timeout { topic: String, seconds: u64 },
    #[error(
        "the schema is larger than Kafka topic '{topic}' takes; raise its max.message.bytes or make the schema smaller"
    )]
    TooLarge { topic: String },
}

/// How far the reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The end was reached once: the state can be served.
    loaded: bool,
    /// The reader follows the topic now: changes can be read back.
    following: bool,
    /// The next offset to read.
    next: i64,
}

/// The topic and what was read of it.
pub(crate) struct Store {
    cluster: Cluster,
    topic: String,
    timeout: Duration,
    producer: FutureProducer,
    state: RwLock<State>,
    progress: watch::Sender<Progress>,
    skipped: AtomicU64,
    condition: Condition,
    /// The last reason why the reader does not follow.
    trouble: Mutex<String>,
}

impl Store {
    pub(crate) fn new(
        cluster: Cluster,
        topic: String,
        timeout: Duration,
        condition: Condition,
    ) -> anyhow::Result<Self> {
        let producer: FutureProducer = cluster
            .client_config()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            // What was not delivered when the client was told so must not come later.
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("message.max.bytes", "16777216")
            .create()
            .context("the Kafka client refuses its settings")?;
        Ok(Self {
            cluster,
            topic,
            timeout,
            producer,
            state: RwLock::default(),
            progress: watch::Sender::default(),
            skipped: AtomicU64::new(0),
            condition,
            trouble: Mutex::new("still connecting".to_owned()),
        })
    }

    /// The state, once the topic was read.
    pub(crate) fn state(&self) -> Result<RwLockReadGuard<'_, State>, StoreError> {
        if self.progress.borrow().loaded {
            Ok(self.state.read())
        } else {
            Err(StoreError::Loading(self.trouble.lock().clone()))
        }
    }

    /// Records that were not ours or could not be used, since the start.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Waits until the topic was read to its end.
    pub(crate) async fn loaded(&self) {
        let mut progress = self.progress.subscribe();
        // The sender is ours, so this can't end otherwise.
        let _ = progress.wait_for(|progress| progress.loaded).await;
    }

    /// Waits until everything that is in the topic now was read, so that a change starts from what others wrote.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        self.following()?;
        let high = self
            .end(self.timeout)
            .await
            .map_err(|error| self.unavailable(&error))?;
        self.reached(high).await
    }

    /// Produces the records, in their order, and waits until the reader has read them back.
    pub(crate) async fn write(&self, records: &[Record]) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.produce(records).await;
        let outcome = match &result {
            Ok(()) => {
                metrics::WRITE_SECONDS.observe(started.elapsed().as_secs_f64());
                "ok"
            }
            Err(_) => "failed",
        };
        metrics::WRITES.with_label_values(&[outcome]).inc();
        result
    }

    async fn produce(&self, records: &[Record]) -> Result<(), StoreError> {
        self.following()?;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let key = record.key();
            let value = record
                .value()
                .map_err(|error| self.unavailable(&error.into()))?;
            let mut message = FutureRecord::<str, str>::to(&self.topic)
                .partition(0)
                .key(&key);
            if let Some(value) = &value {
                message = message.payload(value);
            }
            let delivery = self
                .producer
                .send_result(message)
                .map_err(|(error, _)| self.refused(&error))?;
            deliveries.push(delivery);
        }
        let mut next = 0;
        for delivery in deliveries {
            let delivered = delivery
                .await
                .map_err(|_| self.timed_out())?
                .map_err(|(error, _)| self.refused(&error))?;
            next = next.max(delivered.offset + 1);
        }
        self.reached(next).await
    }

    /// The offset behind the topic's last record. Asked on the producer's connection: on the consumer's it would wait
    /// for the long poll before it.
    async fn end(&self, limit: Duration) -> anyhow::Result<i64> {
        let (producer, topic) = (self.producer.clone(), self.topic.clone());
        let (_, high) = tokio::task::spawn_blocking(move || {
            producer.client().fetch_watermarks(&topic, 0, limit)
        })
        .await??;
        Ok(high)
    }

    async fn reached(&self, next: i64) -> Result<(), StoreError> {
        let mut progress = self.progress.subscribe();
        let wait = progress.wait_for(|progress| progress.next >= next);
        match tokio::time::timeout(self.timeout, wait).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn following(&self) -> Result<(), StoreError> {
        let progress = *self.progress.borrow();
        if !progress.loaded {
            return Err(StoreError::Loading(self.trouble.lock().clone()));
        }
        if progress.following {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            topic: self.topic.clone(),
            reason: self.trouble.lock().clone(),
        })
    }

    fn unavailable(&self, error: &anyhow::Error) -> StoreError {
        StoreError::Unavailable {
            topic: self.topic.clone(),
            reason: format!("{error:#}"),
        }
    }

    fn timed_out(&self) -> StoreError {
        StoreError::Timeout {
            topic: self.topic.clone(),
            seconds: self.timeout.as_secs(),
        }
    }

    fn refused(&self, error: &KafkaError) -> StoreError {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => StoreError::TooLarge {
                topic: self.topic.clone(),
            },
            Some(RDKafkaErrorCode::MessageTimedOut) => self.timed_out(),
            _ => StoreError::Unavailable {
                topic: self.topic.clone(),
                reason: error.to_string(),
            },
        }
    }

    /// Reads the topic and follows it until told to stop; starts over, with waits, when that fails.
    pub(crate) async fn follow(&self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = self.load_and_follow(&mut backoff) => ended,
            };
            self.progress
                .send_modify(|progress| progress.following = false);
            if let Err(error) = ended {
                self.in_trouble(&error);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(backoff.wait()) => {}
            }
        }
    }

    fn in_trouble(&self, error: &anyhow::Error) {
        let reason = format!(
            "Kafka topic '{}' at {}: {error:#}",
            self.topic,
            self.cluster.bootstrap()
        );
        self.trouble.lock().clone_from(&reason);
        self.condition.fail(reason);
    }

    async fn load_and_follow(&self, backoff: &mut Backoff) -> anyhow::Result<()> {
        let consumer: StreamConsumer = self
            .cluster
            .client_config()
            // Needed by the client; nothing is committed and no group is joined.
            .set("group.id", "zeelos-schema-registry")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // Offsets that are gone mean another topic: start over instead of jumping.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_uncommitted")
            .set("allow.auto.create.topics", "false")
            .set("fetch.error.backoff.ms", "100")
            .create()
            .context("the Kafka client refuses its settings")?;
        let consumer = Arc::new(consumer);
        self.prepare_topic(&consumer).await?;
        let high = self.end(ADMIN_LIMIT).await?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, 0, Offset::Beginning)?;
        consumer.assign(&assignment)?;
        tokio::select! {
            ended = self.read(&consumer, high, backoff) => ended,
            lost = self.probe() => lost,
        }
    }

    /// Makes the topic where it is missing, and refuses one that would lose schemas.
    async fn prepare_topic(&self, consumer: &Arc<StreamConsumer>) -> anyhow::Result<()> {
        match partitions(Arc::clone(consumer), &self.topic).await? {
            1 => {}
            0 if self.progress.borrow().loaded && self.state.read().schema_count() > 0 => bail!(
                "the topic is gone, but {} schemas are in use; restore it, or restart this registry to begin with an empty one",
                self.state.read().schema_count()
            ),
            0 => {
                let made = kafka::ensure_topic(
                    &self.cluster,
                    &self.topic,
                    1,
                    &[("cleanup.policy", "compact")],
                )
                .await?;
                if made {
                    tracing::info!(topic = self.topic, "topic made");
                }
                // Metadata takes a moment to spread.
                for _ in 0..50 {
                    if partitions(Arc::clone(consumer), &self.topic).await? == 1 {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                bail!("the topic was made but does not show up");
            }
            many => bail!(
                "the topic has {many} partitions and has to have exactly one, for its order; name another with --schemas-topic"
            ),
        }
        self.check_policy().await
    }

    async fn check_policy(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.cluster.client_config().create()?;
        let options = AdminOptions::new().request_timeout(Some(ADMIN_LIMIT));
        let topic = ResourceSpecifier::Topic(&self.topic);
        let answer = match admin.describe_configs([&topic], &options).await {
            Ok(answer) => answer.into_iter().next(),
            Err(error) => {
                tracing::warn!(topic = self.topic, %error, "can't see the topic's settings; it has to have cleanup.policy=compact");
                return Ok(());
            }
        };
        let policy = match &answer {
            Some(Ok(resource)) => resource
                .get("cleanup.policy")
                .and_then(|entry| entry.value.clone()),
            _ => None,
        };
        match policy {
            Some(policy) if policy != "compact" => bail!(
                "the topic has cleanup.policy={policy}, with which schemas get lost; set it to compact"
            ),
            Some(_) => {}
            None => {
                tracing::warn!(
                    topic = self.topic,
                    "can't see the topic's settings; it has to have cleanup.policy=compact"
                );
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        consumer: &StreamConsumer,
        high: i64,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        // Until the end is reached, what was known before stays in service.
        let mut fresh = Some(State::default());
        let mut next = 0;
        loop {
            match consumer.recv().await {
                Ok(message) => {
                    next = message.offset() + 1;
                    match &mut fresh {
                        Some(state) => self.take(state, &message),
                        None => {
                            self.take(&mut self.state.write(), &message);
                            self.advance(next);
                        }
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    if let Some(state) = fresh.take() {
                        // The end may lie behind the last record: compaction and deletion leave gaps.
                        next = next.max(high);
                        tracing::info!(
                            topic = self.topic,
                            subjects = state.subject_count(),
                            schemas = state.schema_count(),
                            next_offset = next,
                            "topic read"
                        );
                        *self.state.write() = state;
                        self.progress.send_modify(|progress| {
                            progress.loaded = true;
                            progress.following = true;
                        });
                        self.advance(next);
                        self.condition.ok();
                        backoff.reset();
                    }
                }
                Err(error) => match error.rdkafka_error_code() {
                    // The client goes on by itself with these; the probe says how the broker is.
                    Some(
                        RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::AllBrokersDown
                        | RDKafkaErrorCode::OperationTimedOut
                        | RDKafkaErrorCode::Resolve
                        | RDKafkaErrorCode::NotLeaderForPartition
                        | RDKafkaErrorCode::LeaderNotAvailable,
                    ) => tracing::debug!(%error, "reading"),
                    _ => return Err(error).context("reading failed"),
                },
            }
        }
    }

    fn take(&self, state: &mut State, message: &BorrowedMessage<'_>) {
        let taken =
            Record::decode(message.key(), message.payload()).and_then(|record| state.apply(record));
        match taken {
            Ok(()) => metrics::RECORDS.with_label_values(&["taken"]).inc(),
            Err(skip) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                metrics::RECORDS
                    .with_label_values(&[skip.to_string().as_str()])
                    .inc();
                tracing::warn!(
                    topic = self.topic,
                    offset = message.offset(),
                    reason = %skip,
                    "record skipped"
                );
            }
        }
    }

    fn advance(&self, next: i64) {
        let (subjects, schemas) = {
            let state = self.state.read();
            (state.subject_count(), state.schema_count())
        };
        metrics::SUBJECTS.set(i64::try_from(subjects).unwrap_or(i64::MAX));
        metrics::SCHEMAS.set(i64::try_from(schemas).unwrap_or(i64::MAX));
        metrics::NEXT_OFFSET.set(next);
        self.progress.send_modify(|progress| progress.next = next);
    }

    /// Asks for the topic's end now and then; returns when the topic is another one than was read.
    async fn probe(&self) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let answer = self.end(PROBE_EVERY).await;
            let progress = *self.progress.borrow();
            match answer {
                Ok(high) if progress.following && high < progress.next => bail!(
                    "the topic ends at offset {high}, before what was read of it ({}): it was made anew",
                    progress.next
                ),
                Ok(_) if progress.following => self.condition.ok(),
                // Still reading: nothing is wrong, but it is not ready either.
                Ok(_) => {}
                Err(error) => {
                    let code = error
                        .downcast_ref::<KafkaError>()
                        .and_then(KafkaError::rdkafka_error_code);
                    if let Some(
                        RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::UnknownTopicOrPartition,
                    ) = code
                    {
                        return Err(error);
                    }
                    self.in_trouble(&error);
                }
            }
        }
    }
}

/// How many partitions the topic has; 0 where there is none.
async fn partitions(consumer: Arc<StreamConsumer>, topic: &str) -> anyhow::Result<usize> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let metadata = consumer.fetch_metadata(Some(&topic), ADMIN_LIMIT)?;
        Ok(metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .map_or(0, |found| found.partitions().len()))
    })
    .await?
}
