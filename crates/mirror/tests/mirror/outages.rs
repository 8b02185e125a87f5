use std::collections::HashSet;
use std::time::Duration;

use kafka::{OutRecord, Record};
use mirror::Direction;
use records::Response;
use tokio::time::sleep;

use crate::world::{PATIENCE, World, first_seen, gateway, reply};

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:06}")).collect()
}

/// One record per value, in turn for three keys.
fn records<'a>(topic: &'a str, values: &'a [String]) -> Vec<OutRecord<'a>> {
    let keys: [&[u8]; 3] = [b"dev-1", b"dev-2", b"dev-3"];
    values
        .iter()
        .zip(keys.into_iter().cycle())
        .map(|(value, key)| OutRecord {
            topic,
            key: Some(key),
            value: Some(value.as_bytes()),
            ..OutRecord::default()
        })
        .collect()
}

fn values(records: &[Record]) -> HashSet<&[u8]> {
    records
        .iter()
        .filter_map(|record| record.value.as_deref())
        .collect()
}

/// Everything is there, and the first time it is, in the order of its key.
async fn all_arrives_in_order(world: &World, topic: &str, count: usize) -> Vec<Record> {
    let arrived = world
        .cloud
        .read_until(topic, |records| values(records).len() >= count)
        .await;
    assert_eq!(values(&arrived).len(), count);
    for (key, values) in first_seen(&arrived) {
        assert!(values.is_sorted(), "{}", String::from_utf8_lossy(&key));
    }
    arrived
}

pub(crate) async fn a_registry_that_is_away_holds_everything_up(world: &mut World) {
    let gateway = gateway("registry-away");
    let topic = format!("iot.{gateway}.management.rep");
    let key = world.edge.key(&topic, "dev-1").await;
    let value = world.edge.value(&topic, &reply("dev-1", 1)).await;
    // What comes before the first schema passes; what comes after it waits.
    let plain = OutRecord {
        topic: &topic,
        key: Some(b"dev-2"),
        value: Some(b"plain"),
        ..OutRecord::default()
    };
    let framed = OutRecord {
        key: Some(&key),
        value: Some(&value),
        ..plain.clone()
    };
    let after = OutRecord {
        value: Some(b"after"),
        ..plain.clone()
    };
    world.cloud.stop_registry().await;
    world.edge.put_all(&[plain, framed, after]).await;

    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    let why = mirror.fails("flow").await;
    assert!(
        why.contains("schema registry") && why.contains(&world.cloud.registry_url),
        "{why}"
    );
    world.cloud.read(&topic, 1).await;
    sleep(Duration::from_secs(2)).await;
    let meanwhile = world.cloud.read(&topic, 1).await;
    assert_eq!(values(&meanwhile), HashSet::from([&b"plain"[..]]));
    assert_eq!(meanwhile.len(), 1, "an attempt that fails repeats nothing");

    world.cloud.start_registry().await;
    let arrived = world.cloud.read(&topic, 3).await;
    assert_eq!(arrived.len(), 3, "nothing twice");
    assert_eq!(arrived[2].value.as_deref(), Some(&b"after"[..]));
    let decoded: Response = world.cloud.decode(arrived[1].value.as_ref().unwrap()).await;
    assert_eq!(decoded, reply("dev-1", 1));
    mirror.is_well().await;
    mirror.stop().await;
}

pub(crate) async fn a_target_that_is_away_holds_everything_up(world: &mut World) {
    let gateway = gateway("target-away");
    let topic = format!("iot.{gateway}.observations");
    let all = numbered(6_000);
    let (first, second) = all.split_at(3_000);
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    world.edge.put_all(&records(&topic, first)).await;
    world.cloud.read(&topic, 1).await;
    world.cloud.stop_kafka().await;
    world.edge.put_all(&records(&topic, second)).await;
    let why = mirror.fails("target").await;
    assert!(why.contains("acknowledged nothing"), "{why}");
    world.cloud.start_kafka().await;
    all_arrives_in_order(world, &topic, all.len()).await;
    mirror.is_well().await;
    mirror.stop().await;
}

pub(crate) async fn a_source_that_is_away_is_waited_for(world: &mut World) {
    let gateway = gateway("source-away");
    let topic = format!("iot.{gateway}.observations");
    let all = numbered(2_000);
    let (first, second) = all.split_at(1_000);

    // At the start.
    world.edge.put_all(&records(&topic, first)).await;
    world.edge.stop_kafka().await;
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    let why = mirror.fails("source").await;
    assert!(why.contains(&world.edge.bootstrap), "{why}");
    world.edge.start_kafka().await;
    all_arrives_in_order(world, &topic, first.len()).await;

    // And later. It recovers although nothing new is there to be read.
    world.edge.stop_kafka().await;
    let why = mirror.fails("flow").await;
    assert!(why.contains("no Kafka broker"), "{why}");
    world.edge.start_kafka().await;
    mirror.is_well().await;
    world.edge.put_all(&records(&topic, second)).await;
    all_arrives_in_order(world, &topic, all.len()).await;
    mirror.stop().await;
}

