//! Scraped beside a group that is behind, on the embedded broker and on Apache Kafka.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::time::Duration;

use kafka::{ConsumeSettings, Process, ProcessError, Record, consume};
use kafka_exporter::{Args, bind};
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

async fn story(mut kafka: Kafka) {
    kafka.topic("t", 2, &[]).await;
    kafka.put("t", 0, &["a", "b", "c", "d", "e"]).await;
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
        Ok(())
    })
    .await
    .unwrap();
    consumer.stop().await;

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
