//! One topic's way to Kafka: straight from memory while Kafka takes the records, over the disk while it does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{OutRecord, ProduceError, SendError, TRACE_HEADER, TicketProducer};
use lwm2m::Observation;
use prometheus::IntCounter;
use records::{AvroKey, SchemaId, frame};
use service::{Backoff, Condition};

use super::metrics::{LOST, REFUSED, SETTLED};
use super::{Turn, Wait};
use crate::store::{Change, Outgoing, OutgoingKind, Store, StoreError};

/// The most records of one topic that the producer has at a time.
const MOST_IN_FLIGHT: usize = 8_192;
/// No acknowledgement for this long while some are awaited: Kafka is away.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How soon rows look again for room at the producer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How many rows are read at a time.
const ROWS: usize = 512;

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
    /// Rows up to this one were handed over.
    cursor: i64,
    /// The last row there is.
    last: i64,
    /// Rows the producer has, or that Kafka has and that are not removed yet.
    taken: BTreeSet<i64>,
    /// What the producer has, by the number it was handed over with: used again, so there are as many as were ever
    /// under way at one time.
    slots: Vec<Slot>,
    free: Vec<u32>,
    in_flight: usize,
    /// Counts what was handed over: the order of the slots.
    handed: u64,
    last_progress: Instant,
    stuck: bool,
    /// The producer can't go on, and no delivery will say so.
    dead: bool,
    /// The producer's queue was full.
    full: bool,
    pause: Option<Pause>,
    /// Room for the bytes of one record.
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

enum Slot {
    Free,
    /// A row; the next turn of the outbox removes it.
    Row(i64),
    /// Only in memory.
    Direct(Direct),
}

/// A notification on its way that is not on the disk.
struct Direct {
    handed: u64,
    since: Instant,
    record: Outgoing,
    notification: Notification,
}

