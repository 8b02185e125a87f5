//! A topic's settings: those that work here, those that are taken without effect, and those that are refused.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::config::BrokerConfig;

/// The settings of one topic as they apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    delete: bool,
    compact: bool,
    /// `None` keeps forever.
    pub(crate) retention_ms: Option<i64>,
    /// `None` is unlimited.
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_ms: i64,
    pub(crate) max_message_bytes: usize,
    pub(crate) log_append_time: bool,
}

/// Why a setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ConfigError {
    #[error("unknown topic config {0}")]
    Unknown(String),
    #[error("invalid value {value:?} for topic config {name}: {wanted}")]
    Value {
        name: String,
        value: String,
        wanted: &'static str,
    },
}

/// How a setting's value reads, with the type number DescribeConfigs gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// At least this; -1 where it stands for "no limit".
    Number {
        least: i64,
    },
    Bool,
    Ratio,
    Policy,
    TimestampType,
    /// Batches are stored as they come: only `producer` holds.
    Compression,
    Text,
}

/// Name, kind and Kafka's default of settings that are kept and shown but change nothing on this broker: it neither
/// compacts nor replicates, and places its own indexes.
const WITHOUT_EFFECT: &[(&str, Kind, &str)] = &[
    ("delete.retention.ms", Kind::Number { least: 0 }, "86400000"),
    ("file.delete.delay.ms", Kind::Number { least: 0 }, "60000"),
    (
        "flush.messages",
        Kind::Number { least: 1 },
        "9223372036854775807",
    ),
    ("flush.ms", Kind::Number { least: 0 }, "9223372036854775807"),
    ("follower.replication.throttled.replicas", Kind::Text, ""),
    ("index.interval.bytes", Kind::Number { least: 0 }, "4096"),
    ("leader.replication.throttled.replicas", Kind::Text, ""),
    (
        "max.compaction.lag.ms",
        Kind::Number { least: 1 },
        "9223372036854775807",
    ),
    ("message.downconversion.enable", Kind::Bool, "true"),
    (
        "message.timestamp.after.max.ms",
        Kind::Number { least: 0 },
        "9223372036854775807",
    ),
    (
        "message.timestamp.before.max.ms",
        Kind::Number { least: 0 },
        "9223372036854775807",
    ),
    (
        "message.timestamp.difference.max.ms",
        Kind::Number { least: 0 },
        "9223372036854775807",
    ),
    ("min.cleanable.dirty.ratio", Kind::Ratio, "0.5"),
    ("min.compaction.lag.ms", Kind::Number { least: 0 }, "0"),
    ("min.insync.replicas", Kind::Number { least: 1 }, "1"),
    ("preallocate", Kind::Bool, "false"),
    ("segment.index.bytes", Kind::Number { least: 4 }, "10485760"),
    ("segment.jitter.ms", Kind::Number { least: 0 }, "0"),
    ("unclean.leader.election.enable", Kind::Bool, "false"),
];

/// Settings that work, with their kinds.
const WITH_EFFECT: &[(&str, Kind)] = &[
    ("cleanup.policy", Kind::Policy),
    ("compression.type", Kind::Compression),
    ("max.message.bytes", Kind::Number { least: 0 }),
    ("message.timestamp.type", Kind::TimestampType),
    ("retention.bytes", Kind::Number { least: -1 }),
    ("retention.ms", Kind::Number { least: -1 }),
    ("segment.bytes", Kind::Number { least: 14 }),
    ("segment.ms", Kind::Number { least: 1 }),
];

/// Longest value kept.
const MAX_VALUE: usize = 4_096;

/// A setting as DescribeConfigs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) is_default: bool,
    /// Kafka's ConfigType.
    pub(crate) kind: i8,
}

impl TopicConfig {
    /// Applies what a topic sets for itself over the broker's defaults.
    pub(crate) fn new(
        overrides: &BTreeMap<String, String>,
        broker: &BrokerConfig,
    ) -> Result<Self, ConfigError> {
        for (name, value) in overrides {
            check(name, value)?;
        }
        let text = |name: &str| {
            overrides
                .get(name)
                .cloned()
                .unwrap_or_else(|| default_of(name, broker))
        };
        let number = |name: &str| text(name).trim().parse::<i64>().unwrap_or(-1);
        let policy = text("cleanup.policy");
        let limit = |name: &str| Some(number(name)).filter(|n| *n >= 0);
        Ok(Self {
            delete: policy.split(',').any(|p| p.trim() == "delete"),
            compact: policy.split(',').any(|p| p.trim() == "compact"),
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes").map(|n| n as u64),
            segment_bytes: number("segment.bytes").max(0) as u64,
            segment_ms: number("segment.ms"),
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or(usize::MAX),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
        })
    }

