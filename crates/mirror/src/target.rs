//! The client that writes, and what it says of each record it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use crate::bandwidth::{self, Wire};
use crate::state::{Delivery, Shared};
use crate::{Transfer, metrics};

/// How many epochs can be told apart at a time.
pub(crate) const SLOTS: usize = 8;

/// Which record of which epoch, through librdkafka and back: no allocation for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) slot: usize,
    pub(crate) index: usize,
}

impl Ticket {
    /// Of a record that is none of the source's: the offsets of a transaction.
    pub(crate) const BOOKKEEPING: usize = 0xffff_ffff;

    fn opaque(self) -> usize {
        (self.slot << 32) | self.index
    }

    fn of(opaque: usize) -> Self {
        Self {
            slot: opaque >> 32,
            index: opaque & 0xffff_ffff,
        }
    }
}

/// A record that the target did not take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) ticket: Ticket,
    pub(crate) code: RDKafkaErrorCode,
}

/// What the producer reports; it does so on the thread that polls it.
pub(crate) struct Reports {
    shared: Arc<Shared>,
    wire: Wire,
    /// Acknowledged records by epoch; counted without transactions only.
    acknowledged: [AtomicUsize; SLOTS],
    /// Grows with whatever the client tells: what it has not told yet counts as in flight.
    told: AtomicU64,
    failed: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    /// Why the client can't go on.
    fatal: Mutex<Option<String>>,
}

impl ClientContext for Reports {
    fn stats_raw(&self, statistics: &[u8]) {
        self.told.fetch_add(1, Ordering::Relaxed);
        if self.shared.flow.transfer == Transfer::Push
            && let Some(total) = bandwidth::total(statistics, "tx_bytes")
        {
            self.shared.crossed(&self.wire, total);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the target's client");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.lock().get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let ticket = Ticket::of(opaque);
        match result {
            Ok(_) => {
                self.acknowledged[ticket.slot % SLOTS].fetch_add(1, Ordering::Relaxed);
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                let code = error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown);
                self.failures.lock().push(Failure { ticket, code });
                self.failed.fetch_add(1, Ordering::Release);
            }
        }
    }
}

impl Shared {
    /// So many bytes of a client's crossed the link, in all.
    pub(crate) fn crossed(&self, wire: &Wire, total: u64) {
        let (grew, due) = wire.grew(total);
        metrics::LINK_BYTES.inc_by(grew);
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.pay(due, Instant::now());
        }
    }

    /// So many bytes cross it, or did, as far as a lane can tell.
    pub(crate) fn pay_ahead(&self, wire: &Wire, bytes: usize) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.pay(wire.pay_ahead(bytes), Instant::now());
        }
    }

    /// How often a client tells its bytes: a cap needs to know soon.
    pub(crate) fn statistics_interval_ms(&self) -> &'static str {
        if self.bandwidth.is_some() {
            "100"
        } else {
            "5000"
        }
    }

    /// The most bytes in a queue of the side that the link is on: what a link of its latency holds, and with a cap half a
    /// second of it, so that a burst is no more than that.
    pub(crate) fn queue_bytes(&self, side: Transfer, least: usize) -> usize {
        let rtt = match side {
            Transfer::Pull => self.source_rtt,
            Transfer::Push => self.target_rtt,
        };
        let held = least + (rtt.as_secs_f64() * LINK_BYTES_PER_S) as usize;
        let held = held.min(MOST_QUEUE_BYTES);
        match &self.bandwidth {
            Some(bandwidth) if self.flow.transfer == side => {
                let half_second = usize::try_from(bandwidth.bytes_per_s() / 2).unwrap_or(held);
                held.min(half_second.max(LEAST_QUEUE_BYTES))
            }
            _ => held,
        }
    }
}

/// What a link is taken to carry when queues are sized by its latency: 320 Mbit/s.
const LINK_BYTES_PER_S: f64 = 40e6;
const MOST_QUEUE_BYTES: usize = 16 * 1024 * 1024;
const LEAST_QUEUE_BYTES: usize = 64 * 1024;

