//! The LwM2M server as a state machine: registrations, requests to devices, observations.
//!
//! # Driving it
//! One turn of the loop, in this order:
//! 1. feed what came in: any number of [`Server::handle_datagram`], [`Server::request`], [`Server::acknowledge`], and
//!    [`Server::handle_timeout`] when [`Server::next_timeout`] has passed;
//! 2. drain [`Server::poll_event`] and *commit* what has to survive a crash (registrations, observations);
//! 3. drain [`Server::poll_transmit`] and send.
//!
//! So a device is told that it is registered only when the store knows it. Events wait in a queue that grows by a few
//! per datagram and is bounded by the driver: drain it after each batch, and keep batches small (some hundred).
//!
//! # Requests
//! Each device has a lane: its requests are sent one after the other, in order (NSTART of RFC 7252 section 4.7), so it
//! is always known whether a request was sent. A queued request follows the device to a new address and into a new
//! registration. What is bounded, and by how much, stands at [`ServerConfig`].
//!
//! # Observations
//! They are kept per endpoint name, beyond the registration. When a device registers anew each is asked for again
//! under its token, and the first value comes as [`Event::Notified`]. A cancel forgets.

mod config;
mod event;
mod lanes;
mod observations;
mod register;
mod registrations;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use coap::{AckId, Endpoint, Peer, RequestId, Token, Transmit};
use lwm2m_codec::ContentFormat;
use lwm2m_model::{ObjectPath, Registry};

pub use config::ServerConfig;
pub use event::{Event, ObservationEnd, ObservationLoss, RequestHandle, Stats};

use crate::{Now, Observation, ObservationState, Registration};
use lanes::Job;

/// How a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Time to the answer, waiting behind earlier requests included; `None`: [`ServerConfig::request_timeout`].
    pub timeout: Option<Duration>,
    /// The content format to ask for, or to send; `None`: TLV (11542). Whatever the device then answers in is read.
    pub content_format: Option<ContentFormat>,
    /// For [`Operation::Observe`](crate::Operation::Observe): what to attach to the observation. `Some` takes over an
    /// observation that stands, `None` leaves what is attached to it.
    pub context: Option<String>,
}

/// The LwM2M server; see the [module's documentation](self).
pub struct Server {
    config: ServerConfig,
    models: Arc<Registry>,
    coap: Endpoint,
    rng: ChaCha12Rng,
    /// Everything about an endpoint name: one that is registered, or whose observations are kept.
    devices: BTreeMap<Arc<str>, Device>,
    by_registration_id: HashMap<String, Arc<str>>,
    by_token: HashMap<Token, (Arc<str>, ObjectPath)>,
    /// When registrations expire.
    expiries: BTreeSet<(Instant, Arc<str>)>,
    /// Devices without a registration whose observations are kept, in the order they went.
    dormant: BTreeMap<u64, Arc<str>>,
    registered: usize,
    /// When queued jobs have to be given up.
    queue_deadlines: BTreeSet<(Instant, u64)>,
    /// Whose lane a queued job is in.
    queued: HashMap<u64, Arc<str>>,
    in_flight: HashMap<RequestId, (Arc<str>, Job)>,
    /// Numbers jobs and departures.
    serial: u64,
    events: VecDeque<Event>,
    stats: Stats,
}

/// What is known under one endpoint name.
#[derive(Default)]
struct Device {
    registration: Option<Arc<Registration>>,
    expires: Option<Instant>,
    /// Another address its notifications are taken from: the one before the last change, or one that a NAT gave it
    /// without its knowing.
    other_peer: Option<Peer>,
    observations: BTreeMap<ObjectPath, Kept>,
    lane: VecDeque<Job>,
    in_flight: Option<RequestId>,
    dormant_since: Option<u64>,
}

struct Kept {
    observation: Arc<Observation>,
    state: ObservationState,
    /// Of a dormant one: the device answered, and did not want it.
    refused: bool,
}

