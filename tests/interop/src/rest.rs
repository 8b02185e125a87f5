use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::Value;
use testkit::wait_for;

/// The server's REST, in the dialect of Leshan's demo server.
pub struct Rest {
    base: String,
    client: reqwest::Client,
}

/// The longest wait for what a device or the server does.
const PATIENCE: Duration = Duration::from_secs(30);

impl Rest {
    pub fn new(web: &str) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build();
        Self {
            base: format!("http://{web}/api"),
            client: client.unwrap(),
        }
    }

    /// A call with a JSON body, or none where that is null.
    ///
    /// # Errors
    /// When the server answers something else than 200, or no JSON (an empty body is null).
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/{path}", self.base);
        let mut request = self.client.request(method.clone(), &url);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(
            status.is_success(),
            "{method} {path} answered {status}: {text}"
        );
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path} answered {text}"))
    }

    /// # Errors
    /// As [`Rest::call`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// # Errors
    /// As [`Rest::call`].
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PUT, path, body).await
    }

    /// # Errors
    /// As [`Rest::call`].
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body).await
    }

    /// # Errors
    /// As [`Rest::call`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, &Value::Null).await
    }

    /// An execute, whose body is plain text.
    ///
    /// # Errors
    /// As [`Rest::call`].
    pub async fn execute(&self, path: &str, arguments: &str) -> anyhow::Result<Value> {
        let url = format!("{}/clients/{path}", self.base);
        let request = self.client.post(url).header("content-type", "text/plain");
        let answer = request.body(arguments.to_owned()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// What a resource has, read in this format.
    ///
    /// # Errors
    /// As [`Rest::call`], and when the device refuses.
    pub async fn value(&self, path: &str, format: &str) -> anyhow::Result<Value> {
        let answer = self.get(&format!("clients/{path}?format={format}")).await?;
        ensure!(answer["status"] == "CONTENT(205)", "{path}: {answer}");
        Ok(answer["content"]["value"].clone())
    }

    /// The registration of an endpoint, now or soon.
    ///
    /// # Errors
    /// When there is none in half a minute.
    pub async fn registration(&self, endpoint: &str) -> anyhow::Result<Value> {
        let what = format!("{endpoint} to be registered");
        let path = format!("clients/{endpoint}");
        wait_for(PATIENCE, &what, async || self.get(&path).await).await
    }

    /// # Errors
    /// When the endpoint is still registered after half a minute.
    pub async fn gone(&self, endpoint: &str) -> anyhow::Result<()> {
        let what = format!("{endpoint} to be gone");
        wait_for(PATIENCE, &what, async || {
            let all = self.get("clients").await?;
            let all = all.as_array().context("a list")?;
            ensure!(all.iter().all(|client| client["endpoint"] != endpoint));
            Ok(())
        })
        .await
    }
}
