//! A running server, and how its interface is spoken with.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use reqwest::{Client, Method, RequestBuilder, header};
use serde_json::Value as Json;
use service::{CancellationToken, Context};
use tempfile::TempDir;
use testkit::{free_port, wait_for};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::device::Device;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
#[command(args_override_self = true)]
struct Program {
    #[command(flatten)]
    args: leshan_kafka::Args,
}

/// A running server.
pub(crate) struct Gateway {
    pub(crate) coap: SocketAddr,
    pub(crate) url: String,
    pub(crate) http: Client,
    pub(crate) shutdown: CancellationToken,
    pub(crate) ended: oneshot::Receiver<anyhow::Result<()>>,
    args: leshan_kafka::Args,
    _data: TempDir,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let gateway = Self::start_with(&[]).await;
        wait_for(PATIENCE, "the server", || async {
            anyhow::ensure!(gateway.get("/api/clients").await.0 == 200);
            Ok(())
        })
        .await
        .unwrap();
        gateway
    }

    /// Why a server with these options does not start.
    pub(crate) async fn refused(options: &[String]) -> String {
        let mut gateway = Self::launch(options);
        let ended = tokio::time::timeout(PATIENCE, &mut gateway.ended).await;
        ended.expect("it ends").unwrap().unwrap_err().to_string()
    }

    /// With further options; it is up when its page is.
    pub(crate) async fn start_with(options: &[String]) -> Self {
        let gateway = Self::launch(options);
        wait_for(PATIENCE, "the page", || async {
            let page = gateway.request(Method::GET, "/").send().await?;
            anyhow::ensure!(page.status() == 200);
            Ok(())
        })
        .await
        .unwrap();
        gateway
    }

    fn launch(options: &[String]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (coap, web, nobody) = (
            loopback(free_port()),
            loopback(free_port()),
            loopback(free_port()),
        );
        let given = [
            "test".to_owned(),
            format!("--coap-listen={coap}"),
            format!("--web-listen={web}"),
            format!("--data-dir={}", data.path().display()),
            format!("--kafka-bootstrap-server={nobody}"),
            format!("--kafka-schema-registry-url=http://{nobody}"),
        ];
        let Program { args } = Program::parse_from(given.iter().chain(options));
        let context = Context::detached();
        let shutdown = context.shutdown.clone();
        Self {
            coap,
            url: format!("http://{web}"),
            http: Client::new(),
            shutdown,
            ended: spawn(args.clone(), context),
            args,
            _data: data,
        }
    }

    /// Ends it, and starts it anew at the same place with the same data.
    pub(crate) async fn restart(&mut self) {
        self.shutdown.cancel();
        (&mut self.ended).await.unwrap().unwrap();
        let context = Context::detached();
        self.shutdown = context.shutdown.clone();
        self.ended = spawn(self.args.clone(), context);
        wait_for(PATIENCE, "the server", || async {
            anyhow::ensure!(self.get("/api/clients").await.0 == 200);
            Ok(())
        })
        .await
        .unwrap();
    }

    /// With a device that has registered.
    pub(crate) async fn with_device(endpoint: &str) -> (Self, Device) {
        let gateway = Self::start().await;
        let device = gateway.device(endpoint).await;
        (gateway, device)
    }

    pub(crate) async fn device(&self, endpoint: &str) -> Device {
        let device = Device::start(self.coap, endpoint);
        self.registered(endpoint).await;
        device
    }

    /// Waits until a device has registered.
    pub(crate) async fn registered(&self, endpoint: &str) {
        let path = format!("/api/clients/{endpoint}");
        wait_for(PATIENCE, "the device", || async {
            let (status, answer) = self.get(&path).await;
            anyhow::ensure!(status == 200, "{answer}");
            Ok(())
        })
        .await
        .unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .timeout(PATIENCE)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Json) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Json) -> (u16, Json) {
        answer(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn post(&self, path: &str) -> (u16, Json) {
        answer(self.request(Method::POST, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Json) {
        answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn events(&self, path: &str) -> Events {
        let response = self
            .http
            .get(format!("{}{path}", self.url))
            .header(header::ACCEPT, "text/event-stream")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/event-stream"
        );
        let mut events = Events {
            response,
            text: String::new(),
        };
        // From here on nothing is missed.
        assert!(events.block().await.unwrap().contains("watching"));
        events
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Runs a server on a runtime of its own: its calls to a Kafka that is away take their time to end, and a test's
/// runtime would wait for them.
fn spawn(args: leshan_kafka::Args, context: Context) -> oneshot::Receiver<anyhow::Result<()>> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let result = runtime.block_on(leshan_kafka::run(args, context));
        // Mostly nobody waits for it.
        let _ = end.send(result);
    });
    ended
}

/// A status, with what is JSON as JSON and what is not as a string.
pub(crate) async fn answer(request: RequestBuilder) -> (u16, Json) {
    let Ok(response) = request.send().await else {
        return (0, Json::Null);
    };
    let status = response.status().as_u16();
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .map(|kind| kind.to_str().unwrap().to_owned());
    match kind.as_deref() {
        Some("application/json") => (status, response.json().await.unwrap()),
        None | Some("text/plain; charset=utf-8") => {
            (status, Json::String(response.text().await.unwrap()))
        }
        Some(other) => panic!("{other}"),
    }
}

/// Server-sent events as they come in.
pub(crate) struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    /// The next event's name and data; CoAP messages are passed over.
    pub(crate) async fn next(&mut self) -> Option<(String, Json)> {
        loop {
            match self.next_of_any().await? {
                (event, _) if event == "COAPLOG" => {}
                other => return Some(other),
            }
        }
    }

    /// The next event's name and data; comments are passed over.
    pub(crate) async fn next_of_any(&mut self) -> Option<(String, Json)> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if let (Some(event), Some(data)) = (field("event"), field("data")) {
                return Some((event.to_owned(), serde_json::from_str(data).unwrap()));
            }
        }
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk())
                .await
                .expect("an event")
                .unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

pub(crate) async fn answer_of(gateway: &Gateway, method: Method, path: &str) -> (u16, Json) {
    answer(gateway.request(method, path)).await
}
