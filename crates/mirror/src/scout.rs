//! Looks for topics, says where to begin with each partition, and how far behind the flow is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use kafka::Cluster;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::lane::{Command, Start};
use crate::limits::Dropped;
use crate::metrics;
use crate::offsets::{self, KnownFlow};
use crate::select::OFFSETS_SUFFIX;
use crate::source::{self, BEGINNING, END, Places, list, note, noted, offsets_of, with_note};
use crate::state::{Delivery, Partition, Shared, now_ms};

/// How often new topics are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often ends of partitions are asked for, and whether another process took over.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// For how many rounds a partition is missing until it is taken to be gone: a broker that just started may not know
/// its topics yet.
const ROUNDS_MISSING: u32 = 3;
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long it takes to say that the source is away.
const SOURCE_LIMIT: Duration = Duration::from_secs(3);

/// Kafka's clients can't tell the one from the other, and the first may hold what was never carried.
const ENDS_EARLY: &str = "the partition ends before what was carried of it: it was made anew, or its broker lost its end. \
     It is carried from its beginning; in the second case records come twice";

pub(crate) struct Scout {
    shared: Arc<Shared>,
    consumer: BaseConsumer,
    lanes: Lanes,
    /// What the target says of how far the flow is.
    kept: HashMap<(String, String, i32), i64>,
    measured: Option<Instant>,
    /// For how many rounds a partition that is carried was not there.
    missing: HashMap<(String, i32), u32>,
    /// Partitions that were made anew: no offset known of them counts.
    anew: BTreeSet<(String, i32)>,
    /// Topics with a lag that is shown.
    shown: BTreeSet<String>,
    others_checked: bool,
}

/// How lanes are told.
pub(crate) struct Lanes {
    pub(crate) bulk: Sender<Command>,
    pub(crate) prompt: Option<Sender<Command>>,
}

impl Scout {
    /// A client of the source, before the flow is known whole.
    pub(crate) fn client(source: &Cluster, group: &str) -> anyhow::Result<BaseConsumer> {
        Ok(source
            .client_config()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .create()?)
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        consumer: BaseConsumer,
        lanes: Lanes,
        kept: HashMap<(String, String, i32), i64>,
    ) -> Self {
        Self {
            shared,
            consumer,
            lanes,
            kept,
            measured: None,
            missing: HashMap::new(),
            anew: BTreeSet::new(),
            shown: BTreeSet::new(),
            others_checked: false,
        }
    }

