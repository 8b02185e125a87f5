//! The endpoint: one door for both roles. A datagram goes to the outbox (ACK, RST), to the server's half (requests) or to
//! the client's (responses, notifications).

mod client;
mod dedup;
mod outbox;
mod server;
mod timers;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::block::{Bodies, Szx};
use crate::message::{self, Malformed, Message, Type};
use crate::scratch::Scratch;
use crate::{
    AckId, Config, Event, ExchangeId, FailureReason, Peer, RequestId, Stats, Token, Transmit,
};
use client::Pending;
use dedup::{Dedup, Reply, Verdict};
use outbox::{Outgoing, PeerState, What};
use server::{Exchange, Observer, Partial, Served};
use timers::{Timer, Timers, later};
use watch::Watch;

/// How often what has outlived its time is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A CoAP endpoint, client and server in one.
///
/// After each call that takes `&mut self` the caller drains [`Endpoint::poll_transmit`] and [`Endpoint::poll_event`]: these
/// two queues are bounded by that. Everything a peer can make grow is bounded by [`Config`].
///
/// Deliberately absent: caching, proxying, multicast, and `Uri-Host` (an endpoint serves one name).
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    rng: ChaCha12Rng,
    stats: Stats,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    timers: Timers,
    sweep_armed: bool,
    /// The latest time anyone told.
    latest: Option<Instant>,
    /// Source of the numbers in `RequestId` and `ExchangeId`.
    serial: u64,
    scratch: Scratch,

    dedup: Dedup,
    peers: HashMap<Peer, PeerState>,
    /// An exchange of ours has ended: NSTART may let the next one go.
    freed: bool,
    peer_order: VecDeque<(Instant, Peer)>,
    /// Ordered, since what is on the way to one peer is looked for together.
    outgoing: BTreeMap<(Peer, u16), Outgoing>,
    outgoing_serial: u64,
    non_confirmable: VecDeque<(Instant, Peer, u16, u64)>,

    requests: HashMap<RequestId, Pending>,
    by_token: HashMap<(Peer, Token), RequestId>,
    watches: HashMap<(Peer, Token), Watch>,

    exchanges: HashMap<ExchangeId, Exchange>,
    observers: BTreeMap<(Peer, Token), Observer>,
    partial: Bodies<Partial>,
    served: Bodies<Served>,
}

impl Endpoint {
    /// An endpoint that has met nobody. The seed makes tokens and message ids: it must come from a secure source,
    /// and must not be used twice (RFC 7252 section 11.4).
    pub fn new(config: Config, seed: [u8; 32]) -> Endpoint {
        let bodies = (
            config.max_bodies,
            config.max_bodies_bytes,
            config.exchange_lifetime(),
        );
        Endpoint {
            rng: ChaCha12Rng::from_seed(seed),
            stats: Stats::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            timers: Timers::default(),
            sweep_armed: false,
            latest: None,
            serial: 0,
            scratch: Scratch::new(),
            freed: false,
            dedup: Dedup::new(&config),
            peers: HashMap::new(),
            peer_order: VecDeque::new(),
            outgoing: BTreeMap::new(),
            outgoing_serial: 0,
            non_confirmable: VecDeque::new(),
            requests: HashMap::new(),
            by_token: HashMap::new(),
            watches: HashMap::new(),
            exchanges: HashMap::new(),
            observers: BTreeMap::new(),
            partial: Bodies::new(bodies.0, bodies.1, bodies.2),
            served: Bodies::new(bodies.0, bodies.1, bodies.2),
            config,
        }
    }

    /// Takes in a datagram. Whatever it holds, the outcome is a transmit, an event or a count.
    pub fn handle_datagram(&mut self, now: Instant, from: Peer, datagram: &[u8]) {
        self.latest = Some(now);
        self.stats.datagrams += 1;
        if self.events.is_empty() && self.transmits.is_empty() {
            self.scratch.renew();
        }
        match Message::parse(datagram) {
            Ok(message) => self.handle_message(now, from, &message),
            Err(malformed) => {
                self.stats.malformed += 1;
                if let Malformed::Format(Type::Confirmable, id) = malformed {
                    self.reset(from, id);
                }
            }
        }
        if std::mem::take(&mut self.freed) {
            self.pump(now, from);
        }
    }

