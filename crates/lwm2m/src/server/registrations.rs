//! Registrations: their begin, their updates, their end (TS 1.1 core, section 6.2).

use std::sync::Arc;
use std::time::Duration;

use chacha20::rand_core::Rng as _;
use coap::{Code, ExchangeId, Method, Peer, Request, Response, Token};
use lwm2m_codec::{Below, ContentFormat};
use lwm2m_model::ObjectPath;

use super::register::{Refusal, Register, Update};
use super::send::NOT_ADMITTED;
use super::{Event, Server};
use crate::operation::is_senml;
use crate::registration::root_path;
use crate::{
    Now, Observation, ObservationState, Registration, RegistrationUpdate, RequestFailure, Target,
};

/// The answer to a device's request, and whose lane may have something to send after it.
pub(super) struct Answer {
    /// `None`: it comes later, with the host's acknowledgement.
    pub(super) response: Option<Response>,
    pub(super) then_serve: Option<Arc<str>>,
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        refusal.into_response().into()
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            response: Some(response),
            then_serve: None,
        }
    }
}

/// `/.well-known/core` of a server (RFC 6690): where to register.
const WELL_KNOWN: &str = "</rd>;rt=\"core.rd\"";

/// Registrations that end in one turn: after an outage of a server all of them may be over at the same time.
const EXPIRIES_PER_TURN: usize = 1_000;

impl Server {
    pub(super) fn answer(
        &mut self,
        now: Now,
        from: Peer,
        exchange: ExchangeId,
        request: &Request,
    ) -> Answer {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let answer = match (path.as_slice(), request.method) {
            (["dp"], Method::Post) => return self.send(now, from, exchange, request),
            (["rd"], Method::Post) => self.register(now, from, request),
            (["rd", id], Method::Post | Method::Put) => self.update(now, from, id, request),
            (["rd", id], Method::Delete) => self.deregister(from, id),
            (["rd"] | ["rd", _] | ["dp"], _) => {
                self.stats.unknown_requests += 1;
                return Response::new(Code::METHOD_NOT_ALLOWED).into();
            }
            ([".well-known", "core"], Method::Get) => {
                let content_format = Some(ContentFormat::Link.id());
                let payload = WELL_KNOWN.as_bytes().into();
                return Response {
                    content_format,
                    payload,
                    ..Response::new(Code::CONTENT)
                }
                .into();
            }
            _ => {
                self.stats.unknown_requests += 1;
                return Response::new(Code::NOT_FOUND).into();
            }
        };
        answer.unwrap_or_else(|refusal| {
            if refusal.code == Code::SERVICE_UNAVAILABLE {
                self.stats.registrations_over_limit += 1;
            } else {
                self.stats.registrations_refused += 1;
            }
            refusal.into()
        })
    }

    fn register(&mut self, now: Now, from: Peer, request: &Request) -> Result<Answer, Refusal> {
        if let Some(retry_after) = self.overloaded {
            return Err(Refusal::busy(retry_after, "this server is busy"));
        }
        let register = Register::parse(request, &self.config)?;
        if !self.is_admitted(from, &register.endpoint) {
            return Err(Refusal::new(Code::FORBIDDEN, NOT_ADMITTED));
        }
        let known = self.registration(&register.endpoint).is_some();
        if !known && self.registered >= self.config.max_registrations {
            return Err(Refusal::busy(
                self.config.retry_after,
                "this server has as many devices as it takes",
            ));
        }
        let registration = Arc::new(Registration {
            registration_id: self.new_registration_id(),
            peer: from,
            registered_at_unix_ms: now.unix_ms,
            last_update_unix_ms: now.unix_ms,
            lifetime: register.lifetime,
            version: register.version,
            binding: register.binding,
            sms: register.sms,
            root_path: root_path(&register.links),
            links: self.links.share(register.links),
            attributes: register.attributes,
            endpoint: register.endpoint,
        });
        let endpoint: Arc<str> = registration.endpoint.as_str().into();
        let replaced = self.registration(&endpoint).cloned();
        if let Some(old) = &replaced {
            self.by_registration_id.remove(&old.registration_id);
            self.drop_in_flight_of_replaced(&endpoint, old.peer == from);
        }
        self.install(now, &endpoint, Arc::clone(&registration));
        if let Some(device) = self.devices.get(&endpoint) {
            for kept in device.observations.values() {
                watch_afresh(&mut self.coap, from, &registration, &kept.observation);
            }
        }
        let location_path = vec!["rd".to_owned(), registration.registration_id.clone()];
        self.events.push_back(Event::Registered {
            registration,
            replaced,
        });
        self.establish_all(now, &endpoint, |_| true);
        self.heard(now, &endpoint);
        let response = Response {
            location_path,
            ..Response::new(Code::CREATED)
        };
        Ok(Answer {
            response: Some(response),
            then_serve: Some(endpoint),
        })
    }

