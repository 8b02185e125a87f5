//! What the broker counts, in the `prometheus` default registry.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

/// Bytes of record batches stored.
pub(crate) static BYTES_IN: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "zeelos_kafka_bytes_in_total",
        "Bytes of record batches stored",
    )
});
/// Bytes of record batches handed to consumers.
pub(crate) static BYTES_OUT: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "zeelos_kafka_bytes_out_total",
        "Bytes of record batches handed to consumers",
    )
});
/// Records stored.
pub(crate) static RECORDS_IN: LazyLock<IntCounter> =
    LazyLock::new(|| counter("zeelos_kafka_records_in_total", "Records stored"));
/// Connections open.
pub(crate) static CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    let gauge =
        IntGauge::new("zeelos_kafka_connections", "Client connections open").expect("a valid name");
    register(&gauge);
    gauge
});
/// Connections refused because there were too many.
pub(crate) static CONNECTIONS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "zeelos_kafka_connections_refused_total",
        "Connections closed at once because there were too many",
    )
});
/// Requests that could not be read, each of which closed its connection.
pub(crate) static MALFORMED_REQUESTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "zeelos_kafka_malformed_requests_total",
        "Requests that could not be read; each closed its connection",
    )
});
/// Record batches refused.
pub(crate) static REFUSED_BATCHES: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "zeelos_kafka_refused_batches_total",
        "Record batches refused, by checksum or otherwise",
    )
});
/// Requests answered, by API.
pub(crate) static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new("zeelos_kafka_requests_total", "Requests answered, by API");
    let counters = IntCounterVec::new(opts, &["api"]).expect("a valid name and label");
    register(&counters);
    counters
});

/// Puts all in the registry, so that they are seen at zero.
pub(crate) fn init() {
    let counters = [
        &BYTES_IN,
        &BYTES_OUT,
        &RECORDS_IN,
        &CONNECTIONS_REFUSED,
        &MALFORMED_REQUESTS,
        &REFUSED_BATCHES,
    ];
    for counter in counters {
        LazyLock::force(counter);
    }
    LazyLock::force(&CONNECTIONS);
    LazyLock::force(&REQUESTS);
}

fn counter(name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect("a valid name");
    register(&counter);
    counter
}

fn register<C: prometheus::core::Collector + Clone + 'static>(collector: &C) {
    // Registered once per process by the cell around it; a name taken by someone else still counts, only unseen.
    if let Err(error) = prometheus::register(Box::new(collector.clone())) {
        tracing::warn!(%error, "a metric could not be registered");
    }
}
