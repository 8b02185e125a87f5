//! Requests of the journal: one at a time per device, each answered once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lwm2m::server::{RequestHandle, RequestOptions};
use lwm2m::{DeviceResponse, Now, RequestError, RequestFailure};
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Opts, register_int_counter, register_int_counter_vec,
    register_int_gauge,
};
use records::{AvroRecord as _, Response, ResponseCode};
use tokio::sync::oneshot;

use super::QueuedRequest;
use super::run::EngineLoop;
use crate::bridge::{
    Cause, Refusal, operation_of, reply_failed, reply_of, reply_refused, reply_unsent,
};
use crate::store::{
    Accepted, Change, Entry, EntryState, Known, Offered, Outgoing, OutgoingKind, Store, StoreError,
    must_not_repeat,
};

/// Where the journal's open requests are.
pub(super) struct Journal {
    settings: JournalSettings,
    /// Per device: the one that the LwM2M server has, and those behind it.
    lanes: HashMap<String, Lane>,
    /// Those that wait here, by deadline (Unix milliseconds) and id, with their device.
    deadlines: BTreeMap<(i64, i64), String>,
    /// Duplicates of a command that has no reply yet, by that command.
    followers: HashMap<i64, Vec<i64>>,
    /// Requests without a reply of devices that listen, and of those in queue mode.
    awake: usize,
    sleepers: usize,
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
    running: Option<Running>,
    waiting: VecDeque<Waiting>,
    /// The device in queue mode is not registered: what waits goes on when it is.
    parked: bool,
}

struct Running {
    handle: RequestHandle,
    entry: Entry,
}

struct Waiting {
    id: i64,
    deadline_ms: i64,
    /// What a sleeper waits for stays on the disk, until its turn.
    entry: Option<Box<Entry>>,
}

/// The most requests that wait for one device; the next ones are answered so.
const WAITING: usize = 1_000;
/// The most open requests of devices that listen: with more of them, partitions are paused.
const IN_FLIGHT: usize = 10_000;
/// The most open requests of sleeping devices, some hundred MB of disk; the next ones are answered so.
const SLEEPERS: usize = 1_000_000;
/// Unknown endpoints, paths and bodies cost nothing, but only so many are looked at in one turn.
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

