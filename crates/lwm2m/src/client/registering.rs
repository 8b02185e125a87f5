//! The registration interface, seen from the device (TS 1.1 core, section 6.2).

use std::time::{Duration, Instant};

use chacha20::rand_core::Rng as _;
use coap::{Code, FailureReason, Method, Peer, Request, RequestId, RequestOptions, Response};
use lwm2m_codec::{ContentFormat, Link, format_links};
use lwm2m_model::{Node, ObjectPath, ResourceContent, Value};

use super::{Client, Event, ObjectTree, SendHandle, Status};
use crate::Version;

/// An update leaves the server this much time before the lifetime is over, or half of the lifetime if that is less:
/// MAX_TRANSMIT_WAIT (93 s) of retransmissions and a little.
const UPDATE_AHEAD: Duration = Duration::from_secs(100);

/// The longest wait that a server's Max-Age makes: a day.
const LONGEST_MAX_AGE: Duration = Duration::from_secs(86_400);

/// The content formats that the device lists at its root (TS 1.1 core, section 6.2.1).
fn formats_of(version: Version) -> &'static str {
    match version {
        // TLV goes without saying.
        Version::V1_0 => "11543",
        Version::V1_1 => "60 110 112 11542 11543",
    }
}

#[derive(Debug)]
pub(super) enum State {
    Idle,
    Registering {
        request: RequestId,
    },
    /// The last attempt failed.
    Waiting {
        until: Instant,
    },
    Registered(Registered),
    Deregistering {
        request: RequestId,
        /// The server has disabled itself for this long: the device comes back after it.
        disabled_for: Option<Duration>,
    },
}

#[derive(Debug)]
pub(super) struct Registered {
    location: Vec<String>,
    /// `None`: the lifetime has no end.
    update_at: Option<Instant>,
    updating: Option<RequestId>,
    /// What the next update has to carry; an update is sent as soon as one of them is set.
    wanted: Wanted,
}

#[derive(Debug, Default, Clone, Copy)]
struct Wanted {
    update: bool,
    lifetime: bool,
    objects: bool,
    /// No update, but a de-registration: for how long.
    disabled_for: Option<Duration>,
}

impl Wanted {
    fn any(self) -> bool {
        self.update || self.lifetime || self.objects || self.disabled_for.is_some()
    }
}

impl State {
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Idle => Status::Idle,
            Self::Registering { .. } | Self::Waiting { .. } => Status::Registering,
            Self::Registered(_) => Status::Registered,
            Self::Deregistering { .. } => Status::Deregistering,
        }
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Waiting { until } => Some(*until),
            Self::Registered(registered) if registered.updating.is_none() => registered.update_at,
            _ => None,
        }
    }

    pub(super) fn objects_changed(&mut self) {
        if let Self::Registered(registered) = self {
            registered.wanted.objects = true;
        }
    }

    pub(super) fn update_wanted(&mut self) {
        if let Self::Registered(registered) = self {
            registered.wanted.update = true;
        }
    }

    pub(super) fn disabled(&mut self, time: Duration) {
        if let Self::Registered(registered) = self {
            registered.wanted.disabled_for = Some(time);
        }
    }

    /// Whether the device waits for its server, or is about to.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Registered(registered) => registered.updating.is_some(),
            _ => true,
        }
    }

    fn request(&self) -> Option<RequestId> {
        match self {
            Self::Registering { request } | Self::Deregistering { request, .. } => Some(*request),
            Self::Registered(registered) => registered.updating,
            Self::Idle | Self::Waiting { .. } => None,
        }
    }
}

impl<T: ObjectTree> Client<T> {
    /// Registers with the server, and stays registered. Called again with another address, the server is there from now
    /// on, and observes nothing yet.
    pub fn start(&mut self, now: Instant, server: Peer) {
        self.latest = Some(now);
        if let Some(old) = self.server.replace(server)
            && old != server
        {
            self.coap.forget_peer(old);
            self.end(State::Idle);
        }
        self.register(now);
    }

    /// Starts over as a device does after a power cut: it has forgotten who observes it, and registers anew. Without
    /// effect before [`start`](Self::start).
    pub fn restart(&mut self, now: Instant) {
        let Some(server) = self.server else { return };
        self.latest = Some(now);
        self.coap.forget_peer(server);
        self.forget_sends();
        self.attributes.clear();
        let observers = std::mem::take(&mut self.observers);
        self.events.extend(
            observers
                .into_values()
                .map(|o| Event::ObservationEnded { target: o.target }),
        );
        self.register(now);
    }

    /// Tells the server that the device leaves. [`Event::Deregistered`] follows, whether it answers or not.
    pub fn deregister(&mut self, now: Instant) {
        self.latest = Some(now);
        let location = match &self.state {
            State::Registered(registered) => registered.location.clone(),
            State::Deregistering { .. } => return,
            // The server knows nothing of it yet, or may: its lifetime takes care of that.
            State::Idle | State::Registering { .. } | State::Waiting { .. } => {
                self.end(State::Idle);
                self.events.push_back(Event::Deregistered);
                return;
            }
        };
        if let Some(request) = self.state.request() {
            self.coap.cancel_request(request);
        }
        self.leave(now, location, None);
    }

