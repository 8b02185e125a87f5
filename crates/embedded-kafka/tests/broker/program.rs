//! The broker as the program runs it.

use clap::Parser;
use embedded_kafka::{Args, FlushPolicy};
use tempfile::TempDir;

use crate::support::{produce, producer, until, watermarks};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

fn parse(options: &[&str]) -> Result<Args, String> {
    let options = ["kafka"].iter().chain(options);
    Program::try_parse_from(options)
        .map(|program| program.args)
        .map_err(|error| error.to_string())
}

#[test]
fn options_become_settings_and_wrong_ones_are_refused() {
    let config = parse(&["--data-dir", "d"]).unwrap().config();
    assert!(
        config.listen.ip().is_loopback(),
        "it listens on loopback unless told otherwise"
    );
    assert_eq!(config.retention.bytes, Some(1 << 30));
    assert!(config.retention.time.is_some() && config.retention.total_bytes.is_some());

    let options = [
        "--data-dir",
        "d",
        "--advertised",
        "gateway:19092",
        "--retention-hours",
        "0",
        "--flush-ms",
        "0",
    ];
    let config = parse(&options).unwrap().config();
    assert_eq!(config.advertised, Some(("gateway".to_owned(), 19_092)));
    assert_eq!(
        (config.retention.time, config.flush),
        (None, FlushPolicy::EveryAppend)
    );
    for wrong in [
        ["--advertised", "gateway"],
        ["--default-partitions", "0"],
        ["--segment-mb", "0"],
    ] {
        let options = [&["--data-dir", "d"][..], &wrong].concat();
        assert!(parse(&options).unwrap_err().contains(wrong[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_ready_when_it_listens_and_ends_when_told() {
    let dir = TempDir::new().unwrap();
    let port = testkit::free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = || {
        parse(&[
            "--listen",
            &listen,
            "--data-dir",
            dir.path().to_str().unwrap(),
        ])
        .unwrap()
    };
    for round in 0..2 {
        let context = service::Context::detached();
        let running = tokio::spawn(embedded_kafka::run(args(), context.clone()));
        until("the service is ready", async || {
            context.health.failing().is_empty()
        })
        .await;
        assert_eq!(produce(&producer(&listen), "t", 0, "v").await, round);
        assert_eq!(watermarks(&listen, "t", 0).await, (0, round + 1));
        context.shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
