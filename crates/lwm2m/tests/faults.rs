//! Every exchange there is over a network that loses, doubles, delays and reorders, in virtual time: nothing is answered
//! twice, nothing is lost, nothing is carried out twice, and each device does things in their order.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coap::Peer;
use common::{SERVER, Weather, World, client_config, path};
use lwm2m::client::{self, ClientConfig, NotificationMode, Status};
use lwm2m::server::{Event, RequestHandle, RequestOptions, ServerConfig};
use lwm2m::{Body, DEVICE_CHOOSES, DeviceResponse, Operation, RequestFailure, Target, WriteMode};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{InstanceNode, Node, ResourceNode, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const SEEDS: u64 = 40;
const DEVICES: u8 = 4;
/// Operations asked for in one run.
const OPERATIONS: usize = 60;
const LIST: [&str; 3] = ["/3303/0/5700", "/3303/1/5700", "/3/0/15"];

/// From a network that is only slow to one that loses a third.
fn weather(rng: &mut StdRng) -> Weather {
    Weather {
        lost: rng.random_range(0.0..0.33),
        doubled: rng.random_range(0.0..0.3),
        // Up to the time between two retransmissions: what was sent first often comes last.
        delay: (
            Duration::from_millis(1),
            Duration::from_millis(rng.random_range(50..2_500)),
        ),
    }
}

/// A different way of living for each device.
fn config(number: u8, rng: &mut StdRng) -> ClientConfig {
    let mut config = client_config(&format!("dev{number}"));
    config.lifetime = Duration::from_secs(600);
    config.request_timeout = Duration::from_secs(120);
    config.retry_longest = Duration::from_secs(20);
    config.coap.block_size = [16, 64, 256, 1_024][usize::from(number) % 4];
    if number.is_multiple_of(2) {
        config.notifications = NotificationMode::NonConfirmable;
    }
    if number == 3 {
        config.binding = "UQ".parse().unwrap();
        config.awake_window = Duration::from_secs(rng.random_range(60..110));
    }
    config
}

/// An operation, and how its doing shows on the device.
fn operation(rng: &mut StdRng, serial: usize) -> (Operation, Option<String>) {
    let at = |text: &str| path(text);
    let string = |id, text: &str| Node::single(id, Value::String(text.to_owned()));
    let list = || LIST.iter().map(|text| path(text)).collect();
    let long = "x".repeat(rng.random_range(1..600));
    let mark = format!("{serial}-{long}");
    match rng.random_range(0..13) {
        0 => (Operation::Read { path: at("/3303") }, None),
        1 => (
            Operation::Discover {
                path: at("/3303/0"),
            },
            None,
        ),
        2 => (
            Operation::Write {
                path: at("/3/0/15"),
                mode: WriteMode::Replace,
                node: string(15, &mark),
            },
            Some("write".to_owned()),
        ),
        3 => (
            Operation::WriteAttributes {
                path: at("/3303/0/5700"),
                attributes: vec!["pmin=1".to_owned(), "epmin=1".to_owned()],
            },
            None,
        ),
        4 => (
            Operation::Execute {
                path: at("/3303/0/5605"),
                arguments: format!("{serial}"),
            },
            Some(format!("execute {serial}")),
        ),
        5 => (
            Operation::Create {
                path: at("/19"),
                node: Node::Instance(InstanceNode::new(
                    DEVICE_CHOOSES,
                    [ResourceNode::multiple(
                        0,
                        lwm2m_model::ValueType::Opaque,
                        [(0, Value::Opaque(mark.into_bytes()))],
                    )],
                )),
            },
            Some("create".to_owned()),
        ),
        6 => (
            Operation::Observe {
                path: at("/3303/0/5700"),
            },
            None,
        ),
        7 => (Operation::ReadComposite { paths: list() }, None),
        8 => (Operation::ObserveComposite { paths: list() }, None),
        9 => (
            Operation::WriteComposite {
                nodes: BTreeMap::from([
                    (at("/3/0/15"), string(15, &mark)),
                    (at("/3/0/14"), string(14, "+01:00")),
                ]),
            },
            Some("composite".to_owned()),
        ),
        10 => (
            Operation::CancelObserveComposite {
                paths: list(),
                active: rng.random_bool(0.5),
            },
            None,
        ),
        11 => (
            Operation::CancelObserve {
                path: at("/3303/0/5700"),
                active: rng.random_bool(0.5),
            },
            None,
        ),
        _ => (
            Operation::Read {
                path: at("/3/0/15"),
            },
            None,
        ),
    }
}

/// What one run leaves behind.
#[derive(Default)]
struct Outcomes {
    /// By device, in the order in which they came.
    done: BTreeMap<String, Vec<RequestHandle>>,
    results: BTreeMap<RequestHandle, Result<DeviceResponse, RequestFailure>>,
    dispatched: BTreeMap<RequestHandle, usize>,
    sent_values: Vec<f64>,
    notified: BTreeMap<(String, Target), usize>,
}

fn collect(world: &mut World, outcomes: &mut Outcomes, seed: u64) {
    for event in world.take_events() {
        match event {
            Event::Completed {
                handle,
                endpoint,
                result,
            } => {
                outcomes.done.entry(endpoint).or_default().push(handle);
                let twice = outcomes.results.insert(handle, result);
                assert!(twice.is_none(), "seed {seed}: {handle:?} has two outcomes");
            }
            Event::Dispatched { handle, .. } => {
                assert!(
                    !outcomes.results.contains_key(&handle),
                    "seed {seed}: sent after its end"
                );
                *outcomes.dispatched.entry(handle).or_default() += 1;
            }
            Event::Sent { values, .. } => {
                for values in values {
                    for node in values.nodes.values() {
                        if let Node::Resource(node) = node
                            && let lwm2m_model::ResourceContent::Single(Value::Float(value)) =
                                node.content
                        {
                            outcomes.sent_values.push(value);
                        }
                    }
                }
            }
            Event::Notified {
                observation,
                response,
                ..
            } => {
                let whole = match &observation.target {
                    Target::Path(_) => matches!(response.body, Body::Node(_)),
                    Target::Paths(paths) => {
                        matches!(&response.body, Body::Nodes(nodes) if nodes.len() == paths.len())
                    }
                };
                assert!(whole || !response.is_success(), "seed {seed}: {response:?}");
                let key = (observation.endpoint.clone(), observation.target.clone());
                *outcomes.notified.entry(key).or_default() += 1;
            }
            Event::NotificationUnreadable { reason, .. } => panic!("seed {seed}: {reason}"),
            _ => {}
        }
    }
}

struct Run {
    world: World,
    outcomes: Outcomes,
    /// By device: what was asked, in its order, with how its doing shows and whether it may be repeated.
    asked: BTreeMap<Peer, Vec<(RequestHandle, Option<String>, bool)>>,
    sends: BTreeSet<client::SendHandle>,
    values_sent: usize,
}

fn run(seed: u64) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::with(ServerConfig::default(), seed);
    world.weather = weather(&mut rng);
    let devices: Vec<Peer> = (0..DEVICES)
        .map(|number| {
            let config = config(number, &mut rng);
            let peer = world.add_client(number, config);
            let now = world.now.instant;
            let container = ResourceNode::multiple(
                0,
                lwm2m_model::ValueType::Opaque,
                [(0, Value::Opaque(vec![1]))],
            );
            let tree = world.client(peer).objects_mut();
            tree.add_instance(19, 0, [container]).unwrap();
            world.client(peer).start(now, SERVER);
            peer
        })
        .collect();
    let mut outcomes = Outcomes::default();
    for _ in 0..60 {
        world.run_for(Duration::from_secs(60));
        let registered =
            |peer: &Peer, world: &mut World| world.client(*peer).status() == Status::Registered;
        if devices.iter().all(|peer| registered(peer, &mut world)) {
            break;
        }
    }
    collect(&mut world, &mut outcomes, seed);

    let mut asked: BTreeMap<Peer, Vec<_>> = BTreeMap::new();
    let mut sends = BTreeSet::new();
    let mut values_sent = 0;
    for serial in 0..OPERATIONS {
        let number = rng.random_range(0..DEVICES);
        let peer = devices[usize::from(number)];
        let (operation, shows) = operation(&mut rng, serial);
        let repeatable = operation.is_repeatable();
        let options = RequestOptions {
            timeout: Some(Duration::from_secs(3_600)),
            ..RequestOptions::default()
        };
        let now = world.now;
        let endpoint = format!("dev{number}");
        // One that is between two registrations is not known: then nothing is asked.
        if let Ok(handle) = world.server.request(now, &endpoint, operation, options) {
            asked
                .entry(peer)
                .or_default()
                .push((handle, shows, repeatable));
        }
        world.settle();
        let value = Value::Float(f64::from(rng.random_range(-50..50)));
        world.set(peer, "/3303/0/5700", value);
        if rng.random_bool(0.3) {
            let measured = serial as f64;
            let values = Timestamped {
                time_s: Some(1_700_000_000.0 + measured),
                content: BTreeMap::from([(
                    path("/3303/1/5700"),
                    Node::single(5700, Value::Float(measured)),
                )]),
            };
            let now = world.now.instant;
            let sent = world
                .client(peer)
                .send(now, &[values], ContentFormat::SenmlCbor);
            if let Ok(handle) = sent {
                sends.insert(handle);
                values_sent += 1;
            }
            world.settle();
        }
        world.run_for(Duration::from_secs(rng.random_range(0..40)));
        collect(&mut world, &mut outcomes, seed);
    }
    // The sleeper is heard of at its updates; everything has its outcome after its hour.
    world.run_for(Duration::from_secs(2 * 3_600));
    collect(&mut world, &mut outcomes, seed);
    Run {
        world,
        outcomes,
        asked,
        sends,
        values_sent,
    }
}

