//! What our broker keeps on its disk, and what it drops.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::Parser;
use embedded_kafka::{Broker, BrokerConfig, FlushPolicy, StartError};
use kafka_protocol::{
    messages::{OffsetFetchRequest, offset_fetch_request::OffsetFetchRequestTopic},
    protocol::StrBytes,
};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::{CommitMode, Consumer, StreamConsumer},
};
use tempfile::TempDir;

use crate::{
    raw::{Batch, Raw, name},
    support::{
        Embedded, PATIENCE, admin, client, now_ms, produce, producer, reader, take, until,
        watermarks,
    },
};

/// The log files of a partition, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir, "log")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

async fn create(bootstrap: &str, topic: &str, settings: &[(&str, &str)]) {
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let new = settings
        .iter()
        .fold(new, |new, (name, value)| new.set(name, value));
    admin(bootstrap)
        .create_topics([&new], &options)
        .await
        .unwrap()
        .remove(0)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_topics_records_offsets_and_producers() {
    let broker = Embedded::start().await;
    let cluster = broker.cluster_id().to_owned();
    create(&broker.bootstrap(), "kept", &[("retention.ms", "-1")]).await;
    let sender = producer(&broker.bootstrap());
    for n in 0..10 {
        produce(&sender, "kept", 0, &format!("{n}")).await;
    }
    let consumer: StreamConsumer = client(&broker.bootstrap())
        .set("group.id", "g")
        .create()
        .unwrap();
    let mut place = TopicPartitionList::new();
    place
        .add_partition_offset("kept", 0, Offset::Offset(4))
        .unwrap();
    consumer.commit(&place, CommitMode::Sync).unwrap();
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let id = raw.producer_id().await;
    let batch = Batch::of(&["once"]).by(id, 0, 0).bytes();
    assert_eq!(raw.produce("kept", 0, batch.clone()).await.base_offset, 10);
    drop((sender, consumer));

    let dir = broker.stop().await;
    assert_eq!(
        files(&dir.path().join("topics/kept-0"), "index").len(),
        1,
        "stopped in order: the segment is marked whole"
    );
    let broker = Embedded::start_in(dir, |_| {}).await;
    assert_eq!(broker.cluster_id(), cluster);
    assert_eq!(watermarks(&broker.bootstrap(), "kept", 0).await, (0, 11));
    let values = take(&reader(&broker.bootstrap(), "kept", 0, 0), 11).await;
    assert_eq!(values[9..], ["9", "once"]);
    let consumer: StreamConsumer = client(&broker.bootstrap())
        .set("group.id", "g")
        .create()
        .unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        let mut place = TopicPartitionList::new();
        place.add_partition("kept", 0);
        consumer
            .committed_offsets(place, PATIENCE)
            .unwrap()
            .elements()[0]
            .offset()
    });
    assert_eq!(asked.await.unwrap(), Offset::Offset(4));
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    assert_eq!(
        raw.produce("kept", 0, batch).await.base_offset,
        10,
        "a batch sent again after the restart is still known"
    );
    assert!(raw.producer_id().await > id, "ids go on after the restart");
    assert_eq!(
        produce(&producer(&broker.bootstrap()), "kept", 0, "next").await,
        11
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_is_said_on_the_readiness_page_until_it_does() {
    let dir = TempDir::new().unwrap();
    let listen = format!("127.0.0.1:{}", testkit::free_port());
    let args = Program::try_parse_from([
        "kafka",
        "--listen",
        &listen,
        "--data-dir",
        dir.path().to_str().unwrap(),
    ]);
    let context = service::Context::detached();
    let running = tokio::spawn(embedded_kafka::run(args.unwrap().args, context.clone()));
    until("the service is ready", async || {
        context.health.failing().is_empty()
    })
    .await;
    // Each record needs a new segment, and so its partition's folder.
    create(&listen, "t", &[("segment.bytes", "1024")]).await;
    let sender = producer(&listen);
    let large = "x".repeat(2_000);
    produce(&sender, "t", 0, &large).await;
    let (folder, away) = (dir.path().join("topics/t-0"), dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    let next = tokio::spawn(async move { produce(&sender, "t", 0, &large).await });
    until("it is said what fails", async || {
        let failing = context.health.failing();
        let said = failing.get("disk");
        said.is_some_and(|said| said.contains("t-0") && said.contains("check the disk"))
    })
    .await;
    assert!(!next.is_finished(), "acknowledged, and not kept");

    fs::rename(&away, &folder).unwrap();
    assert_eq!(next.await.unwrap(), 1);
    until("all is well again", async || {
        context.health.failing().is_empty()
    })
    .await;
    context.shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: embedded_kafka::Args,
}

/// Set in the child that the story below kills: the directory its broker uses.
const CHILD_DIR: &str = "EMBEDDED_KAFKA_TEST_CHILD_DIR";

/// Not a story of its own: the process that is killed. Does nothing unless it is started as that.
#[tokio::test(flavor = "multi_thread")]
async fn child_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else {
        return;
    };
    let config = BrokerConfig::new("127.0.0.1:0".parse().unwrap(), dir.join("data"));
    let broker = Broker::start(config).await.unwrap();
    fs::write(dir.join("address.tmp"), broker.local_addr().to_string()).unwrap();
    fs::rename(dir.join("address.tmp"), dir.join("address")).unwrap();
    std::future::pending::<()>().await;
}

async fn start_child(dir: &Path) -> (Child, String) {
    let address = dir.join("address");
    let _ = fs::remove_file(&address);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::child_process", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the child listens", async || address.exists()).await;
    (child, fs::read_to_string(address).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let (mut child, bootstrap) = start_child(dir.path()).await;
        let sender = producer(&bootstrap);
        if round > 0 {
            let kept = take(&reader(&bootstrap, "crash", 0, 0), acknowledged.len()).await;
            assert_eq!(kept, acknowledged, "after {round} kills");
        }
        for n in 0..50 {
            let value = format!("{round}-{n}");
            assert_eq!(
                produce(&sender, "crash", 0, &value).await,
                acknowledged.len() as i64
            );
            acknowledged.push(value);
        }
        let consumer: StreamConsumer = client(&bootstrap).set("group.id", "g").create().unwrap();
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset("crash", 0, Offset::Offset(acknowledged.len() as i64))
            .unwrap();
        consumer.commit(&place, CommitMode::Sync).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let broker = Broker::start(BrokerConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        dir.path().join("data"),
    ))
    .await
    .unwrap();
    let bootstrap = broker.local_addr().to_string();
    assert_eq!(
        take(&reader(&bootstrap, "crash", 0, 0), 150).await,
        acknowledged
    );
    let consumer: StreamConsumer = client(&bootstrap).set("group.id", "g").create().unwrap();
    let committed = tokio::task::spawn_blocking(move || {
        let mut place = TopicPartitionList::new();
        place.add_partition("crash", 0);
        consumer
            .committed_offsets(place, PATIENCE)
            .unwrap()
            .elements()[0]
            .offset()
    });
    assert_eq!(committed.await.unwrap(), Offset::Offset(150));
    broker.shutdown().await;
}