/// How long a transaction may be open before the target aborts it: what a killed mirror can hold up readers, unless
/// its successor, which aborts it at once, comes sooner.
const TRANSACTION_LIMIT_MS: &str = "30000";
/// How long a new client is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long one call of the transaction protocol waits; it is repeated.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A record as librdkafka takes it: key and value are copied.
pub(crate) type Handed<'a> = BaseRecord<'a, [u8], [u8], usize>;

/// A producer for one lane.
pub(crate) struct Target {
    producer: BaseProducer<Reports>,
}

/// Why a lane has no producer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTarget {
    /// The cluster has no transactions.
    #[error("the target cluster has no transactions: {0}")]
    NoTransactions(String),
    #[error("told to stop")]
    Stopped,
    /// It may go another time.
    #[error("{0}")]
    NotNow(String),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Target {
    /// A producer; with a transactional id it fences whoever had that id before.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        transactional_id: Option<&str>,
    ) -> Result<Self, NoTarget> {
        let queue_bytes = shared.queue_bytes(Transfer::Push, 8 * 1024 * 1024);
        let mut config = shared.target.client_config();
        // librdkafka's other name for message.timeout.ms: whatever a file of properties says, it must not count.
        config.remove("delivery.timeout.ms");
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", &shared.flow.compression)
            .set("batch.size", queue_bytes.min(1_000_000).to_string())
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000")
            .set(
                "queue.buffering.max.kbytes",
                (queue_bytes / 1024).max(4 * 1024).to_string(),
            )
            // The brokers say what is too large for them.
            .set("message.max.bytes", "1000000000")
            // A topic auto-created by the first record takes a moment to show up.
            .set("topic.metadata.propagation.max.ms", "30000")
            .set("statistics.interval.ms", shared.statistics_interval_ms());
        match transactional_id {
            Some(id) => {
                config
                    .set("transactional.id", id)
                    .set("transaction.timeout.ms", TRANSACTION_LIMIT_MS)
                    // A transaction's end tells of all its records at once.
                    .set("delivery.report.only.error", "true");
            }
            None => {
                // 0 is unlimited: the queue's bound, not a clock, limits what an outage may hold back.
                config.set("message.timeout.ms", "0");
            }
        }
        let target = Self::make(shared, &config)?;
        // Connects: a client that has no broker yet looks for a producer id only every half a second.
        let _ = target.producer.client().fetch_metadata(None, CONNECT_LIMIT);
        if transactional_id.is_some() {
            target.init_transactions(shared)?;
        }
        Ok(target)
    }

    fn make(shared: &Arc<Shared>, config: &ClientConfig) -> anyhow::Result<Self> {
        let reports = Reports {
            shared: Arc::clone(shared),
            wire: Wire::default(),
            acknowledged: Default::default(),
            told: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            failures: Mutex::default(),
            fatal: Mutex::default(),
        };
        let producer = config
            .create_with_context(reports)
            .context("the target's client refuses its settings")?;
        Ok(Self { producer })
    }

    fn init_transactions(&self, shared: &Shared) -> Result<(), NoTarget> {
        loop {
            let Err(error) = self.producer.init_transactions(CALL_LIMIT) else {
                shared.target_health.ok("transactions");
                return Ok(());
            };
            let code = error.rdkafka_error_code();
            let text = told(&error);
            // The embedded broker says so in the words of its refusal; others don't know the request.
            if code == Some(RDKafkaErrorCode::UnsupportedFeature)
                || text.contains("transactions are not supported")
            {
                return Err(NoTarget::NoTransactions(text));
            }
            if code == Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) {
                return Err(NoTarget::Failed(anyhow::anyhow!(
                    "the target does not let this client use the transactional id '{}' ({text}): allow it, or use --delivery at-least-once",
                    shared.flow.name
                )));
            }
            if matches!(&error, KafkaError::Transaction(e) if e.is_fatal()) {
                return Err(NoTarget::Failed(anyhow::anyhow!(
                    "the target's transactions can't be used: {text}"
                )));
            }
            shared.target_health.fail(
                "transactions",
                format!(
                    "the target {} does not begin transactions: {text}",
                    shared.target.bootstrap()
                ),
            );
            if !shared.switches.rest(Duration::from_millis(200)) {
                return Err(NoTarget::Stopped);
            }
        }
    }

    pub(crate) fn begin(&self) -> Result<(), KafkaError> {
        self.producer.begin_transaction()
    }

    pub(crate) fn commit(&self) -> Result<(), KafkaError> {
        self.producer.commit_transaction(CALL_LIMIT)
    }

    pub(crate) fn abort(&self) -> Result<(), KafkaError> {
        self.producer.abort_transaction(CALL_LIMIT)
    }

    /// Hands a record over; `Err` gives it back.
    #[allow(
        clippy::result_large_err,
        reason = "the record comes back as it was, for the next attempt"
    )]
    pub(crate) fn send<'a>(&self, record: Handed<'a>) -> Result<(), (KafkaError, Handed<'a>)> {
        self.producer.send(record)
    }

    pub(crate) fn record(topic: &str, ticket: Ticket) -> Handed<'_> {
        BaseRecord::with_opaque_to(topic, ticket.opaque())
    }

    /// Pays for records that were handed over, where the link is on this side.
    pub(crate) fn pay(&self, bytes: usize) {
        let reports = self.reports();
        if reports.shared.flow.transfer == Transfer::Push {
            reports.shared.pay_ahead(&reports.wire, bytes);
        }
    }

    /// Takes reports until there is none; waits for the first.
    pub(crate) fn poll(&self, wait: Duration) {
        let mut before = self.reported();
        self.producer.poll(wait);
        // One call may take one event only.
        while before != self.reported() {
            before = self.reported();
            self.producer.poll(Duration::ZERO);
        }
    }

    fn reported(&self) -> (u64, usize) {
        (self.reports().told.load(Ordering::Relaxed), self.failed())
    }

    /// Records of this epoch that the target acknowledged.
    pub(crate) fn acknowledged(&self, slot: usize) -> usize {
        self.reports().acknowledged[slot].load(Ordering::Relaxed)
    }

    pub(crate) fn forget(&self, slot: usize) {
        self.reports().acknowledged[slot].store(0, Ordering::Relaxed);
    }

    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    pub(crate) fn failed(&self) -> usize {
        self.reports().failed.load(Ordering::Acquire)
    }

    pub(crate) fn take_failures(&self) -> Vec<Failure> {
        let reports = self.reports();
        reports.failed.store(0, Ordering::Release);
        std::mem::take(&mut *reports.failures.lock())
    }

    pub(crate) fn fatal(&self) -> Option<String> {
        let known = self.reports().fatal.lock().clone();
        known.or_else(|| {
            let (code, reason) = self.producer.client().fatal_error()?;
            Some(format!("{reason} ({code})"))
        })
    }

    /// Whether another client has its transactional id now.
    pub(crate) fn is_fenced(&self) -> bool {
        let error = self.producer.client().fatal_error();
        error.is_some_and(|(code, _)| {
            matches!(
                code,
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
            )
        })
    }

    /// How many partitions a topic has; asking makes the topic where the cluster makes topics on demand.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<i32> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(Some(topic), CALL_LIMIT)
            .ok()?;
        let partitions = metadata.topics().first()?.partitions().len();
        i32::try_from(partitions).ok().filter(|count| *count > 0)
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }
}

/// The protocol's own words, where an error has some.
pub(crate) fn told(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        other => other.to_string(),
    }
}

/// The lane's transactional id, where there are transactions.
pub(crate) fn transactional_id(shared: &Shared, prompt: bool) -> Option<String> {
    let suffix = if prompt { ".prompt" } else { "" };
    (shared.delivery() == Delivery::ExactlyOnce).then(|| format!("{}{suffix}", shared.flow.name))
}
