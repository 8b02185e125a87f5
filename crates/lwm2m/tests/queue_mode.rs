//! Devices that sleep (TS 1.1 transport, section 6.5): their requests wait, in order, until they are heard of.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use coap::{Code, Method, Peer, Request};
use common::{SERVER, World, client_config, path, register_request, value};
use lwm2m::client::{self, ClientConfig};
use lwm2m::server::{Event, Presence, RequestHandle, RequestOptions, ServerConfig, TooManyWindows};
use lwm2m::{Binding, Operation, Registration, RequestError, RequestFailure, Version, WriteMode};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{Node, Value};

const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than the window of 93 s.
const A_WHILE: Duration = Duration::from_secs(100);

fn sleepy(endpoint: &str) -> ClientConfig {
    ClientConfig {
        binding: "UQ".parse().unwrap(),
        lifetime: 24 * HOUR,
        ..client_config(endpoint)
    }
}

fn started(world: &mut World, number: u8, config: ClientConfig) -> Peer {
    let peer = world.add_client(number, config);
    let now = world.now.instant;
    world.client(peer).start(now, SERVER);
    world.run_for(Duration::from_secs(1));
    peer
}

fn patient() -> RequestOptions {
    RequestOptions {
        timeout: Some(24 * HOUR),
        ..RequestOptions::default()
    }
}

fn read(at: &str) -> Operation {
    Operation::Read { path: path(at) }
}

fn write(zone: &str) -> Operation {
    Operation::Write {
        path: path("/3/0/15"),
        mode: WriteMode::Replace,
        node: Node::single(15, Value::String(zone.to_owned())),
    }
}

fn reset() -> Operation {
    Operation::Execute {
        path: path("/3303/0/5605"),
        arguments: String::new(),
    }
}

/// What happened, without what does not matter here.
fn story(world: &mut World) -> Vec<String> {
    let shown = world.take_events().into_iter().filter_map(|event| {
        Some(match event {
            Event::Awake { .. } => "awake".to_owned(),
            Event::Sleeping { .. } => "sleeping".to_owned(),
            Event::Dispatched { .. } => "dispatched".to_owned(),
            Event::Deferred { .. } => "deferred".to_owned(),
            Event::Completed { result, .. } => match result {
                Ok(response) => response.code.to_string(),
                Err(failure) => format!("{failure:?}"),
            },
            _ => return None,
        })
    });
    shown.collect()
}

#[test]
fn a_device_listens_for_its_window_and_then_sleeps() {
    let mut world = World::new();
    let device = started(&mut world, 1, sleepy("dev1"));
    assert_eq!(story(&mut world), ["awake"]);
    assert_eq!(world.server.presence("dev1"), Some(Presence::Awake));
    world.run_for(Duration::from_secs(91));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Awake));
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Asleep));
    assert_eq!(story(&mut world), ["sleeping"]);

    // Each message of its own makes the window anew.
    let now = world.now.instant;
    world.client(device).update(now);
    world.run_for(Duration::from_secs(60));
    let now = world.now.instant;
    world.client(device).update(now);
    world.run_for(Duration::from_secs(60));
    assert_eq!(story(&mut world), ["awake"]);
    world.run_for(Duration::from_secs(34));
    assert_eq!(story(&mut world), ["sleeping"]);
    assert_eq!(world.server.presence("nobody"), None);
}

#[test]
fn both_versions_say_queue_mode_and_others_never_sleep() {
    let cases = [
        (Version::V1_0, "UQ", true, "UQ"),
        (Version::V1_1, "UQ", true, "U"),
        (Version::V1_1, "U", false, "U"),
        (Version::V1_0, "U", false, "U"),
    ];
    for (version, binding, queue, raw) in cases {
        let mut world = World::new();
        let config = ClientConfig {
            version,
            binding: binding.parse().unwrap(),
            ..client_config("dev1")
        };
        started(&mut world, 1, config);
        let registered = &world.server.registration("dev1").unwrap().binding;
        let expected = Binding {
            raw: raw.to_owned(),
            queue,
        };
        assert_eq!(*registered, expected, "{version} {binding}");
        world.run_for(A_WHILE);
        let presence = world.server.presence("dev1");
        let expected = if queue {
            Presence::Asleep
        } else {
            Presence::Reachable
        };
        assert_eq!(presence, Some(expected), "{version} {binding}");
    }
}