/// Where a record came from: whose acknowledgement waits for it.
pub(crate) struct Notification {
    pub(crate) observation: Option<Arc<Observation>>,
    pub(crate) wait: Option<Wait>,
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
            taken: BTreeSet::new(),
            slots: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            handed: 0,
            last_progress: Instant::now(),
            stuck: false,
            dead: false,
            full: false,
            pause: None,
            value: Vec::new(),
            key: Vec::new(),
            trace: [(TRACE_HEADER.to_owned(), None)],
        }
    }

    pub(super) fn set_ids(&mut self, ids: TopicIds) {
        self.ids = Some(ids);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// A record that has to outlive a crash: it goes to the disk with this turn's commit, then to Kafka.
    pub(super) fn enqueue(&mut self, record: Outgoing, turn: &mut Turn<'_>) -> i64 {
        self.last += 1;
        turn.spool.add(&record);
        turn.changes.push(Change::Enqueue {
            id: self.last,
            record,
        });
        self.last
    }

    /// A notification: handed over straight, or spooled where Kafka is away or others wait before it.
    pub(super) fn offer(
        &mut self,
        producer: Option<&TicketProducer>,
        record: Outgoing,
        notification: Notification,
        turn: &mut Turn<'_>,
    ) {
        if let Some(producer) = producer.filter(|_| self.goes_straight()) {
            let number = self.slot();
            match self.send(producer, &record, number) {
                Ok(()) => {
                    self.handed += 1;
                    let direct = Direct {
                        handed: self.handed,
                        since: turn.now,
                        record,
                        notification,
                    };
                    self.took(number, Slot::Direct(direct), turn.now);
                    return;
                }
                Err(error) => {
                    self.free.push(number);
                    self.not_sent(turn.now, error);
                }
            }
        }
        self.spool(record, notification, turn);
    }

    /// Nothing is before it on the disk, and Kafka takes records.
    pub(super) fn goes_straight(&self) -> bool {
        self.cursor == self.last
            && self.ids.is_some()
            && self.pause.is_none()
            && !self.stuck
            && self.in_flight < MOST_IN_FLIGHT
    }

    /// On disk with this turn's commit: then the device may have its acknowledgement. Where the disk's share is used up,
    /// the notification is refused.
    fn spool(&mut self, record: Outgoing, notification: Notification, turn: &mut Turn<'_>) {
        // Of several records of one message all are taken, or none was in the first place.
        let is_part = matches!(notification.wait, Some(Wait::Part(_)));
        if turn.spool.has_room() || is_part {
            self.enqueue(record, turn);
            turn.waits.extend(notification.wait);
        } else {
            REFUSED[usize::from(notification.wait.is_some())].inc();
            if let Some(observation) = &notification.observation {
                let ack = match notification.wait {
                    Some(Wait::One(ack)) => Some(ack),
                    _ => None,
                };
                turn.refused.insert(observation, ack);
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
        while self.cursor < self.last {
            let room = self.room(now);
            if room == 0 {
                return Ok(());
            }
            let rows = store.outbox_after(self.kind, self.cursor, room.min(ROWS))?;
            if rows.is_empty() {
                self.cursor = self.last;
            }
            for (id, record) in rows {
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
        if id == self.cursor + 1 && !self.full && self.room(now) > 0 {
            self.hand_over_row(producer, id, record, now);
        }
    }

    fn hand_over_row(
        &mut self,
        producer: &TicketProducer,
        id: i64,
        record: &Outgoing,
        now: Instant,
    ) -> bool {
        if !self.taken.contains(&id) {
            let number = self.slot();
            if let Err(error) = self.send(producer, record, number) {
                self.free.push(number);
                self.not_sent(now, error);
                return false;
            }
            self.taken.insert(id);
            if let Some(pause) = &mut self.pause {
                pause.alone = (self.in_flight == 0).then_some(id);
            }
            self.took(number, Slot::Row(id), now);
        }
        self.cursor = id;
        true
    }

    fn room(&self, now: Instant) -> usize {
        let most = match &self.pause {
            _ if self.ids.is_none() => 0,
            Some(pause) if pause.until > now => 0,
            Some(_) => 1,
            None => MOST_IN_FLIGHT,
        };
        most.saturating_sub(self.in_flight)
    }

    fn slot(&mut self) -> u32 {
        if let Some(number) = self.free.pop() {
            return number;
        }
        self.slots.push(Slot::Free);
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    fn took(&mut self, number: u32, slot: Slot, now: Instant) {
        if self.in_flight == 0 {
            self.last_progress = now;
        }
        self.in_flight += 1;
        self.slots[number as usize] = slot;
    }

    /// The producer knows a record by its slot's number, with the kind in the lowest bit.
    fn send(
        &mut self,
        producer: &TicketProducer,
        record: &Outgoing,
        number: u32,
    ) -> Result<(), SendError> {
        let Some(ids) = self.ids else {
            return Err(SendError::Full);
        };
        self.value.clear();
        self.value.extend_from_slice(&frame::header(ids.value));
        self.value.extend_from_slice(&record.datum);
        self.key.clear();
        self.key.extend_from_slice(&frame::header(ids.key));
        AvroKey::write_datum(&record.endpoint, &mut self.key);
        let headers = match &record.trace {
            None => &[][..],
            Some(trace) => {
                let value = self.trace[0].1.get_or_insert_default();
                value.clear();
                value.extend_from_slice(trace.as_bytes());
                &self.trace[..]
            }
        };
        let out = OutRecord {
            topic: &self.topic,
            key: Some(&self.key),
            value: Some(&self.value),
            headers,
            ..OutRecord::default()
        };
        producer.try_send(out, number << 1 | self.kind as u32)
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
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return Afterwards::Fine;
        };
        let slot = std::mem::replace(slot, Slot::Free);
        if matches!(slot, Slot::Free) {
            return Afterwards::Fine;
        }
        self.free.push(number);
        self.in_flight -= 1;
        self.last_progress = turn.now;
        self.stuck = false;
        match outcome {
            Ok(_) => {
                self.passed.inc();
                self.kafka_takes();
                if let Slot::Direct(direct) = &slot {
                    SETTLED.observe(turn.now.duration_since(direct.since).as_secs_f64());
                }
                self.settled(slot, turn, published);
                Afterwards::Fine
            }
            Err(error) if error.is_about_the_record() => {
                let alone = self.pause.as_ref().and_then(|pause| pause.alone);
                if let (Slot::Row(row), Some(alone)) = (&slot, alone)
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
        match slot {
            Slot::Free => {}
            Slot::Row(id) => published.push(Change::Published {
                kind: self.kind,
                id,
            }),
            Slot::Direct(direct) => turn.waits.extend(direct.notification.wait),
        }
    }

    /// What was not produced waits for its next attempt.
    fn put_back(&mut self, slot: Slot, turn: &mut Turn<'_>) {
        match slot {
            Slot::Free => {}
            Slot::Row(id) => {
                self.taken.remove(&id);
                self.cursor = self.cursor.min(id - 1);
            }
            Slot::Direct(direct) => self.spool(direct.record, direct.notification, turn),
        }
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

    fn kafka_takes(&mut self) {
        if self.failing {
            self.failing = false;
            self.condition.ok();
        }
        if let Some(pause) = &mut self.pause {
            pause.until = self.last_progress;
            if pause.alone_to <= self.cursor {
                self.pause = None;
            }
        }
    }

    /// Notices that Kafka keeps records waiting; then what is only in memory goes to the disk too, and devices get their
    /// acknowledgement.
    pub(super) fn look(&mut self, turn: &mut Turn<'_>) {
        let waited = turn.now.saturating_duration_since(self.last_progress);
        if self.in_flight == 0 || waited < STUCK_AFTER {
            return;
        }
        if !self.stuck {
            self.stuck = true;
            self.failing = true;
            self.condition.fail(format!(
                "Kafka has not acknowledged {} records of '{}' for {} s; new ones go to the spool",
                self.in_flight,
                self.topic,
                waited.as_secs()
            ));
        }
        let mut direct: Vec<(u64, u32)> = (0_u32..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| match slot {
                Slot::Direct(direct) => Some((direct.handed, number)),
                _ => None,
            })
            .collect();
        direct.sort_unstable();
        for (_, number) in direct {
            if !turn.spool.has_room() {
                return;
            }
            let slot = &mut self.slots[number as usize];
            if let Slot::Direct(direct) = std::mem::replace(slot, Slot::Free) {
                let id = self.enqueue(direct.record, turn);
                turn.waits.extend(direct.notification.wait);
                // The producer has it still: it is not handed over again.
                self.taken.insert(id);
                self.slots[number as usize] = Slot::Row(id);
            }
        }
    }

    /// The producer is gone, and with it all that it had.
    pub(super) fn producer_gone(&mut self, turn: &mut Turn<'_>) {
        let mut slots = std::mem::take(&mut self.slots);
        slots.sort_by_key(|slot| match slot {
            Slot::Direct(direct) => direct.handed,
            _ => 0,
        });
        self.free.clear();
        self.in_flight = 0;
        for slot in slots {
            self.put_back(slot, turn);
        }
    }

    /// A row is gone from the disk.
    pub(super) fn removed(&mut self, id: i64) {
        self.taken.remove(&id);
    }

    /// When something is to be done though nothing comes in.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let stuck = (self.in_flight > 0).then_some(self.last_progress + STUCK_AFTER);
        // One that is stuck already looks only for what could not be spooled then.
        let stuck = stuck.map(|at| at.max(now + if self.stuck { STUCK_AFTER } else { LOOK_AGAIN }));
        let waiting = self.cursor < self.last && self.ids.is_some();
        let rows = match &self.pause {
            Some(pause) if waiting && pause.until > now => Some(pause.until),
            _ => (waiting && self.full).then(|| now + LOOK_AGAIN),
        };
        stuck.into_iter().chain(rows).min()
    }
}

/// What an operator reads.
fn trouble(error: &ProduceError) -> String {
    match error.remedy() {
        Some(remedy) => format!("{error}: {remedy}; until then records go to the spool"),
        None => format!("{error}; records go to the spool"),
    }
}
