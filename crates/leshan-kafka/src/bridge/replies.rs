//! Produces replies, one for each request, whatever ends in between.
//!
//! In a transaction where the cluster has them: then a reader of committed records sees each reply once. A producer that
//! begins fences its predecessor and aborts what that left open; then the topic is read from where every reply is known
//! to be there, and those found are not produced again. The same is done after every failure whose outcome is open.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use kafka::{
    Cluster, LookAt, NO_TIMESTAMP, OutRecord, ProduceError, Producer, ProducerSettings, Record,
    TRACE_HEADER, TransactionError, TransactionalProducer, read_to_end, watermarks,
};
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use records::{AvroKey, AvroRecord as _, Response, ResponseBody, ResponseCode, frame};
use service::metrics::{Stage, records as passed};
use service::{Backoff, Condition};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::engine::TopicIds;
use crate::store::Outgoing;

/// The header that names the request a reply answers, by its origin.
pub(crate) const REQUEST_HEADER: &str = "zeelos-request";

/// A reply that is in the store under this number.
#[derive(Debug)]
pub(crate) struct HandedReply {
    pub(crate) row: i64,
    pub(crate) record: Outgoing,
}

/// Replies that are in Kafka.
#[derive(Debug)]
pub(crate) struct RepliesDone {
    pub(crate) topic: Arc<str>,
    /// Their rows.
    pub(crate) rows: Vec<i64>,
    /// Up to where, by partition, every reply is known to be there.
    pub(crate) up_to: Vec<(i32, i64)>,
}

/// How replies are produced.
pub(crate) struct ReplySettings {
    pub(crate) cluster: Cluster,
    pub(crate) producer: ProducerSettings,
    pub(crate) topic: String,
    pub(crate) transactional_id: String,
    /// What the store knows of the topic.
    pub(crate) known: HashMap<i32, i64>,
    /// The requests whose replies the last run left.
    pub(crate) left: HashSet<String>,
    pub(crate) condition: Condition,
}

/// The task that produces replies.
pub(crate) struct ReplyPublisher {
    settings: ReplySettings,
    topic: Arc<str>,
    known: HashMap<i32, i64>,
    /// The topic's end was looked up, for partitions where nothing is known.
    is_placed: bool,
    /// Replies that Kafka may have, by the request they answer.
    in_doubt: HashSet<String>,
    /// Of those, the ones it has.
    found: HashSet<String>,
    without_transactions: Without,
    allowed_again: Backoff,
    /// Until then replies have no timestamp: Kafka's clock and ours differ by more than it allows.
    untimed_until: Option<Instant>,
    passed: IntCounter,
}

/// Why replies are not produced in transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// They are.
    No,
    /// The cluster has none: it is not asked again.
    ForGood,
    /// The cluster does not allow them (the embedded broker, which has none, says so too): it is asked again then, since
    /// access rules change.
    Until(Instant),
}

impl Without {
    fn is_over(self) -> bool {
        matches!(self, Self::Until(at) if at <= Instant::now())
    }
}

enum Way {
    Transactions(TransactionalProducer),
    Plain(Producer),
}

/// Why an attempt ended.
enum Failure {
    /// Kafka does not take one of the records, whatever is done.
    Record(ProduceError),
    /// Kafka does not take the time by our clock.
    Clock(ProduceError),
    Other(String),
}

/// The most replies of one transaction.
const TOGETHER: usize = 256;
/// And their bytes: well below what the producer's queue holds. One alone may be larger.
const TOGETHER_BYTES: usize = 4 << 20;

/// How soon access rules are tried again that forbade transactions; then less and less often.
const ALLOWED_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(600)];
/// How long replies go without a timestamp once Kafka did not take our clock's.
const UNTIMED_FOR: Duration = Duration::from_secs(600);

const VALID: &str = "registered once, with a valid name";

static IN_TRANSACTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_replies_transactional",
        "1 where replies are produced in transactions, 0 where the cluster has none."
    )
    .expect(VALID)
});

static FOUND: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_replies_found_total",
        "Replies found in Kafka after a crash or a failure, and not produced again."
    )
    .expect(VALID)
});

static DUPLICATES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_reply_duplicates_total",
        "Replies seen twice in Kafka: byte for byte the same, where the cluster has no transactions."
    )
    .expect(VALID)
});

