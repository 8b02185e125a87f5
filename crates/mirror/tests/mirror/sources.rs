//! What only Apache Kafka does as a source: transactions, and records that are deleted before they could be carried.

use std::time::Duration;

use kafka::OutRecord;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::flows::{dropped, random_values};
use crate::world::{PATIENCE, World, args, gateway};

const LIMIT: Duration = Duration::from_secs(20);

/// What `/status` says of the flow's only topic.
async fn topic_status(listen: &str, call: &str) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = match call {
        "status" => client.get(format!("http://{listen}/status")),
        _ => client.put(format!("http://{listen}/{call}")),
    };
    let status: Value = serde_json::from_slice(&request.send().await?.bytes().await?)?;
    Ok(status["topics"][0].clone())
}

/// Their markers take offsets, and are no records.
pub(crate) async fn what_ends_a_transaction_is_no_lag(world: &mut World) {
    let gateway = gateway("markers");
    let topic = format!("iot.{gateway}.observations");
    let cluster = world.edge.cluster();
    world.edge.topic(&topic, 1, &[]).await;
    let put = {
        let (topic, gateway) = (topic.clone(), gateway.clone());
        move || {
            let producer: ThreadedProducer<DefaultProducerContext> = cluster
                .client_config()
                .set("transactional.id", gateway)
                .create()
                .unwrap();
            producer.init_transactions(LIMIT).unwrap();
            for round in 0..6 {
                producer.begin_transaction().unwrap();
                let record = BaseRecord::to(&topic).key("k").payload("v");
                producer.send(record).unwrap();
                // Or an aborted one would not even be sent.
                producer.flush(LIMIT).unwrap();
                match round % 2 {
                    0 => producer.commit_transaction(LIMIT).unwrap(),
                    _ => producer.abort_transaction(LIMIT).unwrap(),
                }
            }
        }
    };
    tokio::task::spawn_blocking(put).await.unwrap();
    // The last marker comes some time after its transaction's end was asked for.
    let ended = async || {
        anyhow::ensure!(world.edge.end(&topic).await == 12);
        Ok(())
    };
    testkit::wait_for(PATIENCE, "all markers to be there", ended)
        .await
        .unwrap();

    let listen = format!("127.0.0.1:{}", testkit::free_port());
    let more = [
        "--gateway",
        &gateway,
        "--direction",
        "edge-to-cloud",
        "--rest-listen",
        &listen,
    ];
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    world.cloud.read(&topic, 3).await;
    let look = async || {
        let topic = topic_status(&listen, "status").await?;
        anyhow::ensure!(topic["lag_records"] == 0 && topic["copied"] == 3, "{topic}");
        Ok(())
    };
    testkit::wait_for(PATIENCE, "no lag", look).await.unwrap();
    mirror.stop().await;

    // Nor is anything carried again.
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    let last = OutRecord {
        topic: &topic,
        value: Some(b"last"),
        ..OutRecord::default()
    };
    world.edge.put(last).await;
    let arrived = world.cloud.read(&topic, 4).await;
    assert_eq!(arrived.len(), 4);
    mirror.stop().await;
}

pub(crate) async fn what_the_source_deletes_first_is_counted(world: &mut World) {
    const RECORDS: usize = 1_500;
    const DELETED: i64 = 1_200;
    let gateway = gateway("deleted");
    let topic = format!("iot.{gateway}.observations");
    let values = random_values(RECORDS);
    let records: Vec<_> = values
        .iter()
        .map(|value| OutRecord {
            topic: &topic,
            value: Some(value),
            ..OutRecord::default()
        })
        .collect();
    world.edge.topic(&topic, 1, &[]).await;
    for some in records.chunks(20) {
        world.edge.put_all(some).await;
    }
    // Slow, so that most of it is not fetched yet when it is paused.
    let listen = format!("127.0.0.1:{}", testkit::free_port());
    let more = [
        "--gateway",
        &gateway,
        "--direction",
        "edge-to-cloud",
        "--bandwidth-limit",
        "100000",
        "--rest-listen",
        &listen,
    ];
    let mirror = world.start(args(&world.edge, &world.cloud, &more));
    world.cloud.read(&topic, 1).await;
    topic_status(&listen, "pause").await.unwrap();
    let admin: AdminClient<DefaultClientContext> =
        world.edge.cluster().client_config().create().unwrap();
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&topic, 0, Offset::Offset(DELETED))
        .unwrap();
    let deleted = admin.delete_records(&before, &AdminOptions::new()).await;
    deleted.unwrap();
    topic_status(&listen, "resume").await.unwrap();

    let left = RECORDS - usize::try_from(DELETED).unwrap();
    let last = &values[RECORDS - 1];
    let arrived = world
        .cloud
        .read_until(&topic, |records| {
            records
                .iter()
                .any(|record| record.value.as_ref() == Some(last))
        })
        .await;
    mirror.is_well().await;
    mirror.stop().await;
    let lost = dropped(&topic, "retention");
    assert!(
        lost > 0.0 && arrived.len() > left,
        "{lost} of {}",
        arrived.len()
    );
    assert_eq!(arrived.len() as f64 + lost, RECORDS as f64);
    let there: Vec<_> = arrived.iter().map(|record| record.value.as_ref()).collect();
    let tail: Vec<_> = values[RECORDS - left..].iter().map(Some).collect();
    assert!(there.ends_with(&tail));
}
