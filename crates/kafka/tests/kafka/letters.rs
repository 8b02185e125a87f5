//! Dead letters and their way back, on the embedded broker and on Apache Kafka.

use kafka::letters::{
    HEADER_RETRY, Letter, RETRIED_TOPIC, Retried, retried_letters, retry_letters,
};
use kafka::{DeadLetters, ORIGIN_HEADER, OutRecord, fetch_cluster_id};
use site::Kafka;
use testkit::RealKafka;

async fn story(kafka: &Kafka, topic: &str, transactional: bool) {
    let cluster = kafka.cluster();
    let letters_topic = format!("{topic}.dlq");
    for name in [topic, &letters_topic] {
        kafka.topic(name, 1, &[]).await;
    }
    let origin = b"elsewhere/iot.x.management.req/0/7".to_vec();
    let given = [(ORIGIN_HEADER.to_owned(), Some(origin.clone()))];
    for (key, value, headers) in [
        ("a", Some("one"), &given[..]),
        ("b", Some("two"), &[]),
        ("c", None, &[]),
    ] {
        kafka
            .send(OutRecord {
                topic,
                key: Some(key.as_bytes()),
                value: value.map(str::as_bytes),
                headers,
                ..OutRecord::default()
            })
            .await;
    }
    let aside = DeadLetters::new(kafka.producer());
    for record in kafka.read(topic, 3).await {
        aside
            .put(&record, "not_avro", "no magic byte")
            .await
            .unwrap();
    }
    let records = kafka.read(&letters_topic, 3).await;
    let letters: Vec<Letter> = records.into_iter().map(Letter::of).collect();
    let first = &letters[0];
    assert_eq!(
        (first.reason.as_str(), first.message.as_str()),
        ("not_avro", "no magic byte")
    );
    assert_eq!(
        (first.topic.as_str(), first.partition, first.offset),
        (topic, Some(0), Some(0))
    );

    // All three are sent back, but for the one that is nothing; and once.
    let expected = Retried {
        sent: 2,
        before: 0,
        empty: 1,
        transactional,
    };
    assert_eq!(retry_letters(&cluster, &letters).await.unwrap(), expected);
    let again = retry_letters(&cluster, &letters).await.unwrap();
    assert_eq!((again.sent, again.before, again.empty), (0, 2, 1));
    let places = retried_letters(&cluster).await.unwrap();
    assert!(
        places.contains(&format!("{letters_topic}/0/0")),
        "{places:?}"
    );
    assert!(
        !places.contains(&format!("{letters_topic}/0/2")),
        "{places:?}"
    );

    let back = kafka.read(topic, 5).await.split_off(3);
    assert_eq!(back[0].key.as_deref(), Some(&b"a"[..]));
    assert_eq!(back[0].value.as_deref(), Some(&b"one"[..]));
    assert_eq!(back[0].header(ORIGIN_HEADER), Some(&origin[..]));
    let place = format!("{letters_topic}/0/0");
    assert_eq!(back[0].header(HEADER_RETRY), Some(place.as_bytes()));
    assert_eq!(back[0].header("zeelos-dlq-reason"), None);
    // What had no origin is known by its place among the letters.
    let id = fetch_cluster_id(&cluster).await.unwrap();
    let origin = format!("{id}/{letters_topic}/0/1");
    assert_eq!(back[1].header(ORIGIN_HEADER), Some(origin.as_bytes()));
    assert_eq!(kafka.all(RETRIED_TOPIC).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_go_back_once_on_the_embedded_broker() {
    story(&Kafka::start().await, "t", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_go_back_once_on_apache_kafka() {
    let kafka = Kafka::apache(RealKafka::builder()).await;
    story(&kafka, "t", true).await;
}

#[tokio::test]
async fn a_record_of_anybodys_is_a_letter_of_unknown_reason() {
    let kafka = Kafka::start().await;
    kafka.put("t.dlq", 0, &["x"]).await;
    let letter = Letter::of(kafka.read("t.dlq", 1).await.remove(0));
    assert_eq!(
        (letter.reason.as_str(), letter.topic.as_str()),
        ("unknown", "t")
    );
    assert_eq!((letter.partition, letter.offset), (None, None));
}
