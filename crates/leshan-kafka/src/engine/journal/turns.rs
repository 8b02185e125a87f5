//! Whose turn it is: what a device is asked, and what comes of it.

use std::time::Duration;

use lwm2m::server::{RequestHandle, RequestOptions};
use lwm2m::{DeviceResponse, Now, RequestFailure};
use records::{Response, ResponseCode};

use super::{OUTCOME_UNKNOWN, PER_TURN, Running, Waiting};
use crate::bridge::{
    Cause, Refusal, operation_of, reply_failed, reply_of, reply_refused, reply_unsent,
};
use crate::engine::QueuedRequest;
use crate::engine::run::EngineLoop;
use crate::store::{Change, Entry, Store, StoreError, must_not_repeat};

impl EngineLoop {
    /// A request's datagram leaves with this turn's.
    pub(in crate::engine) fn dispatched(&mut self, handle: RequestHandle, endpoint: &str) {
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
    pub(in crate::engine) fn journal_completed(
        &mut self,
        now: Now,
        handle: RequestHandle,
        endpoint: &str,
        result: Result<DeviceResponse, RequestFailure>,
    ) -> Result<(), StoreError> {
        let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
            return Ok(());
        };
        let Some(running) = lane.running.take_if(|running| running.handle == handle) else {
            return Ok(());
        };
        let Running {
            entry, taken_back, ..
        } = *running;
        let gone = matches!(result, Err(RequestFailure::Gone { sent: false }));
        let cancelled = matches!(result, Err(RequestFailure::Cancelled { .. }));
        if entry.sleeper && (gone || (taken_back && cancelled)) {
            // It waits for its device, whatever becomes of the registration.
            let waiting = Waiting {
                id: entry.id,
                deadline_ms: entry.deadline_ms,
                sleeper: true,
                entry: None,
            };
            self.journal.wait(endpoint, waiting, true);
            return self.pump(now, endpoint);
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

    /// A request for a device that sleeps waits on the disk, not with the LwM2M server.
    pub(in crate::engine) fn deferred(&mut self, now: Now, handle: RequestHandle, endpoint: &str) {
        let lane = self.journal.lanes.get_mut(endpoint);
        let running = lane.and_then(|lane| lane.running.as_mut());
        if let Some(running) = running
            && running.handle == handle
            && running.entry.sleeper
        {
            running.taken_back = true;
            // Its outcome is an event as any other's.
            self.server.cancel(now, handle);
        }
    }

    /// A device was heard of: what waited for that goes on.
    pub(in crate::engine) fn heard_of(
        &mut self,
        now: Now,
        endpoint: &str,
    ) -> Result<(), StoreError> {
        if self.journal.lanes.is_empty() {
            return Ok(());
        }
        self.pump(now, endpoint)
    }

    /// Answers those whose time was over while they waited for their turn.
    pub(in crate::engine) fn answer_overdue(&mut self, now: Now) -> Result<(), StoreError> {
        for _ in 0..PER_TURN {
            let Some(first) = self.journal.deadlines.first_entry() else {
                break;
            };
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
            Some(waiting) => {
                self.journal.unwait(&waiting);
                read(&self.store, waiting)
            }
        }
    }

    /// What waits for a device, in the order in which it is sent, the one on its way included.
    pub(in crate::engine) fn queue(
        &self,
        endpoint: &str,
    ) -> Result<Vec<QueuedRequest>, StoreError> {
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
    pub(in crate::engine) fn cancel_queued(
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
    pub(super) fn pump(&mut self, now: Now, endpoint: &str) -> Result<(), StoreError> {
        loop {
            let Some(lane) = self.journal.lanes.get_mut(endpoint) else {
                return Ok(());
            };
            if lane.running.is_some() {
                return Ok(());
            }
            let Some(first) = lane.waiting.front() else {
                self.journal.lanes.remove(endpoint);
                return Ok(());
            };
            // It goes on when the device is heard of.
            if first.sleeper && !self.listens(endpoint) {
                return Ok(());
            }
            let lane = self.journal.lanes.get_mut(endpoint);
            let Some(waiting) = lane.and_then(|lane| lane.waiting.pop_front()) else {
                return Ok(());
            };
            self.journal.unwait(&waiting);
            let Some(entry) = read(&self.store, waiting)? else {
                continue;
            };
            match self.begin(now, &entry) {
                Begun::Running(handle) => {
                    if let Some(lane) = self.journal.lanes.get_mut(endpoint) {
                        lane.running = Some(Box::new(Running {
                            handle,
                            entry,
                            taken_back: false,
                        }));
                    }
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
            Err(error) => {
                let reply = reply_refused(&self.server_id, request, &error, now.unix_ms);
                Begun::Answered(Box::new(reply))
            }
        }
    }
}

/// What became of a request whose turn it was.
enum Begun {
    Running(RequestHandle),
    Answered(Box<Response>),
}

fn read(store: &Store, waiting: Waiting) -> Result<Option<Entry>, StoreError> {
    match waiting.entry {
        Some(entry) => Ok(Some(*entry)),
        None => store.open_request(waiting.id),
    }
}
