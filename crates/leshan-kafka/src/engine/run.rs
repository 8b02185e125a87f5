use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::AckId;
use lwm2m::server::{Event, RequestHandle, Server};
use lwm2m::{DeviceResponse, Now, Observation, RequestFailure};
use records::AvroRecord as _;
use service::CancellationToken;
use tokio::sync::mpsc;
use transport::{Batch, UdpTransport};

use super::journal::Journal;
use super::outbox::Outbox;
use super::{Answer, AskError, Command, Inbox, ServerEvent};
use crate::bridge::{
    Handed, Progress, Ticket, observation_record, registration_deleted, registration_new,
    registration_updated, unix_ms,
};
use crate::store::{Change, Outgoing, OutgoingKind, Store};

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) server_id: String,
    pub(crate) server: Server,
    pub(crate) transport: UdpTransport,
    pub(crate) store: Store,
    pub(crate) inbox: Inbox,
    pub(crate) handed: mpsc::Sender<Handed>,
    pub(crate) published: mpsc::Receiver<Ticket>,
    pub(crate) progress: Progress,
    pub(crate) duplicate_window: Duration,
    pub(crate) spool_bytes: u64,
}

/// The loop; see the [module](super).
pub(crate) struct EngineLoop {
    pub(super) server_id: String,
    pub(super) server: Server,
    transport: UdpTransport,
    local: SocketAddr,
    pub(super) store: Store,
    inbox: Inbox,
    published: mpsc::Receiver<Ticket>,
    pub(super) outbox: Outbox,
    pub(super) journal: Journal,
    /// What this turn changed.
    pub(super) changes: Vec<Change>,
    /// Acknowledgements to devices that wait for this turn's commit.
    pub(super) acks: Vec<AckId>,
    /// REST requests on their way.
    asked: HashMap<RequestHandle, Answer>,
    next_housekeeping: Instant,
}

/// Commands or acknowledgements that are taken in one turn.
const PER_TURN: usize = 256;
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How long an answered request is remembered by its origin, and how many are at most (some hundred MB of disk).
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3_600);
const REMEMBERED_MOST: i64 = 1_000_000;

impl EngineLoop {
    /// Takes up what the store kept.
    pub(crate) fn new(parts: Parts) -> anyhow::Result<Self> {
        let local = parts.transport.local_addr()?;
        let mut engine = Self {
            server_id: parts.server_id,
            server: parts.server,
            transport: parts.transport,
            local,
            outbox: Outbox::new(
                &parts.store,
                parts.handed,
                parts.progress,
                parts.spool_bytes,
            )?,
            journal: Journal::new(parts.duplicate_window),
            store: parts.store,
            inbox: parts.inbox,
            published: parts.published,
            changes: Vec::new(),
            acks: Vec::new(),
            asked: HashMap::new(),
            next_housekeeping: Instant::now() + HOUSEKEEPING,
        };
        let now = now();
        let registrations = engine.store.registrations()?;
        let observations = engine.store.observations()?;
        tracing::info!(
            registrations = registrations.len(),
            observations = observations.len(),
            "taken up from the store"
        );
        engine.server.restore(now, registrations, observations);
        engine.resume_requests(now)?;
        Ok(engine)
    }