#[test]
fn requests_for_a_sleeper_wait_and_are_sent_in_order_when_it_is_heard_of() {
    let wakes: [fn(&mut World, Peer); 4] = [
        |world, device| {
            let now = world.now.instant;
            world.client(device).update(now);
        },
        |world, device| {
            let now = world.now.instant;
            world.client(device).restart(now);
        },
        |world, device| world.set(device, "/3303/1/5700", Value::Float(1.0)),
        |world, device| {
            let now = world.now.instant;
            let values = Timestamped {
                time_s: None,
                content: BTreeMap::from([(
                    path("/3303/0/5700"),
                    Node::single(5700, Value::Float(2.0)),
                )]),
            };
            world
                .client(device)
                .send(now, &[values], ContentFormat::SenmlCbor)
                .unwrap();
        },
    ];
    for (number, wake) in wakes.into_iter().enumerate() {
        let mut world = World::new();
        let device = started(&mut world, 1, sleepy("dev1"));
        let observe = Operation::Observe {
            path: path("/3303/1/5700"),
        };
        world.ask("dev1", observe).unwrap();
        world.run_for(A_WHILE);
        story(&mut world);

        let handles: Vec<RequestHandle> = [write("UTC"), read("/3/0/15"), write("Z"), reset()]
            .into_iter()
            .map(|operation| world.request_with("dev1", operation, patient()))
            .collect();
        assert_eq!(story(&mut world), ["deferred"; 4]);
        let waiting: Vec<_> = world.server.pending_requests("dev1").collect();
        assert!(waiting.iter().all(|request| !request.sent));
        let waiting: Vec<_> = waiting.iter().map(|request| request.handle).collect();
        assert_eq!(waiting, handles);
        world.run_for(12 * HOUR);
        assert_eq!(
            story(&mut world),
            [""; 0],
            "{number}: nothing is sent to a sleeper"
        );
        assert_eq!(world.server.coap_stats().retransmissions, 0);

        wake(&mut world, device);
        world.run_for(Duration::from_secs(2));
        let done = story(&mut world);
        assert_eq!(done[0], "awake", "{number}");
        assert_eq!(
            done[1..],
            [
                "dispatched",
                "2.04",
                "dispatched",
                "2.05",
                "dispatched",
                "2.04",
                "dispatched",
                "2.04"
            ],
            "{number}"
        );
        let done: Vec<_> = world
            .device_events
            .iter()
            .filter_map(|(_, event)| match event {
                client::Event::Written { path } => Some(path.to_string()),
                client::Event::Executed { path, .. } => Some(path.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(done, ["/3/0/15", "/3/0/15", "/3303/0/5605"], "{number}");
        assert_eq!(
            world.client(device).objects().get(&path("/3/0/15")),
            Some(&Value::String("Z".into()))
        );
    }
}

#[test]
fn a_request_whose_time_is_over_is_answered_and_never_sent() {
    let mut world = World::new();
    let device = started(&mut world, 1, sleepy("dev1"));
    world.run_for(A_WHILE);
    story(&mut world);
    let short = RequestOptions {
        timeout: Some(HOUR),
        ..RequestOptions::default()
    };
    let first = world.request_with("dev1", reset(), short);
    let second = world.request_with("dev1", read("/3/0/15"), patient());
    let before = world.now.instant;
    let failure = world.outcome(first).unwrap_err();
    assert_eq!(failure, RequestFailure::Expired);
    assert!(!failure.may_have_acted());
    assert_eq!(world.now.instant - before, HOUR);
    let now = world.now.instant;
    world.client(device).update(now);
    assert_eq!(
        value(&world.outcome(second).unwrap()),
        Value::String("UTC".into())
    );
    let executed = world
        .device_events
        .iter()
        .any(|(_, event)| matches!(event, client::Event::Executed { .. }));
    assert!(!executed);
}

#[test]
fn waiting_requests_are_bounded_listed_and_cancelled() {
    let config = ServerConfig {
        max_pending_per_device: 3,
        ..ServerConfig::default()
    };
    let mut world = World::with(config, 1);
    let device = started(&mut world, 1, sleepy("dev1"));
    world.run_for(A_WHILE);
    let handles: Vec<_> = (0..3)
        .map(|_| world.request_with("dev1", reset(), patient()))
        .collect();
    let now = world.now;
    let refused = world.server.request(now, "dev1", reset(), patient());
    assert!(matches!(
        refused,
        Err(RequestError::TooManyPending { limit: 3, .. })
    ));
    world.server.cancel(now, handles[1]);
    world.settle();
    assert_eq!(
        world.outcome(handles[1]),
        Err(RequestFailure::Cancelled { sent: false })
    );
    let left: Vec<_> = world
        .server
        .pending_requests("dev1")
        .map(|request| request.handle)
        .collect();
    assert_eq!(left, [handles[0], handles[2]]);
    story(&mut world);
    let now = world.now.instant;
    world.client(device).update(now);
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        story(&mut world),
        ["awake", "dispatched", "2.04", "dispatched", "2.04"]
    );
}

/// The device fell asleep earlier than the server thought: what may be repeated waits again, what may not ends open.
#[test]
fn a_request_that_met_a_sleeper_waits_again_if_repeating_it_does_no_harm() {
    let mut world = World::new();
    let mut config = sleepy("dev1");
    config.awake_window = Duration::from_secs(10);
    let device = started(&mut world, 1, config);
    story(&mut world);
    world.run_for(Duration::from_secs(20));
    assert!(!{
        let now = world.now.instant;
        world.client(device).is_listening(now)
    });
    let first = world.request_with("dev1", read("/3/0/15"), patient());
    world.run_for(A_WHILE);
    assert_eq!(story(&mut world), ["dispatched", "sleeping", "deferred"]);
    let second = world.request_with("dev1", reset(), patient());
    world.run_for(HOUR);
    let now = world.now.instant;
    world.client(device).update(now);
    assert!(world.outcome(first).is_ok());
    assert!(world.outcome(second).is_ok());

    // An execute may have been carried out, its answer lost: it is not sent under another message id.
    world.run_for(Duration::from_secs(20));
    story(&mut world);
    world.request_with("dev1", reset(), patient());
    let third = world.request_with("dev1", read("/3/0/0"), patient());
    world.run_for(A_WHILE);
    assert_eq!(story(&mut world), ["dispatched", "sleeping", "Timeout"]);
    let now = world.now.instant;
    world.client(device).update(now);
    assert!(world.outcome(third).is_ok());
    let executed = world
        .device_events
        .iter()
        .filter(|(_, event)| matches!(event, client::Event::Executed { .. }));
    assert_eq!(executed.count(), 1, "the one that was answered");
}

#[test]
fn an_answer_at_the_end_of_the_window_keeps_the_device_awake() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let query = ["ep=dev1", "lwm2m=1.1", "b=U", "Q"];
    world.from_device(device, register_request(&query, "</3/0>"));
    world.run_for(Duration::from_secs(92));
    let handle = world.request_with("dev1", read("/3/0/0"), patient());
    world.run_for(Duration::from_secs(10));
    assert_eq!(
        world.server.presence("dev1"),
        Some(Presence::Awake),
        "it has something to answer"
    );
    let (exchange, _) = world.asked_of(device);
    let now = world.now.instant;
    world
        .bare(device)
        .respond(now, exchange, coap::Response::new(Code::NOT_FOUND));
    assert_eq!(world.outcome(handle).unwrap().code, Code::NOT_FOUND);
    world.run_for(Duration::from_secs(92));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Awake));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Asleep));
}

