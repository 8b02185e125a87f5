use std::io::Write;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use anyhow::ensure;
use clap::Parser;
use kafka::{OutRecord, Record};
use records::{
    AvroKey, AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue,
    ResponseBody, ResponseCode, ResponseObserve, ResponsePayload, windowed,
};
use site::PATIENCE;
use stream_analytics::Args;

pub(crate) const INPUT: &str = "iot.demo.observations";
pub(crate) const OUTPUT: &str = "analytics.demo.observations.maxper30sec";

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

/// A site with the service's input on it.
pub(crate) struct Site {
    at: site::Site,
}

impl Deref for Site {
    type Target = site::Site;

    fn deref(&self) -> &site::Site {
        &self.at
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::on(site::Site::start().await)
    }

    pub(crate) fn on(at: site::Site) -> Self {
        Self { at }
    }

    /// To take its servers away.
    pub(crate) fn servers(&mut self) -> &mut site::Site {
        &mut self.at
    }

    /// Starts the service as its command line would; `line` is what differs from the usual.
    pub(crate) fn run(&self, line: &str) -> Running {
        let data = self.folder().join("analytics");
        let mut args = vec!["stream-analytics".to_owned()];
        args.extend(line.split_whitespace().map(str::to_owned));
        for (name, value) in [
            ("--data-dir", data.to_str().unwrap()),
            ("--input-topic", INPUT),
            ("--kafka-bootstrap-server", self.bootstrap()),
            ("--kafka-schema-registry-url", self.registry_url()),
        ] {
            if !line.contains(name) {
                args.extend([name.to_owned(), value.to_owned()]);
            }
        }
        let args = Command::parse_from(args).args;
        let console = Console::default();
        let output = console.clone();
        let service = |context| stream_analytics::run_with_output(args, context, output);
        Running {
            service: site::Running::start(service),
            console,
        }
    }

    pub(crate) async fn observe(&self, observation: &ResponseObserve) {
        let value = self.at.value(INPUT, observation).await;
        self.put(&observation.ep, Some(&value), None).await;
    }

    /// A device's value at [`t0`] + `at_ms`.
    pub(crate) async fn reads(&self, ep: &str, path: &str, at_ms: i64, value: f64) {
        self.observe(&observation(
            ep,
            path,
            t0() + at_ms,
            ResourceValue::Double(value),
        ))
        .await;
    }

    pub(crate) async fn put(&self, ep: &str, value: Option<&[u8]>, partition: Option<i32>) {
        let key = self.key(INPUT, ep).await;
        let record = OutRecord {
            topic: INPUT,
            partition,
            key: Some(&key),
            value,
            ..OutRecord::default()
        };
        self.kafka.send(record).await;
    }

    /// Everything on a topic now; nothing where there is no such topic.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        self.kafka.all(topic).await
    }

    pub(crate) async fn maxima(&self, topic: &str) -> Vec<Maximum> {
        let mut keys = self.decoder::<AvroKey>();
        let mut values = self.decoder::<ResponseObserve>();
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
        self.reads(&marker, "/3303/0/5700", 0, 1.0).await;
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

/// The service, and what it prints.
pub(crate) struct Running {
    service: site::Running,
    pub(crate) console: Console,
}

impl Deref for Running {
    type Target = site::Running;

    fn deref(&self) -> &site::Running {
        &self.service
    }
}

impl Running {
    /// As SIGTERM does.
    pub(crate) async fn stop(self) {
        self.service.stop().await;
    }

    /// Drops the service wherever it is.
    pub(crate) async fn kill(self) {
        self.service.kill().await;
    }

    /// Why it ended by itself.
    pub(crate) async fn error(self) -> String {
        self.service.error().await
    }
}
