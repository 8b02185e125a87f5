//! Scraped beside a group that is behind, on the embedded broker and on Apache Kafka.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::time::Duration;

use anyhow::Context as _;
use kafka::{ConsumeSettings, OutRecord, Process, ProcessError, Record, consume};
use kafka_exporter::{Args, bind};
use serde_json::json;
use service::Context;
use site::{Kafka, PATIENCE, Running};
use testkit::{RealKafka, wait_for};

/// Takes three records and no more.
struct Three(usize);

impl Process for Three {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        if self.0 >= 3 {
            return Err(ProcessError::Retry("enough".to_owned()));
        }
        self.0 += batch.len();
        Ok(())
    }
}

fn value(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in\n{text}"))?;
    Ok(line.trim().parse()?)
}

/// What mirrors wrote of how far they are, as docs/mirror.md has it.
async fn mirrors_are_followed(kafka: &Kafka, scrape: impl AsyncFn() -> anyhow::Result<String>) {
    let own = "mirrormaker_cloud_gw.mirror-offsets";
    let long_ago_ms = service::now_ms() - 3_600_000;
    let place = |topic: &str, partition: i32, offset: i64, end: i64| {
        (
            json!({"cluster": "edge", "topic": topic, "partition": partition}),
            json!({"offset": offset, "timestamp_ms": long_ago_ms, "end": end, "at_ms": long_ago_ms}),
        )
    };
    let said = [
        place("behind", 0, 5, 20),
        place("behind", 0, 17, 20),
        place("behind", 1, 4, 5),
        place("done", 0, 9, 9),
        (
            json!({"instance": "mirrormaker_cloud_gw"}),
            json!({"instance": "1-a"}),
        ),
    ];
    kafka.topic(own, 1, &[]).await;
    for (key, value) in said {
        let (key, value) = (key.to_string(), value.to_string());
        kafka
            .send(OutRecord {
                topic: own,
                partition: None,
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                timestamp_ms: None,
                headers: &[],
            })
            .await;
    }
    wait_for(PATIENCE, "the mirror's lag", async || {
        let text = scrape().await?;
        for (topic, records) in [("behind", 4.0), ("done", 0.0)] {
            let labels = format!("{{flow=\"mirrormaker_cloud_gw\",topic=\"{topic}\"}}");
            let name = format!("zeelos_mirror_target_lag_records{labels}");
            anyhow::ensure!(value(&text, &name)? == records, "{text}");
            let seconds = value(&text, &format!("zeelos_mirror_target_lag_seconds{labels}"))?;
            anyhow::ensure!((seconds > 3_599.0) == (records > 0.0), "{text}");
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn story(mut kafka: Kafka) {
    kafka.topic("t", 2, &[]).await;
    kafka.put("t", 0, &["a", "b", "c", "d", "e"]).await;
    let args = Args {
        listen: "127.0.0.1:0".parse().unwrap(),
        kafka_bootstrap_server: kafka.bootstrap().to_owned(),
        kafka_ssl_properties_location: None,
        tls: Default::default(),
        interval_s: 1,
    };
    let context = Context::detached();
    let exporter = bind(&args, &context).await.unwrap();
    let url = format!("http://{}/metrics", exporter.address());
    let running = tokio::spawn(exporter.run(context.clone()));
    let scrape = async || {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer = client.get(&url).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
        anyhow::Ok(answer.text().await?)
    };
    // A cluster that nobody consumes from has offsets too.
    wait_for(PATIENCE, "the topic's offsets", async || {
        let text = scrape().await?;
        let line = "kafka_topic_partition_current_offset{partition=\"0\",topic=\"t\"} 5";
        anyhow::ensure!(text.lines().any(|found| found == line), "{text}");
        anyhow::ensure!(!text.contains("consumergroup="), "{text}");
        Ok(())
    })
    .await
    .unwrap();

    let cluster = kafka.cluster();
    let consumer = Running::start(|context| async move {
        context.health.set_ready();
        let condition = context.health.condition("flow");
        let mut settings = ConsumeSettings::new("slow", vec!["t".to_owned()]);
        settings.batch_records = 1;
        settings.commit_interval = Duration::from_millis(100);
        consume(
            &cluster,
            &settings,
            &mut Three(0),
            &condition,
            &context.shutdown,
        )
        .await
    });
    wait_for(PATIENCE, "the group's lag", async || {
        let text = scrape().await?;
        for line in [
            "kafka_brokers 1",
            "kafka_topic_partitions{topic=\"t\"} 2",
            "kafka_topic_partition_current_offset{partition=\"0\",topic=\"t\"} 5",
            "kafka_topic_partition_current_offset{partition=\"1\",topic=\"t\"} 0",
            "kafka_topic_partition_oldest_offset{partition=\"0\",topic=\"t\"} 0",
            "kafka_topic_partition_under_replicated_partition{partition=\"0\",topic=\"t\"} 0",
            "kafka_consumergroup_members{consumergroup=\"slow\"} 1",
            "kafka_consumergroup_current_offset_sum{consumergroup=\"slow\",topic=\"t\"} 3",
            "kafka_consumergroup_lag_sum{consumergroup=\"slow\",topic=\"t\"} 2",
        ] {
            anyhow::ensure!(
                text.lines().any(|found| found == line),
                "no '{line}' in\n{text}"
            );
        }
        anyhow::ensure!(
            text.contains("kafka_consumergroup_lag{consumergroup=\"slow\",partition="),
            "{text}"
        );
        // It waits, and waits longer; what is read to its end does not.
        let waits = "kafka_consumergroup_lag_seconds{consumergroup=\"slow\",topic=\"t\"}";
        anyhow::ensure!(value(&text, waits)? > 1.0, "{text}");
        Ok(())
    })
    .await
    .unwrap();
    consumer.stop().await;

    mirrors_are_followed(&kafka, scrape).await;

    // An outage shows as one, and ends.
    kafka.go_away().await;
    wait_for(PATIENCE, "the outage to show", async || {
        anyhow::ensure!(scrape().await.is_err(), "still answered");
        Ok(())
    })
    .await
    .unwrap();
    wait_for(PATIENCE, "the condition to fail", async || {
        let failing = context.health.failing();
        anyhow::ensure!(failing.contains_key("kafka"), "{failing:?}");
        Ok(())
    })
    .await
    .unwrap();
    kafka.come_back().await;
    wait_for(PATIENCE, "the outage to end", async || {
        scrape().await.map(drop)
    })
    .await
    .unwrap();
    context.shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lags_and_offsets_of_apache_kafka() {
    story(Kafka::apache(RealKafka::builder()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lags_and_offsets_of_the_embedded_broker() {
    story(Kafka::start().await).await;
}
