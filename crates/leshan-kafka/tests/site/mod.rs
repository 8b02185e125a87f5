//! A gateway in a test: an embedded broker, an embedded registry, the server, and devices made of the real client.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use coap::Peer;
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, LagProbe, OutRecord, Producer, ProducerSettings, Record, RecordDecoder, RecordEncoder,
    SchemaRegistry, StartAt, TopicMatch, TopicReader, ensure_topic,
};
use lwm2m::client::{Client, ClientConfig, Event, InMemoryTree};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceNode, Value};
use records::{
    AvroContentFormat, AvroRecord, Request, RequestBody, RequestKind, RequestPayload, Response,
};
use service::Context;
use tempfile::TempDir;
use testkit::{Child, Launch, RealKafka, free_port};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::{Batch, UdpConfig, UdpTransport};

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

pub(crate) struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    pub(crate) context: Context,
}

impl Running {
    /// As after kill -9: nothing more is done.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn stop(self) {
        self.context.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
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
        let context = Context::detached();
        let task = tokio::spawn(leshan_kafka::run(args, context.clone()));
        Running { task, context }
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

    /// Reads a topic from its beginning.
    pub(crate) async fn topic<T: AvroRecord>(&self, topic: &str) -> Topic<T> {
        let cluster = self.cluster();
        ensure_topic(&cluster, topic, 1, &[]).await.unwrap();
        let reader = TopicReader::open(&cluster, topic, StartAt::Beginning).await;
        Topic {
            reader: reader.unwrap(),
            decoder: RecordDecoder::new(self.schema_registry()),
        }
    }

    /// Waits until the server has accepted every request there is.
    pub(crate) async fn until_committed(&self) {
        let topics = TopicMatch::Names(vec![REQUESTS.to_owned()]);
        let lag = LagProbe::new(&self.cluster(), "gw", topics).unwrap();
        let none_left = || async {
            match lag.lag().await? {
                0 => Ok(()),
                left => anyhow::bail!("{left} are not committed"),
            }
        };
        testkit::wait_for(PATIENCE, "the requests are in the journal", none_left)
            .await
            .unwrap();
    }

    pub(crate) async fn desk(&self) -> Desk {
        let settings = ProducerSettings {
            linger: Duration::ZERO,
            ..ProducerSettings::default()
        };
        Desk {
            producer: Producer::new(&self.cluster(), &settings).unwrap(),
            encoder: RecordEncoder::new(self.schema_registry()),
            replies: self.topic("iot.gw.management.rep").await,
        }
    }
}

/// The records of a topic, as they come.
pub(crate) struct Topic<T> {
    reader: TopicReader,
    decoder: RecordDecoder<T>,
}

impl<T: AvroRecord> Topic<T> {
    pub(crate) async fn next(&mut self) -> T {
        let record = self.next_record().await;
        self.decoder.decode(&record.value.unwrap()).await.unwrap()
    }

    pub(crate) async fn next_record(&mut self) -> Record {
        let next = tokio::time::timeout(PATIENCE, self.reader.next());
        next.await.expect("a record in time")
    }

    pub(crate) async fn find(&mut self, is_it: impl Fn(&T) -> bool) -> T {
        loop {
            let next = self.next().await;
            if is_it(&next) {
                return next;
            }
        }
    }

    /// That nothing more comes, as far as a second tells.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(1), self.reader.next())
            .await
            .is_err()
    }
}

/// An operator: requests out, replies in.
pub(crate) struct Desk {
    producer: Producer,
    encoder: RecordEncoder,
    pub(crate) replies: Topic<Response>,
}

pub(crate) const REQUESTS: &str = "iot.gw.management.req";

impl Desk {
    pub(crate) async fn ask(
        &mut self,
        ep: &str,
        ticket: &str,
        kind: RequestKind,
        path: &str,
        body: Option<RequestBody>,
    ) -> Response {
        self.send(&request(ep, ticket, kind, path, body), &[]).await;
        self.replies.find(|reply| reply.ticket == ticket).await
    }

    pub(crate) async fn send(&self, request: &Request, headers: &[(&str, &str)]) {
        let value = self.encoder.value(REQUESTS, request).await.unwrap();
        self.send_raw(Some(&value), headers).await;
    }

    pub(crate) async fn send_raw(&self, value: Option<&[u8]>, headers: &[(&str, &str)]) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())))
            .collect();
        let record = OutRecord {
            topic: REQUESTS,
            value,
            headers: &headers,
            ..OutRecord::default()
        };
        self.producer.send(record).await.unwrap().await.unwrap();
    }
}

pub(crate) fn request(
    ep: &str,
    ticket: &str,
    kind: RequestKind,
    path: &str,
    body: Option<RequestBody>,
) -> Request {
    Request {
        server_id: "server1".to_owned(),
        ep: ep.to_owned(),
        ticket: ticket.to_owned(),
        payload: RequestPayload {
            kind,
            path: path.to_owned(),
            content_format: AvroContentFormat::Tlv,
            body,
        },
    }
}

