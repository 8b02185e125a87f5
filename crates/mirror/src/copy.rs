use std::collections::HashMap;
use std::sync::Arc;

use kafka::{
    DeadLetters, Delivery, ORIGIN_HEADER, Origin, OutRecord, Process, ProcessError, ProduceError,
    Producer, Record,
};
use prometheus::IntCounter;
use records::topics;
use service::metrics::{Stage, records};

use crate::rewrite::{Part, Rewrite, RewriteError};

/// Copies batches: rewrite, produce all, then wait for every acknowledgement.
pub(crate) struct Copier {
    producer: Producer,
    dead_letters: DeadLetters,
    rewrite: Rewrite,
    source_id: String,
    stamps_origin: bool,
    /// Partitions per topic at the target, for records without a key.
    partitions: HashMap<Arc<str>, i32>,
    copied: IntCounter,
}

impl Copier {
    pub(crate) fn new(
        producer: Producer,
        dead_letters: DeadLetters,
        rewrite: Rewrite,
        source_id: String,
        stamps_origin: bool,
    ) -> Self {
        Self {
            producer,
            dead_letters,
            rewrite,
            source_id,
            stamps_origin,
            partitions: HashMap::new(),
            copied: records(Stage::Mirror),
        }
    }

    /// `None` when the record went to the dead letters.
    async fn copy(&mut self, record: &Record) -> Result<Option<Delivery>, ProcessError> {
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
        let mut headers = record.headers.clone();
        if self.stamps_origin && record.header(ORIGIN_HEADER).is_none() {
            let origin = Origin::of(record, &self.source_id).to_string();
            headers.push((ORIGIN_HEADER.to_owned(), Some(origin.into_bytes())));
        }
        let out = OutRecord {
            topic: &record.topic,
            partition: self.partition_for(record).await,
            key: key.as_deref(),
            value: value.as_deref(),
            timestamp_ms: record.timestamp_ms,
            headers: &headers,
        };
        match self.producer.send(out).await {
            Ok(delivery) => Ok(Some(delivery)),
            Err(error) => {
                self.not_taken(record, error).await?;
                Ok(None)
            }
        }
    }

    /// A key decides by itself. A record without one stays in its partition where the target has it, so that
    /// their order is kept.
    async fn partition_for(&mut self, record: &Record) -> Option<i32> {
        if record.key.is_some() {
            return None;
        }
        let count = match self.partitions.get(&record.topic) {
            Some(count) => *count,
            None => {
                let count = self.producer.partition_count(&record.topic).await?;
                self.partitions.insert(Arc::clone(&record.topic), count);
                count
            }
        };
        Some(record.partition % count)
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

    async fn put_aside(
        &self,
        record: &Record,
        reason: &'static str,
        message: &str,
    ) -> Result<(), ProcessError> {
        match self.dead_letters.put(record, reason, message).await {
            Ok(()) => Ok(()),
            Err(ProduceError::Fatal(error)) => Err(ProcessError::Fatal(error.into())),
            Err(error) => Err(ProcessError::Retry(error.to_string())),
        }
    }

    /// The target does not take this record. One that is too large never will be: its place is kept by a dead
    /// letter without the value, which says where the record still is.
    async fn not_taken(&self, record: &Record, error: ProduceError) -> Result<(), ProcessError> {
        match error {
            ProduceError::Fatal(error) => Err(ProcessError::Fatal(error.into())),
            ProduceError::Refused { .. } if error.is_too_large() => {
                let place = Record {
                    value: None,
                    ..record.clone()
                };
                self.put_aside(&place, "too_large", &error.to_string())
                    .await
            }
            ProduceError::Refused { .. } => Err(ProcessError::Retry(error.to_string())),
        }
    }
}

impl Process for Copier {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let mut deliveries = Vec::with_capacity(batch.len());
        for record in batch {
            if let Some(delivery) = self.copy(record).await? {
                deliveries.push((record, delivery));
            }
        }
        for (record, delivery) in deliveries {
            match delivery.await {
                Ok(_) => self.copied.inc(),
                Err(error) => self.not_taken(record, error).await?,
            }
        }
        Ok(())
    }
}