    fn leave(&mut self, now: Instant, location: Vec<String>, disabled_for: Option<Duration>) {
        match self.ask_server(now, Request::new(Method::Delete, location)) {
            Ok(request) => {
                self.state = State::Deregistering {
                    request,
                    disabled_for,
                }
            }
            Err(_) => self.left(now, disabled_for),
        }
    }

    fn left(&mut self, now: Instant, disabled_for: Option<Duration>) {
        let Some(retry_in) = disabled_for else {
            self.end(State::Idle);
            self.events.push_back(Event::Deregistered);
            return;
        };
        self.end(State::Waiting {
            until: after(now, retry_in),
        });
        self.events.push_back(Event::RegistrationFailed {
            reason: "the server has disabled itself for this device".to_owned(),
            retry_in,
        });
    }

    /// Instances came or went by the device's own doing: the server is told with an update.
    pub fn objects_changed(&mut self, now: Instant) {
        self.latest = Some(now);
        self.state.objects_changed();
        self.after_request(now);
    }

    /// Sends an update now.
    pub fn update(&mut self, now: Instant) {
        self.latest = Some(now);
        self.state.update_wanted();
        self.after_request(now);
    }

    pub(super) fn registration_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Waiting { until } if *until <= now => self.register(now),
            State::Registered(registered)
                if registered.updating.is_none()
                    && registered.update_at.is_some_and(|at| at <= now) =>
            {
                registered.wanted.update = true;
                self.after_request(now);
            }
            _ => {}
        }
    }

    /// Registers anew, if registered.
    pub(super) fn register_again(&mut self, now: Instant) {
        if matches!(self.state, State::Registered(_)) {
            self.register(now);
        }
    }

    /// Sends the update that a request, or the device itself, made necessary.
    pub(super) fn after_request(&mut self, now: Instant) {
        let State::Registered(registered) = &mut self.state else {
            return;
        };
        if registered.updating.is_some() || !registered.wanted.any() {
            return;
        }
        let wanted = std::mem::take(&mut registered.wanted);
        if let Some(time) = wanted.disabled_for {
            let location = registered.location.clone();
            return self.leave(now, location, Some(time));
        }
        let mut request = Request::new(Method::Post, registered.location.clone());
        if wanted.lifetime {
            request
                .query
                .push(format!("lt={}", self.config.lifetime.as_secs()));
        }
        if wanted.objects {
            request.content_format = Some(ContentFormat::Link.id());
            request.payload = format_links(&self.links()).into_bytes().into();
        }
        match self.ask_server(now, request) {
            Ok(id) => {
                if let State::Registered(registered) = &mut self.state {
                    registered.updating = Some(id);
                }
            }
            Err(reason) => self.wait(now, reason),
        }
    }

    /// The server's lifetime resource was written: the registration follows it.
    pub(super) fn state_of_server_object_changed(&mut self, path: &ObjectPath) {
        let Some(instance) = path.instance_id().filter(|_| path.object_id() == Some(1)) else {
            return;
        };
        let Ok(Node::Resource(node)) = self.objects.read(&ObjectPath::Resource(1, instance, 1))
        else {
            return;
        };
        let ResourceContent::Single(Value::Integer(lifetime_s)) = node.content else {
            return;
        };
        // Zero is without end, in LwM2M 1.1.
        let least = u32::from(self.config.version == Version::V1_0);
        let Ok(lifetime_s) = u32::try_from(lifetime_s) else {
            return;
        };
        if lifetime_s < least {
            return;
        }
        let lifetime = Duration::from_secs(lifetime_s.into());
        if lifetime != self.config.lifetime {
            self.config.lifetime = lifetime;
            if let State::Registered(registered) = &mut self.state {
                registered.wanted.lifetime = true;
            }
        }
    }

    fn register(&mut self, now: Instant) {
        if let Some(request) = self.state.request() {
            self.coap.cancel_request(request);
        }
        let mut request = Request::new(Method::Post, ["rd"]);
        request.query = vec![
            format!("ep={}", self.config.endpoint),
            format!("lt={}", self.config.lifetime.as_secs()),
            format!("lwm2m={}", self.config.version),
        ];
        request
            .query
            .extend(self.config.binding.to_queries(self.config.version));
        let attributes = self.config.attributes.iter();
        request
            .query
            .extend(attributes.map(|(name, value)| format!("{name}={value}")));
        request.content_format = Some(ContentFormat::Link.id());
        request.payload = format_links(&self.links()).into_bytes().into();
        match self.ask_server(now, request) {
            Ok(request) => self.state = State::Registering { request },
            Err(reason) => self.wait(now, reason),
        }
    }

    /// The list of objects: all but the security object (TS 1.1 core, section 6.2.1).
    fn links(&self) -> Vec<Link> {
        let root = Link::new("/")
            .with("rt", "oma.lwm2m")
            .with("ct", formats_of(self.config.version));
        let mut links = vec![root];
        for (object, instances) in self
            .objects
            .objects()
            .into_iter()
            .filter(|(object, _)| *object != 0)
        {
            let path = ObjectPath::Object(object);
            if let Some(version) = self.object_version(object) {
                links.push(Link::new(path.to_string()).with("ver", version));
            } else if instances.is_empty() {
                links.push(Link::new(path.to_string()));
            }
            links.extend(
                instances
                    .iter()
                    .map(|id| Link::new(ObjectPath::Instance(object, *id).to_string())),
            );
        }
        links
    }

    pub(super) fn ask_server(
        &mut self,
        now: Instant,
        request: Request,
    ) -> Result<RequestId, String> {
        let Some(server) = self.server else {
            return Err("no server to register with".to_owned());
        };
        let options = RequestOptions {
            timeout: self.config.request_timeout,
            ..RequestOptions::default()
        };
        self.coap
            .send_request(now, server, request, options)
            .map_err(|error| error.to_string())
    }

    pub(super) fn server_answered(&mut self, now: Instant, id: RequestId, response: &Response) {
        if self.state.request() != Some(id) {
            return;
        }
        match &mut self.state {
            State::Registering { .. }
                if response.code == Code::CREATED && !response.location_path.is_empty() =>
            {
                let location = response.location_path.clone();
                self.events.push_back(Event::Registered {
                    location: format!("/{}", location.join("/")),
                });
                self.retry = self.config.retry_first;
                let update_at = self.next_update(now);
                self.state = State::Registered(Registered {
                    location,
                    update_at,
                    updating: None,
                    wanted: Wanted::default(),
                });
            }
            State::Registering { .. } => {
                self.wait_at_least(now, refusal("the registration", response), response.max_age);
            }
            State::Registered(_) if response.code.is_success() => {
                let update_at = self.next_update(now);
                if let State::Registered(registered) = &mut self.state {
                    registered.updating = None;
                    registered.update_at = update_at;
                }
                self.events.push_back(Event::Updated);
                self.after_request(now);
            }
            // The server does not know the registration: register anew, at once.
            State::Registered(_) if response.code == Code::NOT_FOUND => {
                let reason = refusal("the update", response);
                self.events.push_back(Event::RegistrationFailed {
                    reason,
                    retry_in: Duration::ZERO,
                });
                self.register(now);
            }
            State::Registered(_) => self.wait(now, refusal("the update", response)),
            State::Deregistering { disabled_for, .. } => {
                let disabled_for = *disabled_for;
                self.left(now, disabled_for);
            }
            State::Idle | State::Waiting { .. } => {}
        }
    }

    pub(super) fn server_silent(&mut self, now: Instant, id: RequestId, reason: FailureReason) {
        if self.state.request() != Some(id) {
            return;
        }
        if let State::Deregistering { disabled_for, .. } = self.state {
            self.left(now, disabled_for);
        } else {
            self.wait(now, reason.to_string());
        }
    }

    fn wait(&mut self, now: Instant, reason: String) {
        self.wait_at_least(now, reason, None);
    }

    /// Waits before registering anew, longer each time, and not in step with other devices; a server that is too busy
    /// says for how long at least (5.03 with Max-Age, RFC 7252 section 5.9.3.4).
    fn wait_at_least(&mut self, now: Instant, reason: String, max_age_s: Option<u32>) {
        // Three to five quarters of the wait.
        let spread = 0.75 + f64::from(self.rng.next_u32()) / f64::from(u32::MAX) / 2.0;
        let least = Duration::from_secs(max_age_s.unwrap_or(0).into()).min(LONGEST_MAX_AGE);
        let retry_in = self.retry.mul_f64(spread) + least;
        self.retry = self.retry.saturating_mul(2).min(self.config.retry_longest);
        self.state = State::Waiting {
            until: now + retry_in,
        };
        self.events
            .push_back(Event::RegistrationFailed { reason, retry_in });
    }

    fn forget_sends(&mut self) {
        for id in std::mem::take(&mut self.sends) {
            self.coap.cancel_request(id);
            let (handle, reason) = (SendHandle(id), "the device started over".to_owned());
            self.events.push_back(Event::SendFailed { handle, reason });
        }
    }

    fn end(&mut self, state: State) {
        self.forget_sends();
        if let Some(request) = self.state.request() {
            self.coap.cancel_request(request);
        }
        self.state = state;
        let observers = std::mem::take(&mut self.observers);
        self.events.extend(
            observers
                .into_values()
                .map(|o| Event::ObservationEnded { target: o.target }),
        );
    }

    fn next_update(&self, now: Instant) -> Option<Instant> {
        let lifetime = self.config.lifetime;
        let wait = lifetime.saturating_sub(UPDATE_AHEAD).max(lifetime / 2);
        (!lifetime.is_zero()).then(|| after(now, wait))
    }
}

/// Too far away to be represented: a year, then.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait)
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
}

fn refusal(what: &str, response: &Response) -> String {
    let text = String::from_utf8_lossy(&response.payload);
    let shown: String = text.chars().take(200).collect();
    match shown.is_empty() {
        true => format!("the server refused {what} with {}", response.code),
        false => format!("the server refused {what} with {}: {shown}", response.code),
    }
}
