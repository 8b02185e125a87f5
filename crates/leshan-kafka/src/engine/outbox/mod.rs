//! Records on their way to Kafka, each topic by itself.

mod lane;
mod metrics;
mod partitions;
mod slots;
mod source;
mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::{Cluster, Delivered, Deliveries, ProducerSettings, SettingsError, TicketProducer};
use lwm2m::Observation;
use service::metrics::{Stage, records as passed};
use tokio::sync::mpsc;

use lane::{Afterwards, Lane};
pub(super) use metrics::UPDATES_LEFT_OUT;
use metrics::{REFUSED, SPOOLED};

pub(crate) use lane::TopicIds;
use slots::Notification;
pub(crate) use source::Source;
use waits::RefusedOnes;
pub(crate) use waits::Wait;
pub(super) use waits::{Grouped, Refused};

use super::Ack;

use crate::bridge::{HandedReply, RepliesDone};
use crate::store::{Change, Outgoing, OutgoingKind, Store, StoreError};

/// What a turn of the loop collects.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) changes: &'a mut Vec<Change>,
    /// Acknowledgements to devices that wait for this turn's commit.
    pub(super) waits: &'a mut Vec<Wait>,
    spool: &'a mut Spool,
    refused: &'a mut RefusedOnes,
}

/// The share of the disk for records that Kafka does not take.
struct Spool {
    bytes: u64,
    limit: u64,
}

impl Spool {
    fn has_room(&self) -> bool {
        self.bytes <= self.limit
    }

    fn add(&mut self, record: &Outgoing) {
        self.bytes += record.datum.len() as u64;
    }
}

/// How the producer is made, as often as it has to be.
pub(crate) struct ProducerMaker {
    pub(crate) cluster: Cluster,
    pub(crate) settings: ProducerSettings,
}

impl ProducerMaker {
    fn make(&self) -> Result<(TicketProducer, Deliveries), SettingsError> {
        TicketProducer::new(&self.cluster, &self.settings)
    }
}

/// The topics' names and health.
pub(crate) struct LaneSetup {
    pub(crate) topic: String,
    pub(crate) condition: service::Condition,
}

/// The engine's side of the way to Kafka.
pub(super) struct Outbox {
    maker: ProducerMaker,
    /// `None` once nothing more is handed over.
    producer: Option<TicketProducer>,
    deliveries: Deliveries,
    /// Of the certificates the producer was made with.
    generation: u64,
    /// When a producer that could not go on is made anew.
    anew_at: Option<Instant>,
    /// Registrations and observations, by their kind's number.
    lanes: [Lane; 2],
    replies: ReplyLane,
    spool: Spool,
    refused: RefusedOnes,
    /// Rows that Kafka has: removed with the next commit, or soon.
    published: Vec<Change>,
    published_since: Option<Instant>,
    unsynced_since: Option<Instant>,
}

/// Replies have a publisher of their own, which makes sure that there is one of each.
struct ReplyLane {
    /// `None` once nothing more is handed over.
    handed: Option<mpsc::Sender<HandedReply>>,
    cursor: i64,
    last: i64,
    in_flight: usize,
}

/// Removing acknowledged rows is not urgent: it waits for company, but not longer than this.
const TIDY_AFTER: Duration = Duration::from_millis(500);
const TIDY_ROWS: usize = 512;
/// A failure of the machine costs at most this much of the spool.
const SYNC_AFTER: Duration = Duration::from_millis(100);
/// Replies and registrations are bounded by what is accepted; updates of registrations by this many times the limit.
const NEWS_BEYOND: u64 = 2;
const ANEW_AFTER: Duration = Duration::from_secs(1);
/// There is room again in the spool when it is this part full, so that what is asked for again finds some.
const ROOM_AGAIN: (u64, u64) = (3, 4);

