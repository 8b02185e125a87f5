//! What does not count is counted: by itself in a process, as the counters are the process's.

// A helper of a test fails the test like the test itself.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "this story needs a part of it")]
#[path = "analytics/support.rs"]
mod support;

use prometheus::proto::MetricType;
use records::{ReadContent, ResourceValue, ResponseBody};

use crate::support::{Site, observation, t0};

/// A counter's value now; the sum over its labels that match.
fn counter(name: &str, label: Option<&str>) -> f64 {
    let families = prometheus::gather();
    let family = families.iter().find(|family| family.name() == name);
    let family = family.unwrap_or_else(|| panic!("no metric {name}"));
    assert_eq!(family.get_field_type(), MetricType::COUNTER);
    family
        .get_metric()
        .iter()
        .filter(|m| label.is_none_or(|l| m.get_label().iter().any(|pair| pair.value() == l)))
        .map(|m| m.get_counter().get_value())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_reading_of_now_is_skipped_and_counted() {
    let site = Site::start().await;
    let running = site.run("temperature --grace 60");
    let path = "/3303/0/5700";
    site.reads("sensor", path, 0, 20.0).await;
    for value in [
        ResourceValue::Double(f64::NAN),
        ResourceValue::Double(f64::INFINITY),
        ResourceValue::Double(f64::NEG_INFINITY),
        ResourceValue::String("21.5".to_owned()),
        ResourceValue::Boolean(true),
    ] {
        site.observe(&observation("sensor", path, t0() + 1, value))
            .await;
    }
    for timestamp in [i64::MIN, -1, i64::MAX, i64::MAX / 2] {
        let value = ResourceValue::Double(99.0);
        site.observe(&observation("sensor", path, timestamp, value))
            .await;
    }
    for (ep, path) in [("", path), ("sensor", ""), (&*"x".repeat(2_000), path)] {
        let value = ResourceValue::Double(99.0);
        site.observe(&observation(ep, path, t0(), value)).await;
    }
    let mut empty = observation("sensor", path, t0(), ResourceValue::Long(99));
    empty.rep.body = None;
    site.observe(&empty).await;
    let mut object = observation("sensor", path, t0(), ResourceValue::Long(99));
    object.rep.body = Some(ResponseBody::Read(ReadContent::Object(
        records::AvroObjectResource {
            id: 3303,
            kind: records::ResourceKind::Object,
            instances: Vec::new(),
        },
    )));
    site.observe(&object).await;
    site.put("sensor", None, None).await;

    // Stream time goes on by two minutes: the first window's end and its grace of one are past.
    site.reads("sensor", path, 89_999, 20.5).await;
    site.reads("sensor", path, 29_000, 30.0).await;
    site.reads("sensor", path, 90_000, 20.0).await;
    site.reads("sensor", path, 29_500, 99.0).await;
    let marker = observation("last", path, t0() + 90_000, ResourceValue::Long(i64::MIN));
    site.observe(&marker).await;
    let output = "analytics.demo.observations.maxper30sec";
    testkit::wait_for(site::PATIENCE, "the last", async || {
        let maxima = site.maxima(output).await;
        anyhow::ensure!(maxima.iter().any(|m| m.record.ep == "last"));
        Ok(())
    })
    .await
    .unwrap();
    let maxima = site.maxima(output).await;
    let short: Vec<_> = maxima
        .iter()
        .map(|m| (m.start_ms - t0(), m.value()))
        .collect();
    assert_eq!(
        short,
        [
            (0, 20.0),
            (60_000, 20.5),
            (0, 30.0),
            (90_000, 20.0),
            (90_000, i64::MIN as f64)
        ]
    );
    running.stop().await;

    assert_eq!(counter("zeelos_analytics_late_total", None), 1.0);
    for (reason, count) in [
        ("not_finite", 3.0),
        ("not_a_number", 2.0),
        ("bad_time", 2.0),
        ("ahead", 2.0),
        ("bad_name", 3.0),
        ("not_single", 2.0),
        ("no_value", 1.0),
        ("too_large", 0.0),
    ] {
        let skipped = counter("zeelos_analytics_skipped_total", Some(reason));
        assert_eq!(skipped, count, "{reason}");
    }
}
