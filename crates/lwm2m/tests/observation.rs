//! Observations: values come as the attributes say, until somebody ends it.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::time::Duration;

use coap::{Code, Response};
use common::{
    TEMPERATURE, World, attributes, cancel, client_config, float, notified, observation, observe,
    observed, path, register_request, seconds, value, with_ticket,
};
use lwm2m::client::{self, NotificationMode};
use lwm2m::server::{Event, ObservationEnd, RequestOptions, ServerConfig};
use lwm2m::{Body, ObservationState, Operation, RequestError};
use lwm2m_model::{Node, Value};

#[test]
fn the_first_value_is_the_answer_and_each_later_one_a_notification() {
    for mode in [
        NotificationMode::Confirmable,
        NotificationMode::NonConfirmable,
    ] {
        let mut world = World::new();
        let config = client::ClientConfig {
            notifications: mode,
            ..client_config("dev1")
        };
        let device = world.add_client(1, config);
        let now = world.now.instant;
        world.client(device).start(now, common::SERVER);
        world.run_for(seconds(1));
        let handle = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t1"));
        assert_eq!(value(&world.outcome(handle).unwrap()), Value::Float(20.0));
        let events = world.take_events();
        let started = events.iter().find_map(|event| match event {
            Event::ObservationStarted {
                observation,
                replaced: None,
            } => Some(observation.clone()),
            _ => None,
        });
        assert_eq!(started.unwrap().context.as_deref(), Some("t1"));
        for n in 0..5 {
            world.set(device, TEMPERATURE, Value::Float(21.0 + f64::from(n)));
            world.run_for(seconds(1));
        }
        let events = world.take_events();
        let expected: Vec<_> = (0..5).map(|n| float(21.0 + f64::from(n), "t1")).collect();
        assert_eq!(notified(&events), expected);
        let confirmable = events
            .iter()
            .any(|event| matches!(event, Event::Notified { ack: Some(_), .. }));
        assert_eq!(confirmable, mode == NotificationMode::Confirmable);
    }
}

#[test]
fn a_confirmable_notification_waits_until_its_value_is_safe() {
    let mut world = World::new();
    let device = observed(&mut world);
    world.acknowledge = false;
    world.set(device, TEMPERATURE, Value::Float(21.0));
    world.run_for(seconds(20));
    let events = world.take_events();
    assert_eq!(
        notified(&events),
        [float(21.0, "t1")],
        "sent again, but shown once"
    );
    assert!(world.client(device).coap_stats().retransmissions >= 2);
    let ack = events.iter().find_map(|event| match event {
        Event::Notified { ack, .. } => *ack,
        _ => None,
    });
    world.server.acknowledge(world.now, ack.unwrap());
    world.acknowledge = true;
    world.run_for(seconds(100));
    assert_eq!(
        world.client(device).observed(),
        1,
        "the device still has its observer"
    );
}

#[test]
fn observing_again_keeps_the_token_and_a_new_ticket_takes_over() {
    let mut world = World::new();
    let device = observed(&mut world);
    let (first, _) = observation(&world);
    // REST attaches nothing and takes nothing.
    world.ask("dev1", observe(TEMPERATURE)).unwrap();
    assert_eq!(observation(&world).0, first);
    let handle = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t2"));
    world.outcome(handle).unwrap();
    let (second, _) = observation(&world);
    assert_eq!(
        (second.token, second.context.as_deref()),
        (first.token, Some("t2"))
    );
    assert_eq!(world.client(device).observed(), 1);
    world.take_events();
    world.set(device, TEMPERATURE, Value::Float(22.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(22.0, "t2")]);
}

#[test]
fn a_passive_cancel_is_learnt_from_a_reset() {
    let mut world = World::new();
    let device = observed(&mut world);
    let response = world.ask("dev1", cancel(TEMPERATURE, false)).unwrap();
    assert_eq!(
        (response.code, response.body),
        (Code::DELETED, Body::Cancelled(1))
    );
    let events = world.take_events();
    assert!(events.iter().any(|e| matches!(
        e,
        Event::ObservationEnded {
            why: ObservationEnd::Cancelled,
            ..
        }
    )));
    assert_eq!(world.client(device).observed(), 1, "it does not know yet");
    world.set(device, TEMPERATURE, Value::Float(22.0));
    world.run_for(seconds(1));
    assert_eq!(world.client(device).observed(), 0);
    assert_eq!(notified(&world.take_events()), []);
    let response = world.ask("dev1", cancel(TEMPERATURE, false)).unwrap();
    assert_eq!(
        (response.code, response.body),
        (Code::NOT_FOUND, Body::Cancelled(0))
    );
}

#[test]
fn an_active_cancel_tells_the_device() {
    let mut world = World::new();
    let device = observed(&mut world);
    let response = world.ask("dev1", cancel(TEMPERATURE, true)).unwrap();
    assert_eq!(value(&response), Value::Float(20.0));
    assert_eq!(world.client(device).observed(), 0);
    assert_eq!(world.server.observations("dev1").count(), 0);
    let response = world.ask("dev1", cancel(TEMPERATURE, true)).unwrap();
    assert_eq!(
        (response.code, response.body),
        (Code::NOT_FOUND, Body::Cancelled(0))
    );
}

