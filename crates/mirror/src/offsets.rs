//! The topic `<flow>.mirror-offsets` at the target: how far the flow is, written in the same transaction as the records,
//! and what the flow is.
//!
//! Compacted, one partition. Keys and values are JSON, for `kcat` and people:
//!
//! ```text
//! {"cluster":"<source's id>","topic":"t","partition":0}  →  {"offset":17,"timestamp_ms":…,"end":20,"at_ms":…}
//! {"instance":"<transactional id>"}                      →  {"instance":"1700000000000-…","at_ms":…}
//! {"flow":"<name>"}                                      →  {"source":"<id>","topics":[…],"exclude":[…],"delivery":"…","at_ms":…}
//! ```
//!
//! `offset` is the next one to copy, `end` the source's end as last heard, `timestamp_ms` that of the last record copied:
//! with them a lag in records and in seconds can be told at the target as well.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use kafka::Cluster;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::select::OFFSETS_SUFFIX;
use crate::state::now_ms;
use crate::{Pattern, TopicSet};

pub(crate) fn topic_of(flow: &str) -> String {
    format!("{flow}{OFFSETS_SUFFIX}")
}

/// Small segments and an eager cleaner: the topic is read whole at every start.
pub(crate) const TOPIC_CONFIG: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "4194304"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.05"),
];

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Place {
        cluster: String,
        topic: String,
        partition: i32,
    },
    Instance {
        instance: String,
    },
    Flow {
        flow: String,
    },
}