    /// Whether old segments may be dropped. A topic that is only compacted keeps everything: its records are state.
    pub(crate) fn deletes(&self) -> bool {
        self.delete || !self.compact
    }
}

/// Checks one setting.
pub(crate) fn check(name: &str, value: &str) -> Result<(), ConfigError> {
    let kind =
        kind_of(name).ok_or_else(|| ConfigError::Unknown(name.chars().take(100).collect()))?;
    let value = value.trim();
    let wanted = match kind {
        _ if value.len() > MAX_VALUE => Some("a shorter one"),
        Kind::Number { least } => (value.parse().is_ok_and(|n: i64| n >= least))
            .then_some(())
            .map_or(
                Some(if least < 0 {
                    "a number of at least -1"
                } else {
                    "a number within its bounds"
                }),
                |()| None,
            ),
        Kind::Bool => (!matches!(value, "true" | "false")).then_some("true or false"),
        Kind::Ratio => (!value.parse().is_ok_and(|n: f64| (0.0..=1.0).contains(&n)))
            .then_some("a number from 0 to 1"),
        Kind::Policy => {
            let known = value
                .split(',')
                .all(|p| matches!(p.trim(), "delete" | "compact"));
            (!known).then_some("delete, compact or both")
        }
        Kind::TimestampType => (!matches!(value, "CreateTime" | "LogAppendTime"))
            .then_some("CreateTime or LogAppendTime"),
        Kind::Compression => (value != "producer")
            .then_some("producer: this broker stores batches as their producer compressed them"),
        Kind::Text => None,
    };
    match wanted {
        None => Ok(()),
        Some(wanted) => {
            let value = value.chars().take(100).collect();
            Err(ConfigError::Value {
                name: name.to_owned(),
                value,
                wanted,
            })
        }
    }
}

/// All settings of a topic with these of its own.
pub(crate) fn show(overrides: &BTreeMap<String, String>, broker: &BrokerConfig) -> Vec<Shown> {
    let names = WITH_EFFECT
        .iter()
        .map(|(name, _)| *name)
        .chain(WITHOUT_EFFECT.iter().map(|(name, ..)| *name));
    let mut shown: Vec<Shown> = names
        .map(|name| Shown {
            name,
            value: overrides
                .get(name)
                .cloned()
                .unwrap_or_else(|| default_of(name, broker)),
            is_default: !overrides.contains_key(name),
            kind: type_number(name),
        })
        .collect();
    shown.sort_unstable_by_key(|shown| shown.name);
    shown
}

/// Whether a setting is a list, which incremental changes may append to and subtract from.
pub(crate) fn is_list(name: &str) -> bool {
    matches!(kind_of(name), Some(Kind::Policy)) || name.ends_with("throttled.replicas")
}

/// What a topic that doesn't set `name` gets.
pub(crate) fn default_of(name: &str, broker: &BrokerConfig) -> String {
    let or_no_limit =
        |limit: Option<u128>| limit.map_or("-1".to_owned(), |limit| limit.to_string());
    match name {
        "cleanup.policy" => "delete".to_owned(),
        "compression.type" => "producer".to_owned(),
        "message.timestamp.type" => "CreateTime".to_owned(),
        "max.message.bytes" => broker.limits.message_bytes.to_string(),
        "retention.ms" => or_no_limit(broker.retention.time.map(|time| time.as_millis())),
        "retention.bytes" => or_no_limit(broker.retention.bytes.map(u128::from)),
        "segment.bytes" => broker.retention.segment_bytes.to_string(),
        "segment.ms" => "604800000".to_owned(),
        other => {
            let found = WITHOUT_EFFECT.iter().find(|(name, ..)| *name == other);
            found.map_or_else(String::new, |(_, _, default)| (*default).to_owned())
        }
    }
}

fn kind_of(name: &str) -> Option<Kind> {
    let with = WITH_EFFECT
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, kind)| *kind);
    with.or_else(|| {
        WITHOUT_EFFECT
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, kind, _)| *kind)
    })
}

/// ConfigType of KIP-569: 1 boolean, 2 string, 5 long, 6 double, 7 list.
fn type_number(name: &str) -> i8 {
    match kind_of(name) {
        Some(Kind::Bool) => 1,
        Some(Kind::Number { .. }) => 5,
        Some(Kind::Ratio) => 6,
        Some(Kind::Policy) => 7,
        _ => 2,
    }
}
