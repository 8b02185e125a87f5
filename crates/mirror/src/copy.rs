use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kafka::{
    DeadLetters, Delivery, ORIGIN_HEADER, Origin, OutRecord, Process, ProcessError, ProduceError,
    Producer, Record,
};
use prometheus::IntCounter;
use records::topics;
use service::Condition;
use service::metrics::{Stage, records};
use tokio::time::sleep;

use crate::progress::{Care, Progress};
use crate::rewrite::{Part, Rewrite, RewriteError};

/// Copies batches: rewrite, produce all, then wait for every acknowledgement.
///
/// Whatever happens in the middle, everything that was handed to the producer is awaited before the batch is offered
/// again, and the next attempt starts, per partition, at the first record that is not at the target yet. So a second
/// attempt neither overtakes the first nor repeats more than what followed a refused record.
pub(crate) struct Copier {
    target: Target,
    rewrite: Rewrite,
    source_id: String,
    stamps_origin: bool,
    progress: Progress,
    copied: IntCounter,
}

/// The cluster that is written to.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) producer: Producer,
    pub(crate) dead_letters: DeadLetters,
    /// Fails while it acknowledges nothing.
    pub(crate) condition: Condition,
    /// Counts what it took and acknowledged, to tell a slow target from one that is away.
    moves: Arc<AtomicU64>,
    /// Partitions per topic, for records without a key.
    partitions: HashMap<Arc<str>, i32>,
}

/// A target that took and acknowledged nothing for so long is said to be away.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// How long a topic that was asked for may take to show up before the batch is offered again.
const TOPIC_SHOWS_UP: Duration = Duration::from_secs(2);
/// The most bytes of records that are sent together once larger batches of theirs were refused.
const GROUP_BYTES: usize = 32 * 1024;

