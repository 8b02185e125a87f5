use std::time::Duration;

use kafka::{Cluster, OutRecord, Producer, ProducerSettings, TicketProducer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::{sleep, timeout};

use site::{Kafka, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_send_wait_and_nothing_is_lost() {
    const QUEUE: usize = 64 * 1024;
    let mut kafka = Kafka::start().await;
    let settings = ProducerSettings {
        queue_bytes: QUEUE,
        ..ProducerSettings::default()
    };
    let producer = Producer::new(&kafka.cluster(), &settings).unwrap();
    kafka.put("t", 0, &["first"]).await;
    kafka.go_away().await;

    let filler = "x".repeat(1_000);
    let values: Vec<String> = (0..300).map(|n| format!("{n:03}{filler}")).collect();
    let send_all = {
        let (producer, values) = (producer.clone(), values.clone());
        tokio::spawn(async move {
            let mut deliveries = Vec::new();
            for value in &values {
                let record = OutRecord {
                    topic: "t",
                    value: Some(value.as_bytes()),
                    ..OutRecord::default()
                };
                deliveries.push(producer.send(record).await.unwrap());
            }
            for delivery in deliveries {
                delivery.await.unwrap();
            }
        })
    };
    sleep(Duration::from_secs(3)).await;
    assert!(!send_all.is_finished());
    let waiting = producer.in_flight();
    assert!(
        (30..=QUEUE / 1_000).contains(&waiting),
        "{waiting} records wait"
    );

    kafka.come_back().await;
    timeout(PATIENCE, send_all).await.unwrap().unwrap();
    let records = kafka.read("t", 301).await;
    let arrived: Vec<_> = records[1..]
        .iter()
        .map(|record| record.value.clone().unwrap())
        .collect();
    let wanted: Vec<_> = values
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect();
    assert_eq!(arrived, wanted, "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_the_queue_is_refused_at_once() {
    let kafka = Kafka::start().await;
    let settings = ProducerSettings {
        queue_bytes: 64 * 1024,
        ..ProducerSettings::default()
    };
    let producer = Producer::new(&kafka.cluster(), &settings).unwrap();
    let value = vec![b'x'; 100_000];
    let record = OutRecord {
        topic: "t",
        value: Some(&value),
        ..OutRecord::default()
    };
    let refused = timeout(PATIENCE, producer.send(record)).await.unwrap();
    let error = refused.err().expect("it would wait for ever");
    assert!(
        error.is_too_large() && error.is_about_the_record(),
        "{error}"
    );
}

/// Kafka's default bound is above 1,000,000 bytes, librdkafka's own is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_says_what_is_too_large() {
    let kafka = Kafka::start().await;
    let producer = kafka.producer();
    let send = async |bytes: usize| {
        let value = vec![b'x'; bytes];
        let record = OutRecord {
            topic: "t",
            value: Some(&value),
            ..OutRecord::default()
        };
        producer.send(record).await.unwrap().await
    };
    assert!(send(1_040_000).await.is_ok());
    let error = send(1_100_000).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert!(send(10).await.is_ok());
}

/// librdkafka drops a record that it could not deliver for `message.timeout.ms`, five minutes by default; here a second,
/// so that the loss shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_librdkafkas_patience_costs_none_of_our_records() {
    let mut kafka = Kafka::start().await;
    let folder = tempfile::tempdir().unwrap();
    let properties = folder.path().join("client.properties");
    std::fs::write(&properties, "message.timeout.ms=1000\n").unwrap();
    let impatient = Cluster::new(kafka.bootstrap(), Some(&properties)).unwrap();
    // What a file says does not count for ours, under the setting's other name neither.
    std::fs::write(&properties, "delivery.timeout.ms=1000\n").unwrap();
    let cluster = Cluster::new(kafka.bootstrap(), Some(&properties)).unwrap();
    let usual: FutureProducer = impatient.client_config().create().unwrap();
    let settings = ProducerSettings::default();
    let ours = Producer::new(&cluster, &settings).unwrap();
    let (ticketed, deliveries) = TicketProducer::new(&cluster, &settings).unwrap();
    kafka.put("t", 0, &["first"]).await;
    // All three know the topic.
    usual
        .send_result(FutureRecord::<(), str>::to("t").payload("usual"))
        .unwrap()
        .await
        .unwrap()
        .unwrap();
    let record = |value: &'static str| OutRecord {
        topic: "t",
        value: Some(value.as_bytes()),
        ..OutRecord::default()
    };
    ours.send(record("ours")).await.unwrap().await.unwrap();
    let mut delivered = Vec::new();
    ticketed.try_send(record("ticketed"), 1).unwrap();
    deliveries.take(&mut delivered).await;
    kafka.go_away().await;

    let lost = usual
        .send_result(FutureRecord::<(), str>::to("t").payload("lost"))
        .unwrap();
    let kept = ours.send(record("kept")).await.unwrap();
    ticketed.try_send(record("kept too"), 2).unwrap();
    let (error, _) = lost.await.unwrap().unwrap_err();
    assert_eq!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::MessageTimedOut)
    );
    sleep(Duration::from_secs(1)).await;
    kafka.come_back().await;
    timeout(PATIENCE, kept).await.unwrap().unwrap();
    timeout(PATIENCE, deliveries.take(&mut delivered))
        .await
        .unwrap();
    assert_eq!(delivered[0].ticket, 2);
    assert!(delivered[0].outcome.is_ok(), "{delivered:?}");
    let values: Vec<_> = kafka
        .all("t")
        .await
        .into_iter()
        .map(|record| String::from_utf8(record.value.unwrap()).unwrap())
        .collect();
    assert!(!values.contains(&"lost".to_owned()), "{values:?}");
    assert_eq!(
        values
            .iter()
            .filter(|value| value.starts_with("kept"))
            .count(),
        2
    );
}
