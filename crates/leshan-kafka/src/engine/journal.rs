//! Requests of the journal: one at a time per device, each answered once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use lwm2m::server::{RequestHandle, RequestOptions};
use lwm2m::{DeviceResponse, Now, RequestFailure};
use records::{AvroRecord as _, Response, ResponseCode};

use super::run::EngineLoop;
use crate::bridge::{Refusal, operation_of, reply_failed, reply_of, reply_refused, reply_unsent};
use crate::store::{
    Accepted, Change, Entry, EntryState, Known, Outgoing, OutgoingKind, must_not_repeat,
};

/// Where the journal's open requests are.
pub(super) struct Journal {
    duplicate_window: Duration,
    /// Per device: the one on its way, and those behind it.
    lanes: HashMap<String, Lane>,
    /// Those that wait, by deadline (Unix milliseconds) and id, with their device.
    deadlines: BTreeMap<(i64, i64), String>,
}

#[derive(Default)]
struct Lane {
    running: Option<(RequestHandle, Entry)>,
    waiting: VecDeque<Entry>,
}

/// The most requests that wait for one device; the next ones are answered so.
const WAITING: usize = 1_000;

impl Journal {
    pub(super) fn new(duplicate_window: Duration) -> Self {
        Self {
            duplicate_window,
            lanes: HashMap::new(),
            deadlines: BTreeMap::new(),
        }
    }

    /// When the first of those that wait is over.
    pub(super) fn next_deadline(&self, now: Now) -> Option<Instant> {
        let ((deadline_ms, _), _) = self.deadlines.first_key_value()?;
        let left = deadline_ms.saturating_sub(now.unix_ms);
        now.instant
            .checked_add(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn wait(&mut self, entry: Entry) {
        let endpoint = entry.request.ep.clone();
        let key = (entry.deadline_ms, entry.id);
        self.deadlines.insert(key, endpoint.clone());
        self.lanes
            .entry(endpoint)
            .or_default()
            .waiting
            .push_back(entry);
    }

    fn waiting_for(&self, endpoint: &str) -> usize {
        self.lanes
            .get(endpoint)
            .map_or(0, |lane| lane.waiting.len())
    }
}

impl EngineLoop {
    /// Goes on with what the last run left open.
    pub(super) fn resume_requests(&mut self, now: Now) -> anyhow::Result<()> {
        let open = self.store.open_requests()?;
        if !open.is_empty() {
            tracing::info!(requests = open.len(), "resuming requests of the journal");
        }
        let mut endpoints = Vec::new();
        for entry in open {
            if entry.state == EntryState::Sent {
                // The device may have acted on it: it is not sent again.
                let reply = reply_unsent(
                    &self.server_id,
                    &entry.request,
                    ResponseCode::InternalServerError,
                    "outcome unknown: the server was restarted while the device had the request",
                    now.unix_ms,
                );
                self.answered(&entry, &reply);
            } else {
                endpoints.push(entry.request.ep.clone());
                self.journal.wait(entry);
            }
        }
        for endpoint in endpoints {
            self.pump(now, &endpoint);
        }
        Ok(())
    }

    /// Takes requests into the journal, synced; from here on they are ours.
    pub(super) fn accept(&mut self, now: Now, requests: Vec<Accepted>) -> anyhow::Result<()> {
        let window_ms =
            i64::try_from(self.journal.duplicate_window.as_millis()).unwrap_or(i64::MAX);
        let known = self.store.accept(&requests, window_ms)?;
        for (accepted, known) in requests.into_iter().zip(known) {
            let endpoint = accepted.request.ep;
            match known {
                Known::New(entry) if self.journal.waiting_for(&endpoint) >= WAITING => {
                    let reply = reply_unsent(
                        &self.server_id,
                        &entry.request,
                        ResponseCode::InternalServerError,
                        format!("not sent: {WAITING} requests wait for this device already"),
                        now.unix_ms,
                    );
                    self.answered(&entry, &reply);
                }
                Known::New(entry) => {
                    self.journal.wait(entry);
                    self.pump(now, &endpoint);
                }
                Known::SameOrigin => {
                    tracing::debug!(origin = accepted.origin, "accepted before");
                }
                Known::Duplicate { reply: Some(datum) } => {
                    tracing::info!(%endpoint, ticket = accepted.request.ticket, "a duplicate, answered with the stored reply");
                    self.enqueue_reply(endpoint, datum);
                }
                // The first one's reply, which is still to come, has the same ticket.
                Known::Duplicate { reply: None } => {
                    tracing::info!(%endpoint, ticket = accepted.request.ticket, "a duplicate of a request in work");
                }
            }
        }
        Ok(())
    }

    /// A request of the journal has its outcome.
    pub(super) fn journal_completed(
        &mut self,
        now: Now,
        handle: RequestHandle,
        endpoint: &str,
        result: Result<DeviceResponse, RequestFailure>,
    ) {
        let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
            return;
        };
        let Some((_, entry)) = lane.running.take_if(|(running, _)| *running == handle) else {
            return;
        };
        let reply = match &result {
            Ok(response) => reply_of(&self.server_id, &entry.request, response, now.unix_ms),
            Err(failure) => reply_failed(&self.server_id, &entry.request, failure, now.unix_ms),
        };
        self.answered(&entry, &reply);
        self.pump(now, endpoint);
    }

    /// Answers those whose time was over while they waited for their turn.
    pub(super) fn answer_overdue(&mut self, now: Now) {
        while let Some(first) = self.journal.deadlines.first_entry() {
            let (deadline_ms, id) = *first.key();
            if deadline_ms > now.unix_ms {
                return;
            }
            let endpoint = first.remove();
            let overdue = self.journal.lanes.get_mut(&endpoint).and_then(|lane| {
                let place = lane.waiting.iter().position(|entry| entry.id == id)?;
                lane.waiting.remove(place)
            });
            if let Some(entry) = overdue {
                let reply = self.expired(&entry, now);
                self.answered(&entry, &reply);
            }
        }
    }

    fn expired(&self, entry: &Entry, now: Now) -> Response {
        reply_unsent(
            &self.server_id,
            &entry.request,
            ResponseCode::InternalServerError,
            "expired before it could be sent to the device",
            now.unix_ms,
        )
    }

    /// Sends the device's next request, unless one is on its way.
    fn pump(&mut self, now: Now, endpoint: &str) {
        loop {
            let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
                return;
            };
            if lane.running.is_some() {
                return;
            }
            let Some(entry) = lane.waiting.pop_front() else {
                self.journal.lanes.remove(endpoint);
                return;
            };
            let key = (entry.deadline_ms, entry.id);
            self.journal.deadlines.remove(&key);
            match self.begin(now, &entry) {
                Ok(handle) => {
                    if let Some(lane) = self.journal.lanes.get_mut(endpoint) {
                        lane.running = Some((handle, entry));
                    }
                    return;
                }
                Err(reply) => self.answered(&entry, &reply),
            }
        }
    }

