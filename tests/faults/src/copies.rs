use std::collections::BTreeMap;

use kafka::{Cluster, ORIGIN_HEADER, Record, murmur2, partition_of, watermarks};
use records::frame;

use crate::path::Side;
use crate::{Path, topic};

/// What goes up, and what goes down.
const UP: [&str; 3] = ["observations", "registrations", "management.rep"];
const DOWN: [&str; 1] = ["management.req"];

/// What the flows did to each topic: every committed record of the source has to be at the target once, in the order of
/// its key, with its timestamp and headers, in its key's partition. Only ids of schemas are others, and requests say
/// where they come from. Answers what is not so.
///
/// A record with the value `poison` must not be there: it is a dead letter.
///
/// # Errors
/// When a cluster does not answer.
pub(crate) async fn differences(path: &Path, poison: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for (names, source, target, stamps) in [
        (&UP[..], &path.edge, &path.cloud, false),
        (&DOWN[..], &path.cloud, &path.edge, true),
    ] {
        for name in names {
            let topic = topic(name);
            let partitions = partitions(target, &topic).await?;
            let stamp = stamps.then(|| source.kafka.cluster_id());
            let mut lanes: BTreeMap<_, Lane> = BTreeMap::new();
            for record in records(source, &topic).await {
                if record.value.as_deref() != Some(poison) {
                    let copy = Copy::expected(&record, stamp);
                    let lane = lanes.entry(lane(&record, partitions)).or_default();
                    lane.expected.push(copy);
                }
            }
            for record in records(target, &topic).await {
                let lane = lanes.entry(lane(&record, partitions)).or_default();
                lane.found.push(Copy::found(&record));
                if let Some(key) = &record.key {
                    let wanted = partition_of(murmur2(key), partitions);
                    if u32::try_from(record.partition) != Ok(wanted) {
                        lane.astray += 1;
                    }
                }
            }
            let told = lanes
                .iter()
                .filter_map(|(of, lane)| Some(format!("{topic}, {of:?}: {}", lane.difference()?)));
            all.extend(told);
        }
    }
    Ok(all)
}

async fn records(side: &Side, topic: &str) -> Vec<Record> {
    site::Kafka::given(&side.site.bootstrap).all(topic).await
}

async fn partitions(side: &Side, topic: &str) -> anyhow::Result<u32> {
    let cluster = Cluster::new(&side.site.bootstrap, None)?;
    Ok(u32::try_from(watermarks(&cluster, topic).await?.len())?)
}

/// Whose order is kept: a key's, or that of a partition's records without one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Key(String),
    Partition(u32),
}

fn lane(record: &Record, partitions: u32) -> Of {
    match &record.key {
        Some(key) => Of::Key(String::from_utf8_lossy(datum(key)).into_owned()),
        None => Of::Partition(record.partition.unsigned_abs() % partitions),
    }
}

#[derive(Default)]
struct Lane {
    expected: Vec<Copy>,
    found: Vec<Copy>,
    /// Those in another partition than their key's.
    astray: usize,
}

/// A record without what a mirror has to change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    timestamp_ms: Option<i64>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Copy {
    fn found(record: &Record) -> Self {
        Self {
            timestamp_ms: record.timestamp_ms,
            value: record.value.as_deref().map(|value| datum(value).to_vec()),
            headers: record.headers.clone(),
        }
    }

    /// With its place in the cluster `stamp`, where it names none.
    fn expected(record: &Record, stamp: Option<&str>) -> Self {
        let mut copy = Self::found(record);
        if let (Some(cluster), None) = (stamp, record.header(ORIGIN_HEADER)) {
            let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
            let origin = format!("{cluster}/{topic}/{partition}/{offset}");
            let header = (ORIGIN_HEADER.to_owned(), Some(origin.into_bytes()));
            copy.headers.push(header);
        }
        copy
    }
}

/// What follows the schema's id, or all of what has none.
fn datum(bytes: &[u8]) -> &[u8] {
    frame::split(bytes).map_or(bytes, |(_, datum)| datum)
}

impl Lane {
    fn difference(&self) -> Option<String> {
        if self.astray > 0 {
            return Some(format!("{} are not in their key's partition", self.astray));
        }
        if self.expected == self.found {
            return None;
        }
        let mut counts: BTreeMap<&Copy, i64> = BTreeMap::new();
        for copy in &self.expected {
            *counts.entry(copy).or_default() += 1;
        }
        for copy in &self.found {
            *counts.entry(copy).or_default() -= 1;
        }
        let missing: i64 = counts.values().filter(|count| **count > 0).sum();
        let extra: i64 = -counts.values().filter(|count| **count < 0).sum::<i64>();
        let mut pairs = self.expected.iter().zip(&self.found);
        let first = pairs.position(|(expected, found)| expected != found);
        let at = first.unwrap_or(self.expected.len().min(self.found.len()));
        Some(format!(
            "of {} at the source {missing} are missing and {extra} are too many at the target, others are out of order; \
             the first is number {at}: {:?} is to be {:?}",
            self.expected.len(),
            self.found.get(at),
            self.expected.get(at)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane_of(expected: &[i64], found: &[i64]) -> Lane {
        let copies = |times: &[i64]| {
            let copy = |time: &i64| Copy {
                timestamp_ms: Some(*time),
                value: None,
                headers: Vec::new(),
            };
            times.iter().map(copy).collect()
        };
        Lane {
            expected: copies(expected),
            found: copies(found),
            astray: 0,
        }
    }

    #[test]
    fn what_is_lost_repeated_or_out_of_order_is_told() {
        assert_eq!(lane_of(&[1, 2, 2, 3], &[1, 2, 2, 3]).difference(), None);
        for (found, told) in [
            (&[1, 2, 3][..], "1 are missing and 0 are too many"),
            (&[1, 2, 2, 2, 3], "0 are missing and 1 are too many"),
            (&[1, 2, 3, 2], "0 are missing and 0 are too many"),
        ] {
            let difference = lane_of(&[1, 2, 2, 3], found).difference().unwrap();
            assert!(difference.contains(told), "{difference}");
        }
    }
}
