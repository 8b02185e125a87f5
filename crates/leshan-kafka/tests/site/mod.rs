//! A gateway in a test: an embedded broker, an embedded registry, the server, and devices made of the real client.

// Each test binary uses a part of this.
#![allow(dead_code, unused_imports)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::site::Topic;
pub(crate) use ::site::{Desk, Device, Running, request};
use clap::Parser;
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{Cluster, LagProbe, SchemaRegistry, TopicMatch};
use records::AvroRecord;
use service::Context;
use tempfile::TempDir;
use testkit::{Child, Launch, RealKafka, free_port};

/// Where requests of this gateway are put.
pub(crate) const REQUESTS: &str = "iot.gw.management.req";

/// Long enough for a machine that does other things too; nothing waits for it unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: leshan_kafka::Args,
}

/// Broker, registry and folder of one gateway; the server is started and stopped on top.
pub(crate) struct Site {
    folder: TempDir,
    broker: Option<Broker>,
    pub(crate) kafka: SocketAddr,
    real: Option<RealKafka>,
    registry: Option<schema_registry::Registry>,
    pub(crate) registry_at: SocketAddr,
    pub(crate) coap: SocketAddr,
    pub(crate) web: SocketAddr,
}

/// Where a process that is to be the server finds its command line, one word a line.
const PROCESS: &str = "ZEELOS_TEST_SERVER";

/// Runs the server where this process was started for that.
pub(crate) fn run_as_process() {
    let Ok(line) = std::env::var(PROCESS) else {
        return;
    };
    let Program { args } = Program::try_parse_from(line.lines()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(leshan_kafka::run(args, Context::detached()))
        .unwrap();
}

/// Unix milliseconds.
pub(crate) fn unix_ms() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_millis()
}

/// A metric of this process, by its name with labels as it is written; 0 where there is none.
pub(crate) fn metric(name: &str) -> f64 {
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&prometheus::gather())
        .unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

impl Site {
    /// Ports and folders, nothing running.
    pub(crate) fn new() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            folder: tempfile::tempdir().unwrap(),
            broker: None,
            real: None,
            kafka: local(free_port()),
            registry: None,
            registry_at: local(free_port()),
            coap: local(free_port()),
            web: local(free_port()),
        }
    }

    pub(crate) async fn with_kafka() -> Self {
        let mut site = Self::new();
        site.start_broker().await;
        site.start_registry().await;
        site
    }

    /// The same on Apache Kafka, made with these properties.
    pub(crate) async fn with_real_kafka(properties: &[(&str, &str)]) -> Self {
        let mut site = Self::new();
        let builder = properties
            .iter()
            .fold(RealKafka::builder(), |all, (key, value)| {
                all.property(key, value)
            });
        let kafka = builder.start().await.unwrap();
        site.kafka = kafka.bootstrap().parse().unwrap();
        site.real = Some(kafka);
        site.start_registry().await;
        site
    }

    pub(crate) fn real_kafka(&mut self) -> &mut RealKafka {
        self.real.as_mut().unwrap()
    }

    pub(crate) async fn start_broker(&mut self) {
        let config = BrokerConfig::new(self.kafka, self.folder.path().join("kafka"));
        self.broker = Some(Broker::start(config).await.unwrap());
    }

    pub(crate) async fn stop_broker(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    pub(crate) async fn start_registry(&mut self) {
        let mut args = schema_registry::Args::on_free_port(&self.kafka.to_string());
        args.listen = self.registry_at;
        let registry = schema_registry::Registry::start(args, Context::detached());
        let registry = registry.await.unwrap();
        registry.loaded().await;
        self.registry = Some(registry);
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    pub(crate) fn start_server(&self) -> Running {
        self.start_server_with(&[])
    }

    /// The server as a process of its own, which can be killed.
    pub(crate) fn start_process(&self, more: &[&str]) -> Child {
        let line = self.line(more).join("\n");
        let launch = Launch::new("server", std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--nocapture"])
            .env(PROCESS, line);
        launch
            .spawn(&self.folder.path().join("server.log"))
            .unwrap()
    }

    pub(crate) fn start_server_with(&self, more: &[&str]) -> Running {
        let Program { args } = Program::try_parse_from(self.line(more)).unwrap();
        Running::start(|context| leshan_kafka::run(args, context))
    }

    fn line(&self, more: &[&str]) -> Vec<String> {
        let data_dir = self.data_dir();
        let mut line = vec![
            "server".to_owned(),
            "--server-id=gw".to_owned(),
            format!("--coap-listen={}", self.coap),
            format!("--web-listen={}", self.web),
            format!("--data-dir={}", data_dir.display()),
            format!("--kafka-bootstrap-server={}", self.kafka),
            format!("--kafka-schema-registry-url={}", self.registry_url()),
        ];
        line.extend(more.iter().map(|&word| word.to_owned()));
        line
    }

    pub(crate) fn registry_url(&self) -> String {
        format!("http://{}", self.registry_at)
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.kafka.to_string(), None).unwrap()
    }

    pub(crate) fn schema_registry(&self) -> SchemaRegistry {
        SchemaRegistry::new(&self.registry_url()).unwrap()
    }

    /// The same servers for who reads and writes.
    fn clients(&self) -> ::site::Site {
        ::site::Site::given(&self.kafka.to_string(), &self.registry_url())
    }

    /// Reads a topic from its beginning.
    pub(crate) async fn topic<T: AvroRecord>(&self, topic: &str) -> Topic<T> {
        self.clients().topic(topic).await
    }

    /// Waits until the server has accepted every request there is.
    pub(crate) async fn until_committed(&self) {
        self.until_committed_within(PATIENCE).await;
    }

    pub(crate) async fn until_committed_within(&self, limit: Duration) {
        let topics = TopicMatch::Names(vec![REQUESTS.to_owned()]);
        let lag = LagProbe::new(&self.cluster(), "gw", topics).unwrap();
        let none_left = || async {
            match lag.lag().await? {
                0 => Ok(()),
                left => anyhow::bail!("{left} are not committed"),
            }
        };
        testkit::wait_for(limit, "the requests are in the journal", none_left)
            .await
            .unwrap();
    }

    pub(crate) async fn desk(&self) -> Desk {
        Desk::open(&self.clients(), "gw").await
    }
}
