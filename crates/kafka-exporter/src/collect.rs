//! One round of questions to the cluster, as metric families.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::{Cluster, HeardEnds};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGaugeVec, Opts};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::mirrors::Mirrors;

const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The most groups that are followed: each has a client of its own, whose group is what offsets are asked by.
const MOST_GROUPS: usize = 100;

/// Clients that are kept between rounds, and what was heard.
pub(crate) struct Collector {
    cluster: Cluster,
    client: BaseConsumer,
    groups: HashMap<String, BaseConsumer>,
    heard: HashMap<(String, i32), HeardEnds>,
    mirrors: Mirrors,
}

/// Partitions and where they end and begin.
type Bounds = BTreeMap<(String, i32), (i64, i64)>;

impl Collector {
    pub(crate) fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self {
            cluster: cluster.clone(),
            client: client(cluster, "zeelos-exporter")?,
            groups: HashMap::new(),
            heard: HashMap::new(),
            mirrors: Mirrors::new(cluster),
        })
    }

    /// The same with new clients: what was heard stays.
    pub(crate) fn renewed(self) -> anyhow::Result<Self> {
        let heard = self.heard;
        let renewed = Self::new(&self.cluster)?;
        Ok(Self { heard, ..renewed })
    }

    /// Asks everything once; blocks.
    pub(crate) fn collect(&mut self) -> anyhow::Result<Vec<MetricFamily>> {
        let gauges = Gauges::new()?;
        let bounds = self.topics(&gauges)?;
        self.hear(&bounds);
        self.consumer_groups(&gauges, &bounds)?;
        let topics: BTreeSet<&str> = bounds.keys().map(|(topic, _)| topic.as_str()).collect();
        self.mirrors
            .collect(&topics, &gauges.mirror_lag, &gauges.mirror_lag_seconds);
        let counts = gauges
            .counts()
            .into_iter()
            .flat_map(|gauge| gauge.collect());
        let times = gauges.times().into_iter().flat_map(|gauge| gauge.collect());
        Ok(counts
            .chain(times)
            // One without a value, as groups' are where there is no group, can't be written.
            .filter(|family| !family.get_metric().is_empty())
            .collect())
    }

    fn topics(&self, gauges: &Gauges) -> anyhow::Result<Bounds> {
        let metadata = self
            .client
            .fetch_metadata(None, CALL_LIMIT)
            .context("no Kafka broker answers")?;
        let brokers = metadata.brokers();
        gauges
            .brokers
            .with_label_values::<&str>(&[])
            .set(count(brokers.len()));
        for broker in brokers {
            let address = format!("{}:{}", broker.host(), broker.port());
            let id = broker.id().to_string();
            gauges
                .broker_info
                .with_label_values(&[&id, &address])
                .set(1);
        }
        let mut bounds = Bounds::new();
        for topic in metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
        {
            let name = topic.name();
            let partitions = topic.partitions();
            gauges
                .partitions
                .with_label_values(&[name])
                .set(count(partitions.len()));
            for partition in partitions {
                let id = partition.id().to_string();
                let labels = [name, &id];
                let (replicas, in_sync) = (partition.replicas().len(), partition.isr().len());
                gauges
                    .leader
                    .with_label_values(&labels)
                    .set(partition.leader().into());
                gauges
                    .replicas
                    .with_label_values(&labels)
                    .set(count(replicas));
                gauges
                    .in_sync
                    .with_label_values(&labels)
                    .set(count(in_sync));
                let under = i64::from(in_sync < replicas);
                gauges
                    .under_replicated
                    .with_label_values(&labels)
                    .set(under);
                // Without a leader there is no answer, and no use in waiting for one.
                if partition.leader() < 0 {
                    continue;
                }
                let asked = self
                    .client
                    .fetch_watermarks(name, partition.id(), CALL_LIMIT);
                let (low, high) = match asked {
                    Ok(bounds) => bounds,
                    // A topic may be deleted, or its leader change, while we ask; the others have offsets all the same.
                    Err(error) if is_of_the_partition(&error) => {
                        tracing::debug!(topic = name, partition = id, %error, "no offsets now");
                        continue;
                    }
                    Err(error) => {
                        return Err(error).with_context(|| format!("no offsets of {name}/{id}"));
                    }
                };
                gauges.oldest.with_label_values(&labels).set(low);
                gauges.current.with_label_values(&labels).set(high);
                bounds.insert((name.to_owned(), partition.id()), (low, high));
            }
        }
        Ok(bounds)
    }

    fn hear(&mut self, bounds: &Bounds) {
        let now = Instant::now();
        self.heard.retain(|place, _| bounds.contains_key(place));
        for (place, (_, end)) in bounds {
            let heard = self.heard.entry(place.clone()).or_default();
            heard.ends_at(*end, now);
        }
    }

    /// For how long records at and after this offset have been waiting; at least, as the end may have been there before us.
    fn waits_for(&self, place: &(String, i32), offset: i64) -> Duration {
        let since = self.heard.get(place).and_then(|h| h.waits_since(offset));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn consumer_groups(&mut self, gauges: &Gauges, bounds: &Bounds) -> anyhow::Result<()> {
        let list = self
            .client
            .fetch_group_list(None, CALL_LIMIT)
            .context("the brokers do not say which consumer groups there are")?;
        let mut known = HashSet::new();
        for group in list.groups().iter().take(MOST_GROUPS) {
            let name = group.name();
            let members = count(group.members().len());
            gauges.members.with_label_values(&[name]).set(members);
            known.insert(name.to_owned());
            if !self.groups.contains_key(name) {
                let client = client(&self.cluster, name)?;
                self.groups.insert(name.to_owned(), client);
            }
            if let Err(error) = self.offsets(name, gauges, bounds) {
                tracing::debug!(group = name, %error, "no offsets of this group now");
            }
        }
        if list.groups().len() > MOST_GROUPS {
            tracing::warn!(
                groups = list.groups().len(),
                shown = MOST_GROUPS,
                "more consumer groups than are shown"
            );
        }
        self.groups.retain(|name, _| known.contains(name));
        Ok(())
    }

    fn offsets(&self, group: &str, gauges: &Gauges, bounds: &Bounds) -> anyhow::Result<()> {
        let Some(client) = self.groups.get(group) else {
            return Ok(());
        };
        let mut asked = TopicPartitionList::with_capacity(bounds.len());
        for (topic, partition) in bounds.keys() {
            asked.add_partition(topic, *partition);
        }
        let committed = client.committed_offsets(asked, CALL_LIMIT)?;
        let mut sums: BTreeMap<String, (i64, i64, Duration)> = BTreeMap::new();
        for element in committed.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let Offset::Offset(offset) = element.offset() else {
                continue;
            };
            let place = (topic.to_owned(), partition);
            let Some((_, end)) = bounds.get(&place) else {
                continue;
            };
            // A commit may be younger than the end that was asked for before it.
            let lag = (end - offset).max(0);
            let id = partition.to_string();
            gauges
                .group_offset
                .with_label_values(&[group, topic, &id])
                .set(offset);
            gauges.lag.with_label_values(&[group, topic, &id]).set(lag);
            let sum = sums.entry(topic.to_owned()).or_default();
            sum.0 += offset;
            sum.1 += lag;
            sum.2 = sum.2.max(self.waits_for(&place, offset));
        }
        for (topic, (offset, lag, waits)) in sums {
            gauges
                .group_offset_sum
                .with_label_values(&[group, &topic])
                .set(offset);
            gauges.lag_sum.with_label_values(&[group, &topic]).set(lag);
            gauges
                .lag_seconds
                .with_label_values(&[group, &topic])
                .set(waits.as_secs_f64());
        }
        Ok(())
    }
}