#[test]
fn an_acknowledged_request_that_is_never_answered_gives_its_lane_up() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(device, register_request(&["ep=dev1"], "</3/0>"));
    let first = world.request_with("dev1", reset(), patient());
    let second = world.request_with("dev1", read("/3/0/0"), patient());
    let before = world.now.instant;
    // The device's endpoint acknowledges after half a second; nobody answers.
    let failure = world.outcome(first).unwrap_err();
    assert_eq!(failure, RequestFailure::Timeout);
    assert!(failure.may_have_acted());
    let waited = world.now.instant - before;
    assert!((93..96).contains(&waited.as_secs()), "{waited:?}");
    world.run_for(Duration::from_secs(1));
    let (exchange, request) = world.asked_of(device);
    assert_eq!(request.method, Method::Get);
    let now = world.now.instant;
    world
        .bare(device)
        .respond(now, exchange, coap::Response::new(Code::NOT_FOUND));
    assert!(world.outcome(second).is_ok());
}

#[test]
fn windows_are_set_per_device_and_bounded() {
    let config = ServerConfig {
        max_awake_windows: 1,
        ..ServerConfig::default()
    };
    let mut world = World::with(config, 1);
    let own = Some(Duration::from_secs(20));
    world.server.set_awake_window("dev1", own).unwrap();
    assert_eq!(
        world.server.set_awake_window("dev2", own),
        Err(TooManyWindows { limit: 1 })
    );
    started(&mut world, 1, sleepy("dev1"));
    started(&mut world, 2, sleepy("dev2"));
    world.run_for(Duration::from_secs(25));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Asleep));
    assert_eq!(world.server.presence("dev2"), Some(Presence::Awake));
    world.server.set_awake_window("dev1", None).unwrap();
    world.server.set_awake_window("dev2", own).unwrap();
    assert_eq!(world.server.awake_window("dev1"), Duration::from_secs(93));
    assert_eq!(world.server.awake_window("dev2"), Duration::from_secs(20));
}