impl Outbox {
    pub(super) fn new(
        store: &Store,
        maker: ProducerMaker,
        setups: [LaneSetup; 2],
        handed: mpsc::Sender<HandedReply>,
        limit: u64,
    ) -> anyhow::Result<Self> {
        use OutgoingKind::{Observation, Registration, Reply};
        let generation = maker.cluster.generation();
        let (producer, deliveries) = maker.make()?;
        let states = [
            store.outbox_state(Registration)?,
            store.outbox_state(Observation)?,
            store.outbox_state(Reply)?,
        ];
        let [registrations, observations] = setups;
        let lane = |kind: OutgoingKind, setup: LaneSetup, stage| {
            let last = states[kind as usize].last;
            Lane::new(kind, setup.topic, last, setup.condition, passed(stage))
        };
        Ok(Self {
            maker,
            producer: Some(producer),
            deliveries,
            generation,
            anew_at: None,
            lanes: [
                lane(Registration, registrations, Stage::Registration),
                lane(Observation, observations, Stage::Observation),
            ],
            replies: ReplyLane {
                handed: Some(handed),
                cursor: 0,
                last: states[Reply as usize].last,
                in_flight: 0,
            },
            spool: Spool {
                bytes: states.iter().map(|state| state.bytes).sum(),
                limit,
            },
            refused: RefusedOnes::default(),
            published: Vec::new(),
            published_since: None,
            unsynced_since: None,
        })
    }

    /// The registry has told the ids of a topic's schemas.
    pub(super) fn set_ids(&mut self, kind: OutgoingKind, ids: TopicIds) {
        if let Some(lane) = self.lanes.get_mut(kind as usize) {
            lane.set_ids(ids);
        }
    }

    /// Whether registration updates may have records: not where the disk's share is used up twice over.
    pub(super) fn takes_updates(&self) -> bool {
        self.spool.bytes <= self.spool.limit.saturating_mul(NEWS_BEYOND)
    }

    /// A record that has to outlive a crash.
    pub(super) fn enqueue(&mut self, record: Outgoing, now: Instant, changes: &mut Vec<Change>) {
        if record.kind == OutgoingKind::Reply {
            self.replies.last += 1;
            self.spool.add(&record);
            changes.push(Change::Enqueue {
                id: self.replies.last,
                record,
            });
            return;
        }
        let kind = record.kind as usize;
        let mut waits = Vec::new();
        let mut turn = Turn {
            now,
            changes,
            waits: &mut waits,
            spool: &mut self.spool,
            refused: &mut self.refused,
        };
        self.lanes[kind].enqueue(record, &mut turn);
    }

    /// A record of values; the device has its acknowledgement when Kafka has it, or the disk.
    pub(super) fn observation(
        &mut self,
        datum: &[u8],
        source: &Source,
        wait: Option<Wait>,
        now: Instant,
        changes: &mut Vec<Change>,
        waits: &mut Vec<Wait>,
    ) {
        let mut turn = Turn {
            now,
            changes,
            waits,
            spool: &mut self.spool,
            refused: &mut self.refused,
        };
        let producer = self.producer.as_ref().filter(|_| self.anew_at.is_none());
        let notification = Notification {
            source: source.clone(),
            wait,
        };
        self.lanes[OutgoingKind::Observation as usize].offer(
            producer,
            datum,
            notification,
            &mut turn,
        );
    }

    /// Waits for what becomes of records.
    pub(super) async fn deliveries(&self, into: &mut Vec<Delivered>) {
        self.deliveries.take(into).await;
    }

    /// Those that there are now.
    pub(super) fn try_deliveries(&self, into: &mut Vec<Delivered>) {
        self.deliveries.try_take(into);
    }

    pub(super) fn delivered(
        &mut self,
        delivered: &mut Vec<Delivered>,
        now: Instant,
        changes: &mut Vec<Change>,
        waits: &mut Vec<Wait>,
    ) {
        let mut turn = Turn {
            now,
            changes,
            waits,
            spool: &mut self.spool,
            refused: &mut self.refused,
        };
        for Delivered { ticket, outcome } in delivered.drain(..) {
            let lane = &mut self.lanes[(ticket & 1) as usize];
            let after = lane.delivered(ticket >> 1, outcome, &mut turn, &mut self.published);
            if after == Afterwards::MakeAnew && self.anew_at.is_none() {
                self.anew_at = Some(now + ANEW_AFTER);
            }
        }
        if !self.published.is_empty() {
            self.published_since.get_or_insert(now);
        }
    }

