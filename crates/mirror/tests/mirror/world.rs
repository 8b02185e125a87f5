//! Two sites and a mirror between them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, OutRecord, Producer, ProducerSettings, Record, RecordDecoder, SchemaRegistry, StartAt,
    TopicReader,
};
use mirror::{Args, Direction};
use records::{
    AvroKey, AvroRecord, RequestKind, Response, ResponseBody, ResponseCode, ResponsePayload,
    SchemaId,
};
use schema_registry::Registry;
use service::{Context, Health};
use tempfile::TempDir;
use testkit::{Apicurio, Link, RealKafka, RealKafkaBuilder};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Longest wait for anything: generous, as machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A topic from which nothing came for so long is read to its end.
const QUIET: Duration = Duration::from_millis(150);

pub(crate) struct World {
    pub(crate) cloud: Site,
    pub(crate) edge: Site,
}

pub(crate) struct Site {
    pub(crate) bootstrap: String,
    pub(crate) registry_url: String,
    kafka: Kafka,
    schemas: Schemas,
    producer: Producer,
}

enum Kafka {
    Embedded(Option<Broker>, TempDir),
    Real(RealKafka),
}

enum Schemas {
    Embedded(Option<Registry>),
    Real(Box<Apicurio>),
}

impl World {
    /// Apache Kafka and Apicurio, twice.
    pub(crate) async fn real() -> Self {
        let site = async |ids_taken| {
            // A broker that was killed may only come back once its old session has ended.
            let kafka = apache_kafka()
                .property("broker.session.timeout.ms", "3000")
                .property("broker.heartbeat.interval.ms", "500");
            let (kafka, schemas) = tokio::join!(kafka.start(), Apicurio::start());
            let (kafka, schemas) = (kafka.unwrap(), schemas.unwrap());
            let (bootstrap, url) = (kafka.bootstrap().to_owned(), schemas.url().to_owned());
            let (kafka, schemas) = (Kafka::Real(kafka), Schemas::Real(Box::new(schemas)));
            Site::new(bootstrap, url, kafka, schemas, ids_taken).await
        };
        let (cloud, edge) = tokio::join!(site(5), site(1));
        Self { cloud, edge }
    }

    /// Apache Kafka twice, with registries of ours.
    pub(crate) async fn brokers() -> Self {
        let (cloud, edge) = tokio::join!(apache_kafka().start(), apache_kafka().start());
        Self::around(cloud.unwrap(), edge.unwrap()).await
    }

    /// The same, the edge's broker reached over a link that leads to port `far`.
    pub(crate) async fn brokers_linked(link: &Link, far: u16) -> Self {
        let edge = apache_kafka().reached_through(link.port(), far);
        let (cloud, edge) = tokio::join!(apache_kafka().start(), edge.start());
        Self::around(cloud.unwrap(), edge.unwrap()).await
    }

    async fn around(cloud: RealKafka, edge: RealKafka) -> Self {
        let site = async |kafka: RealKafka, ids_taken| {
            let bootstrap = kafka.bootstrap().to_owned();
            let registry = start_registry(&bootstrap, "127.0.0.1:0".parse().unwrap()).await;
            let url = registry.url();
            let schemas = Schemas::Embedded(Some(registry));
            Site::new(bootstrap, url, Kafka::Real(kafka), schemas, ids_taken).await
        };
        let (cloud, edge) = tokio::join!(site(cloud, 5), site(edge, 1));
        Self { cloud, edge }
    }

    pub(crate) async fn embedded() -> Self {
        Self::ours(true).await
    }

    /// The same, but the cloud's broker makes no topic on demand.
    pub(crate) async fn strict_cloud() -> Self {
        Self::ours(false).await
    }

    async fn ours(cloud_creates: bool) -> Self {
        let site = async |ids_taken, auto_create| {
            let dir = TempDir::new().unwrap();
            let mut config = BrokerConfig::new("127.0.0.1:0".parse().unwrap(), dir.path());
            config.auto_create = auto_create;
            let broker = Broker::start(config).await.unwrap();
            let bootstrap = broker.local_addr().to_string();
            let registry = start_registry(&bootstrap, "127.0.0.1:0".parse().unwrap()).await;
            let url = registry.url();
            let kafka = Kafka::Embedded(Some(broker), dir);
            Site::new(
                bootstrap,
                url,
                kafka,
                Schemas::Embedded(Some(registry)),
                ids_taken,
            )
            .await
        };
        let (cloud, edge) = tokio::join!(site(5, cloud_creates), site(1, true));
        Self { cloud, edge }
    }

    /// The mirror of a gateway, from the side the direction names first.
    pub(crate) fn mirror(&self, direction: Direction, gateway: &str) -> Mirror {
        let (source, target) = match direction {
            Direction::CloudToEdge => (&self.cloud, &self.edge),
            Direction::EdgeToCloud => (&self.edge, &self.cloud),
        };
        let direction = match direction {
            Direction::CloudToEdge => "cloud-to-edge",
            Direction::EdgeToCloud => "edge-to-cloud",
        };
        self.start(args(
            source,
            target,
            &["--gateway", gateway, "--direction", direction],
        ))
    }

