//! Mirrors killed as a power cut would, and links that stall and break, on Apache Kafka: every record is at the target
//! once, in the order of its key. Each record has a number, and all are counted at the end.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kafka::{OutRecord, Record};
use testkit::{Child, Launch, Link, LinkQuality, RunDir};
use tokio::time::sleep;

use crate::world::{PATIENCE, World};

const KEYS: usize = 7;

/// In this process's place: `this_process_is_a_mirror` with the arguments in a variable.
fn spawn(dir: &Path, arguments: &[&str]) -> Child {
    Launch::new("mirror", std::env::current_exe().unwrap())
        .args([
            "--exact",
            "exactly_once::this_process_is_a_mirror",
            "--nocapture",
        ])
        .env(ARGUMENTS, arguments.join("\n"))
        .spawn(&dir.join("log"))
        .unwrap()
}

const ARGUMENTS: &str = "ZEELOS_TEST_MIRROR";

/// A test only in name: the others start it as a process that they can kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_process_is_a_mirror() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: mirror::Args,
    }
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let line = std::iter::once("mirror").chain(arguments.lines());
    let line = <Line as clap::Parser>::try_parse_from(line).unwrap();
    mirror::run(line.args, service::Context::detached())
        .await
        .unwrap();
}

/// A seeded random number below `bound` (splitmix64).
fn random(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % bound
}

/// Numbered records, in turn for the keys, a few hundred at a time with pauses.
async fn offer(world: &World, topic: &str, count: usize, pause: Duration) {
    let values: Vec<String> = (0..count).map(|n| format!("{n:07}")).collect();
    let keys: Vec<String> = (0..KEYS).map(|n| format!("dev-{n}")).collect();
    let records: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(n, value)| OutRecord {
            topic,
            key: Some(keys[n % KEYS].as_bytes()),
            value: Some(value.as_bytes()),
            ..OutRecord::default()
        })
        .collect();
    for some in records.chunks(500) {
        world.edge.put_all(some).await;
        sleep(pause).await;
    }
}

/// Every number once, in order per key.
fn all_are_there_once(arrived: &[Record], count: usize) {
    let mut last: HashMap<&[u8], usize> = HashMap::new();
    let mut seen = vec![0_u32; count];
    for record in arrived {
        let value = record.value.as_deref().unwrap();
        let number: usize = std::str::from_utf8(value).unwrap().parse().unwrap();
        seen[number] += 1;
        let before = last.insert(record.key.as_deref().unwrap(), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{number} after {before:?}"
        );
    }
    let twice = seen.iter().filter(|times| **times > 1).count();
    let missing = seen.iter().filter(|times| **times == 0).count();
    assert_eq!(
        (twice, missing),
        (0, 0),
        "copied twice and missing, of {count}"
    );
}

