//! A site to test a sink against: an embedded broker and registry, and the sink with its REST. Each sink's tests take
//! this in by path, and say beside it which sink it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use connect::ConnectArgs;
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, KafkaArgs, OutRecord, Producer, ProducerSettings, Record, SchemaRegistry, StartAt,
    TopicReader,
};
use records::{AvroRecord, SchemaId};
use schema_registry::Registry;
use serde_json::{Value, json};
use service::Context;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{Args, bind, sink_args, usual_config};

pub use testkit::wait_for;

pub const SOON: Duration = Duration::from_secs(30);

pub struct Site {
    pub folder: TempDir,
    pub cluster: Cluster,
    pub registry_url: String,
    bootstrap: String,
    producer: Producer,
    registry: SchemaRegistry,
    _broker: Broker,
    _registry: Registry,
}

impl Site {
    pub async fn start() -> anyhow::Result<Self> {
        // RUST_LOG=debug shows what the sink and the broker do.
        let _again = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir()?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let broker = Broker::start(BrokerConfig::new(any, folder.path().join("broker"))).await?;
        let bootstrap = broker.local_addr().to_string();
        let args = schema_registry::Args::on_free_port(&bootstrap);
        let registry_server = Registry::start(args, Context::detached()).await?;
        registry_server.loaded().await;
        let registry_url = registry_server.url();
        let cluster = Cluster::new(&bootstrap, None)?;
        Ok(Self {
            folder,
            registry: SchemaRegistry::new(&registry_url)?,
            producer: Producer::new(&cluster, &ProducerSettings::default())?,
            cluster,
            registry_url,
            bootstrap,
            _broker: broker,
            _registry: registry_server,
        })
    }

    pub async fn produce<R: AvroRecord>(&self, topic: &str, record: &R) -> anyhow::Result<()> {
        // One subject for each kind of record, so that a test may put a wrong one on a topic.
        let subject = R::schema().full_name().unwrap_or(topic);
        let id = self.registry.register(subject, R::schema().text()).await?;
        self.produce_bytes(topic, Some(&record.to_framed(SchemaId(id))))
            .await
    }

    pub async fn produce_bytes(&self, topic: &str, value: Option<&[u8]>) -> anyhow::Result<()> {
        let record = OutRecord {
            topic,
            key: Some(b"key"),
            value,
            ..OutRecord::default()
        };
        self.producer.send(record).await?.await?;
        Ok(())
    }

    /// The first `count` records of a topic.
    pub async fn read(&self, topic: &str, count: usize) -> anyhow::Result<Vec<Record>> {
        let mut reader = wait_for(SOON, topic, async || {
            TopicReader::open(&self.cluster, topic, StartAt::Beginning).await
        })
        .await?;
        let mut records = Vec::new();
        while records.len() < count {
            records.push(tokio::time::timeout(SOON, reader.next()).await?);
        }
        Ok(records)
    }

    pub fn args(&self, connectors: &[PathBuf]) -> Args {
        sink_args(ConnectArgs {
            kafka: KafkaArgs {
                kafka_bootstrap_server: self.bootstrap.clone(),
                kafka_schema_registry_url: self.registry_url.clone(),
                kafka_ssl_properties_location: None,
            },
            connect_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            connector: connectors.to_vec(),
            connect_config_topic: None,
            connect_worker_id: None,
        })
    }

    pub async fn sink(&self) -> anyhow::Result<Sink> {
        Sink::start(self.args(&[])).await
    }
}

/// The sink as a service, and calls to its REST.
pub struct Sink {
    pub url: String,
    pub context: Context,
    client: reqwest::Client,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Sink {
    pub async fn start(args: Args) -> anyhow::Result<Self> {
        let context = Context::detached();
        let server = bind(&args, &context).await?;
        let url = format!("http://{}", server.address());
        let running = tokio::spawn(server.run(context.clone()));
        let sink = Self {
            url,
            context,
            client: reqwest::Client::new(),
            running,
        };
        wait_for(SOON, "the worker", async || {
            let (status, body) = sink.get("/connectors").await?;
            anyhow::ensure!(status == 200, "{status} {body}");
            Ok(())
        })
        .await?;
        Ok(sink)
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.cancel();
        self.running.await?
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.get(format!("{}{path}", self.url)))
            .await
    }

    pub async fn post(&self, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let request = self.client.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        self.call(request.body(body.to_owned())).await
    }

    pub async fn put(&self, path: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let request = self.client.put(format!("{}{path}", self.url));
        self.call(request.body(body.to_owned())).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.call(self.client.delete(format!("{}{path}", self.url)))
            .await
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        };
        Ok((status, body))
    }

    /// Creates a connector for the gateway `demo` with these keys besides.
    pub async fn create(&self, name: &str, keys: &Value) -> anyhow::Result<()> {
        let mut config = usual_config();
        for (key, value) in keys.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let body = json!({ "name": name, "config": config }).to_string();
        let (status, answer) = self.post("/connectors", &body).await?;
        anyhow::ensure!(status == 201, "{status} {answer}");
        Ok(())
    }

    /// Waits until the connector's first task is in a state, and returns its trace.
    pub async fn wait_task(&self, name: &str, state: &str) -> anyhow::Result<Option<String>> {
        wait_for(SOON, state, async || {
            let (_, answer) = self.get(&format!("/connectors/{name}/status")).await?;
            let task = &answer["tasks"][0];
            anyhow::ensure!(task["state"] == state, "{answer}");
            Ok(task["trace"].as_str().map(str::to_owned))
        })
        .await
    }
}