#[test]
fn each_request_has_one_outcome_and_is_done_at_most_once_in_its_order() {
    let (mut answered, mut all) = (0, 0);
    for seed in 0..SEEDS {
        let Run {
            world,
            outcomes,
            asked,
            ..
        } = run(seed);
        for (peer, asked) in &asked {
            // None is lost: each has an outcome.
            for (handle, _, repeatable) in asked {
                all += 1;
                let result = outcomes.results.get(handle);
                let result = result.unwrap_or_else(|| panic!("seed {seed}: {handle:?} is lost"));
                answered += usize::from(result.is_ok());
                // Never under a second message id, unless that does no harm.
                let times = outcomes.dispatched.get(handle).copied().unwrap_or(0);
                assert!(times <= 1 || *repeatable, "seed {seed}: sent {times} times");
            }
            // In their order: outcomes come as the requests were made, but for those that were not sent at all.
            let endpoint = &world_endpoint(&world, *peer);
            let sent = |handle: &&RequestHandle| outcomes.dispatched.contains_key(handle);
            let order: Vec<_> = outcomes.done[endpoint].iter().filter(sent).collect();
            let made: Vec<_> = asked
                .iter()
                .map(|(handle, ..)| handle)
                .filter(sent)
                .collect();
            assert_eq!(order, made, "seed {seed}: {endpoint}");

            // On the device: what is done is what was asked, in this order, each at most once, and at least what was
            // answered.
            let shown = asked.iter().filter_map(|(handle, shows, _)| {
                let result = &outcomes.results[handle];
                let is_done = result.as_ref().is_ok_and(DeviceResponse::is_success);
                Some((shows.as_deref()?, is_done))
            });
            let shown: Vec<(&str, bool)> = shown.collect();
            let done = done_on(&world, *peer);
            assert!(
                is_explained(&done, &shown),
                "seed {seed}: {endpoint} did {done:?} when asked for {shown:?}"
            );
        }
        assert_eq!(world.server.pending("dev0"), 0, "seed {seed}");
    }
    assert!(
        answered * 10 > all * 9,
        "{answered} of {all} were answered: too bad a network to say much"
    );
}

