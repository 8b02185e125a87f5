//! Nothing is lost and nothing counts twice, wherever it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use kafka::{delete_topic, ensure_topic};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use site::PATIENCE;

use crate::support::{INPUT, OUTPUT, Site, counted};

const COUNT_GROUP: &str = "leshan-simple-analytics";
const MAX_GROUP: &str = "leshan-maxper30sec-analytic";

/// As if the last commits had been lost: everything is delivered again.
async fn forget_commits(site: &Site, group: &str, partitions: i32) {
    let consumer: BaseConsumer = site
        .cluster()
        .client_config()
        .set("group.id", group)
        .create()
        .unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in 0..partitions {
        offsets
            .add_partition_offset(INPUT, partition, Offset::Offset(0))
            .unwrap();
    }
    // The member that was killed may still be leaving.
    testkit::wait_for(PATIENCE, "the commit", async || {
        Ok(consumer.commit(&offsets, CommitMode::Sync)?)
    })
    .await
    .unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A small generator of our own, so that both runs and every machine see the same readings.
fn readings() -> Vec<(String, i64, f64)> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    (0..2_000_i64)
        .map(|i| {
            let ep = format!("sensor-{}", next(20));
            // Time goes on; a tenth come up to two minutes late.
            let late = if next(10) == 0 { next(120_000) } else { 0 };
            let value = next(1_000_000) as f64 / 1_000.0;
            (ep, 200_000 + i * 100 - late as i64, value)
        })
        .collect()
}

async fn bytes(site: &Site, topic: &str) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let records = site.records(topic).await.into_iter();
    records
        .map(|r| (r.key.unwrap(), r.value.unwrap()))
        .collect()
}

