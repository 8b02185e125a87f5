//! A site to test against: an embedded broker and registry, and the sink with its REST.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use connect::ConnectArgs;
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, KafkaArgs, OutRecord, Producer, ProducerSettings, Record, SchemaRegistry, StartAt,
    TopicReader,
};
use records::{
    AvroLink, AvroRecord, Bnd, RegistrationDelete, RegistrationNew, RegistrationResponse,
    RegistrationUpdate, SchemaId,
};
use schema_registry::Registry;
use serde_json::{Value, json};
use service::Context;
use tempfile::TempDir;
use tokio::task::JoinHandle;

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

    pub fn args(&self, connectors: &[PathBuf]) -> asset_sink::Args {
        asset_sink::Args {
            connect: ConnectArgs {
                kafka: KafkaArgs {
                    kafka_bootstrap_server: self.bootstrap.clone(),
                    kafka_schema_registry_url: self.registry_url.clone(),
                    kafka_ssl_properties_location: None,
                },
                connect_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                connector: connectors.to_vec(),
                connect_config_topic: None,
                connect_worker_id: None,
            },
            graph_url: None,
            graph_user: None,
            graph_password: None,
        }
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
    pub async fn start(args: asset_sink::Args) -> anyhow::Result<Self> {
        let context = Context::detached();
        let server = asset_sink::bind(&args, &context).await?;
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
        let mut config = json!({
            "connector.class": "io.zeelos.leshan.kafka.connect.sink.asset.LeshanSinkAssetConnector",
            "topics": REGISTRATIONS,
            "tinkerpop3.retry.interval": "200",
        });
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

pub const REGISTRATIONS: &str = "iot.demo.registrations";

fn links(urls: &[&str]) -> Vec<AvroLink> {
    let link = |url: &&str| AvroLink {
        url: (*url).to_owned(),
        at: BTreeMap::new(),
    };
    urls.iter().map(link).collect()
}

pub fn registered(server: &str, ep: &str, at: i64, urls: &[&str]) -> RegistrationResponse {
    RegistrationResponse::New(RegistrationNew {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        reg_date: at,
        address: "10.0.0.7".to_owned(),
        port: 40_000,
        reg_addr: "0.0.0.0".to_owned(),
        reg_port: 5683,
        lt: 300,
        sms: None,
        ver: "1.0".to_owned(),
        bnd: Bnd::U,
        reg_id: format!("reg-{at}"),
        links: links(urls),
        attributes: None,
        root: "/".to_owned(),
        last_up: at,
    })
}

pub fn updated(server: &str, ep: &str, at: i64, urls: Option<&[&str]>) -> RegistrationResponse {
    RegistrationResponse::Update(RegistrationUpdate {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        reg_id: "reg".to_owned(),
        address: "10.0.0.8".to_owned(),
        port: 40_001,
        lt: None,
        sms: Some("+491234".to_owned()),
        bnd: None,
        links: urls.map(links),
        attributes: Some(BTreeMap::from([
            ("b".to_owned(), "UQ".to_owned()),
            ("@class".to_owned(), "V".to_owned()),
        ])),
        last_up: at,
    })
}

pub fn deleted(server: &str, ep: &str, at: i64, expired: bool) -> RegistrationResponse {
    RegistrationResponse::Delete(RegistrationDelete {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        expired,
        last_up: at,
    })
}