impl ReplyPublisher {
    pub(crate) fn new(mut settings: ReplySettings) -> Self {
        Self {
            topic: Arc::from(settings.topic.as_str()),
            known: std::mem::take(&mut settings.known),
            is_placed: false,
            in_doubt: std::mem::take(&mut settings.left),
            found: HashSet::new(),
            without_transactions: Without::No,
            allowed_again: Backoff::new(ALLOWED_AGAIN[0], ALLOWED_AGAIN[1]),
            untimed_until: None,
            passed: passed(Stage::Reply),
            settings,
        }
    }

    /// Runs until the engine hangs up and everything handed over is in Kafka.
    pub(crate) async fn run(
        mut self,
        mut handed: mpsc::Receiver<HandedReply>,
        ids: oneshot::Receiver<TopicIds>,
        done: mpsc::Sender<RepliesDone>,
    ) {
        let Ok(ids) = ids.await else { return };
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let mut batch: Vec<HandedReply> = Vec::new();
        let mut together = TOGETHER;
        'open: loop {
            let generation = self.settings.cluster.generation();
            let mut way = self.open(&mut backoff).await;
            if let Err(error) = self.read_back().await {
                self.fails(format!("{error:#}"), &mut backoff).await;
                continue;
            }
            if batch.is_empty() {
                // Nothing waits: what was said of Kafka before is over.
                self.settings.condition.ok();
            }
            loop {
                if batch.is_empty() && handed.recv_many(&mut batch, TOGETHER).await == 0 {
                    return;
                }
                if self.settings.cluster.generation() != generation {
                    // Renewed certificates.
                    continue 'open;
                }
                if self.without_transactions.is_over()
                    && let Some(allowed) = self.try_transactions().await
                {
                    // What went without them is all acknowledged.
                    way = allowed;
                }
                let mut places = HashMap::new();
                let mut rows: Vec<i64> = Vec::new();
                batch.retain(|reply| {
                    let origin = reply.record.origin.as_deref().unwrap_or_default();
                    let is_there = self.found.remove(origin);
                    if is_there {
                        rows.push(reply.row);
                    }
                    !is_there
                });
                let mut bytes = 0;
                let fit = batch.iter().take_while(|reply| {
                    bytes += reply.record.datum.len();
                    bytes <= TOGETHER_BYTES
                });
                let now = fit.count().max(1).min(together).min(batch.len());
                match self.produce(&way, ids, &batch[..now], &mut places).await {
                    Ok(()) => {
                        backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
                        self.settings.condition.ok();
                        for reply in batch.drain(..now) {
                            let (traceparent, endpoint) =
                                (reply.record.trace, reply.record.endpoint);
                            tracing::info!(
                                traceparent,
                                endpoint,
                                row = reply.row,
                                "reply in Kafka"
                            );
                            self.passed.inc();
                            rows.push(reply.row);
                        }
                        together = TOGETHER;
                    }
                    Err(Failure::Record(error)) if now == 1 => {
                        // The request has to have a reply all the same.
                        tracing::error!(row = batch[0].row, %error, "Kafka does not take a reply; a short one takes its place");
                        if !shorten(&mut batch[0].record, &error) {
                            tracing::error!(row = batch[0].row, %error, "nor the short one: the reply is given up");
                            rows.push(batch.remove(0).row);
                        }
                        // Those that were found are in Kafka, whatever becomes of this one.
                        if !self.report(&done, rows, &HashMap::new()).await {
                            return;
                        }
                        if matches!(way, Way::Transactions(_)) {
                            self.in_doubt.extend(origins(&batch));
                            continue 'open;
                        }
                        continue;
                    }
                    Err(failure) => {
                        self.in_doubt.extend(origins(&batch));
                        match failure {
                            // Which of them is meant shows when each goes alone.
                            Failure::Record(_) => together = 1,
                            Failure::Clock(error) => {
                                self.untimed_until = Some(Instant::now() + UNTIMED_FOR);
                                tracing::warn!(
                                    topic = &*self.topic,
                                    %error,
                                    "replies go without a timestamp for a while: Kafka's clock and this machine's differ by more than the topic allows"
                                );
                            }
                            Failure::Other(reason) => self.fails(reason, &mut backoff).await,
                        }
                        self.report(&done, rows, &HashMap::new()).await;
                        continue 'open;
                    }
                }
                if !self.report(&done, rows, &places).await {
                    return;
                }
            }
        }
    }

    /// `false` when nobody listens any more.
    async fn report(
        &mut self,
        done: &mpsc::Sender<RepliesDone>,
        rows: Vec<i64>,
        places: &HashMap<i32, i64>,
    ) -> bool {
        if rows.is_empty() {
            return true;
        }
        // While some are in doubt, what is known stays where it was: they may be before it.
        let known = if self.found.is_empty() && self.in_doubt.is_empty() {
            self.known.extend(places);
            // Also what was looked up at the start is worth keeping.
            self.known
                .iter()
                .map(|(partition, next)| (*partition, *next))
                .collect()
        } else {
            Vec::new()
        };
        let report = RepliesDone {
            topic: Arc::clone(&self.topic),
            rows,
            up_to: known,
        };
        done.send(report).await.is_ok()
    }

    async fn fails(&self, reason: String, backoff: &mut Backoff) {
        self.settings
            .condition
            .fail(format!("{reason}; replies wait in the store"));
        sleep(backoff.wait()).await;
    }

    /// Tries until there is a producer.
    async fn open(&mut self, backoff: &mut Backoff) -> Way {
        let ReplySettings {
            cluster,
            producer,
            transactional_id,
            ..
        } = &self.settings;
        loop {
            let opened = if self.without_transactions == Without::No {
                match TransactionalProducer::open(cluster, transactional_id, producer).await {
                    Ok(producer) => Ok(Way::Transactions(producer)),
                    Err(TransactionError::Unsupported(error)) => {
                        tracing::info!(%error, "replies are produced without transactions: after a crash of this server one may be seen twice");
                        self.without_transactions = Without::ForGood;
                        continue;
                    }
                    Err(error @ TransactionError::Forbidden(_)) => {
                        tracing::info!(%error, "replies are produced without transactions as long as there are none: after a crash of this server one may be seen twice");
                        let again = Instant::now() + self.allowed_again.wait();
                        self.without_transactions = Without::Until(again);
                        continue;
                    }
                    Err(error) => Err(said(&error)),
                }
            } else {
                Producer::new(cluster, producer)
                    .map(Way::Plain)
                    .map_err(|error| error.to_string())
            };
            match opened {
                Ok(way) => {
                    IN_TRANSACTIONS.set(i64::from(matches!(way, Way::Transactions(_))));
                    return way;
                }
                Err(reason) => self.fails(reason, backoff).await,
            }
        }
    }

    /// Whether transactions are allowed by now.
    async fn try_transactions(&mut self) -> Option<Way> {
        let ReplySettings {
            cluster,
            producer,
            transactional_id,
            ..
        } = &self.settings;
        match TransactionalProducer::open(cluster, transactional_id, producer).await {
            Ok(producer) => {
                tracing::info!("replies are produced in transactions from now on");
                self.without_transactions = Without::No;
                self.allowed_again = Backoff::new(ALLOWED_AGAIN[0], ALLOWED_AGAIN[1]);
                IN_TRANSACTIONS.set(1);
                Some(Way::Transactions(producer))
            }
            Err(error) => {
                tracing::debug!(%error, "no transactions yet");
                self.without_transactions =
                    Without::Until(Instant::now() + self.allowed_again.wait());
                None
            }
        }
    }

    /// Finds out which of the replies in doubt are there.
    async fn read_back(&mut self) -> anyhow::Result<()> {
        let (cluster, topic) = (&self.settings.cluster, &*self.topic);
        if self.in_doubt.is_empty() {
            if !self.is_placed {
                for (partition, end) in watermarks(cluster, topic).await? {
                    self.known.entry(partition).or_insert(end);
                }
                self.is_placed = true;
            }
            return Ok(());
        }
        let wanted = std::mem::take(&mut self.in_doubt);
        let search = Search {
            wanted,
            found: HashSet::new(),
        };
        match read_to_end(cluster, topic, &self.known, search).await {
            Ok(search) => {
                tracing::info!(
                    in_doubt = search.wanted.len(),
                    found = search.found.len(),
                    "replies read back"
                );
                FOUND.inc_by(search.found.len() as u64);
                self.found.extend(search.found);
                Ok(())
            }
            Err((search, error)) => {
                self.in_doubt = search.wanted;
                Err(error)
            }
        }
    }

    async fn produce(
        &self,
        way: &Way,
        ids: TopicIds,
        batch: &[HandedReply],
        places: &mut HashMap<i32, i64>,
    ) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let framed: Vec<_> = batch
            .iter()
            .map(|reply| Framed::new(&reply.record, ids))
            .collect();
        let untimed = self
            .untimed_until
            .is_some_and(|until| Instant::now() < until);
        let timestamp_ms = untimed.then_some(NO_TIMESTAMP);
        let records: Vec<OutRecord<'_>> = framed
            .iter()
            .map(|one| one.record(&self.topic, timestamp_ms))
            .collect();
        let produced = match way {
            Way::Transactions(producer) => match producer.produce(&records).await {
                Ok(delivered) => Ok(delivered),
                Err(TransactionError::Failed(error)) => Err(error),
                Err(error) => return Err(Failure::Other(said(&error))),
            },
            Way::Plain(producer) => plainly(producer, &records).await,
        };
        let delivered = produced.map_err(|error| {
            if error.is_about_the_timestamp() && !untimed {
                Failure::Clock(error)
            } else if error.is_about_the_record() {
                Failure::Record(error)
            } else {
                Failure::Other(with_remedy(&error))
            }
        })?;
        for (partition, offset) in delivered {
            let next = places.entry(partition).or_insert(0);
            *next = (*next).max(offset + 1);
        }
        Ok(())
    }
}

