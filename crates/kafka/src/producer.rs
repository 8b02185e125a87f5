use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _, PurgeConfig};

use crate::ticketed::headers;
use crate::{Cluster, SettingsError};

/// Why a record was not produced.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// This record can't be taken (too large, unknown topic and no auto-creation): another one may.
    #[error("Kafka refuses a record for '{topic}': {reason}")]
    Refused {
        /// Where it was to go.
        topic: String,
        /// The broker's or librdkafka's reason.
        reason: KafkaError,
    },
    /// The producer can't go on; make a new one (restart the service).
    #[error("the Kafka producer can't go on and has to be made anew: {0}")]
    Fatal(KafkaError),
}

impl ProduceError {
    /// Whether the record is larger than the brokers take: the same record never will be taken.
    ///
    /// A broker judges a whole batch, so this is sure only of a record that was sent with no other under way.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { reason, .. }
            if reason.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge))
    }

    /// What an operator does about a topic that is not to be written to; `None` where waiting is all there is to do.
    pub fn remedy(&self) -> Option<&'static str> {
        use RDKafkaErrorCode as Code;
        let (Self::Refused { reason, .. } | Self::Fatal(reason)) = self;
        Some(match reason.rdkafka_error_code()? {
            Code::TopicAuthorizationFailed => {
                "give this service's principal the operations WRITE and DESCRIBE on it (zeelos acls shows all rules)"
            }
            Code::ClusterAuthorizationFailed => {
                "give this service's principal the operation IDEMPOTENT_WRITE on the cluster, or WRITE on the topic"
            }
            Code::TransactionalIdAuthorizationFailed => {
                "give this service's principal the operations WRITE and DESCRIBE on its transactional id"
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                "make it (zeelos topics create), or allow the brokers to make topics (auto.create.topics.enable)"
            }
            Code::InvalidTopic => "no topic can have this name: use another one",
            Code::SaslAuthenticationFailed | Code::Authentication => {
                "check this service's credentials for Kafka"
            }
            Code::PolicyViolation => {
                "a policy of the cluster does not allow it: ask whoever runs the brokers"
            }
            _ => return None,
        })
    }

    /// Whether the brokers don't take the record's timestamp. Where that was ours to choose, it is no fault of the record:
    /// a broker's clock and ours differ, and the same record is taken with [`NO_TIMESTAMP`].
    ///
    /// A broker judges a whole batch: the timestamp may be a neighbour's.
    pub fn is_about_the_timestamp(&self) -> bool {
        matches!(self, Self::Refused { reason, .. }
            if reason.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTimestamp))
    }

    /// Whether it is the record that the brokers don't take (its size, its timestamp, no key in a compacted topic),
    /// so that waiting mends nothing. As with [`ProduceError::is_too_large`], a neighbour may be meant.
    pub fn is_about_the_record(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if matches!(
            reason.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::InvalidTimestamp
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::InvalidDifferentRecord
            )
        ))
    }
}

/// As a record's timestamp: it has none. Brokers judge no record's time that has none, whatever their clock says.
pub const NO_TIMESTAMP: i64 = -1;

/// How a producer batches.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// The most bytes of one batch. Default 1,000,000.
    pub batch_bytes: usize,
    /// How long a record may wait for company. Default 5 ms.
    pub linger: Duration,
    /// The most bytes of records that wait for their acknowledgement; beyond it `send` waits, and a single record
    /// that is larger is refused. Default 32 MiB.
    pub queue_bytes: usize,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            compression: "none".to_owned(),
            batch_bytes: 1_000_000,
            linger: Duration::from_millis(5),
            queue_bytes: 32 * 1024 * 1024,
        }
    }
}

