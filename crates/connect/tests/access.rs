//! Who may use the connectors' REST, and that nothing is open by accident.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::fs;
use std::time::Duration;

use clap::Parser;
use connect::{ConnectArgs, Server};
use reqwest::{Client, Method, RequestBuilder, header};
use serde_json::Value;
use service::auth::{Role, token_entry, user_entry};
use service::{Context, Secret};
use tokio::task::JoinHandle;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: ConnectArgs,
}

/// A worker whose Kafka is away: who may come in is told that it has not read its connectors.
struct Worker {
    url: String,
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

const LOADING: u16 = 503;

async fn bind(options: &[String], context: &Context) -> anyhow::Result<Server> {
    let given = [
        "test",
        "--connect-listen=127.0.0.1:0",
        "--kafka-bootstrap-server=127.0.0.1:1",
    ]
    .map(str::to_owned);
    // What is given twice counts as it is given last.
    let command = <Program as clap::CommandFactory>::command().args_override_self(true);
    let matches = command.try_get_matches_from(given.iter().chain(options))?;
    let Program { args } = <Program as clap::FromArgMatches>::from_arg_matches(&matches)?;
    Server::bind(&args, "connect-test-configs", Vec::new(), context).await
}

impl Worker {
    async fn start(options: &[String]) -> Self {
        let context = Context::detached();
        let server = bind(options, &context).await.unwrap();
        Self {
            url: format!("http://{}", server.address()),
            task: tokio::spawn(server.run(context.clone())),
            context,
        }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let client = Client::builder().no_proxy().build().unwrap();
        client.request(method, format!("{}{path}", self.url))
    }

    async fn stop(self) {
        self.context.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let form = response.headers()[header::CONTENT_TYPE].clone();
    assert_eq!(form, "application/json", "{status}");
    (status, response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_change_connectors_is_said_by_files() {
    let folder = tempfile::tempdir().unwrap();
    let (users, tokens) = (folder.path().join("users"), folder.path().join("tokens"));
    let password = Secret::new("correct horse");
    let reader = user_entry(&"ann".parse().unwrap(), Role::Read, &password).unwrap();
    let (token, entry) = token_entry(&"ci".parse().unwrap(), Role::Operate);
    fs::write(&users, reader).unwrap();
    fs::write(&tokens, entry).unwrap();
    let worker = Worker::start(&[
        "--connect-listen=0.0.0.0:0".to_owned(),
        format!("--users-file={}", users.display()),
        format!("--tokens-file={}", tokens.display()),
    ])
    .await;

    // In Connect's form, like every error of this interface.
    let (status, error) = answer(worker.call(Method::GET, "/connectors")).await;
    assert_eq!((status, &error["error_code"]), (401, &401.into()));
    let reason = error["message"].as_str().unwrap();
    assert!(reason.starts_with("log in: "), "{reason}");

    let ann = |method, path| {
        let call = worker.call(method, path);
        call.basic_auth("ann", Some("correct horse"))
    };
    let ci = |method, path| worker.call(method, path).bearer_auth(token.expose());
    assert_eq!(answer(ann(Method::GET, "/connectors")).await.0, LOADING);
    assert_eq!(answer(ann(Method::GET, "/connectors/")).await.0, LOADING);
    for (method, path) in [
        (Method::POST, "/connectors"),
        (Method::POST, "/connectors/"),
        (Method::PUT, "/connectors/a/config"),
        (Method::PUT, "/connectors/a/pause"),
        (Method::POST, "/connectors/a/restart"),
        (Method::DELETE, "/connectors/a"),
    ] {
        let (status, error) = answer(ann(method.clone(), path)).await;
        assert_eq!(status, 403, "{method} {path}: {error}");
        let (status, error) = answer(ci(method.clone(), path)).await;
        assert_eq!(status, LOADING, "{method} {path}: {error}");
    }

    // A token that is taken out of the file counts no more, without a restart.
    fs::write(&tokens, "").unwrap();
    let gone = async {
        while answer(ci(Method::GET, "/connectors")).await.0 != 401 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    gone.expect("it is refused");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_somebody_has_to_say_who_may() {
    let context = Context::detached();
    let everywhere = "--connect-listen=0.0.0.0:0".to_owned();
    let refused = bind(std::slice::from_ref(&everywhere), &context).await;
    let error = format!("{:#}", refused.err().unwrap());
    for word in ["--connect-listen", "--users-file", "--web-open"] {
        assert!(error.contains(word), "{error}");
    }
    let worker = Worker::start(&[everywhere, "--web-open".to_owned()]).await;
    let here = worker.url.replace("0.0.0.0", "127.0.0.1");
    let (status, _) = answer(Client::new().get(format!("{here}/connectors"))).await;
    assert_eq!(status, LOADING);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_another_site_makes_a_connector() {
    let worker = Worker::start(&[]).await;
    let create = || worker.call(Method::POST, "/connectors").body("{}");
    assert_eq!(answer(create()).await.0, LOADING);
    let elsewhere = create().header(header::ORIGIN, "http://elsewhere.example");
    assert_eq!(answer(elsewhere).await.0, 403);
    // A name that somebody lets lead here.
    let rebound = create().header(header::HOST, "elsewhere.example:8083");
    let (status, error) = answer(rebound).await;
    assert_eq!(status, 403, "{error}");
    worker.stop().await;
}
