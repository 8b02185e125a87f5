use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use kafka::Delivered;
use lwm2m::server::{Event, RequestHandle, Server};
use lwm2m::{
    DeviceResponse, Now, Observation, Registration, RegistrationUpdate, RequestFailure, Values,
};
use prometheus::{IntGauge, register_int_gauge};
use records::AvroRecord as _;
use service::CancellationToken;
use tokio::sync::mpsc;

use super::doors::Doors;
use super::journal::{Journal, JournalSettings};
use super::outbox::{
    Grouped, LaneSetup, Outbox, ProducerMaker, Refused, Source, TopicIds, UPDATES_LEFT_OUT, Wait,
};
use super::owed::{OwedUpdates, is_changed};
use super::told::Told;
use super::watch::Watched;
use super::{Ack, Answer, AskError, Command, Inbox, Listens, Onlooker, ServerEvent};
use crate::bridge::{
    Datums, HandedReply, RepliesDone, notification_records, registration_deleted, registration_new,
    registration_updated, sent_records, unix_ms,
};
use crate::credentials::Revoked;
use crate::store::{Change, Outgoing, OutgoingKind, Store, StoreError};

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) server_id: String,
    pub(crate) server: Server,
    pub(crate) doors: Doors,
    pub(crate) store: Store,
    pub(crate) inbox: Inbox,
    pub(crate) onlooker: Arc<dyn Onlooker>,
    pub(crate) producer: ProducerMaker,
    /// Registrations and observations.
    pub(crate) lanes: [LaneSetup; 2],
    /// The ids of the topics' schemas, as they get known.
    pub(crate) ids: mpsc::Receiver<(OutgoingKind, TopicIds)>,
    /// To the replies' own publisher, and from it.
    pub(crate) replies: mpsc::Sender<HandedReply>,
    pub(crate) replies_done: mpsc::Receiver<RepliesDone>,
    pub(crate) journal: JournalSettings,
    pub(crate) usual_window: Duration,
    pub(crate) spool_bytes: u64,
}

/// The loop; see the [module](super).
pub(crate) struct EngineLoop {
    pub(super) server_id: String,
    pub(super) server: Server,
    doors: Doors,
    local: SocketAddr,
    pub(super) store: Store,
    inbox: Inbox,
    onlooker: Arc<dyn Onlooker>,
    ids: mpsc::Receiver<(OutgoingKind, TopicIds)>,
    replies_done: mpsc::Receiver<RepliesDone>,
    pub(super) outbox: Outbox,
    pub(super) journal: Journal,
    /// What this turn changed.
    pub(super) changes: Vec<Change>,
    /// Acknowledgements to devices that wait for this turn's commit.
    waits: Vec<Wait>,
    /// The records of the message at hand.
    datums: Datums,
    grouped: Grouped,
    /// Answers over REST that wait for this turn's commit.
    told: Vec<Told>,
    pub(super) owed_updates: OwedUpdates,
    /// REST requests on their way.
    asked: HashMap<RequestHandle, Answer>,
    own_windows: HashMap<String, Duration>,
    usual_window: Duration,
    watched: Watched,
    /// Acknowledgements of notifications that were refused: given with that of the value which was asked for in their
    /// place, so that the device does not give the observation up.
    owed: HashMap<Refused, Ack>,
    next_housekeeping: Instant,
}

/// Commands that are taken in one turn.
const PER_TURN: usize = 256;
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How long an answered request is remembered by its origin, and how many are at most (some hundred MB of disk).
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3_600);
const REMEMBERED_MOST: i64 = 1_000_000;
/// Observations that are asked for again in one turn, after the spool was full.
const REESTABLISHED: usize = 100;
/// What a device is told to wait, when its values can't be taken now.
const COME_AGAIN: Duration = Duration::from_secs(30);
/// How long the last acknowledgements are awaited at the end. What has none by then is in the store, or its device was
/// not told that it is safe: either way it is produced later.
const LAST_DELIVERIES: Duration = Duration::from_secs(3);

static REGISTERED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("zeelos_registrations", "Devices registered now.")
        .expect("registered once, with a valid name")
});

