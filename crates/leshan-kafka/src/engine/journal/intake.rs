//! How requests come into the journal: from Kafka, and from the last run.

use lwm2m::Now;
use records::{AvroRecord as _, Response, ResponseCode};
use tokio::sync::oneshot;

use super::{
    DUPLICATES, HELD, LISTENING, LISTENING_BYTES, MALFORMED, OUTCOME_UNKNOWN, PER_TURN, REUSED,
    SLEEPERS, WAITING, Waiting, millis,
};
use crate::bridge::reply_unsent;
use crate::engine::run::EngineLoop;
use crate::store::{Accepted, Entry, EntryState, Known, Offered, StoreError};

impl EngineLoop {
    /// Goes on with what the last run left open.
    pub(in crate::engine) fn resume_requests(&mut self, now: Now) -> Result<(), StoreError> {
        let mut sent = Vec::new();
        let journal = &mut self.journal;
        self.store.each_open(|open| match open.state {
            // Answered when those that follow it are known.
            EntryState::Sent => {
                journal.opened(open.sleeper, open.bytes);
                sent.push(open.id);
            }
            EntryState::Follows(first) => {
                journal.count(open.sleeper, 1);
                journal.followers.entry(first).or_default().push(open.id);
            }
            EntryState::Accepted => {
                journal.opened(open.sleeper, open.bytes);
                let waiting = Waiting {
                    id: open.id,
                    deadline_ms: open.deadline_ms,
                    sleeper: open.sleeper,
                    entry: None,
                };
                journal.wait(&open.endpoint, waiting, false);
            }
        })?;
        let open = journal.listening + journal.sleepers;
        if open > 0 {
            tracing::info!(requests = open, "resuming requests of the journal");
        }
        for id in sent {
            // The device may have acted on it: it is not sent again.
            OUTCOME_UNKNOWN.inc();
            if let Some(entry) = self.store.open_request(id)? {
                let reply = self.outcome_unknown(now, &entry);
                self.answered(&entry, &reply)?;
            }
        }
        let (store, journal) = (&self.store, &mut self.journal);
        let mut left_over = Vec::new();
        for first in journal.followers.keys() {
            if store.open_request(*first)?.is_none() {
                left_over.push(*first);
            }
        }
        for first in left_over {
            let followers = self.journal.followers.remove(&first).unwrap_or_default();
            self.answer_left_over(now, first, followers)?;
        }
        let endpoints: Vec<_> = self.journal.lanes.keys().cloned().collect();
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
    pub(in crate::engine) fn offered(
        &mut self,
        now: Now,
        requests: Vec<Accepted>,
        done: oneshot::Sender<()>,
    ) -> Result<(), StoreError> {
        self.journal.held = Some((requests, done));
        self.take_held(now)
    }

    /// Takes requests that were held back, once there is room.
    pub(in crate::engine) fn take_held(&mut self, now: Now) -> Result<(), StoreError> {
        let journal = &self.journal;
        let room = journal.listening < LISTENING
            && journal.listening_bytes < LISTENING_BYTES
            && self.outbox.has_room();
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
            let (known, reused) = self.store.offer(&accepted, offered, window_ms)?;
            if reused {
                REUSED.inc();
                tracing::warn!(
                    origin = accepted.origin,
                    "another request stood at this position before: the topic was deleted and made anew"
                );
            }
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
                    self.journal.opened(entry.sleeper, entry.bytes);
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
        let waiting = Waiting {
            id: entry.id,
            deadline_ms: entry.deadline_ms,
            sleeper: entry.sleeper,
            // One that waits for a sleeping device waits on the disk.
            entry: (!entry.sleeper || self.listens(&endpoint)).then(|| Box::new(entry)),
        };
        self.journal.wait(&endpoint, waiting, false);
        self.pump(now, &endpoint)
    }
}