    /// Asks the device, or says at once what the reply is.
    fn begin(&mut self, now: Now, entry: &Entry) -> Result<RequestHandle, Box<Response>> {
        let request = &entry.request;
        // The deadline is the sender's to write: any number may stand there.
        let left = u64::try_from(entry.deadline_ms.saturating_sub(now.unix_ms)).unwrap_or(0);
        if left == 0 {
            return Err(Box::new(self.expired(entry, now)));
        }
        let (operation, content_format) =
            operation_of(request, self.server.models()).map_err(|Refusal(reason)| {
                Box::new(reply_unsent(
                    &self.server_id,
                    request,
                    ResponseCode::BadRequest,
                    reason,
                    now.unix_ms,
                ))
            })?;
        let options = RequestOptions {
            timeout: Some(Duration::from_millis(left)),
            content_format,
            context: Some(request.ticket.clone()),
        };
        let handle = self
            .server
            .request(now, &request.ep, operation, options)
            .map_err(|error| {
                Box::new(reply_refused(&self.server_id, request, &error, now.unix_ms))
            })?;
        if must_not_repeat(request) {
            // Committed before the datagram leaves: after a crash we know that it may have.
            self.changes.push(Change::Sent { id: entry.id });
        }
        Ok(handle)
    }

    fn answered(&mut self, entry: &Entry, reply: &Response) {
        let datum = reply.to_datum();
        self.changes.push(Change::Answered {
            id: entry.id,
            reply: must_not_repeat(&entry.request).then(|| datum.clone()),
        });
        self.enqueue_reply(reply.ep.clone(), datum);
    }

    fn enqueue_reply(&mut self, endpoint: String, datum: Vec<u8>) {
        self.changes.push(Change::Enqueue(Outgoing {
            kind: OutgoingKind::Reply,
            endpoint,
            datum,
        }));
    }
}
