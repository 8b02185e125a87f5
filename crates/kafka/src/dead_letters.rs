use crate::{NO_TIMESTAMP, OutRecord, ProduceError, Producer, Record};

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
    /// label), `message` tells a person what was wrong (its first 1,000 characters are kept).
    ///
    /// Where Kafka does not take even the dead letter (too large with its headers), one without the value keeps its
    /// place, or one with nothing but the headers named here: they say where the record still is. Where Kafka does not
    /// take its time (out of the topic's bounds, or by a clock that differs), it is put there without one.
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
        let message = shortened(message);
        let place = (&*record.topic, record.partition, record.offset);
        let ours = headers(place, reason, &message)
            .map(|(name, value)| (name.to_owned(), Some(value.into_bytes())));
        let headers = [record.headers.as_slice(), ours.as_slice()].concat();
        let whole = OutRecord {
            topic: &topic,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            timestamp_ms: record.timestamp_ms,
            headers: &headers,
            ..OutRecord::default()
        };
        let without_value = OutRecord {
            value: None,
            ..whole.clone()
        };
        let bare = OutRecord {
            topic: &topic,
            headers: &ours,
            ..OutRecord::default()
        };
        let mut outcome = Ok(());
        for letter in [whole, without_value, bare] {
            outcome = self.acknowledged(letter).await;
            if !matches!(&outcome, Err(error) if error.is_about_the_record()) {
                break;
            }
        }
        outcome?;
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

    async fn acknowledged(&self, record: OutRecord<'_>) -> Result<(), ProduceError> {
        let sent = self.producer.send(record.clone()).await?.await;
        match sent {
            Err(error) if error.is_about_the_timestamp() => {
                let untimed = OutRecord {
                    timestamp_ms: Some(NO_TIMESTAMP),
                    ..record
                };
                self.producer.send(untimed).await?.await?;
            }
            sent => {
                sent?;
            }
        }
        Ok(())
    }
}

/// What a dead letter has to have as headers, behind those it came with. `place` is topic, partition and offset.
pub fn headers(
    place: (&str, i32, i64),
    reason: &str,
    message: &str,
) -> [(&'static str, String); 5] {
    let (topic, partition, offset) = place;
    [
        (HEADER_REASON, reason.to_owned()),
        (HEADER_MESSAGE, shortened(message)),
        (HEADER_TOPIC, topic.to_owned()),
        (HEADER_PARTITION, partition.to_string()),
        (HEADER_OFFSET, offset.to_string()),
    ]
}

fn shortened(message: &str) -> String {
    message.chars().take(MOST_MESSAGE_CHARS).collect()
}

/// A schema registry quotes whole schemas in its reasons.
const MOST_MESSAGE_CHARS: usize = 1_000;