impl Target {
    pub(crate) fn new(name: &str, producer: Producer, condition: Condition) -> Self {
        Self {
            name: name.to_owned(),
            dead_letters: DeadLetters::new(producer.clone()),
            producer,
            condition,
            moves: Arc::default(),
            partitions: HashMap::new(),
        }
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// A key decides by itself. A record without one stays in its partition where the target has it, so that
    /// their order is kept.
    async fn partition_for(&mut self, record: &Record) -> Result<Option<i32>, ProcessError> {
        if record.key.is_some() {
            return Ok(None);
        }
        if let Some(count) = self.partitions.get(&record.topic) {
            return Ok(Some(record.partition % count));
        }
        let asked = Instant::now();
        loop {
            // Asking makes the topic where the cluster makes topics on demand.
            if let Some(count) = self.producer.partition_count(&record.topic).await {
                self.partitions.insert(Arc::clone(&record.topic), count);
                return Ok(Some(record.partition % count));
            }
            if asked.elapsed() > TOPIC_SHOWS_UP {
                return Err(ProcessError::Retry(format!(
                    "{} does not say how many partitions topic '{}' has: it does not answer, or has no such topic and makes none on demand",
                    self.name, record.topic
                )));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What happens to a record that was handed over.
struct UnderWay<'a> {
    record: &'a Record,
    delivery: Delivery,
    care: Care,
}

/// How a round through a batch ended.
enum Round {
    /// Every record is at the target, or put aside.
    Complete,
    /// Some have to be sent again, in smaller company.
    Again,
}

impl Copier {
    pub(crate) fn new(
        target: Target,
        rewrite: Rewrite,
        source_id: String,
        stamps_origin: bool,
    ) -> Self {
        Self {
            target,
            rewrite,
            source_id,
            stamps_origin,
            progress: Progress::default(),
            copied: records(Stage::Mirror),
        }
    }

    async fn round(&mut self, batch: &[Record]) -> Result<Round, ProcessError> {
        let mut under_way: Vec<UnderWay<'_>> = Vec::with_capacity(batch.len());
        let mut company = 0;
        for record in batch {
            let Some(care) = self.progress.care_for(record) else {
                continue;
            };
            let bytes = record.value.as_ref().map_or(0, Vec::len);
            let alone = under_way
                .last()
                .is_some_and(|last| match last.care.max(care) {
                    Care::Together => false,
                    Care::InGroups => last.care != care || company + bytes > GROUP_BYTES,
                    Care::Alone => true,
                });
            if alone {
                company = 0;
                if let Round::Again = self.settle(&mut under_way).await? {
                    return Ok(Round::Again);
                }
            }
            company += bytes;
            match self.hand_over(record).await {
                Ok(Some(delivery)) => under_way.push(UnderWay {
                    record,
                    delivery,
                    care,
                }),
                Ok(None) => self.progress.done_out_of_turn(record),
                Err(error) => {
                    // What is under way has to arrive before anything is sent again.
                    self.settle(&mut under_way).await?;
                    return Err(error);
                }
            }
        }
        self.settle(&mut under_way).await
    }

    /// Waits for every acknowledgement.
    async fn settle(&mut self, under_way: &mut Vec<UnderWay<'_>>) -> Result<Round, ProcessError> {
        let mut round = Round::Complete;
        let mut failed = None;
        for UnderWay {
            record,
            delivery,
            care,
        } in under_way.drain(..)
        {
            match delivery.await {
                Ok(_) => {
                    self.target.moved();
                    self.copied.inc();
                    self.progress.done(record);
                }
                Err(error) if error.is_about_the_record() => {
                    if let Some(more) = care.more() {
                        self.progress.suspect(record, more);
                        round = Round::Again;
                    } else {
                        self.refused_for_good(record, &error).await?;
                        self.progress.done(record);
                    }
                }
                Err(error) => {
                    self.progress.failed(record);
                    // Its partitions may have changed.
                    self.target.partitions.remove(&record.topic);
                    failed = Some(worse(failed, error));
                }
            }
        }
        self.progress.settled();
        match failed {
            None => Ok(round),
            Some(ProduceError::Fatal(error)) => Err(ProcessError::Fatal(error.into())),
            Some(error) => Err(ProcessError::Retry(error.to_string())),
        }
    }

    /// `None` when the record went to the dead letters.
    async fn hand_over(&mut self, record: &Record) -> Result<Option<Delivery>, ProcessError> {
        let (key, value) = match self.rewritten(record).await {
            Ok(rewritten) => rewritten,
            Err(RewriteError::Away(error)) => return Err(ProcessError::Retry(error.to_string())),
            // A dead letter stays as it came, also across the next mirror.
            Err(RewriteError::Poisoned(_)) if topics::dlq_source(&record.topic).is_some() => {
                (record.key.clone(), record.value.clone())
            }
            Err(RewriteError::Poisoned(error)) => {
                self.put_aside(record, "schema", &error.to_string()).await?;
                return Ok(None);
            }
        };
        let stamped;
        let headers = if self.stamps_origin && record.header(ORIGIN_HEADER).is_none() {
            let origin = Origin::of(record, &self.source_id).to_string();
            let header = (ORIGIN_HEADER.to_owned(), Some(origin.into_bytes()));
            stamped = [record.headers.as_slice(), &[header]].concat();
            &stamped
        } else {
            &record.headers
        };
        let out = OutRecord {
            topic: &record.topic,
            partition: self.target.partition_for(record).await?,
            key: key.as_deref(),
            value: value.as_deref(),
            timestamp_ms: record.timestamp_ms,
            headers,
        };
        match self.target.producer.send(out).await {
            Ok(delivery) => {
                self.target.moved();
                Ok(Some(delivery))
            }
            // Said before it was sent, so no neighbour is meant.
            Err(error) if error.is_about_the_record() => {
                self.refused_for_good(record, &error).await?;
                Ok(None)
            }
            Err(ProduceError::Fatal(error)) => Err(ProcessError::Fatal(error.into())),
            Err(error) => {
                self.target.partitions.remove(&record.topic);
                Err(ProcessError::Retry(error.to_string()))
            }
        }
    }

    async fn rewritten(
        &mut self,
        record: &Record,
    ) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), RewriteError> {
        let mut parts = [None, None];
        let given = [(Part::Key, &record.key), (Part::Value, &record.value)];
        for (out, (part, bytes)) in parts.iter_mut().zip(given) {
            if let Some(bytes) = bytes {
                let bytes = self.rewrite.rewrite(&record.topic, part, bytes).await?;
                *out = Some(bytes.into_owned());
            }
        }
        let [key, value] = parts;
        Ok((key, value))
    }

    async fn refused_for_good(
        &self,
        record: &Record,
        error: &ProduceError,
    ) -> Result<(), ProcessError> {
        let reason = if error.is_too_large() {
            "too_large"
        } else {
            "refused"
        };
        self.put_aside(record, reason, &error.to_string()).await
    }

    async fn put_aside(
        &self,
        record: &Record,
        reason: &'static str,
        message: &str,
    ) -> Result<(), ProcessError> {
        let outcome = self.target.dead_letters.put(record, reason, message).await;
        match outcome {
            Ok(()) => {
                self.target.moved();
                Ok(())
            }
            Err(ProduceError::Fatal(error)) => Err(ProcessError::Fatal(error.into())),
            Err(error) => Err(ProcessError::Retry(error.to_string())),
        }
    }
}

impl Process for Copier {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        self.progress.resume(batch);
        let (condition, moves) = (
            self.target.condition.clone(),
            Arc::clone(&self.target.moves),
        );
        let silence = format!(
            "the target {} has acknowledged nothing for {} s; waiting for it",
            self.target.name,
            SILENT_AFTER.as_secs()
        );
        loop {
            match watched(self.round(batch), &moves, &condition, &silence).await? {
                Round::Complete => break,
                Round::Again => {}
            }
        }
        condition.ok();
        self.progress.complete();
        Ok(())
    }
}

/// Awaits `work`, and lets the condition fail while nothing moves.
async fn watched<T>(
    work: impl Future<Output = T>,
    moves: &AtomicU64,
    condition: &Condition,
    silence: &str,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut before = moves.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(SILENT_AFTER) => {
                let now = moves.load(Ordering::Relaxed);
                if now == before {
                    condition.fail(silence);
                } else {
                    condition.ok();
                }
                before = now;
            }
        }
    }
}

/// What ends the service outweighs what a further attempt may mend.
fn worse(known: Option<ProduceError>, new: ProduceError) -> ProduceError {
    match known {
        Some(fatal @ ProduceError::Fatal(_)) => fatal,
        _ => new,
    }
}
