//! The contract's records as Rust types, field for field (contract, section 3).

mod key;
mod registration;
mod request;
mod resource;
mod response;

pub use key::AvroKey;
pub use registration::{
    AvroLink, Bnd, RegistrationDelete, RegistrationKind, RegistrationNew, RegistrationResponse,
    RegistrationUpdate,
};
pub use request::{
    AvroContentFormat, Request, RequestBody, RequestKind, RequestPayload, WriteMode, WriteNode,
    WriteRequest,
};
pub use resource::{
    AvroInstanceResource, AvroMultipleResource, AvroObjectResource, AvroResource, ResourceKind,
    ResourceType, ResourceValue,
};
pub use response::{
    ObserveHead, ReadContent, Response, ResponseBody, ResponseCode, ResponseObserve,
    ResponsePayload,
};

use crate::frame::{self, SchemaId};
use crate::schema::{Schema, Schemas};
use crate::wire::{Cursor, Datum, DecodeError};

mod sealed {
    pub trait Sealed {}
}

/// A record that stands in a topic as a key or a value.
#[expect(
    private_bounds,
    reason = "how a record is written is this crate's own business"
)]
pub trait AvroRecord: Datum + sealed::Sealed {
    /// The schema this type is read and written with.
    fn schema() -> &'static Schema;

    /// The record in Avro's binary encoding, without the registry's header. Maps are written in the order of their
    /// keys, so that equal records have equal bytes.
    fn to_datum(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        self.write(&mut out);
        out
    }

    /// The record as it stands in Kafka: the registry's header, then the datum.
    fn to_framed(&self, id: SchemaId) -> Vec<u8> {
        let mut out = Vec::with_capacity(frame::HEADER_LEN + 160);
        out.extend_from_slice(&frame::header(id));
        self.write(&mut out);
        out
    }

    /// Reads a datum written with [`AvroRecord::schema`]. For any other writer's schema, or where it comes from a
    /// registry, use a [`RecordReader`](crate::RecordReader).
    fn from_datum(datum: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(datum);
        let record = Self::read(&mut cursor)?;
        cursor.finish()?;
        Ok(record)
    }
}

macro_rules! topic_record {
    ($($name:ident => $schema:ident,)+) => {
        $(
            impl sealed::Sealed for $name {}
            impl AvroRecord for $name {
                fn schema() -> &'static Schema {
                    &Schemas::get().$schema
                }
            }
        )+
    };
}

topic_record! {
    AvroKey => key,
    RegistrationResponse => registration,
    Request => request,
    Response => response,
    ResponseObserve => response_observe,
}
