use anyhow::Context as _;
use serde_json::Value;

use crate::http::{self, HttpServer};
use crate::process::Launch;
use crate::{Child, RunDir, free_port, packages};

/// VictoriaMetrics, which takes InfluxDB's v2 write API (`/api/v2/write`). It drops fields that are strings.
#[derive(Debug)]
pub struct VictoriaMetrics {
    server: HttpServer,
}

impl VictoriaMetrics {
    pub async fn start() -> anyhow::Result<Self> {
        let program = packages::program(
            "victoria-metrics",
            "victoria-metrics",
            "usr/bin/victoria-metrics",
        )
        .await?;
        let dir = RunDir::new("victoria-metrics")?;
        let port = free_port();
        let launch = Launch::new("VictoriaMetrics", program)
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            .arg(format!(
                "-storageDataPath={}",
                dir.path().join("data").display()
            ))
            // Answers hold what was written just now, and readings of any age are kept.
            .args([
                "-search.latencyOffset=0s",
                "-retentionPeriod=100y",
                "-memory.allowedBytes=128MB",
            ]);
        let url = format!("http://127.0.0.1:{port}");
        let ready = http::client().get(format!("{url}/health"));
        Ok(Self {
            server: HttpServer::start(launch, dir, url, ready).await?,
        })
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// All series that a selector matches, with all their values: `{"metric": {…}, "values": […], "timestamps": […]}`.
    pub async fn export(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        // What was written becomes visible after a second, or now when asked.
        http::text(
            self.server
                .client()
                .get(format!("{}/internal/force_flush", self.url())),
        )
        .await?;
        let request = self
            .server
            .client()
            .get(format!("{}/api/v1/export", self.url()))
            .query(&[("match[]", selector), ("start", "0")]);
        let text = http::text(request).await?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// The process, to pause it or to read its log.
    pub fn process(&mut self) -> &mut Child {
        self.server.process()
    }

    /// Kills it; what it had not yet flushed (up to some seconds) is lost.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again on the same port and data.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}
