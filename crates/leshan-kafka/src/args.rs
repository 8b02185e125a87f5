use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use kafka::KafkaArgs;
use service::auth::AuthArgs;

use crate::security::SecurityArgs;

/// The server's options. Names and environment variables are the original's where it had them.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The server's id: in every record, and the consumer group of its requests
    #[arg(short = 'n', long, env = "SERVERID", default_value = "server1")]
    pub server_id: String,
    /// Where devices come to over CoAP (UDP)
    #[arg(long, env = "COAP_LISTEN", default_value = "[::]:5683")]
    pub coap_listen: SocketAddr,
    /// The host of --coap-listen alone, as the original has it
    #[arg(long = "lh", hide = true, value_name = "HOST")]
    pub coap_host: Option<std::net::IpAddr>,
    /// The port of --coap-listen alone, as the original has it
    #[arg(long = "lp", hide = true, value_name = "PORT")]
    pub coap_port: Option<u16>,
    /// Where the REST interface and the page are served
    #[arg(long, env = "WEB_LISTEN", default_value = "127.0.0.1:8080")]
    pub web_listen: SocketAddr,
    /// The port of --web-listen alone, as the original has it
    #[arg(long = "wp", hide = true, value_name = "PORT")]
    pub web_port: Option<u16>,
    /// Announce the server on the local network (DNS-SD: _http._tcp, _coap._udp, _coaps._udp)
    #[arg(long, env = "MDNS")]
    pub mdns: bool,
    /// A folder of object models (OMA DDF XML), besides the built-in ones; may be given more than once
    #[arg(short = 'm', long, env = "MODELS_FOLDER", action = ArgAction::Append, value_name = "FOLDER")]
    pub models_folder: Vec<PathBuf>,
    /// The folder of the server's store
    #[arg(long, env = "DATA_DIR", default_value = "leshan-server-kafka-data")]
    pub data_dir: PathBuf,
    /// The topic of registration events [default: iot.<server id>.registrations]
    #[arg(long, env = "KAFKA_TOPIC_REGISTRATIONS")]
    pub kafka_topic_registrations: Option<String>,
    /// The topic of notifications [default: iot.<server id>.observations]
    #[arg(long, env = "KAFKA_TOPIC_OBSERVATIONS")]
    pub kafka_topic_observations: Option<String>,
    /// The topic requests are read from [default: iot.<server id>.management.req]
    #[arg(long, env = "KAFKA_TOPIC_MANAGEMENT_REQ")]
    pub kafka_topic_management_req: Option<String>,
    /// The topic of replies [default: iot.<server id>.management.rep]
    #[arg(long, env = "KAFKA_TOPIC_MANAGEMENT_REP")]
    pub kafka_topic_management_rep: Option<String>,
    /// Compression of what is produced: none, gzip, snappy, lz4 or zstd
    #[arg(long, env = "KAFKA_PRODUCER_COMPRESSION_TYPE", default_value = "none")]
    pub kafka_producer_compression_type: String,
    /// The most bytes of one batch
    #[arg(
        long,
        env = "KAFKA_PRODUCER_BATCH_SIZE_CONFIG",
        default_value_t = 16_384
    )]
    pub kafka_producer_batch_size: usize,
    /// How long a record waits for company, in milliseconds
    #[arg(long, env = "KAFKA_PRODUCER_LINGER_MS", default_value_t = 1)]
    pub kafka_producer_linger_ms: u64,
    /// How long a request has for its reply where it does not say (header expires-at), in seconds from its timestamp
    #[arg(long, env = "REQUEST_TIMEOUT_S", default_value_t = 60)]
    pub request_timeout_s: u64,
    /// The same for a device in queue mode, which may sleep that long
    #[arg(long, env = "SLEEPER_REQUEST_TIMEOUT_S", default_value_t = 86_400)]
    pub sleeper_request_timeout_s: u64,
    /// How long a device in queue mode listens after it was heard of, in seconds; REST sets it for single devices
    #[arg(long, env = "AWAKE_WINDOW_S", default_value_t = 93)]
    pub awake_window_s: u64,
    /// Within how many seconds an identical execute, create, delete or write is a duplicate
    #[arg(long, env = "DUPLICATE_WINDOW_S", default_value_t = 600)]
    pub duplicate_window_s: u64,
    /// The most megabytes of records kept on disk while Kafka is away; beyond it notifications are refused
    #[arg(long, env = "SPOOL_MB", default_value_t = 256)]
    pub spool_mb: u64,
    #[command(flatten)]
    pub security: SecurityArgs,
    #[command(flatten)]
    pub auth: AuthArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

/// The four topics, by the options or their defaults.
#[derive(Clone, Debug)]
pub(crate) struct ServerTopics {
    pub(crate) registrations: String,
    pub(crate) observations: String,
    pub(crate) management_req: String,
    pub(crate) management_rep: String,
}

impl Args {
    pub(crate) fn topics(&self) -> ServerTopics {
        let or_default = |given: &Option<String>, rest: &str| {
            given
                .clone()
                .unwrap_or_else(|| format!("iot.{}.{rest}", self.server_id))
        };
        ServerTopics {
            registrations: or_default(&self.kafka_topic_registrations, "registrations"),
            observations: or_default(&self.kafka_topic_observations, "observations"),
            management_req: or_default(&self.kafka_topic_management_req, "management.req"),
            management_rep: or_default(&self.kafka_topic_management_rep, "management.rep"),
        }
    }

    pub(crate) fn coap_address(&self) -> SocketAddr {
        let mut address = self.coap_listen;
        if let Some(host) = self.coap_host {
            address.set_ip(host);
        }
        if let Some(port) = self.coap_port {
            address.set_port(port);
        }
        address
    }

    pub(crate) fn web_address(&self) -> SocketAddr {
        let mut address = self.web_listen;
        if let Some(port) = self.web_port {
            address.set_port(port);
        }
        address
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }
}
