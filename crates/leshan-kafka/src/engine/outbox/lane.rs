//! One topic's way to Kafka: straight from memory while Kafka takes the records, over the disk while it does not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka::{
    NO_TIMESTAMP, OutRecord, ProduceError, SendError, TRACE_HEADER, TicketProducer, murmur2,
};
use prometheus::IntCounter;
use records::{AvroKey, SchemaId, frame};
use service::{Backoff, Condition};

use super::metrics::{LOST, REFUSED, SETTLED, UNTIMED};
use super::partitions::{Known, Partitions};
use super::slots::{Notification, Slot, Slots, What};
use super::{Source, Turn, Wait};
use crate::store::{Change, Outgoing, OutgoingKind, Store, StoreError};

/// The most records of one topic that the producer has at a time, those of stuck partitions left out: of these it has
/// what was handed over before that was noticed.
const MOST_IN_FLIGHT: usize = 8_192;
/// A record that is not acknowledged after this long: its partition is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How soon rows look again for room at the producer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How many rows are read at a time.
const ROWS: usize = 512;
/// And how many in one turn that only wait for a stuck partition.
const PASSED_OVER: usize = 4_096;
/// How long records go without a timestamp once Kafka did not take our clock's.
const UNTIMED_FOR: Duration = Duration::from_secs(600);

/// The schemas' ids of a topic's keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicIds {
    pub(crate) key: SchemaId,
    pub(crate) value: SchemaId,
}

pub(super) struct Lane {
    kind: OutgoingKind,
    topic: String,
    condition: Condition,
    /// What the condition says now, as far as this lane has said it.
    failing: bool,
    passed: IntCounter,
    ids: Option<TopicIds>,
    /// Rows up to this one were handed over, or wait for a stuck partition.
    cursor: i64,
    /// The last row there is.
    last: i64,
    /// The first row that waits for a stuck partition.
    passed_over: Option<i64>,
    /// Rows the producer has, or that Kafka has and that are not removed yet.
    taken: BTreeSet<i64>,
    /// What the producer has.
    slots: Slots,
    partitions: Partitions,
    /// When some record may have waited for too long.
    look_at: Instant,
    /// Some that wait for a stuck partition are only in memory: the spool was full.
    unspooled: bool,
    /// The producer can't go on, and no delivery will say so.
    dead: bool,
    /// The producer's queue was full, or there is more to look through.
    full: bool,
    pause: Option<Pause>,
    /// Until then records have no timestamp.
    untimed_until: Option<Instant>,
    /// What is under way has to be back before anything is sent, so that nothing is overtaken.
    draining: bool,
    /// Room for the bytes of one row.
    value: Vec<u8>,
    key: Vec<u8>,
    trace: [(String, Option<Vec<u8>>); 1],
}

/// Kafka refused something: for a while nothing is sent, then one record at a time.
struct Pause {
    until: Instant,
    backoff: Backoff,
    /// One at a time up to this row: one of them was refused for its own sake, or for a neighbour's in its batch.
    alone_to: i64,
    /// The row that went without company: what is said of it is meant for it.
    alone: Option<i64>,
}

/// Whether the producer can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    Fine,
    MakeAnew,
}

impl Lane {
    pub(super) fn new(
        kind: OutgoingKind,
        topic: String,
        last: i64,
        condition: Condition,
        passed: IntCounter,
    ) -> Self {
        Self {
            kind,
            topic,
            condition,
            failing: false,
            passed,
            ids: None,
            cursor: 0,
            last,
            passed_over: None,
            taken: BTreeSet::new(),
            slots: Slots::default(),
            partitions: Partitions::default(),
            look_at: Instant::now(),
            unspooled: false,
            dead: false,
            full: false,
            pause: None,
            untimed_until: None,
            draining: false,
            value: Vec::new(),
            key: Vec::new(),
            trace: [(TRACE_HEADER.to_owned(), None)],
        }
    }

