//! A real Kafka is started, used by Kafka's own tools, killed and started again.

use testkit::RealKafka;

async fn topics(kafka: &RealKafka) -> anyhow::Result<String> {
    kafka
        .tool(
            "org.apache.kafka.tools.TopicCommand",
            &["--bootstrap-server", kafka.bootstrap(), "--describe"],
        )
        .await
}

#[tokio::test]
async fn a_topic_outlives_a_kill_and_a_restart_on_the_same_port() -> anyhow::Result<()> {
    let mut kafka = RealKafka::builder().num_partitions(3).start().await?;
    let bootstrap = kafka.bootstrap().to_owned();
    kafka
        .tool(
            "org.apache.kafka.tools.TopicCommand",
            &[
                "--bootstrap-server",
                &bootstrap,
                "--create",
                "--topic",
                "kept",
            ],
        )
        .await?;
    assert!(
        topics(&kafka).await?.contains("PartitionCount: 3"),
        "the property decides the partitions"
    );

    kafka.stop();
    assert!(
        tokio::net::TcpStream::connect(&bootstrap).await.is_err(),
        "a stopped broker does not listen"
    );

    kafka.restart().await?;
    assert_eq!(kafka.bootstrap(), bootstrap);
    assert!(topics(&kafka).await?.contains("Topic: kept"));
    Ok(())
}

/// Two tests on the shared broker: each is another runtime and thread, the broker must live through both.
#[tokio::test]
async fn the_shared_broker_is_one() -> anyhow::Result<()> {
    shared_is_alive("one").await
}

#[tokio::test]
async fn the_shared_broker_outlives_the_test_that_started_it() -> anyhow::Result<()> {
    shared_is_alive("two").await
}

async fn shared_is_alive(topic: &str) -> anyhow::Result<()> {
    let kafka = RealKafka::shared().await?;
    kafka
        .tool(
            "org.apache.kafka.tools.TopicCommand",
            &[
                "--bootstrap-server",
                kafka.bootstrap(),
                "--create",
                "--topic",
                topic,
            ],
        )
        .await?;
    assert!(topics(kafka).await?.contains(&format!("Topic: {topic}")));
    assert_eq!(RealKafka::shared().await?.cluster_id(), kafka.cluster_id());
    Ok(())
}
