use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use clap::Parser;
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, OutRecord, Producer, ProducerSettings, Record, RecordDecoder, RecordEncoder,
    SchemaRegistry, StartAt, TopicReader,
};
use records::{
    AvroKey, AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue,
    ResponseBody, ResponseCode, ResponseObserve, ResponsePayload, windowed,
};
use schema_registry::Registry;
use service::Context;
use stream_analytics::Args;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) const INPUT: &str = "iot.demo.observations";
pub(crate) const OUTPUT: &str = "analytics.demo.observations.maxper30sec";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The start of a minute some 20 minutes ago, in Unix milliseconds: results carry the readings' time, and brokers drop
/// what is older than their retention.
pub(crate) fn t0() -> i64 {
    static T0: LazyLock<i64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let minutes = i64::try_from(now.unwrap().as_secs() / 60).unwrap();
        (minutes - 20) * 60_000
    });
    *T0
}

/// What is printed for a count in the `minute`th minute from [`t0`].
pub(crate) fn counted(name: &str, minute: i64, count: u64) -> String {
    let start = t0() + minute * 60_000;
    format!("[{name}@{start}/{}], {count}", start + 60_000)
}

/// A cluster and a registry, the embedded ones or others.
pub(crate) struct Site {
    pub(crate) bootstrap: String,
    pub(crate) registry_url: String,
    pub(crate) folder: TempDir,
    producer: Producer,
    encoder: RecordEncoder,
    /// Stopped when the site goes.
    _embedded: Option<(Broker, Registry)>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = embedded_broker(folder.path()).await;
        let bootstrap = broker.local_addr().to_string();
        let registry = embedded_registry(&bootstrap, "127.0.0.1:0".parse().unwrap()).await;
        let registry_url = registry.url();
        Self::new(bootstrap, registry_url, folder, Some((broker, registry)))
    }

    /// On servers that run already.
    pub(crate) fn on(bootstrap: &str, registry_url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::new(bootstrap.to_owned(), registry_url.to_owned(), folder, None)
    }

    fn new(
        bootstrap: String,
        registry_url: String,
        folder: TempDir,
        embedded: Option<(Broker, Registry)>,
    ) -> Self {
        let cluster = Cluster::new(&bootstrap, None).unwrap();
        let registry = SchemaRegistry::new(&registry_url).unwrap();
        Self {
            producer: Producer::new(&cluster, &ProducerSettings::default()).unwrap(),
            encoder: RecordEncoder::new(registry),
            bootstrap,
            registry_url,
            folder,
            _embedded: embedded,
        }
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap, None).unwrap()
    }

    /// Starts the service as its command line would; `line` is what differs from the usual.
    pub(crate) fn run(&self, line: &str) -> Running {
        let data = self.folder.path().join("analytics");
        let mut args = vec!["stream-analytics".to_owned()];
        args.extend(line.split_whitespace().map(str::to_owned));
        for (name, value) in [
            ("--data-dir", data.to_str().unwrap()),
            ("--input-topic", INPUT),
            ("--kafka-bootstrap-server", &self.bootstrap),
            ("--kafka-schema-registry-url", &self.registry_url),
        ] {
            if !line.contains(name) {
                args.extend([name.to_owned(), value.to_owned()]);
            }
        }
        let args = Command::parse_from(args).args;
        let context = Context::detached();
        let console = Console::default();
        let service = stream_analytics::run_with_output(args, context.clone(), console.clone());
        Running {
            handle: tokio::spawn(service),
            context,
            console,
        }
    }

    pub(crate) async fn observe(&self, observation: &ResponseObserve) {
        let value = self.encoder.value(INPUT, observation).await.unwrap();
        self.produce(&observation.ep, Some(&value), None).await;
    }

    /// A device's value at [`t0`] + `at_ms`.
    pub(crate) async fn value(&self, ep: &str, path: &str, at_ms: i64, value: f64) {
        self.observe(&observation(
            ep,
            path,
            t0() + at_ms,
            ResourceValue::Double(value),
        ))
        .await;
    }

    pub(crate) async fn produce(&self, ep: &str, value: Option<&[u8]>, partition: Option<i32>) {
        let key = self.encoder.key(INPUT, ep).await.unwrap();
        let record = OutRecord {
            topic: INPUT,
            partition,
            key: Some(&key),
            value,
            ..OutRecord::default()
        };
        self.producer.send(record).await.unwrap().await.unwrap();
    }

    /// Everything on a topic now; nothing where there is no such topic.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        let Ok(mut reader) = TopicReader::open(&self.cluster(), topic, StartAt::Beginning).await
        else {
            return Vec::new();
        };
        let ends: BTreeMap<i32, i64> = reader.ends().iter().copied().collect();
        let mut missing: i64 = ends.values().sum();
        let mut all = Vec::new();
        while missing > 0 {
            let next = tokio::time::timeout(PATIENCE / 3, reader.next()).await;
            let record = next.unwrap_or_else(|_| {
                let seen: Vec<_> = all
                    .iter()
                    .map(|r: &Record| (r.partition, r.offset))
                    .collect();
                panic!("{topic} ends at {ends:?}, and nothing comes after {seen:?}")
            });
            if record.offset < ends[&record.partition] {
                missing -= 1;
                all.push(record);
            }
        }
        all
    }

    pub(crate) async fn maxima(&self, topic: &str) -> Vec<Maximum> {
        let registry = SchemaRegistry::new(&self.registry_url).unwrap();
        let mut keys = RecordDecoder::<AvroKey>::new(registry.clone());
        let mut values = RecordDecoder::<ResponseObserve>::new(registry);
        let mut maxima = Vec::new();
        for record in self.records(topic).await {
            let (key, start_ms) = windowed::decode(record.key.as_deref().unwrap()).unwrap();
            let value = values.decode(record.value.as_deref().unwrap()).await;
            maxima.push(Maximum {
                key: keys.decode(key).await.unwrap().ep,
                start_ms,
                record: value.unwrap(),
            });
        }
        maxima
    }

    /// Waits until the maximum of a marker, sent now, is out: everything before it (on one partition) is, too.
    pub(crate) async fn settled_maxima(&self) -> Vec<Maximum> {
        let marker = format!("marker-{}", self.records(INPUT).await.len());
        self.value(&marker, "/3303/0/5700", 0, 1.0).await;
        let maxima = testkit::wait_for(PATIENCE, "the marker's maximum", async || {
            let maxima = self.maxima(OUTPUT).await;
            let seen = maxima.iter().any(|maximum| maximum.record.ep == marker);
            ensure!(seen, "{} maxima", maxima.len());
            Ok(maxima)
        });
        let mut maxima = maxima.await.unwrap();
        maxima.retain(|maximum| !maximum.record.ep.starts_with("marker-"));
        maxima
    }
}

