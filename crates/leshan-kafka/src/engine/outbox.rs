//! Records on their way to the publisher: straight while Kafka takes them, over the disk while it does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use coap::AckId;
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use tokio::sync::mpsc;

use crate::bridge::{Handed, Progress, Ticket};
use crate::store::{Change, Outgoing, Store, StoreError};

static REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_spool_refused_total",
        "Notifications not taken because Kafka is away and the spool is full."
    )
    .expect("registered once, with a valid name")
});

static SPOOLED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_spool_bytes",
        "Bytes of records on disk that Kafka has not acknowledged."
    )
    .expect("registered once, with a valid name")
});

/// The engine's side of the way to Kafka.
pub(super) struct Outbox {
    /// To the publisher; `None` once nothing more is handed over.
    handed: Option<mpsc::Sender<Handed>>,
    progress: Progress,
    /// Rows up to this one were handed over.
    cursor: i64,
    /// The last row there is.
    last: i64,
    /// Bytes in rows, and the most there may be before observations are refused.
    bytes: u64,
    bytes_limit: u64,
    /// Observations that go straight to the publisher after this turn's commit.
    straight: Vec<Handed>,
    /// Those that went straight and that a device waits for, by number: bounded by the producer's queue.
    awaited: BTreeMap<u64, Awaited>,
    next_number: u64,
    /// Of this turn's enqueued records, those that were awaited: their place among the enqueued, their number.
    respooled: Vec<(usize, u64)>,
    /// Awaited ones that Kafka kept waiting and that are on disk now: number → row. The producer still has them.
    on_disk: HashMap<u64, i64>,
    /// The rows of those, which are not handed over again.
    handed_rows: BTreeSet<i64>,
    /// Rows that Kafka has: removed with the next commit, or soon.
    published: Vec<Change>,
    published_since: Option<Instant>,
}

/// A notification that a device waits to see acknowledged.
struct Awaited {
    ack: AckId,
    record: Outgoing,
}

/// How soon it is noticed that Kafka keeps awaited records waiting.
const NOTICE_STUCK: Duration = Duration::from_millis(500);
/// Removing acknowledged rows is not urgent: it waits for company, but not longer than this.
const TIDY_AFTER: Duration = Duration::from_secs(1);
const TIDY_ROWS: usize = 512;

impl Outbox {
    pub(super) fn new(
        store: &Store,
        handed: mpsc::Sender<Handed>,
        progress: Progress,
        bytes_limit: u64,
    ) -> Result<Self, StoreError> {
        let (last, bytes) = store.outbox_state()?;
        Ok(Self {
            handed: Some(handed),
            progress,
            cursor: 0,
            last,
            bytes,
            bytes_limit,
            straight: Vec::new(),
            awaited: BTreeMap::new(),
            next_number: 0,
            respooled: Vec::new(),
            on_disk: HashMap::new(),
            handed_rows: BTreeSet::new(),
            published: Vec::new(),
            published_since: None,
        })
    }

    /// A notification: handed over straight, or spooled where Kafka is away or others wait before it.
    pub(super) fn observation(
        &mut self,
        record: Outgoing,
        ack: Option<AckId>,
        changes: &mut Vec<Change>,
        acks: &mut Vec<AckId>,
    ) {
        let others_first = self.cursor < self.last
            || changes
                .iter()
                .any(|change| matches!(change, Change::Enqueue(_)));
        let room = self.room() > self.straight.len();
        if room && !others_first && !self.progress.is_stuck() {
            let ticket = match ack {
                None => Ticket::None,
                Some(ack) => {
                    self.next_number += 1;
                    let record = record.clone();
                    self.awaited
                        .insert(self.next_number, Awaited { ack, record });
                    Ticket::Awaited(self.next_number)
                }
            };
            self.straight.push(Handed { ticket, record });
        } else if self.bytes < self.bytes_limit {
            // On disk with this turn's commit: then the device may have its acknowledgement.
            changes.push(Change::Enqueue(record));
            acks.extend(ack);
        } else {
            REFUSED.inc();
        }
    }