impl Journal {
    pub(super) fn new(settings: JournalSettings) -> Self {
        Self {
            settings,
            lanes: HashMap::new(),
            deadlines: BTreeMap::new(),
            followers: HashMap::new(),
            awake: 0,
            sleepers: 0,
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

    fn wait(&mut self, entry: Entry, first: bool) {
        let endpoint = entry.request.ep.clone();
        self.deadlines
            .insert((entry.deadline_ms, entry.id), endpoint.clone());
        let lane = self.lanes.entry(endpoint).or_default();
        let waiting = Waiting {
            id: entry.id,
            deadline_ms: entry.deadline_ms,
            // The first of a lane has its turn soon.
            entry: (!entry.sleeper || lane.waiting.is_empty()).then(|| Box::new(entry)),
        };
        if first {
            lane.waiting.push_front(waiting);
        } else {
            lane.waiting.push_back(waiting);
        }
    }

    fn waiting_for(&self, endpoint: &str) -> usize {
        self.lanes
            .get(endpoint)
            .map_or(0, |lane| lane.waiting.len())
    }

    fn opened(&mut self, entry: &Entry) {
        self.count(entry.sleeper, 1);
    }

    fn count(&mut self, sleeper: bool, more: isize) {
        let count = if sleeper {
            &mut self.sleepers
        } else {
            &mut self.awake
        };
        *count = count.saturating_add_signed(more);
        OPEN[usize::from(sleeper)].set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
}

impl EngineLoop {
    /// Goes on with what the last run left open.
    pub(super) fn resume_requests(&mut self, now: Now) -> Result<(), StoreError> {
        let open = self.store.open_requests()?;
        if !open.is_empty() {
            tracing::info!(requests = open.len(), "resuming requests of the journal");
        }
        let mut endpoints = Vec::new();
        let mut sent = Vec::new();
        let ids: HashSet<i64> = open.iter().map(|open| open.entry.id).collect();
        for open in open {
            let entry = open.entry;
            self.journal.opened(&entry);
            match open.state {
                // Answered when those that follow it are known.
                EntryState::Sent => sent.push(entry),
                EntryState::Follows(first) => {
                    self.journal
                        .followers
                        .entry(first)
                        .or_default()
                        .push(entry.id);
                }
                EntryState::Accepted => {
                    endpoints.push(entry.request.ep.clone());
                    self.journal.wait(entry, false);
                }
            }
        }
        for entry in sent {
            // The device may have acted on it: it is not sent again.
            OUTCOME_UNKNOWN.inc();
            let reply = self.outcome_unknown(now, &entry);
            self.answered(&entry, &reply)?;
        }
        let journal = &mut self.journal;
        let of_answered = journal
            .followers
            .extract_if(|first, _| !ids.contains(first));
        for (first, followers) in of_answered.collect::<Vec<_>>() {
            self.answer_left_over(now, first, followers)?;
        }
        for endpoint in endpoints {
            self.pump(now, &endpoint)?;
        }
        Ok(())
    }

    /// Those that follow a command which has its reply already.
    fn answer_left_over(
        &mut self,
        now: Now,
        first: i64,
        followers: Vec<i64>,
    ) -> Result<(), StoreError> {
        let kept = self.store.reply_to(first)?;
        for id in followers {
            let Some(entry) = self.store.open_request(id)? else {
                continue;
            };
            self.journal.count(entry.sleeper, -1);
            let datum = match &kept {
                Some(kept) => kept.clone(),
                None => self.outcome_unknown(now, &entry).to_datum(),
            };
            self.store.answer(id, None)?;
            self.enqueue_reply(entry.request.ep, datum, entry.origin, entry.trace);
        }
        Ok(())
    }

    fn outcome_unknown(&self, now: Now, entry: &Entry) -> Response {
        reply_unsent(
            &self.server_id,
            &entry.request,
            ResponseCode::InternalServerError,
            "outcome unknown: the server was restarted while the device had the request",
            now.unix_ms,
        )
    }

    /// Requests are offered. They are taken now, or, when as many as may be are open, later: then nothing more is read
    /// from Kafka.
    pub(super) fn offered(
        &mut self,
        now: Now,
        requests: Vec<Accepted>,
        done: oneshot::Sender<()>,
    ) -> Result<(), StoreError> {
        self.journal.held = Some((requests, done));
        self.take_held(now)
    }

    /// Takes requests that were held back, once there is room.
    pub(super) fn take_held(&mut self, now: Now) -> Result<(), StoreError> {
        let room = self.journal.awake < IN_FLIGHT && self.outbox.has_room();
        if room && let Some((requests, done)) = self.journal.held.take() {
            debug_assert!(requests.len() <= PER_TURN, "batches are bounded");
            self.accept(now, requests)?;
            self.journal.taken.push(done);
        }
        HELD.set(i64::from(self.journal.held.is_some()));
        Ok(())
    }

    /// Takes requests into the journal; with this turn's commit they are ours.
    fn accept(&mut self, now: Now, requests: Vec<Accepted>) -> Result<(), StoreError> {
        let settings = self.journal.settings;
        let window_ms = millis(settings.duplicate_window);
        for accepted in requests {
            let endpoint = accepted.request.ep.clone();
            let registration = self.server.registration(&endpoint);
            let sleeper = registration.is_some_and(|registration| registration.binding.queue);
            let timeout = if sleeper {
                settings.sleeper_timeout
            } else {
                settings.timeout
            };
            let offered = Offered {
                deadline_ms: accepted
                    .expires_ms
                    .unwrap_or_else(|| accepted.written_ms.saturating_add(millis(timeout))),
                sleeper,
            };
            let known = self.store.offer(&accepted, offered, window_ms)?;
            let Accepted {
                origin,
                request,
                trace,
                malformed,
                ..
            } = accepted;
            let (ticket, kind) = (&request.ticket, request.payload.kind);
            match known {
                Known::New(entry) => {
                    tracing::info!(traceparent = trace, endpoint, ticket, %kind, path = request.payload.path, origin, "request accepted");
                    self.journal.opened(&entry);
                    self.begin_life(now, *entry, malformed)?;
                }
                Known::SameOrigin => {
                    DUPLICATES.with_label_values(&["origin"]).inc();
                    tracing::debug!(origin, "accepted before");
                }
                Known::Duplicate { reply } => {
                    DUPLICATES.with_label_values(&["payload"]).inc();
                    tracing::info!(
                        traceparent = trace,
                        endpoint,
                        ticket,
                        "a duplicate, answered with the stored reply"
                    );
                    self.enqueue_reply(endpoint, reply, origin, trace);
                }
                Known::Follows { first, id } => {
                    DUPLICATES.with_label_values(&["payload"]).inc();
                    tracing::info!(
                        traceparent = trace,
                        endpoint,
                        ticket,
                        "a duplicate of a request in work, answered with it"
                    );
                    self.journal.count(sleeper, 1);
                    self.journal.followers.entry(first).or_default().push(id);
                }
            }
        }
        Ok(())
    }

    fn begin_life(
        &mut self,
        now: Now,
        entry: Entry,
        malformed: Option<String>,
    ) -> Result<(), StoreError> {
        let endpoint = entry.request.ep.clone();
        let refusal = if let Some(reason) = malformed {
            MALFORMED.inc();
            Some((ResponseCode::BadRequest, reason))
        } else if self.journal.waiting_for(&endpoint) >= WAITING {
            let reason = format!("not sent: {WAITING} requests wait for this device already");
            Some((ResponseCode::InternalServerError, reason))
        } else if entry.sleeper && self.journal.sleepers > SLEEPERS {
            let reason = format!("not sent: {SLEEPERS} requests wait for sleeping devices already");
            Some((ResponseCode::InternalServerError, reason))
        } else {
            None
        };
        if let Some((code, reason)) = refusal {
            let reply = reply_unsent(&self.server_id, &entry.request, code, reason, now.unix_ms);
            return self.answered(&entry, &reply);
        }
        self.journal.wait(entry, false);
        self.pump(now, &endpoint)
    }

    /// A request's datagram leaves with this turn's.
    pub(super) fn dispatched(&mut self, handle: RequestHandle, endpoint: &str) {
        let Some(running) = self
            .journal
            .lanes
            .get(endpoint)
            .and_then(|lane| lane.running.as_ref())
            .filter(|running| running.handle == handle)
        else {
            return;
        };
        let entry = &running.entry;
        tracing::info!(
            traceparent = entry.trace,
            endpoint,
            ticket = entry.request.ticket,
            "request sent to the device"
        );
        if must_not_repeat(&entry.request) {
            // Committed before the datagram leaves: after a crash we know that it may have.
            self.changes.push(Change::Sent { id: entry.id });
        }
    }

    /// A request of the journal has its outcome.
    pub(super) fn journal_completed(
        &mut self,
        now: Now,
        handle: RequestHandle,
        endpoint: &str,
        result: Result<DeviceResponse, RequestFailure>,
    ) -> Result<(), StoreError> {
        let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
            return Ok(());
        };
        let Some(Running { entry, .. }) = lane.running.take_if(|running| running.handle == handle)
        else {
            return Ok(());
        };
        let gone = matches!(result, Err(RequestFailure::Gone { sent: false }));
        if gone && entry.sleeper {
            // It waits for its device, whatever becomes of the registration.
            lane.parked = true;
            self.journal.wait(entry, true);
            return Ok(());
        }
        let reply = match &result {
            Ok(response) => reply_of(&self.server_id, &entry.request, response, now.unix_ms),
            Err(failure) => {
                if failure.may_have_acted() && must_not_repeat(&entry.request) {
                    OUTCOME_UNKNOWN.inc();
                }
                reply_failed(&self.server_id, &entry.request, failure, now.unix_ms)
            }
        };
        self.answered(&entry, &reply)?;
        self.pump(now, endpoint)
    }

    /// A device registered: what waited for that goes on.
    pub(super) fn unpark(&mut self, now: Now, endpoint: &str) -> Result<(), StoreError> {
        match self.journal.lanes.get_mut(endpoint) {
            Some(lane) if lane.parked => lane.parked = false,
            _ => return Ok(()),
        }
        self.pump(now, endpoint)
    }

    /// Answers those whose time was over while they waited for their turn.
    pub(super) fn answer_overdue(&mut self, now: Now) -> Result<(), StoreError> {
        while let Some(first) = self.journal.deadlines.first_entry() {
            let (deadline_ms, id) = *first.key();
            if deadline_ms > now.unix_ms {
                break;
            }
            let endpoint = first.remove();
            if let Some(entry) = self.remove_waiting(&endpoint, id)? {
                let reply = self.expired(&entry, now);
                self.answered(&entry, &reply)?;
            }
        }
        Ok(())
    }

    fn remove_waiting(&mut self, endpoint: &str, id: i64) -> Result<Option<Entry>, StoreError> {
        let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
            return Ok(None);
        };
        let Some(place) = lane.waiting.iter().position(|waiting| waiting.id == id) else {
            return Ok(None);
        };
        let removed = lane.waiting.remove(place);
        if lane.waiting.is_empty() && lane.running.is_none() {
            self.journal.lanes.remove(endpoint);
        }
        match removed {
            None => Ok(None),
            Some(waiting) => read(&self.store, waiting),
        }
    }

    /// What waits for a device, in the order in which it is sent, the one on its way included.
    pub(super) fn queue(&self, endpoint: &str) -> Result<Vec<QueuedRequest>, StoreError> {
        let Some(lane) = self.journal.lanes.get(endpoint) else {
            return Ok(Vec::new());
        };
        let running = lane.running.as_ref().map(|running| running.entry.id);
        let waiting = lane.waiting.iter().map(|waiting| waiting.id);
        let ids: Vec<i64> = running.into_iter().chain(waiting).collect();
        let queued = self.store.queued(&ids)?;
        let on_the_way = lane.running.as_ref().is_some_and(|running| {
            let mut pending = self.server.pending_requests(endpoint);
            pending.any(|pending| pending.handle == running.handle && pending.sent)
        });
        Ok(queued
            .into_iter()
            .map(|queued| QueuedRequest {
                id: queued.id,
                ticket: queued.request.ticket,
                kind: queued.request.payload.kind,
                path: queued.request.payload.path,
                since_unix_ms: queued.accepted_ms,
                expires_unix_ms: queued.deadline_ms,
                sent: on_the_way && Some(queued.id) == running,
            })
            .collect())
    }

    /// Takes a request out of the queue and answers it so; `false` where it is not there, or its device has it already.
    pub(super) fn cancel_queued(
        &mut self,
        now: Now,
        endpoint: &str,
        id: i64,
    ) -> Result<bool, StoreError> {
        if let Some(lane) = self.journal.lanes.get(endpoint)
            && let Some(running) = lane
                .running
                .as_ref()
                .filter(|running| running.entry.id == id)
        {
            let handle = running.handle;
            let mut pending = self.server.pending_requests(endpoint);
            if pending.any(|pending| pending.handle == handle && pending.sent) {
                return Ok(false);
            }
            drop(pending);
            // Its outcome is an event as any other's.
            self.server.cancel(now, handle);
            return Ok(true);
        }
        let Some(entry) = self.remove_waiting(endpoint, id)? else {
            return Ok(false);
        };
        self.journal.deadlines.remove(&(entry.deadline_ms, id));
        let failure = RequestFailure::Cancelled { sent: false };
        let reply = reply_failed(&self.server_id, &entry.request, &failure, now.unix_ms);
        self.answered(&entry, &reply)?;
        Ok(true)
    }

    fn expired(&self, entry: &Entry, now: Now) -> Response {
        reply_failed(
            &self.server_id,
            &entry.request,
            &RequestFailure::Expired,
            now.unix_ms,
        )
    }

    /// Gives the LwM2M server the device's next request, unless it has one.
    fn pump(&mut self, now: Now, endpoint: &str) -> Result<(), StoreError> {
        loop {
            let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
                return Ok(());
            };
            if lane.running.is_some() || lane.parked {
                return Ok(());
            }
            let Some(waiting) = lane.waiting.pop_front() else {
                self.journal.lanes.remove(endpoint);
                return Ok(());
            };
            let key = (waiting.deadline_ms, waiting.id);
            self.journal.deadlines.remove(&key);
            let Some(entry) = read(&self.store, waiting)? else {
                continue;
            };
            match self.begin(now, &entry) {
                Begun::Running(handle) => {
                    if let Some(lane) = self.journal.lanes.get_mut(endpoint) {
                        lane.running = Some(Running { handle, entry });
                    }
                    return Ok(());
                }
                Begun::Parked => {
                    if let Some(lane) = self.journal.lanes.get_mut(endpoint) {
                        lane.parked = true;
                    }
                    self.journal.wait(entry, true);
                    return Ok(());
                }
                Begun::Answered(reply) => self.answered(&entry, &reply)?,
            }
        }
    }

