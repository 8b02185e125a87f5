//! What exactly-once mirrors say, at their target, of how far they are (docs/mirror.md has the records' shape).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kafka::Cluster;
use prometheus::{GaugeVec, IntGaugeVec};
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use serde::Deserialize;

use crate::collect::client;

/// The end of the names of mirrors' own topics; before it stands the flow's.
const SUFFIX: &str = ".mirror-offsets";
/// How long all such topics may take in one round; what is left is read in the next.
const ROUND_LIMIT: Duration = Duration::from_secs(5);
/// The most flows that are followed: each has a client of its own.
const MOST_FLOWS: usize = 100;

pub(crate) struct Mirrors {
    cluster: Cluster,
    /// By the topic's name.
    flows: BTreeMap<String, Flow>,
}

struct Flow {
    client: BaseConsumer,
    places: HashMap<Key, Place>,
}

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Key {
    cluster: String,
    topic: String,
    partition: i32,
}

#[derive(Deserialize)]
struct Place {
    offset: i64,
    timestamp_ms: Option<i64>,
    #[serde(default)]
    end: i64,
    #[serde(default)]
    at_ms: i64,
}

impl Mirrors {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            flows: BTreeMap::new(),
        }
    }

    /// Reads what is new in those of the topics that are mirrors' own.
    pub(crate) fn collect(
        &mut self,
        topics: &BTreeSet<&str>,
        records: &IntGaugeVec,
        seconds: &GaugeVec,
    ) {
        self.flows
            .retain(|topic, _| topics.contains(topic.as_str()));
        let until = Instant::now() + ROUND_LIMIT;
        let own = topics.iter().filter(|topic| topic.ends_with(SUFFIX));
        for topic in own.take(MOST_FLOWS) {
            if let Err(error) = self.follow(topic, until) {
                tracing::debug!(topic, %error, "the mirror's offsets can't be read now");
                self.flows.remove(*topic);
            }
        }
        let now_ms = service::now_ms();
        for (topic, flow) in &self.flows {
            let name = topic.strip_suffix(SUFFIX).unwrap_or(topic);
            for (source, (lag, oldest_ms)) in flow.lags() {
                let labels = [name, source];
                records.with_label_values(&labels).set(lag);
                let age = oldest_ms.map_or(0, |ms| (now_ms - ms).max(0));
                seconds.with_label_values(&labels).set(age as f64 / 1_000.0);
            }
        }
    }

    fn follow(&mut self, topic: &str, until: Instant) -> Result<(), anyhow::Error> {
        if !self.flows.contains_key(topic) {
            let flow = Flow::open(&self.cluster, topic)?;
            self.flows.insert(topic.to_owned(), flow);
        }
        match self.flows.get_mut(topic) {
            Some(flow) => flow.read(until),
            None => Ok(()),
        }
    }
}

impl Flow {
    fn open(cluster: &Cluster, topic: &str) -> anyhow::Result<Self> {
        let client = client(cluster, "zeelos-exporter")?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
        client.assign(&assignment)?;
        Ok(Self {
            client,
            places: HashMap::new(),
        })
    }

    fn read(&mut self, until: Instant) -> anyhow::Result<()> {
        loop {
            match self.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    // Other keys are about the flow as a whole.
                    let key = message.key().map(serde_json::from_slice::<Key>);
                    let Some(Ok(key)) = key else { continue };
                    match message.payload().map(serde_json::from_slice::<Place>) {
                        Some(Ok(place)) => drop(self.places.insert(key, place)),
                        Some(Err(error)) => {
                            tracing::debug!(%error, "no offset of a mirror's");
                        }
                        None => drop(self.places.remove(&key)),
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
            if Instant::now() > until {
                return Ok(());
            }
        }
    }

    /// By topic: records that wait, and the timestamp before which none of them is.
    fn lags(&self) -> BTreeMap<&str, (i64, Option<i64>)> {
        let mut lags: BTreeMap<&str, (i64, Option<i64>)> = BTreeMap::new();
        for (key, place) in &self.places {
            let lag = lags.entry(&key.topic).or_default();
            let waiting = (place.end - place.offset).max(0);
            if waiting > 0 {
                // What waits came after what was carried last.
                let oldest_ms = place.timestamp_ms.unwrap_or(place.at_ms);
                lag.0 += waiting;
                lag.1 = Some(lag.1.map_or(oldest_ms, |known| known.min(oldest_ms)));
            }
        }
        lags
    }
}
