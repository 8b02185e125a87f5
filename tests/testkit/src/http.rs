use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::process::{Child, Launch};
use crate::{RunDir, process};

/// A start on a busy machine of two cores takes up to 30 s.
const START: Duration = Duration::from_secs(120);

/// A running server that is ready when it answers an HTTP request with 2xx.
#[derive(Debug)]
pub(crate) struct HttpServer {
    // Ends before its directory goes.
    child: process::Child,
    launch: Launch,
    url: String,
    ready: reqwest::Request,
    client: reqwest::Client,
    dir: RunDir,
}

impl HttpServer {
    /// Starts `launch` with `dir` for its data; `url` is what callers get, `ready` is asked until it succeeds.
    pub(crate) async fn start(
        launch: Launch,
        dir: RunDir,
        url: String,
        ready: reqwest::RequestBuilder,
    ) -> anyhow::Result<Self> {
        let (client, ready) = ready.build_split();
        let ready = ready?;
        let child = spawn(&launch, &dir, &client, &ready).await?;
        Ok(Self {
            child,
            launch,
            url,
            ready,
            client,
            dir,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill();
    }

    /// Like [`HttpServer::stop`], but by SIGTERM, for servers that do not bear a power cut.
    pub(crate) async fn stop_in_order(&mut self) -> anyhow::Result<()> {
        if self.child.exited()?.is_none() {
            self.child.terminate(Duration::from_secs(60)).await?;
        }
        Ok(())
    }

    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill();
        self.child = spawn(&self.launch, &self.dir, &self.client, &self.ready).await?;
        Ok(())
    }

    /// The process, to end it in another way than by dropping, and its directory, which must outlive it.
    pub(crate) fn into_parts(self) -> (Child, RunDir) {
        (self.child, self.dir)
    }
}

async fn spawn(
    launch: &Launch,
    dir: &RunDir,
    client: &reqwest::Client,
    ready: &reqwest::Request,
) -> anyhow::Result<Child> {
    let mut child = launch.spawn(&dir.path().join("server.log"))?;
    child
        .ready(START, async || {
            let request = ready
                .try_clone()
                .expect("a request without a streamed body");
            client.execute(request).await?.error_for_status()?;
            Ok(())
        })
        .await?;
    Ok(child)
}

/// A client for the servers' own APIs: no proxy, no keep-alive, since servers here come and go on the same ports.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client without certificates of its own can be built")
}

/// Sends a request and reads JSON; another status than 2xx is an error that holds the body.
pub(crate) async fn json(request: reqwest::RequestBuilder) -> anyhow::Result<serde_json::Value> {
    let text = text(request).await?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Sends a request and reads text; another status than 2xx is an error that holds the body.
pub(crate) async fn text(request: reqwest::RequestBuilder) -> anyhow::Result<String> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    let text = response.text().await?;
    if !status.is_success() {
        bail!("{url} answered {status}: {text}");
    }
    Ok(text)
}