pub(crate) async fn a_mirror_killed_in_the_middle_loses_nothing(world: &mut World) {
    let gateway = gateway("killed");
    let topic = format!("iot.{gateway}.observations");
    world.edge.topic(&topic, 3, &[]).await;
    world.cloud.topic(&topic, 2, &[]).await;
    let all = numbered(30_000);
    let records = records(&topic, &all);
    let (some, rest) = records.split_at(15_000);
    world.edge.put_all(some).await;

    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    world.cloud.read(&topic, 100).await;
    mirror.kill().await;
    // Records go on to come while nobody carries them.
    world.edge.put_all(rest).await;
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    let arrived = all_arrives_in_order(world, &topic, all.len()).await;
    mirror.stop().await;
    // What was under way when it was killed comes again, no more: a batch, and what was committed only locally.
    let twice = arrived.len() - all.len();
    assert!(twice <= some.len(), "{twice}");

    // Stopped in order, it comes back to nothing.
    let before = world.cloud.read(&topic, all.len()).await.len();
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    let last = OutRecord {
        value: Some(b"last"),
        ..records[0].clone()
    };
    world.edge.put(last).await;
    let after = world
        .cloud
        .read_until(&topic, |records| values(records).contains(&b"last"[..]))
        .await;
    assert_eq!(after.len(), before + 1);
    mirror.stop().await;
}

/// The client then refuses records at once, and each of them is read again until the topic is there.
pub(crate) async fn a_topic_deleted_at_the_target_costs_nothing_that_comes_later(
    world: &mut World,
) {
    let gateway = gateway("target-deleted");
    let topic = format!("iot.{gateway}.observations");
    let all = numbered(300);
    let (first, later) = all.split_at(100);
    let (second, third) = later.split_at(100);
    world.cloud.topic(&topic, 1, &[]).await;
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    world.edge.put_all(&records(&topic, first)).await;
    world.cloud.read(&topic, first.len()).await;

    let cloud = world.cloud.cluster();
    kafka::delete_topic(&cloud, &topic).await.unwrap();
    world.edge.put_all(&records(&topic, second)).await;
    // For half a minute the topic may only not be known everywhere yet. Then what is under way fails, and what is
    // handed over after it is refused at once.
    let refused = async || {
        let failing = mirror.health.failing();
        let why = failing.get("target").map_or("", String::as_str);
        anyhow::ensure!(why.contains("does not take records") && !why.contains("trying again"));
        Ok(())
    };
    testkit::wait_for(PATIENCE, "records to be refused", refused)
        .await
        .unwrap();
    world.edge.put_all(&records(&topic, third)).await;
    // Long enough for a few attempts.
    sleep(Duration::from_secs(2)).await;

    world.cloud.topic(&topic, 1, &[]).await;
    all_arrives_in_order(world, &topic, later.len()).await;
    mirror.is_well().await;
    mirror.stop().await;
}

pub(crate) async fn a_flows_only_topic_made_anew_is_carried_whole(world: &mut World) {
    let gateway = gateway("anew");
    let topic = format!("iot.{gateway}.observations");
    let all = numbered(300);
    let (first, rest) = all.split_at(50);
    let (second, third) = rest.split_at(100);
    let edge = world.edge.cluster();
    let mirror = world.mirror(Direction::EdgeToCloud, &gateway);
    world.edge.topic(&topic, 1, &[]).await;
    world.edge.put_all(&records(&topic, first)).await;
    world.cloud.read(&topic, first.len()).await;

    // Gone for a while, then longer than before.
    kafka::delete_topic(&edge, &topic).await.unwrap();
    let shown = format!("zeelos_mirror_lag_records{{topic=\"{topic}\"}}");
    let gone = async || {
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather())?;
        anyhow::ensure!(!text.contains(&shown));
        Ok(())
    };
    testkit::wait_for(PATIENCE, "the topic to be forgotten", gone)
        .await
        .unwrap();
    world.edge.topic(&topic, 1, &[]).await;
    world.edge.put_all(&records(&topic, second)).await;
    all_arrives_in_order(world, &topic, first.len() + second.len()).await;

    // Between two looks, and shorter than before.
    kafka::delete_topic(&edge, &topic).await.unwrap();
    world.edge.topic(&topic, 1, &[]).await;
    let (early, late) = third.split_at(20);
    world.edge.put_all(&records(&topic, early)).await;
    all_arrives_in_order(world, &topic, first.len() + second.len() + early.len()).await;
    world.edge.put_all(&records(&topic, late)).await;
    all_arrives_in_order(world, &topic, all.len()).await;
    mirror.stop().await;
}
