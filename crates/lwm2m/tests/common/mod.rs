//! A server and devices on a network in virtual time: seeded loss, duplicates and delays, and no real clock.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]
#![allow(
    clippy::wrong_self_convention,
    reason = "from_device says where a request comes from"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coap::{Code, Method, Peer, Request, Response};
use lwm2m::client::{Client, ClientConfig, InMemoryTree};
use lwm2m::server::{Event, RequestHandle, RequestOptions, Server, ServerConfig};
use lwm2m::{Body, DeviceResponse, Now, Observation, ObservationState, Operation, RequestFailure};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceContent, ResourceNode, Value, ValueType};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

pub const SERVER: Peer = Peer {
    addr: SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        5683,
    ),
    session: 0,
};
const UNIX_START_MS: i64 = 1_700_000_000_000;

pub static MODELS: LazyLock<Arc<Registry>> = LazyLock::new(|| Arc::new(Registry::oma()));

pub fn device_peer(number: u8) -> Peer {
    Peer::plain(SocketAddr::from(([198, 51, 100, number], 40_000)))
}

pub fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

/// Objects 0, 1, 3, 6 and two instances of 3303.
pub fn tree() -> InMemoryTree {
    let mut tree = InMemoryTree::new(Arc::clone(&MODELS));
    let string = |id, text: &str| ResourceNode::single(id, Value::String(text.to_owned()));
    tree.add_instance(
        0,
        0,
        [
            string(0, "coap://192.0.2.1"),
            ResourceNode::single(1, Value::Boolean(false)),
            ResourceNode::single(2, Value::Integer(3)),
            ResourceNode::single(3, Value::Opaque(vec![])),
            ResourceNode::single(4, Value::Opaque(vec![])),
            ResourceNode::single(5, Value::Opaque(b"secret".to_vec())),
        ],
    )
    .unwrap();
    tree.add_instance(
        1,
        0,
        [
            ResourceNode::single(0, Value::Integer(1)),
            ResourceNode::single(1, Value::Integer(300)),
            ResourceNode::single(6, Value::Boolean(true)),
            string(7, "U"),
        ],
    )
    .unwrap();
    tree.add_instance(
        3,
        0,
        [
            string(0, "zeelos"),
            string(1, "test device"),
            ResourceNode::multiple(
                6,
                ValueType::Integer,
                [(0, Value::Integer(1)), (1, Value::Integer(5))],
            ),
            ResourceNode::multiple(11, ValueType::Integer, [(0, Value::Integer(0))]),
            ResourceNode::single(13, Value::Time(1_700_000_000)),
            string(14, "+00:00"),
            string(15, "UTC"),
            string(16, "U"),
        ],
    )
    .unwrap();
    for instance in 0..2 {
        let values = [
            ResourceNode::single(5700, Value::Float(20.0)),
            string(5701, "Cel"),
            ResourceNode::single(5601, Value::Float(20.0)),
            ResourceNode::single(5602, Value::Float(20.0)),
        ];
        tree.add_instance(3303, instance, values).unwrap();
        tree.allow_execute(&ObjectPath::Resource(3303, instance, 5605))
            .unwrap();
    }
    tree
}

pub fn client_config(endpoint: &str) -> ClientConfig {
    ClientConfig {
        lifetime: Duration::from_secs(300),
        ..ClientConfig::new(endpoint)
    }
}

/// How the network treats datagrams.
#[derive(Clone, Copy)]
pub struct Weather {
    pub lost: f64,
    pub doubled: f64,
    pub delay: (Duration, Duration),
}

pub const FAIR: Weather = Weather {
    lost: 0.0,
    doubled: 0.0,
    delay: (Duration::from_millis(10), Duration::from_millis(10)),
};
pub const FOUL: Weather = Weather {
    lost: 0.2,
    doubled: 0.1,
    delay: (Duration::from_millis(5), Duration::from_millis(900)),
};

pub enum Device {
    Client(Box<Client<InMemoryTree>>),
    /// A CoAP endpoint whose requests and answers the test makes itself.
    Bare(Box<coap::Endpoint>),
}

