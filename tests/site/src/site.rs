use std::path::Path;

use ::kafka::{Cluster, KafkaArgs, OutRecord, Record, RecordDecoder, RecordEncoder};
use records::{AvroRecord, SchemaId};
use tempfile::TempDir;
use testkit::{RealKafka, RealKafkaBuilder};

use crate::{Kafka, Registry, Topic};

/// A Kafka cluster and its schema registry, and a folder for what services on them keep.
pub struct Site {
    pub kafka: Kafka,
    pub registry: Registry,
    folder: TempDir,
    encoder: RecordEncoder,
}

impl Site {
    /// The embedded broker and registry, in this process.
    pub async fn start() -> Self {
        let kafka = Kafka::start().await;
        let registry = Registry::start(kafka.bootstrap()).await;
        Self::of(kafka, registry)
    }

    /// The same, not answering yet: first `kafka`, then `registry` come back.
    pub fn away() -> Self {
        let kafka = Kafka::away();
        let registry = Registry::away(kafka.bootstrap());
        Self::of(kafka, registry)
    }

    /// Apache Kafka and Apicurio.
    pub async fn real() -> Self {
        Self::real_with(RealKafka::builder()).await
    }

    /// The same with settings of Kafka's.
    pub async fn real_with(kafka: RealKafkaBuilder) -> Self {
        let (kafka, registry) = tokio::join!(Kafka::apache(kafka), Registry::apicurio());
        Self::of(kafka, registry)
    }

    /// Servers that run already.
    pub fn given(bootstrap: &str, registry_url: &str) -> Self {
        Self::of(Kafka::given(bootstrap), Registry::given(registry_url))
    }

    pub fn of(kafka: Kafka, registry: Registry) -> Self {
        // RUST_LOG=debug shows what services and embedded servers do.
        let _again = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        Self {
            encoder: RecordEncoder::new(registry.client()),
            folder: tempfile::tempdir().unwrap(),
            kafka,
            registry,
        }
    }

    pub fn bootstrap(&self) -> &str {
        self.kafka.bootstrap()
    }

    pub fn registry_url(&self) -> &str {
        self.registry.url()
    }

    /// What a service gets to find them, without TLS.
    pub fn kafka_args(&self) -> KafkaArgs {
        KafkaArgs {
            kafka_bootstrap_server: self.bootstrap().to_owned(),
            kafka_schema_registry_url: self.registry_url().to_owned(),
            kafka_ssl_properties_location: None,
            tls: Default::default(),
        }
    }

    pub fn cluster(&self) -> Cluster {
        self.kafka.cluster()
    }

    /// Goes with the site.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A device's key as it stands in this site's topic.
    pub async fn key(&self, topic: &str, endpoint: &str) -> Vec<u8> {
        self.encoder.key(topic, endpoint).await.unwrap()
    }

    /// A record as it stands in this site's topic, its schema registered for that topic.
    pub async fn value<R: AvroRecord + Sync>(&self, topic: &str, record: &R) -> Vec<u8> {
        self.encoder.value(topic, record).await.unwrap()
    }

    /// Puts a record on a topic. Its schema's subject is its own name, so that a test may put a wrong one there.
    pub async fn produce<R: AvroRecord + Sync>(&self, topic: &str, record: &R) {
        let subject = R::schema().full_name().unwrap_or(topic);
        let registry = self.registry.client();
        let id = registry.register(subject, R::schema().text()).await;
        let framed = record.to_framed(SchemaId(id.unwrap()));
        self.produce_bytes(topic, Some(&framed)).await;
    }

    pub async fn produce_bytes(&self, topic: &str, value: Option<&[u8]>) {
        self.kafka
            .send(OutRecord {
                topic,
                key: Some(b"key"),
                value,
                ..OutRecord::default()
            })
            .await;
    }

    pub async fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        self.kafka.read(topic, count).await
    }

    /// A record as it came from this site.
    pub async fn decode<T: AvroRecord>(&self, framed: &[u8]) -> T {
        self.decoder().decode(framed).await.unwrap()
    }

    pub fn decoder<T: AvroRecord>(&self) -> RecordDecoder<T> {
        RecordDecoder::new(self.registry.client())
    }

    /// A topic from its beginning; made, with one partition, where there is none.
    pub async fn topic<T: AvroRecord>(&self, topic: &str) -> Topic<T> {
        self.kafka.topic(topic, 1, &[]).await;
        Topic::new(self.kafka.open(topic).await, self.decoder())
    }
}
