//! What holds whatever happens: on a bad network, under random operations, and for any bytes at all.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{
    FOUL, MODELS, SERVER, World, client_config, device_peer, notified, path, register_request,
    value, with_ticket,
};
use lwm2m::client::InMemoryTree;
use lwm2m::server::{Event, RequestHandle, RequestOptions, ServerConfig};
use lwm2m::{Body, Now, Operation, WriteMode, fuzz};
use lwm2m_model::{Node, Value};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

#[test]
fn on_a_foul_network_everything_still_arrives() {
    let mut observed = 0;
    for seed in 0..30 {
        let mut world = World::with(ServerConfig::default(), seed);
        world.weather = FOUL;
        let device = world.add_client(1, client_config("dev1"));
        let now = world.now.instant;
        world.client(device).start(now, SERVER);
        world.run_for(Duration::from_secs(600));
        assert!(world.server.registration("dev1").is_some(), "seed {seed}");

        let options = || RequestOptions {
            timeout: Some(Duration::from_secs(93)),
            ..with_ticket("t")
        };
        let handle = world.request_with(
            "dev1",
            Operation::Observe {
                path: path("/3303/0/5700"),
            },
            options(),
        );
        if world.outcome(handle).is_err() {
            continue;
        }
        observed += 1;
        let long = "x".repeat(3_000);
        let node = Node::single(15, Value::String(long.clone()));
        let write = Operation::Write {
            path: path("/3/0/15"),
            mode: WriteMode::Replace,
            node,
        };
        let handle = world.request_with("dev1", write, options());
        if world.outcome(handle).is_ok() {
            let handle = world.request_with(
                "dev1",
                Operation::Read {
                    path: path("/3/0/15"),
                },
                options(),
            );
            if let Ok(response) = world.outcome(handle) {
                assert_eq!(value(&response), Value::String(long), "seed {seed}");
            }
        }
        world.take_events();
        for n in 0..20 {
            world.set(device, "/3303/0/5700", Value::Float(f64::from(n)));
            world.run_for(Duration::from_secs(20));
        }
        world.run_for(Duration::from_secs(900));
        let values: Vec<f64> = notified(&world.take_events())
            .into_iter()
            .map(|(value, _)| match value {
                Value::Float(value) => value,
                other => panic!("{other:?}"),
            })
            .collect();
        // Confirmable notifications are sent again until they are acknowledged, and a device that gave one up registers
        // anew, so that it is asked again: the last state always arrives.
        assert_eq!(values.last(), Some(&19.0), "seed {seed}: {values:?}");
        assert!(
            values.windows(2).all(|pair| pair[0] <= pair[1]),
            "seed {seed}: never back: {values:?}"
        );
    }
    assert!(observed >= 25, "{observed} of 30 could be observed");
}

/// A device registering, leaving and moving, an operator asking and observing, the server restarting, at random.
#[test]
fn random_operations_keep_the_books_straight() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::with(
            ServerConfig {
                max_pending_per_device: 5,
                ..ServerConfig::default()
            },
            seed,
        );
        if rng.random_bool(0.5) {
            world.weather = FOUL;
        }
        let mut peers: BTreeMap<u8, coap::Peer> = (0..4)
            .map(|n| {
                let peer = world.add_client(n, client_config(&format!("dev{n}")));
                (n, peer)
            })
            .collect();
        let mut next_address = 10;
        let mut open: BTreeSet<RequestHandle> = BTreeSet::new();
        let mut done: BTreeSet<RequestHandle> = BTreeSet::new();
        let mut books = Books::default();
        for _ in 0..120 {
            let number = rng.random_range(0..4);
            let (endpoint, peer, now) = (format!("dev{number}"), peers[&number], world.now);
            match rng.random_range(0..12) {
                0 => world.client(peer).start(now.instant, SERVER),
                1 => world.client(peer).restart(now.instant),
                2 => world.client(peer).deregister(now.instant),
                3 => {
                    next_address += 1;
                    world.move_device(peer, device_peer(next_address));
                    peers.insert(number, device_peer(next_address));
                    world.client(device_peer(next_address)).update(now.instant);
                }
                4 => world.set(peer, "/3303/0/5700", Value::Float(rng.random())),
                5..=9 => {
                    let at = [path("/3303/0/5700"), path("/3303/1"), path("/3/0")]
                        [rng.random_range(0..3)];
                    let operation = match rng.random_range(0..5) {
                        0 => Operation::Read { path: at },
                        1 | 2 => Operation::Observe { path: at },
                        _ => Operation::CancelObserve {
                            path: at,
                            active: rng.random(),
                        },
                    };
                    let timeout = Some(Duration::from_secs(rng.random_range(1..120)));
                    let options = RequestOptions {
                        timeout,
                        ..with_ticket(&format!("{number}"))
                    };
                    if let Ok(handle) = world
                        .server
                        .request(world.now, &endpoint, operation, options)
                    {
                        assert!(open.insert(handle), "a handle twice");
                    }
                }
                10 => {
                    // The server crashes with what its store knows, and forgets what it was asked.
                    let registrations: Vec<_> = world
                        .server
                        .registrations()
                        .map(|r| r.as_ref().clone())
                        .collect();
                    let observations: Vec<_> = (0..4)
                        .flat_map(|n| {
                            world
                                .server
                                .observations(&format!("dev{n}"))
                                .collect::<Vec<_>>()
                        })
                        .map(|(observation, _)| observation.as_ref().clone())
                        .collect();
                    world.restart_server();
                    world.server.restore(world.now, registrations, observations);
                    open.clear();
                    done.clear();
                }
                _ => {
                    if let Some(handle) = open.iter().next().copied() {
                        world.server.cancel(world.now, handle);
                    }
                }
            }
            world.run_for(Duration::from_millis(rng.random_range(0..20_000)));
            books.enter(&mut world, &mut open, &mut done, seed);
            books.compare(&world, seed);
        }
        // In the end everything has its outcome.
        world.run_for(Duration::from_secs(300));
        books.enter(&mut world, &mut open, &mut done, seed);
        assert!(open.is_empty(), "seed {seed}: {open:?}");
    }
}

