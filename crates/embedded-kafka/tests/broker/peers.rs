//! Apache Kafka's own clients and tools against our broker.

use crate::support::{Embedded, apache_kafka, unique, watermarks};

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_tools_administer_and_measure() {
    let (_, kafka) = apache_kafka().await;
    let broker = Embedded::start().await;
    let bootstrap = broker.bootstrap();
    let topic = unique("tools");
    let run = async |class: &str, args: &[&str]| kafka.tool(class, args).await.unwrap();
    let topics = "org.apache.kafka.tools.TopicCommand";
    let server = ["--bootstrap-server", bootstrap.as_str()];
    let with = |more: &[&'static str]| -> Vec<String> {
        let mut args: Vec<String> = server.iter().map(|a| (*a).to_owned()).collect();
        args.extend(more.iter().map(|a| a.replace("TOPIC", &topic)));
        args
    };
    let call = async |class: &str, more: &[&'static str]| {
        let args = with(more);
        run(class, &args.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    call(
        topics,
        &[
            "--create",
            "--topic",
            "TOPIC",
            "--partitions",
            "2",
            "--config",
            "retention.ms=86400000",
        ],
    )
    .await;
    let described = call(topics, &["--describe", "--topic", "TOPIC"]).await;
    assert!(
        described.contains("PartitionCount: 2") && described.contains("retention.ms=86400000"),
        "{described}"
    );

    // The Java producer, idempotent as it is by default, and the Java consumer in a group.
    call(
        "org.apache.kafka.tools.ProducerPerformance",
        &[
            "--topic",
            "TOPIC",
            "--num-records",
            "5000",
            "--record-size",
            "200",
            "--throughput",
            "-1",
        ],
    )
    .await;
    let (first, second) = (
        watermarks(&bootstrap, &topic, 0).await,
        watermarks(&bootstrap, &topic, 1).await,
    );
    assert_eq!(first.1 + second.1, 5_000);
    let consumed = call(
        "org.apache.kafka.tools.ConsumerPerformance",
        &[
            "--topic",
            "TOPIC",
            "--num-records",
            "5000",
            "--group",
            "perf",
            "--timeout",
            "60000",
        ],
    )
    .await;
    assert!(
        consumed.contains(" 5000,") || consumed.contains(", 5000"),
        "{consumed}"
    );
    let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let described = call(groups, &["--describe", "--group", "perf"]).await;
    assert!(
        described
            .lines()
            .filter(|line| line.contains(&topic))
            .count()
            == 2,
        "{described}"
    );
    let listed = call(groups, &["--list"]).await;
    assert!(listed.contains("perf"), "{listed}");
    call(groups, &["--delete", "--group", "perf"]).await;
    call(topics, &["--delete", "--topic", "TOPIC"]).await;
    assert!(!call(topics, &["--list"]).await.contains(&topic));
    broker.stop().await;
}