    /// Replies that are in Kafka.
    pub(super) fn replies_done(&mut self, done: RepliesDone, now: Instant) {
        self.replies.in_flight = self.replies.in_flight.saturating_sub(done.rows.len());
        let kind = OutgoingKind::Reply;
        let rows = done.rows.into_iter();
        self.published
            .extend(rows.map(|id| Change::Published { kind, id }));
        for (partition, next) in done.up_to {
            self.published.push(Change::RepliesUpTo {
                topic: Arc::clone(&done.topic),
                partition,
                next,
            });
        }
        self.published_since.get_or_insert(now);
    }

    /// While Kafka is away: what devices still wait for goes to the disk too, and they get their acknowledgement. A
    /// producer that can't go on is made anew.
    pub(super) fn look(
        &mut self,
        now: Instant,
        changes: &mut Vec<Change>,
        waits: &mut Vec<Wait>,
    ) -> Result<(), SettingsError> {
        let mut turn = Turn {
            now,
            changes,
            waits,
            spool: &mut self.spool,
            refused: &mut self.refused,
        };
        let generation = self.maker.cluster.generation();
        if generation != self.generation {
            // Renewed certificates: what is on its way has that long to arrive.
            self.generation = generation;
            self.anew_at.get_or_insert(now + ANEW_AFTER);
        }
        if self.producer.is_some() && self.anew_at.is_some_and(|at| at <= now) {
            tracing::warn!("the Kafka producer is made anew");
            self.anew_at = None;
            for lane in &mut self.lanes {
                lane.producer_gone(&mut turn);
            }
            let (producer, deliveries) = self.maker.make()?;
            let gone = self.producer.replace(producer);
            self.deliveries = deliveries;
            // Its end may take half a second.
            std::thread::spawn(move || drop(gone));
        }
        let producer = self.producer.as_ref().filter(|_| self.anew_at.is_none());
        for lane in &mut self.lanes {
            lane.look(producer, &mut turn);
        }
        Ok(())
    }

    /// Observations that a notification was refused of, once there is room again: their values are asked for anew.
    pub(super) fn take_refused(&mut self, most: usize) -> Vec<(Refused, Option<Ack>)> {
        if self.refused.is_empty() || !self.has_room_again() {
            return Vec::new();
        }
        self.refused.take(most)
    }

    /// Whether there is room after the spool was full.
    pub(super) fn has_room_again(&self) -> bool {
        let (part, of) = ROOM_AGAIN;
        self.spool.bytes <= self.spool.limit / of * part
    }

    /// What devices sent of their own accord and was not taken after all: they have to be told.
    pub(super) fn take_refused_sends(&mut self) -> Vec<Ack> {
        self.refused.take_sends()
    }

    /// Whether a notification can be taken now.
    pub(super) fn takes_observations(&self) -> bool {
        let lane = &self.lanes[OutgoingKind::Observation as usize];
        self.spool.has_room() || (self.anew_at.is_none() && lane.goes_straight())
    }

    /// A notification, or a Send, was not taken.
    pub(super) fn refuse(&mut self, observation: Option<&Arc<Observation>>, ack: Option<Ack>) {
        REFUSED[usize::from(ack.is_some())].inc();
        if let Some(observation) = observation {
            self.refused.insert(observation, ack);
        }
    }

    /// Whether requests may be accepted: their replies need room too.
    pub(super) fn has_room(&self) -> bool {
        self.spool.has_room()
    }

    /// Hands over nothing more: the publishers end when Kafka has the rest. What comes from here on goes to the disk.
    pub(super) fn close(&mut self) {
        self.replies.handed = None;
    }

