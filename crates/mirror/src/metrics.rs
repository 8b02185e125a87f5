//! What the mirror measures beside the shared `zeelos_records_total{stage="mirror"}` and
//! `zeelos_dead_letters_total{reason}`.

use std::sync::LazyLock;

use prometheus::{IntGaugeVec, register_int_gauge_vec};

/// Records at the source that are not at the target yet, by topic. The label is one of the gateway's topics, whose
/// number its operator decides; endpoints and paths never are labels.
pub(crate) static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "zeelos_mirror_lag_records",
        "Records at the source that the mirror has not copied yet.",
        &["topic"]
    )
    .expect("registered once, with a valid name")
});