/// A device: Device (3) and Temperature (3303/0), its values set by the test.
pub(crate) struct Device {
    commands: mpsc::UnboundedSender<Do>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    task: JoinHandle<()>,
}

type Groups = Vec<Timestamped<BTreeMap<ObjectPath, Node>>>;

enum Do {
    Send(Groups),
    Update,
    Hear(bool),
    Temperature(f64),
    Deregister,
    Stats(tokio::sync::oneshot::Sender<coap::Stats>),
}

impl Device {
    pub(crate) async fn start(server: SocketAddr, endpoint: &str) -> Self {
        Self::start_with(server, endpoint, |_| {}).await
    }

    pub(crate) async fn start_with(
        server: SocketAddr,
        endpoint: &str,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let models = Arc::new(Registry::oma());
        let mut tree = InMemoryTree::new(models);
        let text = |id, value: &str| ResourceNode::single(id, Value::String(value.to_owned()));
        let device = [
            text(0, "maker"),
            text(15, "UTC"),
            ResourceNode::single(11, Value::Integer(0)),
            text(16, "U"),
        ];
        // The error codes (11) are a resource of several values.
        let device = device.into_iter().map(|node| match node.id {
            11 => ResourceNode::multiple(
                11,
                lwm2m_model::ValueType::Integer,
                [(0, Value::Integer(0))],
            ),
            _ => node,
        });
        tree.add_instance(3, 0, device).unwrap();
        let temperature = [ResourceNode::single(5700, Value::Float(20.0))];
        tree.add_instance(3303, 0, temperature).unwrap();
        let mut config = ClientConfig {
            lifetime: Duration::from_secs(300),
            retry_first: Duration::from_millis(200),
            retry_longest: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            ..ClientConfig::new(endpoint)
        };
        change(&mut config);
        let client = Client::new(config, tree, rand::random());
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let transport = UdpTransport::bind(local, &UdpConfig::default()).unwrap();
        let (commands, inbox) = mpsc::unbounded_channel();
        let (outbox, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(client, transport, Peer::plain(server), inbox, outbox));
        Self {
            commands,
            events,
            task,
        }
    }

    pub(crate) fn temperature(&self, value: f64) {
        let _ = self.commands.send(Do::Temperature(value));
    }

    /// Reports values of its own accord.
    pub(crate) fn send(&self, groups: Groups) {
        let _ = self.commands.send(Do::Send(groups));
    }

    /// Whether what is sent to it arrives.
    pub(crate) fn hear(&self, does: bool) {
        let _ = self.commands.send(Do::Hear(does));
    }

    /// Shows a sign of life.
    pub(crate) fn update(&self) {
        let _ = self.commands.send(Do::Update);
    }

    pub(crate) fn deregister(&self) {
        let _ = self.commands.send(Do::Deregister);
    }

    /// What its CoAP endpoint counted so far.
    pub(crate) async fn stats(&self) -> coap::Stats {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let _ = self.commands.send(Do::Stats(answer));
        answered.await.unwrap()
    }

    pub(crate) fn vanish(&self) {
        self.task.abort();
    }

    pub(crate) async fn wait_for(&mut self, is_it: impl Fn(&Event) -> bool) -> Event {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the device runs");
                if is_it(&event) {
                    return event;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("the device saw it in time")
    }

    pub(crate) async fn registered(&mut self) {
        self.wait_for(|event| matches!(event, Event::Registered { .. }))
            .await;
    }

    /// Every event there is by now.
    pub(crate) fn drain(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(
    mut client: Client<InMemoryTree>,
    transport: UdpTransport,
    server: Peer,
    mut inbox: mpsc::UnboundedReceiver<Do>,
    outbox: mpsc::UnboundedSender<Event>,
) {
    let temperature = "/3303/0/5700".parse().unwrap();
    let mut hears = true;
    client.start(Instant::now(), server);
    let mut batch = Batch::default();
    loop {
        while let Some(event) = client.poll_event() {
            let _ = outbox.send(event);
        }
        transport
            .send_all(std::iter::from_fn(|| client.poll_transmit()))
            .await;
        tokio::select! {
            received = transport.wait(&mut batch, client.next_timeout()) => {
                received.unwrap();
                for (peer, datagram) in (&batch).into_iter().filter(|_| hears) {
                    client.handle_datagram(Instant::now(), peer, datagram);
                }
            }
            Some(command) = inbox.recv() => match command {
                Do::Temperature(value) => {
                    client.objects_mut().set(&temperature, Value::Float(value)).unwrap();
                    client.changed(Instant::now(), &temperature);
                }
                Do::Send(groups) => {
                    client.send(Instant::now(), &groups, ContentFormat::SenmlCbor).unwrap();
                }
                Do::Hear(does) => hears = does,
                Do::Update => client.update(Instant::now()),
                Do::Deregister => client.deregister(Instant::now()),
                Do::Stats(answer) => {
                    let _ = answer.send(client.coap_stats());
                }
            },
        }
        client.handle_timeout(Instant::now());
    }
}