    /// Asks the device, or says at once what the reply is.
    fn begin(&mut self, now: Now, entry: &Entry) -> Begun {
        let request = &entry.request;
        // The deadline is the sender's to write: any number may stand there.
        let left = u64::try_from(entry.deadline_ms.saturating_sub(now.unix_ms)).unwrap_or(0);
        if left == 0 {
            return Begun::Answered(Box::new(self.expired(entry, now)));
        }
        let (operation, content_format) = match operation_of(request, self.server.models()) {
            Ok(operation) => operation,
            Err(Refusal(reason)) => {
                let code = ResponseCode::BadRequest;
                let reply = reply_unsent(&self.server_id, request, code, reason, now.unix_ms);
                return Begun::Answered(Box::new(reply));
            }
        };
        let cause = Cause {
            ticket: &request.ticket,
            traceparent: Some(&entry.trace),
        };
        let options = RequestOptions {
            timeout: Some(Duration::from_millis(left)),
            content_format,
            context: Some(cause.to_context()),
            ..RequestOptions::default()
        };
        match self.server.request(now, &request.ep, operation, options) {
            Ok(handle) => Begun::Running(handle),
            Err(RequestError::NotRegistered(_)) if entry.sleeper => Begun::Parked,
            Err(error) => {
                let reply = reply_refused(&self.server_id, request, &error, now.unix_ms);
                Begun::Answered(Box::new(reply))
            }
        }
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
        self.journal.count(entry.sleeper, -1);
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
            .enqueue(record, false, Instant::now(), &mut self.changes);
    }
}

/// What became of a request whose turn it was.
enum Begun {
    Running(RequestHandle),
    /// Its device, which is in queue mode, is not registered now.
    Parked,
    Answered(Box<Response>),
}

fn read(store: &Store, waiting: Waiting) -> Result<Option<Entry>, StoreError> {
    match waiting.entry {
        Some(entry) => Ok(Some(*entry)),
        None => store.open_request(waiting.id),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
