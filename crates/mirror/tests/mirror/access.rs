//! Who may use the mirror's REST, and that nothing is open by accident.

use std::fs;

use reqwest::{Client, Method, StatusCode};
use service::auth::{Role, token_entry, user_entry};
use service::{Context, Secret};
use tempfile::TempDir;

/// A mirror whose Kafka is away: who may look is told that it is starting.
fn args(more: &[&str]) -> mirror::Args {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: mirror::Args,
    }
    let given = [
        "mirror",
        "--gateway=a",
        "--direction=edge-to-cloud",
        "--source-bootstrap-server=127.0.0.1:1",
        "--target-bootstrap-server=127.0.0.1:1",
        "--keep-schema-ids",
    ];
    let line = <Line as clap::Parser>::try_parse_from(given.iter().chain(more));
    line.unwrap_or_else(|error| panic!("{error}")).args
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_pause_a_flow_is_said_by_files() {
    let folder = TempDir::new().unwrap();
    let (users, tokens) = (folder.path().join("users"), folder.path().join("tokens"));
    let password = Secret::new("correct horse");
    let ann = user_entry(&"ann".parse().unwrap(), Role::Read, &password).unwrap();
    fs::write(&users, format!("{ann}\n")).unwrap();
    let (secret, bob) = token_entry(&"bob".parse().unwrap(), Role::Operate);
    fs::write(&tokens, format!("{bob}\n")).unwrap();
    let listen = format!("127.0.0.1:{}", testkit::free_port());
    let args = args(&[
        "--rest-listen",
        &listen,
        "--users-file",
        users.to_str().unwrap(),
        "--tokens-file",
        tokens.to_str().unwrap(),
    ]);
    let context = Context::detached();
    let stop = context.shutdown.clone();
    let mirror = tokio::spawn(mirror::run(args, context));

    let client = Client::builder().no_proxy().build().unwrap();
    let ask = |method: Method, path: &str| client.request(method, format!("http://{listen}{path}"));
    let up = async || Ok(ask(Method::GET, "/status").send().await?);
    let answer = testkit::wait_for(crate::world::PATIENCE, "the REST", up).await;
    assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    let starting = StatusCode::SERVICE_UNAVAILABLE;
    let as_ann = |method, path| ask(method, path).basic_auth("ann", Some("correct horse"));
    let as_bob = |method, path| ask(method, path).bearer_auth(secret.expose());
    assert_eq!(
        status(ask(Method::PUT, "/pause")).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(status(as_ann(Method::GET, "/status")).await, starting);
    assert_eq!(
        status(as_ann(Method::PUT, "/pause")).await,
        StatusCode::FORBIDDEN
    );
    for path in ["/pause", "/resume"] {
        assert_eq!(status(as_bob(Method::PUT, path)).await, starting);
    }
    stop.cancel();
    mirror.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_beyond_the_machine_comes_in_unasked() {
    let everywhere = args(&["--rest-listen", "0.0.0.0:0"]);
    let refused = mirror::run(everywhere, Context::detached()).await;
    let message = format!("{:#}", refused.unwrap_err());
    assert!(message.contains("--rest-listen"), "{message}");
}
