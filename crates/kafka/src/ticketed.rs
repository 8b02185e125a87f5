//! Producing from a loop that must not wait: records are handed over with a number, and the numbers come back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, oneshot};

use crate::producer::{classify, is_queue_full, lossless};
use crate::{Cluster, OutRecord, ProduceError, ProducerSettings, SettingsError};

/// As [`Producer`](crate::Producer), but nothing of it waits and nothing is allocated here for a record that Kafka
/// takes: what became of it is told by [`Deliveries`], under the ticket it was sent with.
pub struct TicketProducer {
    inner: Arc<ThreadedProducer<Reports>>,
}

/// Why a record was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full: try again when deliveries have come.
    #[error("the producer's queue is full")]
    Full,
    /// It is not taken.
    #[error(transparent)]
    Refused(#[from] ProduceError),
}

/// What became of a record.
#[derive(Debug)]
pub struct Delivered {
    /// As it was sent with.
    pub ticket: u32,
    /// The partition and offset it has, or why it has none.
    pub outcome: Result<(i32, i64), ProduceError>,
}

/// The other end of a [`TicketProducer`]: bounded by what the producer's queue holds.
pub struct Deliveries {
    reported: Arc<Reported>,
}

#[derive(Default)]
struct Reported {
    /// In the order they were reported, which is per partition the order they were sent in.
    delivered: Mutex<Vec<Delivered>>,
    some: Notify,
}

impl TicketProducer {
    /// Makes the producer; it connects in the background.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn new(
        cluster: &Cluster,
        settings: &ProducerSettings,
    ) -> Result<(Self, Deliveries), SettingsError> {
        let reported = Arc::new(Reported::default());
        let context = Reports(Arc::clone(&reported));
        let inner = lossless(cluster, settings).create_with_context(context)?;
        let inner = Arc::new(inner);
        Ok((Self { inner }, Deliveries { reported }))
    }

    /// Asks how many partitions a topic has, without waiting for the answer. Where there is none (no such topic, or no
    /// broker answers within 5 s) the other end hangs up.
    pub fn ask_partitions(&self, topic: &str) -> oneshot::Receiver<u32> {
        let (tell, told) = oneshot::channel();
        let (inner, topic) = (Arc::clone(&self.inner), topic.to_owned());
        let ask = move || {
            let metadata = inner
                .client()
                .fetch_metadata(Some(&topic), METADATA_LIMIT)
                .ok()?;
            let partitions = metadata.topics().first()?.partitions().len();
            let count = u32::try_from(partitions).ok().filter(|count| *count > 0)?;
            tell.send(count).ok()
        };
        // Without a thread to be had nothing is told.
        let _ = std::thread::Builder::new()
            .name("kafka-metadata".to_owned())
            .spawn(ask);
        told
    }

    /// Hands over a record. Its key and value are copied.
    ///
    /// # Errors
    /// [`SendError`]; then no delivery is told for the ticket.
    pub fn try_send(&self, record: OutRecord<'_>, ticket: u32) -> Result<(), SendError> {
        // As wide as a pointer everywhere this runs.
        let opaque = usize::try_from(ticket).unwrap_or(usize::MAX);
        let mut pending = BaseRecord::<[u8], [u8], usize>::with_opaque_to(record.topic, opaque);
        pending.partition = record.partition;
        pending.key = record.key;
        pending.payload = record.value;
        pending.timestamp = record.timestamp_ms;
        pending.headers = headers(record.headers);
        match self.inner.send(pending) {
            Ok(()) => Ok(()),
            Err((error, _)) if is_queue_full(&error) => Err(SendError::Full),
            Err((error, _)) => Err(SendError::Refused(classify(record.topic, error))),
        }
    }

    /// Records handed over and not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }
}

const METADATA_LIMIT: Duration = Duration::from_secs(5);

impl Deliveries {
    /// Waits for deliveries and swaps them into `into`, whose room is used again for later ones. Safe to cancel.
    pub async fn take(&self, into: &mut Vec<Delivered>) {
        into.clear();
        loop {
            let more = self.reported.some.notified();
            {
                let mut delivered = self.reported.delivered.lock();
                if !delivered.is_empty() {
                    std::mem::swap(&mut *delivered, into);
                    return;
                }
            }
            more.await;
        }
    }

    /// As [`Deliveries::take`], of what is there now.
    pub fn try_take(&self, into: &mut Vec<Delivered>) {
        into.clear();
        std::mem::swap(&mut *self.reported.delivered.lock(), into);
    }
}

pub(crate) fn headers(given: &[(String, Option<Vec<u8>>)]) -> Option<OwnedHeaders> {
    if given.is_empty() {
        return None;
    }
    let headers = OwnedHeaders::new_with_capacity(given.len());
    Some(given.iter().fold(headers, |all, (key, value)| {
        all.insert(Header {
            key,
            value: value.as_deref(),
        })
    }))
}

struct Reports(Arc<Reported>);

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let outcome = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, message)) => Err(classify(message.topic(), error.clone())),
        };
        let ticket = u32::try_from(opaque).unwrap_or(u32::MAX);
        let first = {
            let mut delivered = self.0.delivered.lock();
            delivered.push(Delivered { ticket, outcome });
            delivered.len() == 1
        };
        if first {
            self.0.some.notify_one();
        }
    }
}
