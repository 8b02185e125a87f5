use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::ensure;
use connect::{ConnectArgs, Server};
use serde_json::{Value, json};
use service::Context;
use service::auth::AuthArgs;
use testkit::wait_for;

use crate::{PATIENCE, Running, Site};

/// A sink as a service, and calls to its Connect REST.
pub struct Connectors {
    pub url: String,
    client: reqwest::Client,
    running: Running,
    usual_config: Value,
}

impl Connectors {
    /// Arguments of a worker at this site on a free port, with these connectors from the start.
    pub fn args(site: &Site, connectors: &[PathBuf]) -> ConnectArgs {
        ConnectArgs {
            auth: AuthArgs::default(),
            kafka: site.kafka_args(),
            connect_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            connector: connectors.to_vec(),
            connect_config_topic: None,
            connect_worker_id: None,
        }
    }

    /// Runs a bound worker and waits until it answers; `usual_config` is what [`Connectors::create`] begins with.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start(
        server: Server,
        context: Context,
        usual_config: Value,
    ) -> anyhow::Result<Self> {
        let connectors = Self {
            url: format!("http://{}", server.address()),
            client: reqwest::Client::new(),
            running: Running::with(context.clone(), server.run(context)),
            usual_config,
        };
        wait_for(PATIENCE, "the worker", async || {
            let (status, body) = connectors.get("/connectors").await?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })
        .await?;
        Ok(connectors)
    }

    pub fn context(&self) -> &Context {
        &self.running.context
    }

    pub async fn stop(self) {
        self.running.stop().await;
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

    /// Creates a connector with these keys besides the usual ones.
    pub async fn create(&self, name: &str, keys: &Value) -> anyhow::Result<()> {
        let mut config = self.usual_config.clone();
        for (key, value) in keys.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let body = json!({ "name": name, "config": config }).to_string();
        let (status, answer) = self.post("/connectors", &body).await?;
        ensure!(status == 201, "{status} {answer}");
        Ok(())
    }

    /// Waits until the connector's first task is in a state, and returns its trace.
    pub async fn wait_task(&self, name: &str, state: &str) -> anyhow::Result<Option<String>> {
        wait_for(PATIENCE, state, async || {
            let (_, answer) = self.get(&format!("/connectors/{name}/status")).await?;
            let task = &answer["tasks"][0];
            ensure!(task["state"] == state, "{answer}");
            Ok(task["trace"].as_str().map(str::to_owned))
        })
        .await
    }
}
