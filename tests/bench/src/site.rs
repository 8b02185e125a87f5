use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use kafka::{Cluster, ensure_topic, list_topics};
use testkit::free_port;

use crate::Service;

/// A gateway as the product has it: broker, schema registry and LwM2M server, a process each.
#[derive(Debug)]
pub struct Gateway {
    /// The LwM2M server.
    pub server: Service,
    kafka: String,
    web: String,
    coap: SocketAddrV4,
    _registry: Service,
    _broker: Service,
}

/// Requests to the REST interface on their way at one time.
const TOGETHER: usize = 32;
const SERVER_ID: &str = "bench";

impl Gateway {
    /// Starts all three, `more` being further options of the server, and makes the server's topics.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub async fn start(program: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let local = || format!("127.0.0.1:{}", free_port());
        let kafka = local();
        let broker = Service::start(
            program,
            "embedded-kafka",
            ["--listen", &kafka, "--data-dir", "data"],
        )
        .await?;
        let registry_at = local();
        let arguments = ["--listen", &registry_at, "--kafka-bootstrap-server", &kafka];
        let registry = Service::start(program, "schema-registry", arguments).await?;
        let cluster = Cluster::new(&kafka, None)?;
        for topic in [
            "registrations",
            "observations",
            "management.req",
            "management.rep",
        ] {
            ensure_topic(&cluster, &format!("iot.{SERVER_ID}.{topic}"), 1, &[]).await?;
        }
        let (coap, web) = (local(), local());
        let url = format!("http://{registry_at}");
        let mut arguments = vec![
            "--server-id",
            SERVER_ID,
            "--coap-listen",
            &coap,
            "--web-listen",
            &web,
            "--data-dir",
            "data",
            "--kafka-bootstrap-server",
            &kafka,
            "--kafka-schema-registry-url",
            &url,
        ];
        arguments.extend(more);
        let server = Service::start(program, "leshan-server-kafka", arguments).await?;
        Ok(Self {
            server,
            coap: coap.parse()?,
            kafka,
            web,
            _registry: registry,
            _broker: broker,
        })
    }

    /// Where devices come to.
    pub fn coap(&self) -> SocketAddrV4 {
        self.coap
    }

    /// Has the server observe a path of the devices `<prefix>0`, `<prefix>1` …, over REST; how many said yes.
    ///
    /// # Errors
    /// When the REST interface does not answer.
    pub async fn observe(&self, path: &str, prefix: &str, count: usize) -> anyhow::Result<u64> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let ask = |device: usize| {
            let url = format!(
                "http://{}/api/clients/{prefix}{device}/{path}/observe",
                self.web
            );
            let asked = client.post(url).timeout(Duration::from_secs(60)).send();
            async move {
                let answer: serde_json::Value = serde_json::from_str(&asked.await?.text().await?)?;
                anyhow::Ok(u64::from(answer["success"] == true))
            }
        };
        let answers: Vec<anyhow::Result<u64>> = futures::stream::iter(0..count)
            .map(ask)
            .buffer_unordered(TOGETHER)
            .collect()
            .await;
        answers.into_iter().sum()
    }

    /// How many records its topics of registrations and of observations hold.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn records(&self) -> anyhow::Result<(u64, u64)> {
        let cluster = Cluster::new(&self.kafka, None)?;
        let topics = list_topics(&cluster, Duration::from_secs(10)).await?;
        let records = |topic: &str| {
            let name = format!("iot.{SERVER_ID}.{topic}");
            let found = topics.iter().find(|summary| summary.name == name);
            let found = found.with_context(|| format!("there is no topic {name}"))?;
            anyhow::Ok(u64::try_from(found.records)?)
        };
        Ok((records("registrations")?, records("observations")?))
    }

    /// Waits until the topics hold so many records, and a moment longer, and fails if there are more or less.
    ///
    /// # Errors
    /// When the counts are not these.
    pub async fn await_records(&self, registrations: u64, observations: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        let wanted = (registrations, observations);
        let mut found = self.records().await?;
        while (found.0 < wanted.0 || found.1 < wanted.1)
            && begun.elapsed() < Duration::from_secs(60)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = self.records().await?;
        }
        ensure!(
            found == wanted,
            "Kafka has {} registration events and {} notifications, {} and {} were acknowledged to devices",
            found.0,
            found.1,
            wanted.0,
            wanted.1
        );
        Ok(())
    }
}
