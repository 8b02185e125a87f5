//! The servers that are not ours, our services, and how an operator speaks with them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{Service, Site, Zeelos};
use kafka::{Cluster, OutRecord, Producer, ProducerSettings};
use serde_json::{Value, json};
use testkit::{Apicurio, InfluxDb1, OrientDb, RealKafka, free_port, wait_for};

use crate::{ASSET_SINK, ENDPOINT, GATEWAY, INFLUXDB_SINK, REQUESTS, SERVER, SOON};

pub(crate) fn topic(name: &str) -> String {
    format!("iot.{GATEWAY}.{name}")
}

/// The servers that are not ours.
pub(crate) struct Parts {
    pub(crate) influxdb: InfluxDb1,
    pub(crate) orientdb: OrientDb,
    pub(crate) cloud: Site,
    pub(crate) edge: Site,
    _running: (RealKafka, RealKafka, Apicurio, Apicurio),
}

impl Parts {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (cloud_kafka, edge_kafka, cloud_registry, edge_registry, influxdb, orientdb) = tokio::try_join!(
            RealKafka::builder().num_partitions(2).start(),
            RealKafka::start(),
            Apicurio::start(),
            Apicurio::start(),
            InfluxDb1::start(),
            OrientDb::start(),
        )?;
        influxdb.create_database("zeelosdb").await?;
        let site = |kafka: &RealKafka, registry: &Apicurio| Site {
            bootstrap: kafka.bootstrap().to_owned(),
            registry: registry.url().to_owned(),
        };
        let parts = Self {
            cloud: site(&cloud_kafka, &cloud_registry),
            edge: site(&edge_kafka, &edge_registry),
            influxdb,
            orientdb,
            _running: (cloud_kafka, edge_kafka, cloud_registry, edge_registry),
        };
        // On purpose: the same id is another schema at the other side, and none of ours gets the same id at both.
        for (site, schemas) in [(&parts.cloud, 3), (&parts.edge, 20)] {
            for number in 0..schemas {
                decoy(site, number).await?;
            }
        }
        Ok(parts)
    }
}

/// A schema that has nothing to do with ours takes an id; each side's differ.
pub(crate) async fn decoy(site: &Site, number: u32) -> anyhow::Result<()> {
    let port = site.bootstrap.rsplit(':').next().unwrap_or_default();
    let schema = json!({
        "type": "record", "name": format!("Decoy{number}of{port}"), "fields": [{"name": "x", "type": "long"}],
    });
    let url = format!("{}/subjects/decoy-{number}/versions", site.registry);
    let body = json!({"schema": schema.to_string()});
    call(client().post(url).json(&body)).await.map(drop)
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client without certificates of its own can be built")
}

pub(crate) async fn call(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?;
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await?;
    ensure!(status.is_success(), "{url} answered {status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{url} answered no JSON: {text}"))
}

/// Our services, each a process of its own.
pub(crate) struct Services {
    pub(crate) server: Service,
    pub(crate) coap: String,
    _others: Vec<Service>,
    pub(crate) influxdb_sink: String,
    pub(crate) asset_sink: String,
}

impl Services {
    pub(crate) async fn start(parts: &Parts) -> anyhow::Result<Self> {
        let (cloud, edge) = (&parts.cloud, &parts.edge);
        let coap = format!("127.0.0.1:{}", free_port());
        let web = format!("127.0.0.1:{}", free_port());
        let kafka_at = |site: &Site| {
            vec![
                "--kafka-bootstrap-server".to_owned(),
                site.bootstrap.clone(),
                "--kafka-schema-registry-url".to_owned(),
                site.registry.clone(),
            ]
        };
        let with = |words: &str, site: &Site| {
            let words = words.split_whitespace().map(str::to_owned);
            words.chain(kafka_at(site)).collect::<Vec<String>>()
        };
        let mirror = |direction: &str, source: &Site, target: &Site| {
            [
                ["--gateway", GATEWAY],
                ["--direction", direction],
                ["--source-bootstrap-server", &source.bootstrap],
                ["--source-schema-registry-url", &source.registry],
                ["--target-bootstrap-server", &target.bootstrap],
                ["--target-schema-registry-url", &target.registry],
            ]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<String>>()
        };
        let analytic = format!("temperature --input-topic {}", topic("observations"));
        let server =
            format!("-n {SERVER} --coap-listen {coap} --web-listen {web} --data-dir store");
        let influxdb_sink = format!("127.0.0.1:{}", free_port());
        let asset_sink = format!("127.0.0.1:{}", free_port());
        let (server, down, up, analytics, influxdb, asset) = tokio::try_join!(
            Service::start("leshan-server-kafka", with(&server, edge)),
            Service::start("mirror", mirror("cloud-to-edge", cloud, edge)),
            Service::start("mirror", mirror("edge-to-cloud", edge, cloud)),
            Service::start("stream-analytics", with(&analytic, edge)),
            Service::start(
                "influxdb-sink",
                with(&format!("--connect-listen {influxdb_sink}"), cloud),
            ),
            Service::start(
                "asset-sink",
                with(&format!("--connect-listen {asset_sink}"), cloud),
            ),
        )?;
        Ok(Self {
            server,
            coap,
            _others: vec![down, up, analytics, influxdb, asset],
            influxdb_sink,
            asset_sink,
        })
    }

