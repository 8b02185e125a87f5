use std::collections::HashMap;

use records::{AvroKey, AvroRecord, RecordReader, SchemaId, frame, topics};

use crate::{RegistryError, SchemaRegistry};

/// Why a key or value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The registry does not answer: try again later, the record may be good.
    #[error("{0}")]
    Away(RegistryError),
    /// The record is bad and will stay so: it belongs to the dead letters.
    #[error("{message}")]
    Bad {
        /// A short fixed word: `not_framed`, `unknown_schema`, `other_record` or `not_avro`.
        reason: &'static str,
        /// What exactly, for a person.
        message: String,
    },
}

/// Reads framed records of one type, whatever schema their writers registered.
pub struct RecordDecoder<T> {
    registry: SchemaRegistry,
    readers: HashMap<u32, RecordReader<T>>,
}

/// The most writers' schemas of one type that are kept ready; then they are made anew.
const MOST_READERS: usize = 1_000;

impl<T: AvroRecord> RecordDecoder<T> {
    /// A decoder that asks this registry for writers' schemas.
    pub fn new(registry: SchemaRegistry) -> Self {
        Self {
            registry,
            readers: HashMap::new(),
        }
    }

    /// Reads one framed key or value.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn decode(&mut self, framed: &[u8]) -> Result<T, ReadError> {
        let (SchemaId(id), datum) =
            frame::split(framed).map_err(|error| bad("not_framed", &error))?;
        if !self.readers.contains_key(&id) {
            let writer = match self.registry.schema(id).await {
                Ok(writer) => writer,
                Err(error) if error.is_retriable() => return Err(ReadError::Away(error)),
                Err(error) => return Err(bad("unknown_schema", &error)),
            };
            let reader =
                RecordReader::new(&writer.schema).map_err(|error| bad("other_record", &error))?;
            if self.readers.len() >= MOST_READERS {
                self.readers.clear();
            }
            self.readers.insert(id, reader);
        }
        self.readers[&id]
            .read(datum)
            .map_err(|error| bad("not_avro", &error))
    }
}

impl<T: AvroRecord> RecordDecoder<T> {
    /// The datum of a framed value whose writer's schema is known here and is the same as the reader's: what can be read
    /// of it can be read from its start. `None` for others.
    pub fn as_written<'a>(&self, framed: &'a [u8]) -> Option<&'a [u8]> {
        let (SchemaId(id), datum) = frame::split(framed).ok()?;
        let reader = self.readers.get(&id)?;
        reader.reads_as_written().then_some(datum)
    }
}

fn bad(reason: &'static str, error: &dyn std::error::Error) -> ReadError {
    ReadError::Bad {
        reason,
        message: error.to_string(),
    }
}

/// Frames records for their topics: the schema is registered under the topic's subject once, its id kept.
#[derive(Clone)]
pub struct RecordEncoder {
    registry: SchemaRegistry,
}

impl RecordEncoder {
    /// An encoder that registers at this registry.
    pub fn new(registry: SchemaRegistry) -> Self {
        Self { registry }
    }

    /// The bytes of a value for this topic.
    ///
    /// # Errors
    /// When the registry is away or refuses the schema.
    pub async fn value<T: AvroRecord + Sync>(
        &self,
        topic: &str,
        record: &T,
    ) -> Result<Vec<u8>, RegistryError> {
        let subject = topics::value_subject(topic);
        let id = self.registry.register(&subject, T::schema().text()).await?;
        Ok(record.to_framed(SchemaId(id)))
    }

    /// The bytes of a device's key for this topic.
    ///
    /// # Errors
    /// When the registry is away or refuses the schema.
    pub async fn key(&self, topic: &str, endpoint: &str) -> Result<Vec<u8>, RegistryError> {
        let subject = topics::key_subject(topic);
        let id = self
            .registry
            .register(&subject, AvroKey::schema().text())
            .await?;
        Ok(AvroKey::new(endpoint).to_framed(SchemaId(id)))
    }
}
