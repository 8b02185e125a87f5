use crate::{OutRecord, ProduceError, Producer, Record};

/// Puts records that can't be processed on `<topic>.dlq`, as they came, with the reason and where they were in headers.
#[derive(Clone)]
pub struct DeadLetters {
    producer: Producer,
}

/// Why the record is a dead letter: a short fixed word.
pub const HEADER_REASON: &str = "zeelos-dlq-reason";
/// What exactly was wrong, for a person.
pub const HEADER_MESSAGE: &str = "zeelos-dlq-message";
/// The topic it was read from.
pub const HEADER_TOPIC: &str = "zeelos-dlq-topic";
/// The partition it was read from.
pub const HEADER_PARTITION: &str = "zeelos-dlq-partition";
/// Its offset there.
pub const HEADER_OFFSET: &str = "zeelos-dlq-offset";

impl DeadLetters {
    /// Dead letters go through this producer.
    pub fn new(producer: Producer) -> Self {
        Self { producer }
    }

    /// Puts a record aside and waits for the acknowledgement. `reason` is a short fixed word (it is a metric's
    /// label), `message` tells a person what was wrong.
    ///
    /// # Errors
    /// When Kafka refuses it: the record must then not be committed.
    pub async fn put(
        &self,
        record: &Record,
        reason: &'static str,
        message: &str,
    ) -> Result<(), ProduceError> {
        let topic = format!("{}.dlq", record.topic);
        let mut headers = record.headers.clone();
        for (name, value) in [
            (HEADER_REASON, reason.to_owned()),
            (HEADER_MESSAGE, message.to_owned()),
            (HEADER_TOPIC, record.topic.to_string()),
            (HEADER_PARTITION, record.partition.to_string()),
            (HEADER_OFFSET, record.offset.to_string()),
        ] {
            headers.push((name.to_owned(), Some(value.into_bytes())));
        }
        let out = OutRecord {
            topic: &topic,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            timestamp_ms: record.timestamp_ms,
            headers: &headers,
            ..OutRecord::default()
        };
        self.producer.send(out).await?.await?;
        service::metrics::dead_letters(reason).inc();
        tracing::warn!(
            topic = %record.topic,
            partition = record.partition,
            offset = record.offset,
            reason,
            message,
            "put aside as a dead letter"
        );
        Ok(())
    }
}
