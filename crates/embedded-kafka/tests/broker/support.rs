//! Brokers and clients for the stories.

use std::{collections::BTreeSet, path::PathBuf, sync::OnceLock, time::Duration};

use embedded_kafka::{Broker, BrokerConfig};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::AdminClient,
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};
use tempfile::TempDir;
use testkit::RealKafka;
use tokio::sync::Mutex;

/// Longest wait for anything: generous, as machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Our broker in a directory of its own.
pub(crate) struct Embedded {
    broker: Broker,
    dir: TempDir,
}

impl Embedded {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        Self::start_in(TempDir::new().unwrap(), change).await
    }

    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut config = BrokerConfig::new("127.0.0.1:0".parse().unwrap(), dir.path());
        change(&mut config);
        Self {
            broker: Broker::start(config).await.unwrap(),
            dir,
        }
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.broker.local_addr().to_string()
    }

    pub(crate) fn cluster_id(&self) -> &str {
        self.broker.cluster_id()
    }

    pub(crate) fn partition_dir(&self, topic: &str, partition: i32) -> PathBuf {
        self.dir
            .path()
            .join("topics")
            .join(format!("{topic}-{partition}"))
    }

    /// Stops it in order; gives its directory.
    pub(crate) async fn stop(self) -> TempDir {
        self.broker.shutdown().await;
        self.dir
    }
}

/// The bootstrap address of one Apache Kafka that all stories of this process share.
pub(crate) async fn apache() -> String {
    apache_kafka().await.0.clone()
}

/// Apache Kafka, its tools included; it is started by the first story that asks.
pub(crate) async fn apache_kafka() -> &'static (String, RealKafka) {
    static SHARED: OnceLock<(String, RealKafka)> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::const_new(());
    let _starting = STARTING.lock().await;
    if let Some(shared) = SHARED.get() {
        return shared;
    }
    // On its own runtime, so that it outlives the test that started it.
    let started = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let kafka = runtime.block_on(
            RealKafka::builder()
                .property("group.initial.rebalance.delay.ms", "0")
                .start(),
        );
        std::mem::forget(runtime);
        kafka.unwrap()
    });
    let kafka = started.join().unwrap();
    SHARED.get_or_init(|| (kafka.bootstrap().to_owned(), kafka))
}

/// A name no other story uses.
pub(crate) fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{what}.{}.{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("allow.auto.create.topics", "true");
    // A topic that is being made is asked for again at once.
    config
        .set("topic.metadata.refresh.fast.interval.ms", "50")
        .set("retry.backoff.ms", "50");
    config
}

pub(crate) fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    client(bootstrap).create().unwrap()
}

pub(crate) fn producer(bootstrap: &str) -> FutureProducer {
    client(bootstrap)
        .set("linger.ms", "5")
        .set("message.timeout.ms", "60000")
        .create()
        .unwrap()
}

/// Produces one value; gives its offset.
pub(crate) async fn produce(
    producer: &FutureProducer,
    topic: &str,
    partition: i32,
    value: &str,
) -> i64 {
    let record = FutureRecord::<str, str>::to(topic)
        .partition(partition)
        .payload(value);
    producer
        .send(record, PATIENCE)
        .await
        .map_err(|(error, _)| error)
        .unwrap()
        .offset
}

/// A consumer that reads one partition from an offset on.
pub(crate) fn reader(bootstrap: &str, topic: &str, partition: i32, from: i64) -> StreamConsumer {
    let consumer: StreamConsumer = client(bootstrap)
        .set("group.id", unique("reader"))
        .create()
        .unwrap();
    let mut place = TopicPartitionList::new();
    place
        .add_partition_offset(topic, partition, Offset::Offset(from))
        .unwrap();
    consumer.assign(&place).unwrap();
    consumer
}

/// The next `count` values as text, in order.
pub(crate) async fn take(consumer: &StreamConsumer, count: usize) -> Vec<String> {
    use rdkafka::{error::KafkaError::MessageConsumption, types::RDKafkaErrorCode};
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let next = tokio::time::timeout(PATIENCE, consumer.recv()).await;
        let record = match next.expect("no record came") {
            // A broker that restarts is told of, and come back to.
            Err(MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )) => continue,
            record => record.unwrap(),
        };
        values.push(String::from_utf8(record.payload().unwrap_or_default().to_vec()).unwrap());
    }
    values
}

/// First offset and end of a partition.
pub(crate) async fn watermarks(bootstrap: &str, topic: &str, partition: i32) -> (i64, i64) {
    let consumer: BaseConsumer = client(bootstrap)
        .set("group.id", "watermarks")
        .create()
        .unwrap();
    let topic = topic.to_owned();
    let asked =
        tokio::task::spawn_blocking(move || consumer.fetch_watermarks(&topic, partition, PATIENCE));
    asked.await.unwrap().unwrap()
}

/// Waits until `check` holds.
pub(crate) async fn until<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The partitions a consumer has now.
pub(crate) fn assigned(consumer: &StreamConsumer) -> BTreeSet<i32> {
    consumer
        .assignment()
        .unwrap()
        .elements()
        .iter()
        .map(|element| element.partition())
        .collect()
}

pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64
}