#[test]
fn queue_mode_can_begin_and_end_with_an_update() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let location = world
        .from_device(device, register_request(&["ep=dev1"], "</3/0>"))
        .location_path;
    let update = |query: &[&str]| {
        let mut request = Request::new(Method::Post, location.clone());
        request.query = query.iter().map(|item| (*item).to_owned()).collect();
        request
    };
    assert_eq!(world.server.presence("dev1"), Some(Presence::Reachable));
    world.from_device(device, update(&["b=UQ"]));
    world.run_for(A_WHILE);
    assert_eq!(world.server.presence("dev1"), Some(Presence::Asleep));
    let handle = world.request_with("dev1", read("/3/0/0"), patient());
    world.from_device(device, update(&["b=U"]));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.server.presence("dev1"), Some(Presence::Reachable));
    let pending: Vec<_> = world.server.pending_requests("dev1").collect();
    assert!(pending[0].sent && pending[0].handle == handle);
}

#[test]
fn after_a_restart_the_requests_that_are_made_again_wait_in_their_order() {
    let mut world = World::new();
    let device = started(&mut world, 1, sleepy("dev1"));
    world.run_for(A_WHILE);
    let registrations: Vec<Registration> = world
        .server
        .registrations()
        .map(|registration| Registration::clone(registration))
        .collect();
    world.restart_server();
    world.take_events();
    let now = world.now;
    world.server.restore(now, registrations, []);
    assert_eq!(world.server.presence("dev1"), Some(Presence::Asleep));
    for operation in [write("one"), write("two"), reset()] {
        world.request_with("dev1", operation, patient());
    }
    assert_eq!(story(&mut world), ["deferred"; 3]);
    world.run_for(HOUR);
    let now = world.now.instant;
    world.client(device).restart(now);
    world.run_for(Duration::from_secs(2));
    assert_eq!(
        story(&mut world),
        [
            "awake",
            "dispatched",
            "2.04",
            "dispatched",
            "2.04",
            "dispatched",
            "2.04"
        ]
    );
    assert_eq!(
        world.client(device).objects().get(&path("/3/0/15")),
        Some(&Value::String("two".into()))
    );

    // One that was heard of shortly before the restart is still awake after it.
    let registrations: Vec<Registration> = world
        .server
        .registrations()
        .map(|registration| Registration::clone(registration))
        .collect();
    world.restart_server();
    let now = world.now;
    world.server.restore(now, registrations, []);
    assert_eq!(world.server.presence("dev1"), Some(Presence::Awake));
    assert!(world.ask("dev1", read("/3/0/0")).is_ok());
}

#[test]
fn a_sleeper_whose_lifetime_ends_takes_its_requests_with_it() {
    let mut world = World::new();
    let mut config = sleepy("dev1");
    config.lifetime = 2 * HOUR;
    let device = started(&mut world, 1, config);
    world.run_for(A_WHILE);
    world.devices.remove(&device);
    let handle = world.request_with("dev1", reset(), patient());
    assert_eq!(
        world.outcome(handle),
        Err(RequestFailure::Gone { sent: false })
    );
    assert_eq!(world.server.presence("dev1"), None);
}

#[test]
fn a_passive_cancel_needs_nobody_awake() {
    let mut world = World::new();
    let device = started(&mut world, 1, sleepy("dev1"));
    let at = path("/3303/0/5700");
    world.ask("dev1", Operation::Observe { path: at }).unwrap();
    world.run_for(A_WHILE);
    let cancel = Operation::CancelObserve {
        path: at,
        active: false,
    };
    assert_eq!(world.ask("dev1", cancel).unwrap().code, Code::DELETED);
    world.set(device, "/3303/0/5700", Value::Float(1.0));
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        world.client(device).observed(),
        0,
        "its notification was reset"
    );
}