/// What a store that only sees events believes.
#[derive(Default)]
struct Books {
    /// Endpoint → registration id.
    registrations: BTreeMap<String, String>,
    /// Endpoint and path → token.
    observations: BTreeMap<(String, String), coap::Token>,
}

impl Books {
    fn enter(
        &mut self,
        world: &mut World,
        open: &mut BTreeSet<RequestHandle>,
        done: &mut BTreeSet<RequestHandle>,
        seed: u64,
    ) {
        for event in world.take_events() {
            match event {
                Event::Registered {
                    registration,
                    replaced,
                } => {
                    let before = self.registrations.insert(
                        registration.endpoint.clone(),
                        registration.registration_id.clone(),
                    );
                    assert_eq!(
                        before,
                        replaced.map(|r| r.registration_id.clone()),
                        "seed {seed}"
                    );
                }
                Event::Updated {
                    registration,
                    previous,
                    update,
                } => {
                    assert_eq!(registration.registration_id, previous.registration_id);
                    assert_eq!(update.registration_id, registration.registration_id);
                    assert_eq!(
                        self.registrations.get(&registration.endpoint),
                        Some(&registration.registration_id)
                    );
                }
                Event::Deregistered { registration, .. } => {
                    let before = self.registrations.remove(&registration.endpoint);
                    assert_eq!(
                        before.as_ref(),
                        Some(&registration.registration_id),
                        "seed {seed}"
                    );
                }
                Event::Completed { handle, .. } => {
                    assert!(
                        open.remove(&handle),
                        "seed {seed}: an outcome nobody waits for"
                    );
                    assert!(done.insert(handle), "seed {seed}: two outcomes");
                }
                Event::ObservationStarted {
                    observation,
                    replaced,
                } => {
                    let key = (observation.endpoint.clone(), observation.target.to_string());
                    let before = self.observations.insert(key, observation.token);
                    assert_eq!(before, replaced.map(|o| o.token), "seed {seed}");
                    assert!(
                        before.is_none_or(|token| token == observation.token),
                        "seed {seed}: another token"
                    );
                }
                Event::ObservationEnded { observation, .. } => {
                    let key = (observation.endpoint.clone(), observation.target.to_string());
                    assert_eq!(
                        self.observations.remove(&key),
                        Some(observation.token),
                        "seed {seed}"
                    );
                }
                Event::Notified {
                    observation,
                    response,
                    ..
                } => {
                    let key = (observation.endpoint.clone(), observation.target.to_string());
                    assert_eq!(
                        self.observations.get(&key),
                        Some(&observation.token),
                        "seed {seed}"
                    );
                    let expected = observation.endpoint.strip_prefix("dev");
                    assert_eq!(
                        observation.context.as_deref(),
                        expected,
                        "seed {seed}: another's ticket"
                    );
                    assert!(matches!(response.body, Body::Node(_)), "{response:?}");
                }
                Event::NotificationUnreadable { reason, .. } => panic!("seed {seed}: {reason}"),
                Event::Dispatched { handle, .. } => {
                    assert!(open.contains(&handle) || !done.contains(&handle));
                }
                // Nobody here sleeps, or sends of its own accord.
                Event::Awake { .. }
                | Event::Sleeping { .. }
                | Event::Deferred { .. }
                | Event::Sent { .. } => panic!("seed {seed}: {event:?}"),
                Event::ObservationLost { .. } => {}
            }
        }
    }

