//! `zeelos up --check`: it passes on a healthy path, and names the stage that is broken.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Outcome, Zeelos};
use serde_json::Value;
use tokio::sync::Mutex;

/// One check at a time: each runs some dozen processes, and their latencies are part of what is tested.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const STAGES: [&str; 7] = [
    "registration",
    "observation",
    "mirror",
    "time series",
    "graph",
    "analytics",
    "reply",
];

async fn check(arguments: &str) -> anyhow::Result<Outcome> {
    let _turn = ONE_AT_A_TIME.lock().await;
    Zeelos::new("up --check")
        .args(arguments.split_whitespace())
        .run()
        .await
}

#[tokio::test]
async fn a_random_value_and_ticket_pass_every_stage_in_under_30_seconds() -> anyhow::Result<()> {
    let outcome = check("--output json").await?;
    assert!(outcome.status.success(), "{outcome}");
    let report = outcome.json()?;
    assert_eq!(report["ok"], true, "{outcome}");
    assert_eq!(report["failed"], Value::Null, "{outcome}");
    for stage in STAGES {
        let found: Vec<&Value> = report["stages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|found| found["stage"] == stage)
            .collect();
        assert!(!found.is_empty(), "no stage '{stage}': {outcome}");
        for finding in found {
            assert_eq!(finding["seen"], true, "{outcome}");
            let latency = finding["latency_ms"].as_f64();
            assert!(latency.is_some_and(|ms| ms < 30_000.0), "{outcome}");
            println!("{stage}: {:.0} ms", latency.unwrap_or_default());
        }
    }
    let took = report["took_s"].as_f64();
    println!("took {took:?} s");
    assert!(took.is_some_and(|took| took < 30.0), "{outcome}");
    Ok(())
}

#[tokio::test]
async fn two_checks_are_about_different_values_and_tickets() -> anyhow::Result<()> {
    let (first, second) = (check("--output json").await?, check("--output json").await?);
    for what in ["value", "ticket"] {
        assert_ne!(first.json()?[what], second.json()?[what], "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn for_people_it_is_a_table() -> anyhow::Result<()> {
    let outcome = check("").await?;
    assert!(outcome.status.success(), "{outcome}");
    for stage in STAGES {
        let line = outcome.stdout.lines().find(|line| line.starts_with(stage));
        let seen = line.is_some_and(|line| line.contains(" yes ") && line.contains(" ms"));
        assert!(seen, "no line of '{stage}' with its latency: {outcome}");
    }
    Ok(())
}

/// Broken, a stage is named, on the exit code's side and in both outputs.
async fn is_named(stage: &str) -> anyhow::Result<()> {
    let broken = stage.replace(' ', "-");
    let limit = Duration::from_secs(16);
    let arguments = format!(
        "--output json --check-timeout {} --break {broken}",
        limit.as_secs()
    );
    let outcome = check(&arguments).await?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    let report = outcome.json()?;
    assert_eq!(report["ok"], false, "{outcome}");
    assert_eq!(report["failed"], stage, "{outcome}");
    let said = format!("stage '{stage}' failed: ");
    assert!(outcome.stderr.contains(&said), "{outcome}");
    let finding = report["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|finding| finding["stage"] == stage && finding["seen"] == false);
    let reason = finding.and_then(|finding| finding["reason"].as_str());
    assert!(reason.is_some_and(|reason| !reason.is_empty()), "{outcome}");
    // What does not depend on it has passed all the same.
    let passed = |name: &str| {
        let stages = report["stages"].as_array();
        let mut found = stages
            .into_iter()
            .flatten()
            .filter(|it| it["stage"] == name);
        found.all(|finding| finding["seen"] == true)
    };
    for other in ["graph", "analytics", "time series", "observation"] {
        let independent = matches!(stage, "time series" | "graph" | "analytics") && other != stage;
        assert!(!independent || passed(other), "'{other}': {outcome}");
    }
    Ok(())
}

#[tokio::test]
async fn a_broken_registration_is_named() -> anyhow::Result<()> {
    is_named("registration").await
}

#[tokio::test]
async fn a_broken_observation_is_named() -> anyhow::Result<()> {
    is_named("observation").await
}

#[tokio::test]
async fn a_broken_mirror_is_named() -> anyhow::Result<()> {
    is_named("mirror").await
}

#[tokio::test]
async fn a_broken_time_series_is_named() -> anyhow::Result<()> {
    is_named("time series").await
}

#[tokio::test]
async fn a_broken_graph_is_named() -> anyhow::Result<()> {
    is_named("graph").await
}

#[tokio::test]
async fn broken_analytics_are_named() -> anyhow::Result<()> {
    is_named("analytics").await
}

#[tokio::test]
async fn a_broken_reply_is_named() -> anyhow::Result<()> {
    is_named("reply").await
}