impl Server {
    /// A server without devices. The seed makes message ids, tokens and registration ids unpredictable: take it from
    /// the operating system.
    pub fn new(config: ServerConfig, models: Arc<Registry>, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut coap_seed = [0; 32];
        rng.fill_bytes(&mut coap_seed);
        Self {
            coap: Endpoint::new(config.coap.clone(), coap_seed),
            config,
            models,
            rng,
            devices: BTreeMap::new(),
            by_registration_id: HashMap::new(),
            by_token: HashMap::new(),
            expiries: BTreeSet::new(),
            dormant: BTreeMap::new(),
            registered: 0,
            queue_deadlines: BTreeSet::new(),
            queued: HashMap::new(),
            in_flight: HashMap::new(),
            serial: 0,
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// A datagram came in.
    pub fn handle_datagram(&mut self, now: Now, from: Peer, datagram: &[u8]) {
        self.follow_stray(from, datagram);
        self.coap.handle_datagram(now.instant, from, datagram);
        self.drain_coap(now);
    }

    /// Time has passed: call it at [`next_timeout`](Self::next_timeout) or later.
    pub fn handle_timeout(&mut self, now: Now) {
        self.coap.handle_timeout(now.instant);
        self.drain_coap(now);
        self.give_up_overdue(now);
        self.expire_registrations(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let overdue = self.queue_deadlines.first().map(|(at, _)| *at);
        [self.coap.next_timeout(), expiry, overdue]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagram to send. Commit the events to the store first.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.coap.poll_transmit()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells the device that a confirmable notification's value is safe. Until then it waits, and sends it again.
    pub fn acknowledge(&mut self, now: Now, ack: AckId) {
        self.coap.acknowledge(now.instant, ack);
        self.drain_coap(now);
    }

    /// Every registration that stands, by endpoint name.
    pub fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.devices
            .values()
            .filter_map(|device| device.registration.as_ref())
    }

    /// How many registrations stand.
    pub fn registered(&self) -> usize {
        self.registered
    }

    /// The registration under an endpoint name.
    pub fn registration(&self, endpoint: &str) -> Option<&Arc<Registration>> {
        self.devices.get(endpoint)?.registration.as_ref()
    }

    /// The observations kept for an endpoint name, by path.
    pub fn observations(
        &self,
        endpoint: &str,
    ) -> impl Iterator<Item = (&Arc<Observation>, ObservationState)> {
        let kept = self
            .devices
            .get(endpoint)
            .map(|device| device.observations.values());
        kept.into_iter()
            .flatten()
            .map(|kept| (&kept.observation, kept.state))
    }

    /// Replaces the object models, for example when the folder of DDF files changed.
    pub fn set_models(&mut self, models: Arc<Registry>) {
        self.models = models;
    }

    /// The object models in use.
    pub fn models(&self) -> &Arc<Registry> {
        &self.models
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What the CoAP endpoint below counted.
    pub fn coap_stats(&self) -> coap::Stats {
        self.coap.stats()
    }

    fn drain_coap(&mut self, now: Now) {
        while let Some(event) = self.coap.poll_event() {
            match event {
                coap::Event::Request {
                    exchange,
                    from,
                    request,
                    ..
                } => {
                    let response = self.answer(now, from, &request);
                    self.coap.respond(now.instant, exchange, response.response);
                    // What the device causes is sent after it has its answer.
                    if let Some(endpoint) = response.then_serve {
                        self.pump(now, &endpoint);
                    }
                }
                coap::Event::Response {
                    id,
                    token,
                    response,
                    ..
                } => self.finish(now, id, token, Ok(response)),
                coap::Event::RequestFailed {
                    id, token, reason, ..
                } => {
                    self.finish(now, id, token, Err(lanes::failure(reason)));
                }
                coap::Event::Notification {
                    from,
                    token,
                    response,
                    ack,
                } => {
                    self.notified(now, from, token, &response, ack);
                }
                // A server sends no notifications.
                coap::Event::NotificationRejected { .. } => {}
            }
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// Reads the parameters of a registration and of an update, for [`crate::fuzz`].
pub(crate) fn fuzz_registration(request: &coap::Request) {
    let config = ServerConfig::default();
    let _ = register::Register::parse(request, &config);
    let _ = register::Update::parse(request, &config);
}