    /// Until the flow has to stop.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let outcome = loop {
            match self.round() {
                Ok(()) | Err(Trouble::Later) => self.shared.flow_health.ok("source"),
                Err(Trouble::Source(reason)) => self.shared.flow_health.fail(
                    "source",
                    format!(
                        "no Kafka broker to read from answers at {}: {reason}",
                        self.shared.source.bootstrap()
                    ),
                ),
                Err(Trouble::End(error)) => break Err(error),
            }
            self.show_lag();
            if !self.shared.switches.rest(LOOK_EVERY) {
                break Ok(());
            }
        };
        for topic in &self.shown {
            // Whoever carries it next shows it.
            let _ = metrics::LAG_RECORDS.remove_label_values(&[topic]);
            let _ = metrics::LAG_SECONDS.remove_label_values(&[topic]);
        }
        outcome
    }

    fn round(&mut self) -> Result<(), Trouble> {
        // Serves the client's own events; nothing is assigned, so no record comes.
        let _ = self.consumer.poll(Duration::ZERO);
        let metadata = self.consumer.fetch_metadata(None, SOURCE_LIMIT)?;
        let mut there = BTreeSet::new();
        let mut mirrors = Vec::new();
        let mut troubled = BTreeSet::new();
        for topic in metadata.topics() {
            let name = topic.name();
            if name.ends_with(OFFSETS_SUFFIX) {
                mirrors.push(name.to_owned());
            }
            if topic.error().is_some() {
                troubled.insert(name.to_owned());
            } else if self.shared.flow.topics.contains(name) {
                for partition in topic.partitions() {
                    there.insert((name.to_owned(), partition.id()));
                }
            }
        }
        let known: BTreeSet<_> = self.shared.partitions.lock().keys().cloned().collect();
        let new: Vec<_> = there.difference(&known).cloned().collect();
        if !self.others_checked || !new.is_empty() {
            self.refuse_loops(&mirrors, &there)?;
            self.others_checked = true;
        }
        if !new.is_empty() {
            self.assign(new)?;
        }
        let missing = known
            .difference(&there)
            // Listed, so it is there.
            .filter(|(topic, _)| !troubled.contains(topic));
        self.missing = missing
            .map(|place| {
                let rounds = self.missing.get(place).copied().unwrap_or(0);
                (place.clone(), rounds + 1)
            })
            .collect();
        let long = self
            .missing
            .extract_if(|_, rounds| *rounds >= ROUNDS_MISSING);
        let gone: Vec<_> = long.map(|(place, _)| place).collect();
        if !gone.is_empty() {
            self.unassign(gone);
        }
        let due = self
            .measured
            .is_none_or(|measured| measured.elapsed() >= MEASURE_EVERY);
        if due {
            self.measure()?;
            self.measured = Some(Instant::now());
        }
        Ok(())
    }

    fn refuse_loops(
        &self,
        mirrors: &[String],
        there: &BTreeSet<(String, i32)>,
    ) -> Result<(), Trouble> {
        let mut others: Vec<KnownFlow> = Vec::new();
        for topic in mirrors {
            let reader = offsets::Reader::open(&self.shared.source, false);
            match reader.and_then(|reader| reader.read(topic)) {
                Ok(kept) => others.extend(kept.flow),
                // Not every mirror may read what others keep.
                Err(error) => tracing::warn!(
                    topic,
                    error = format!("{error:#}"),
                    "this flow could not be compared with another one"
                ),
            }
        }
        let topics: Vec<String> = there.iter().map(|(topic, _)| topic.clone()).collect();
        offsets::refuse_loops(
            &self.shared.flow.topics,
            &self.shared.target_id,
            &others,
            &topics,
        )
        .map_err(Trouble::End)
    }

    fn assign(&mut self, new: Vec<(String, i32)>) -> Result<(), Trouble> {
        let at = |offset| -> Vec<(&str, i32, i64)> {
            new.iter()
                .map(|(topic, partition)| (topic.as_str(), *partition, offset))
                .collect()
        };
        let first = self.ask(&at(BEGINNING))?;
        let end = self.ask(&at(END))?;
        let committed = self.consumer.committed_offsets(list(&at(0))?, CALL_LIMIT)?;
        let committed = offsets_of(&committed);
        let mut bulk = Vec::new();
        let mut prompt = Vec::new();
        for (topic, partition) in new {
            let place = (topic, partition);
            let (Some(first), Some(end)) = (first.get(&place), end.get(&place)) else {
                // Its leader is being elected: the next round has it.
                continue;
            };
            let key = (self.shared.source_id.clone(), place.0.clone(), partition);
            let kept = self.kept.get(&key).copied();
            let committed = committed.get(&place).copied();
            let known = match self.shared.delivery() {
                Delivery::ExactlyOnce => kept.max(committed),
                // Nobody brings up to date what is kept.
                Delivery::AtLeastOnce => committed.or(kept),
            };
            let known = known.filter(|_| !self.anew.contains(&place));
            let offset = self.begin_at(&place, known, *first, *end);
            let (topic, partition) = place;
            let is_prompt = self.lanes.prompt.is_some() && self.shared.flow.is_prompt(&topic);
            let start = Start {
                state: Arc::new(Partition::new(is_prompt, offset, *end)),
                topic,
                partition,
                offset,
            };
            if is_prompt {
                prompt.push(start)
            } else {
                bulk.push(start)
            }
        }
        if self.shared.delivery() == Delivery::AtLeastOnce {
            self.claim(bulk.iter().chain(&prompt))?;
        }
        let mut partitions = self.shared.partitions.lock();
        for start in bulk.iter().chain(&prompt) {
            self.anew.remove(&(start.topic.clone(), start.partition));
            tracing::info!(
                topic = start.topic,
                partition = start.partition,
                offset = start.offset,
                "carried from here on"
            );
            partitions.insert(
                (start.topic.clone(), start.partition),
                Arc::clone(&start.state),
            );
        }
        drop(partitions);
        for (lane, starts) in [
            (Some(&self.lanes.bulk), bulk),
            (self.lanes.prompt.as_ref(), prompt),
        ] {
            if let (Some(lane), false) = (lane, starts.is_empty()) {
                // A lane that ended says why itself.
                let _ = lane.send(Command::Assign(starts));
            }
        }
        Ok(())
    }

    /// Where to begin, given the offset known and the ends of the partition.
    fn begin_at(&self, place: &(String, i32), known: Option<i64>, first: i64, end: i64) -> i64 {
        let (topic, partition) = place;
        match known {
            None => first,
            Some(known) if known < first => {
                let lost = first - known;
                metrics::DROPPED
                    .with_label_values(&[topic, Dropped::Retention.as_str()])
                    .inc_by(u64::try_from(lost).unwrap_or(0));
                tracing::error!(
                    topic,
                    partition,
                    lost,
                    "the source deleted records before they could be carried"
                );
                first
            }
            Some(known) if known > end => {
                tracing::warn!(topic, partition, known, end, "{ENDS_EARLY}");
                first
            }
            Some(known) => known,
        }
    }

    /// Without transactions: tells other processes of this flow, by the note beside the offsets, that this one begins.
    fn claim<'a>(&self, starts: impl Iterator<Item = &'a Start>) -> Result<(), Trouble> {
        let places: Vec<_> = starts
            .map(|start| (start.topic.as_str(), start.partition, start.offset))
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        let offsets = with_note(list(&places)?, &note(&self.shared.instance));
        match self.consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => {
                self.shared.flow_health.ok("group");
                Ok(())
            }
            Err(error) => {
                let members = matches!(
                    error.rdkafka_error_code(),
                    Some(
                        RDKafkaErrorCode::UnknownMemberId
                            | RDKafkaErrorCode::IllegalGeneration
                            | RDKafkaErrorCode::RebalanceInProgress
                    )
                );
                let reason = if members {
                    format!(
                        "the consumer group '{}' has members: another mirror carries this flow. It begins here once that one has ended",
                        self.shared.flow.name
                    )
                } else {
                    format!("offsets can't be committed at the source: {error}")
                };
                self.shared.flow_health.fail("group", reason);
                Err(Trouble::Later)
            }
        }
    }

    fn unassign(&mut self, gone: Vec<(String, i32)>) {
        for (topic, partition) in &gone {
            let key = (self.shared.source_id.clone(), topic.clone(), *partition);
            self.kept.remove(&key);
        }
        let mut partitions = self.shared.partitions.lock();
        for place in &gone {
            partitions.remove(place);
            tracing::info!(topic = place.0, partition = place.1, "no longer carried");
        }
        drop(partitions);
        for lane in [Some(&self.lanes.bulk), self.lanes.prompt.as_ref()]
            .into_iter()
            .flatten()
        {
            let _ = lane.send(Command::Unassign(gone.clone()));
        }
    }

    fn measure(&mut self) -> Result<(), Trouble> {
        // How far each is: before the ends are asked for, as it goes on meanwhile.
        let partitions: Vec<_> = {
            let partitions = self.shared.partitions.lock();
            partitions
                .iter()
                .map(|(place, state)| (place.clone(), state.done(), Arc::clone(state)))
                .collect()
        };
        if partitions.is_empty() {
            return Ok(());
        }
        let asked: Vec<_> = partitions
            .iter()
            .map(|((topic, partition), ..)| (topic.as_str(), *partition, END))
            .collect();
        let ends = self.ask(&asked)?;
        let now = Instant::now();
        let mut anew = Vec::new();
        for (place, done, state) in &partitions {
            let Some(end) = ends.get(place) else { continue };
            if end < done {
                tracing::warn!(
                    topic = place.0,
                    partition = place.1,
                    done,
                    end,
                    "{ENDS_EARLY}"
                );
                anew.push(place.clone());
            } else {
                state.ends_at(*end, now);
            }
        }
        if self.shared.delivery() == Delivery::AtLeastOnce {
            let committed = self.consumer.committed_offsets(list(&asked)?, CALL_LIMIT)?;
            for element in committed.elements() {
                if let Some(other) = noted(element.metadata())
                    && *other > *self.shared.instance
                {
                    return Err(Trouble::End(anyhow::anyhow!(
                        "another process (started as {other}) has taken over the flow '{}'; this one ends: run one at a time",
                        self.shared.flow.name
                    )));
                }
            }
        }
        if !anew.is_empty() {
            self.anew.extend(anew.iter().cloned());
            self.unassign(anew);
        }
        Ok(())
    }

    /// First or last offsets, all in one request to each leader.
    fn ask(&self, places: &[(&str, i32, i64)]) -> Result<Places, Trouble> {
        Ok(source::ask(&self.consumer, places, CALL_LIMIT)?)
    }

    fn show_lag(&mut self) {
        let (now, now_ms) = (Instant::now(), now_ms());
        let mut topics: BTreeMap<String, (i64, Duration)> = BTreeMap::new();
        for ((topic, _), state) in self.shared.partitions.lock().iter() {
            let lag = topics.entry(topic.clone()).or_default();
            lag.0 += state.lag_records();
            lag.1 = lag.1.max(state.lag(now, now_ms));
        }
        for (topic, (lag, time)) in &topics {
            metrics::LAG_RECORDS.with_label_values(&[topic]).set(*lag);
            metrics::LAG_SECONDS
                .with_label_values(&[topic])
                .set(time.as_secs_f64());
        }
        for topic in &self.shown {
            if !topics.contains_key(topic) {
                let _ = metrics::LAG_RECORDS.remove_label_values(&[topic]);
                let _ = metrics::LAG_SECONDS.remove_label_values(&[topic]);
            }
        }
        self.shown = topics.into_keys().collect();
    }
}

/// Why a round was not whole.
#[derive(Debug)]
enum Trouble {
    /// The source does not answer.
    Source(String),
    /// Told already; the next round tries again.
    Later,
    /// The flow can't go on.
    End(anyhow::Error),
}

impl From<KafkaError> for Trouble {
    fn from(error: KafkaError) -> Self {
        Self::Source(error.to_string())
    }
}
