//! Metrics that both sinks have.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, exponential_buckets,
    register_histogram_vec, register_int_counter_vec,
};

static WRITE_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.001, 2.0, 14).expect("a positive start, factor and count");
    register_histogram_vec!(
        "zeelos_sink_write_seconds",
        "How long one write to a database took, successful or not.",
        &["store"],
        buckets
    )
    .expect("registered once, with a valid name")
});

static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_sink_dropped_total",
        "Values or links that a sink has left out on purpose.",
        &["reason"]
    )
    .expect("registered once, with a valid name")
});

/// Seconds of writes to one kind of store (a short fixed word). Keep it: looking it up takes a lock.
pub fn write_seconds(store: &'static str) -> Histogram {
    WRITE_SECONDS.with_label_values(&[store])
}

/// What was left out on purpose, by reason (a short fixed word). Keep it: looking it up takes a lock.
pub fn dropped(reason: &'static str) -> IntCounter {
    DROPPED.with_label_values(&[reason])
}
