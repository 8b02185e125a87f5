use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use ::kafka::{
    Cluster, LookAt, OutRecord, Producer, ProducerSettings, Record, StartAt, TopicReader,
    read_to_end,
};
use anyhow::{Context as _, ensure};
use embedded_kafka::{Broker, BrokerConfig};
use tempfile::TempDir;
use testkit::{RealKafka, RealKafkaBuilder, free_port, wait_for};
use tokio::time::{Instant, timeout};

use crate::PATIENCE;

/// A topic from which nothing came for so long is read to its end.
const QUIET: Duration = Duration::from_millis(150);

/// A Kafka cluster that may go away and come back where it was, and a client of it.
pub struct Kafka {
    bootstrap: String,
    server: Server,
    producer: OnceLock<Producer>,
}

enum Server {
    Embedded(Option<Broker>, TempDir),
    Apache(Box<RealKafka>),
    /// Somebody else's.
    Given,
}

impl Kafka {
    /// The embedded broker in this process, with nothing in it.
    pub async fn start() -> Self {
        let mut kafka = Self::away();
        kafka.come_back().await;
        kafka
    }

    /// The embedded broker, not answering yet.
    pub fn away() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let server = Server::Embedded(None, tempfile::tempdir().unwrap());
        Self::new(listen.to_string(), server)
    }

    /// Apache Kafka, in a process of its own.
    pub async fn apache(builder: RealKafkaBuilder) -> Self {
        let kafka = builder.start().await.unwrap();
        Self::new(
            kafka.bootstrap().to_owned(),
            Server::Apache(Box::new(kafka)),
        )
    }

    /// One that runs already, and that this does not stop.
    pub fn given(bootstrap: &str) -> Self {
        Self::new(bootstrap.to_owned(), Server::Given)
    }

    fn new(bootstrap: String, server: Server) -> Self {
        Self {
            bootstrap,
            server,
            producer: OnceLock::new(),
        }
    }

    /// Takes it away: Apache Kafka as a power cut would, ours in order.
    pub async fn go_away(&mut self) {
        match &mut self.server {
            Server::Embedded(broker, _) => broker.take().unwrap().shutdown().await,
            Server::Apache(kafka) => kafka.stop(),
            Server::Given => panic!("{} belongs to somebody else", self.bootstrap),
        }
    }

    /// Starts it again with what it had.
    pub async fn come_back(&mut self) {
        match &mut self.server {
            Server::Embedded(broker, dir) => {
                let listen: SocketAddr = self.bootstrap.parse().unwrap();
                let start = async || {
                    let config = BrokerConfig::new(listen, dir.path());
                    Ok(Broker::start(config).await?)
                };
                let started = wait_for(PATIENCE, "the port to be free", start).await;
                *broker = Some(started.unwrap());
            }
            Server::Apache(kafka) => kafka.restart().await.unwrap(),
            Server::Given => panic!("{} belongs to somebody else", self.bootstrap),
        }
    }

    /// `host:port`
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap, None).unwrap()
    }

    /// A producer of its own, with the usual settings.
    pub fn producer(&self) -> Producer {
        Producer::new(&self.cluster(), &ProducerSettings::default()).unwrap()
    }

    pub async fn topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        ::kafka::ensure_topic(&self.cluster(), name, partitions, config)
            .await
            .unwrap();
    }

    pub async fn has_topic(&self, topic: &str) -> bool {
        let topics = ::kafka::list_topics(&self.cluster(), PATIENCE)
            .await
            .unwrap();
        topics.iter().any(|known| known.name == topic)
    }

    /// Partition and offset it got.
    pub async fn send(&self, record: OutRecord<'_>) -> (i32, i64) {
        let producer = self.producer.get_or_init(|| self.producer());
        producer.send(record).await.unwrap().await.unwrap()
    }

    /// Sends them all before it waits for the first: they come in batches.
    pub async fn send_all(&self, records: &[OutRecord<'_>]) {
        let producer = self.producer.get_or_init(|| self.producer());
        let mut sent = Vec::new();
        for record in records {
            sent.push(producer.send(record.clone()).await.unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap();
        }
    }

    /// Texts without a key, to one partition.
    pub async fn put(&self, topic: &str, partition: i32, values: &[&str]) {
        for value in values {
            self.send(OutRecord {
                topic,
                partition: Some(partition),
                value: Some(value.as_bytes()),
                ..OutRecord::default()
            })
            .await;
        }
    }

    /// A reader of a topic from its beginning, once there is such a topic.
    pub async fn open(&self, topic: &str) -> TopicReader {
        let cluster = self.cluster();
        let open = async || TopicReader::open(&cluster, topic, StartAt::Beginning).await;
        wait_for(PATIENCE, topic, open).await.unwrap()
    }

    /// The first records of a topic, so many, once they are there.
    pub async fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        let mut reader = self.open(topic).await;
        let mut records = Vec::new();
        while records.len() < count {
            let next = timeout(PATIENCE, reader.next()).await;
            records.push(next.unwrap_or_else(|_| {
                panic!("'{topic}' has {} records, not {count}", records.len())
            }));
        }
        records
    }

    /// What a topic holds once that is enough and nothing more comes for a moment; in order per partition.
    pub async fn read_until(&self, topic: &str, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let end = Instant::now() + PATIENCE;
        let mut reader = self.open(topic).await;
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

    /// Every committed record on a topic now, in order per partition; nothing where there is no such topic.
    pub async fn all(&self, topic: &str) -> Vec<Record> {
        let all = read_to_end(&self.cluster(), topic, &HashMap::new(), All::default()).await;
        all.map_err(|(_, error)| error).unwrap().0
    }

    /// Waits until a record of the topic is as wanted.
    pub async fn until(&self, topic: &str, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut reader = self.open(topic).await;
        let look = async {
            loop {
                let record = reader.next().await;
                if wanted(&record) {
                    return record;
                }
            }
        };
        let found = timeout(PATIENCE, look).await;
        found
            .with_context(|| format!("no {what} on '{topic}'"))
            .unwrap()
    }

    /// Kafka's own log and process, where this is Apache Kafka.
    ///
    /// # Errors
    /// When it is not.
    pub fn real(&mut self) -> anyhow::Result<&mut RealKafka> {
        let is_real = matches!(self.server, Server::Apache(_));
        ensure!(is_real, "{} is not Apache Kafka", self.bootstrap);
        match &mut self.server {
            Server::Apache(kafka) => Ok(kafka),
            Server::Embedded(..) | Server::Given => unreachable!("looked at just before"),
        }
    }
}

#[derive(Clone, Default)]
struct All(Vec<Record>);

impl LookAt for All {
    fn look(&mut self, record: &Record) {
        self.0.push(record.clone());
    }
}
