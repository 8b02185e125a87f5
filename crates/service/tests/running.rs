//! A service from start to end, over its admin listener.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::ffi::OsString;

use clap::Parser;
use service::{CommonArgs, Context, config};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    common: CommonArgs,
}

async fn get(context: &Context, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .get(format!("http://{}{path}", context.admin_address))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[test]
fn health_metrics_and_own_routes_are_answered_until_the_end() {
    let program: Program = config::parse_from(vec![OsString::from("program")]).unwrap();
    let outcome = service::run("test", &program.common, |context| async move {
        assert_eq!(get(&context, "/livez").await.0, 200);
        let (status, body) = get(&context, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("startup"), "{body}");

        let database = context.health.condition("database");
        database.fail("no answer from 127.0.0.1:1");
        context.health.set_ready();
        let (status, body) = get(&context, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("no answer from 127.0.0.1:1"), "{body}");
        database.ok();
        assert_eq!(get(&context, "/readyz").await.0, 200);

        service::metrics::records(service::metrics::Stage::Mirror).inc_by(3);
        let (_, body) = get(&context, "/metrics").await;
        assert!(
            body.contains("zeelos_records_total{stage=\"mirror\"} 3"),
            "{body}"
        );

        assert_eq!(get(&context, "/own").await.0, 404);
        let own = axum::Router::new().route("/own", axum::routing::get(|| async { "mine" }));
        context.admin_routes(own);
        assert_eq!(get(&context, "/own").await, (200, "mine".to_owned()));
        anyhow::bail!("its own reason to end")
    });
    assert_eq!(outcome.unwrap_err().to_string(), "its own reason to end");
}