#[test]
fn a_cancel_behind_an_observe_that_waits_cancels_it() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let observing = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t1"));
    let cancelling = world.request("dev1", cancel(TEMPERATURE, false));
    assert!(world.outcome(observing).is_ok());
    assert_eq!(world.outcome(cancelling).unwrap().body, Body::Cancelled(1));
    assert_eq!(world.server.observations("dev1").count(), 0);
}

#[test]
fn an_error_ends_the_notifications_until_the_device_registers_anew() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let handle = world.request_with("dev1", observe("/3303/1/5700"), with_ticket("t1"));
    world.outcome(handle).unwrap();
    world
        .ask(
            "dev1",
            Operation::Delete {
                path: path("/3303/1"),
            },
        )
        .unwrap();
    world.run_for(Duration::from_millis(15));
    let events = world.take_events();
    let codes: Vec<Code> = events
        .iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(response.code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [Code::NOT_FOUND]);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::ObservationLost { .. })),
        "{events:?}"
    );
    assert_ne!(observation(&world).1, ObservationState::Active);
}

#[test]
fn attributes_say_when_to_notify() {
    let mut world = World::new();
    let device = observed(&mut world);
    let temperatures = |world: &mut World, values: &[f64]| {
        world.take_events();
        for value in values {
            world.set(device, TEMPERATURE, Value::Float(*value));
            world.run_for(seconds(1));
        }
        let events = world.take_events();
        notified(&events)
            .into_iter()
            .map(|(value, _)| value)
            .collect::<Vec<_>>()
    };
    let floats = |values: &[f64]| values.iter().map(|v| Value::Float(*v)).collect::<Vec<_>>();

    world
        .ask("dev1", attributes(TEMPERATURE, &["gt=25", "lt=15"]))
        .unwrap();
    assert_eq!(
        temperatures(
            &mut world,
            &[24.0, 26.0, 27.0, 25.5, 24.0, 14.0, 13.0, 16.0]
        ),
        floats(&[26.0, 24.0, 14.0, 16.0])
    );

    world
        .ask("dev1", attributes(TEMPERATURE, &["gt", "lt", "st=2"]))
        .unwrap();
    assert_eq!(
        temperatures(&mut world, &[17.0, 18.0, 19.0, 19.5, 17.5]),
        floats(&[18.0]),
        "compared with what was told"
    );

    world.ask("dev1", attributes(TEMPERATURE, &["st"])).unwrap();
    world
        .ask("dev1", attributes("/3303/0", &["pmin=5"]))
        .unwrap();
    world.run_for(seconds(10));
    assert_eq!(
        temperatures(&mut world, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        floats(&[1.0, 5.0]),
        "pmin of the instance"
    );

    world.run_for(seconds(10));
    world.ask("dev1", attributes("/3303/0", &["pmin"])).unwrap();
    world
        .ask("dev1", attributes("/3303", &["pmax=20"]))
        .unwrap();
    world.take_events();
    world.run_for(seconds(101));
    let unchanged = notified(&world.take_events());
    assert!(
        (5..=6).contains(&unchanged.len()),
        "one each 20 s, changed or not: {}",
        unchanged.len()
    );
    assert!(
        unchanged
            .iter()
            .all(|(value, _)| *value == Value::Float(6.0))
    );
}

/// A change is looked at no sooner than `epmin` after the last one that was (TS 1.1 core, section 5.1.2): a value that has
/// come back by then is not worth telling.
#[test]
fn evaluation_periods_say_when_a_change_is_looked_at() {
    let mut world = World::new();
    let device = observed(&mut world);
    world
        .ask(
            "dev1",
            attributes(TEMPERATURE, &["gt=25", "epmin=10", "epmax=60"]),
        )
        .unwrap();
    world.run_for(seconds(1));
    world.take_events();
    let mut told = Vec::new();
    // Crosses at once; crosses back and again within the ten seconds; stays below at their end.
    for value in [30.0, 20.0, 30.0, 31.0, 20.0] {
        world.set(device, TEMPERATURE, Value::Float(value));
        world.run_for(seconds(2));
    }
    world.run_for(seconds(3));
    told.extend(notified(&world.take_events()));
    world.set(device, TEMPERATURE, Value::Float(40.0));
    world.set(device, TEMPERATURE, Value::Float(20.0));
    world.run_for(seconds(30));
    told.extend(notified(&world.take_events()));
    let values: Vec<Value> = told.into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [Value::Float(30.0), Value::Float(20.0)]);
}

