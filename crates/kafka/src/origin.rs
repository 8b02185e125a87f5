use std::fmt;
use std::str::FromStr;

/// The header in which the mirror writes a record's [`Origin`].
pub const ORIGIN_HEADER: &str = "zeelos-origin";

/// Where a record was first written: what makes it the same record wherever it is copied to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The cluster's id.
    pub cluster: String,
    /// The topic there.
    pub topic: String,
    /// The partition there.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
}

/// A text that is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an origin is written cluster/topic/partition/offset")]
pub struct OriginError;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            topic,
            partition,
            offset,
        } = self;
        write!(f, "{cluster}/{topic}/{partition}/{offset}")
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        // A topic can't contain a slash, so the parts are counted from the end.
        let mut parts = text.rsplitn(4, '/');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let (offset, partition, topic, cluster) = (next(), next(), next(), next());
        Ok(Self {
            cluster: cluster.ok_or(OriginError)?.to_owned(),
            topic: topic.ok_or(OriginError)?.to_owned(),
            partition: partition.and_then(|n| n.parse().ok()).ok_or(OriginError)?,
            offset: offset.and_then(|n| n.parse().ok()).ok_or(OriginError)?,
        })
    }
}

impl Origin {
    /// The origin of a record read at this cluster: what the mirror wrote, else its own position.
    pub fn of(record: &crate::Record, cluster: &str) -> Self {
        record
            .header(ORIGIN_HEADER)
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| Self {
                cluster: cluster.to_owned(),
                topic: record.topic.to_string(),
                partition: record.partition,
                offset: record.offset,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_back_as_it_was_written() {
        let origin = Origin {
            cluster: "a/b".to_owned(),
            topic: "iot.demo.management.req".to_owned(),
            partition: 3,
            offset: 17,
        };
        assert_eq!(origin.to_string().parse(), Ok(origin));
        for bad in ["", "a/b", "a/b/c/d", "/t/0/1", "c//0/1", "c/t/0/x"] {
            assert_eq!(bad.parse::<Origin>(), Err(OriginError), "{bad}");
        }
    }
}