    fn update(
        &mut self,
        now: Now,
        from: Peer,
        id: &str,
        request: &Request,
    ) -> Result<Answer, Refusal> {
        let Some(endpoint) = self.by_registration_id.get(id).cloned() else {
            return Err(Refusal::new(
                Code::NOT_FOUND,
                "no such registration: register anew",
            ));
        };
        if !self.is_admitted(from, &endpoint) {
            return Err(Refusal::new(Code::FORBIDDEN, NOT_ADMITTED));
        }
        let Some(previous) = self.registration(&endpoint).cloned() else {
            return Err(Refusal::new(
                Code::NOT_FOUND,
                "no such registration: register anew",
            ));
        };
        let mut update = Update::parse(request, previous.version, &self.config)?;
        let mut registration = Registration::clone(&previous);
        registration.peer = from;
        registration.last_update_unix_ms = now.unix_ms;
        if let Some(lifetime) = update.lifetime {
            registration.lifetime = lifetime;
        }
        if let Some(binding) = &update.binding {
            registration.binding = binding.clone();
        }
        if let Some(sms) = &update.sms {
            registration.sms = Some(sms.clone());
        }
        if let Some(links) = update.links.take() {
            registration.root_path = root_path(&links);
            registration.links = self.links.share(links);
            update.links = Some(Arc::clone(&registration.links));
        }
        for (name, value) in &update.attributes {
            let room = registration.attributes.len() < self.config.max_attributes;
            if room || registration.attributes.contains_key(name) {
                registration.attributes.insert(name.clone(), value.clone());
            }
        }
        let registration = Arc::new(registration);
        self.install(now, &endpoint, Arc::clone(&registration));
        let new_objects = update.links.is_some();
        let update = RegistrationUpdate {
            registration_id: registration.registration_id.clone(),
            endpoint: registration.endpoint.clone(),
            peer: from,
            at_unix_ms: now.unix_ms,
            lifetime: update.lifetime,
            sms: update.sms,
            binding: update.binding,
            links: update.links,
            attributes: update.attributes,
        };
        self.events.push_back(Event::Updated {
            registration,
            previous,
            update,
        });
        // A sign of life: what was lost is asked for again. What the device refused, only when its objects changed.
        self.establish_all(now, &endpoint, |kept| {
            kept.state == ObservationState::Dormant && (new_objects || !kept.refused)
        });
        self.heard(now, &endpoint);
        Ok(Answer {
            response: Some(Response::new(Code::CHANGED)),
            then_serve: Some(endpoint),
        })
    }

    fn deregister(&mut self, from: Peer, id: &str) -> Result<Answer, Refusal> {
        let Some(endpoint) = self.by_registration_id.get(id).cloned() else {
            return Err(Refusal::new(Code::NOT_FOUND, "no such registration"));
        };
        if !self.is_admitted(from, &endpoint) {
            return Err(Refusal::new(Code::FORBIDDEN, NOT_ADMITTED));
        }
        self.end_registration(&endpoint, false);
        Ok(Response::new(Code::DELETED).into())
    }

