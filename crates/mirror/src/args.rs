use std::path::PathBuf;

use clap::ValueEnum;
use records::GatewayId;

/// The mirror's options.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The gateway whose topics are carried
    #[arg(long, env = "GATEWAY_ID")]
    pub gateway: GatewayId,
    /// Which way
    #[arg(long, env = "MIRROR_DIRECTION", value_enum)]
    pub direction: Direction,
    /// The Kafka brokers to read from, `host:port[,…]`
    #[arg(long, env = "SOURCE_BOOTSTRAP_SERVER")]
    pub source_bootstrap_server: String,
    /// The schema registry of the source
    #[arg(long, env = "SOURCE_SCHEMA_REGISTRY_URL")]
    pub source_schema_registry_url: String,
    /// A file of Kafka client properties for the source
    #[arg(long, env = "SOURCE_PROPERTIES_LOCATION", value_name = "FILE")]
    pub source_properties: Option<PathBuf>,
    /// The Kafka brokers to write to, `host:port[,…]`
    #[arg(long, env = "TARGET_BOOTSTRAP_SERVER")]
    pub target_bootstrap_server: String,
    /// The schema registry of the target
    #[arg(long, env = "TARGET_SCHEMA_REGISTRY_URL")]
    pub target_schema_registry_url: String,
    /// A file of Kafka client properties for the target
    #[arg(long, env = "TARGET_PROPERTIES_LOCATION", value_name = "FILE")]
    pub target_properties: Option<PathBuf>,
    /// Compression at the target: none, gzip, snappy, lz4, zstd (default: snappy towards the cloud, none towards the edge)
    #[arg(long, env = "MIRROR_COMPRESSION")]
    pub compression: Option<String>,
}

/// The two flows of a gateway.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Management requests, from the cloud to the gateway.
    CloudToEdge,
    /// Everything else of the gateway's, to the cloud.
    EdgeToCloud,
}
