//! What a broker is told before it starts: every bound has its default here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use service::tls::ServerTls;

/// Settings of one broker.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen; port 0 picks a free one ([`crate::Broker::local_addr`] tells which).
    pub listen: SocketAddr,
    /// Host and port clients are told to come back to. `None`: the address each client reached us at,
    /// which is right unless a proxy or NAT stands between.
    pub advertised: Option<(String, u16)>,
    /// TLS of `listen`; `None`: it speaks plain TCP.
    pub tls: Option<ServerTls>,
    /// A second listener, without TLS, for what runs on the same machine; clients of it come back to the address they
    /// reached, whatever `advertised` says.
    pub plaintext: Option<SocketAddr>,
    /// Everything the broker keeps. One broker at a time may use it.
    pub data_dir: PathBuf,
    /// The cluster's id. `None`: a random one is made at first start and kept. Two sites must not share one:
    /// a mirror refuses to copy a cluster onto itself.
    pub cluster_id: Option<String>,
    /// This broker's id, as in `node.id`.
    pub node_id: i32,
    /// Partitions of a topic that is created without a number.
    pub default_partitions: i32,
    /// Whether metadata requests that allow it create the topics they name.
    pub auto_create: bool,
    /// How long and how much is kept, unless a topic says otherwise.
    pub retention: Retention,
    /// When written data is forced to the disk.
    pub flush: FlushPolicy,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// Consumer groups.
    pub groups: GroupSettings,
}

impl BrokerConfig {
    /// Defaults for a broker that listens at `listen` and keeps its data in `data_dir`.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            advertised: None,
            tls: None,
            plaintext: None,
            data_dir: data_dir.into(),
            cluster_id: None,
            node_id: 1,
            default_partitions: 1,
            auto_create: true,
            retention: Retention::default(),
            flush: FlushPolicy::default(),
            limits: Limits::default(),
            groups: GroupSettings::default(),
        }
    }
}

/// How long and how much is kept. Whole segments are dropped, oldest first. Topics whose `cleanup.policy` is
/// exactly `compact` are never trimmed: they hold state (schemas, offsets of connectors) that must not be lost.
#[derive(Debug, Clone)]
pub struct Retention {
    /// `retention.ms` of topics that don't set it; `None` keeps forever. Default 7 days.
    pub time: Option<Duration>,
    /// `retention.bytes` of topics that don't set it, per partition; `None` is unlimited. Default 1 GiB.
    pub bytes: Option<u64>,
    /// Bytes of all topics together; above it the oldest segments go, whatever their topic's own retention.
    /// A last guard for a gateway's disk. Default 8 GiB; `None` switches it off.
    pub total_bytes: Option<u64>,
    /// How often retention is applied. Default 30 s.
    pub check_interval: Duration,
    /// `segment.bytes` of topics that don't set it: a log file is closed and a new one begun at this size.
    /// A partition takes up to `bytes` plus one segment. Default 16 MiB.
    pub segment_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            time: Some(Duration::from_secs(7 * 24 * 3600)),
            bytes: Some(1 << 30),
            total_bytes: Some(8 << 30),
            check_interval: Duration::from_secs(30),
            segment_bytes: 16 << 20,
        }
    }
}

/// When written data is forced to the disk (`fdatasync`).
///
/// An acknowledged record is in the kernel's page cache before the acknowledgement: it survives `kill -9` of the
/// broker under either policy. What a power cut may take is what this setting bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Every so often, when something was written. A power cut loses at most this much.
    Interval(Duration),
    /// Before every acknowledgement. A power cut loses nothing that was acknowledged; each produce costs a disk write.
    EveryAppend,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self::Interval(Duration::from_millis(500))
    }
}

/// Bounds on what clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one request (`socket.request.max.bytes`). Default 16 MiB.
    pub request_bytes: usize,
    /// Bytes of one record batch unless the topic says otherwise (`max.message.bytes`). Default 1 MiB + 12, as in Kafka.
    pub message_bytes: usize,
    /// Bytes of records in one fetch response, whatever the client asks for (the first batch always fits). Default 8 MiB.
    pub fetch_bytes: usize,
    /// Connections at a time; further ones are closed at once. Default 256.
    pub connections: usize,
    /// Partitions of all topics together. Each holds a file open. Default 512.
    pub partitions: usize,
    /// Array elements in one request, so that a small request can't unfold into a large structure. Default 200,000.
    pub request_elements: usize,
    /// How long a request may take to arrive in full once its first byte has. Default 30 s.
    pub request_timeout: Duration,
    /// How long a connection may stay silent (`connections.max.idle.ms`). Default 10 min.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 16 << 20,
            message_bytes: (1 << 20) + 12,
            fetch_bytes: 8 << 20,
            connections: 256,
            partitions: 512,
            request_elements: 200_000,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

/// Consumer groups.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// Shortest session timeout a member may ask for. Default 1 s.
    pub min_session: Duration,
    /// Longest session timeout a member may ask for. Default 30 min.
    pub max_session: Duration,
    /// How long a new group waits for more members before its first generation. Default 0.
    pub initial_rebalance_delay: Duration,
    /// Members of one group. Default 500.
    pub max_members: usize,
    /// Groups with members at a time. Default 2,000.
    pub max_groups: usize,
    /// Committed offsets of all groups together. Default 100,000.
    pub max_offsets: usize,
    /// How long offsets of a group without members are kept after its last commit. Default 30 days.
    pub offsets_retention: Duration,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            min_session: Duration::from_secs(1),
            max_session: Duration::from_secs(1800),
            initial_rebalance_delay: Duration::ZERO,
            max_members: 500,
            max_groups: 2_000,
            max_offsets: 100_000,
            offsets_retention: Duration::from_secs(30 * 24 * 3600),
        }
    }
}