/// Started anew, it goes on within two seconds; the bound here leaves room for a busy machine.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_each_record_arrives_once() {
    const COUNT: usize = 40_000;
    let mut seed =
        std::env::var("ZEELOS_TEST_SEED").map_or(20_240_501, |text| text.parse().unwrap());
    println!("seed {seed}");
    let world = World::brokers().await;
    let topic = "iot.kill.observations";
    world.edge.topic(topic, 3, &[]).await;
    world.cloud.topic(topic, 2, &[]).await;
    let dir = RunDir::new("mirror-kill").unwrap();
    let arguments = [
        "--gateway",
        "kill",
        "--direction",
        "edge-to-cloud",
        "--delivery",
        "exactly-once",
        "--keep-schema-ids",
        "--source-bootstrap-server",
        &world.edge.bootstrap,
        "--target-bootstrap-server",
        &world.cloud.bootstrap,
    ];
    let kills = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..6 {
            let mut mirror = spawn(dir.path(), &arguments);
            let began = Instant::now();
            let before = world.cloud.end(topic).await;
            let moved = async || {
                anyhow::ensure!(world.cloud.end(topic).await > before);
                Ok(())
            };
            testkit::wait_for(PATIENCE, "records to be carried", moved)
                .await
                .unwrap();
            slowest = slowest.max(began.elapsed());
            sleep(Duration::from_millis(random(&mut seed, 900))).await;
            mirror.kill();
        }
        println!("until records moved again: {slowest:?} at worst");
        assert!(slowest < RECOVERY, "{slowest:?}");
    };
    tokio::join!(
        kills,
        offer(&world, topic, COUNT, Duration::from_millis(150))
    );
    let mut mirror = spawn(dir.path(), &arguments);
    let arrived = world.cloud.read(topic, COUNT).await;
    all_are_there_once(&arrived, COUNT);

    // Without transactions it goes on where it was, and later again with them: nothing twice, where it ended in order.
    mirror.terminate(Duration::from_secs(5)).await.ok();
    let mut mirror = spawn(
        dir.path(),
        &arguments.map(|text| {
            if text == "exactly-once" {
                "at-least-once"
            } else {
                text
            }
        }),
    );
    let last = |value: &'static str| OutRecord {
        topic,
        key: Some(b"dev-0"),
        value: Some(value.as_bytes()),
        ..OutRecord::default()
    };
    world.edge.put(last("0040000")).await;
    world
        .cloud
        .read_until(topic, |records| {
            records.last().is_some_and(|_| {
                records
                    .iter()
                    .any(|r| r.value.as_deref() == Some(b"0040000"))
            })
        })
        .await;
    // Its commit follows the acknowledgement.
    sleep(Duration::from_millis(500)).await;
    mirror.kill();
    let mirror = spawn(dir.path(), &arguments);
    world.edge.put(last("0040001")).await;
    let arrived = world
        .cloud
        .read_until(topic, |records| {
            records
                .iter()
                .any(|r| r.value.as_deref() == Some(b"0040001"))
        })
        .await;
    assert_eq!(
        arrived
            .iter()
            .filter(|r| r.value.as_deref() == Some(b"0040000"))
            .count(),
        1
    );
    drop(mirror);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_link_that_loses_and_breaks_each_record_arrives_once() {
    const COUNT: usize = 6_000;
    let mut seed = 7;
    let quality = LinkQuality {
        loss: 0.01,
        seed,
        ..LinkQuality::delayed(Duration::from_millis(200))
    };
    let far = testkit::free_port();
    let link = Link::start(far, quality).await.unwrap();
    let world = World::brokers_linked(&link, far).await;
    let dir = RunDir::new("mirror-link").unwrap();
    let through = format!("127.0.0.1:{}", link.port());
    // Both ways over the same link: pulled from the edge, and pushed to it.
    let pull = [
        "--gateway",
        "link",
        "--direction",
        "edge-to-cloud",
        "--keep-schema-ids",
        "--source-bootstrap-server",
        &through,
        "--target-bootstrap-server",
        &world.cloud.bootstrap,
    ];
    let push = [
        "--topics",
        "commands",
        "--flow",
        "commands-to-edge",
        "--transfer",
        "push",
        "--keep-schema-ids",
        "--source-bootstrap-server",
        &world.cloud.bootstrap,
        "--target-bootstrap-server",
        &through,
    ];
    let topic = "iot.link.observations";
    world.edge.topic(topic, 2, &[]).await;
    for site in [&world.cloud, &world.edge] {
        site.topic("commands", 1, &[]).await;
    }
    let mut mirrors = [spawn(dir.path(), &pull), spawn(dir.path(), &push)];
    let cuts = async {
        for _ in 0..4 {
            sleep(Duration::from_millis(1_500 + random(&mut seed, 1_500))).await;
            link.cut();
        }
        link.set_down(true);
        sleep(Duration::from_secs(2)).await;
        link.set_down(false);
    };
    let commands: Vec<String> = (0..500).map(|n| format!("{n:07}")).collect();
    let command = async {
        for value in &commands {
            let record = OutRecord {
                topic: "commands",
                key: Some(b"dev-1"),
                value: Some(value.as_bytes()),
                ..OutRecord::default()
            };
            world.cloud.put(record).await;
            sleep(Duration::from_millis(15)).await;
        }
    };
    tokio::join!(
        cuts,
        command,
        offer(&world, topic, COUNT, Duration::from_millis(600))
    );
    all_are_there_once(&world.cloud.read(topic, COUNT).await, COUNT);
    all_are_there_once(
        &world.edge.read("commands", commands.len()).await,
        commands.len(),
    );
    for mirror in &mut mirrors {
        assert!(mirror.exited().unwrap().is_none(), "{}", mirror.tail());
    }
}