#[test]
fn what_was_asked_in_an_old_format_is_read_by_its_number() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let registration = register_request(&["ep=dev1"], "</3/0>");
    world.from_device(device, registration);
    for (format, payload, code) in [
        (1541, &b"zeelos"[..], Code::CONTENT),
        (
            1542,
            &[0xc6, 0, b'z', b'e', b'e', b'l', b'o', b's'],
            Code::CONTENT,
        ),
        (
            1543,
            br#"{"bn":"/3/0/0","e":[{"sv":"zeelos"}]}"#,
            Code::CONTENT,
        ),
        (
            11_542,
            &[0xc6, 0, b'z', b'e', b'e', b'l', b'o', b's'],
            Code::CONTENT,
        ),
        (
            11_543,
            br#"{"bn":"/3/0/","e":[{"n":"0","sv":"zeelos"}]}"#,
            Code::CONTENT,
        ),
        (60, b"\x66zeelos", Code::CONTENT),
        (110, br#"[{"n":"/3/0/0","vs":"zeelos"}]"#, Code::CONTENT),
        (112, b"\x81\xa2\x00\x66/3/0/0\x03\x66zeelos", Code::CONTENT),
    ] {
        let read = Operation::Read {
            path: path("/3/0/0"),
        };
        let handle = world.request("dev1", read);
        world.run_for(seconds(1));
        let (exchange, _) = world.asked_of(device);
        let response = Response {
            content_format: Some(format),
            payload: payload.to_vec().into(),
            ..Response::new(code)
        };
        let now = world.now.instant;
        world.bare(device).respond(now, exchange, response);
        let response = world.outcome(handle).unwrap();
        assert_eq!(value(&response), Value::String("zeelos".into()), "{format}");
    }
}

#[test]
fn observations_of_instances_and_objects_see_every_change_below() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    for (at, ticket) in [("/3303/1", "instance"), ("/3303", "object")] {
        let handle = world.request_with("dev1", observe(at), with_ticket(ticket));
        world.outcome(handle).unwrap();
    }
    world.take_events();
    world.set(device, "/3303/1/5700", Value::Float(1.0));
    world.set(device, "/3303/0/5700", Value::Float(2.0));
    world.run_for(seconds(1));
    let paths: Vec<_> = world
        .take_events()
        .iter()
        .filter_map(|event| match event {
            Event::Notified {
                observation,
                response,
                ..
            } => match &response.body {
                Body::Node(Node::Object(_) | Node::Instance(_)) => {
                    Some(observation.target.to_string())
                }
                other => panic!("{other:?}"),
            },
            _ => None,
        })
        .collect();
    assert_eq!(paths.iter().filter(|p| *p == "/3303/1").count(), 1);
    assert_eq!(paths.iter().filter(|p| *p == "/3303").count(), 2);
}

#[test]
fn observations_are_bounded() {
    let config = ServerConfig {
        max_observations_per_device: 1,
        max_dormant_devices: 1,
        ..ServerConfig::default()
    };
    let mut world = World::with(config, 1);
    let first = observed(&mut world);
    let refused = world.server.request(
        world.now,
        "dev1",
        observe("/3/0/13"),
        RequestOptions::default(),
    );
    assert!(
        matches!(
            refused,
            Err(RequestError::TooManyObservations { limit: 1, .. })
        ),
        "{refused:?}"
    );
    assert!(
        world.ask("dev1", observe(TEMPERATURE)).is_ok(),
        "a known path is refreshed"
    );
    let second = world.registered(2, "dev2");
    world.ask("dev2", observe(TEMPERATURE)).unwrap();
    for device in [first, second] {
        let now = world.now.instant;
        world.client(device).deregister(now);
        world.run_for(seconds(1));
    }
    let events = world.take_events();
    let evicted = events.iter().find_map(|event| match event {
        Event::ObservationEnded {
            observation,
            why: ObservationEnd::Evicted,
        } => Some(observation.endpoint.as_str()),
        _ => None,
    });
    assert_eq!(evicted, Some("dev1"), "the one that went first");
    assert_eq!(world.server.observations("dev2").count(), 1);
}

#[test]
fn a_value_that_cannot_be_read_is_told_as_such() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(device, register_request(&["ep=dev1"], "</3303/0>"));
    let handle = world.request("dev1", observe(TEMPERATURE));
    world.run_for(Duration::from_millis(100));
    let Some((
        _,
        coap::Event::Request {
            exchange, token, ..
        },
    )) = world.bare_events.pop()
    else {
        panic!("not asked")
    };
    let now = world.now.instant;
    let good = Response {
        observe: Some(0),
        content_format: Some(0),
        payload: "1.5".into(),
        ..Response::new(Code::CONTENT)
    };
    world.bare(device).respond(now, exchange, good.clone());
    world.outcome(handle).unwrap();
    world.take_events();
    let now = world.now.instant;
    let bad = Response {
        payload: "warm".into(),
        ..good.clone()
    };
    world
        .bare(device)
        .notify(now, common::SERVER, token, bad, true);
    world.run_for(seconds(1));
    let now = world.now.instant;
    world
        .bare(device)
        .notify(now, common::SERVER, token, good, true);
    world.run_for(seconds(1));
    let events = world.take_events();
    assert!(
        matches!(
            events.as_slice(),
            [
                Event::NotificationUnreadable { ack: Some(_), .. },
                Event::Notified { .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(world.server.stats().notifications_unreadable, 1);
}