impl EngineLoop {
    /// Takes up what the store kept.
    pub(crate) fn new(parts: Parts) -> anyhow::Result<Self> {
        let local = parts.doors.local()?;
        let owed_updates = OwedUpdates::new(parts.store.updates_owed()?);
        let mut engine = Self {
            server_id: parts.server_id,
            server: parts.server,
            doors: parts.doors,
            local,
            outbox: Outbox::new(
                &parts.store,
                parts.producer,
                parts.lanes,
                parts.replies,
                parts.spool_bytes,
            )?,
            journal: Journal::new(parts.journal),
            store: parts.store,
            inbox: parts.inbox,
            onlooker: parts.onlooker,
            ids: parts.ids,
            replies_done: parts.replies_done,
            changes: Vec::new(),
            waits: Vec::new(),
            datums: Datums::default(),
            grouped: Grouped::default(),
            told: Vec::new(),
            owed_updates,
            asked: HashMap::new(),
            own_windows: HashMap::new(),
            usual_window: parts.usual_window,
            watched: Watched::default(),
            owed: HashMap::new(),
            next_housekeeping: Instant::now() + HOUSEKEEPING,
        };
        let now = now();
        engine.restore(now)?;
        engine.resume_requests(now)?;
        Ok(engine)
    }

    fn restore(&mut self, now: Now) -> anyhow::Result<()> {
        for (endpoint, window) in self.store.awake_windows()? {
            self.server.set_awake_window(&endpoint, Some(window))?;
            self.own_windows.insert(endpoint, window);
        }
        let server = &mut self.server;
        self.store.take_up(|registrations, observations| {
            server.restore(now, registrations, observations);
        })?;
        tracing::info!(
            registrations = self.server.registered(),
            took_ms = now.instant.elapsed().as_millis(),
            "taken up from the store"
        );
        Ok(())
    }

