//! What happens to one record, from its reading to its handing over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{NO_TIMESTAMP, ORIGIN_HEADER, Origin, TRACE_HEADER, dead_letters};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message, OwnedHeaders};
use service::Backoff;

use crate::limits::{Bounds, Dropped};
use crate::metrics;
use crate::rewrite::{Change, Part, RewriteError, patch};
use crate::source::BEGINNING;
use crate::state::now_ms;
use crate::target::Target;

use super::epoch::{Care, Extent, Letter, Touched, Verdict};
use super::settle::TRY_AGAIN;
use super::{Halt, Lane, SILENT_AFTER};

/// How often a partition is asked where young records begin.
const ASK_AGE_EVERY: Duration = Duration::from_secs(1);
/// How long partitions of a topic at the target are taken to stay as many.
const PARTITIONS_HOLD: Duration = Duration::from_secs(60);
/// How long a topic that was asked for may take to show up, before the trouble is told.
const TOPIC_SHOWS_UP: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// A record as it is handed over.
struct Outgoing<'a> {
    topic: &'a str,
    partition: Option<i32>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    timestamp_ms: Option<i64>,
    headers: Option<OwnedHeaders>,
}

impl Lane {
    pub(super) fn carry(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Halt> {
        let Some(at) = self.place_of(message) else {
            return Ok(());
        };
        let offset = message.offset();
        let place = &mut self.places[at];
        place.position_holds = true;
        if offset < place.next || place.gone {
            return Ok(());
        }
        let care = place.care(offset);
        if !self.open.is_empty() && (care != self.open.care || care == Care::Alone) {
            let generation = place.generation;
            self.settle()?;
            if self.places[at].generation != generation {
                return Ok(());
            }
        }
        self.open.care = care;
        if self.leaves_out(at, message)? {
            return Ok(());
        }
        if !self.verdicts.is_empty()
            && let Some(verdict) = self.verdicts.get(&(at, offset)).cloned()
        {
            return self.put_aside(at, message, verdict);
        }
        // Taken out, as what they come to hold is lent while the lane is at work.
        let (mut key, mut value) = (
            std::mem::take(&mut self.key),
            std::mem::take(&mut self.value),
        );
        let carried = self.carry_valid(at, message, &mut key, &mut value);
        (self.key, self.value) = (key, value);
        carried
    }

    fn carry_valid(
        &mut self,
        at: usize,
        message: &BorrowedMessage<'_>,
        key_scratch: &mut Vec<u8>,
        value_scratch: &mut Vec<u8>,
    ) -> Result<(), Halt> {
        let topic_at = self.places[at].topic;
        let (mut key, mut value) = (message.key(), message.payload());
        if self.rewrite.is_some() {
            // Until both ids are known.
            let (of_key, of_value) = loop {
                let topic = &mut self.topics[topic_at];
                let of_key = key.map_or(Change::None, |bytes| topic.keys.change(bytes));
                let of_value = value.map_or(Change::None, |bytes| topic.values.change(bytes));
                let (part, id) = match (of_key, of_value) {
                    (Change::Ask(id), _) => (Part::Key, id),
                    (_, Change::Ask(id)) => (Part::Value, id),
                    changes => break changes,
                };
                match self.learn(at, part, id)? {
                    Learnt::Known => {}
                    Learnt::WentBack => return Ok(()),
                    // A dead letter stays as it came, also across the next mirror.
                    Learnt::Poisoned(_)
                        if records::topics::dlq_source(message.topic()).is_some() =>
                    {
                        break (Change::None, Change::None);
                    }
                    Learnt::Poisoned(error) => {
                        let verdict = Verdict {
                            reason: "schema",
                            message: error,
                            extent: Extent::Whole,
                            untimed: false,
                        };
                        return self.put_aside(at, message, verdict);
                    }
                }
            };
            key = key.map(|bytes| patch(bytes, of_key, key_scratch));
            value = value.map(|bytes| patch(bytes, of_value, value_scratch));
        }
        let partition = if key.is_some() {
            // It decides by itself: Java's default partitioner, over the rewritten key.
            None
        } else {
            let generation = self.places[at].generation;
            let partition = self.partition_for(at)?;
            if self.places[at].generation != generation {
                return Ok(());
            }
            Some(partition)
        };
        let headers = self.headers_of(message);
        let name = Arc::clone(&self.topics[topic_at].name);
        let outgoing = Outgoing {
            topic: &name,
            partition,
            key,
            value,
            timestamp_ms: message.timestamp().to_millis(),
            headers,
        };
        if let Some(error) = self.hand_over(at, message, outgoing)? {
            // Said before it was sent, so no neighbour is meant.
            let verdict = Verdict {
                reason: reason(error.rdkafka_error_code()),
                message: error.to_string(),
                extent: Extent::Whole,
                untimed: error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTimestamp),
            };
            return self.put_aside(at, message, verdict);
        }
        Ok(())
    }

