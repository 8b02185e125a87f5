//! What is counted on the way to Kafka.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, register_histogram,
    register_int_counter, register_int_counter_vec, register_int_gauge,
};

const VALID: &str = "registered once, with a valid name";

/// By whether the notification was confirmable: 0 is not.
pub(super) static REFUSED: LazyLock<[IntCounter; 2]> = LazyLock::new(|| {
    let refused = register_int_counter_vec!(
        Opts::new(
            "zeelos_spool_refused_total",
            "Notifications and Sends not taken because Kafka is away and the spool is full."
        ),
        &["type"]
    )
    .expect(VALID);
    ["non_confirmable", "confirmable"].map(|kind| refused.with_label_values(&[kind]))
});

pub(super) static LOST: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_records_lost_total",
        "Records that Kafka does not take, whatever is done (too large).",
        &["topic"]
    )
    .expect(VALID)
});

pub(super) static UNTIMED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        Opts::new(
            "zeelos_records_untimed_total",
            "Records produced without a timestamp, because Kafka does not take the time of this machine's clock."
        ),
        &["topic"]
    )
    .expect(VALID)
});

pub(in crate::engine) static UPDATES_LEFT_OUT: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_updates_left_out_total",
        "Registration updates that changed nothing and have no record, because Kafka is away and twice the spool's bytes are used."
    )
    .expect(VALID)
});

pub(super) static SPOOLED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_spool_bytes",
        "Bytes of records on disk that Kafka has not acknowledged."
    )
    .expect(VALID)
});

pub(super) static SETTLED: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(HistogramOpts::new(
        "zeelos_notification_to_kafka_seconds",
        "From a notification's arrival to Kafka's acknowledgement of its record, where it did not have to wait on disk."
    )
    .buckets(vec![
        0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5
    ]))
    .expect(VALID)
});