    /// Posts the walkthrough's two files, with nothing changed but where things are and OrientDB's password.
    pub(crate) async fn connect(&self, parts: &Parts) -> anyhow::Result<()> {
        let influxdb = INFLUXDB_SINK
            .replace("http://influxdb:8086", parts.influxdb.url())
            .replace("https://schema-registry-cloud:8081", &parts.cloud.registry);
        let orientdb = format!("{}/{}", parts.orientdb.url(), parts.orientdb.database());
        let asset = ASSET_SINK
            .replace("remote:orientdb/zeelosdb", &orientdb)
            .replace("\"secret\"", &format!("\"{}\"", parts.orientdb.password()))
            .replace("https://schema-registry-cloud:8081", &parts.cloud.registry);
        let connectors = [
            (&self.influxdb_sink, "upboard_influxdb_sink", influxdb),
            (&self.asset_sink, "upboard_leshan_asset_sink", asset),
        ];
        for (worker, name, file) in connectors {
            let url = format!("http://{worker}/connectors");
            let post = client()
                .post(&url)
                .header("Content-Type", "application/json")
                .body(file);
            let created = call(post).await?;
            assert_eq!(created["name"], name);
            wait_for(SOON, &format!("{name} to run"), async || {
                let status = call(client().get(format!("{url}/{name}/status"))).await?;
                ensure!(status["connector"]["state"] == "RUNNING", "{status}");
                ensure!(status["tasks"][0]["state"] == "RUNNING", "{status}");
                ensure!(status["type"] == "sink", "{status}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// A line of the walkthrough's, for our device.
pub(crate) fn line(ticket: &str, kind: &str) -> anyhow::Result<String> {
    let wanted = [
        format!("\"ticket\": \"{ticket}\""),
        format!("\"kind\": \"{kind}\""),
    ];
    let line = REQUESTS
        .lines()
        .find(|line| wanted.iter().all(|part| line.contains(part)))
        .with_context(|| format!("the walkthrough has no {kind} with {ticket}"))?;
    Ok(line.replace("\"EP\"", &format!("\"{ENDPOINT}\"")))
}

/// Pastes lines into `zeelos produce` at the cloud.
pub(crate) async fn paste(cloud: &Site, lines: &str) -> anyhow::Result<()> {
    Zeelos::new(&format!("produce --topic {}", topic("management.req")))
        .at(cloud)
        .input(format!("{lines}\n"))
        .succeed()
        .await
        .map(drop)
}

/// `zeelos send` at the cloud: the reply, as JSON.
pub(crate) async fn send(cloud: &Site, operation: &[&str]) -> anyhow::Result<Value> {
    Zeelos::new(&format!("send {GATEWAY} {ENDPOINT}"))
        .args(operation)
        .at(cloud)
        .succeed()
        .await?
        .json()
}

/// Produces bytes as they are.
pub(crate) async fn produce_raw(site: &Site, topic: &str, value: &[u8]) -> anyhow::Result<()> {
    let producer = Producer::new(
        &Cluster::new(&site.bootstrap, None)?,
        &ProducerSettings::default(),
    )?;
    let record = OutRecord {
        topic,
        value: Some(value),
        ..OutRecord::default()
    };
    producer.send(record).await?.await?;
    Ok(())
}

/// The id of the latest schema of a subject.
pub(crate) async fn schema_id(site: &Site, subject: &str) -> anyhow::Result<u64> {
    let url = format!("{}/subjects/{subject}/versions/latest", site.registry);
    let latest = call(client().get(url)).await?;
    latest["id"].as_u64().with_context(|| format!("{latest}"))
}

/// The points of a path in InfluxDB with a field: tags and `[time, field]`, one group per series.
pub(crate) async fn series(
    parts: &Parts,
    field: &str,
    path: &str,
) -> anyhow::Result<Vec<(Value, Vec<Value>)>> {
    let query = format!(
        "SELECT \"{field}\" FROM \"resources\" WHERE \"ep\"='{ENDPOINT}' AND \"path\"='{path}' GROUP BY *"
    );
    let answer = parts.influxdb.query("zeelosdb", &query).await?;
    let series = answer["results"][0]["series"].as_array();
    Ok(series
        .into_iter()
        .flatten()
        .map(|one| {
            let rows = one["values"].as_array().cloned().unwrap_or_default();
            (one["tags"].clone(), rows)
        })
        .collect())
}

/// The tags of the series that has this value.
pub(crate) async fn tags_of_value(parts: &Parts, path: &str, value: f64) -> anyhow::Result<Value> {
    wait_for(SOON, &format!("{path} = {value} in InfluxDB"), async || {
        let all = series(parts, "value", path).await?;
        let found = all
            .iter()
            .find(|(_, rows)| rows.iter().any(|row| row[1].as_f64() == Some(value)));
        let (tags, _) = found.with_context(|| format!("there is {all:?}"))?;
        Ok(tags.clone())
    })
    .await
}

pub(crate) async fn rows(parts: &Parts, sql: &str) -> anyhow::Result<Vec<Value>> {
    let answer = parts.orientdb.command(sql).await?;
    let rows = answer["result"].as_array().cloned();
    rows.with_context(|| format!("{sql}: {answer}"))
}
