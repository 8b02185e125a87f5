//! The topic: what is in it is what the registry knows.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use schema_registry::{Args, Registry};
use serde_json::json;
use service::Context;
use testkit::RealKafka;

use crate::common::{Client, fresh, record, start};

const INT: &str = r#"{"name":"a","type":"int"}"#;

async fn produce(bootstrap: &str, topic: &str, key: Option<&str>, value: Option<&str>) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap();
    let mut message = FutureRecord::<str, str>::to(topic).partition(0);
    message.key = key;
    message.payload = value;
    producer
        .send(message, Duration::from_secs(10))
        .await
        .unwrap();
}

/// Every record of the topic: key and value.
fn dump(bootstrap: &str, topic: &str) -> Vec<(String, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "dump")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&assignment).unwrap();
    let (_, high) = consumer
        .fetch_watermarks(topic, 0, Duration::from_secs(10))
        .unwrap();
    let mut records = Vec::new();
    while (records.len() as i64) < high {
        let message = consumer.poll(Duration::from_secs(10)).unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        records.push((
            message.key().map(text).unwrap_or_default(),
            message.payload().map(text),
        ));
    }
    records
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything_and_the_records_are_confluents() {
    let kafka = RealKafka::shared().await.unwrap();
    let topic = fresh("kept");
    let registry = start(kafka.bootstrap(), &topic).await;
    let client = Client::new(&registry.url());
    client
        .put("/config", &json!({ "compatibility": "FULL" }))
        .await
        .ok();
    client.level("t-value", "NONE").await;
    client.register("t-value", "\"string\"").await.id();
    client.register("t-value", r#"{"type": "int"}"#).await.id();
    client.register("t-key", "\"string\"").await.id();
    client
        .post(
            "/subjects/u/versions",
            &json!({ "schema": record("R", INT), "references": [] }),
        )
        .await
        .id();
    client.delete("/subjects/t-value/versions/1").await.ok();
    client.delete("/subjects/t-key").await.ok();
    client
        .put("/mode/u", &json!({ "mode": "READONLY" }))
        .await
        .ok();

    let before = everything(&client).await;
    registry.stop().await.unwrap();
    let registry = start(kafka.bootstrap(), &topic).await;
    let after = everything(&Client::new(&registry.url())).await;
    assert_eq!(before, after);
    registry.stop().await.unwrap();

    let records = dump(kafka.bootstrap(), &topic);
    let expected = [
        (r#"{"keytype":"CONFIG","subject":null,"magic":0}"#, r#"{"compatibilityLevel":"FULL"}"#),
        (r#"{"keytype":"CONFIG","subject":"t-value","magic":0}"#, r#"{"compatibilityLevel":"NONE"}"#),
        (
            r#"{"keytype":"SCHEMA","subject":"t-value","version":1,"magic":1}"#,
            r#"{"subject":"t-value","version":1,"id":1,"schema":"\"string\"","deleted":false}"#,
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"t-value","version":2,"magic":1}"#,
            r#"{"subject":"t-value","version":2,"id":2,"schema":"\"int\"","deleted":false}"#,
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"t-key","version":1,"magic":1}"#,
            r#"{"subject":"t-key","version":1,"id":1,"schema":"\"string\"","deleted":false}"#,
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"u","version":1,"magic":1}"#,
            r#"{"subject":"u","version":1,"id":3,"schema":"{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"a\",\"type\":\"int\"}]}","deleted":false}"#,
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"t-value","version":1,"magic":1}"#,
            r#"{"subject":"t-value","version":1,"id":1,"schema":"\"string\"","deleted":true}"#,
        ),
        (
            r#"{"keytype":"DELETE_SUBJECT","subject":"t-key","magic":0}"#,
            r#"{"subject":"t-key","version":1}"#,
        ),
        (r#"{"keytype":"MODE","subject":"u","magic":0}"#, r#"{"mode":"READONLY"}"#),
    ]
    .map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    assert_eq!(records, expected);
}

