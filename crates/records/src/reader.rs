use std::fmt;
use std::marker::PhantomData;

use thiserror::Error;

use crate::record::AvroRecord;
use crate::resolve::Plan;
use crate::schema::Schema;
use crate::wire::DecodeError;

/// Why data of one schema can't be read as another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("data written with the schema of `{writer}` can't be read as `{reader}`: {reason}")]
pub struct ResolveError {
    pub writer: String,
    pub reader: String,
    pub reason: String,
}

/// Reads records of one writer's schema as `T` (Avro specification, "Schema Resolution").
///
/// Make one for each schema id and keep it: how the writer's fields map to ours is worked out here, once. A writer
/// whose schema is ours but for attributes such as `avro.java.string` costs nothing extra.
pub struct RecordReader<T> {
    plan: Option<Plan>,
    record: PhantomData<fn() -> T>,
}

impl<T: AvroRecord> RecordReader<T> {
    /// A reader for what was written with `writer`.
    pub fn new(writer: &Schema) -> Result<Self, ResolveError> {
        let reader = T::schema();
        let plan = Plan::new(writer, reader).map_err(|reason| ResolveError {
            writer: writer.graph().tag(writer.graph().root()).to_owned(),
            reader: reader.graph().tag(reader.graph().root()).to_owned(),
            reason,
        })?;
        Ok(Self {
            plan,
            record: PhantomData,
        })
    }

    /// Whether the writer's data has the form of ours, byte for byte.
    pub fn reads_as_written(&self) -> bool {
        self.plan.is_none()
    }

    /// Reads a datum (without the registry's header).
    pub fn read(&self, datum: &[u8]) -> Result<T, DecodeError> {
        match &self.plan {
            None => T::from_datum(datum),
            Some(plan) => T::from_datum(&plan.rewrite(datum)?),
        }
    }
}

impl<T> fmt::Debug for RecordReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader")
            .field("rewrites", &self.plan.is_some())
            .finish()
    }
}
