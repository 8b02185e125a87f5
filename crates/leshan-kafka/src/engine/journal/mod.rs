//! Requests of the journal: one at a time per device, each answered once.
//!
//! What waits for a device that sleeps stays on the disk; in memory it is a number, a deadline and its device's name.

mod intake;
mod turns;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use lwm2m::Now;
use lwm2m::server::{Presence, RequestHandle};
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, register_int_counter, register_int_counter_vec,
    register_int_gauge,
};
use records::{AvroRecord as _, Response};
use tokio::sync::oneshot;

use super::run::EngineLoop;
use crate::store::{Accepted, Entry, Outgoing, OutgoingKind, StoreError, must_not_repeat};

/// Where the journal's open requests are.
pub(super) struct Journal {
    settings: JournalSettings,
    /// Per device: the one that the LwM2M server has, and those behind it.
    lanes: HashMap<Arc<str>, Lane>,
    /// Those that wait here, by deadline (Unix milliseconds) and id, with their device.
    deadlines: BTreeMap<(i64, i64), Arc<str>>,
    /// Duplicates of a command that has no reply yet, by that command.
    followers: HashMap<i64, Vec<i64>>,
    /// Requests without a reply of devices that listen, and of those in queue mode.
    listening: usize,
    sleepers: usize,
    /// Of those of devices that listen.
    listening_bytes: usize,
    /// Of those that wait and are in memory.
    kept_bytes: usize,
    /// Offered, and not looked at yet: there are too many open ones.
    held: Option<(Vec<Accepted>, oneshot::Sender<()>)>,
    /// Taken in this turn: told with its commit.
    taken: Vec<oneshot::Sender<()>>,
}

/// The journal's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JournalSettings {
    /// Within which an identical command is a duplicate.
    pub(crate) duplicate_window: Duration,
    /// How long a request has, from its record's timestamp, where it does not say.
    pub(crate) timeout: Duration,
    /// The same for a device in queue mode.
    pub(crate) sleeper_timeout: Duration,
}

#[derive(Default)]
struct Lane {
    running: Option<Box<Running>>,
    waiting: VecDeque<Waiting>,
}

struct Running {
    handle: RequestHandle,
    entry: Entry,
    /// Its device sleeps: it is taken back, to wait on the disk.
    taken_back: bool,
}

struct Waiting {
    id: i64,
    deadline_ms: i64,
    sleeper: bool,
    /// Else it is on the disk only.
    entry: Option<Box<Entry>>,
}

/// The most requests that wait for one device; the next ones are answered so.
const WAITING: usize = 1_000;
/// The most open requests of devices that listen, and their bytes: with more of them, partitions are paused. A batch that
/// is taken may exceed them.
const LISTENING: usize = 10_000;
const LISTENING_BYTES: usize = 64 << 20;
/// The most bytes of requests that wait in memory; others are read from the disk when it is their turn.
const KEPT_BYTES: usize = 8 << 20;
/// The most open requests of sleeping devices, some hundred MB of disk; the next ones are answered so.
const SLEEPERS: usize = 1_000_000;
/// Unknown endpoints, paths and bodies cost nothing, but only so many are looked at in one turn; as many deadlines.
const PER_TURN: usize = 1_000;

const VALID: &str = "registered once, with a valid name";

static OPEN: LazyLock<[IntGauge; 2]> = LazyLock::new(|| {
    let open = prometheus::register_int_gauge_vec!(
        Opts::new(
            "zeelos_requests_open",
            "Accepted requests that have no reply yet, by whether their device is in queue mode."
        ),
        &["device"]
    )
    .expect(VALID);
    ["listening", "queue_mode"].map(|device| open.with_label_values(&[device]))
});

static HELD: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_requests_held",
        "1 while no request is taken from Kafka, because as many as may be are open."
    )
    .expect(VALID)
});

static DUPLICATES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        Opts::new(
            "zeelos_requests_duplicate_total",
            "Requests that were not run because they had been accepted before, by how that is known."
        ),
        &["by"]
    )
    .expect(VALID)
});

static MALFORMED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_requests_malformed_total",
        "Requests that can't be read as a whole and were answered so."
    )
    .expect(VALID)
});

static OUTCOME_UNKNOWN: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_requests_outcome_unknown_total",
        "Requests whose device may have acted on them though it did not say so."
    )
    .expect(VALID)
});

static REUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_requests_position_reused_total",
        "Requests at a position where another one was accepted before: their topic was deleted and made anew."
    )
    .expect(VALID)
});