async fn everything(client: &Client) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    for path in [
        "/subjects?deleted=true",
        "/subjects",
        "/schemas?deleted=true",
        "/schemas",
        "/config",
        "/config/t-value",
        "/mode",
        "/mode/u",
        "/schemas/ids/1/versions?deleted=true",
    ] {
        all.push(client.get(path).await.ok());
    }
    all
}

/// What Confluent's registry writes in other versions and for features we don't have, and what is not a registry's at all.
#[tokio::test(flavor = "multi_thread")]
async fn another_registrys_records_are_served_and_strange_ones_skipped() {
    let kafka = RealKafka::shared().await.unwrap();
    let topic = fresh("foreign");
    start(kafka.bootstrap(), &topic).await.stop().await.unwrap();
    let bootstrap = kafka.bootstrap();
    let good = [
        (r#"{"keytype":"NOOP","magic":0}"#, None),
        (
            r#"{"keytype":"SCHEMA","subject":"c-value","version":1,"magic":1}"#,
            Some(
                r#"{"subject":"c-value","version":1,"id":7,"md5":"x","schemaType":null,"references":null,"metadata":{"properties":{"owner":"x"}},"schema":"{\"type\":\"record\",\"name\":\"C\",\"fields\":[]}","deleted":false,"ts":1}"#,
            ),
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"j-value","version":1,"magic":1}"#,
            Some(
                r#"{"subject":"j-value","version":1,"id":8,"schemaType":"JSON","schema":"{\"type\":\"object\"}","deleted":false}"#,
            ),
        ),
        (
            r#"{"keytype":"CONFIG","subject":"c-value","magic":0}"#,
            Some(
                r#"{"subject":"c-value","compatibilityLevel":"FULL_TRANSITIVE","validateFields":true}"#,
            ),
        ),
    ];
    let strange = [
        ("not JSON", Some("{}")),
        (r#"{"keytype":"KEK","magic":0}"#, Some("{}")),
        (
            r#"{"keytype":"SCHEMA","subject":"x","version":0,"magic":1}"#,
            None,
        ),
        (
            r#"{"keytype":"SCHEMA","subject":"x","version":1,"magic":1}"#,
            Some("{"),
        ),
        (
            r#"{"keytype":"SCHEMA","subject":":.ctx:x","version":1,"magic":1}"#,
            Some(r#"{"subject":":.ctx:x","version":1,"id":1,"schema":"\"int\"","deleted":false}"#),
        ),
        (
            // Another schema under an id that is taken.
            r#"{"keytype":"SCHEMA","subject":"thief","version":1,"magic":1}"#,
            Some(r#"{"subject":"thief","version":1,"id":7,"schema":"\"int\"","deleted":false}"#),
        ),
    ];
    for (key, value) in good {
        produce(bootstrap, &topic, Some(key), value).await;
    }
    for (key, value) in strange {
        produce(bootstrap, &topic, Some(key), value).await;
    }
    let registry = start(bootstrap, &topic).await;
    let client = Client::new(&registry.url());
    assert_eq!(registry.skipped_records(), strange.len() as u64);
    assert_eq!(
        client.get("/subjects").await.ok(),
        json!(["c-value", "j-value"])
    );
    assert_eq!(
        client.get("/subjects/c-value/versions/1").await.ok(),
        json!({ "subject": "c-value", "version": 1, "id": 7, "schema": r#"{"type":"record","name":"C","fields":[]}"# })
    );
    assert_eq!(
        client.get("/schemas/ids/8").await.ok(),
        json!({ "schema": r#"{"type":"object"}"#, "schemaType": "JSON" })
    );
    assert_eq!(
        client.get("/config/c-value").await.ok()["compatibilityLevel"],
        json!("FULL_TRANSITIVE")
    );
    // The next good one goes through, with an id that nobody has; and what we don't know of a record is kept.
    assert_eq!(client.register("n-value", "\"long\"").await.id(), 9);
    client.delete("/subjects/c-value/versions/1").await.ok();
    let last = dump(bootstrap, &topic).pop().unwrap();
    assert!(
        last.1
            .unwrap()
            .contains(r#""metadata":{"properties":{"owner":"x"}}"#)
    );
    registry.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_registries_on_one_topic_show_the_same() {
    let kafka = RealKafka::shared().await.unwrap();
    let topic = fresh("shared");
    let one = start(kafka.bootstrap(), &topic).await;
    let two = start(kafka.bootstrap(), &topic).await;
    let clients = [Client::new(&one.url()), Client::new(&two.url())];
    // In turns: what one has answered, the other builds on.
    for index in 0..10 {
        let schema = record(&format!("R{index}"), INT);
        let id = clients[index % 2]
            .register(&format!("s{index}"), &schema)
            .await
            .id();
        assert_eq!(id, index as i64 + 1);
    }
    // At the same time, under subjects of their own: every id stands for one schema.
    let mut writes = tokio::task::JoinSet::new();
    for index in 0..20 {
        let client = clients[index % 2].clone();
        writes.spawn(async move {
            let subject = format!("p{index}");
            let schema = record(&format!("P{index}"), INT);
            (client.register(&subject, &schema).await.id(), schema)
        });
    }
    let written = writes.join_all().await;
    for client in &clients {
        for (id, schema) in &written {
            let client = client.clone();
            eventually("both know the schema", async || {
                client.get(&format!("/schemas/ids/{id}")).await.body["schema"] == json!(schema)
            })
            .await;
        }
    }
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_would_lose_schemas_is_refused() {
    let kafka = RealKafka::shared().await.unwrap();
    let topic = fresh("uncompacted");
    // Made on first use, with the broker's defaults: cleanup.policy=delete.
    produce(kafka.bootstrap(), &topic, Some("x"), None).await;
    let context = Context::detached();
    let args = Args {
        schemas_topic: topic,
        ..Args::on_free_port(kafka.bootstrap())
    };
    let registry = Registry::start(args, context.clone()).await.unwrap();
    eventually("it says why it is not ready", async || {
        context
            .health
            .failing()
            .get("kafka")
            .is_some_and(|reason| reason.contains("cleanup.policy=delete"))
    })
    .await;
    let answer = Client::new(&registry.url()).get("/subjects").await;
    assert_eq!(answer.code(), (503, 50301));
    registry.stop().await.unwrap();
}

/// Kafka is away at the start, comes, goes, and comes again.
#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_it_waits_and_then_still_reads() {
    let mut kafka = RealKafka::start().await.unwrap();
    kafka.stop();
    let context = Context::detached();
    let args = Args {
        write_timeout_s: 2,
        ..Args::on_free_port(kafka.bootstrap())
    };
    let registry = Registry::start(args, context.clone()).await.unwrap();
    let client = Client::new(&registry.url());
    assert_eq!(client.get("/subjects").await.code(), (503, 50301));
    assert!(context.health.failing().contains_key("kafka"));

    kafka.restart().await.unwrap();
    eventually("it becomes ready", async || {
        context.health.failing().is_empty()
    })
    .await;
    let first = record("First", INT);
    let id = client.register("s", &first).await.id();

    kafka.stop();
    assert_eq!(client.get("/subjects").await.ok(), json!(["s"]));
    // What is registered is found, so producers can start.
    assert_eq!(client.register("s", &first).await.id(), id);
    let refused = client.register("t", &record("Second", INT)).await;
    assert_eq!(refused.status, 500, "{refused:?}");
    assert!([50001, 50002].contains(&refused.code().1), "{refused:?}");
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("_schemas")
    );
    eventually("it is no longer ready", async || {
        context.health.failing().contains_key("kafka")
    })
    .await;

    kafka.restart().await.unwrap();
    eventually("it becomes ready again", async || {
        context.health.failing().is_empty()
    })
    .await;
    client.register("t", &record("Second", INT)).await.id();
    assert_eq!(client.get("/subjects").await.ok(), json!(["s", "t"]));
    registry.stop().await.unwrap();
}
