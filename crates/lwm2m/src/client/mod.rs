//! The LwM2M device ("client" in OMA's words) as a state machine: it registers, answers, and notifies.
//!
//! # Driving it
//! Feed [`Client::handle_datagram`], and [`Client::handle_timeout`] when [`Client::next_timeout`] has passed; then
//! drain [`Client::poll_event`] and [`Client::poll_transmit`]. When the device's own values change, set them in its
//! [`ObjectTree`] and say so with [`Client::changed`]: observers are told as their attributes ask.
//!
//! Only the server it registered with is served; requests of others get 4.01.

mod composite;
mod config;
mod memory;
mod observers;
mod registering;
mod serve;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use coap::{Code, Endpoint, Peer, RequestId, Response, Token, Transmit};
use lwm2m_codec::{Attributes, ContentFormat, encode};
use lwm2m_model::{Node, ObjectPath, ResourceContent, Value};

pub use composite::{SendError, SendHandle};
pub use config::{ClientConfig, NotificationMode};
pub use memory::{InMemoryTree, TreeError};
pub use tree::ObjectTree;

use observers::Observer;
use registering::State;

use crate::Target;

/// Something that happened to the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server took the registration; its location is `/rd/<id>` or what the server chose.
    Registered { location: String },
    /// The server took an update.
    Updated,
    /// An attempt to register, or to update, failed; the next one comes after `retry_in`.
    RegistrationFailed { reason: String, retry_in: Duration },
    /// The server knows that the device is gone, or did not answer: [`Client::state`] is idle.
    Deregistered,
    /// The server wrote here.
    Written { path: ObjectPath },
    /// The server executed this: act on it.
    Executed { path: ObjectPath, arguments: String },
    /// The server created this instance.
    Created { path: ObjectPath },
    /// The server deleted this instance.
    Deleted { path: ObjectPath },
    /// The server observes this.
    Observed { target: Target },
    /// The server observes this no more.
    ObservationEnded { target: Target },
    /// A notification is on its way.
    Notified { target: Target },
    /// The server answered a Send: with 2.04 it has the values.
    SendAnswered { handle: SendHandle, code: Code },
    /// A Send has no answer: the server may have the values.
    SendFailed { handle: SendHandle, reason: String },
}

/// Where the device stands with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not started, or de-registered.
    Idle,
    /// A registration is on its way, or waits for its next attempt.
    Registering,
    Registered,
    Deregistering,
}

/// The device; see the [module's documentation](self).
pub struct Client<T> {
    config: ClientConfig,
    objects: T,
    coap: Endpoint,
    rng: ChaCha12Rng,
    server: Option<Peer>,
    state: State,
    /// The wait before the next attempt to register.
    retry: Duration,
    /// Notification attributes by the path they were written to; only paths that exist, so the tree bounds them.
    attributes: BTreeMap<ObjectPath, Attributes>,
    observers: BTreeMap<(Peer, Token), Observer>,
    sends: BTreeSet<RequestId>,
    /// When something was last sent or received; with queue mode, the device listens from then on for its window.
    active_at: Option<Instant>,
    /// The latest time anyone told.
    latest: Option<Instant>,
    /// Messages that were never acknowledged, as the CoAP endpoint counts them.
    time_outs: u64,
    events: VecDeque<Event>,
}

impl<T: ObjectTree> Client<T> {
    /// A device that does nothing until [`start`](Self::start). Take the seed from the operating system.
    pub fn new(config: ClientConfig, objects: T, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut coap_seed = [0; 32];
        rng.fill_bytes(&mut coap_seed);
        Self {
            coap: Endpoint::new(config.coap.clone(), coap_seed),
            retry: config.retry_first,
            config,
            objects,
            rng,
            server: None,
            state: State::Idle,
            attributes: BTreeMap::new(),
            observers: BTreeMap::new(),
            sends: BTreeSet::new(),
            active_at: None,
            latest: None,
            time_outs: 0,
            events: VecDeque::new(),
        }
    }

    /// A datagram came in. A device in queue mode that sleeps does not hear it.
    pub fn handle_datagram(&mut self, now: Instant, from: Peer, datagram: &[u8]) {
        if !self.is_listening(now) {
            return;
        }
        self.latest = Some(now);
        self.active_at = Some(now);
        self.coap.handle_datagram(now, from, datagram);
        self.drain_coap(now);
    }

