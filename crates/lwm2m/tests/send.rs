//! Values that a device reports of its own accord (TS 1.1 core, section 6.4.6), and what a server without room says.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coap::{Code, Method, Peer, Request, Response};
use common::{SERVER, World, client_config, device_peer, path, register_request};
use lwm2m::client::{self, SendError, Status};
use lwm2m::server::{Ack, Event, ServerConfig};
use lwm2m::{Registration, Values};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{Node, Value};

const TEMPERATURE: &str = "/3303/0/5700";

fn reading(at_s: f64, celsius: f64) -> Timestamped<BTreeMap<lwm2m_model::ObjectPath, Node>> {
    Timestamped {
        time_s: Some(at_s),
        content: BTreeMap::from([(path(TEMPERATURE), Node::single(5700, Value::Float(celsius)))]),
    }
}

fn send_request(format: u16, payload: &str) -> Request {
    let mut request = Request::new(Method::Post, ["dp"]);
    request.content_format = Some(format);
    request.payload = payload.as_bytes().to_vec().into();
    request
}

fn sent(events: &[Event]) -> Vec<(String, Vec<Values>, Ack)> {
    let sent = events.iter().filter_map(|event| match event {
        Event::Sent {
            registration,
            values,
            ack,
        } => Some((registration.endpoint.clone(), values.clone(), *ack)),
        _ => None,
    });
    sent.collect()
}

#[test]
fn values_of_one_path_are_kept_apart_by_their_times() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    world.take_events();
    for format in [ContentFormat::SenmlCbor, ContentFormat::SenmlJson] {
        let values = [
            reading(1_700_000_000.0, 1.0),
            reading(1_700_000_000.5, 2.0),
            reading(-5.0, 3.0),
            Timestamped {
                time_s: None,
                content: BTreeMap::from([(path("/3/0/9"), Node::single(9, Value::Integer(80)))]),
            },
        ];
        let now = world.now;
        let handle = world
            .client(device)
            .send(now.instant, &values, format)
            .unwrap();
        world.run_for(Duration::from_secs(1));
        let events = world.take_events();
        let [(endpoint, values, _)] = &sent(&events)[..] else {
            panic!("{events:?}")
        };
        assert_eq!(endpoint, "dev1");
        let mut told: Vec<(Option<i64>, Value)> = values
            .iter()
            .flat_map(|values| {
                let at = values.at_unix_ms;
                values.nodes.values().map(move |node| (at, single(node)))
            })
            .collect();
        told.sort_by_key(|(at, _)| *at);
        assert_eq!(told[0], (None, Value::Integer(80)));
        // Relative to when the server reads it.
        let (Some(at), Value::Float(3.0)) = told[1] else {
            panic!("{told:?}")
        };
        assert!((at - (now.unix_ms - 5_000)).abs() < 100, "{at}");
        assert_eq!(told[2], (Some(1_700_000_000_000), Value::Float(1.0)));
        assert_eq!(told[3], (Some(1_700_000_000_500), Value::Float(2.0)));
        let answered = client::Event::SendAnswered {
            handle,
            code: Code::CHANGED,
        };
        assert!(world.device_events.contains(&(device, answered)));
    }
}

fn single(node: &Node) -> Value {
    match node {
        Node::Resource(node) => match &node.content {
            lwm2m_model::ResourceContent::Single(value) => value.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_values_of_one_path_and_one_time_are_two_values() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(device, register_request(&["ep=dev1"], "</3303/0>"));
    world.take_events();
    let pack =
        r#"[{"n":"/3303/0/5700","t":1700000000,"v":1},{"n":"/3303/0/5700","t":1700000000,"v":2}]"#;
    let reply = world.from_device(device, send_request(110, pack));
    assert_eq!(reply.code, Code::CHANGED);
    let events = world.take_events();
    let values: Vec<Value> = sent(&events)[0]
        .1
        .iter()
        .map(|values| single(&values.nodes[&path(TEMPERATURE)]))
        .collect();
    assert_eq!(values, [Value::Float(1.0), Value::Float(2.0)]);
}

#[test]
fn a_send_is_answered_when_its_values_are_safe_and_told_once_however_often_it_comes() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    world.acknowledge = false;
    world.take_events();
    let now = world.now.instant;
    let values = [reading(0.0, 1.0)];
    world
        .client(device)
        .send(now, &values, ContentFormat::SenmlCbor)
        .unwrap();
    // The answer comes separately then: the device has the empty acknowledgement, and waits.
    world.run_for(Duration::from_secs(20));
    let events = world.take_events();
    let [(_, _, ack)] = sent(&events)[..] else {
        panic!("{events:?}")
    };
    let is_answer =
        |(_, event): &&(Peer, client::Event)| matches!(event, client::Event::SendAnswered { .. });
    assert_eq!(world.device_events.iter().filter(is_answer).count(), 0);
    let now = world.now;
    world.server.acknowledge(now, ack);
    // Twice does no harm.
    world.server.acknowledge(now, ack);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.device_events.iter().filter(is_answer).count(), 1);
    assert!(sent(&world.take_events()).is_empty());
}

