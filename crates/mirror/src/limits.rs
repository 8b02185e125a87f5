//! Optional limits per topic: what is older, larger or further behind is not carried, and counted.

use std::str::FromStr;
use std::time::Duration;

use crate::Pattern;

/// `PATTERN=LIMIT`, as the options have it.
#[derive(Clone, Debug)]
pub struct TopicLimit<T> {
    /// The topics it holds for.
    pub topics: Pattern,
    /// The limit.
    pub limit: T,
}

/// A text that is no limit.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{text}' is no limit: {reason}")]
pub struct LimitError {
    text: String,
    reason: String,
}

/// A time as options have it: a number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub Duration);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err("a time is a number with ms, s, m, h or d".to_owned()),
        };
        let ms = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms));
        ms.map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| "the number is missing or too large".to_owned())
    }
}

impl<T> FromStr for TopicLimit<T>
where
    T: FromStr,
    T::Err: ToString,
{
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let bad = |reason: String| LimitError {
            text: text.to_owned(),
            reason,
        };
        let (topics, limit) = text
            .rsplit_once('=')
            .ok_or_else(|| bad("it is written PATTERN=LIMIT".to_owned()))?;
        Ok(Self {
            topics: topics.parse().map_err(|error| bad(format!("{error}")))?,
            limit: limit
                .trim()
                .parse()
                .map_err(|error: T::Err| bad(error.to_string()))?,
        })
    }
}

/// All limits of a flow.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// A record older than this is dropped.
    pub age: Vec<TopicLimit<Age>>,
    /// Of a partition, at most this many records wait; the oldest are dropped.
    pub backlog: Vec<TopicLimit<u64>>,
    /// A record of which key and value are larger than this, in bytes, is dropped.
    pub record_bytes: Vec<TopicLimit<u64>>,
}

/// Those of one topic. The first limit that matches counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) age_ms: Option<i64>,
    pub(crate) backlog: Option<i64>,
    pub(crate) record_bytes: Option<usize>,
}

impl Limits {
    pub(crate) fn of(&self, topic: &str) -> Bounds {
        Bounds {
            age_ms: first(&self.age, topic)
                .map(|age| i64::try_from(age.0.as_millis()).unwrap_or(i64::MAX)),
            backlog: first(&self.backlog, topic).map(|n| i64::try_from(*n).unwrap_or(i64::MAX)),
            record_bytes: first(&self.record_bytes, topic)
                .map(|n| usize::try_from(*n).unwrap_or(usize::MAX)),
        }
    }
}

fn first<'a, T>(limits: &'a [TopicLimit<T>], topic: &str) -> Option<&'a T> {
    limits
        .iter()
        .find(|limit| limit.topics.matches(topic))
        .map(|limit| &limit.limit)
}

/// Why a record was not carried: the label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Age,
    Backlog,
    Size,
    /// It came from the target itself.
    Loop,
    /// The source had deleted it before it could be carried.
    Retention,
}

impl Dropped {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Backlog => "backlog",
            Self::Size => "size",
            Self::Loop => "loop",
            Self::Retention => "retention",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_the_first_that_matches_counts() {
        let limits = Limits {
            age: vec![
                r"iot\..*\.observations=36h".parse().unwrap(),
                ".*=7d".parse().unwrap(),
            ],
            backlog: vec![".*=1000".parse().unwrap()],
            record_bytes: Vec::new(),
        };
        assert_eq!(limits.of("iot.a.observations").age_ms, Some(129_600_000));
        assert_eq!(
            limits.of("iot.a.registrations"),
            Bounds {
                age_ms: Some(604_800_000),
                backlog: Some(1000),
                record_bytes: None
            }
        );
        for bad in ["=1s", "a", "a=", "a=1w", "a=99999999999999999999d", "a=s"] {
            assert!(bad.parse::<TopicLimit<Age>>().is_err(), "{bad}");
        }
    }
}