    /// Limits and loops: whether the record stays behind.
    fn leaves_out(&mut self, at: usize, message: &BorrowedMessage<'_>) -> Result<bool, Halt> {
        if let Some(headers) = message.headers() {
            self.tell_trace(headers, message);
            if self.came_from_target(headers, message.topic()) {
                self.pass_over(at, message, message.offset() + 1, Dropped::Loop)?;
                return Ok(true);
            }
        }
        let topic = &self.topics[self.places[at].topic];
        let bounds = topic.bounds;
        if bounds == Bounds::default() {
            return Ok(false);
        }
        let offset = message.offset();
        let state = &self.places[at].state;
        if let Some(backlog) = bounds.backlog
            && state.end() - offset > backlog
        {
            let to = state.end() - backlog;
            self.pass_over(at, message, to, Dropped::Backlog)?;
            return Ok(true);
        }
        let bytes = message.key_len() + message.payload_len();
        if bounds.record_bytes.is_some_and(|most| bytes > most) {
            self.pass_over(at, message, offset + 1, Dropped::Size)?;
            return Ok(true);
        }
        if let (Some(age_ms), Some(timestamp_ms)) = (bounds.age_ms, message.timestamp().to_millis())
        {
            let young = now_ms() - age_ms;
            if timestamp_ms < young {
                let to = self.first_young(at, young).unwrap_or(0).max(offset + 1);
                self.pass_over(at, message, to, Dropped::Age)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where young records begin, by the source's index: what is too old need not even cross the link.
    fn first_young(&mut self, at: usize, young_ms: i64) -> Option<i64> {
        let place = &mut self.places[at];
        if place
            .asked_age
            .is_some_and(|asked| asked.elapsed() < ASK_AGE_EVERY)
        {
            return None;
        }
        place.asked_age = Some(Instant::now());
        let topic = &self.topics[place.topic];
        self.source.offset_at(
            &topic.name,
            place.partition,
            young_ms,
            Duration::from_secs(5),
        )
    }

    /// Leaves out what stands before `to`.
    fn pass_over(
        &mut self,
        at: usize,
        message: &BorrowedMessage<'_>,
        to: i64,
        reason: Dropped,
    ) -> Result<(), Halt> {
        let (from, timestamp_ms) = (message.offset(), message.timestamp().to_millis());
        let count = self.leave_behind(at, timestamp_ms, from, to, reason)?;
        if count > 1 {
            self.read_on(at)?;
        }
        Ok(())
    }

    /// Counts what stands from one offset to before another as left out, and answers how much it is.
    fn leave_behind(
        &mut self,
        at: usize,
        timestamp_ms: Option<i64>,
        from: i64,
        to: i64,
        reason: Dropped,
    ) -> Result<u64, Halt> {
        self.touch(at, timestamp_ms)?;
        let place = &mut self.places[at];
        let count = u64::try_from(to - from).unwrap_or(0);
        place.next = to;
        place.state.drop_some(count);
        let topic = &self.topics[place.topic];
        metrics::DROPPED
            .with_label_values(&[&*topic.name, reason.as_str()])
            .inc_by(count);
        if count > 1 {
            tracing::warn!(
                topic = &*topic.name,
                partition = place.partition,
                from,
                to,
                reason = reason.as_str(),
                "records left out"
            );
        }
        Ok(count)
    }

    /// Some partition has no record where it was to be read on, which is not said of which: the source deleted what was
    /// there, or has begun anew. `false`: it is to be asked again.
    pub(super) fn find_back(&mut self) -> Result<bool, Halt> {
        let here = (0..self.places.len()).filter(|at| !self.places[*at].gone);
        let here: Vec<usize> = here.collect();
        let name = |at: usize| Arc::clone(&self.topics[self.places[at].topic].name);
        let names: Vec<_> = here.iter().map(|at| name(*at)).collect();
        let asked: Vec<_> = here
            .iter()
            .zip(&names)
            .map(|(at, name)| (&**name, self.places[*at].partition, BEGINNING))
            .collect();
        let firsts = match self.source.ask(&asked, SILENT_AFTER) {
            Ok(firsts) => firsts,
            Err(error) => {
                tracing::warn!(%error, "where partitions of the source begin is not known");
                return Ok(false);
            }
        };
        let mut all = true;
        for (at, name) in here.iter().zip(&names) {
            let place = &self.places[*at];
            let Some(first) = firsts.get(&(name.to_string(), place.partition)) else {
                all = false;
                continue;
            };
            let next = place.next;
            if next < *first {
                self.leave_behind(*at, None, next, *first, Dropped::Retention)?;
            }
            // One that ends before this is found by who measures.
            self.read_on(*at)?;
        }
        Ok(all)
    }

    /// By the topic's name too: a dead letter of a record that came from there is new to the target.
    fn came_from_target(&self, headers: &impl rdkafka::message::Headers, topic: &str) -> bool {
        let origin = headers
            .iter()
            .filter(|header| header.key == ORIGIN_HEADER)
            .last();
        origin
            .and_then(|header| {
                std::str::from_utf8(header.value?)
                    .ok()?
                    .parse::<Origin>()
                    .ok()
            })
            .is_some_and(|origin| origin.cluster == self.shared.target_id && origin.topic == topic)
    }

    /// So that a command can be followed. Prompt topics are few; of bulk ones only who looks closely wants to know.
    fn tell_trace(&self, headers: &impl rdkafka::message::Headers, message: &BorrowedMessage<'_>) {
        let Some(trace) = headers
            .iter()
            .filter(|header| header.key == TRACE_HEADER)
            .last()
        else {
            return;
        };
        let traceparent = String::from_utf8_lossy(trace.value.unwrap_or_default());
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        if self.prompt {
            tracing::info!(%traceparent, topic, partition, offset, "carried");
        } else {
            tracing::debug!(%traceparent, topic, partition, offset, "carried");
        }
    }

    fn headers_of(&self, message: &BorrowedMessage<'_>) -> Option<OwnedHeaders> {
        let given = message.headers();
        if !self.shared.flow.stamps_origin
            || given.is_some_and(|headers| headers.iter().any(|header| header.key == ORIGIN_HEADER))
        {
            return given.map(|headers| headers.detach());
        }
        let origin = Origin {
            cluster: self.shared.source_id.clone(),
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        }
        .to_string();
        let headers = given.map_or_else(OwnedHeaders::new, |headers| headers.detach());
        Some(headers.insert(Header {
            key: ORIGIN_HEADER,
            value: Some(origin.as_bytes()),
        }))
    }

    /// A record without a key stays in its partition where the target has it, so that their order is kept.
    fn partition_for(&mut self, at: usize) -> Result<i32, Halt> {
        let topic_at = self.places[at].topic;
        let partition = self.places[at].partition;
        if let Some((count, asked)) = self.topics[topic_at].partitions
            && asked.elapsed() < PARTITIONS_HOLD
        {
            return Ok(partition % count);
        }
        let part = if self.prompt { "prompt topic" } else { "topic" };
        let name = Arc::clone(&self.topics[topic_at].name);
        let asked = Instant::now();
        loop {
            if let Some(count) = self.target.partition_count(&name) {
                self.shared.target_health.ok(part);
                self.topics[topic_at].partitions = Some((count, Instant::now()));
                return Ok(partition % count);
            }
            if asked.elapsed() > TOPIC_SHOWS_UP {
                self.shared.target_health.fail(part, format!(
                    "{} does not say how many partitions topic '{name}' has: it does not answer, or has no such topic and makes none on demand",
                    self.shared.target.bootstrap()
                ));
                // What is under way must not wait for this topic: a transaction may not stay open so long.
                self.settle()?;
            }
            self.rest(Duration::from_millis(100))?;
        }
    }

    /// Asks the registries for the target's id. While one is away everything waits; a wrong id never passes.
    fn learn(&mut self, at: usize, part: Part, id: u32) -> Result<Learnt, Halt> {
        let Some(rewrite) = self.rewrite.clone() else {
            return Ok(Learnt::Known);
        };
        let topic_at = self.places[at].topic;
        let name = Arc::clone(&self.topics[topic_at].name);
        let health = if self.prompt {
            "registry of prompt topics"
        } else {
            "registry"
        };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let generation = self.places[at].generation;
        loop {
            match self.runtime.block_on(rewrite.target_id(&name, part, id)) {
                Ok(target) => {
                    self.shared.flow_health.ok(health);
                    let topic = &mut self.topics[topic_at];
                    match part {
                        Part::Key => topic.keys.learn(id, target),
                        Part::Value => topic.values.learn(id, target),
                    }
                    return Ok(Learnt::Known);
                }
                Err(RewriteError::Poisoned(error)) => {
                    self.shared.flow_health.ok(health);
                    return Ok(Learnt::Poisoned(error.to_string()));
                }
                Err(RewriteError::Away(error)) => {
                    self.shared.flow_health.fail(health, error.to_string());
                    // What was handed over before goes its way.
                    self.settle()?;
                    if self.places[at].generation != generation {
                        return Ok(Learnt::WentBack);
                    }
                    self.rest(backoff.wait())?;
                }
            }
        }
    }

    /// Waits without leaving reports and commits unheard.
    pub(super) fn rest(&mut self, time: Duration) -> Result<(), Halt> {
        let until = Instant::now() + time;
        loop {
            if self.shared.switches.stops() {
                return Err(Halt::Told);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.target.poll(left.min(Duration::from_millis(50)));
        }
    }

    /// The open epoch has something of this place.
    fn touch(&mut self, at: usize, timestamp_ms: Option<i64>) -> Result<(), Halt> {
        if self.open.is_empty() {
            self.open.began = Instant::now();
        }
        if self.exactly_once && !self.open.in_transaction {
            self.begin()?;
        }
        let place = &mut self.places[at];
        if timestamp_ms.is_some() {
            place.last_ms = timestamp_ms;
        }
        if place.epoch != self.open.number {
            place.epoch = self.open.number;
            let first_ms = timestamp_ms.unwrap_or_else(now_ms);
            if place.unsettled == 0 {
                place.state.is_read(first_ms);
            }
            place.unsettled += 1;
            self.open.touched.push(Touched {
                place: at,
                first_ms,
                end: 0,
            });
        }
        Ok(())
    }

    /// `Some`: the client itself refuses the record.
    fn hand_over(
        &mut self,
        at: usize,
        message: &BorrowedMessage<'_>,
        outgoing: Outgoing<'_>,
    ) -> Result<Option<KafkaError>, Halt> {
        self.touch(at, message.timestamp().to_millis())?;
        let ticket = self.open.ticket();
        let mut record = Target::record(outgoing.topic, ticket);
        record.partition = outgoing.partition;
        record.key = outgoing.key;
        record.payload = outgoing.value;
        record.headers = outgoing.headers;
        record.timestamp = outgoing.timestamp_ms;
        let full_since = Instant::now;
        let mut since = None;
        loop {
            match self.target.send(record) {
                Ok(()) => break,
                Err((error, back)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => {
                        record = back;
                        let since = *since.get_or_insert_with(full_since);
                        if self.shared.switches.drops()
                            || (self.shared.switches.stops() && since.elapsed() > SILENT_AFTER)
                        {
                            return Err(Halt::Told);
                        }
                        self.target.poll(Duration::from_millis(2));
                        self.watch_target();
                    }
                    Some(
                        RDKafkaErrorCode::MessageSizeTooLarge
                        | RDKafkaErrorCode::InvalidArgument
                        | RDKafkaErrorCode::InvalidTimestamp,
                    ) => return Ok(Some(error)),
                    // The topic, the transaction or the client is not as it should be.
                    _ => {
                        tracing::warn!(%error, topic = outgoing.topic, "not handed over");
                        self.not_handed_over(at, message.offset(), outgoing.topic, &error)?;
                        return Ok(None);
                    }
                },
            }
        }
        let bytes = message.key_len() + message.payload_len();
        self.open.handed.push((at, message.offset()));
        self.open.bytes += bytes;
        self.handed += 1;
        self.places[at].next = message.offset() + 1;
        if self.open.care != Care::Together && self.open.is_full(&self.window, self.transaction) {
            self.settle()?;
        }
        Ok(None)
    }

    /// The record has left the consumer and is at no one's: it has to be read again.
    fn not_handed_over(
        &mut self,
        at: usize,
        offset: i64,
        topic: &str,
        error: &KafkaError,
    ) -> Result<(), Halt> {
        let letters = &mut self.open.letters;
        // It is no dead letter yet either.
        if letters
            .last()
            .is_some_and(|letter| (letter.place, letter.offset) == (at, offset))
        {
            letters.pop();
        }
        let generation = self.places[at].generation;
        self.went_wrong(error)?;
        // Going back stops at what was handed over, where nothing of that failed.
        if self.places[at].generation == generation {
            self.rewind(at)?;
        }
        self.rest(TRY_AGAIN)?;
        if let Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition) =
            error.rdkafka_error_code()
        {
            // The client would itself look again in minutes.
            let _ = self.target.partition_count(topic);
        }
        Ok(())
    }

    /// Hands the record over as a dead letter, as it came: also its schema ids.
    fn put_aside(
        &mut self,
        at: usize,
        message: &BorrowedMessage<'_>,
        verdict: Verdict,
    ) -> Result<(), Halt> {
        let topic_at = self.places[at].topic;
        let place = (message.topic(), message.partition(), message.offset());
        let ours = dead_letters::headers(place, verdict.reason, &verdict.message);
        let given = match verdict.extent {
            Extent::Whole | Extent::WithoutValue => message.headers().map(|given| given.detach()),
            Extent::Bare => None,
        };
        let headers = ours
            .iter()
            .fold(given.unwrap_or_default(), |all, (name, text)| {
                all.insert(Header {
                    key: name,
                    value: Some(text.as_bytes()),
                })
            });
        let topic = Arc::clone(&self.topics[topic_at].dead_letters);
        let timestamp_ms = match message.timestamp().to_millis() {
            // Brokers refuse none that is missing.
            Some(_) if verdict.untimed => Some(NO_TIMESTAMP),
            other => other,
        };
        let (key, value, timestamp_ms) = match verdict.extent {
            Extent::Whole => (message.key(), message.payload(), timestamp_ms),
            Extent::WithoutValue => (message.key(), None, timestamp_ms),
            Extent::Bare => (None, None, Some(NO_TIMESTAMP)),
        };
        let outgoing = Outgoing {
            topic: &topic,
            partition: None,
            key,
            value,
            timestamp_ms,
            headers: Some(headers),
        };
        let offset = message.offset();
        let generation = self.places[at].generation;
        let letter = Letter {
            place: at,
            offset,
            reason: verdict.reason,
            message: verdict.message.clone(),
        };
        self.verdicts.insert((at, offset), verdict.clone());
        // Before it is handed over, as that may settle the epoch.
        self.open.letters.push(letter);
        if self.hand_over(at, message, outgoing)?.is_some() {
            self.open.letters.pop();
            if verdict.extent == Extent::Bare || self.places[at].generation != generation {
                return Ok(());
            }
            let less = Verdict {
                extent: verdict.extent.less(),
                ..verdict
            };
            return self.put_aside(at, message, less);
        }
        Ok(())
    }
}

/// How asking for an id ended.
enum Learnt {
    Known,
    /// This record can't be carried, and why.
    Poisoned(String),
    /// Meanwhile reading went back to before this record.
    WentBack,
}

/// The fixed word for why the target refused a record.
pub(super) fn reason(code: Option<RDKafkaErrorCode>) -> &'static str {
    match code {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => {
            "too_large"
        }
        _ => "refused",
    }
}