impl Journal {
    pub(super) fn new(settings: JournalSettings) -> Self {
        Self {
            settings,
            lanes: HashMap::new(),
            deadlines: BTreeMap::new(),
            followers: HashMap::new(),
            listening: 0,
            sleepers: 0,
            listening_bytes: 0,
            kept_bytes: 0,
            held: None,
            taken: Vec::new(),
        }
    }

    /// When the first of those that wait is over.
    pub(super) fn next_deadline(&self, now: Now) -> Option<Instant> {
        let ((deadline_ms, _), _) = self.deadlines.first_key_value()?;
        let left = deadline_ms.saturating_sub(now.unix_ms);
        now.instant
            .checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// What was taken in this turn is committed.
    pub(super) fn committed(&mut self) {
        for taken in self.taken.drain(..) {
            // Nobody waits any more when the service is stopping.
            let _ = taken.send(());
        }
    }

    /// A request has its place in its device's lane; `first`: before all others.
    fn wait(&mut self, endpoint: &str, mut waiting: Waiting, first: bool) {
        let bytes = waiting.entry.as_ref().map_or(0, |entry| entry.bytes);
        if self.kept_bytes + bytes > KEPT_BYTES {
            waiting.entry = None;
        } else {
            self.kept_bytes += bytes;
        }
        let name = match self.lanes.get_key_value(endpoint) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(endpoint),
        };
        self.deadlines
            .insert((waiting.deadline_ms, waiting.id), Arc::clone(&name));
        let lane = self.lanes.entry(name).or_default();
        if first {
            lane.waiting.push_front(waiting);
        } else {
            lane.waiting.push_back(waiting);
        }
    }

    /// A request waits no more.
    fn unwait(&mut self, waiting: &Waiting) {
        self.deadlines.remove(&(waiting.deadline_ms, waiting.id));
        self.kept_bytes -= waiting.entry.as_ref().map_or(0, |entry| entry.bytes);
    }

    fn waiting_for(&self, endpoint: &str) -> usize {
        self.lanes
            .get(endpoint)
            .map_or(0, |lane| lane.waiting.len())
    }

    fn opened(&mut self, sleeper: bool, bytes: usize) {
        if !sleeper {
            self.listening_bytes += bytes;
        }
        self.count(sleeper, 1);
    }

    fn closed(&mut self, entry: &Entry) {
        if !entry.sleeper {
            self.listening_bytes = self.listening_bytes.saturating_sub(entry.bytes);
        }
        self.count(entry.sleeper, -1);
    }

    fn count(&mut self, sleeper: bool, more: isize) {
        let count = if sleeper {
            &mut self.sleepers
        } else {
            &mut self.listening
        };
        *count = count.saturating_add_signed(more);
        OPEN[usize::from(sleeper)].set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
}

impl EngineLoop {
    /// Whether a device in queue mode may be sent something now.
    fn listens(&self, endpoint: &str) -> bool {
        let presence = self.server.presence(endpoint);
        matches!(presence, Some(Presence::Awake | Presence::Reachable))
    }

    fn answered(&mut self, entry: &Entry, reply: &Response) -> Result<(), StoreError> {
        let datum = reply.to_datum();
        tracing::info!(
            traceparent = entry.trace,
            endpoint = reply.ep,
            ticket = reply.ticket,
            code = %reply.rep.code,
            "request answered"
        );
        self.journal.closed(entry);
        let kept = must_not_repeat(&entry.request).then_some(&datum[..]);
        self.store.answer(entry.id, kept)?;
        for id in self.journal.followers.remove(&entry.id).unwrap_or_default() {
            if let Some(follower) = self.store.open_request(id)? {
                self.journal.count(follower.sleeper, -1);
                self.store.answer(id, None)?;
                let (endpoint, datum) = (reply.ep.clone(), datum.clone());
                self.enqueue_reply(endpoint, datum, follower.origin, follower.trace);
            }
        }
        self.enqueue_reply(
            reply.ep.clone(),
            datum,
            entry.origin.clone(),
            entry.trace.clone(),
        );
        Ok(())
    }

    fn enqueue_reply(&mut self, endpoint: String, datum: Vec<u8>, origin: String, trace: String) {
        let record = Outgoing {
            kind: OutgoingKind::Reply,
            endpoint,
            datum,
            origin: Some(origin),
            trace: Some(trace).filter(|trace| !trace.is_empty()),
        };
        self.outbox
            .enqueue(record, Instant::now(), &mut self.changes);
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