/// What a group has committed for partition 0.
async fn raw_committed(bootstrap: &str, group: &str, topic: &str) -> i64 {
    let places = OffsetFetchRequestTopic::default()
        .with_name(name(topic))
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(StrBytes::from_string(group.to_owned()).into())
        .with_topics(Some(vec![places]));
    let found = Raw::connect(bootstrap).await.call(5, &request).await;
    found.topics[0].partitions[0].committed_offset
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_outlive_a_restart_of_the_broker() {
    let listen = SocketAddr::from(([127, 0, 0, 1], testkit::free_port()));
    let broker = Embedded::start_with(|config| config.listen = listen).await;
    let bootstrap = broker.bootstrap();
    create(&bootstrap, "lasting", &[]).await;
    let sender = producer(&bootstrap);
    let consumer: StreamConsumer = client(&bootstrap)
        .set("group.id", "lasting")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("heartbeat.interval.ms", "200")
        .set("reconnect.backoff.max.ms", "200")
        .create()
        .unwrap();
    consumer.subscribe(&["lasting"]).unwrap();
    produce(&sender, "lasting", 0, "before").await;
    assert_eq!(take(&consumer, 1).await, ["before"]);
    consumer.commit_consumer_state(CommitMode::Sync).unwrap();

    let dir = broker.stop().await;
    // What is produced meanwhile waits in the client.
    let meanwhile = tokio::spawn(async move {
        produce(&sender, "lasting", 0, "meanwhile").await;
        sender
    });
    let broker = Embedded::start_in(dir, |config| config.listen = listen).await;
    let sender = meanwhile.await.unwrap();
    produce(&sender, "lasting", 0, "after").await;
    assert_eq!(take(&consumer, 2).await, ["meanwhile", "after"]);
    // Its membership was forgotten: it joins again by itself, and then its commits count again.
    until("the group formed anew and committed", async || {
        let _ = tokio::time::timeout(Duration::from_millis(20), consumer.recv()).await;
        let committed = consumer.commit_consumer_state(CommitMode::Sync).is_ok();
        committed && raw_committed(&bootstrap, "lasting", "lasting").await == 3
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_off_and_its_producer_goes_on() {
    let whole = Batch::of(&["half", "written"]).bytes();
    let mut flipped = whole.to_vec();
    *flipped.last_mut().unwrap() ^= 0x10;
    let mut claims_more = whole.to_vec();
    claims_more[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    let tails: [&[u8]; 5] = [
        &whole[..40],
        &whole[..whole.len() - 1],
        &flipped,
        &claims_more,
        &[0; 500],
    ];
    for tail in tails {
        let broker = Embedded::start().await;
        let mut raw = Raw::connect(&broker.bootstrap()).await;
        raw.create_topic("torn", 1).await;
        let id = raw.producer_id().await;
        for n in 0..5 {
            assert_eq!(
                raw.produce("torn", 0, Batch::of(&["v"]).by(id, 0, n).bytes())
                    .await
                    .error_code,
                0
            );
        }
        let path = segments(&broker.partition_dir("torn", 0)).remove(0);
        let dir = broker.stop().await;
        let len = fs::metadata(&path).unwrap().len();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(tail)
            .unwrap();

        let broker = Embedded::start_in(dir, |_| {}).await;
        assert_eq!(fs::metadata(&path).unwrap().len(), len, "the tail is gone");
        let mut raw = Raw::connect(&broker.bootstrap()).await;
        assert_eq!(raw.offset("torn", 0, -1).await.0, 5);
        let again = raw
            .produce("torn", 0, Batch::of(&["v"]).by(id, 0, 4).bytes())
            .await;
        assert_eq!((again.error_code, again.base_offset), (0, 4));
        let next = raw
            .produce("torn", 0, Batch::of(&["v"]).by(id, 0, 5).bytes())
            .await;
        assert_eq!((next.error_code, next.base_offset), (0, 5));
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_offsets_survive_a_torn_line() {
    let broker = Embedded::start().await;
    create(&broker.bootstrap(), "t", &[]).await;
    let commit = async |bootstrap: String, offset: i64| {
        let consumer: StreamConsumer = client(&bootstrap).set("group.id", "g").create().unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            let mut place = TopicPartitionList::new();
            place.add_partition("t", 0);
            let found = consumer
                .committed_offsets(place.clone(), PATIENCE)
                .unwrap()
                .elements()[0]
                .offset();
            place
                .set_partition_offset("t", 0, Offset::Offset(offset))
                .unwrap();
            consumer.commit(&place, CommitMode::Sync).unwrap();
            found
        });
        asked.await.unwrap()
    };
    assert_eq!(commit(broker.bootstrap(), 3).await, Offset::Invalid);
    let dir = broker.stop().await;
    let path = dir.path().join("offsets.log");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"deadbeef {\"Commit\":{\"gro")
        .unwrap();
    let broker = Embedded::start_in(dir, |_| {}).await;
    assert_eq!(commit(broker.bootstrap(), 8).await, Offset::Offset(3));
    let broker = Embedded::start_in(broker.stop().await, |_| {}).await;
    assert_eq!(commit(broker.bootstrap(), 9).await, Offset::Offset(8));
    broker.stop().await;
}

/// A broker that applies retention all the time.
async fn tidy(change: impl FnOnce(&mut BrokerConfig)) -> Embedded {
    Embedded::start_with(|config| {
        config.retention.check_interval = Duration::from_millis(20);
        change(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_by_size_drops_the_oldest_segments() {
    let broker = tidy(|_| {}).await;
    let settings = [("segment.bytes", "20000"), ("retention.bytes", "50000")];
    create(&broker.bootstrap(), "small", &settings).await;
    create(
        &broker.bootstrap(),
        "state",
        &[("cleanup.policy", "compact"), settings[0], settings[1]],
    )
    .await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let value = "v".repeat(5_000);
    for topic in ["small", "state"] {
        for _ in 0..40 {
            assert_eq!(
                raw.produce(topic, 0, Batch::of(&[&value]).bytes())
                    .await
                    .error_code,
                0
            );
        }
    }
    let bytes = |topic: &str| -> u64 {
        let logs = segments(&broker.partition_dir(topic, 0));
        logs.iter()
            .map(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
            .sum()
    };
    until("the topic is within its bounds", async || {
        bytes("small") <= 70_000
    })
    .await;
    assert!(bytes("small") >= 50_000, "no more than needed went");
    let (start, end) = watermarks(&broker.bootstrap(), "small", 0).await;
    assert!(start > 0 && end == 40, "{start} to {end}");
    assert_eq!(raw.fetch("small", 0, start - 1, 100).await.error_code, 1);
    assert_eq!(
        take(
            &reader(&broker.bootstrap(), "small", 0, start),
            (end - start) as usize
        )
        .await
        .len(),
        (end - start) as usize
    );
    assert_eq!(
        watermarks(&broker.bootstrap(), "state", 0).await,
        (0, 40),
        "a compacted topic is state: all of it stays"
    );
    let broker = Embedded::start_in(broker.stop().await, |_| {}).await;
    assert_eq!(
        watermarks(&broker.bootstrap(), "small", 0).await,
        (start, end),
        "the start is kept over a restart"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_by_time_drops_what_is_older() {
    let broker = tidy(|_| {}).await;
    create(&broker.bootstrap(), "old", &[("retention.ms", "3600000")]).await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let hours = |n: i64| now_ms() - n * 3_600_000;
    raw.produce(
        "old",
        0,
        Batch::of(&["a", "b"]).at(&[hours(3), hours(2)]).bytes(),
    )
    .await;
    until("the old records are gone", async || {
        watermarks(&broker.bootstrap(), "old", 0).await == (2, 2)
    })
    .await;
    raw.produce("old", 0, Batch::of(&["new"]).bytes()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(watermarks(&broker.bootstrap(), "old", 0).await, (2, 3));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_topics_together_stay_within_their_share_of_the_disk() {
    let broker = tidy(|config| config.retention.total_bytes = Some(100_000)).await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let value = "v".repeat(5_000);
    for n in 0..4 {
        let topic = format!("t{n}");
        create(
            &broker.bootstrap(),
            &topic,
            &[("segment.bytes", "10000"), ("retention.bytes", "-1")],
        )
        .await;
        for _ in 0..15 {
            raw.produce(&topic, 0, Batch::of(&[&value]).bytes()).await;
        }
    }
    let all = || -> u64 {
        let logs = (0..4).flat_map(|n| segments(&broker.partition_dir(&format!("t{n}"), 0)));
        logs.map(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
            .sum()
    };
    until("the share is kept", async || all() <= 100_000).await;
    assert_eq!(watermarks(&broker.bootstrap(), "t3", 0).await.1, 15);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_segments_are_read_through_and_found_again() {
    let broker = Embedded::start().await;
    create(
        &broker.bootstrap(),
        "many",
        &[
            ("segment.bytes", "3000"),
            ("message.timestamp.type", "LogAppendTime"),
        ],
    )
    .await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let before = now_ms();
    for n in 0..60 {
        let stored = raw
            .produce(
                "many",
                0,
                Batch::of(&[&format!("{n} {}", "v".repeat(400))])
                    .at(&[7])
                    .bytes(),
            )
            .await;
        assert!(stored.log_append_time_ms >= before);
    }
    assert!(segments(&broker.partition_dir("many", 0)).len() > 5);
    let check = async |bootstrap: String| {
        for from in [0, 1, 29, 30, 31, 59] {
            let values = take(&reader(&bootstrap, "many", 0, from), 60 - from as usize).await;
            assert!(
                values
                    .iter()
                    .enumerate()
                    .all(|(n, value)| value.starts_with(&format!("{} ", from as usize + n)))
            );
        }
        let mut raw = Raw::connect(&bootstrap).await;
        let (offset, time) = raw.offset("many", 0, before).await;
        assert!(offset == 0 && time >= before, "the time of arrival counts");
    };
    check(broker.bootstrap()).await;
    let dir = broker.stop().await;
    // Without their indexes the segments are read through and checked.
    for index in files(&dir.path().join("topics/many-0"), "index") {
        fs::remove_file(index).unwrap();
    }
    let broker = Embedded::start_in(dir, |_| {}).await;
    check(broker.bootstrap()).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_syncs_each_append_serves_the_same() {
    let broker = Embedded::start_with(|config| config.flush = FlushPolicy::EveryAppend).await;
    let sender = producer(&broker.bootstrap());
    for n in 0..5 {
        assert_eq!(produce(&sender, "synced", 0, "v").await, n);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_broker_and_one_cluster() {
    let broker = Embedded::start().await;
    let stored = broker.cluster_id().to_owned();
    let second = |dir: &Path, id: Option<&str>| {
        let mut config = BrokerConfig::new("127.0.0.1:0".parse().unwrap(), dir);
        config.cluster_id = id.map(str::to_owned);
        Broker::start(config)
    };
    let dir = broker
        .partition_dir("x", 0)
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let refused = second(&dir, None).await.unwrap_err();
    assert!(matches!(refused, StartError::Locked(_)), "{refused}");
    assert!(refused.to_string().contains("another broker"));

    let kept = broker.stop().await;
    let refused = second(&dir, Some("another")).await.unwrap_err();
    assert!(matches!(refused, StartError::ClusterId { .. }), "{refused}");
    second(&dir, Some(&stored)).await.unwrap().shutdown().await;
    let other = Embedded::start().await;
    assert_ne!(
        other.cluster_id(),
        stored,
        "each data directory gets its own id"
    );
    other.stop().await;
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_list_of_topics_stops_the_start_with_its_name() {
    let broker = Embedded::start().await;
    create(&broker.bootstrap(), "t", &[]).await;
    let dir = broker.stop().await;
    fs::write(dir.path().join("topics.json"), b"{ not json").unwrap();
    let config = BrokerConfig::new("127.0.0.1:0".parse().unwrap(), dir.path());
    let refused = Broker::start(config).await.unwrap_err();
    assert!(refused.to_string().contains("topics.json"), "{refused}");
}