    /// Any mirror.
    pub(crate) fn start(&self, args: Args) -> Mirror {
        let context = Context::detached();
        let (stop, health) = (context.shutdown.clone(), context.health.clone());
        let task = tokio::spawn(mirror::run(args, context));
        Mirror { stop, health, task }
    }
}

/// Stories have records of years ago, which a broker would delete when it first looks, half a minute after its start.
fn apache_kafka() -> RealKafkaBuilder {
    RealKafka::builder().property("log.retention.ms", "-1")
}

/// The options of a mirror between two sites, as a command line has them.
pub(crate) fn args(source: &Site, target: &Site, more: &[&str]) -> Args {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let sites = [
        "mirror",
        "--source-bootstrap-server",
        &source.bootstrap,
        "--source-schema-registry-url",
        &source.registry_url,
        "--target-bootstrap-server",
        &target.bootstrap,
        "--target-schema-registry-url",
        &target.registry_url,
    ];
    let line = <Line as clap::Parser>::try_parse_from(sites.iter().chain(more));
    line.unwrap_or_else(|error| panic!("{error}")).args
}

async fn start_registry(bootstrap: &str, listen: SocketAddr) -> Registry {
    let args = schema_registry::Args {
        listen,
        ..schema_registry::Args::on_free_port(bootstrap)
    };
    let registry = Registry::start(args, Context::detached()).await.unwrap();
    registry.loaded().await;
    registry
}

pub(crate) struct Mirror {
    stop: service::CancellationToken,
    pub(crate) health: Health,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Mirror {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("the mirror ends").unwrap()
    }

    /// As if its process were killed: nothing is finished, nothing committed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Waits until the condition fails, and tells why.
    pub(crate) async fn fails(&self, condition: &str) -> String {
        let look = async || {
            let failing = self.health.failing();
            failing
                .get(condition)
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("failing: {failing:?}"))
        };
        let what = format!("the condition '{condition}' to fail");
        testkit::wait_for(PATIENCE, &what, look).await.unwrap()
    }

    pub(crate) async fn is_well(&self) {
        let look = async || {
            let failing = self.health.failing();
            anyhow::ensure!(failing.is_empty(), "failing: {failing:?}");
            Ok(())
        };
        testkit::wait_for(PATIENCE, "the mirror to be ready", look)
            .await
            .unwrap();
    }
}

impl Site {
    async fn new(
        bootstrap: String,
        registry_url: String,
        kafka: Kafka,
        schemas: Schemas,
        ids_taken: u32,
    ) -> Self {
        // So that one id means another schema at each site.
        let registry = SchemaRegistry::new(&registry_url).unwrap();
        for n in 0..ids_taken {
            let schema =
                format!(r#"{{"type":"record","name":"Taken{ids_taken}x{n}","fields":[]}}"#);
            registry
                .register(&format!("taken-{n}"), &schema)
                .await
                .unwrap();
        }
        let cluster = Cluster::new(&bootstrap, None).unwrap();
        let producer = Producer::new(&cluster, &ProducerSettings::default()).unwrap();
        Self {
            bootstrap,
            registry_url,
            kafka,
            schemas,
            producer,
        }
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap, None).unwrap()
    }

    /// A client of the registry that has nothing in its cache.
    pub(crate) fn registry(&self) -> SchemaRegistry {
        SchemaRegistry::new(&self.registry_url).unwrap()
    }