    /// Does what is due. To be called at [`Endpoint::next_timeout`]; earlier or later is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.latest = Some(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Retransmit(peer, id) => self.retransmit(now, peer, id),
                Timer::Request(id) => {
                    let pending = self.requests.get(&id);
                    let peer = pending.map(|pending| pending.to);
                    let reason = match pending.map(|pending| pending.sent) {
                        Some(client::Sent::Acknowledged) => FailureReason::Unanswered,
                        _ => FailureReason::Timeout,
                    };
                    self.fail_request(id, reason);
                    if let Some(peer) = peer {
                        self.pump(now, peer);
                    }
                }
                Timer::Exchange(id) => self.exchange_due(now, id),
                Timer::Sweep => self.sweep(now),
            }
        }
    }

    /// When [`Endpoint::handle_timeout`] is to be called; `None` while nothing is waited for.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        Stats {
            dedup_evicted: self.dedup.evicted(),
            ..self.stats
        }
    }

    /// Forgets requests to a peer (no event follows), what is on the way to it, its observations in both directions. What
    /// protects against duplicates stays for its time, so a peer that comes back is not served an old message twice.
    /// Looks through the requests and observations of all peers: made for an endpoint with a few.
    pub fn forget_peer(&mut self, peer: Peer) {
        self.forget_outgoing(peer);
        let requests: Vec<RequestId> = self
            .by_token
            .iter()
            .filter(|((to, _), _)| *to == peer)
            .map(|(_, id)| *id)
            .collect();
        for id in requests {
            self.remove_request(id);
        }
        self.watches.retain(|(from, _), _| *from != peer);
        self.observers.retain(|(to, _), _| *to != peer);
    }

    fn handle_message(&mut self, now: Instant, from: Peer, message: &Message<'_>) {
        let (id, code) = (message.id, message.code);
        match message.kind {
            Type::Confirmable | Type::NonConfirmable => {
                let confirmable = message.kind == Type::Confirmable;
                if !(code.is_response() || code.class() == 0 && code != crate::Code::EMPTY) {
                    // An empty CON is a ping, and the reserved classes are a format error: both are rejected (sections 4.2, 4.3).
                    self.stats.malformed += u64::from(code != crate::Code::EMPTY);
                    if confirmable {
                        self.reset(from, id);
                    }
                    return;
                }
                match self.dedup.check(now, from, id, confirmable) {
                    Verdict::Duplicate { reply } => {
                        self.stats.duplicates += 1;
                        let payload = match reply {
                            Reply::Nothing => return,
                            Reply::Empty(kind) => {
                                self.scratch.copy(&message::encode_empty(kind, id))
                            }
                            Reply::Message(bytes) => self.scratch.copy(bytes),
                        };
                        self.transmit(from, payload);
                    }
                    Verdict::New { serial } => {
                        self.arm_sweep(now);
                        if code.is_response() {
                            let ack = confirmable.then_some(AckId {
                                peer: from,
                                message_id: id,
                                serial,
                            });
                            self.handle_response(now, from, message, ack);
                        } else {
                            self.handle_request(now, from, message);
                        }
                    }
                }
            }
            Type::Acknowledgement => {
                if code.is_response() {
                    self.handle_piggybacked(now, from, message);
                } else if code != crate::Code::EMPTY {
                    self.stats.malformed += 1;
                } else {
                    match self.take_outgoing(from, id) {
                        Some(What::Request(request)) => self.request_acknowledged(now, request),
                        Some(What::Response | What::Notification(_)) => {}
                        None => self.stats.unmatched += 1,
                    }
                }
            }
            Type::Reset => {
                if code != crate::Code::EMPTY {
                    self.stats.malformed += 1;
                    return;
                }
                let what = self.take_outgoing(from, id);
                match what {
                    Some(_) => self.stats.resets_received += 1,
                    None => self.stats.unmatched += 1,
                }
                match what {
                    Some(What::Request(request)) => {
                        self.fail_request(request, FailureReason::Reset)
                    }
                    Some(What::Notification(token)) => self.reject_notification(from, token),
                    Some(What::Response) | None => {}
                }
            }
        }
    }

    /// Answers a message with RST, without remembering it: the same message gets the same answer anyway.
    fn reset(&mut self, to: Peer, id: u16) {
        self.stats.resets_sent += 1;
        self.transmit_empty(to, id, Type::Reset);
    }

    /// Answers a message that is remembered.
    fn reply(&mut self, to: Peer, id: u16, reply: Vec<u8>) {
        let payload = self.scratch.copy(&reply);
        self.dedup.set_reply(to, id, Reply::Message(&reply));
        self.transmit(to, payload);
    }

    fn reply_empty(&mut self, to: Peer, id: u16, kind: Type) {
        self.stats.resets_sent += u64::from(kind == Type::Reset);
        self.dedup.set_reply(to, id, Reply::Empty(kind));
        self.transmit_empty(to, id, kind);
    }

    fn transmit_empty(&mut self, to: Peer, id: u16, kind: Type) {
        let payload = self.scratch.copy(&message::encode_empty(kind, id));
        self.transmit(to, payload);
    }

    fn block_size(&self) -> Szx {
        Szx::fitting(self.config.block_size)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A token that no request to this peer and no observation of it has.
    fn fresh_token(&mut self, peer: Peer) -> Token {
        loop {
            let token = Token::from_u64(self.rng.next_u64());
            if !self.by_token.contains_key(&(peer, token))
                && !self.watches.contains_key(&(peer, token))
            {
                return token;
            }
        }
    }

    fn arm_sweep(&mut self, now: Instant) {
        if !self.sweep_armed {
            self.sweep_armed = true;
            self.timers.arm(later(now, SWEEP_INTERVAL), Timer::Sweep);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_armed = false;
        self.dedup.expire(now);
        self.dedup.tidy();
        self.partial.expire(now);
        self.served.expire(now);
        self.sweep_outbox(now);
        let idle = self.dedup.is_empty()
            && self.partial.is_empty()
            && self.served.is_empty()
            && self.peers.is_empty()
            && self.non_confirmable.is_empty();
        if !idle {
            self.arm_sweep(now);
        }
    }
}