/// A record on its way to Kafka.
#[derive(Clone, Debug, Default)]
pub struct OutRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None`: Java's default partitioner (murmur2 of the key).
    pub partition: Option<i32>,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The record's timestamp in Unix milliseconds; `None`: now; [`NO_TIMESTAMP`]: none.
    pub timestamp_ms: Option<i64>,
    /// Headers, in order.
    pub headers: &'a [(String, Option<Vec<u8>>)],
}

/// A producer that does not lose what it took: idempotent, acknowledged by all replicas, and without
/// librdkafka's time limit after which an unreachable broker means a dropped record.
///
/// When the cluster's certificates are renewed it is drained and made anew by the next [`Producer::send`]; what can't be
/// drained within 10 s, because the old certificate is no longer taken, fails as [`ProduceError::Refused`] and is the
/// sender's to send again.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    settings: ProducerSettings,
    /// And the generation of certificates it was made with.
    current: RwLock<(u64, FutureProducer)>,
    /// Held while the old one is drained: what is sent meanwhile waits, so that nothing overtakes.
    renewing: tokio::sync::Mutex<()>,
}

/// How long an old producer has to deliver what it holds once there are new certificates.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

impl Producer {
    /// Makes the producer; it connects in the background.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn new(cluster: &Cluster, settings: &ProducerSettings) -> Result<Self, SettingsError> {
        let generation = cluster.generation();
        let inner = lossless(cluster, settings).create()?;
        Ok(Self {
            shared: Arc::new(Shared {
                cluster: cluster.clone(),
                settings: settings.clone(),
                current: RwLock::new((generation, inner)),
                renewing: tokio::sync::Mutex::default(),
            }),
        })
    }

    fn current(&self) -> FutureProducer {
        self.shared.current.read().1.clone()
    }

    /// The producer with the newest certificates.
    async fn newest(&self) -> FutureProducer {
        let is_new = || self.shared.current.read().0 == self.shared.cluster.generation();
        if is_new() {
            return self.current();
        }
        let _one_at_a_time = self.shared.renewing.lock().await;
        if is_new() {
            return self.current();
        }
        let old = self.current();
        if self.flush(DRAIN_LIMIT).await.is_err() {
            tracing::warn!(
                records = old.in_flight_count(),
                "not acknowledged before the certificate changed; their senders send them again"
            );
            old.purge(PurgeConfig::default().queue().inflight());
        }
        let generation = self.shared.cluster.generation();
        match lossless(&self.shared.cluster, &self.shared.settings).create() {
            Ok(made) => {
                *self.shared.current.write() = (generation, made);
                tracing::info!("the Kafka producer was made anew with the renewed certificate");
            }
            Err(error) => {
                tracing::error!(%error, "no Kafka producer with the renewed certificate; the old one stays");
                self.shared.current.write().0 = generation;
            }
        }
        self.current()
    }

    /// Hands over a record; waits while the queue is full. The returned [`Delivery`] is the acknowledgement.
    ///
    /// # Errors
    /// When the record can't be taken at all.
    pub async fn send(&self, record: OutRecord<'_>) -> Result<Delivery, ProduceError> {
        let topic = record.topic.to_owned();
        let mut pending = FutureRecord::<[u8], [u8]>::to(record.topic);
        pending.partition = record.partition;
        pending.key = record.key;
        pending.payload = record.value;
        pending.timestamp = record.timestamp_ms;
        pending.headers = headers(record.headers);
        loop {
            let producer = self.newest().await;
            match producer.send_result(pending) {
                Ok(inner) => {
                    return Ok(Delivery {
                        topic,
                        producer,
                        inner,
                    });
                }
                Err((error, back)) if is_queue_full(&error) => {
                    pending = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(classify(&topic, error)),
            }
        }
    }

    /// Waits until everything handed over is acknowledged, at most for `limit`.
    ///
    /// # Errors
    /// When some of it is not acknowledged by then.
    pub async fn flush(&self, limit: Duration) -> Result<(), KafkaError> {
        let inner = self.current();
        tokio::task::spawn_blocking(move || inner.flush(limit))
            .await
            .unwrap_or(Err(KafkaError::Canceled))
    }

    /// Records handed over and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.current().in_flight_count()).unwrap_or(0)
    }
}

/// The configuration of a producer that does not lose what it took.
pub(crate) fn lossless(cluster: &Cluster, settings: &ProducerSettings) -> ClientConfig {
    let queue_kbytes = (settings.queue_bytes / 1024).max(1);
    let mut config = cluster.client_config();
    // librdkafka's other name for the same, and Java's: whatever a file of properties says, it must not count.
    config.remove("delivery.timeout.ms");
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // 0 is unlimited: the queue's bound, not a clock, limits what an outage may hold back. librdkafka's own
        // default drops a record after five minutes.
        .set(MESSAGE_TIMEOUT, "0")
        .set("partitioner", "murmur2_random")
        .set("compression.type", &settings.compression)
        .set("batch.size", settings.batch_bytes.to_string())
        .set("linger.ms", settings.linger.as_millis().to_string())
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", queue_kbytes.to_string())
        // The brokers say what is too large for them; here only what would wait for room in the queue for ever.
        .set(
            "message.max.bytes",
            (queue_kbytes * 1024)
                .clamp(1_000, 1_000_000_000)
                .to_string(),
        )
        // A topic auto-created by the first record takes a moment to show up.
        .set("topic.metadata.propagation.max.ms", "30000");
    config
}

const MESSAGE_TIMEOUT: &str = "message.timeout.ms";

pub(crate) fn is_queue_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

pub(crate) fn classify(topic: &str, error: KafkaError) -> ProduceError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::PurgeQueue) => ProduceError::Fatal(error),
        _ => ProduceError::Refused {
            topic: topic.to_owned(),
            reason: error,
        },
    }
}

fn is_purged(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
    )
}

fn classify_fatal(topic: &str, reason: KafkaError) -> ProduceError {
    match reason.rdkafka_error_code() {
        // It is the topic that is closed to us, whatever librdkafka makes of it.
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => ProduceError::Refused {
            topic: topic.to_owned(),
            reason,
        },
        _ => ProduceError::Fatal(reason),
    }
}

/// The acknowledgement of a record to come: its partition and offset.
pub struct Delivery {
    topic: String,
    /// By which it was sent: it is there until all its records are delivered.
    producer: FutureProducer,
    inner: DeliveryFuture,
}

impl Future for Delivery {
    type Output = Result<(i32, i64), ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let outcome = match ready!(Pin::new(&mut self.inner).poll(context)) {
            Ok(Ok(delivery)) => Ok((delivery.partition, delivery.offset)),
            Ok(Err((error, _))) if is_purged(&error) => {
                Err(match self.producer.client().fatal_error() {
                    // The first record that was refused for good takes all others with it.
                    Some((code, _)) => {
                        classify_fatal(&self.topic, KafkaError::MessageProduction(code))
                    }
                    // A renewal: the same record may go by the new producer.
                    None => ProduceError::Refused {
                        topic: self.topic.clone(),
                        reason: error,
                    },
                })
            }
            Ok(Err((error, _))) => Err(classify(&self.topic, error)),
            Err(_) => Err(ProduceError::Fatal(KafkaError::Canceled)),
        };
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_limits_how_long_a_record_may_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.properties");
        std::fs::write(&path, "delivery.timeout.ms=1000\n").unwrap();
        let cluster = Cluster::new("127.0.0.1:9092", Some(&path)).unwrap();
        let config = lossless(&cluster, &ProducerSettings::default());
        assert_eq!(config.get(MESSAGE_TIMEOUT), Some("0"));
        // Another name of the same setting, which could win.
        assert_eq!(config.get("delivery.timeout.ms"), None);
    }
}
