use std::time::Duration;

use kafka::{OutRecord, Producer, ProducerSettings};
use tokio::time::{sleep, timeout};

use crate::support::{Kafka, PATIENCE};

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
