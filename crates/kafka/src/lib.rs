//! Everything that touches a Kafka cluster or a schema registry: client settings, producing that does not lose,
//! the consume → process → commit loop, dead letters, and the registry's client.

mod admin;
mod codec;
mod consumer;
pub mod dead_letters;
mod member;
mod origin;
mod producer;
mod reader;
mod registry;
mod settings;

pub use admin::{
    LagProbe, TopicMatch, TopicSummary, await_cluster_id, delete_topic, ensure_topic,
    fetch_cluster_id, list_topics,
};
pub use codec::{ReadError, RecordDecoder, RecordEncoder};
pub use consumer::{ConsumeSettings, Process, ProcessError, Record, consume};
pub use dead_letters::DeadLetters;
pub use origin::{ORIGIN_HEADER, Origin, OriginError};
pub use producer::{Delivery, OutRecord, ProduceError, Producer, ProducerSettings};
pub use reader::{StartAt, TopicReader};
pub use registry::{RegistryError, SchemaRegistry, WriterSchema};
pub use settings::{Cluster, KafkaArgs, SettingsError};