    /// While Kafka is away: what devices still wait for goes to the disk too, and they get their acknowledgement.
    pub(super) fn spool_stuck(&mut self, changes: &mut Vec<Change>, acks: &mut Vec<AckId>) {
        if self.awaited.is_empty() || !self.progress.is_stuck() || self.bytes >= self.bytes_limit {
            return;
        }
        let before = changes.iter().filter(|change| is_enqueue(change)).count();
        let awaited = std::mem::take(&mut self.awaited);
        for (place, (number, awaited)) in (before..).zip(awaited) {
            changes.push(Change::Enqueue(awaited.record));
            acks.push(awaited.ack);
            self.respooled.push((place, number));
        }
    }

    /// How many records the publisher takes now.
    fn room(&self) -> usize {
        self.handed.as_ref().map_or(0, mpsc::Sender::capacity)
    }

    /// Hands over nothing more: the publisher ends when Kafka has the rest. What comes from here on goes to the disk.
    pub(super) fn close(&mut self) {
        self.handed = None;
    }

    /// Kafka has this record; the device's acknowledgement, where one waits for it.
    pub(super) fn published(&mut self, ticket: Ticket) -> Option<AckId> {
        let row = match ticket {
            Ticket::None => return None,
            Ticket::Row(row) => row,
            Ticket::Awaited(number) => {
                if let Some(awaited) = self.awaited.remove(&number) {
                    return Some(awaited.ack);
                }
                let row = self.on_disk.remove(&number)?;
                self.handed_rows.remove(&row);
                row
            }
        };
        self.published.push(Change::Published { id: row });
        self.published_since.get_or_insert_with(Instant::now);
        None
    }

    /// When something is to be done though nothing comes in.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let tidy = self.published_since.map(|since| since + TIDY_AFTER);
        // Room at the publisher is not told either: rows that found none look again.
        let rows_left = self.cursor < self.last && self.handed.is_some();
        let look = (rows_left || !self.awaited.is_empty()).then(|| Instant::now() + NOTICE_STUCK);
        tidy.into_iter().chain(look).min()
    }

    /// Commits what this turn changed.
    pub(super) fn commit(
        &mut self,
        store: &mut Store,
        changes: &mut Vec<Change>,
        now: Instant,
    ) -> Result<(), StoreError> {
        let tidy = self.published.len() >= TIDY_ROWS
            || (self.handed.is_none() && !self.published.is_empty())
            || self
                .published_since
                .is_some_and(|since| since + TIDY_AFTER <= now);
        if changes.is_empty() && !tidy {
            return Ok(());
        }
        changes.append(&mut self.published);
        self.published_since = None;
        let added: u64 = changes
            .iter()
            .map(|change| match change {
                Change::Enqueue(record) => record.datum.len() as u64,
                _ => 0,
            })
            .sum();
        let committed = store.commit(changes)?;
        changes.clear();
        for (place, number) in self.respooled.drain(..) {
            let row = committed.enqueued[place];
            self.on_disk.insert(number, row);
            self.handed_rows.insert(row);
        }
        if let Some(last) = committed.enqueued.last() {
            self.last = *last;
        }
        self.bytes = (self.bytes + added).saturating_sub(committed.removed_bytes);
        SPOOLED.set(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Gives the publisher as much as it takes.
    pub(super) fn hand_over(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(publisher) = &self.handed else {
            return Ok(());
        };
        for handed in self.straight.drain(..) {
            // There was room when it was put here, and nobody else sends. A publisher that ended has ended the service.
            let _ = publisher.try_send(handed);
        }
        while self.cursor < self.last {
            let room = publisher.capacity();
            if room == 0 {
                break;
            }
            let rows = store.outbox_after(self.cursor, room.min(TIDY_ROWS))?;
            if rows.is_empty() {
                self.cursor = self.last;
            }
            for (id, record) in rows {
                if self.handed_rows.contains(&id) {
                    self.cursor = id;
                    continue;
                }
                let ticket = Ticket::Row(id);
                let handed = Handed { ticket, record };
                if publisher.try_send(handed).is_err() {
                    // A publisher that ended has ended the service: the row stays for the next one.
                    return Ok(());
                }
                self.cursor = id;
            }
        }
        Ok(())
    }
}

fn is_enqueue(change: &Change) -> bool {
    matches!(change, Change::Enqueue(_))
}
