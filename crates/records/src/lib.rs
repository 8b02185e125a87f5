//! What stands in Kafka: the Avro records and the model they carry, topic names, keys and the registry's 5-byte header.

mod convert;
pub mod frame;
pub mod fuzz;
mod graph;
pub mod json;
mod reader;
mod record;
mod resolve;
mod schema;
pub mod topics;
pub mod windowed;
mod wire;

pub use convert::{
    ConvertError, NewInstance, Reading, ReadingValue, UNSET_TICKET, content_from_node, flatten,
    new_instance, node_from_content, node_from_write, value_from_model, value_to_model,
};
pub use frame::{FrameError, SchemaId};
pub use json::{JsonError, from_avro_json, to_avro_json, to_avro_json_text};
pub use reader::{RecordReader, ResolveError};
pub use record::*;
pub use schema::{MAX_SCHEMA_BYTES, Schema, SchemaError, Schemas};
pub use topics::{GatewayId, GatewayIdError, TopicKind, Topics, parse_topic};
pub use wire::{DecodeError, MAX_DEPTH};