    /// Puts a registration in its place: timers, indexes, and where its observations come from.
    fn install(&mut self, now: Now, endpoint: &Arc<str>, registration: Arc<Registration>) {
        let silent_ms = now.unix_ms.saturating_sub(registration.last_update_unix_ms);
        let silent = Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0));
        let lifetime = registration.lifetime;
        let left = (lifetime + self.config.lifetime_grace).saturating_sub(silent);
        let device = self.devices.entry(Arc::clone(endpoint)).or_default();
        if let Some(at) = device.expires.take() {
            self.expiries.remove(&(at, Arc::clone(endpoint)));
        }
        // A lifetime of 0 is without end (the Server object's resource 1 in LwM2M 1.1), and an instant too far away to be
        // represented never comes.
        let ends = !lifetime.is_zero();
        device.expires = ends.then(|| now.instant.checked_add(left)).flatten();
        if let Some(at) = device.expires {
            self.expiries.insert((at, Arc::clone(endpoint)));
        }
        if let Some(departure) = device.dormant_since.take() {
            self.dormant.remove(&departure);
        }
        let peer = registration.peer;
        self.by_registration_id
            .insert(registration.registration_id.clone(), Arc::clone(endpoint));
        self.by_peer.insert(peer, Arc::clone(endpoint));
        if let Some(moved) = device.moved_to.take().filter(|moved| *moved != peer)
            && self.by_peer.get(&moved) == Some(endpoint)
        {
            self.by_peer.remove(&moved);
        }
        match device.registration.replace(registration) {
            None => self.registered += 1,
            // Whoever was where it came from without security has shown nothing: what comes from there counts no more.
            Some(old) if old.peer.session == 0 && peer.session != 0 => {
                let before = [Some(old.peer), device.other_peer.take()];
                for before in before.into_iter().flatten().filter(|one| *one != peer) {
                    if self.by_peer.get(&before) == Some(endpoint) {
                        self.by_peer.remove(&before);
                    }
                    for kept in device.observations.values() {
                        self.coap.unwatch(before, kept.observation.token);
                    }
                }
            }
            Some(old) if old.peer != peer => {
                if self.by_peer.get(&old.peer) == Some(endpoint) {
                    self.by_peer.remove(&old.peer);
                }
                // Datagrams sent before the change may still come from the old address: keep it, but only one.
                if let Some(older) = device.other_peer.replace(old.peer)
                    && older != peer
                {
                    for kept in device.observations.values() {
                        self.coap.unwatch(older, kept.observation.token);
                    }
                }
            }
            Some(_) => {}
        }
        if device.other_peer == Some(peer) {
            device.other_peer = None;
        }
        let Some(registration) = device.registration.clone() else {
            return;
        };
        for kept in device.observations.values() {
            watch(&mut self.coap, peer, &registration, &kept.observation);
        }
    }

    /// A notification of a device comes from an address that is not its registration's: a NAT on the way has given it
    /// another one, and the device itself does not know. It has shown a token of 64 random bits, so its notifications
    /// are taken; requests go on to the old address until it updates. A DTLS session that goes on from another address
    /// keeps its number, and a new session, as every device has one after a restart of this server, is taken if it may
    /// speak for the endpoint ([`Server::set_admission`]): then requests go there too, since the old session is no more.
    pub(super) fn follow_stray(&mut self, from: Peer, datagram: &[u8]) {
        let Some(token) = notification_token(datagram) else {
            return;
        };
        // Mostly it comes from where it is looked for.
        if self.coap.is_watched(from, token) {
            return;
        }
        let Some((endpoint, _)) = self.by_token.get(&token) else {
            return;
        };
        let Some(registration) = self.registration(endpoint) else {
            return;
        };
        let (endpoint, is_same_session) = (
            Arc::clone(endpoint),
            registration.peer.session == from.session,
        );
        if !is_same_session {
            let is_known = from.session != 0 && self.admits.is_some();
            if !is_known || !self.is_admitted(from, &endpoint) {
                return;
            }
        }
        let Some(device) = self.devices.get_mut(&endpoint) else {
            return;
        };
        let Some(registration) = &device.registration else {
            return;
        };
        if registration.peer == from || device.other_peer == Some(from) {
            return;
        }
        let older = device.other_peer.replace(from);
        if !is_same_session {
            device.moved_to = Some(from);
            self.by_peer.insert(from, Arc::clone(&endpoint));
        }
        if let Some(older) = older
            && self.by_peer.get(&older) == Some(&endpoint)
        {
            self.by_peer.remove(&older);
        }
        for kept in device.observations.values() {
            if let Some(older) = older {
                self.coap.unwatch(older, kept.observation.token);
            }
            watch(&mut self.coap, from, registration, &kept.observation);
        }
    }

    /// Ends what is over, as much as one turn of the driver takes; the next timeout is at once if there is more.
    pub(super) fn expire_registrations(&mut self, now: Now) {
        for _ in 0..EXPIRIES_PER_TURN {
            match self.expiries.first().cloned() {
                Some((at, endpoint)) if at <= now.instant => self.end_registration(&endpoint, true),
                _ => return,
            }
        }
    }

    fn end_registration(&mut self, endpoint: &Arc<str>, expired: bool) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        if let Some(at) = device.expires.take() {
            self.expiries.remove(&(at, Arc::clone(endpoint)));
        }
        let Some(registration) = device.registration.take() else {
            return;
        };
        self.registered -= 1;
        self.by_registration_id
            .remove(&registration.registration_id);
        device.moved_to = None;
        let peers = [Some(registration.peer), device.other_peer.take()];
        for peer in peers.iter().flatten() {
            if self.by_peer.get(peer) == Some(endpoint) {
                self.by_peer.remove(peer);
            }
        }
        for kept in device.observations.values_mut() {
            kept.state = ObservationState::Dormant;
            kept.refused = false;
            for peer in peers.into_iter().flatten() {
                self.coap.unwatch(peer, kept.observation.token);
            }
        }
        self.events.push_back(Event::Deregistered {
            registration,
            expired,
        });
        self.forget_presence(endpoint);
        self.clear_lane(endpoint, |sent| RequestFailure::Gone { sent });
        self.retire(endpoint);
    }

    /// Asks anew whether an endpoint may be registered without security, if it is, and ends its registration where it may
    /// not: for when the answer of [`set_admission`](Self::set_admission) is another than it was. `true` where it ended.
    pub fn readmit(&mut self, endpoint: &str) -> bool {
        let Some((name, device)) = self.devices.get_key_value(endpoint) else {
            return false;
        };
        let plain = device.registration.as_ref().map(|known| known.peer);
        let (name, plain) = (
            Arc::clone(name),
            plain.filter(|peer| peer.session == 0 && self.admits.is_some()),
        );
        match plain {
            Some(peer) if !self.is_admitted(peer, &name) => {
                self.end_registration(&name, false);
                true
            }
            _ => false,
        }
    }

    /// [`Server::readmit`] for every endpoint.
    pub fn readmit_all(&mut self) {
        let mut all: Vec<Arc<str>> = self.devices.keys().map(Arc::clone).collect();
        // In one order, whatever the table's.
        all.sort_unstable();
        for endpoint in all {
            self.readmit(&endpoint);
        }
    }

    /// What becomes of a device without a registration: gone, or its observations wait for its return.
    pub(super) fn retire(&mut self, endpoint: &Arc<str>) {
        let departure = self.next_serial();
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        if device.registration.is_some() {
            return;
        }
        if device.observations.is_empty() {
            if let Some(departure) = device.dormant_since {
                self.dormant.remove(&departure);
            }
            self.devices.remove(endpoint);
            return;
        }
        if device.dormant_since.is_none() {
            device.dormant_since = Some(departure);
            self.dormant.insert(departure, Arc::clone(endpoint));
        }
        while self.dormant.len() > self.config.max_dormant_devices
            && let Some((_, first)) = self.dormant.pop_first()
        {
            self.evict(&first);
        }
    }

    fn new_registration_id(&mut self) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        loop {
            // Ten characters of six bits: too many ids to guess another device's.
            let bits = self.rng.next_u64();
            let letter = |n: u32| LETTERS[(bits >> (6 * n) & 63) as usize];
            let id: String = (0..10).map(letter).map(char::from).collect();
            if !self.by_registration_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// Takes up what a store kept. Call it once, before anything else, with what the last run left.
    ///
    /// A registration goes on with the lifetime it has left; one whose time was over meanwhile ends with
    /// [`Event::Deregistered`] at the first [`handle_timeout`](Self::handle_timeout). Notifications of the observations
    /// are accepted at once. Those that the registration they stand under did not confirm yet are asked for again.
    /// A registration without security ends if [`set_admission`](Self::set_admission), to be called before, says so.
    pub fn restore(
        &mut self,
        now: Now,
        registrations: impl IntoIterator<Item = Registration>,
        observations: impl IntoIterator<Item = Observation>,
    ) {
        for observation in observations {
            self.keep_restored(observation);
        }
        let mut endpoints = Vec::new();
        for mut registration in registrations {
            let endpoint: Arc<str> = registration.endpoint.as_str().into();
            registration.links = self.links.share(registration.links);
            self.install(now, &endpoint, Arc::new(registration));
            self.restore_presence(now, &endpoint);
            endpoints.push(endpoint);
        }
        for endpoint in endpoints {
            if self.readmit(&endpoint) {
                continue;
            }
            let Some(current) = self
                .registration(&endpoint)
                .map(|r| r.registration_id.clone())
            else {
                continue;
            };
            if let Some(device) = self.devices.get_mut(&endpoint) {
                for kept in device.observations.values_mut() {
                    if kept.observation.registration_id == current {
                        kept.state = ObservationState::Active;
                    }
                }
            }
            self.establish_all(now, &endpoint, |kept| {
                kept.state != ObservationState::Active
            });
            self.pump(now, &endpoint);
        }
        let mut gone: Vec<Arc<str>> = self
            .devices
            .iter()
            .filter(|(_, d)| d.registration.is_none())
            .map(|(name, _)| Arc::clone(name))
            .collect();
        // In one order, whatever the table's: who went first gives way first.
        gone.sort_unstable();
        for endpoint in gone {
            self.retire(&endpoint);
        }
    }
}

