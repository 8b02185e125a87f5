//! Metrics that more than one service has.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, register_int_counter_vec};

/// The stages of the two ways through the house, as they stand in `zeelos_records_total{stage}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// A registration, update or de-registration produced at the gateway.
    Registration,
    /// An observation produced at the gateway.
    Observation,
    /// A management request accepted by the gateway's server.
    Request,
    /// A reply produced at the gateway.
    Reply,
    /// A record copied from one cluster to another.
    Mirror,
    /// A point written to the time-series database.
    TimeSeries,
    /// A registration event applied to the graph.
    Graph,
    /// A window result emitted by an analytic.
    Analytics,
}

impl Stage {
    /// Every stage, in the order data passes them.
    pub const ALL: [Self; 8] = [
        Self::Registration,
        Self::Observation,
        Self::Request,
        Self::Reply,
        Self::Mirror,
        Self::TimeSeries,
        Self::Graph,
        Self::Analytics,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Observation => "observation",
            Self::Request => "request",
            Self::Reply => "reply",
            Self::Mirror => "mirror",
            Self::TimeSeries => "time_series",
            Self::Graph => "graph",
            Self::Analytics => "analytics",
        }
    }
}

static RECORDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_records_total",
        "Items that passed a stage of the path.",
        &["stage"]
    )
    .expect("registered once, with a valid name")
});

static DEAD_LETTERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_dead_letters_total",
        "Records that could not be processed and went to a dead-letter topic.",
        &["reason"]
    )
    .expect("registered once, with a valid name")
});

/// The counter of one stage. Keep it: looking it up takes a lock.
pub fn records(stage: Stage) -> IntCounter {
    RECORDS.with_label_values(&[stage.as_str()])
}

/// The counter of dead letters with one reason (a short fixed word, never text from the record).
pub fn dead_letters(reason: &str) -> IntCounter {
    DEAD_LETTERS.with_label_values(&[reason])
}