pub(crate) async fn embedded_broker(folder: &Path) -> Broker {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Broker::start(BrokerConfig::new(any, folder.join("kafka")))
        .await
        .unwrap()
}

pub(crate) async fn embedded_registry(bootstrap: &str, listen: SocketAddr) -> Registry {
    let args = schema_registry::Args {
        listen,
        ..schema_registry::Args::on_free_port(bootstrap)
    };
    let registry = Registry::start(args, Context::detached()).await.unwrap();
    registry.loaded().await;
    registry
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[derive(Debug)]
pub(crate) struct Maximum {
    /// `<ep>.<path>`
    pub(crate) key: String,
    pub(crate) start_ms: i64,
    pub(crate) record: ResponseObserve,
}

impl Maximum {
    pub(crate) fn value(&self) -> f64 {
        match &resource(&self.record).value {
            ResourceValue::Double(value) => *value,
            ResourceValue::Long(value) => *value as f64,
            other => panic!("no number: {other:?}"),
        }
    }

    /// Key, window start after [`t0`], value.
    pub(crate) fn short(&self) -> (&str, i64, f64) {
        (&self.key, self.start_ms - t0(), self.value())
    }
}

pub(crate) fn resource(record: &ResponseObserve) -> &AvroResource {
    match &record.rep.body {
        Some(ResponseBody::Read(ReadContent::Resource(resource))) => resource,
        other => panic!("no resource: {other:?}"),
    }
}

pub(crate) fn observation(
    ep: &str,
    path: &str,
    timestamp: i64,
    value: ResourceValue,
) -> ResponseObserve {
    ResponseObserve {
        ticket: "ticket#1".to_owned(),
        observation_id: "0a0b".to_owned(),
        server_id: "demo".to_owned(),
        ep: ep.to_owned(),
        path: path.to_owned(),
        timestamp,
        rep: ResponsePayload {
            code: ResponseCode::Content,
            kind: RequestKind::Observe,
            body: Some(ResponseBody::Read(ReadContent::Resource(AvroResource {
                id: 5700,
                path: path.to_owned(),
                kind: ResourceKind::SingleResource,
                r#type: ResourceType::Float,
                value,
            }))),
        },
    }
}

/// What `aggregate` prints.
#[derive(Clone, Default)]
pub(crate) struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn wait_for(&self, line: &str) {
        testkit::wait_for(PATIENCE, line, async || {
            let lines = self.lines();
            ensure!(lines.iter().any(|l| l == line), "{lines:#?}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Running {
    handle: JoinHandle<anyhow::Result<()>>,
    pub(crate) context: Context,
    pub(crate) console: Console,
}

impl Running {
    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.context.shutdown.cancel();
        self.handle.await.unwrap().unwrap();
    }

    /// Drops the service wherever it is.
    pub(crate) async fn kill(self) {
        self.handle.abort();
        assert!(self.handle.await.unwrap_err().is_cancelled());
    }

    /// Why it ended by itself.
    pub(crate) async fn error(self) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.handle).await.unwrap();
        format!("{:#}", ended.unwrap().unwrap_err())
    }

    pub(crate) async fn failing(&self, condition: &str) -> String {
        testkit::wait_for(PATIENCE, condition, async || {
            let failing = self.context.health.failing();
            failing
                .get(condition)
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("failing: {failing:?}"))
        })
        .await
        .unwrap()
    }
}