#[derive(Serialize, Deserialize)]
struct PlaceValue {
    offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<i64>,
    #[serde(default)]
    end: i64,
    #[serde(default)]
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct InstanceValue {
    instance: String,
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct FlowValue {
    source: String,
    topics: Vec<String>,
    exclude: Vec<String>,
    delivery: String,
    at_ms: i64,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("names and numbers are JSON")
}

pub(crate) fn place_key(cluster: &str, topic: &str, partition: i32) -> Vec<u8> {
    json(&Key::Place {
        cluster: cluster.to_owned(),
        topic: topic.to_owned(),
        partition,
    })
}

pub(crate) fn place_value(offset: i64, timestamp_ms: Option<i64>, end: i64) -> Vec<u8> {
    json(&PlaceValue {
        offset,
        timestamp_ms,
        end,
        at_ms: now_ms(),
    })
}

pub(crate) fn instance_record(transactional_id: &str, instance: &str) -> (Vec<u8>, Vec<u8>) {
    let key = Key::Instance {
        instance: transactional_id.to_owned(),
    };
    let value = InstanceValue {
        instance: instance.to_owned(),
        at_ms: now_ms(),
    };
    (json(&key), json(&value))
}

pub(crate) fn flow_record(
    flow: &str,
    source_id: &str,
    topics: &TopicSet,
    delivery: &str,
) -> (Vec<u8>, Vec<u8>) {
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
    let key = Key::Flow {
        flow: flow.to_owned(),
    };
    let value = FlowValue {
        source: source_id.to_owned(),
        topics: texts(&topics.include),
        exclude: texts(&topics.exclude),
        delivery: delivery.to_owned(),
        at_ms: now_ms(),
    };
    (json(&key), json(&value))
}

/// What one such topic says.
#[derive(Default)]
pub(crate) struct Kept {
    /// Per source cluster, topic and partition: the next offset to copy.
    pub(crate) places: HashMap<(String, String, i32), i64>,
    /// Per transactional id: the process that last took it over.
    pub(crate) instances: HashMap<String, String>,
    /// The flow, where it says what it is.
    pub(crate) flow: Option<KnownFlow>,
}

/// Another flow, as it describes itself.
pub(crate) struct KnownFlow {
    pub(crate) name: String,
    pub(crate) source_id: String,
    pub(crate) topics: TopicSet,
}

impl Kept {
    fn heed(&mut self, key: &[u8], value: &[u8]) {
        let Ok(key) = serde_json::from_slice::<Key>(key) else {
            tracing::warn!("a record among the mirror's offsets is none of a mirror's");
            return;
        };
        let read = match key {
            Key::Place {
                cluster,
                topic,
                partition,
            } => serde_json::from_slice::<PlaceValue>(value).map(|place| {
                self.places
                    .insert((cluster, topic, partition), place.offset);
            }),
            Key::Instance { instance } => {
                serde_json::from_slice::<InstanceValue>(value).map(|value| {
                    self.instances.insert(instance, value.instance);
                })
            }
            Key::Flow { flow } => serde_json::from_slice::<FlowValue>(value).map(|value| {
                let patterns = |texts: Vec<String>| {
                    texts.iter().filter_map(|text| text.parse().ok()).collect()
                };
                self.flow = Some(KnownFlow {
                    name: flow,
                    source_id: value.source,
                    topics: TopicSet {
                        include: patterns(value.topics),
                        exclude: patterns(value.exclude),
                    },
                });
            }),
        };
        if let Err(error) = read {
            tracing::warn!(%error, "a value among the mirror's offsets can't be read");
        }
    }
}

/// Reads the whole topic, committed records only; nothing where there is no such topic.
pub(crate) fn read(cluster: &Cluster, topic: &str, limit: Duration) -> anyhow::Result<Kept> {
    let consumer: BaseConsumer = cluster
        .client_config()
        // Needed to make a consumer, never joined.
        .set("group.id", "zeelos-mirror")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "50")
        .create()?;
    let unanswered = || format!("'{topic}' at {} can't be read", cluster.bootstrap());
    let metadata = consumer
        .fetch_metadata(Some(topic), limit)
        .with_context(unanswered)?;
    let partitions = metadata.topics().first().map_or(0, |found| {
        if found.error().is_some() {
            0
        } else {
            found.partitions().len()
        }
    });
    let mut kept = Kept::default();
    if partitions == 0 {
        return Ok(kept);
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let until = std::time::Instant::now() + limit;
    loop {
        anyhow::ensure!(std::time::Instant::now() < until, unanswered());
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                if let (Some(key), Some(value)) = (message.key(), message.payload()) {
                    kept.heed(key, value);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(kept),
            Some(Err(error)) => tracing::debug!(%error, topic, "reading goes on"),
            None => {}
        }
    }
}

/// A flow that carries topics of `ours` the other way: together they would carry records round for ever.
///
/// # Errors
/// Names that flow and a topic.
pub(crate) fn refuse_loops(
    ours: &TopicSet,
    target_id: &str,
    others: &[KnownFlow],
    topics: &[String],
) -> anyhow::Result<()> {
    for other in others.iter().filter(|other| other.source_id == target_id) {
        let both = topics
            .iter()
            .find(|topic| ours.contains(topic) && other.topics.contains(topic))
            .cloned()
            // Names that don't exist yet, where a pattern is a name or the very same.
            .or_else(|| {
                let mut theirs = other.topics.include.iter().map(ToString::to_string);
                theirs.find(|text| {
                    let name = text.replace('\\', "");
                    ours.contains(&name) && other.topics.contains(&name)
                        || ours.include.iter().any(|our| our.to_string() == *text)
                })
            });
        if let Some(topic) = both {
            anyhow::bail!(
                "topic '{topic}' is carried the other way by the flow '{name}': its records would go round for ever. \
                 Choose other --topics, or exclude it; if '{name}' is no longer used, delete the topic '{}' at the source",
                topic_of(&other.name),
                name = other.name,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(include: &[&str], exclude: &[&str]) -> TopicSet {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        TopicSet {
            include: patterns(include),
            exclude: patterns(exclude),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut kept = Kept::default();
        kept.heed(&place_key("c", "t", 3), &place_value(17, Some(5), 20));
        kept.heed(&place_key("c", "t", 3), &place_value(18, None, 20));
        let (key, value) = instance_record("f", "1-a");
        kept.heed(&key, &value);
        let (key, value) = flow_record("f", "c", &set(&["a.*"], &["ab"]), "exactly-once");
        kept.heed(&key, &value);
        kept.heed(b"nonsense", b"{}");
        kept.heed(&place_key("c", "t", 4), b"nonsense");
        assert_eq!(
            kept.places,
            [(("c".to_owned(), "t".to_owned(), 3), 18)].into()
        );
        assert_eq!(kept.instances["f"], "1-a");
        let flow = kept.flow.unwrap();
        assert_eq!((flow.name.as_str(), flow.source_id.as_str()), ("f", "c"));
        assert!(flow.topics.contains("aa") && !flow.topics.contains("ab"));
    }

    #[test]
    fn flows_with_a_topic_in_common_are_refused_only_when_they_are_opposite() {
        let other = |source_id: &str| KnownFlow {
            name: "back".to_owned(),
            source_id: source_id.to_owned(),
            topics: set(&[r"iot\.a\.management\.req"], &[]),
        };
        let all = set(&[r"iot\..*"], &[]);
        let gateway = set(&[r"iot\.a\..+"], &[r"iot\.a\.management\.req"]);
        let topics = ["iot.a.management.req".to_owned()];
        for topics in [&topics[..], &[]] {
            let refused = refuse_loops(&all, "target", &[other("target")], topics);
            let message = refused.unwrap_err().to_string();
            assert!(
                message.contains("'back'") && message.contains("management"),
                "{message}"
            );
            assert!(refuse_loops(&all, "target", &[other("elsewhere")], topics).is_ok());
            assert!(refuse_loops(&gateway, "target", &[other("target")], topics).is_ok());
        }
    }
}