#[test]
fn a_send_from_nobody_known_or_without_sense_is_refused() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let good = r#"[{"n":"/3303/0/5700","v":1}]"#;
    let reply = world.from_device(device, send_request(110, good));
    assert_eq!(reply.code, Code::NOT_FOUND);
    world.from_device(device, register_request(&["ep=dev1"], "</3303/0>"));
    world.take_events();
    let cases = [
        (110, "[", Code::BAD_REQUEST),
        (110, "[]", Code::BAD_REQUEST),
        (110, r#"[{"n":"/3303/0","v":1}]"#, Code::BAD_REQUEST),
        (110, r#"[{"n":"/3303/0/5700"}]"#, Code::BAD_REQUEST),
        (112, good, Code::BAD_REQUEST),
        (
            110,
            r#"[{"n":"/3303/0/5700","v":1,"t":1e300}]"#,
            Code::BAD_REQUEST,
        ),
        (
            110,
            r#"[{"n":"/3303/0/5700","v":1,"bt":-1e12}]"#,
            Code::BAD_REQUEST,
        ),
        (110, r#"[{"n":"/3/0/9","v":1}]"#, Code::NOT_FOUND),
        (0, good, Code::UNSUPPORTED_CONTENT_FORMAT),
        (11542, good, Code::UNSUPPORTED_CONTENT_FORMAT),
    ];
    for (format, payload, code) in cases {
        let reply = world.from_device(device, send_request(format, payload));
        assert_eq!(reply.code, code, "{format} {payload}");
    }
    let mut get = send_request(110, good);
    get.method = Method::Get;
    assert_eq!(
        world.from_device(device, get).code,
        Code::METHOD_NOT_ALLOWED
    );
    assert!(sent(&world.take_events()).is_empty());
    assert_eq!(world.server.stats().sends_refused, 1 + cases.len() as u64);
    let reply = world.from_device(device, send_request(110, good));
    assert_eq!(reply.code, Code::CHANGED);
}

#[test]
fn a_device_that_has_moved_on_sends_as_itself_and_its_old_address_as_nobody() {
    let mut world = World::new();
    let (old, new) = (device_peer(1), device_peer(2));
    world.add_bare(1);
    world.add_bare(2);
    let good = || send_request(110, r#"[{"n":"/3303/0/5700","v":1}]"#);
    world.from_device(old, register_request(&["ep=dev1"], "</3303/0>"));
    world.from_device(new, register_request(&["ep=dev1"], "</3303/0>"));
    assert_eq!(world.from_device(old, good()).code, Code::NOT_FOUND);
    assert_eq!(world.from_device(new, good()).code, Code::CHANGED);
    assert_eq!(sent(&world.take_events()).len(), 1);
}

#[test]
fn a_long_history_comes_in_blocks() {
    let mut world = World::new();
    let mut config = client_config("dev1");
    config.coap.block_size = 64;
    let device = world.add_client(1, config);
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(Duration::from_secs(1));
    world.take_events();
    let values: Vec<_> = (0..200)
        .map(|n| reading(1_700_000_000.0 + f64::from(n), f64::from(n)))
        .collect();
    let now = world.now.instant;
    world
        .client(device)
        .send(now, &values, ContentFormat::SenmlCbor)
        .unwrap();
    world.run_for(Duration::from_secs(20));
    let events = world.take_events();
    assert_eq!(sent(&events)[0].1.len(), 200);
}

#[test]
fn a_device_that_may_not_send_or_is_not_registered_keeps_quiet() {
    let mut world = World::new();
    let device = world.add_client(1, client_config("dev1"));
    let values = [reading(0.0, 1.0)];
    let now = world.now.instant;
    let send = |world: &mut World| {
        world
            .client(device)
            .send(now, &values, ContentFormat::SenmlCbor)
    };
    assert_eq!(send(&mut world), Err(SendError::NotRegistered));
    world.client(device).start(now, SERVER);
    world.run_for(Duration::from_secs(1));
    let mute = path("/1/0/23");
    let tree = world.client(device).objects_mut();
    tree.set(&mute, Value::Boolean(true)).unwrap();
    assert_eq!(send(&mut world), Err(SendError::Muted));
    let tree = world.client(device).objects_mut();
    tree.set(&mute, Value::Boolean(false)).unwrap();
    for _ in 0..16 {
        send(&mut world).unwrap();
    }
    assert_eq!(send(&mut world), Err(SendError::TooMany { limit: 16 }));
}

#[test]
fn a_server_without_room_says_when_to_come_again() {
    let mut world = World::new();
    let known = world.add_bare(1);
    let new = world.add_bare(2);
    let registered = world.from_device(known, register_request(&["ep=a"], "</3303/0>"));
    world.server.set_overloaded(Some(Duration::from_secs(120)));
    let send = || send_request(110, r#"[{"n":"/3303/0/5700","v":1}]"#);
    let refused = [
        world.from_device(new, register_request(&["ep=b"], "</3303/0>")),
        world.from_device(known, send()),
    ];
    for reply in refused {
        assert_eq!(
            (reply.code, reply.max_age),
            (Code::SERVICE_UNAVAILABLE, Some(120))
        );
    }
    // Those who are here stay here.
    let mut update = Request::new(Method::Post, registered.location_path);
    update.query = vec!["lt=100".to_owned()];
    assert_eq!(world.from_device(known, update).code, Code::CHANGED);
    assert_eq!(world.server.stats().registrations_over_limit, 2);
    world.server.set_overloaded(None);
    let reply = world.from_device(new, register_request(&["ep=b"], "</3303/0>"));
    assert_eq!(reply.code, Code::CREATED);

    // What could not be kept is refused the same way.
    world.acknowledge = false;
    world.take_events();
    let now = world.now.instant;
    world
        .bare(known)
        .send_request(now, SERVER, send(), coap::RequestOptions::default())
        .unwrap();
    world.run_for(Duration::from_millis(100));
    let ack = sent(&world.take_events())[0].2;
    let now = world.now;
    world.server.refuse(now, ack, Duration::from_secs(7));
    world.run_for(Duration::from_millis(100));
    let told = world.bare_events.iter().find_map(|(_, event)| match event {
        coap::Event::Response { response, .. } => Some((response.code, response.max_age)),
        _ => None,
    });
    assert_eq!(told, Some((Code::SERVICE_UNAVAILABLE, Some(7))));
}

#[test]
fn a_device_waits_as_long_as_a_busy_server_says() {
    let mut world = World::new();
    let device = world.add_client(1, client_config("dev1"));
    world.server.set_overloaded(Some(Duration::from_secs(600)));
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(Duration::from_secs(590));
    assert_eq!(world.server.stats().registrations_over_limit, 1);
    world.server.set_overloaded(None);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.client(device).status(), Status::Registered);
}

#[test]
fn a_full_server_says_when_to_come_again() {
    let config = ServerConfig {
        max_registrations: 0,
        retry_after: Duration::from_secs(30),
        ..ServerConfig::default()
    };
    let mut world = World::with(config, 1);
    let device = world.add_bare(1);
    let reply = world.from_device(device, register_request(&["ep=a"], "</3/0>"));
    assert_eq!(
        (reply.code, reply.max_age),
        (Code::SERVICE_UNAVAILABLE, Some(30))
    );
}

#[test]
fn only_who_may_speak_for_an_endpoint_does() {
    let mut world = World::new();
    let (good, bad) = (world.add_bare(1), world.add_bare(2));
    world
        .server
        .set_admission(move |from, endpoint| from == good || endpoint == "open");
    let register = |ep: &str| register_request(&[&format!("ep={ep}")], "</3303/0>");
    let location = world.from_device(good, register("dev1")).location_path;
    assert_eq!(
        world.from_device(bad, register("dev1")).code,
        Code::FORBIDDEN
    );
    for method in [Method::Post, Method::Delete] {
        let request = Request::new(method, location.clone());
        assert_eq!(world.from_device(bad, request).code, Code::FORBIDDEN);
    }
    assert_eq!(world.from_device(bad, register("open")).code, Code::CREATED);
    assert_eq!(world.server.stats().not_admitted, 3);
    assert_eq!(world.server.registered(), 2);
    let leave = Request::new(Method::Delete, location);
    let gone: Response = world.from_device(good, leave);
    assert_eq!(gone.code, Code::DELETED);
}

/// An endpoint gets a credential while it is registered without security: what was registered has to end, here and where a
/// store kept it.
#[test]
fn a_registration_without_security_ends_when_it_is_not_admitted_any_more() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let secure = coap::Peer {
        session: 7,
        ..device
    };
    let needs_credential = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&needs_credential);
    world.server.set_admission(move |from, endpoint| {
        from.session != 0 || endpoint == "open" || !asked.load(Ordering::Relaxed)
    });
    for endpoint in ["dev1", "dev2", "open"] {
        let ep = format!("ep={endpoint}");
        world.from_device(device, register_request(&[&ep], "</3303/0>"));
    }
    let all: Vec<_> = world
        .server
        .registrations()
        .map(|kept| Registration::clone(kept))
        .collect();
    assert!(!world.server.readmit("dev1"));
    needs_credential.store(true, Ordering::Relaxed);
    assert!(world.server.readmit("dev1"));
    assert!(!world.server.readmit("dev1") && !world.server.readmit("nobody"));
    world.settle();
    assert!(world.take_events().iter().any(|event| matches!(
        event,
        Event::Deregistered { registration, expired: false } if registration.endpoint == "dev1"
    )));
    world.server.readmit_all();
    let left: Vec<_> = world.server.registrations().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].endpoint, "open");

    let mut world = World::new();
    world
        .server
        .set_admission(|from, endpoint| from.session != 0 || endpoint == "open");
    let now = world.now;
    let mut kept = all;
    kept[1].peer = secure;
    world.server.restore(now, kept, []);
    let left = world.server.registrations();
    let left: Vec<&str> = left.map(|kept| kept.endpoint.as_str()).collect();
    assert_eq!(left, ["dev2", "open"]);
}