#[test]
fn each_send_is_taken_at_least_once_if_answered_and_never_twice() {
    let mut taken = 0;
    for seed in 100..100 + SEEDS / 2 {
        let run = run(seed);
        let mut values = run.outcomes.sent_values.clone();
        values.sort_by(f64::total_cmp);
        let before = values.len();
        values.dedup();
        assert_eq!(
            values.len(),
            before,
            "seed {seed}: a Send came through twice"
        );
        let answered: BTreeSet<_> = run
            .world
            .device_events
            .iter()
            .filter_map(|(_, event)| match event {
                client::Event::SendAnswered { handle, code } if code.is_success() => Some(*handle),
                _ => None,
            })
            .collect();
        assert!(
            values.len() >= answered.len(),
            "seed {seed}: an answered Send is lost"
        );
        assert!(values.len() <= run.values_sent);
        assert!(run.sends.len() <= run.values_sent);
        taken += values.len();
    }
    assert!(taken > 100, "{taken}");
}

/// The last state of what is observed arrives, whatever happened on the way, where notifications are confirmable.
#[test]
fn the_last_value_of_every_observation_arrives() {
    for seed in 200..200 + SEEDS / 2 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::with(ServerConfig::default(), seed);
        world.weather = weather(&mut rng);
        let mut config = config(1, &mut rng);
        config.lifetime = Duration::from_secs(300);
        let device = world.add_client(1, config);
        let now = world.now.instant;
        world.client(device).start(now, SERVER);
        world.run_for(Duration::from_secs(900));
        let list: Vec<_> = LIST.iter().map(|text| path(text)).collect();
        let operations = [
            Operation::Observe {
                path: path("/3303/0/5700"),
            },
            Operation::ObserveComposite { paths: list },
        ];
        let mut observed = Vec::new();
        for operation in operations {
            let target = operation.target();
            if world.server.registration("dev1").is_some() && world.ask("dev1", operation).is_ok() {
                observed.push(target);
            }
        }
        world.take_events();
        for n in 0..30 {
            world.set(device, "/3303/0/5700", Value::Float(f64::from(n)));
            world.run_for(Duration::from_secs(rng.random_range(1..60)));
        }
        world.run_for(Duration::from_secs(1_800));
        let events = world.take_events();
        for target in observed {
            let last = events.iter().rev().find_map(|event| match event {
                Event::Notified {
                    observation,
                    response,
                    ..
                } if observation.target == target => Some(temperature(&response.body)),
                _ => None,
            });
            assert_eq!(last, Some(29.0), "seed {seed}: {target}");
        }
    }
}

