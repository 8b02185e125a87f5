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
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::Cluster;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::select::OFFSETS_SUFFIX;
use crate::source::{END, ask};
use crate::state::{Switches, now_ms};
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
    /// Without a value, what was said under the key no longer counts.
    fn heed(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok(key) = serde_json::from_slice::<Key>(key) else {
            tracing::warn!("a record among the mirror's offsets is none of a mirror's");
            return;
        };
        let Some(value) = value else {
            match key {
                Key::Place {
                    cluster,
                    topic,
                    partition,
                } => drop(self.places.remove(&(cluster, topic, partition))),
                Key::Instance { instance } => drop(self.instances.remove(&instance)),
                Key::Flow { .. } => self.flow = None,
            }
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

/// For how long nothing may come while the topic is read.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// For how long a transaction may be open when the topic is read whole: brokers abort it after half a minute.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What reads such topics.
pub(crate) struct Reader {
    cluster: Cluster,
    committed: BaseConsumer,
    /// Sees what is not committed, too.
    all: Option<BaseConsumer>,
}

impl Reader {
    /// A reader that is connected; for [`Reader::read_whole`] it takes another client.
    pub(crate) fn open(cluster: &Cluster, whole: bool) -> anyhow::Result<Self> {
        let client = |isolation: &str| -> anyhow::Result<BaseConsumer> {
            Ok(cluster
                .client_config()
                // Needed to make a consumer, never joined.
                .set("group.id", "zeelos-mirror")
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                .set("isolation.level", isolation)
                .set("allow.auto.create.topics", "false")
                .set("fetch.wait.max.ms", "50")
                .create()?)
        };
        Ok(Self {
            committed: client("read_committed")?,
            all: whole.then(|| client("read_uncommitted")).transpose()?,
            cluster: cluster.clone(),
        })
    }

    /// As [`Reader::read`], and everything written until now: waits for open transactions, behind which nothing can be
    /// read as committed. `None`: told to stop meanwhile.
    pub(crate) fn read_whole(
        &self,
        topic: &str,
        switches: &Switches,
    ) -> anyhow::Result<Option<Kept>> {
        let last = [(topic, 0, END)];
        let end_for = |consumer: &BaseConsumer| -> anyhow::Result<Option<i64>> {
            let ends = ask(consumer, &last, IDLE_LIMIT).with_context(|| self.unanswered(topic))?;
            Ok(ends.into_values().next())
        };
        // Without an end there is no such topic, or no leader of it: reading finds out.
        if let Some(all) = &self.all
            && let Some(end) = end_for(all)?
        {
            let began = Instant::now();
            while end_for(&self.committed)?.is_some_and(|decided| decided < end) {
                anyhow::ensure!(
                    began.elapsed() < OPEN_LIMIT,
                    "a transaction that writes to '{topic}' at {} does not end",
                    self.cluster.bootstrap()
                );
                if !switches.rest(LOOK_AGAIN) {
                    return Ok(None);
                }
            }
        }
        self.read(topic).map(Some)
    }

    fn unanswered(&self, topic: &str) -> String {
        format!("'{topic}' at {} can't be read", self.cluster.bootstrap())
    }

    /// Reads the topic, committed records only; nothing where there is no such topic.
    pub(crate) fn read(&self, topic: &str) -> anyhow::Result<Kept> {
        let consumer = &self.committed;
        let metadata = consumer
            .fetch_metadata(Some(topic), IDLE_LIMIT)
            .with_context(|| self.unanswered(topic))?;
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
        // It may be long, and the link slow: what counts is that something comes.
        let mut heard = Instant::now();
        loop {
            anyhow::ensure!(heard.elapsed() < IDLE_LIMIT, self.unanswered(topic));
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if let Some(key) = message.key() {
                        kept.heed(key, message.payload());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(kept),
                Some(Err(error)) => tracing::debug!(%error, topic, "reading goes on"),
                None => {}
            }
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
        let place = |partition, offset| {
            let value = place_value(offset, Some(5), 20);
            (place_key("c", "t", partition), value)
        };
        for (key, value) in [place(3, 17), place(5, 9), place(3, 18)] {
            kept.heed(&key, Some(&value));
        }
        kept.heed(&place_key("c", "t", 5), None);
        let (key, value) = instance_record("f", "1-a");
        kept.heed(&key, Some(&value));
        let (key, value) = flow_record("f", "c", &set(&["a.*"], &["ab"]), "exactly-once");
        kept.heed(&key, Some(&value));
        kept.heed(b"nonsense", Some(b"{}"));
        kept.heed(&place_key("c", "t", 4), Some(b"nonsense"));
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
