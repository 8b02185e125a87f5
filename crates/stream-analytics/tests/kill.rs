//! `kill -9` at any moment: the counts and maxima come out as if nothing had happened.
//!
//! The service runs in processes of its own: this program again, told so by an environment variable.

// A helper of a test fails the test like the test itself.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "this story needs a part of it")]
#[path = "analytics/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use stream_analytics::Args;
use testkit::{Child, Launch, wait_for};

use site::PATIENCE;

use crate::support::{INPUT, OUTPUT, Site, counted};

const AS_SERVICE: &str = "STREAM_ANALYTICS_TEST_SERVICE";

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    common: service::CommonArgs,
    #[command(flatten)]
    args: Args,
}

fn main() -> anyhow::Result<()> {
    if std::env::var_os(AS_SERVICE).is_some() {
        let Command { common, args } = Command::parse();
        return service::run("stream-analytics", &common, |context| {
            Box::pin(stream_analytics::run(args, context))
        });
    }
    // `cargo nextest` and editors ask what there is.
    if std::env::args().any(|argument| argument == "--list") {
        println!("killed_processes_lose_and_double_nothing: test");
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(killed_processes_lose_and_double_nothing()));
    println!("test killed_processes_lose_and_double_nothing ... ok");
    Ok(())
}

fn spawn(site: &Site, analytic: &str, run: usize) -> Child {
    let folder = site.folder();
    let data = folder.join("analytics");
    Launch::new(
        format!("{analytic}-{run}"),
        std::env::current_exe().unwrap(),
    )
    .env(AS_SERVICE, "1")
    .args([
        "--data-dir",
        data.to_str().unwrap(),
        "--input-topic",
        INPUT,
        "--kafka-bootstrap-server",
        site.bootstrap(),
        "--kafka-schema-registry-url",
        site.registry_url(),
        analytic,
    ])
    .spawn(&folder.join(format!("{analytic}-{run}.log")))
    .unwrap()
}

/// The last count of each key, over all that was printed.
fn last_counts(printed: &str) -> BTreeMap<String, u64> {
    let lines = printed.lines().filter(|line| line.starts_with('['));
    let pairs = lines.filter_map(|line| {
        // The line that was being written when the process died may be cut off.
        let (key, count) = line.rsplit_once("], ")?;
        Some((key.to_owned(), count.parse().ok()?))
    });
    pairs.collect()
}

async fn killed_processes_lose_and_double_nothing() {
    const ROUNDS: i64 = 4;
    const PER_ROUND: i64 = 100;
    let site = Site::start().await;
    let mut printed = String::new();
    let mut processes = Vec::new();
    for round in 0..ROUNDS {
        let run = usize::try_from(round).unwrap();
        processes = vec![
            spawn(&site, "aggregate", run),
            spawn(&site, "temperature", run),
        ];
        for i in 0..PER_ROUND {
            // Rising, so that every reading is a new maximum; all within one window.
            let at = round * PER_ROUND + i;
            site.reads("sensor", "/3303/0/5700", at, at as f64).await;
        }
        if round + 1 < ROUNDS {
            // A different moment each time; the member that died holds its place in the group for 10 s more, while
            // the next is waiting.
            wait_for(PATIENCE, "counts of this process", async || {
                let output = processes[0].output();
                ensure!(!last_counts(&output).is_empty(), "{output}");
                Ok(())
            })
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(37 * run as u64)).await;
            for process in &mut processes {
                process.kill();
            }
            printed.push_str(&processes[0].output());
            printed.push('\n');
        }
    }

    let all = (ROUNDS * PER_ROUND) as u64;
    wait_for(PATIENCE, "every reading counted once", async || {
        let counts = last_counts(&format!("{printed}{}", processes[0].output()));
        let expected = ["sensor:/3303/0/5700", "sensor"].map(|name| counted(name, 0, all));
        let expected = last_counts(&expected.join("\n"));
        ensure!(counts == expected, "{counts:?}");
        Ok(())
    })
    .await
    .unwrap();
    wait_for(PATIENCE, "every maximum", async || {
        let maxima = site.maxima(OUTPUT).await;
        let mut values: Vec<f64> = maxima.iter().map(|m| m.value()).collect();
        let total = values.len();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let expected: Vec<f64> = (0..all).map(|n| n as f64).collect();
        ensure!(values == expected, "{} of {all} maxima", values.len());
        // Duplicates are of what was in hand when it was killed, not of everything.
        ensure!(total < 3 * values.len(), "{total} records");
        Ok(())
    })
    .await
    .unwrap();
    for process in &mut processes {
        let ended = process.terminate(Duration::from_secs(15)).await.unwrap();
        assert!(ended.success(), "{ended}");
    }
}
