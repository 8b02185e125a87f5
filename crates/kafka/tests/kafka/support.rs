use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, ConsumeSettings, OutRecord, Process, ProcessError, Producer, ProducerSettings, Record,
    StartAt, TopicReader, consume,
};
use parking_lot::Mutex;
use service::{CancellationToken, Health};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for anything: generous, as machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Kafka {
    broker: Option<Broker>,
    dir: TempDir,
    listen: SocketAddr,
}

impl Kafka {
    pub(crate) async fn start() -> Self {
        let mut kafka = Self::away();
        kafka.come_back().await;
        kafka
    }

    /// One that does not answer yet.
    pub(crate) fn away() -> Self {
        Self {
            broker: None,
            dir: TempDir::new().unwrap(),
            listen: SocketAddr::from(([127, 0, 0, 1], testkit::free_port())),
        }
    }

    pub(crate) async fn go_away(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    pub(crate) async fn come_back(&mut self) {
        let start = async || {
            let config = BrokerConfig::new(self.listen, self.dir.path());
            Ok(Broker::start(config).await?)
        };
        let broker = testkit::wait_for(PATIENCE, "the port to be free", start).await;
        self.broker = Some(broker.unwrap());
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.listen.to_string()
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap(), None).unwrap()
    }

    pub(crate) fn producer(&self) -> Producer {
        Producer::new(&self.cluster(), &ProducerSettings::default()).unwrap()
    }

    pub(crate) async fn topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        kafka::ensure_topic(&self.cluster(), name, partitions, config)
            .await
            .unwrap();
    }

    pub(crate) async fn put(&self, topic: &str, partition: i32, values: &[&str]) {
        let producer = self.producer();
        for value in values {
            let record = OutRecord {
                topic,
                partition: Some(partition),
                value: Some(value.as_bytes()),
                ..OutRecord::default()
            };
            producer.send(record).await.unwrap().await.unwrap();
        }
    }

    /// So many records of a topic, from its start.
    pub(crate) async fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        let cluster = self.cluster();
        let open = async || TopicReader::open(&cluster, topic, StartAt::Beginning).await;
        let mut reader = testkit::wait_for(PATIENCE, topic, open).await.unwrap();
        let mut records = Vec::new();
        while records.len() < count {
            records.push(
                timeout(PATIENCE, reader.next())
                    .await
                    .expect("one more record"),
            );
        }
        records
    }
}

/// What one member of a group did, as it told by and by.
pub(crate) type Told = Arc<Mutex<Vec<Vec<String>>>>;

/// A running [`consume`] that tells each batch it is offered, then does as it is told.
pub(crate) struct Member {
    pub(crate) told: Told,
    pub(crate) health: Health,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) struct Tell<F> {
    pub(crate) told: Told,
    pub(crate) then: F,
}

impl<F, Fut> Process for Tell<F>
where
    F: FnMut(Vec<Record>) -> Fut + Send,
    Fut: Future<Output = Result<(), ProcessError>> + Send,
{
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        self.told.lock().push(batch.iter().map(text).collect());
        (self.then)(batch.to_vec()).await
    }
}

/// `partition:value`
pub(crate) fn text(record: &Record) -> String {
    let value = record.value.as_deref().unwrap_or_default();
    format!("{}:{}", record.partition, String::from_utf8_lossy(value))
}

/// A group and its topics, noticing lost members soon.
pub(crate) fn settings(group: &str, topics: &[&str]) -> ConsumeSettings {
    let mut settings = ConsumeSettings::new(group, topics.iter().map(|&t| t.to_owned()).collect());
    settings.retry_first = Duration::from_millis(100);
    settings.retry_longest = Duration::from_millis(200);
    for (key, value) in [
        ("session.timeout.ms", "2000"),
        ("heartbeat.interval.ms", "300"),
    ] {
        settings.properties.push((key.to_owned(), value.to_owned()));
    }
    settings
}

impl Member {
    pub(crate) fn start<F, Fut>(kafka: &Kafka, settings: ConsumeSettings, then: F) -> Self
    where
        F: FnMut(Vec<Record>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), ProcessError>> + Send + 'static,
    {
        let told = Told::default();
        let (stop, health) = (CancellationToken::new(), Health::default());
        health.set_ready();
        let mut process = Tell {
            told: Arc::clone(&told),
            then,
        };
        let (cluster, condition, token) = (kafka.cluster(), health.condition("flow"), stop.clone());
        let task = tokio::spawn(async move {
            consume(&cluster, &settings, &mut process, &condition, &token).await
        });
        Self {
            told,
            health,
            stop,
            task,
        }
    }

    /// One that takes whatever comes.
    pub(crate) fn content(kafka: &Kafka, settings: ConsumeSettings) -> Self {
        Self::start(kafka, settings, |_| async { Ok(()) })
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.told.lock().concat()
    }

    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&[Vec<String>]) -> bool) {
        let look = async || {
            let told = self.told.lock();
            anyhow::ensure!(enough(&told), "{told:?}");
            Ok(())
        };
        testkit::wait_for(PATIENCE, what, look).await.unwrap();
    }

    pub(crate) async fn has(&self, value: &str) {
        self.until(value, |told| {
            told.iter().flatten().any(|text| text == value)
        })
        .await;
    }

    pub(crate) async fn condition(&self, fails: bool) -> String {
        let look = async || {
            let failing = self.health.failing();
            anyhow::ensure!(failing.contains_key("flow") == fails, "{failing:?}");
            Ok(failing.get("flow").cloned().unwrap_or_default())
        };
        testkit::wait_for(PATIENCE, "the condition to change", look)
            .await
            .unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .unwrap()
    }
}
