use std::sync::LazyLock;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec,
    register_int_gauge,
};

use crate::reading::Skip;

pub(crate) static LATE: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_analytics_late_total",
        "Readings dropped because their window was closed: they came later than the grace."
    )
    .expect("registered once, with a valid name")
});

pub(crate) static CLOSED_EARLY: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_analytics_closed_early_total",
        "Windows closed before their grace was over, because --max-windows was reached."
    )
    .expect("registered once, with a valid name")
});

pub(crate) static WINDOWS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("zeelos_analytics_windows", "Windows in the state.")
        .expect("registered once, with a valid name")
});

static SKIPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_analytics_skipped_total",
        "Records that do not count, by reason.",
        &["reason"]
    )
    .expect("registered once, with a valid name")
});

pub(crate) fn skipped(skip: Skip) -> IntCounter {
    SKIPPED.with_label_values(&[skip.as_str()])
}

/// Makes every metric show from the start, at zero.
pub(crate) fn touch() {
    LazyLock::force(&LATE);
    LazyLock::force(&CLOSED_EARLY);
    LazyLock::force(&WINDOWS);
    for skip in Skip::ALL {
        skipped(skip);
    }
}
