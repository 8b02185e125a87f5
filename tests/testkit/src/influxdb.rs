use std::fs;

use anyhow::bail;
use serde_json::Value;

use crate::http::{self, HttpServer};
use crate::process::Launch;
use crate::{Child, RunDir, free_port, packages};

/// InfluxDB 1.6, the v1 API only (`/write`, `/query`), without users.
#[derive(Debug)]
pub struct InfluxDb1 {
    server: HttpServer,
}

impl InfluxDb1 {
    /// An empty server: databases are made with [`InfluxDb1::create_database`].
    pub async fn start() -> anyhow::Result<Self> {
        let influxd = packages::program("influxd", "influxdb", "usr/bin/influxd").await?;
        let dir = RunDir::new("influxdb")?;
        let (port, backup_port) = (free_port(), free_port());
        let data = dir.path().display();
        let config = dir.path().join("influxdb.conf");
        fs::write(
            &config,
            format!(
                "reporting-disabled = true\nbind-address = \"127.0.0.1:{backup_port}\"\n\
                 [meta]\ndir = \"{data}/meta\"\n[data]\ndir = \"{data}/data\"\nwal-dir = \"{data}/wal\"\n\
                 [monitor]\nstore-enabled = false\n[http]\nbind-address = \"127.0.0.1:{port}\"\n"
            ),
        )?;
        let launch = Launch::new("InfluxDB", influxd)
            .arg("run")
            .arg("-config")
            .arg(&config);
        let url = format!("http://127.0.0.1:{port}");
        let ready = http::client().get(format!("{url}/ping"));
        Ok(Self {
            server: HttpServer::start(launch, dir, url, ready).await?,
        })
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.query("", &format!("CREATE DATABASE \"{name}\""))
            .await
            .map(drop)
    }

    /// The answer to an InfluxQL query, times in milliseconds. An error inside the answer is an error.
    pub async fn query(&self, database: &str, query: &str) -> anyhow::Result<Value> {
        // POST, since a query that changes something may not be a GET.
        let request = self
            .server
            .client()
            .post(format!("{}/query", self.url()))
            .query(&[("db", database), ("q", query), ("epoch", "ms")]);
        let answer = http::json(request).await?;
        for result in answer["results"].as_array().into_iter().flatten() {
            if let Some(error) = result.get("error") {
                bail!("InfluxDB refused `{query}`: {error}");
            }
        }
        Ok(answer)
    }

    /// The process, to pause it or to read its log.
    pub fn process(&mut self) -> &mut Child {
        self.server.process()
    }

    /// Kills it; its data stays.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again on the same port and data.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}