fn temperature(body: &Body) -> f64 {
    let node = match body {
        Body::Node(node) => node,
        Body::Nodes(nodes) => &nodes[&path("/3303/0/5700")],
        other => panic!("{other:?}"),
    };
    match node {
        Node::Resource(node) => match &node.content {
            lwm2m_model::ResourceContent::Single(Value::Float(value)) => *value,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn world_endpoint(world: &World, peer: Peer) -> String {
    let registration = world.server.registrations().find(|it| it.peer == peer);
    registration.expect("it stays registered").endpoint.clone()
}

/// Whether what was done is what was asked, in its order, each at most once, and without those left out that `must` be.
fn is_explained(done: &[String], asked: &[(&str, /* must */ bool)]) -> bool {
    let Some(((shows, must), rest)) = asked.split_first() else {
        return done.is_empty();
    };
    let was_done = done.first().is_some_and(|done| done == shows);
    (was_done && is_explained(&done[1..], rest)) || (!must && is_explained(done, rest))
}

/// What a device did, one for each request that shows.
fn done_on(world: &World, peer: Peer) -> Vec<String> {
    let mut done = Vec::new();
    let mut events = world
        .device_events
        .iter()
        .filter(|(at, _)| *at == peer)
        .map(|(_, event)| event)
        .peekable();
    while let Some(event) = events.next() {
        match event {
            // The composite writes two, the time's offset first.
            client::Event::Written { path: at } if *at == path("/3/0/14") => {
                let next = events.next();
                assert!(
                    matches!(next, Some(client::Event::Written { .. })),
                    "{next:?}"
                );
                done.push("composite".to_owned());
            }
            client::Event::Written { .. } => done.push("write".to_owned()),
            client::Event::Created { .. } => done.push("create".to_owned()),
            client::Event::Executed { arguments, .. } => done.push(format!("execute {arguments}")),
            _ => {}
        }
    }
    done
}