    /// Whether Kafka has everything that was handed over straight.
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.iter().all(Lane::is_idle)
    }

    /// Notifications that the producer has.
    #[cfg(test)]
    pub(super) fn on_its_way(&self) -> usize {
        self.lanes[OutgoingKind::Observation as usize].in_flight()
    }

    /// When something is to be done though nothing comes in.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let tidy = self.published_since.map(|since| since + TIDY_AFTER);
        let sync = self.unsynced_since.map(|since| since + SYNC_AFTER);
        let lanes = self
            .lanes
            .iter()
            .filter_map(|lane| lane.deadline(now))
            .min();
        let no_room = self.replies.cursor < self.replies.last && self.replies.handed.is_some();
        let replies = no_room.then(|| now + TIDY_AFTER);
        [tidy, sync, self.anew_at, lanes, replies]
            .into_iter()
            .flatten()
            .min()
    }

    /// Commits what this turn changed, and hands over what is new.
    pub(super) fn commit(
        &mut self,
        store: &mut Store,
        changes: &mut Vec<Change>,
        now: Instant,
    ) -> Result<(), StoreError> {
        let is_over =
            |since: Option<Instant>, after| since.is_some_and(|since| since + after <= now);
        if !changes.is_empty()
            || self.published.len() >= TIDY_ROWS
            || (self.replies.handed.is_none() && !self.published.is_empty())
            || is_over(self.published_since, TIDY_AFTER)
        {
            changes.append(&mut self.published);
            self.published_since = None;
        }
        let removed = store.commit(changes)?;
        self.spool.bytes = self.spool.bytes.saturating_sub(removed);
        SPOOLED.set(i64::try_from(self.spool.bytes).unwrap_or(i64::MAX));
        if !store.wants_sync() {
            self.unsynced_since = None;
        } else if is_over(self.unsynced_since, SYNC_AFTER) {
            store.sync()?;
            self.unsynced_since = None;
        } else {
            self.unsynced_since.get_or_insert(now);
        }
        let producer = self.producer.as_ref().filter(|_| self.anew_at.is_none());
        for change in changes.drain(..) {
            match change {
                Change::Enqueue { id, record } => {
                    if let (Some(lane), Some(producer)) =
                        (self.lanes.get_mut(record.kind as usize), producer)
                    {
                        lane.hand_over_fresh(producer, id, &record, now);
                    } else if record.kind == OutgoingKind::Reply {
                        self.replies.hand_over_fresh(id, record);
                    }
                }
                Change::Published { kind, id } => {
                    if let Some(lane) = self.lanes.get_mut(kind as usize) {
                        lane.removed(id);
                    }
                }
                _ => {}
            }
        }
        if let Some(producer) = producer {
            for lane in &mut self.lanes {
                lane.hand_over(producer, store, now)?;
            }
        }
        for lane in &mut self.lanes {
            if lane.take_dead() {
                self.anew_at.get_or_insert(now + ANEW_AFTER);
            }
        }
        self.replies.hand_over(store)
    }
}

impl ReplyLane {
    fn hand_over_fresh(&mut self, id: i64, record: Outgoing) {
        if id == self.cursor + 1
            && let Some(handed) = &self.handed
            && handed.try_send(HandedReply { row: id, record }).is_ok()
        {
            self.cursor = id;
            self.in_flight += 1;
        }
    }

    fn hand_over(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(handed) = &self.handed else {
            return Ok(());
        };
        while self.cursor < self.last {
            let room = handed.capacity();
            if room == 0 {
                break;
            }
            let rows = store.outbox_after(OutgoingKind::Reply, self.cursor, room.min(TIDY_ROWS))?;
            if rows.is_empty() {
                self.cursor = self.last;
            }
            for (row, record) in rows {
                if handed.try_send(HandedReply { row, record }).is_err() {
                    // A publisher that ended has ended the service: the row stays for the next one.
                    return Ok(());
                }
                self.cursor = row;
                self.in_flight += 1;
            }
        }
        Ok(())
    }
}