/// Looks for replies in doubt.
#[derive(Clone)]
struct Search {
    wanted: HashSet<String>,
    found: HashSet<String>,
}

impl LookAt for Search {
    fn look(&mut self, record: &Record) {
        let origin = record
            .header(REQUEST_HEADER)
            .and_then(|value| std::str::from_utf8(value).ok());
        if let Some(origin) = origin.filter(|origin| self.wanted.contains(*origin))
            && !self.found.insert(origin.to_owned())
        {
            DUPLICATES.inc();
        }
    }
}

fn origins(batch: &[HandedReply]) -> impl Iterator<Item = String> + '_ {
    batch.iter().filter_map(|reply| reply.record.origin.clone())
}

async fn plainly(
    producer: &Producer,
    records: &[OutRecord<'_>],
) -> Result<Vec<(i32, i64)>, ProduceError> {
    let mut deliveries = Vec::with_capacity(records.len());
    for record in records {
        deliveries.push(producer.send(record.clone()).await?);
    }
    let mut places = Vec::with_capacity(records.len());
    for delivery in deliveries {
        places.push(delivery.await?);
    }
    Ok(places)
}

fn with_remedy(error: &ProduceError) -> String {
    match error.remedy() {
        Some(remedy) => format!("{error}: {remedy}"),
        None => error.to_string(),
    }
}

fn said(error: &TransactionError) -> String {
    match error {
        TransactionError::Failed(error) => with_remedy(error),
        TransactionError::Fenced(_) => format!(
            "{error}: is there another server with this server's id? Stop one of them, or give it another id (--server-id)"
        ),
        other => other.to_string(),
    }
}

struct Framed {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Framed {
    fn new(record: &Outgoing, ids: TopicIds) -> Self {
        let header = |name: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            Some((name.to_owned(), Some(value.clone().into_bytes())))
        };
        let headers = [
            header(REQUEST_HEADER, &record.origin),
            header(TRACE_HEADER, &record.trace),
        ];
        Self {
            key: AvroKey::new(&record.endpoint).to_framed(ids.key),
            value: frame::join(ids.value, &record.datum),
            headers: headers.into_iter().flatten().collect(),
        }
    }

    fn record<'a>(&'a self, topic: &'a str, timestamp_ms: Option<i64>) -> OutRecord<'a> {
        OutRecord {
            topic,
            timestamp_ms,
            key: Some(&self.key),
            value: Some(&self.value),
            headers: &self.headers,
            ..OutRecord::default()
        }
    }
}

/// The same reply without what makes it too large; `false` where that is no shorter.
fn shorten(record: &mut Outgoing, error: &ProduceError) -> bool {
    let Ok(mut reply) = Response::from_datum(&record.datum) else {
        return false;
    };
    reply.rep.code = ResponseCode::InternalServerError;
    reply.rep.body = Some(ResponseBody::Generic(format!(
        "the device answered, but Kafka does not take the reply of {} bytes: {error}",
        record.datum.len()
    )));
    let before = std::mem::replace(&mut record.datum, reply.to_datum());
    record.datum.len() < before.len()
}
