use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use records::GatewayId;
use service::auth::AuthArgs;

use crate::limits::{Age, TopicLimit};
use crate::{Pattern, PatternError};

/// The mirror's options: which topics, between which sites, and how.
///
/// Either `--gateway` and `--direction` for one of a gateway's two flows, or `--flow` and `--topics` for any other.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub auth: AuthArgs,
    /// The gateway whose topics are carried
    #[arg(long, env = "GATEWAY_ID")]
    pub gateway: Option<GatewayId>,
    /// Which way
    #[arg(long, env = "MIRROR_DIRECTION", value_enum)]
    pub direction: Option<Direction>,
    /// Instead of a gateway's topics: those whose whole names match one of these regular expressions
    #[arg(
        long,
        env = "MIRROR_TOPICS",
        value_name = "REGEX",
        value_delimiter = ','
    )]
    pub topics: Vec<Pattern>,
    /// … and none of these
    #[arg(
        long,
        env = "MIRROR_EXCLUDE_TOPICS",
        value_name = "REGEX",
        value_delimiter = ','
    )]
    pub exclude_topics: Vec<Pattern>,
    /// The flow's name, with --topics: the consumer group at the source, the transactional id at the target
    #[arg(long, env = "MIRROR_FLOW", value_name = "NAME")]
    pub flow: Option<FlowName>,
    /// Topics that go before all others [default for a gateway: registrations and management.rep]
    #[arg(
        long,
        env = "MIRROR_PRIORITY_TOPICS",
        value_name = "REGEX",
        value_delimiter = ','
    )]
    pub priority_topics: Vec<Pattern>,
    /// The Kafka brokers to read from, `host:port[,…]`
    #[arg(long, env = "SOURCE_BOOTSTRAP_SERVER")]
    pub source_bootstrap_server: String,
    /// The schema registry of the source
    #[arg(long, env = "SOURCE_SCHEMA_REGISTRY_URL")]
    pub source_schema_registry_url: Option<String>,
    /// A file of Kafka client properties for the source
    #[arg(long, env = "SOURCE_PROPERTIES_LOCATION", value_name = "FILE")]
    pub source_properties: Option<PathBuf>,
    /// The Kafka brokers to write to, `host:port[,…]`
    #[arg(long, env = "TARGET_BOOTSTRAP_SERVER")]
    pub target_bootstrap_server: String,
    /// The schema registry of the target
    #[arg(long, env = "TARGET_SCHEMA_REGISTRY_URL")]
    pub target_schema_registry_url: Option<String>,
    /// A file of Kafka client properties for the target
    #[arg(long, env = "TARGET_PROPERTIES_LOCATION", value_name = "FILE")]
    pub target_properties: Option<PathBuf>,
    /// Pass schema ids as they are: right only where both sites share one registry
    #[arg(long, env = "MIRROR_KEEP_SCHEMA_IDS")]
    pub keep_schema_ids: bool,
    /// Whether the target's transactions are used; auto: where it has them
    #[arg(long, env = "MIRROR_DELIVERY", value_enum, default_value = "auto")]
    pub delivery: DeliveryChoice,
    /// On which side this runs: at the target (it pulls over the link) or at the source (it pushes)
    #[arg(long, env = "MIRROR_TRANSFER", value_enum, default_value = "pull")]
    pub transfer: Transfer,
    /// Compression at the target: none, gzip, snappy, lz4, zstd [default: zstd when pushing, else snappy towards the cloud, none
    /// towards the edge]
    #[arg(long, env = "MIRROR_COMPRESSION")]
    pub compression: Option<String>,
    /// The most bytes per second that cross the link, all topics together [default: no limit]
    #[arg(long, env = "MIRROR_BANDWIDTH_LIMIT", value_name = "BYTES_PER_S", value_parser = clap::value_parser!(u64).range(1_000..))]
    pub bandwidth_limit: Option<u64>,
    /// Records older than this are dropped and counted: `REGEX=TIME`, with ms, s, m, h or d; may be repeated
    #[arg(
        long,
        env = "MIRROR_MAX_AGE",
        value_name = "REGEX=TIME",
        value_delimiter = ','
    )]
    pub max_age: Vec<TopicLimit<Age>>,
    /// Where more records of a partition wait than this, the oldest are dropped and counted: `REGEX=RECORDS`
    #[arg(
        long,
        env = "MIRROR_MAX_BACKLOG",
        value_name = "REGEX=RECORDS",
        value_delimiter = ','
    )]
    pub max_backlog: Vec<TopicLimit<u64>>,
    /// Records of which key and value are larger than this are dropped and counted: `REGEX=BYTES`
    #[arg(
        long,
        env = "MIRROR_MAX_RECORD_BYTES",
        value_name = "REGEX=BYTES",
        value_delimiter = ','
    )]
    pub max_record_bytes: Vec<TopicLimit<u64>>,
    /// Where status, pause and resume are served (port 0: any free one; the log names it)
    #[arg(long, env = "MIRROR_REST_LISTEN", default_value = "127.0.0.1:0")]
    pub rest_listen: SocketAddr,
}

/// The two flows of a gateway.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Management requests, from the cloud to the gateway.
    CloudToEdge,
    /// Everything else of the gateway's, to the cloud.
    EdgeToCloud,
}

/// What is asked for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryChoice {
    /// Exactly once where the target has transactions.
    Auto,
    /// With transactions, or not at all.
    ExactlyOnce,
    /// Without transactions.
    AtLeastOnce,
}

/// On which side of the link the mirror runs.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// At the target: what is fetched crosses the link.
    Pull,
    /// At the source: what is produced crosses the link.
    Push,
}

/// The name of a flow: letters, digits, `.`, `_` and `-`, at most 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowName(pub(crate) String);

impl std::str::FromStr for FlowName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > 200 || !text.chars().all(legal) {
            return Err(
                "a flow's name has 1 to 200 letters, digits, '.', '_' and '-': topics and groups are named after it"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why the options don't make a flow.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// Neither kind of flow is named whole.
    #[error(
        "which topics? Give --gateway and --direction for a gateway's flow, or --flow and --topics for any other (not both)"
    )]
    WhichTopics,
    /// Ids are to be rewritten, but not from and to what.
    #[error(
        "rewriting schema ids needs --source-schema-registry-url and --target-schema-registry-url (or --keep-schema-ids where both sites share one)"
    )]
    Registries,
    /// A pattern can't be read.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}
