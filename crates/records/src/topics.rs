//! Topic names of a gateway (contract, section 2).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Kafka's own limit is 249 characters for a topic; the longest name around an id, with `.dlq`, takes 43.
const MAX_GATEWAY_LEN: usize = 200;
const DLQ: &str = ".dlq";

/// A gateway's name: 1 to 200 letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(String);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GatewayIdError {
    #[error("a gateway id can't be empty")]
    Empty,
    #[error("a gateway id can't be longer than {MAX_GATEWAY_LEN} characters, this one has {0}")]
    TooLong(usize),
    #[error("{0:?} can't stand in a gateway id: use letters, digits, `_` and `-`")]
    BadCharacter(char),
}

impl GatewayId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GatewayId {
    type Err = GatewayIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(GatewayIdError::Empty);
        }
        if let Some(bad) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
        {
            return Err(GatewayIdError::BadCharacter(bad));
        }
        if text.len() > MAX_GATEWAY_LEN {
            return Err(GatewayIdError::TooLong(text.len()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a gateway's topic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicKind {
    /// `iot.<gw>.registrations`
    Registrations,
    /// `iot.<gw>.observations`
    Observations,
    /// `iot.<gw>.management.req`
    ManagementReq,
    /// `iot.<gw>.management.rep`
    ManagementRep,
    /// `analytics.<gw>.observations.maxper30sec`
    MaxPer30Sec,
}

impl TopicKind {
    pub const ALL: [Self; 5] = [
        Self::Registrations,
        Self::Observations,
        Self::ManagementReq,
        Self::ManagementRep,
        Self::MaxPer30Sec,
    ];

    fn affixes(self) -> (&'static str, &'static str) {
        match self {
            Self::Registrations => ("iot.", ".registrations"),
            Self::Observations => ("iot.", ".observations"),
            Self::ManagementReq => ("iot.", ".management.req"),
            Self::ManagementRep => ("iot.", ".management.rep"),
            Self::MaxPer30Sec => ("analytics.", ".observations.maxper30sec"),
        }
    }

    /// The topic's name at a gateway.
    pub fn topic(self, gateway: &GatewayId) -> String {
        let (before, after) = self.affixes();
        format!("{before}{gateway}{after}")
    }
}

/// The names of one gateway's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    pub registrations: String,
    pub observations: String,
    pub management_req: String,
    pub management_rep: String,
    pub maxper30sec: String,
}

impl Topics {
    pub fn for_gateway(gateway: &GatewayId) -> Self {
        Self {
            registrations: TopicKind::Registrations.topic(gateway),
            observations: TopicKind::Observations.topic(gateway),
            management_req: TopicKind::ManagementReq.topic(gateway),
            management_rep: TopicKind::ManagementRep.topic(gateway),
            maxper30sec: TopicKind::MaxPer30Sec.topic(gateway),
        }
    }
}

/// The gateway and the kind of a topic; `None` for names that are no gateway's, dead-letter topics among them.
pub fn parse_topic(topic: &str) -> Option<(GatewayId, TopicKind)> {
    TopicKind::ALL.into_iter().find_map(|kind| {
        let (before, after) = kind.affixes();
        let gateway = topic.strip_prefix(before)?.strip_suffix(after)?;
        Some((gateway.parse().ok()?, kind))
    })
}

/// Where the records of a topic go that can't be processed.
pub fn dlq(topic: &str) -> String {
    format!("{topic}{DLQ}")
}

/// The topic a dead-letter topic belongs to; `None` where the name is no dead-letter topic's.
pub fn dlq_source(topic: &str) -> Option<&str> {
    topic.strip_suffix(DLQ).filter(|source| !source.is_empty())
}

/// The registry's subject of a topic's keys.
pub fn key_subject(topic: &str) -> String {
    format!("{topic}-key")
}

/// The registry's subject of a topic's values.
pub fn value_subject(topic: &str) -> String {
    format!("{topic}-value")
}