/// Whether a question failed for what became of one partition.
fn is_of_the_partition(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopic,
        UnknownTopicOrPartition,
    };
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            LeaderNotAvailable
                | NotLeaderForPartition
                | UnknownPartition
                | UnknownTopic
                | UnknownTopicOrPartition
        )
    })
}

pub(crate) fn client(cluster: &Cluster, group: &str) -> anyhow::Result<BaseConsumer> {
    let client = cluster
        .client_config()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .create()?;
    Ok(client)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Made anew in each round, so that what is gone is not shown.
struct Gauges {
    brokers: IntGaugeVec,
    broker_info: IntGaugeVec,
    partitions: IntGaugeVec,
    current: IntGaugeVec,
    oldest: IntGaugeVec,
    leader: IntGaugeVec,
    replicas: IntGaugeVec,
    in_sync: IntGaugeVec,
    under_replicated: IntGaugeVec,
    members: IntGaugeVec,
    group_offset: IntGaugeVec,
    group_offset_sum: IntGaugeVec,
    lag: IntGaugeVec,
    lag_sum: IntGaugeVec,
    lag_seconds: GaugeVec,
    mirror_lag: IntGaugeVec,
    mirror_lag_seconds: GaugeVec,
}

impl Gauges {
    fn new() -> anyhow::Result<Self> {
        let partition = ["topic", "partition"];
        let group = ["consumergroup", "topic", "partition"];
        let sum = ["consumergroup", "topic"];
        let flow = ["flow", "topic"];
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        Ok(Self {
            brokers: gauge("kafka_brokers", "Number of brokers in the cluster", &[])?,
            broker_info: gauge(
                "kafka_broker_info",
                "A broker and its address",
                &["id", "address"],
            )?,
            partitions: gauge(
                "kafka_topic_partitions",
                "Number of partitions of a topic",
                &["topic"],
            )?,
            current: gauge(
                "kafka_topic_partition_current_offset",
                "The offset after a partition's last record",
                &partition,
            )?,
            oldest: gauge(
                "kafka_topic_partition_oldest_offset",
                "The offset of a partition's first record",
                &partition,
            )?,
            leader: gauge(
                "kafka_topic_partition_leader",
                "The broker that leads a partition",
                &partition,
            )?,
            replicas: gauge(
                "kafka_topic_partition_replicas",
                "Replicas of a partition",
                &partition,
            )?,
            in_sync: gauge(
                "kafka_topic_partition_in_sync_replica",
                "Replicas of a partition that have all of it",
                &partition,
            )?,
            under_replicated: gauge(
                "kafka_topic_partition_under_replicated_partition",
                "1 where a replica lags behind",
                &partition,
            )?,
            members: gauge(
                "kafka_consumergroup_members",
                "Members of a consumer group",
                &["consumergroup"],
            )?,
            group_offset: gauge(
                "kafka_consumergroup_current_offset",
                "The offset a group has committed",
                &group,
            )?,
            group_offset_sum: gauge(
                "kafka_consumergroup_current_offset_sum",
                "The offsets a group has committed in a topic, together",
                &sum,
            )?,
            lag: gauge(
                "kafka_consumergroup_lag",
                "Records after the offset a group has committed",
                &group,
            )?,
            lag_sum: gauge(
                "kafka_consumergroup_lag_sum",
                "Records of a topic after the offsets a group has committed",
                &sum,
            )?,
            lag_seconds: GaugeVec::new(
                Opts::new(
                    "kafka_consumergroup_lag_seconds",
                    "For how long the oldest record of a topic after the offsets a group has committed has been waiting",
                ),
                &sum,
            )?,
            mirror_lag: gauge(
                "zeelos_mirror_target_lag_records",
                "Records of a source's topic that a mirror had still to carry here, by its own offsets",
                &flow,
            )?,
            mirror_lag_seconds: GaugeVec::new(
                Opts::new(
                    "zeelos_mirror_target_lag_seconds",
                    "The age of the oldest record that a mirror had still to carry here, by its own offsets",
                ),
                &flow,
            )?,
        })
    }

    fn times(&self) -> [&GaugeVec; 2] {
        [&self.lag_seconds, &self.mirror_lag_seconds]
    }

    fn counts(&self) -> [&IntGaugeVec; 15] {
        [
            &self.brokers,
            &self.broker_info,
            &self.partitions,
            &self.current,
            &self.oldest,
            &self.leader,
            &self.replicas,
            &self.in_sync,
            &self.under_replicated,
            &self.members,
            &self.group_offset,
            &self.group_offset_sum,
            &self.lag,
            &self.lag_sum,
            &self.mirror_lag,
        ]
    }
}
