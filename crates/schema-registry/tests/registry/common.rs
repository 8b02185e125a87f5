use std::sync::atomic::{AtomicU64, Ordering};

use schema_registry::{Args, Registry};
use serde_json::{Value, json};
use service::Context;

pub(crate) const V1: &str = "application/vnd.schemaregistry.v1+json";
/// The fields of the least record.
pub(crate) const INT: &str = r#"{"name":"a","type":"int"}"#;

/// A client of a registry at some base URL.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
}

/// A status and the body, as JSON where it is any.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The error code in the body.
    pub(crate) fn code(&self) -> (u16, u64) {
        (self.status, self.body["error_code"].as_u64().unwrap_or(0))
    }

    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self.body
    }

    pub(crate) fn id(self) -> i64 {
        let body = self.ok();
        body["id"]
            .as_i64()
            .unwrap_or_else(|| panic!("no id in {body}"))
    }
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            http: reqwest::Client::new(),
        }
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, body }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request("POST", path).header("content-type", V1);
        self.send(request.body(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.request("PUT", path).header("content-type", V1);
        self.send(request.body(body.to_string())).await
    }

    pub(crate) async fn register(&self, subject: &str, schema: &str) -> Answer {
        self.post(
            &format!("/subjects/{subject}/versions"),
            &json!({ "schema": schema }),
        )
        .await
    }

    pub(crate) async fn level(&self, subject: &str, level: &str) {
        self.put(
            &format!("/config/{subject}"),
            &json!({ "compatibility": level }),
        )
        .await
        .ok();
    }
}

/// A name that no other test uses.
pub(crate) fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A record schema with a name of its own and fields as given, so that its id is its own too.
pub(crate) fn record(name: &str, fields: &str) -> String {
    let name = name.replace('-', "_");
    format!(r#"{{"type":"record","name":"{name}","fields":[{fields}]}}"#)
}

/// Ours, on a broker and a topic, read to the end.
pub(crate) async fn start(bootstrap: &str, topic: &str) -> Registry {
    let args = Args {
        schemas_topic: topic.to_owned(),
        // Other tests use the machine as well.
        write_timeout_s: 60,
        ..Args::on_free_port(bootstrap)
    };
    let registry = Registry::start(args, Context::detached()).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(60), registry.loaded())
        .await
        .expect("the topic is read");
    registry
}