pub struct World {
    pub now: Now,
    pub server: Server,
    pub devices: BTreeMap<Peer, Device>,
    pub weather: Weather,
    /// What happened at the server, in order, since it was last taken.
    pub events: Vec<Event>,
    /// What happened at the devices.
    pub device_events: Vec<(Peer, lwm2m::client::Event)>,
    /// What happened at bare devices.
    pub bare_events: Vec<(Peer, coap::Event)>,
    /// Acknowledge confirmable notifications at once.
    pub acknowledge: bool,
    config: ServerConfig,
    rng: StdRng,
    /// On the way: when it arrives, from, to.
    wire: BTreeMap<(Instant, u64), (Peer, Peer, Bytes)>,
    sent: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(ServerConfig::default(), 1)
    }

    pub fn with(config: ServerConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            now: Now {
                instant: Instant::now(),
                unix_ms: UNIX_START_MS,
            },
            server: Server::new(config.clone(), Arc::clone(&MODELS), rng.random()),
            devices: BTreeMap::new(),
            weather: FAIR,
            events: Vec::new(),
            device_events: Vec::new(),
            bare_events: Vec::new(),
            acknowledge: true,
            config,
            rng,
            wire: BTreeMap::new(),
            sent: 0,
        }
    }

    pub fn add_client(&mut self, number: u8, config: ClientConfig) -> Peer {
        let peer = device_peer(number);
        let client = Client::new(config, tree(), self.rng.random());
        self.devices.insert(peer, Device::Client(Box::new(client)));
        peer
    }

    pub fn add_bare(&mut self, number: u8) -> Peer {
        let peer = device_peer(number);
        let endpoint = coap::Endpoint::new(coap::Config::default(), self.rng.random());
        self.devices.insert(peer, Device::Bare(Box::new(endpoint)));
        peer
    }

    pub fn client(&mut self, peer: Peer) -> &mut Client<InMemoryTree> {
        match self.devices.get_mut(&peer) {
            Some(Device::Client(client)) => client,
            _ => panic!("no client at {peer}"),
        }
    }

    pub fn bare(&mut self, peer: Peer) -> &mut coap::Endpoint {
        match self.devices.get_mut(&peer) {
            Some(Device::Bare(endpoint)) => endpoint,
            _ => panic!("no bare device at {peer}"),
        }
    }

    /// A registered device.
    pub fn registered(&mut self, number: u8, endpoint: &str) -> Peer {
        let peer = self.add_client(number, client_config(endpoint));
        let now = self.now.instant;
        self.client(peer).start(now, SERVER);
        self.run_for(Duration::from_secs(1));
        assert!(
            self.server.registration(endpoint).is_some(),
            "{endpoint} is not registered"
        );
        peer
    }

    /// Moves a device to another address: what is on the way to the old one is lost.
    pub fn move_device(&mut self, from: Peer, to: Peer) {
        let device = self.devices.remove(&from).unwrap();
        self.devices.insert(to, device);
    }

    pub fn set(&mut self, device: Peer, at: &str, value: Value) {
        let (now, at) = (self.now.instant, path(at));
        let client = self.client(device);
        client.objects_mut().set(&at, value).unwrap();
        client.changed(now, &at);
        self.settle();
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn request(&mut self, endpoint: &str, operation: Operation) -> RequestHandle {
        self.request_with(endpoint, operation, RequestOptions::default())
    }

    pub fn request_with(
        &mut self,
        endpoint: &str,
        operation: Operation,
        options: RequestOptions,
    ) -> RequestHandle {
        let handle = self
            .server
            .request(self.now, endpoint, operation, options)
            .unwrap();
        self.settle();
        handle
    }

    /// Asks, and waits for the outcome; other events stay in `events`.
    pub fn ask(
        &mut self,
        endpoint: &str,
        operation: Operation,
    ) -> Result<DeviceResponse, RequestFailure> {
        let handle = self.request(endpoint, operation);
        self.outcome(handle)
    }

    pub fn outcome(&mut self, handle: RequestHandle) -> Result<DeviceResponse, RequestFailure> {
        for _ in 0..100_000 {
            let found = self.events.iter().position(
                |event| matches!(event, Event::Completed { handle: h, .. } if *h == handle),
            );
            if let Some(at) = found {
                match self.events.remove(at) {
                    Event::Completed { result, .. } => return result,
                    other => panic!("{other:?}"),
                }
            }
            assert!(
                self.step(None),
                "nothing more happens, and {handle:?} has no outcome"
            );
        }
        panic!("{handle:?} has no outcome");
    }

    /// A bare device asks the server, and waits for its answer.
    pub fn from_device(&mut self, device: Peer, request: Request) -> Response {
        let now = self.now.instant;
        let id = self
            .bare(device)
            .send_request(now, SERVER, request, coap::RequestOptions::default())
            .unwrap();
        self.settle();
        for _ in 0..100_000 {
            let found = self.bare_events.iter().position(
                |(_, event)| matches!(event, coap::Event::Response { id: i, .. } | coap::Event::RequestFailed { id: i, .. } if *i == id),
            );
            if let Some(at) = found {
                match self.bare_events.remove(at).1 {
                    coap::Event::Response { response, .. } => return response,
                    other => panic!("{other:?}"),
                }
            }
            assert!(self.step(None), "nothing more happens");
        }
        panic!("no answer");
    }

    /// What a bare device was asked last.
    pub fn asked_of(&mut self, device: Peer) -> (coap::ExchangeId, Request) {
        let asked = std::mem::take(&mut self.bare_events)
            .into_iter()
            .filter_map(|(peer, event)| match event {
                coap::Event::Request {
                    exchange, request, ..
                } if peer == device => Some((exchange, request)),
                _ => None,
            });
        asked.last().expect("the device was asked something")
    }

    /// The same, with the token.
    pub fn asked_token(&mut self, device: Peer) -> (coap::ExchangeId, coap::Token) {
        let asked = std::mem::take(&mut self.bare_events)
            .into_iter()
            .filter_map(|(peer, event)| match event {
                coap::Event::Request {
                    exchange, token, ..
                } if peer == device => Some((exchange, token)),
                _ => None,
            });
        asked.last().expect("the device was asked something")
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now.instant + time;
        self.settle();
        while self.step(Some(end)) {}
        self.advance_to(end);
    }

    /// Takes everybody's outputs, at one moment.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(event) = self.server.poll_event() {
                quiet = false;
                if let Event::Notified { ack: Some(ack), .. }
                | Event::NotificationUnreadable { ack: Some(ack), .. }
                | Event::Sent { ack, .. } = &event
                    && self.acknowledge
                {
                    self.server.acknowledge(self.now, *ack);
                }
                self.events.push(event);
            }
            while let Some(transmit) = self.server.poll_transmit() {
                quiet = false;
                self.send(SERVER, transmit.to, transmit.payload);
            }
            let mut outgoing = Vec::new();
            for (peer, device) in &mut self.devices {
                match device {
                    Device::Client(client) => {
                        while let Some(event) = client.poll_event() {
                            self.device_events.push((*peer, event));
                        }
                        while let Some(transmit) = client.poll_transmit() {
                            outgoing.push((*peer, transmit));
                        }
                    }
                    Device::Bare(endpoint) => {
                        while let Some(event) = endpoint.poll_event() {
                            self.bare_events.push((*peer, event));
                        }
                        while let Some(transmit) = endpoint.poll_transmit() {
                            outgoing.push((*peer, transmit));
                        }
                    }
                }
            }
            for (from, transmit) in outgoing {
                quiet = false;
                self.send(from, transmit.to, transmit.payload);
            }
            if quiet {
                return;
            }
        }
    }

    /// Lets the next thing happen, if it happens by `end`.
    pub fn step(&mut self, end: Option<Instant>) -> bool {
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let timers = self.devices.values().filter_map(|device| match device {
            Device::Client(client) => client.next_timeout(),
            Device::Bare(endpoint) => endpoint.next_timeout(),
        });
        let Some(next) = timers
            .chain(self.server.next_timeout())
            .chain(arrival)
            .min()
        else {
            return false;
        };
        if end.is_some_and(|end| next > end) {
            return false;
        }
        self.advance_to(next);
        let now = self.now;
        while let Some((key, (from, to, payload))) = self.wire.pop_first() {
            if key.0 > now.instant {
                self.wire.insert(key, (from, to, payload));
                break;
            }
            if to == SERVER {
                self.server.handle_datagram(now, from, &payload);
            } else {
                match self.devices.get_mut(&to) {
                    Some(Device::Client(client)) => {
                        client.handle_datagram(now.instant, from, &payload)
                    }
                    Some(Device::Bare(endpoint)) => {
                        endpoint.handle_datagram(now.instant, from, &payload)
                    }
                    None => {}
                }
            }
            self.settle();
        }
        if self
            .server
            .next_timeout()
            .is_some_and(|at| at <= now.instant)
        {
            self.server.handle_timeout(now);
        }
        for device in self.devices.values_mut() {
            match device {
                Device::Client(client) => client.handle_timeout(now.instant),
                Device::Bare(endpoint) => endpoint.handle_timeout(now.instant),
            }
        }
        self.settle();
        true
    }

    fn advance_to(&mut self, at: Instant) {
        let passed = at.saturating_duration_since(self.now.instant);
        self.now.instant += passed;
        self.now.unix_ms =
            UNIX_START_MS.max(self.now.unix_ms + i64::try_from(passed.as_millis()).unwrap());
    }

    fn send(&mut self, from: Peer, to: Peer, payload: Bytes) {
        let Weather {
            lost,
            doubled,
            delay: (least, most),
        } = self.weather;
        if self.rng.random_bool(lost) {
            return;
        }
        for _ in 0..=usize::from(self.rng.random_bool(doubled)) {
            let delay = self.rng.random_range(least..=most);
            self.sent += 1;
            self.wire.insert(
                (self.now.instant + delay, self.sent),
                (from, to, payload.clone()),
            );
        }
    }

    /// A new server with the same seed source: what a restart leaves is what the test restores.
    pub fn restart_server(&mut self) {
        self.server = Server::new(self.config.clone(), Arc::clone(&MODELS), self.rng.random());
    }
}

