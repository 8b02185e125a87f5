//! Produces what the engine hands over, in order, and says what Kafka has acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use kafka::{Delivery, OutRecord, Producer, RecordEncoder, SchemaRegistry};
use prometheus::IntCounter;
use records::{
    AvroRecord, RegistrationResponse, Response, ResponseObserve, SchemaId, frame, topics,
};
use service::metrics::{Stage, records as passed};
use service::{Backoff, Condition};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::args::ServerTopics;
use crate::store::{Outgoing, OutgoingKind};

/// A record handed over to be produced.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) ticket: Ticket,
    pub(crate) record: Outgoing,
}

/// By what the engine knows a record it has handed over; given back when Kafka has the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// A row of the outbox.
    Row(i64),
    /// A notification that a device waits for: numbered by the engine.
    Awaited(u64),
    /// Nobody asks for it.
    None,
}

/// Whether records get through now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicBool>);

impl Progress {
    /// Records have been waiting for an acknowledgement for longer than a healthy Kafka takes.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set_stuck(&self, stuck: bool) -> bool {
        self.0.swap(stuck, Ordering::Relaxed) != stuck
    }
}

/// No acknowledgement for this long while some are awaited: Kafka is away.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// The task between the engine and the producer.
pub(crate) struct Publisher {
    producer: Producer,
    encoder: RecordEncoder,
    registry: SchemaRegistry,
    topics: ServerTopics,
    progress: Progress,
    condition: Condition,
    counters: [IntCounter; 3],
}

impl Publisher {
    pub(crate) fn new(
        producer: Producer,
        registry: SchemaRegistry,
        topics: ServerTopics,
        progress: Progress,
        condition: Condition,
    ) -> Self {
        Self {
            producer,
            encoder: RecordEncoder::new(registry.clone()),
            registry,
            topics,
            progress,
            condition,
            counters: [Stage::Registration, Stage::Observation, Stage::Reply].map(passed),
        }
    }

    /// Runs until the engine hangs up and everything handed over is acknowledged, or the producer can't go on.
    pub(crate) async fn run(
        self,
        mut handed: mpsc::Receiver<Handed>,
        published: mpsc::Sender<Ticket>,
    ) -> anyhow::Result<()> {
        let mut waiting = FuturesUnordered::new();
        let mut last_progress = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                next = handed.recv(), if open => match next {
                    None => open = false,
                    Some(handed) => {
                        if waiting.is_empty() {
                            last_progress = Instant::now();
                        }
                        let delivery = self.produce_noticed(&handed.record).await?;
                        waiting.push(acknowledged(handed, delivery));
                    }
                },
                Some((handed, outcome)) = waiting.next() => {
                    last_progress = Instant::now();
                    self.condition.ok();
                    self.settle(&handed.record, outcome)?;
                    if handed.ticket != Ticket::None && published.send(handed.ticket).await.is_err() {
                        open = false;
                    }
                }
                _ = tick.tick() => {}
            }
            let stuck = !waiting.is_empty() && last_progress.elapsed() > STUCK_AFTER;
            if self.progress.set_stuck(stuck) && stuck {
                self.condition.fail(format!(
                    "Kafka has not acknowledged {} records for {} s; new ones go to the spool",
                    waiting.len(),
                    last_progress.elapsed().as_secs()
                ));
            }
        }
        Ok(())
    }

    /// As [`Self::produce`], and says so when it takes long: the registry or the producer's queue holds it up.
    async fn produce_noticed(&self, record: &Outgoing) -> anyhow::Result<Delivery> {
        let mut producing = std::pin::pin!(self.produce(record));
        tokio::select! {
            delivery = &mut producing => return delivery,
            () = sleep(STUCK_AFTER) => {}
        }
        self.progress.set_stuck(true);
        self.condition.fail(format!(
            "no record can be produced for {} s: the schema registry {} or Kafka does not answer",
            STUCK_AFTER.as_secs(),
            self.registry.url()
        ));
        producing.await
    }

    /// Frames and hands over one record; while the registry is away, waits.
    async fn produce(&self, record: &Outgoing) -> anyhow::Result<Delivery> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let (topic, schema) = match record.kind {
            OutgoingKind::Registration => {
                (&self.topics.registrations, RegistrationResponse::schema())
            }
            OutgoingKind::Observation => (&self.topics.observations, ResponseObserve::schema()),
            OutgoingKind::Reply => (&self.topics.management_rep, Response::schema()),
        };
        let subject = topics::value_subject(topic);
        let (key, id) = loop {
            let key = self.encoder.key(topic, &record.endpoint).await;
            let id = self.registry.register(&subject, schema.text()).await;
            match (key, id) {
                (Ok(key), Ok(id)) => break (key, id),
                (Err(error), _) | (_, Err(error)) => {
                    self.progress.set_stuck(true);
                    self.condition.fail(error.to_string());
                    sleep(backoff.wait()).await;
                }
            }
        };
        let value = frame::join(SchemaId(id), &record.datum);
        let out = OutRecord {
            topic,
            key: Some(&key),
            value: Some(&value),
            ..OutRecord::default()
        };
        Ok(self.producer.send(out).await?)
    }

    fn settle(&self, record: &Outgoing, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Ok(_) => {
                self.counters[record.kind as usize].inc();
                Ok(())
            }
            // Kafka will never take this one (its size, its timestamp): said loudly, and not tried for ever.
            Err(error) if error.is_about_the_record() => {
                tracing::error!(endpoint = %record.endpoint, kind = ?record.kind, bytes = record.datum.len(), %error, "a record is lost");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

type Outcome = Result<(i32, i64), kafka::ProduceError>;

async fn acknowledged(handed: Handed, delivery: Delivery) -> (Handed, Outcome) {
    let outcome = delivery.await;
    (handed, outcome)
}
