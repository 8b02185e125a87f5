//! Everything that touches a Kafka cluster or a schema registry: client settings, producing that does not lose,
//! the consume → process → commit loop, dead letters, and the registry's client.

mod acls;
mod admin;
mod codec;
mod consumer;
pub mod dead_letters;
mod heard;
pub mod letters;
mod member;
mod origin;
mod partition;
mod producer;
mod properties;
mod reader;
mod registry;
mod settings;
mod ticketed;
mod trace;
mod transactional;

pub use acls::{AccessRule, Operation, Resource, allow_access, list_access};
pub use admin::{
    LagProbe, TopicMatch, TopicSummary, await_cluster_id, delete_topic, ensure_topic,
    fetch_cluster_id, list_topics,
};
pub use codec::{ReadError, RecordDecoder, RecordEncoder};
pub use consumer::{ConsumeSettings, Process, ProcessError, Record, consume};
pub use dead_letters::DeadLetters;
pub use heard::HeardEnds;
pub use origin::{ORIGIN_HEADER, Origin, OriginError};
pub use partition::{murmur2, partition_of};
pub use producer::{Delivery, NO_TIMESTAMP, OutRecord, ProduceError, Producer, ProducerSettings};
pub use reader::{LookAt, StartAt, TopicReader, read_to_end, watermarks};
pub use registry::{RegistryError, SchemaDocument, SchemaRegistry, WriterSchema};
pub use settings::{Cluster, KafkaArgs, KafkaTlsArgs, SettingsError};
pub use ticketed::{Delivered, Deliveries, SendError, TicketProducer};
pub use trace::{TRACE_HEADER, TraceParent, TraceParentError};
pub use transactional::{TransactionError, TransactionalProducer};