pub fn register_request(query: &[&str], links: &str) -> Request {
    let mut request = Request::new(Method::Post, ["rd"]);
    request.query = query.iter().map(|item| (*item).to_owned()).collect();
    request.content_format = Some(40);
    request.payload = Bytes::copy_from_slice(links.as_bytes());
    request
}

/// The value of an answer about one resource.
pub fn value(response: &DeviceResponse) -> Value {
    assert_eq!(response.code, Code::CONTENT, "{response:?}");
    match &response.body {
        Body::Node(Node::Resource(ResourceNode {
            content: ResourceContent::Single(value),
            ..
        })) => value.clone(),
        other => panic!("no single value: {other:?}"),
    }
}

/// The values of the notifications among the events, with their contexts.
pub fn notified(events: &[Event]) -> Vec<(Value, Option<String>)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Notified {
                observation,
                response,
                ..
            } => Some((value(response), observation.context.clone())),
            _ => None,
        })
        .collect()
}

pub fn with_ticket(ticket: &str) -> RequestOptions {
    RequestOptions {
        context: Some(ticket.to_owned()),
        ..RequestOptions::default()
    }
}

pub const TEMPERATURE: &str = "/3303/0/5700";

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn observe(at: &str) -> Operation {
    Operation::Observe { path: path(at) }
}

pub fn cancel(at: &str, active: bool) -> Operation {
    Operation::CancelObserve {
        path: path(at),
        active,
    }
}

pub fn attributes(at: &str, attributes: &[&str]) -> Operation {
    Operation::WriteAttributes {
        path: path(at),
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
    }
}

/// A value that was told, with its ticket.
pub fn float(value: f64, context: &str) -> (Value, Option<String>) {
    (Value::Float(value), Some(context.to_owned()))
}

/// A registered device whose temperature is observed with a ticket.
pub fn observed(world: &mut World) -> Peer {
    let device = world.registered(1, "dev1");
    let handle = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t1"));
    let first = world.outcome(handle).unwrap();
    assert_eq!(value(&first), Value::Float(20.0));
    device
}

pub fn observation(world: &World) -> (Observation, ObservationState) {
    let (observation, state) = world.server.observations("dev1").next().unwrap();
    (Observation::clone(observation), state)
}
