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
//! is always known whether a request was sent: [`Event::Dispatched`] comes before its datagram. A queued request follows the
//! device to a new address and into a new registration. What is bounded, and by how much, stands at [`ServerConfig`].
//!
//! # Queue mode
//! A device in queue mode (binding with `Q`) listens for a while after each message of its own; outside of that its
//! requests wait in the lane, until it is heard of or their time is over. One that got no sign of delivery waits again
//! if repeating it does no harm, and else ends with [`RequestFailure::Timeout`](crate::RequestFailure::Timeout). After a
//! restart the host makes those requests again that have no outcome, in their order.
//!
//! # Observations
//! They are kept per endpoint name, beyond the registration. When a device registers anew each is asked for again
//! under its token, and the first value comes as [`Event::Notified`]. A cancel forgets.

mod config;
mod event;
mod lanes;
mod links;
mod observations;
mod presence;
mod register;
mod registrations;
mod requests;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use coap::{Code, Endpoint, Peer, RequestId, Response, Token, Transmit};
use lwm2m_codec::{Below, ContentFormat};
use lwm2m_model::Registry;

pub use config::ServerConfig;
pub use event::{Ack, Event, ObservationEnd, ObservationLoss, RequestHandle, Stats};
pub use presence::{Presence, TooManyWindows};
pub use requests::PendingRequest;

use crate::{Now, Observation, ObservationState, Registration, Target};
use event::Waits;
use lanes::Job;
use links::SharedLinks;

/// How a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Time to the answer, waiting behind earlier requests included; `None`: [`ServerConfig::request_timeout`].
    pub timeout: Option<Duration>,
    /// The content format to ask for, or to send; `None`: TLV (11542), and SenML CBOR (112) for composites, or what the
    /// device lists if it does not list these. Whatever the device then answers in is read.
    pub content_format: Option<ContentFormat>,
    /// The content format of a composite's list of paths; `None`: the same.
    pub list_format: Option<ContentFormat>,
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
    devices: HashMap<Arc<str>, Box<Device>>,
    by_registration_id: HashMap<String, Arc<str>>,
    by_token: HashMap<Token, (Arc<str>, Target)>,
    /// Who registered last from an address and session: a Send names no endpoint.
    by_peer: HashMap<Peer, Arc<str>>,
    links: SharedLinks,
    /// When registrations expire.
    expiries: BTreeSet<(Instant, Arc<str>)>,
    /// When devices in queue mode fall asleep.
    sleeps: BTreeSet<(Instant, Arc<str>)>,
    /// The awake windows that are not the usual one.
    awake_windows: HashMap<Arc<str>, Duration>,
    /// Max-Age for what is refused meanwhile.
    overloaded: Option<Duration>,
    admits: Option<Admits>,
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
    /// Where its requests go, if not to its registration's peer: to a session that it began without updating.
    moved_to: Option<Peer>,
    observations: BTreeMap<Target, Kept>,
    lane: VecDeque<Job>,
    in_flight: Option<RequestId>,
    dormant_since: Option<u64>,
    presence: presence::State,
}

/// Whether a peer may speak for an endpoint.
type Admits = Box<dyn FnMut(Peer, &str) -> bool + Send>;

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
            devices: HashMap::new(),
            by_registration_id: HashMap::new(),
            by_token: HashMap::new(),
            by_peer: HashMap::new(),
            links: SharedLinks::default(),
            expiries: BTreeSet::new(),
            sleeps: BTreeSet::new(),
            awake_windows: HashMap::new(),
            overloaded: None,
            admits: None,
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
        self.fall_asleep(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let overdue = self.queue_deadlines.first().map(|(at, _)| *at);
        let sleep = self.sleeps.first().map(|(at, _)| *at);
        [self.coap.next_timeout(), expiry, overdue, sleep]
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

    /// Tells the device that the values of a confirmable notification or a Send are safe. Until then it waits, and sends
    /// a notification again.
    pub fn acknowledge(&mut self, now: Now, ack: Ack) {
        match ack.0 {
            Waits::Notification(ack) => self.coap.acknowledge(now.instant, ack),
            Waits::Send(exchange) => {
                self.coap
                    .respond(now.instant, exchange, Response::new(Code::CHANGED));
            }
        }
        self.drain_coap(now);
    }

    /// Says that the values can't be taken now: a Send is answered 5.03, with Max-Age in whole seconds. A notification
    /// stays unacknowledged, so that the device sends it again.
    pub fn refuse(&mut self, now: Now, ack: Ack, retry_after: Duration) {
        if let Waits::Send(exchange) = ack.0 {
            self.coap
                .respond(now.instant, exchange, register::busy(retry_after));
            self.drain_coap(now);
        }
    }

    /// While the host has no room: new registrations and Sends are answered 5.03 with this Max-Age, in whole seconds
    /// (RFC 7252 section 5.9.3.4). Updates, notifications and what devices answer are taken all the same. `None`, the
    /// default: take everything.
    pub fn set_overloaded(&mut self, retry_after: Option<Duration>) {
        self.overloaded = retry_after;
    }

    /// Asks `admits` whether a peer may register, update, de-register or Send as an endpoint; where it says no the answer
    /// is 4.03. By default everybody may. Where it is set, a peer without security gets 4.03 too as long as the endpoint is
    /// registered by one with a session, whatever `admits` says.
    pub fn set_admission(&mut self, admits: impl FnMut(Peer, &str) -> bool + Send + 'static) {
        self.admits = Some(Box::new(admits));
    }

    /// Every registration that stands, by endpoint name.
    pub fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        let mut all: Vec<_> = self.registrations_in_any_order().collect();
        all.sort_unstable_by(|a, b| a.endpoint.cmp(&b.endpoint));
        all.into_iter()
    }

    /// The same in any order, which is not the same twice: for who sorts 100,000 of them elsewhere.
    pub fn registrations_in_any_order(&self) -> impl Iterator<Item = &Arc<Registration>> {
        let registered = self.devices.values();
        registered.filter_map(|device| device.registration.as_ref())
    }

    /// How many registrations stand.
    pub fn registered(&self) -> usize {
        self.registered
    }

    /// The registration under an endpoint name.
    pub fn registration(&self, endpoint: &str) -> Option<&Arc<Registration>> {
        self.devices.get(endpoint)?.registration.as_ref()
    }

    /// Where the tree of a device hangs.
    fn root(&self, endpoint: &str) -> Below<'_> {
        let registration = self.registration(endpoint);
        Below(registration.map_or("/", |registration| &registration.root_path))
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
                    let answer = self.answer(now, from, exchange, &request);
                    if let Some(response) = answer.response {
                        self.coap.respond(now.instant, exchange, response);
                    }
                    // What the device causes is sent after it has its answer.
                    if let Some(endpoint) = answer.then_serve {
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
                    self.finish(now, id, token, Err(reason));
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

    fn is_admitted(&mut self, from: Peer, endpoint: &str) -> bool {
        let is_secure = self
            .registration(endpoint)
            .is_some_and(|known| known.peer.session != 0);
        let admitted = self
            .admits
            .as_mut()
            .is_none_or(|admits| !(is_secure && from.session == 0) && admits(from, endpoint));
        self.stats.not_admitted += u64::from(!admitted);
        admitted
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
    let _ = register::Update::parse(request, crate::Version::V1_1, &config);
}
