use std::collections::HashMap;

use kafka::{DeadLetters, ProcessError, ProduceError, Record, SchemaRegistry};
use records::{AvroRecord, RecordReader, Schema, frame};

/// Why a record's value can't be read now, or at all.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// Never: it belongs with the dead letters.
    #[error("{message}")]
    Unreadable {
        /// A short fixed word.
        reason: &'static str,
        /// What exactly was wrong.
        message: String,
    },
    /// The registry does not answer: try again later.
    #[error("{0}")]
    Registry(String),
}

/// Reads values whose schema is in a registry, as one of several record types `T`.
///
/// Readers are made once for each schema id and kept, at most 1,000.
pub struct Converter<T> {
    registry: SchemaRegistry,
    readers: HashMap<u32, Reader<T>>,
}

/// Reads a datum of one writer's schema.
type Reader<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

const MOST_READERS: usize = 1_000;

impl<T: 'static> Converter<T> {
    /// A converter for the values whose schemas are at `registry`.
    pub fn new(registry: SchemaRegistry) -> Self {
        Self {
            registry,
            readers: HashMap::new(),
        }
    }

    /// Reads a record's value. `choose` makes the reader for a writer's schema, by the full name of its record;
    /// `None`: such records are not for this sink.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub async fn read(
        &mut self,
        record: &Record,
        choose: impl Fn(&Schema) -> Option<Result<Reader<T>, String>>,
    ) -> Result<T, ConvertError> {
        let value = record
            .value
            .as_deref()
            .ok_or_else(|| unreadable("no_value", "the record has no value (a tombstone)"))?;
        let (id, datum) =
            frame::split(value).map_err(|error| unreadable("not_framed", error.to_string()))?;
        if !self.readers.contains_key(&id.0) {
            let reader = self.make(id.0, choose).await?;
            if self.readers.len() >= MOST_READERS {
                self.readers.clear();
            }
            self.readers.insert(id.0, reader);
        }
        match self.readers.get(&id.0) {
            Some(reader) => reader(datum).map_err(|error| unreadable("not_avro", error)),
            None => Err(ConvertError::Registry(format!("schema {id} got lost"))),
        }
    }

    async fn make(
        &self,
        id: u32,
        choose: impl Fn(&Schema) -> Option<Result<Reader<T>, String>>,
    ) -> Result<Reader<T>, ConvertError> {
        let written = self.registry.schema(id).await.map_err(|error| {
            if error.is_retriable() {
                ConvertError::Registry(error.to_string())
            } else {
                unreadable("unknown_schema", error.to_string())
            }
        })?;
        let schema = &written.schema;
        match choose(schema) {
            Some(reader) => reader.map_err(|error| unreadable("other_record", error)),
            None => {
                let name = schema.full_name().unwrap_or("a type without a name");
                let message = format!("a record of '{name}' is not what this sink takes");
                Err(unreadable("other_record", message))
            }
        }
    }

    /// A reader of `R`, made into `T`.
    ///
    /// # Errors
    /// When the writer's schema can't be resolved to `R`'s.
    pub fn reader<R: AvroRecord + 'static>(
        writer: &Schema,
        into: fn(R) -> T,
    ) -> Result<Reader<T>, String> {
        let reader = RecordReader::<R>::new(writer).map_err(|error| error.to_string())?;
        Ok(Box::new(move |datum| {
            reader
                .read(datum)
                .map(into)
                .map_err(|error| error.to_string())
        }))
    }
}

fn unreadable(reason: &'static str, message: impl Into<String>) -> ConvertError {
    ConvertError::Unreadable {
        reason,
        message: message.into(),
    }
}

/// Puts a record with the dead letters, as a task's error when even that is not possible now.
///
/// # Errors
/// [`ProcessError::Retry`] when Kafka refuses it, [`ProcessError::Fatal`] when the producer is broken.
pub async fn dead_letter(
    dead_letters: &DeadLetters,
    record: &Record,
    reason: &'static str,
    message: &str,
) -> Result<(), ProcessError> {
    dead_letters
        .put(record, reason, message)
        .await
        .map_err(|error| match error {
            ProduceError::Refused { .. } => ProcessError::Retry(error.to_string()),
            ProduceError::Fatal(_) => ProcessError::Fatal(error.into()),
        })
}
