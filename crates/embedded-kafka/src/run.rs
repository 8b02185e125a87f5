//! The broker as a service: its options, and its life from start to drain.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args as ClapArgs;

use crate::{Broker, BrokerConfig, FlushPolicy};

/// The options of `zeelos kafka`: a Kafka broker for one node. Where one machine is outgrown, point the same
/// `--bootstrap` settings at Apache Kafka.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Where to listen (port 0: any free one)
    #[arg(long, env = "EMBEDDED_KAFKA_LISTEN", default_value = "127.0.0.1:9092")]
    pub listen: SocketAddr,
    /// A second listener without TLS, for what runs on this machine, where --listen speaks TLS
    #[arg(
        long,
        env = "EMBEDDED_KAFKA_PLAINTEXT_LISTEN",
        value_name = "ADDRESS:PORT"
    )]
    pub plaintext_listen: Option<SocketAddr>,
    /// Host and port clients are told to connect to, as host:port (default: the address they reached)
    #[arg(long, env = "EMBEDDED_KAFKA_ADVERTISED", value_name = "HOST:PORT", value_parser = host_and_port)]
    pub advertised: Option<(String, u16)>,
    /// Where everything is kept; one broker at a time may use it
    #[arg(long, env = "EMBEDDED_KAFKA_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The cluster's id; each site needs its own (default: a random one, made at first start and kept)
    #[arg(long, env = "EMBEDDED_KAFKA_CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// This broker's id
    #[arg(long, env = "EMBEDDED_KAFKA_NODE_ID", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..))]
    pub node_id: i32,
    /// Partitions of a topic created without a number
    #[arg(long, env = "EMBEDDED_KAFKA_PARTITIONS", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub default_partitions: i32,
    /// Whether topics are made when a client first names them
    #[arg(long, env = "EMBEDDED_KAFKA_AUTO_CREATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub auto_create: bool,
    /// Hours records are kept, unless their topic says otherwise (0: for ever)
    #[arg(long, env = "EMBEDDED_KAFKA_RETENTION_HOURS", default_value_t = 168)]
    pub retention_hours: u64,
    /// MiB kept of each partition, unless its topic says otherwise (0: no limit)
    #[arg(long, env = "EMBEDDED_KAFKA_RETENTION_MB", default_value_t = 1024)]
    pub retention_mb: u64,
    /// MiB kept of all topics together; beyond it the oldest segments go, except those of compacted topics (0: no limit)
    #[arg(long, env = "EMBEDDED_KAFKA_TOTAL_MB", default_value_t = 8192)]
    pub total_mb: u64,
    /// MiB of one log segment, the unit in which old records go
    #[arg(long, env = "EMBEDDED_KAFKA_SEGMENT_MB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub segment_mb: u64,
    /// Milliseconds after which written records are forced to the disk; a power cut loses at most these (0: before each
    /// acknowledgement). kill -9 of the broker loses none either way
    #[arg(long, env = "EMBEDDED_KAFKA_FLUSH_MS", default_value_t = 500)]
    pub flush_ms: u64,
    /// MiB of one request
    #[arg(long, env = "EMBEDDED_KAFKA_REQUEST_MB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub request_mb: u64,
    /// Client connections at a time
    #[arg(long, env = "EMBEDDED_KAFKA_CONNECTIONS", default_value_t = 256)]
    pub max_connections: usize,
    /// Partitions of all topics together; each holds a file open
    #[arg(long, env = "EMBEDDED_KAFKA_MAX_PARTITIONS", default_value_t = 512)]
    pub max_partitions: usize,
}

impl Args {
    /// The broker's settings these options stand for.
    pub fn config(self) -> BrokerConfig {
        let mut config = BrokerConfig::new(self.listen, self.data_dir);
        let limit = |mb: u64| (mb > 0).then(|| mb.saturating_mul(1 << 20));
        config.advertised = self.advertised;
        config.plaintext = self.plaintext_listen;
        config.cluster_id = self.cluster_id;
        config.node_id = self.node_id;
        config.default_partitions = self.default_partitions;
        config.auto_create = self.auto_create;
        config.retention.time = (self.retention_hours > 0)
            .then(|| Duration::from_secs(self.retention_hours.saturating_mul(3600)));
        config.retention.bytes = limit(self.retention_mb);
        config.retention.total_bytes = limit(self.total_mb);
        config.retention.segment_bytes = self.segment_mb << 20;
        config.flush = match self.flush_ms {
            0 => FlushPolicy::EveryAppend,
            ms => FlushPolicy::Interval(Duration::from_millis(ms)),
        };
        config.limits.request_bytes = (self.request_mb as usize) << 20;
        config.limits.connections = self.max_connections;
        config.limits.partitions = self.max_partitions;
        config
    }
}

/// How often the readiness page is told how the disk does.
const LOOK_AT_DISK: Duration = Duration::from_millis(500);

/// Runs the broker until the service is told to stop.
///
/// # Errors
/// Why it could not start.
pub async fn run(args: Args, context: service::Context) -> anyhow::Result<()> {
    let mut config = args.config();
    config.tls = context.listener_tls().cloned();
    let broker = Broker::start(config)
        .await
        .context("the Kafka broker could not start")?;
    context.health.set_ready();
    let disk = context.health.condition("disk");
    loop {
        match broker.disk_failure() {
            Some(reason) => disk.fail(reason),
            None => disk.ok(),
        }
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            () = tokio::time::sleep(LOOK_AT_DISK) => {}
        }
    }
    broker.shutdown().await;
    Ok(())
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wanted = || format!("'{text}' is not host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| wanted())?;
    if host.is_empty() {
        Err(wanted())
    } else {
        Ok((host.to_owned(), port))
    }
}