/// The last count of each key.
fn counts(lines: &[String]) -> BTreeMap<String, u64> {
    let pairs = lines.iter().map(|line| {
        let (key, count) = line.rsplit_once(", ").unwrap();
        (key.to_owned(), count.parse().unwrap())
    });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_gives_what_it_gives_undisturbed() {
    let site = Site::start().await;
    ensure_topic(&site.cluster(), INPUT, 2, &[]).await.unwrap();
    let other = site.folder().join("undisturbed");
    let other = other.to_str().unwrap();
    // With a grace of a minute some readings are too late: those, too, must be the same ones.
    let calm_max = site.run(&format!(
        "temperature --grace 60 --group calm-max --output-topic calm --data-dir {other}"
    ));
    let calm_count = site.run(&format!(
        "aggregate --grace 60 --group calm-count --data-dir {other}"
    ));

    let mut printed = Vec::new();
    let readings = readings();
    for part in readings.chunks(200) {
        let max = site.run("temperature --grace 60");
        let count = site.run("aggregate --grace 60");
        let (now, later) = part.split_at(100);
        for (ep, at_ms, value) in now {
            site.reads(ep, "/3303/0/5700", *at_ms, *value).await;
        }
        let before = count.console.lines().len();
        testkit::wait_for(PATIENCE, "new counts", async || {
            ensure!(count.console.lines().len() > before);
            Ok(())
        })
        .await
        .unwrap();
        // In the middle of what is still coming.
        for (ep, at_ms, value) in later {
            site.reads(ep, "/3303/0/5700", *at_ms, *value).await;
        }
        max.kill().await;
        printed.extend(count.console.lines());
        count.kill().await;
        forget_commits(&site, MAX_GROUP, 2).await;
        forget_commits(&site, COUNT_GROUP, 2).await;
    }

    let max = site.run("temperature --grace 60");
    let count = site.run("aggregate --grace 60");
    testkit::wait_for(PATIENCE, "the same maxima", async || {
        let (ours, calm) = (bytes(&site, OUTPUT).await, bytes(&site, "calm").await);
        ensure!(calm.len() > 100, "{} maxima undisturbed", calm.len());
        ensure!(ours == calm, "{} of {} maxima", ours.len(), calm.len());
        Ok(())
    })
    .await
    .unwrap();
    testkit::wait_for(PATIENCE, "the same counts", async || {
        let calm = counts(&calm_count.console.lines());
        let lines: Vec<String> = printed
            .iter()
            .cloned()
            .chain(count.console.lines())
            .collect();
        let ours = counts(&lines);
        let counted: u64 = calm
            .iter()
            .filter(|(key, _)| key.contains(':'))
            .map(|(_, n)| n)
            .sum();
        // Nearly all are counted: what is missing was too late.
        ensure!(
            (1_900..2_000).contains(&counted),
            "{counted} counted undisturbed"
        );
        ensure!(ours == calm, "{ours:?} is not {calm:?}");
        Ok(())
    })
    .await
    .unwrap();
    for running in [max, count, calm_max, calm_count] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_again_does_not_count_twice() {
    delivered_again(&Site::start().await, "sensor").await;
}

pub(crate) async fn delivered_again(site: &Site, ep: &str) {
    let running = site.run("aggregate");
    for at_ms in 0..3 {
        site.reads(ep, "/3303/0/5700", at_ms, 20.0).await;
    }
    let line = |n| counted(ep, 0, n);
    running.console.wait_for(&line(3)).await;
    running.stop().await;
    forget_commits(site, COUNT_GROUP, 1).await;

    let running = site.run("aggregate");
    site.reads(ep, "/3303/0/5700", 3, 20.0).await;
    running.console.wait_for(&line(4)).await;
    // One line for the device and one for its path: none for what was known.
    assert_eq!(running.console.lines().len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_older_than_the_commits_is_brought_up_to_date() {
    older_state(&Site::start().await, "sensor").await;
}

pub(crate) async fn older_state(site: &Site, ep: &str) {
    let (data, copied) = (
        site.folder().join("analytics"),
        site.folder().join("copied"),
    );
    let line = |n| counted(ep, 0, n);
    let running = site.run("aggregate");
    site.reads(ep, "/3303/0/5700", 0, 20.0).await;
    running.console.wait_for(&line(1)).await;
    running.stop().await;
    copy(&data, &copied);

    let running = site.run("aggregate");
    site.reads(ep, "/3303/0/5700", 1, 20.0).await;
    site.reads(ep, "/3303/0/5700", 2, 20.0).await;
    running.console.wait_for(&line(3)).await;
    running.stop().await;

    // A power cut takes the file back, or a person does.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&copied, &data).unwrap();
    let running = site.run("aggregate");
    running.console.wait_for(&line(3)).await;
    site.reads(ep, "/3303/0/5700", 3, 20.0).await;
    running.console.wait_for(&line(4)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_is_read() {
    let site = Site::start().await;
    let line = |n| counted("sensor", 0, n);
    let running = site.run("aggregate");
    for at_ms in 0..5 {
        site.reads("sensor", "/3303/0/5700", at_ms, 20.0).await;
    }
    running.console.wait_for(&line(5)).await;
    running.stop().await;
    delete_topic(&site.cluster(), INPUT).await.unwrap();
    ensure_topic(&site.cluster(), INPUT, 1, &[]).await.unwrap();

    let running = site.run("aggregate");
    // Not before it is reading: what is there at its start is taken for what it knows.
    testkit::wait_for(PATIENCE, "readiness", async || {
        let failing = running.context.health.failing();
        ensure!(failing.is_empty(), "{failing:?}");
        Ok(())
    })
    .await
    .unwrap();
    site.reads("sensor", "/3303/0/5700", 5, 20.0).await;
    running.console.wait_for(&line(6)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_away_do_not_hold_a_shutdown() {
    let site = Site::start().await;
    let unreachable = testkit::free_port();
    let running = site.run(&format!(
        "temperature --kafka-bootstrap-server 127.0.0.1:{unreachable}"
    ));
    let reason = running.fails("kafka").await;
    assert!(reason.contains(&unreachable.to_string()), "{reason}");
    tokio::time::timeout(Duration::from_secs(5), running.stop())
        .await
        .unwrap();
}