/// The request that starts an observation: GET, or FETCH with the list of paths.
pub(super) fn observe_request(registration: &Registration, observation: &Observation) -> Request {
    let accept = observation.content_format;
    match &observation.target {
        Target::Path(path) => Request {
            accept: accept.or(Some(ContentFormat::Tlv.id())),
            observe: Some(0),
            ..Request::new(Method::Get, registration.uri_path(path))
        },
        Target::Paths(paths) => {
            let format = accept
                .and_then(ContentFormat::from_id)
                .filter(|format| is_senml(*format))
                .unwrap_or(ContentFormat::SenmlCbor);
            Request {
                content_format: Some(format.id()),
                accept: Some(format.id()),
                observe: Some(0),
                // A format of SenML carries any list.
                payload: Below(&registration.root_path)
                    .encode_paths(paths, format)
                    .unwrap_or_default()
                    .into(),
                ..Request::new(Method::Fetch, registration.uri_path(&ObjectPath::Root))
            }
        }
    }
}

/// Takes notifications of an observation from a peer. What was seen of it from there stays known.
pub(super) fn watch(
    coap: &mut coap::Endpoint,
    peer: Peer,
    registration: &Registration,
    observation: &Observation,
) {
    let request = observe_request(registration, observation);
    coap.watch_request(peer, observation.token, request);
}

/// The same, from a device that may have begun to count its notifications anew (RFC 7641 section 3.4).
pub(super) fn watch_afresh(
    coap: &mut coap::Endpoint,
    peer: Peer,
    registration: &Registration,
    observation: &Observation,
) {
    coap.unwatch(peer, observation.token);
    watch(coap, peer, registration, observation);
}

/// The token of a datagram that may be a notification with one of our tokens: version 1, CON or NON, eight bytes of
/// token, a response's code.
///
/// ```text
/// |0 1|T T|TKL=8| 2.xx … 5.xx | message id | token, 8 bytes …
/// ```
fn notification_token(datagram: &[u8]) -> Option<Token> {
    let [first, code, _, _, rest @ ..] = datagram else {
        return None;
    };
    let confirmable_or_not = *first & 0b1110_1111 == 0b0100_1000;
    if !confirmable_or_not || *code < Code::CREATED.0 {
        return None;
    }
    Token::new(rest.get(..Token::MAX_LEN)?).ok()
}