    pub(super) fn set_ids(&mut self, ids: TopicIds) {
        self.ids = Some(ids);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.in_flight() == 0
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// A record that has to outlive a crash: it goes to the disk with this turn's commit, then to Kafka.
    pub(super) fn enqueue(&mut self, record: Outgoing, turn: &mut Turn<'_>) {
        self.last += 1;
        turn.spool.add(&record);
        turn.changes.push(Change::Enqueue {
            id: self.last,
            record,
        });
    }

    /// A notification: handed over straight, or spooled where Kafka is away or others wait before it. Nothing is taken
    /// from the heap for one that is handed over, once as many were under way before.
    pub(super) fn offer(
        &mut self,
        producer: Option<&TicketProducer>,
        datum: &[u8],
        notification: Notification,
        turn: &mut Turn<'_>,
    ) {
        let Some(ids) = self.ids.filter(|_| self.goes_straight()) else {
            self.spool(datum, notification, turn);
            return;
        };
        let hash = self.write_key(ids, notification.source.endpoint());
        if self.partitions.is_stuck(hash) {
            let before = self.last;
            self.spool(datum, notification, turn);
            if self.last > before {
                // It waits; what comes behind it for other partitions does not.
                self.pass_over(self.last);
            }
            return;
        }
        if let Some(producer) = producer {
            let number = self.slots.reserve();
            let mut framed = self.slots.room();
            framed.extend_from_slice(&frame::header(ids.value));
            framed.extend_from_slice(datum);
            let trace = notification.source.trace();
            match self.send(producer, &framed, trace, number, turn.now) {
                Ok(untimed) => {
                    let what = What::Direct(notification, framed);
                    self.took(number, turn.now, hash, untimed, what);
                    return;
                }
                Err(error) => {
                    self.slots.give_back(number);
                    self.slots.spare(framed);
                    self.not_sent(turn.now, error);
                }
            }
        }
        self.spool(datum, notification, turn);
    }

    /// Nothing is before it on the disk but for stuck partitions, and Kafka takes records.
    pub(super) fn goes_straight(&self) -> bool {
        self.cursor == self.last
            && self.ids.is_some()
            && self.pause.is_none()
            && !self.draining
            && self.slots.flowing() < MOST_IN_FLIGHT
            && !(self.partitions.any_stuck() && self.partitions.all_stuck())
    }

    /// On disk with this turn's commit: then the device may have its acknowledgement. Where the disk's share is used up,
    /// the notification is refused.
    fn spool(&mut self, datum: &[u8], notification: Notification, turn: &mut Turn<'_>) {
        // Of several records of one message all are taken, or none was in the first place.
        let is_part = matches!(notification.wait, Some(Wait::Part(_)));
        if turn.spool.has_room() || is_part {
            self.enqueue(outgoing(self.kind, datum, &notification.source), turn);
            turn.waits.extend(notification.wait);
        } else {
            REFUSED[usize::from(notification.wait.is_some())].inc();
            let ack = match notification.wait {
                Some(Wait::One(ack)) => Some(ack),
                _ => None,
            };
            match &notification.source {
                Source::Observation(observation) => turn.refused.insert(observation, ack),
                Source::Registration(_) => turn.refused.send(ack),
            }
        }
    }

    /// Hands over rows, as many as the producer takes now.
    pub(super) fn hand_over(
        &mut self,
        producer: &TicketProducer,
        store: &Store,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.full = false;
        let mut looked_at = 0;
        while self.cursor < self.last {
            let room = self.room(now);
            if room == 0 {
                return Ok(());
            }
            if looked_at >= PASSED_OVER {
                // The loop has other things to do too.
                self.full = true;
                return Ok(());
            }
            // Those of stuck partitions take no room.
            let most = if self.partitions.any_stuck() {
                ROWS
            } else {
                room.min(ROWS)
            };
            let rows = store.outbox_after(self.kind, self.cursor, most)?;
            if rows.is_empty() {
                self.cursor = self.last;
            }
            for (id, record) in rows {
                looked_at += 1;
                if !self.hand_over_row(producer, id, &record, now) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A row that was committed just now, without reading it again; where others are before it, it waits for
    /// [`Self::hand_over`].
    pub(super) fn hand_over_fresh(
        &mut self,
        producer: &TicketProducer,
        id: i64,
        record: &Outgoing,
        now: Instant,
    ) {
        if id == self.cursor + 1 && !self.full {
            self.hand_over_row(producer, id, record, now);
        }
    }

    /// `false` where it has to wait, and all behind it.
    fn hand_over_row(
        &mut self,
        producer: &TicketProducer,
        id: i64,
        record: &Outgoing,
        now: Instant,
    ) -> bool {
        if !self.taken.contains(&id) {
            let Some(ids) = self.ids else { return false };
            let hash = self.write_key(ids, &record.endpoint);
            if self.partitions.is_stuck(hash) {
                self.pass_over(id);
                return true;
            }
            if self.room(now) == 0 {
                return false;
            }
            let number = self.slots.reserve();
            let mut framed = std::mem::take(&mut self.value);
            framed.clear();
            framed.extend_from_slice(&frame::header(ids.value));
            framed.extend_from_slice(&record.datum);
            let sent = self.send(producer, &framed, record.trace.as_deref(), number, now);
            self.value = framed;
            match sent {
                Ok(untimed) => {
                    self.taken.insert(id);
                    if let Some(pause) = &mut self.pause {
                        pause.alone = (self.slots.flowing() == 0).then_some(id);
                    }
                    self.took(number, now, hash, untimed, What::Row(id));
                }
                Err(error) => {
                    self.slots.give_back(number);
                    self.not_sent(now, error);
                    return false;
                }
            }
        }
        self.cursor = id;
        true
    }

    /// A row waits for a stuck partition; others pass it.
    fn pass_over(&mut self, id: i64) {
        let first = self.passed_over.get_or_insert(id);
        *first = id.min(*first);
        self.cursor = self.cursor.max(id);
    }

    fn room(&self, now: Instant) -> usize {
        let most = match &self.pause {
            _ if self.ids.is_none() || self.draining => 0,
            Some(pause) if pause.until > now => 0,
            Some(_) => 1,
            None => MOST_IN_FLIGHT,
        };
        most.saturating_sub(self.slots.flowing())
    }

    fn took(&mut self, number: u32, now: Instant, hash: u32, untimed: bool, what: What) {
        if self.slots.in_flight() == 0 {
            self.look_at = now + STUCK_AFTER;
        }
        self.slots.fill(number, now, hash, untimed, what);
    }

    /// Writes a record's key, and says its hash.
    fn write_key(&mut self, ids: TopicIds, endpoint: &str) -> u32 {
        self.key.clear();
        self.key.extend_from_slice(&frame::header(ids.key));
        AvroKey::write_datum(endpoint, &mut self.key);
        murmur2(&self.key)
    }

    /// Sends a record whose key was written just now; whether it went without a timestamp. The producer knows it by its
    /// slot's number, with the kind in the lowest bit.
    fn send(
        &mut self,
        producer: &TicketProducer,
        framed: &[u8],
        trace: Option<&str>,
        number: u32,
        now: Instant,
    ) -> Result<bool, SendError> {
        let headers = match trace {
            None => &[][..],
            Some(trace) => {
                let value = self.trace[0].1.get_or_insert_default();
                value.clear();
                value.extend_from_slice(trace.as_bytes());
                &self.trace[..]
            }
        };
        let untimed = self.untimed_until.is_some_and(|until| now < until);
        let out = OutRecord {
            topic: &self.topic,
            key: Some(&self.key),
            value: Some(framed),
            timestamp_ms: untimed.then_some(NO_TIMESTAMP),
            headers,
            ..OutRecord::default()
        };
        producer.try_send(out, number << 1 | self.kind as u32)?;
        Ok(untimed)
    }

    fn not_sent(&mut self, now: Instant, error: SendError) {
        match error {
            SendError::Full => self.full = true,
            SendError::Refused(error) => {
                self.dead |= matches!(error, ProduceError::Fatal(_));
                self.refused(now, &error, false);
            }
        }
    }

    /// Whether the producer said, when something was handed to it, that it can't go on; asked once.
    pub(super) fn take_dead(&mut self) -> bool {
        std::mem::take(&mut self.dead)
    }

    /// What became of a record. Rows that Kafka has are removed with one of the next commits.
    pub(super) fn delivered(
        &mut self,
        number: u32,
        outcome: Result<(i32, i64), ProduceError>,
        turn: &mut Turn<'_>,
        published: &mut Vec<Change>,
    ) -> Afterwards {
        let Some(slot) = self.slots.take(number) else {
            return Afterwards::Fine;
        };
        if self.partitions.answers(slot.hash) {
            self.flows_again(Some(turn.now));
        }
        if self.slots.flowing() == 0 {
            self.draining = false;
        }
        match outcome {
            Ok(_) => {
                self.passed.inc();
                if slot.untimed {
                    UNTIMED.with_label_values(&[&self.topic]).inc();
                }
                self.kafka_takes(turn.now);
                if let What::Direct(..) = &slot.what {
                    SETTLED.observe(turn.now.duration_since(slot.since).as_secs_f64());
                }
                self.settled(slot, turn, published);
                Afterwards::Fine
            }
            Err(error) if error.is_about_the_timestamp() && !slot.untimed => {
                self.put_back(slot, turn);
                self.goes_untimed(turn.now, &error);
                Afterwards::Fine
            }
            Err(error) if error.is_about_the_record() => {
                let alone = self.pause.as_ref().and_then(|pause| pause.alone);
                if let (What::Row(row), Some(alone)) = (&slot.what, alone)
                    && *row == alone
                {
                    // Kafka will never take this one: said loudly, and not tried for ever.
                    tracing::error!(topic = self.topic, row, %error, "a record is lost: Kafka does not take it");
                    LOST.with_label_values(&[&self.topic]).inc();
                    self.settled(slot, turn, published);
                } else {
                    self.put_back(slot, turn);
                    self.refused(turn.now, &error, true);
                }
                Afterwards::Fine
            }
            Err(error) => {
                self.put_back(slot, turn);
                self.refused(turn.now, &error, false);
                match error {
                    ProduceError::Fatal(_) => Afterwards::MakeAnew,
                    ProduceError::Refused { .. } => Afterwards::Fine,
                }
            }
        }
    }

    fn settled(&mut self, slot: Slot, turn: &mut Turn<'_>, published: &mut Vec<Change>) {
        match slot.what {
            What::Row(id) => published.push(Change::Published {
                kind: self.kind,
                id,
            }),
            What::Direct(notification, framed) => {
                turn.waits.extend(notification.wait);
                self.slots.spare(framed);
            }
        }
    }

    /// What was not produced waits for its next attempt.
    fn put_back(&mut self, slot: Slot, turn: &mut Turn<'_>) {
        match slot.what {
            What::Row(id) => {
                self.taken.remove(&id);
                self.cursor = self.cursor.min(id - 1);
            }
            What::Direct(notification, framed) => {
                self.spool(datum_of(&framed), notification, turn);
                self.slots.spare(framed);
            }
        }
    }

    /// Kafka's clock and ours differ by more than it allows: that is no fault of a record.
    fn goes_untimed(&mut self, now: Instant, error: &ProduceError) {
        // What is under way was given the same time, and comes back too.
        self.draining = self.slots.flowing() > 0;
        if self.untimed_until.is_none_or(|until| until <= now) {
            tracing::warn!(
                topic = self.topic,
                %error,
                "records go without a timestamp for a while: Kafka's clock and this machine's differ by more than the \
                 topic allows (set both, or message.timestamp.before.max.ms and message.timestamp.after.max.ms)"
            );
        }
        self.untimed_until = Some(now + UNTIMED_FOR);
    }

    fn refused(&mut self, now: Instant, error: &ProduceError, about_the_record: bool) {
        let pause = self.pause.get_or_insert_with(|| Pause {
            until: now,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(15)),
            alone_to: 0,
            alone: None,
        });
        if about_the_record {
            pause.alone_to = self.last;
            return;
        }
        // Several of one batch are refused together: that is one failure.
        if pause.until <= now {
            pause.until = now + pause.backoff.wait();
        }
        self.failing = true;
        self.condition.fail(trouble(error));
    }

    fn kafka_takes(&mut self, now: Instant) {
        if self.failing && !self.partitions.any_stuck() {
            self.failing = false;
            self.condition.ok();
        }
        if let Some(pause) = &mut self.pause {
            pause.until = now;
            if pause.alone_to <= self.cursor {
                self.pause = None;
            }
        }
    }

    /// Notices partitions that Kafka keeps waiting; then what of theirs is only in memory goes to the disk too, and
    /// devices get their acknowledgement. Other partitions' records go on.
    pub(super) fn look(&mut self, producer: Option<&TicketProducer>, turn: &mut Turn<'_>) {
        let now = turn.now;
        let finds_room = self.unspooled && turn.spool.has_room();
        if self.slots.in_flight() == 0 || (now < self.look_at && !finds_room) {
            return;
        }
        let is_over = |since: Instant| now.saturating_duration_since(since) >= STUCK_AFTER;
        if self.slots.held() > 0 || self.slots.each_flowing().any(|slot| is_over(slot.since)) {
            match self.partitions.learn(now, producer, &self.topic) {
                Known::NotYet => {
                    self.look_at = now + LOOK_AGAIN;
                    return;
                }
                // Looked at again, now one by one.
                Known::Anew => self.flows_again(None),
                Known::Same => {}
            }
        }
        let mut oldest = now;
        let mut stuck = false;
        for slot in self.slots.each_flowing() {
            if is_over(slot.since) {
                stuck |= self.partitions.hold(slot.hash);
            } else {
                oldest = oldest.min(slot.since);
            }
        }
        // No sooner than it can matter; those held are looked after when they are acknowledged.
        self.look_at = (oldest + STUCK_AFTER).max(now + LOOK_AGAIN);
        if stuck {
            let partitions = &self.partitions;
            self.slots.hold(None, |hash| partitions.is_stuck(hash));
            self.failing = true;
            self.condition.fail(format!(
                "Kafka has not acknowledged {} records of '{}'{} for {} s; new ones go to the spool",
                self.slots.held(),
                self.topic,
                self.partitions.said(),
                STUCK_AFTER.as_secs()
            ));
        }
        if stuck || self.unspooled {
            self.spool_held(turn);
        }
    }

    fn spool_held(&mut self, turn: &mut Turn<'_>) {
        self.unspooled = false;
        for number in self.slots.held_in_memory() {
            if !turn.spool.has_room() {
                self.unspooled = true;
                return;
            }
            let row = self.last + 1;
            if let Some((notification, framed)) = self.slots.becomes_row(number, row) {
                let record = outgoing(self.kind, datum_of(&framed), &notification.source);
                self.slots.spare(framed);
                self.enqueue(record, turn);
                turn.waits.extend(notification.wait);
                // The producer has it still: it is not handed over again.
                self.taken.insert(row);
                if self.cursor == row - 1 {
                    self.cursor = row;
                }
            }
        }
    }

    /// A partition that was stuck is not any more: what waits for it goes on. `since`: from when on the time of what the
    /// producer has of it counts, where that begins anew.
    fn flows_again(&mut self, since: Option<Instant>) {
        let partitions = &self.partitions;
        self.slots.hold(since, |hash| partitions.is_stuck(hash));
        if let Some(since) = since {
            self.look_at = since + STUCK_AFTER;
        }
        if let Some(first) = self.passed_over.take() {
            self.cursor = self.cursor.min(first - 1);
        }
    }

    /// The producer is gone, and with it all that it had.
    pub(super) fn producer_gone(&mut self, turn: &mut Turn<'_>) {
        self.partitions.none_stuck();
        self.draining = false;
        let had = self.slots.take_all();
        self.flows_again(None);
        for slot in had {
            self.put_back(slot, turn);
        }
    }

    /// A row is gone from the disk.
    pub(super) fn removed(&mut self, id: i64) {
        self.taken.remove(&id);
    }

    /// When something is to be done though nothing comes in.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let look = (self.slots.in_flight() > 0).then_some(self.look_at);
        let waiting = self.cursor < self.last && self.ids.is_some();
        let rows = match &self.pause {
            Some(pause) if waiting && pause.until > now => Some(pause.until),
            _ => (waiting && self.full).then(|| now + LOOK_AGAIN),
        };
        look.into_iter().chain(rows).min()
    }
}

/// As it stands on the disk.
fn outgoing(kind: OutgoingKind, datum: &[u8], source: &Source) -> Outgoing {
    Outgoing {
        kind,
        endpoint: source.endpoint().to_owned(),
        datum: datum.to_vec(),
        origin: None,
        trace: source.trace().map(str::to_owned),
    }
}

/// What stands behind the registry's header.
fn datum_of(framed: &[u8]) -> &[u8] {
    framed.get(frame::HEADER_LEN..).unwrap_or_default()
}

/// What an operator reads.
fn trouble(error: &ProduceError) -> String {
    match error.remedy() {
        Some(remedy) => format!("{error}: {remedy}; until then records go to the spool"),
        None => format!("{error}; records go to the spool"),
    }
}