    fn compare(&self, world: &World, seed: u64) {
        let registrations: BTreeMap<String, String> = world
            .server
            .registrations()
            .map(|r| (r.endpoint.clone(), r.registration_id.clone()))
            .collect();
        assert_eq!(registrations, self.registrations, "seed {seed}");
        assert_eq!(world.server.registered(), registrations.len());
        let mut observations = BTreeMap::new();
        for number in 0..4 {
            for (observation, _) in world.server.observations(&format!("dev{number}")) {
                let key = (observation.endpoint.clone(), observation.target.to_string());
                observations.insert(key, observation.token);
            }
        }
        assert_eq!(observations, self.observations, "seed {seed}");
        for registration in world.server.registrations() {
            assert!(world.server.pending(&registration.endpoint) <= 5 + 1 + 3);
        }
    }
}

#[test]
fn a_good_device_is_served_after_any_amount_of_rubbish() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..2_000 {
        let length = rng.random_range(0..80);
        let rubbish: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        world.server.handle_datagram(world.now, device, &rubbish);
        world.settle();
    }
    assert_eq!(world.server.registered(), 0);
    world.take_events();
    let reply = world.from_device(device, register_request(&["ep=good"], "</3/0>"));
    assert_eq!(reply.code, coap::Code::CREATED);
}

/// Every prefix of a registration's datagram, and every bit of it turned.
#[test]
fn cut_and_bent_registrations_never_panic() {
    let mut device = coap::Endpoint::new(coap::Config::default(), [1; 32]);
    let mut world = World::new();
    let now = world.now;
    let request = register_request(
        &["ep=dev1", "lt=60", "lwm2m=1.1", "b=U", "x=1"],
        "</>;rt=\"oma.lwm2m\",</3/0>,</3303/0>;a=b",
    );
    device
        .send_request(
            now.instant,
            SERVER,
            request,
            coap::RequestOptions::default(),
        )
        .unwrap();
    let datagram = device.poll_transmit().unwrap().payload;
    for cut in 0..datagram.len() {
        world
            .server
            .handle_datagram(now, device_peer(1), &datagram[..cut]);
        world.settle();
    }
    for bit in 0..datagram.len() * 8 {
        let mut bent = datagram.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        world.server.handle_datagram(now, device_peer(1), &bent);
        world.settle();
    }
    for registration in world.server.registrations() {
        assert!(!registration.endpoint.is_empty() && !registration.links.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_taken(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz::decode_registration(&data);
        fuzz::server_datagrams(&data);
        fuzz::client_datagrams(&data);
        fuzz::decode_binding(&data);
    }

    #[test]
    fn any_query_is_answered(
        query in proptest::collection::vec("(ep|lt|lwm2m|b|Q|sms|[a-z]{0,3})(=[ -~]{0,12})?", 0..8),
        links in "(</[0-9/]{0,6}>(;[a-z]{1,3}=\"?[a-z0-9. ]{0,4}\"?)?,?){0,4}",
    ) {
        let mut world = World::new();
        let device = world.add_bare(1);
        let query: Vec<&str> = query.iter().map(String::as_str).collect();
        let reply = world.from_device(device, register_request(&query, &links));
        let accepted = reply.code == coap::Code::CREATED;
        prop_assert_eq!(accepted, world.server.registered() == 1);
        prop_assert!(accepted || reply.code.class() == 4, "{}", reply.code);
        if let Some(registration) = world.server.registrations().next() {
            let text = serde_json::to_string(&**registration).unwrap();
            let read: lwm2m::Registration = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &**registration);
        }
    }
}

#[test]
fn the_device_role_survives_a_hostile_server() {
    let tree = InMemoryTree::new(MODELS.clone());
    let mut client = lwm2m::client::Client::new(client_config("d"), tree, [1; 32]);
    let now = Now {
        instant: std::time::Instant::now(),
        unix_ms: 0,
    };
    client.start(now.instant, SERVER);
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..2_000 {
        let length = rng.random_range(0..60);
        let rubbish: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        client.handle_datagram(now.instant, SERVER, &rubbish);
        while client.poll_event().is_some() || client.poll_transmit().is_some() {}
    }
}
