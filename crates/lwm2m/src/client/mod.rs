//! The LwM2M device ("client" in OMA's words) as a state machine: it registers, answers, and notifies.
//!
//! # Driving it
//! Feed [`Client::handle_datagram`], and [`Client::handle_timeout`] when [`Client::next_timeout`] has passed; then
//! drain [`Client::poll_event`] and [`Client::poll_transmit`]. When the device's own values change, set them in its
//! [`ObjectTree`] and say so with [`Client::changed`]: observers are told as their attributes ask.
//!
//! Only the server it registered with is served; requests of others get 4.01.

mod config;
mod memory;
mod observers;
mod registering;
mod serve;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use coap::{Code, Endpoint, Peer, Response, Token, Transmit};
use lwm2m_codec::{Attributes, ContentFormat, encode};
use lwm2m_model::{Node, ObjectPath, ResourceContent, Value};

pub use config::{ClientConfig, NotificationMode};
pub use memory::{InMemoryTree, TreeError};
pub use tree::ObjectTree;

use observers::{Observer, inherit};
use registering::State;

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
    /// The server observes this path.
    Observed { path: ObjectPath },
    /// The server observes this path no more.
    ObservationEnded { path: ObjectPath },
    /// A notification is on its way.
    Notified { path: ObjectPath },
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
            time_outs: 0,
            events: VecDeque::new(),
        }
    }

    /// A datagram came in.
    pub fn handle_datagram(&mut self, now: Instant, from: Peer, datagram: &[u8]) {
        self.coap.handle_datagram(now, from, datagram);
        self.drain_coap(now);
    }

    /// Time has passed: call it at [`next_timeout`](Self::next_timeout) or later.
    pub fn handle_timeout(&mut self, now: Instant) {
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
            .filter_map(|o| o.due_at(&self.effective(&o.path)))
            .min();
        [self.coap.next_timeout(), self.state.timeout(), notification]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.coap.poll_transmit()
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
        self.note_change(path);
        self.notify_due(now);
    }

    fn note_change(&mut self, path: &ObjectPath) {
        let related =
            |observer: &Observer| observer.path.contains(path) || path.contains(&observer.path);
        let keys: Vec<_> = self
            .observers
            .iter()
            .filter(|(_, o)| related(o))
            .map(|(key, o)| (*key, o.path))
            .collect();
        for (key, path) in keys {
            let attributes = self.effective(&path);
            let number = self.objects.read(&path).ok().as_ref().and_then(number);
            if let Some(observer) = self.observers.get_mut(&key) {
                observer.note_change(number, &attributes);
            }
        }
    }

    fn notify_due(&mut self, now: Instant) {
        let due: Vec<_> = self
            .observers
            .iter()
            .filter(|(_, observer)| observer.is_due(now, &self.effective(&observer.path)))
            .map(|(key, observer)| (*key, observer.path, observer.accept))
            .collect();
        for ((peer, token), path, accept) in due {
            let node = self.objects.read(&path);
            let number = node.as_ref().ok().and_then(number);
            let response = node
                .and_then(|node| content(&node, &path, accept))
                .unwrap_or_else(Response::new);
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
            self.events.push_back(Event::Notified { path });
            if last {
                // RFC 7641 section 4.2: an error is the last notification.
                self.end_observation(peer, token);
            } else if let Some(observer) = self.observers.get_mut(&(peer, token)) {
                observer.sent(now, number);
            }
        }
    }

    fn end_observation(&mut self, peer: Peer, token: Token) {
        if let Some(observer) = self.observers.remove(&(peer, token)) {
            self.events.push_back(Event::ObservationEnded {
                path: observer.path,
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
            merged = inherit(
                self.attributes.get(&path).copied().unwrap_or_default(),
                merged,
            );
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
                    self.server_answered(now, id, &response)
                }
                coap::Event::RequestFailed { id, reason, .. } => {
                    self.server_silent(now, id, reason)
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