    /// Runs until told to stop, or the store or the socket fails.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        // What the store held goes on its way at once, whether or not anything comes in.
        self.finish_turn().await?;
        loop {
            tokio::select! {
                received = self.transport.wait(&mut batch, self.deadline()) => {
                    received?;
                    let now = now();
                    for (peer, datagram) in &batch {
                        self.server.handle_datagram(now, peer, datagram);
                    }
                }
                Some(command) = self.inbox.commands.recv() => {
                    self.command(command)?;
                    for _ in 1..PER_TURN {
                        let Ok(command) = self.inbox.commands.try_recv() else { break };
                        self.command(command)?;
                    }
                }
                Some(ticket) = self.published.recv() => {
                    self.acks.extend(self.outbox.published(ticket));
                    for _ in 1..PER_TURN {
                        let Ok(ticket) = self.published.try_recv() else { break };
                        self.acks.extend(self.outbox.published(ticket));
                    }
                }
                () = shutdown.cancelled() => break,
            }
            self.finish_turn().await?;
        }
        self.wind_up().await
    }

    /// Takes the last acknowledgements, so that what Kafka has is not produced again after the next start. Ends when
    /// the publisher does, which has a bounded time to.
    async fn wind_up(&mut self) -> anyhow::Result<()> {
        self.finish_turn().await?;
        self.outbox.close();
        while let Some(ticket) = self.published.recv().await {
            self.acks.extend(self.outbox.published(ticket));
        }
        self.finish_turn().await
    }

    async fn finish_turn(&mut self) -> anyhow::Result<()> {
        let now = now();
        // Before this turn's notifications: what is replayed after a crash is in the order it came.
        self.outbox.spool_stuck(&mut self.changes, &mut self.acks);
        self.server.handle_timeout(now);
        self.answer_overdue(now);
        while let Some(event) = self.server.poll_event() {
            self.event(now, event);
        }
        if now.instant >= self.next_housekeeping {
            self.next_housekeeping = now.instant + HOUSEKEEPING;
            let before = now.unix_ms - i64::try_from(REMEMBERED.as_millis())?;
            self.store.forget_answered(before, REMEMBERED_MOST)?;
        }
        self.outbox
            .commit(&mut self.store, &mut self.changes, now.instant)?;
        for ack in self.acks.drain(..) {
            self.server.acknowledge(now, ack);
        }
        self.outbox.hand_over(&self.store)?;
        let server = &mut self.server;
        self.transport
            .send_all(std::iter::from_fn(|| server.poll_transmit()))
            .await;
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let own = Some(self.outbox.deadline().unwrap_or(self.next_housekeeping));
        let overdue = self.journal.next_deadline(now());
        [self.server.next_timeout(), own, overdue]
            .into_iter()
            .flatten()
            .min()
    }

    fn command(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Accept { requests, done } => {
                self.accept(now(), requests)?;
                // Nobody waits any more when the service is stopping.
                let _ = done.send(());
            }
            Command::Request {
                endpoint,
                operation,
                options,
                answer,
            } => match self.server.request(now(), &endpoint, operation, options) {
                Ok(handle) => {
                    self.asked.insert(handle, answer);
                }
                Err(error) => {
                    let _ = answer.send(Err(AskError::Refused(error)));
                }
            },
            Command::Registrations { answer } => {
                let all = self.server.registrations().map(Arc::clone).collect();
                let _ = answer.send(all);
            }
            Command::Registration { endpoint, answer } => {
                let _ = answer.send(self.server.registration(&endpoint).map(Arc::clone));
            }
        }
        Ok(())
    }

    fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::Registered {
                registration,
                replaced,
            } => {
                if let Some(replaced) = replaced {
                    self.tell(ServerEvent::Deregistered(replaced));
                }
                let record = registration_new(&self.server_id, self.local, &registration);
                self.registration_event(&registration.endpoint, record.to_datum());
                self.changes
                    .push(Change::PutRegistration(Arc::clone(&registration)));
                self.tell(ServerEvent::Registered(registration));
            }
            Event::Updated {
                registration,
                update,
                ..
            } => {
                let record = registration_updated(&self.server_id, &registration, &update);
                self.registration_event(&registration.endpoint, record.to_datum());
                self.changes
                    .push(Change::PutRegistration(Arc::clone(&registration)));
                self.tell(ServerEvent::Updated {
                    registration,
                    update,
                });
            }
            Event::Deregistered {
                registration,
                expired,
            } => {
                let record = registration_deleted(&self.server_id, &registration, expired);
                self.registration_event(&registration.endpoint, record.to_datum());
                let endpoint = registration.endpoint.clone();
                self.changes.push(Change::RemoveRegistration { endpoint });
                self.tell(ServerEvent::Deregistered(registration));
            }
            Event::Completed {
                handle,
                endpoint,
                result,
            } => self.completed(now, handle, &endpoint, result),
            Event::Notified {
                observation,
                response,
                ack,
            } => self.notified(now, observation, response, ack),
            Event::NotificationUnreadable {
                observation,
                reason,
                ack,
            } => {
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.path, %reason, "a notification can't be read");
                self.acks.extend(ack);
            }
            Event::ObservationStarted { observation, .. } => {
                self.changes.push(Change::PutObservation(observation));
            }
            Event::ObservationEnded { observation, .. } => {
                self.changes.push(Change::RemoveObservation(observation));
            }
            Event::ObservationLost { observation, why } => {
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.path, ?why, "an observation was not taken up again");
            }
        }
    }

    fn registration_event(&mut self, endpoint: &str, datum: Vec<u8>) {
        self.changes.push(Change::Enqueue(Outgoing {
            kind: OutgoingKind::Registration,
            endpoint: endpoint.to_owned(),
            datum,
        }));
    }

    fn notified(
        &mut self,
        now: Now,
        observation: Arc<Observation>,
        response: DeviceResponse,
        ack: Option<AckId>,
    ) {
        match observation_record(&self.server_id, &observation, &response, now.unix_ms) {
            Ok(record) => {
                let record = Outgoing {
                    kind: OutgoingKind::Observation,
                    endpoint: observation.endpoint.clone(),
                    datum: record.to_datum(),
                };
                self.outbox
                    .observation(record, ack, &mut self.changes, &mut self.acks);
            }
            Err(error) => {
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.path, %error, "a notification does not fit its record");
                self.acks.extend(ack);
            }
        }
        self.tell(ServerEvent::Notified {
            observation,
            response,
        });
    }

    fn completed(
        &mut self,
        now: Now,
        handle: RequestHandle,
        endpoint: &str,
        result: Result<DeviceResponse, RequestFailure>,
    ) {
        if let Some(answer) = self.asked.remove(&handle) {
            // Whoever asked may have gone away meanwhile.
            let _ = answer.send(result.map_err(AskError::Failed));
        } else {
            self.journal_completed(now, handle, endpoint, result);
        }
    }

    fn tell(&self, event: ServerEvent) {
        // An error says that nobody watches.
        let _ = self.inbox.events.send(Arc::new(event));
    }
}

pub(super) fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: unix_ms(),
    }
}
