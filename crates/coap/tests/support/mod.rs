//! A network of two endpoints in virtual time: it loses, repeats, delays and so re-orders datagrams, from a seed.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coap::{AckId, Config, Endpoint, Event, ExchangeId, Peer, Request, Response};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

pub(crate) fn peer(side: usize) -> Peer {
    Peer::plain(([10, 0, 0, 1 + side as u8], 5683).into())
}

/// splitmix64: enough to shake a network.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    pub(crate) max_delay_ms: u64,
    /// How long applications take over a response or an acknowledgement, at most.
    pub(crate) max_work_ms: u64,
}

enum Action {
    Deliver(usize, Bytes),
    Respond(usize, ExchangeId, Response),
    Acknowledge(usize, AckId),
    Notify(usize, coap::Token, Response, bool),
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) ends: [Endpoint; 2],
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    agenda: BTreeMap<(Instant, u64), Action>,
    serial: u64,
    /// What happened, to whom.
    pub(crate) events: Vec<(usize, Event)>,
    pub(crate) serve: fn(&Request) -> Response,
    /// Datagrams given to the network.
    pub(crate) sent: usize,
}

impl Net {
    pub(crate) fn new(
        seed: u64,
        weather: Weather,
        config: Config,
        serve: fn(&Request) -> Response,
    ) -> Net {
        let now = Instant::now();
        let end = |side: u8| Endpoint::new(config.clone(), [seed as u8 ^ side; 32]);
        Net {
            now,
            start: now,
            ends: [end(1), end(2)],
            dice: Dice(seed),
            weather,
            agenda: BTreeMap::new(),
            serial: 0,
            events: Vec::new(),
            serve,
            sent: 0,
        }
    }

    fn plan(&mut self, after_ms: u64, action: Action) {
        self.serial += 1;
        self.agenda.insert(
            (self.now + Duration::from_millis(after_ms), self.serial),
            action,
        );
    }

    pub(crate) fn notify_after(
        &mut self,
        after_ms: u64,
        from: usize,
        token: coap::Token,
        response: Response,
        confirmable: bool,
    ) {
        self.plan(after_ms, Action::Notify(from, token, response, confirmable));
    }

    fn flush(&mut self) {
        for side in [A, B] {
            while let Some(transmit) = self.ends[side].poll_transmit() {
                assert_eq!(transmit.to, peer(1 - side));
                self.sent += 1;
                let copies = 1 + u64::from(self.dice.percent(self.weather.duplicate_percent));
                for _ in 0..copies {
                    if !self.dice.percent(self.weather.loss_percent) {
                        let delay = 1 + self.dice.below(self.weather.max_delay_ms);
                        self.plan(delay, Action::Deliver(1 - side, transmit.payload.clone()));
                    }
                }
            }
            while let Some(event) = self.ends[side].poll_event() {
                let work = self.dice.below(self.weather.max_work_ms.max(1));
                match &event {
                    Event::Request {
                        exchange, request, ..
                    } => {
                        let response = (self.serve)(request);
                        self.plan(work, Action::Respond(side, *exchange, response));
                    }
                    Event::Notification { ack: Some(ack), .. } => {
                        self.plan(work, Action::Acknowledge(side, *ack));
                    }
                    _ => {}
                }
                self.events.push((side, event));
            }
        }
    }

    /// Runs until nothing is under way but the clearing up, or the time is over.
    pub(crate) fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            self.flush();
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let timeout = self.ends.iter().filter_map(Endpoint::next_timeout).min();
            let Some(next) = planned.into_iter().chain(timeout).min() else {
                return;
            };
            if next > end {
                return;
            }
            self.now = self.now.max(next);
            let now = self.now;
            while let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= now
            {
                match entry.remove() {
                    Action::Deliver(to, bytes) => {
                        self.ends[to].handle_datagram(now, peer(1 - to), &bytes)
                    }
                    Action::Respond(side, exchange, response) => {
                        self.ends[side].respond(now, exchange, response)
                    }
                    Action::Acknowledge(side, ack) => self.ends[side].acknowledge(now, ack),
                    Action::Notify(side, token, response, confirmable) => {
                        self.ends[side].notify(now, peer(1 - side), token, response, confirmable);
                    }
                }
            }
            for end in &mut self.ends {
                if end.next_timeout().is_some_and(|at| at <= now) {
                    end.handle_timeout(now);
                }
            }
        }
    }
}

pub(crate) mod text;

/// One endpoint and one peer that does as the story says.
pub(crate) struct Story {
    pub(crate) endpoint: Endpoint,
    pub(crate) now: Instant,
    names: text::Names,
}

impl Story {
    pub(crate) fn new(config: Config) -> Story {
        Story {
            endpoint: Endpoint::new(config, [42; 32]),
            now: Instant::now(),
            names: text::Names::default(),
        }
    }

    /// The peer sends a message; what the endpoint sends at once.
    pub(crate) fn peer_sends(&mut self, line: &str) -> Vec<String> {
        let bytes = self.names.read(line);
        self.peer_sends_bytes(&bytes)
    }

    pub(crate) fn peer_sends_bytes(&mut self, bytes: &[u8]) -> Vec<String> {
        self.endpoint.handle_datagram(self.now, peer(B), bytes);
        self.sent()
    }

    /// What the endpoint has to send.
    pub(crate) fn sent(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            assert_eq!(transmit.to, peer(B));
            lines.push(self.names.show(&transmit.payload));
        }
        lines
    }

    /// Time passes; what the endpoint sends meanwhile.
    pub(crate) fn after(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        while let Some(at) = self.endpoint.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
        }
        self.now = end;
        self.sent()
    }

    pub(crate) fn event(&mut self) -> Option<Event> {
        self.endpoint.poll_event()
    }

    /// The endpoint is asked; it must have been.
    pub(crate) fn asked(&mut self) -> (ExchangeId, coap::Token, Request) {
        match self.event() {
            Some(Event::Request {
                exchange,
                token,
                request,
                ..
            }) => (exchange, token, request),
            other => panic!("no request: {other:?}"),
        }
    }

    pub(crate) fn respond(&mut self, exchange: ExchangeId, response: Response) -> Vec<String> {
        self.endpoint.respond(self.now, exchange, response);
        self.sent()
    }

    pub(crate) fn request(
        &mut self,
        request: Request,
        options: coap::RequestOptions,
    ) -> (coap::RequestId, Vec<String>) {
        let id = self
            .endpoint
            .send_request(self.now, peer(B), request, options)
            .expect("room for a request");
        (id, self.sent())
    }

    /// The answer to a request; it must have come.
    pub(crate) fn answer(&mut self) -> Response {
        match self.event() {
            Some(Event::Response { response, .. }) => response,
            other => panic!("no response: {other:?}"),
        }
    }

    pub(crate) fn notified(&mut self) -> (Response, Option<AckId>) {
        match self.event() {
            Some(Event::Notification { response, ack, .. }) => (response, ack),
            other => panic!("no notification: {other:?}"),
        }
    }
}

pub(crate) fn content(payload: impl Into<Bytes>) -> Response {
    Response {
        payload: payload.into(),
        ..Response::new(coap::Code::CONTENT)
    }
}