    /// Time has passed: call it at [`next_timeout`](Self::next_timeout) or later.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.latest = Some(now);
        self.coap.handle_timeout(now);
        self.drain_coap(now);
        self.registration_timeout(now);
        self.notify_due(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None`: not before something else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        let notification = self
            .observers
            .values()
            .filter_map(|o| o.due_at(|path| self.effective(path)))
            .min();
        [self.coap.next_timeout(), self.state.timeout(), notification]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.coap.poll_transmit()?;
        self.active_at = self.latest;
        Some(transmit)
    }

    /// Whether the device hears what is sent to it: always, unless it is in queue mode, registered, and its window is over
    /// (TS 1.1 transport, section 6.5).
    pub fn is_listening(&self, now: Instant) -> bool {
        let busy = self.state.is_busy() || !self.sends.is_empty();
        if !self.config.binding.queue || busy {
            return true;
        }
        self.active_at.is_none_or(|at| {
            at.checked_add(self.config.awake_window)
                .is_none_or(|end| now < end)
        })
    }

    /// The next thing that happened. A few per datagram: drain them.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where the device stands with its server.
    pub fn status(&self) -> Status {
        self.state.status()
    }

    /// The device's objects.
    pub fn objects(&self) -> &T {
        &self.objects
    }

    /// The device's objects, to be changed by the device; tell the observers with [`changed`](Self::changed), and the
    /// server of instances that came or went with [`objects_changed`](Self::objects_changed).
    pub fn objects_mut(&mut self) -> &mut T {
        &mut self.objects
    }

    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// How many observations the server has.
    pub fn observed(&self) -> usize {
        self.observers.len()
    }

    /// What the CoAP endpoint below counted.
    pub fn coap_stats(&self) -> coap::Stats {
        self.coap.stats()
    }

    /// The value at `path`, or below it, changed: observers are told, now or when their attributes allow.
    pub fn changed(&mut self, now: Instant, path: &ObjectPath) {
        self.latest = Some(now);
        self.note_change(path);
        self.notify_due(now);
    }

    fn note_change(&mut self, path: &ObjectPath) {
        // Nobody observes before the device has heard the time once.
        let Some(now) = self.latest else { return };
        let mut observers = std::mem::take(&mut self.observers);
        let related =
            |part: &&mut observers::Part| part.path.contains(path) || path.contains(&part.path);
        let parts = observers.values_mut().flat_map(|o| &mut o.parts);
        for part in parts.filter(related) {
            part.note_change(now, self.number_at(&part.path), &self.effective(&part.path));
        }
        self.observers = observers;
    }

    fn notify_due(&mut self, now: Instant) {
        let mut observers = std::mem::take(&mut self.observers);
        let mut due = Vec::new();
        for (key, observer) in &mut observers {
            if observer.is_due(
                now,
                |path| self.effective(path),
                |path| self.number_at(path),
            ) {
                due.push((*key, observer.target.clone(), observer.accept));
            }
        }
        self.observers = observers;
        for ((peer, token), target, accept) in due {
            let response = match (&target, accept) {
                (Target::Path(path), accept) => self
                    .objects
                    .read(path)
                    .and_then(|node| content(&node, path, accept)),
                (list, accept) => {
                    self.composite_content(list, accept.unwrap_or(ContentFormat::SenmlCbor))
                }
            };
            let response = response.unwrap_or_else(Response::new);
            let confirmable = self.config.notifications == NotificationMode::Confirmable;
            let last = !response.code.is_success();
            self.coap.notify(
                now,
                peer,
                token,
                Response {
                    observe: Some(0),
                    ..response
                },
                confirmable,
            );
            self.events.push_back(Event::Notified { target });
            if last {
                // RFC 7641 section 4.2: an error is the last notification.
                self.end_observation(peer, token);
            } else if let Some(mut observer) = self.observers.remove(&(peer, token)) {
                observer.sent(now, |path| self.number_at(path));
                self.observers.insert((peer, token), observer);
            }
        }
    }

    /// Takes somebody who wants to be told of changes; `false` where there are too many. RFC 7641 section 4.1: a device
    /// that takes no more answers as if it had not been asked to.
    fn observe(
        &mut self,
        now: Instant,
        from: Peer,
        token: Token,
        target: Target,
        accept: Option<ContentFormat>,
    ) -> bool {
        let known = self.observers.contains_key(&(from, token));
        if !known && self.observers.len() >= self.config.max_observers {
            return false;
        }
        let observer = Observer::new(target.clone(), accept, now, |path| self.number_at(path));
        self.observers.insert((from, token), observer);
        if !known {
            self.events.push_back(Event::Observed { target });
        }
        true
    }

    fn number_at(&self, path: &ObjectPath) -> Option<f64> {
        self.objects.read(path).ok().as_ref().and_then(number)
    }

    fn end_observation(&mut self, peer: Peer, token: Token) {
        if let Some(observer) = self.observers.remove(&(peer, token)) {
            self.events.push_back(Event::ObservationEnded {
                target: observer.target,
            });
        }
    }

    /// The observer is gone (RFC 7641 section 4.5). Where it was silence that said so, and no reset, the server may still
    /// count on being told: a new registration makes it ask again.
    fn notification_rejected(&mut self, now: Instant, to: Peer, token: Token) {
        self.end_observation(to, token);
        let time_outs = self.coap.stats().transmit_timeouts;
        if time_outs != self.time_outs {
            self.time_outs = time_outs;
            self.register_again(now);
        }
    }

    /// The attributes that count at a path: its own, then those of the levels above, then the server object's periods.
    fn effective(&self, path: &ObjectPath) -> Attributes {
        let mut merged = Attributes::default();
        let mut at = Some(*path);
        while let Some(path) = at {
            merged = merged.or(&self.attributes.get(&path).copied().unwrap_or_default());
            at = path.parent();
        }
        let period = |resource| match self.objects.read(&ObjectPath::Resource(1, 0, resource)) {
            Ok(Node::Resource(node)) => match node.content {
                ResourceContent::Single(Value::Integer(period_s)) => {
                    u64::try_from(period_s).ok().map(Duration::from_secs)
                }
                ResourceContent::Single(Value::Unsigned(period_s)) => {
                    Some(Duration::from_secs(period_s))
                }
                _ => None,
            },
            _ => None,
        };
        // Default Minimum and Maximum Period of the server object.
        merged.pmin = merged.pmin.or_else(|| period(2));
        merged.pmax = merged.pmax.or_else(|| period(3));
        merged
    }

    fn drain_coap(&mut self, now: Instant) {
        while let Some(event) = self.coap.poll_event() {
            match event {
                coap::Event::Request {
                    exchange,
                    from,
                    token,
                    request,
                } => {
                    let response = self.serve(now, from, token, &request);
                    self.coap.respond(now, exchange, response);
                    self.notify_due(now);
                    self.after_request(now);
                }
                coap::Event::Response { id, response, .. } => {
                    if self.sends.remove(&id) {
                        let (handle, code) = (SendHandle(id), response.code);
                        self.events.push_back(Event::SendAnswered { handle, code });
                    } else {
                        self.server_answered(now, id, &response);
                    }
                }
                coap::Event::RequestFailed { id, reason, .. } => {
                    if self.sends.remove(&id) {
                        let (handle, reason) = (SendHandle(id), reason.to_string());
                        self.events.push_back(Event::SendFailed { handle, reason });
                    } else {
                        self.server_silent(now, id, reason);
                    }
                }
                coap::Event::NotificationRejected { to, token } => {
                    self.notification_rejected(now, to, token)
                }
                // A device observes nothing.
                coap::Event::Notification { .. } => {}
            }
        }
    }
}

/// The number of a path with one numeric value.
fn number(node: &Node) -> Option<f64> {
    match node {
        Node::Resource(node) => match &node.content {
            ResourceContent::Single(value) => value.as_f64(),
            ResourceContent::Multiple { .. } => None,
        },
        Node::ResourceInstance { value, .. } => value.as_f64(),
        Node::Object(_) | Node::Instance(_) => None,
    }
}

/// A node as the answer to a read. Without a wish: text for one value, octets for one opaque value, else TLV.
fn content(
    node: &Node,
    path: &ObjectPath,
    accept: Option<ContentFormat>,
) -> Result<Response, Code> {
    let preferred = match node {
        Node::Resource(resource) => match &resource.content {
            ResourceContent::Single(Value::Opaque(_)) => ContentFormat::Opaque,
            ResourceContent::Single(_) => ContentFormat::Text,
            ResourceContent::Multiple { .. } => ContentFormat::Tlv,
        },
        Node::ResourceInstance {
            value: Value::Opaque(_),
            ..
        } => ContentFormat::Opaque,
        Node::ResourceInstance { .. } => ContentFormat::Text,
        Node::Object(_) | Node::Instance(_) => ContentFormat::Tlv,
    };
    let format = accept.unwrap_or(preferred);
    let payload = encode(node, path, format).map_err(|_| Code::NOT_ACCEPTABLE)?;
    Ok(Response {
        content_format: Some(format.id()),
        payload: payload.into(),
        ..Response::new(Code::CONTENT)
    })
}
