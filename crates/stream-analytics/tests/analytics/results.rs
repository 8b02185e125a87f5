//! What comes out.

use records::{AvroKey, AvroRecord as _, ResourceValue, SchemaId, frame};

use crate::crashes::{delivered_again, older_state};
use crate::support::{INPUT, OUTPUT, Site, counted, observation, resource, t0};

/// Runs against the embedded servers and against real ones.
async fn maxima_story(site: &Site) {
    let running = site.run("temperature");
    site.reads("sensor", "/3303/0/5700", 0, 20.0).await;
    site.reads("sensor", "/3303/0/5700", 1_000, 19.0).await;
    site.reads("sensor", "/3303/0/5700", 2_000, 20.0).await;
    site.reads("sensor", "/3303/0/5700", 29_999, 21.5).await;
    // Another path and another device have windows of their own, below zero too.
    site.reads("sensor", "/3303/1/5700", 3_000, -7.0).await;
    site.reads("freezer", "/3303/0/5700", 3_000, -20.0).await;
    site.reads("freezer", "/3303/0/5700", 4_000, -18.0).await;
    // The next window begins anew; then a reading comes late and still counts for the one before.
    site.reads("sensor", "/3303/0/5700", 30_000, 10.0).await;
    site.reads("sensor", "/3303/0/5700", 15_000, 22.0).await;
    site.reads("sensor", "/3303/0/5700", 16_000, 21.9).await;
    let long = observation("meter", "/3200/0/5501", t0(), ResourceValue::Long(7));
    site.observe(&long).await;

    let maxima = site.settled_maxima().await;
    let short: Vec<_> = maxima.iter().map(|maximum| maximum.short()).collect();
    assert_eq!(
        short,
        [
            ("sensor./3303/0/5700", 0, 20.0),
            ("sensor./3303/0/5700", 0, 21.5),
            ("sensor./3303/1/5700", 0, -7.0),
            ("freezer./3303/0/5700", 0, -20.0),
            ("freezer./3303/0/5700", 0, -18.0),
            ("sensor./3303/0/5700", 30_000, 10.0),
            ("sensor./3303/0/5700", 0, 22.0),
            ("meter./3200/0/5501", 0, 7.0),
        ]
    );
    // The whole record of the maximum, its path marked.
    let meter = &maxima[7].record;
    assert_eq!(meter.path, "/3200/0/5501-max");
    assert_eq!(resource(meter).path, "/3200/0/5501-max");
    let mut back = meter.clone();
    back.path = long.path.clone();
    let unmarked = observation("meter", "/3200/0/5501", t0(), ResourceValue::Long(7));
    back.rep = unmarked.rep.clone();
    assert_eq!(back, unmarked);
    assert_eq!(resource(meter).value, ResourceValue::Long(7));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_new_maximum_of_a_window_is_produced() {
    maxima_story(&Site::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_apache_kafka_and_apicurio() {
    let site = Site::on(site::Site::real().await);
    maxima_story(&site).await;
    delivered_again(&site, "again").await;
    older_state(&site, "older").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_maximum_s_key_is_kafka_streams_time_windowed_key() {
    let site = Site::start().await;
    let running = site.run(&format!("temperature --output-topic {OUTPUT}"));
    site.reads("s", "/3303/0/5700", 31_000, 20.0).await;
    site.settled_maxima().await;
    let record = &site.records(OUTPUT).await[0];
    let key = record.key.as_deref().unwrap();
    // magic, schema id, Avro's string "s./3303/0/5700", then the window's start, big end first
    let id = frame::schema_id(key).unwrap();
    let mut expected = vec![0];
    expected.extend(id.0.to_be_bytes());
    expected.push(28);
    expected.extend(b"s./3303/0/5700");
    expected.extend((t0() + 30_000).to_be_bytes());
    assert_eq!(key, expected);
    assert_eq!(
        expected[..20],
        AvroKey::new("s./3303/0/5700").to_framed(SchemaId(id.0))
    );
    assert_eq!(record.timestamp_ms, Some(t0() + 31_000));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_are_counted_per_endpoint_and_per_path_and_minute() {
    let site = Site::start().await;
    let running = site.run("aggregate");
    for (path, at_ms) in [
        ("/3303/0/5700", 0),
        ("/3303/0/5700", 59_999),
        ("/3303/1/5700", 30_000),
        ("/3303/0/5700", 60_000),
        // Late, and counted where it belongs.
        ("/3303/0/5700", 1_000),
    ] {
        site.reads("sensor", path, at_ms, 20.0).await;
    }
    for line in [
        counted("sensor", 0, 4),
        counted("sensor:/3303/0/5700", 0, 3),
        counted("sensor:/3303/1/5700", 0, 1),
        counted("sensor", 1, 1),
        counted("sensor:/3303/0/5700", 1, 1),
    ] {
        running.console.wait_for(&line).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_can_not_write_to_the_operator_s_terminal() {
    let site = Site::start().await;
    let running = site.run("aggregate");
    site.reads("a\u{1b}[2J\nb", "/3303/0/5700", 0, 1.0).await;
    let line = counted("a\\u{1b}[2J\\nb", 0, 1);
    running.console.wait_for(&line).await;
    assert_eq!(running.console.lines().len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_have_the_size_that_was_asked_for() {
    let site = Site::start().await;
    let running = site.run("aggregate --window 10");
    site.reads("sensor", "/3303/0/5700", 19_999, 20.0).await;
    let line = format!("[sensor@{}/{}], 1", t0() + 10_000, t0() + 20_000);
    running.console.wait_for(&line).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_windows_go_when_the_most_allowed_are_kept() {
    let site = Site::start().await;
    let running = site.run("temperature --max-windows 3");
    for at_ms in [0, 30_000, 60_000, 90_000] {
        site.reads("sensor", "/3303/0/5700", at_ms, 20.0).await;
        // One batch each.
        let line = at_ms;
        testkit::wait_for(site::PATIENCE, "the maximum", async || {
            let maxima = site.maxima(OUTPUT).await;
            anyhow::ensure!(maxima.iter().any(|m| m.start_ms == t0() + line));
            Ok(())
        })
        .await
        .unwrap();
    }
    // The first window is closed, though its grace of a day is not over; the second still takes readings.
    site.reads("sensor", "/3303/0/5700", 1_000, 50.0).await;
    site.reads("sensor", "/3303/0/5700", 31_000, 51.0).await;
    let marker = observation(
        "last",
        "/3303/0/5700",
        t0() + 91_000,
        ResourceValue::Long(1),
    );
    site.observe(&marker).await;
    testkit::wait_for(site::PATIENCE, "the last", async || {
        let maxima = site.maxima(OUTPUT).await;
        anyhow::ensure!(maxima.iter().any(|m| m.record.ep == "last"));
        Ok(())
    })
    .await
    .unwrap();
    let maxima = site.maxima(OUTPUT).await;
    let values: Vec<f64> = maxima.iter().map(|m| m.value()).collect();
    assert_eq!(values, [20.0, 20.0, 20.0, 20.0, 51.0, 1.0]);
    assert_eq!(site.records(INPUT).await.len(), 7);
    running.stop().await;
}