    /// Runs until told to stop, or the store or the socket fails.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut delivered: Vec<Delivered> = Vec::new();
        // What the store held goes on its way at once, whether or not anything comes in.
        self.finish_turn().await?;
        loop {
            let deadline = self.deadline();
            tokio::select! {
                received = self.doors.wait(deadline) => {
                    received?;
                    self.take_in(now());
                }
                Some(command) = self.inbox.commands.recv() => {
                    self.command(command)?;
                    for _ in 1..PER_TURN {
                        let Ok(command) = self.inbox.commands.try_recv() else { break };
                        self.command(command)?;
                    }
                }
                () = self.outbox.deliveries(&mut delivered) => self.take_delivered(&mut delivered),
                Some(done) = self.replies_done.recv() => {
                    self.outbox.replies_done(done, Instant::now());
                }
                Some((kind, ids)) = self.ids.recv() => self.outbox.set_ids(kind, ids),
                () = shutdown.cancelled() => break,
            }
            // What Kafka acknowledged meanwhile shares the turn.
            self.outbox.try_deliveries(&mut delivered);
            self.take_delivered(&mut delivered);
            self.finish_turn().await?;
        }
        self.wind_up(delivered).await
    }

    #[cfg(test)]
    pub(super) fn doors(&mut self) -> &mut Doors {
        &mut self.doors
    }

    pub(super) fn take_in(&mut self, now: Now) {
        let (server, watched, inbox) = (&mut self.server, &self.watched, &self.inbox);
        let changed = self.doors.take_in(now.instant, |peer, datagram| {
            if !watched.is_empty() {
                tell_message(watched, inbox, now, peer, true, datagram);
            }
            server.handle_datagram(now, peer, datagram);
        });
        for revoked in changed {
            match revoked {
                Revoked::Number { endpoint, .. } | Revoked::Name(endpoint) => {
                    server.readmit(&endpoint);
                }
                Revoked::All => server.readmit_all(),
            }
        }
    }

    pub(super) fn take_delivered(&mut self, delivered: &mut Vec<Delivered>) {
        if delivered.is_empty() {
            return;
        }
        let now = Instant::now();
        self.outbox
            .delivered(delivered, now, &mut self.changes, &mut self.waits);
    }

    /// Takes the last acknowledgements, so that what Kafka has is not produced again after the next start.
    async fn wind_up(&mut self, mut delivered: Vec<Delivered>) -> anyhow::Result<()> {
        self.finish_turn().await?;
        self.doors.close().await;
        self.outbox.close();
        let until = tokio::time::Instant::now() + LAST_DELIVERIES;
        let mut publishes_replies = true;
        while publishes_replies || !self.outbox.is_idle() {
            tokio::select! {
                () = self.outbox.deliveries(&mut delivered) => self.take_delivered(&mut delivered),
                done = self.replies_done.recv(), if publishes_replies => match done {
                    Some(done) => self.outbox.replies_done(done, Instant::now()),
                    None => publishes_replies = false,
                },
                () = tokio::time::sleep_until(until) => {
                    tracing::warn!("Kafka did not acknowledge the last records in time; they are produced after the next start");
                    break;
                }
            }
        }
        self.finish_turn().await
    }

    pub(super) async fn finish_turn(&mut self) -> anyhow::Result<()> {
        let now = now();
        // Before this turn's notifications: what is replayed after a crash is in the order it came.
        self.outbox
            .look(now.instant, &mut self.changes, &mut self.waits)?;
        self.server.handle_timeout(now);
        self.answer_overdue(now)?;
        self.take_held(now)?;
        // Their records would find no room: devices come again.
        let overloaded = (!self.outbox.has_room()).then_some(COME_AGAIN);
        self.server.set_overloaded(overloaded);
        self.tell_owed_updates(now);
        for ack in self.outbox.take_refused_sends() {
            self.server.refuse(now, ack, COME_AGAIN);
        }
        for (refused, ack) in self.outbox.take_refused(REESTABLISHED) {
            if let Ok(target) = refused.target.parse() {
                self.server.reestablish(now, &refused.endpoint, &target);
                if let Some(ack) = ack {
                    self.owed.insert(refused, ack);
                }
            }
        }
        if now.instant >= self.next_housekeeping {
            self.next_housekeeping = now.instant + HOUSEKEEPING;
            let before = now.unix_ms - i64::try_from(REMEMBERED.as_millis())?;
            self.store.forget_answered(before, REMEMBERED_MOST)?;
        }
        loop {
            while let Some(event) = self.server.poll_event() {
                self.event(now, event)?;
            }
            self.outbox
                .commit(&mut self.store, &mut self.changes, now.instant)?;
            self.journal.committed();
            for told in self.told.drain(..) {
                told.tell();
            }
            // An acknowledgement may be the last thing that a request waited for: then it is dispatched, which is
            // committed before its datagram leaves.
            if self.waits.is_empty() {
                break;
            }
            for wait in self.waits.drain(..) {
                if let Some(ack) = self.grouped.settle(wait) {
                    self.server.acknowledge(now, ack);
                }
            }
        }
        REGISTERED.set(i64::try_from(self.server.registered()).unwrap_or(i64::MAX));
        if !self.watched.is_empty() {
            return self.send_watched(now).await;
        }
        let server = &mut self.server;
        self.doors
            .send_all(std::iter::from_fn(|| server.poll_transmit()))
            .await;
        Ok(())
    }

    async fn send_watched(&mut self, now: Now) -> anyhow::Result<()> {
        let transmits: Vec<_> = std::iter::from_fn(|| self.server.poll_transmit()).collect();
        for transmit in &transmits {
            let (to, datagram) = (transmit.to, &transmit.payload);
            tell_message(&self.watched, &self.inbox, now, to, false, datagram);
        }
        self.doors.send_all(transmits.into_iter()).await;
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let now = now();
        let overdue = self.journal.next_deadline(now);
        let outbox = self.outbox.deadline(now.instant);
        [
            self.server.next_timeout(),
            outbox,
            overdue,
            Some(self.next_housekeeping),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // Nobody listens to an answer any more when its asker went away meanwhile: that is what `let _` passes over.
    fn command(&mut self, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Accept { requests, done } => self.offered(now(), requests, done)?,
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
            Command::Queue { endpoint, answer } => {
                let _ = answer.send(self.queue(&endpoint)?);
            }
            Command::CancelQueued {
                endpoint,
                id,
                answer,
            } => {
                let cancelled = self.cancel_queued(now(), &endpoint, id)?;
                self.told.push(Told::Cancelled(answer, cancelled));
            }
            Command::Listens { endpoint, answer } => {
                let _ = answer.send(Listens {
                    presence: self.server.presence(&endpoint),
                    own_window: self.own_windows.get(&endpoint).copied(),
                    usual_window: self.usual_window,
                });
            }
            Command::SetAwakeWindow {
                endpoint,
                window,
                answer,
            } => {
                let set = self.server.set_awake_window(&endpoint, window);
                if set.is_ok() {
                    match window {
                        Some(window) => self.own_windows.insert(endpoint.clone(), window),
                        None => self.own_windows.remove(&endpoint),
                    };
                    self.changes.push(Change::AwakeWindow { endpoint, window });
                }
                self.told.push(Told::WindowSet(answer, set));
            }
            Command::WatchCoap { watch } => {
                let server = &self.server;
                self.watched.change(watch, |endpoint| {
                    let registration = server.registration(endpoint)?;
                    Some(registration.peer)
                });
            }
            Command::Observations { endpoint, answer } => {
                let kept = self.server.observations(&endpoint);
                let _ = answer.send(
                    kept.map(|(observation, _)| Arc::clone(observation))
                        .collect(),
                );
            }
            Command::Registrations { answer } => {
                let all = self.server.registrations_in_any_order();
                let all = all.map(Arc::clone).collect();
                let _ = answer.send(all);
            }
            Command::Registration { endpoint, answer } => {
                let _ = answer.send(self.server.registration(&endpoint).map(Arc::clone));
            }
        }
        Ok(())
    }

    fn event(&mut self, now: Now, event: Event) -> Result<(), StoreError> {
        match event {
            Event::Registered {
                registration,
                replaced,
            } => {
                if let Some(replaced) = replaced {
                    self.tell(ServerEvent::Deregistered(replaced));
                }
                let record = registration_new(&self.server_id, self.local, &registration);
                self.registration_event(now, &registration, record.to_datum());
                self.owe_no_update(&registration.endpoint);
                self.watched
                    .moved(&registration.endpoint, registration.peer);
                self.changes
                    .push(Change::PutRegistration(Arc::clone(&registration)));
                let endpoint = registration.endpoint.clone();
                self.tell(ServerEvent::Registered(registration));
                self.heard_of(now, &endpoint)?;
            }
            Event::Updated {
                registration,
                previous,
                update,
            } => {
                if self.outbox.takes_updates() {
                    self.registration_updated(now, &registration, &update);
                } else if is_changed(&previous, &registration) {
                    self.owe_update(&registration.endpoint);
                } else {
                    UPDATES_LEFT_OUT.inc();
                }
                if previous.binding != registration.binding {
                    self.heard_of(now, &registration.endpoint)?;
                }
                self.watched
                    .moved(&registration.endpoint, registration.peer);
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
                self.registration_event(now, &registration, record.to_datum());
                self.owe_no_update(&registration.endpoint);
                let endpoint = registration.endpoint.clone();
                self.changes.push(Change::RemoveRegistration { endpoint });
                self.tell(ServerEvent::Deregistered(registration));
            }
            Event::Awake { registration } => {
                self.heard_of(now, &registration.endpoint)?;
                self.tell(ServerEvent::Awake(registration));
            }
            Event::Sleeping { registration } => self.tell(ServerEvent::Sleeping(registration)),
            Event::Dispatched { handle, endpoint } => self.dispatched(handle, &endpoint),
            Event::Deferred { handle, endpoint } => self.deferred(now, handle, &endpoint),
            Event::Completed {
                handle,
                endpoint,
                result,
            } => self.completed(now, handle, &endpoint, result)?,
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
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.target, %reason, "a notification can't be read");
                self.waits.extend(ack.map(Wait::One));
            }
            Event::Sent {
                registration,
                values,
                ack,
            } => self.sent(now, registration, values, ack),
            Event::ObservationStarted { observation, .. } => {
                self.changes
                    .push(Change::PutObservation(Arc::clone(&observation)));
                self.tell(ServerEvent::ObservationStarted(observation));
            }
            Event::ObservationEnded { observation, .. } => {
                if !self.owed.is_empty() {
                    self.owed.remove(&Refused::of(&observation));
                }
                self.changes
                    .push(Change::RemoveObservation(Arc::clone(&observation)));
                self.tell(ServerEvent::ObservationEnded(observation));
            }
            Event::ObservationLost { observation, why } => {
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.target, ?why, "an observation was not taken up again");
            }
        }
        Ok(())
    }

    pub(super) fn registration_updated(
        &mut self,
        now: Now,
        registration: &Registration,
        update: &RegistrationUpdate,
    ) {
        let record = registration_updated(&self.server_id, registration, update);
        self.registration_event(now, registration, record.to_datum());
    }

    fn registration_event(&mut self, now: Now, registration: &Registration, datum: Vec<u8>) {
        let record = Outgoing {
            kind: OutgoingKind::Registration,
            endpoint: registration.endpoint.clone(),
            datum,
            origin: None,
            trace: None,
        };
        self.outbox.enqueue(record, now.instant, &mut self.changes);
    }

    fn notified(
        &mut self,
        now: Now,
        observation: Arc<Observation>,
        response: DeviceResponse,
        ack: Option<Ack>,
    ) {
        let ack = ack.or_else(|| match self.owed.is_empty() {
            true => None,
            false => self.owed.remove(&Refused::of(&observation)),
        });
        let mut datums = std::mem::take(&mut self.datums);
        let written = notification_records(
            &self.server_id,
            &observation,
            &response,
            now.unix_ms,
            &mut datums,
        );
        match written {
            Ok(()) => {
                let source = Source::Observation(Arc::clone(&observation));
                if !self.observations(now, &source, &datums, ack) {
                    self.outbox.refuse(Some(&observation), ack);
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = %observation.endpoint, path = %observation.target, %error, "a notification does not fit its record");
                self.waits.extend(ack.map(Wait::One));
            }
        }
        self.datums = datums;
        self.onlooker.notified(&observation, &response, now.unix_ms);
        if self.onlooker.wants_values() {
            self.tell(ServerEvent::Notified {
                observation,
                response,
            });
        }
    }

    fn sent(&mut self, now: Now, registration: Arc<Registration>, values: Vec<Values>, ack: Ack) {
        let mut datums = std::mem::take(&mut self.datums);
        let written = sent_records(
            &self.server_id,
            &registration,
            &values,
            now.unix_ms,
            &mut datums,
        );
        match written {
            Ok(()) => {
                let source = Source::Registration(Arc::clone(&registration));
                if !self.observations(now, &source, &datums, Some(ack)) {
                    self.outbox.refuse(None, Some(ack));
                    self.server.refuse(now, ack, COME_AGAIN);
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = %registration.endpoint, %error, "what a device sent does not fit its record");
                self.waits.push(Wait::One(ack));
            }
        }
        self.datums = datums;
        self.onlooker.sent(&registration, &values, now.unix_ms);
        if self.onlooker.wants_values() {
            self.tell(ServerEvent::Sent {
                registration,
                values,
            });
        }
    }

    /// Records of one message of a device, which has its acknowledgement when all are safe. `false` where there is no
    /// room for them.
    fn observations(
        &mut self,
        now: Now,
        source: &Source,
        datums: &Datums,
        ack: Option<Ack>,
    ) -> bool {
        if datums.is_empty() {
            self.waits.extend(ack.map(Wait::One));
            return true;
        }
        if !self.outbox.takes_observations() {
            return false;
        }
        let wait = ack.map(|ack| match datums.len() {
            1 => Wait::One(ack),
            parts => self.grouped.wait_for(ack, parts),
        });
        for datum in datums.iter() {
            self.outbox.observation(
                datum,
                source,
                wait,
                now.instant,
                &mut self.changes,
                &mut self.waits,
            );
        }
        true
    }

    fn completed(
        &mut self,
        now: Now,
        handle: RequestHandle,
        endpoint: &str,
        result: Result<DeviceResponse, RequestFailure>,
    ) -> Result<(), StoreError> {
        if let Some(answer) = self.asked.remove(&handle) {
            let result = Box::new(result.map_err(AskError::Failed));
            self.told.push(Told::Asked(answer, result));
            return Ok(());
        }
        self.journal_completed(now, handle, endpoint, result)
    }

    fn tell(&self, event: ServerEvent) {
        if let ServerEvent::Deregistered(registration) = &event {
            self.onlooker.gone(&registration.endpoint);
        }
        // An error says that nobody watches.
        let _ = self.inbox.events.send(Arc::new(event));
    }
}

fn tell_message(
    watched: &Watched,
    inbox: &Inbox,
    now: Now,
    peer: coap::Peer,
    incoming: bool,
    datagram: &[u8],
) {
    if let Some((endpoint, datagram)) = watched.copy(peer, datagram) {
        // An error says that nobody watches.
        let _ = inbox.events.send(Arc::new(ServerEvent::CoapLog {
            endpoint,
            incoming,
            at_unix_ms: now.unix_ms,
            datagram,
        }));
    }
}

pub(super) fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: unix_ms(),
    }
}
