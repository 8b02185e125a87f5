//! What the mirror measures beside the shared `zeelos_records_total{stage="mirror"}` and
//! `zeelos_dead_letters_total{reason}`. The label `topic` is one of the flow's topics, whose number its operator decides;
//! endpoints and paths never are labels.

use std::sync::LazyLock;

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_gauge_vec,
    register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

const VALID: &str = "registered once, with a valid name";

pub(crate) static LAG_RECORDS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "zeelos_mirror_lag_records",
        "Records at the source that the mirror has not copied yet.",
        &["topic"]
    )
    .expect(VALID)
});

pub(crate) static LAG_SECONDS: LazyLock<GaugeVec> = LazyLock::new(|| {
    register_gauge_vec!(
        "zeelos_mirror_lag_seconds",
        "How old the oldest record is that the mirror has not copied yet.",
        &["topic"]
    )
    .expect(VALID)
});

pub(crate) static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_mirror_dropped_records_total",
        "Records that were not copied: age, backlog, size (the limits given), loop, retention (gone at the source).",
        &["topic", "reason"]
    )
    .expect(VALID)
});

pub(crate) static DELIVERY: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "zeelos_mirror_delivery_info",
        "1 for the delivery in force: exactly-once or at-least-once.",
        &["mode"]
    )
    .expect(VALID)
});

pub(crate) static PAUSED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_mirror_paused",
        "1 while an operator has paused the flow."
    )
    .expect(VALID)
});

pub(crate) static TRANSACTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_mirror_transactions_total",
        "Transactions at the target: committed, or aborted and done again.",
        &["outcome"]
    )
    .expect(VALID)
});

pub(crate) static LINK_BYTES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_mirror_link_bytes_total",
        "Bytes that crossed the link: received from the source when pulling, sent to the target when pushing."
    )
    .expect(VALID)
});
