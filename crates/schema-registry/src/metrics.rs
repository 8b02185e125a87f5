use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounterVec, IntGauge, register_histogram, register_int_counter_vec,
    register_int_gauge,
};

pub(crate) static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_schema_registry_requests_total",
        "HTTP requests answered.",
        &["method", "status"]
    )
    .expect("registered once, with a valid name")
});

pub(crate) static RECORDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_schema_registry_topic_records_total",
        "Records read from the topic: taken in, or skipped and why.",
        &["outcome"]
    )
    .expect("registered once, with a valid name")
});

pub(crate) static WRITES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_schema_registry_writes_total",
        "Changes written to the topic and read back, or failed.",
        &["outcome"]
    )
    .expect("registered once, with a valid name")
});

pub(crate) static WRITE_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "zeelos_schema_registry_write_seconds",
        "Time from producing a change until it was read back."
    )
    .expect("registered once, with a valid name")
});

pub(crate) static SUBJECTS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_schema_registry_subjects",
        "Subjects, those deleted softly too."
    )
    .expect("registered once, with a valid name")
});

pub(crate) static SCHEMAS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_schema_registry_schemas",
        "Schemas with an id of their own."
    )
    .expect("registered once, with a valid name")
});

pub(crate) static NEXT_OFFSET: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_schema_registry_next_offset",
        "The topic's offset that is read next."
    )
    .expect("registered once, with a valid name")
});

/// Shows every metric from the start, at 0.
pub(crate) fn touch() {
    LazyLock::force(&REQUESTS);
    LazyLock::force(&RECORDS);
    LazyLock::force(&WRITES);
    LazyLock::force(&WRITE_SECONDS);
    LazyLock::force(&SUBJECTS);
    LazyLock::force(&SCHEMAS);
    LazyLock::force(&NEXT_OFFSET);
}