    pub(crate) async fn topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        kafka::ensure_topic(&self.cluster(), name, partitions, config)
            .await
            .unwrap();
    }

    pub(crate) async fn cluster_id(&self) -> String {
        kafka::fetch_cluster_id(&self.cluster()).await.unwrap()
    }

    pub(crate) async fn put(&self, record: OutRecord<'_>) -> (i32, i64) {
        self.producer.send(record).await.unwrap().await.unwrap()
    }

    /// Sends them all before it waits for the first: they come in batches.
    pub(crate) async fn put_all(&self, records: &[OutRecord<'_>]) {
        let mut sent = Vec::new();
        for record in records {
            sent.push(self.producer.send(record.clone()).await.unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap();
        }
    }

    /// A device's key as it stands in this site's topic.
    pub(crate) async fn key(&self, topic: &str, endpoint: &str) -> Vec<u8> {
        let encoder = kafka::RecordEncoder::new(self.registry());
        encoder.key(topic, endpoint).await.unwrap()
    }

    pub(crate) async fn value(&self, topic: &str, record: &Response) -> Vec<u8> {
        let encoder = kafka::RecordEncoder::new(self.registry());
        encoder.value(topic, record).await.unwrap()
    }

    /// What the topic holds, in order per partition; waits for at least so many records.
    pub(crate) async fn read(&self, topic: &str, least: usize) -> Vec<Record> {
        self.read_until(topic, |records| records.len() >= least)
            .await
    }

    /// What the topic holds once that is enough and nothing more comes for a moment.
    pub(crate) async fn read_until(
        &self,
        topic: &str,
        enough: impl Fn(&[Record]) -> bool,
    ) -> Vec<Record> {
        let end = Instant::now() + PATIENCE;
        let cluster = self.cluster();
        let open = async || TopicReader::open(&cluster, topic, StartAt::Beginning).await;
        let mut reader = testkit::wait_for(PATIENCE, topic, open).await.unwrap();
        let mut records = Vec::new();
        loop {
            if let Ok(record) = timeout(QUIET, reader.next()).await {
                records.push(record);
            } else if enough(&records) {
                return records;
            } else {
                let (first, last) = (records.first(), records.last());
                assert!(
                    Instant::now() < end,
                    "'{topic}' at {} has {} records, from {first:?} to {last:?}",
                    self.bootstrap,
                    records.len()
                );
            }
        }
    }

    /// Offsets of the topic's partitions together.
    pub(crate) async fn end(&self, topic: &str) -> i64 {
        let topics = kafka::list_topics(&self.cluster(), PATIENCE).await.unwrap();
        let found = topics.iter().find(|known| known.name == topic);
        found.map_or(0, |topic| topic.records)
    }

    pub(crate) async fn has_topic(&self, topic: &str) -> bool {
        let topics = kafka::list_topics(&self.cluster(), PATIENCE).await.unwrap();
        topics.iter().any(|known| known.name == topic)
    }

    pub(crate) async fn decode<T: AvroRecord>(&self, framed: &[u8]) -> T {
        RecordDecoder::new(self.registry())
            .decode(framed)
            .await
            .unwrap()
    }

    /// Takes Kafka away: Apache Kafka as a power cut would, ours in order.
    pub(crate) async fn stop_kafka(&mut self) {
        match &mut self.kafka {
            Kafka::Embedded(broker, _) => broker.take().unwrap().shutdown().await,
            Kafka::Real(kafka) => kafka.stop(),
        }
    }

    pub(crate) async fn start_kafka(&mut self) {
        let listen: SocketAddr = self.bootstrap.parse().unwrap();
        match &mut self.kafka {
            Kafka::Embedded(broker, dir) => {
                let start = || Broker::start(BrokerConfig::new(listen, dir.path()));
                let what = "the port to be free again";
                let started = testkit::wait_for(PATIENCE, what, async || Ok(start().await?));
                *broker = Some(started.await.unwrap());
            }
            Kafka::Real(kafka) => kafka.restart().await.unwrap(),
        }
    }

    /// Takes the registry away; Apicurio keeps nothing on disk, so it is frozen.
    pub(crate) async fn stop_registry(&mut self) {
        match &mut self.schemas {
            Schemas::Embedded(registry) => registry.take().unwrap().stop().await.unwrap(),
            Schemas::Real(apicurio) => apicurio.process().pause().unwrap(),
        }
    }

    pub(crate) async fn start_registry(&mut self) {
        match &mut self.schemas {
            Schemas::Embedded(registry) => {
                let listen = self
                    .registry_url
                    .trim_start_matches("http://")
                    .parse()
                    .unwrap();
                *registry = Some(start_registry(&self.bootstrap, listen).await);
            }
            Schemas::Real(apicurio) => apicurio.process().resume().unwrap(),
        }
    }

    pub(crate) async fn compatibility(&self, subject: &str, level: &str) {
        let url = format!("{}/config/{subject}", self.registry_url);
        let body = format!(r#"{{"compatibility":"{level}"}}"#);
        let request = reqwest::Client::new().put(url);
        let request = request.header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer = request.body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

/// A gateway no other story has.
pub(crate) fn gateway(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A reply to tell from the others by its number.
pub(crate) fn reply(ep: &str, number: i64) -> Response {
    Response {
        ticket: format!("ticket-{number}"),
        server_id: "server1".to_owned(),
        ep: ep.to_owned(),
        path: "/3303/0/5700".to_owned(),
        timestamp: number,
        rep: ResponsePayload {
            code: ResponseCode::Content,
            kind: RequestKind::Read,
            body: Some(ResponseBody::Generic("CONTENT".to_owned())),
        },
    }
}

pub(crate) fn schema_id(framed: &[u8]) -> u32 {
    let SchemaId(id) = records::frame::schema_id(framed).unwrap();
    id
}

pub(crate) fn endpoint(key: &[u8]) -> String {
    AvroKey::from_datum(&key[5..]).unwrap().ep
}

/// The values of each key, each where it first stands: at least once and in order means that these are in order.
pub(crate) fn first_seen(records: &[Record]) -> HashMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut seen: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    for record in records {
        let values = seen
            .entry(record.key.clone().unwrap_or_default())
            .or_default();
        let value = record.value.clone().unwrap_or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    seen
}
