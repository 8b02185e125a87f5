//! Observations: values come, and go on coming over restarts of the device, of the server, and changes of address.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::time::Duration;

use coap::{Code, Method, Peer, Request, Response};
use common::{
    SERVER, World, client_config, device_peer, notified, path, register_request, value, with_ticket,
};
use lwm2m::client::{self, NotificationMode};
use lwm2m::server::{Event, ObservationEnd, ObservationLoss, RequestOptions, ServerConfig};
use lwm2m::{Body, Observation, ObservationState, Operation, Registration, RequestError};
use lwm2m_model::{Node, Value};

const TEMPERATURE: &str = "/3303/0/5700";

fn observe(at: &str) -> Operation {
    Operation::Observe { path: path(at) }
}

fn cancel(at: &str, active: bool) -> Operation {
    Operation::CancelObserve {
        path: path(at),
        active,
    }
}

fn attributes(at: &str, attributes: &[&str]) -> Operation {
    Operation::WriteAttributes {
        path: path(at),
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
    }
}

fn float(value: f64, context: &str) -> (Value, Option<String>) {
    (Value::Float(value), Some(context.to_owned()))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A registered device whose temperature is observed with a ticket.
fn observed(world: &mut World) -> coap::Peer {
    let device = world.registered(1, "dev1");
    let handle = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t1"));
    let first = world.outcome(handle).unwrap();
    assert_eq!(value(&first), Value::Float(20.0));
    device
}

fn observation(world: &World) -> (Observation, ObservationState) {
    let (observation, state) = world.server.observations("dev1").next().unwrap();
    (Observation::clone(observation), state)
}

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
fn a_device_that_restarts_is_asked_again_under_the_same_ticket() {
    let mut world = World::new();
    let device = observed(&mut world);
    let (before, _) = observation(&world);
    for n in 0..3 {
        world.set(device, TEMPERATURE, Value::Float(f64::from(n)));
        world.run_for(seconds(1));
    }
    world.take_events();
    let now = world.now.instant;
    world.client(device).restart(now);
    assert_eq!(world.client(device).observed(), 0);
    world.run_for(seconds(1));
    let events = world.take_events();
    assert_eq!(
        notified(&events),
        [float(2.0, "t1")],
        "the first value comes as a notification"
    );
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Completed { .. })),
        "never as a second reply"
    );
    let (after, state) = observation(&world);
    assert_eq!(
        (after.token, after.context, state),
        (before.token, before.context, ObservationState::Active)
    );
    assert_ne!(after.registration_id, before.registration_id);
    assert_eq!(world.client(device).observed(), 1);
    world.set(device, TEMPERATURE, Value::Float(30.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(30.0, "t1")]);
}

#[test]
fn a_device_that_was_away_brings_its_telemetry_back() {
    let mut world = World::new();
    let device = observed(&mut world);
    let now = world.now.instant;
    world.client(device).deregister(now);
    world.run_for(seconds(3_600));
    assert_eq!(world.server.registered(), 0);
    assert_eq!(observation(&world).1, ObservationState::Dormant);
    let refused = world.server.request(
        world.now,
        "dev1",
        observe(TEMPERATURE),
        RequestOptions::default(),
    );
    assert_eq!(refused, Err(RequestError::NotRegistered("dev1".into())));
    world.take_events();
    let elsewhere = common::device_peer(2);
    world.move_device(device, elsewhere);
    let now = world.now.instant;
    world.client(elsewhere).start(now, common::SERVER);
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(20.0, "t1")]);
}

#[test]
fn what_is_cancelled_while_the_device_is_away_stays_away() {
    let mut world = World::new();
    let device = observed(&mut world);
    let now = world.now.instant;
    world.client(device).deregister(now);
    world.run_for(seconds(1));
    assert_eq!(
        world.ask("dev1", cancel(TEMPERATURE, false)).unwrap().body,
        Body::Cancelled(1)
    );
    world.take_events();
    let now = world.now.instant;
    world.client(device).start(now, common::SERVER);
    world.run_for(seconds(10));
    assert_eq!(notified(&world.take_events()), []);
    assert_eq!(world.client(device).observed(), 0);
}

#[test]
fn a_new_address_takes_its_observations_along() {
    let mut world = World::new();
    let old = observed(&mut world);
    let new = common::device_peer(2);
    world.move_device(old, new);
    let now = world.now.instant;
    world.client(new).update(now);
    world.run_for(seconds(1));
    let events = world.take_events();
    let updated = events.iter().find_map(|event| match event {
        Event::Updated {
            registration,
            previous,
            ..
        } => Some((previous.peer, registration.peer)),
        _ => None,
    });
    assert_eq!(updated, Some((old, new)));
    world.set(new, TEMPERATURE, Value::Float(23.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(23.0, "t1")]);
    assert!(
        world
            .ask(
                "dev1",
                Operation::Read {
                    path: path("/3/0/0")
                }
            )
            .is_ok()
    );
    assert_eq!(world.client(new).observed(), 1);
}

#[test]
fn a_change_of_address_in_the_middle_of_a_notification_ends_no_observation() {
    let mut world = World::new();
    let old = observed(&mut world);
    world.weather.delay = (seconds(2), seconds(2));
    world.set(old, TEMPERATURE, Value::Float(24.0));
    world.weather.delay = (Duration::from_millis(10), Duration::from_millis(10));
    // The acknowledgement goes to the old address; the device sends the notification again from the new one.
    let new = common::device_peer(2);
    world.move_device(old, new);
    world.run_for(seconds(5));
    let values = notified(&world.take_events());
    assert!(
        !values.is_empty() && values.iter().all(|value| *value == float(24.0, "t1")),
        "{values:?}"
    );
    // Without the device's knowing that it has moved.
    world.set(new, TEMPERATURE, Value::Float(25.0));
    world.run_for(seconds(5));
    assert_eq!(notified(&world.take_events()), [float(25.0, "t1")]);
    let now = world.now.instant;
    world.client(new).update(now);
    world.run_for(seconds(1));
    world.set(new, TEMPERATURE, Value::Float(26.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(26.0, "t1")]);
    assert_eq!(world.server.coap_stats().resets_sent, 0);
    assert_eq!(world.client(new).observed(), 1);
    // A stranger with a token of its own making is reset all the same.
    let stranger = world.add_bare(9);
    let now = world.now.instant;
    let value = Response {
        observe: Some(0),
        payload: "99".into(),
        ..Response::new(Code::CONTENT)
    };
    world.bare(stranger).notify(
        now,
        common::SERVER,
        coap::Token::new(&[7; 8]).unwrap(),
        value,
        true,
    );
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), []);
    assert_eq!(world.server.coap_stats().resets_sent, 1);
}

#[test]
fn a_device_that_refuses_an_observation_again_keeps_it_waiting() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let register = register_request(&["ep=dev1"], "</3303/0>");
    let location = world.from_device(device, register.clone()).location_path;
    let answer = |world: &mut World, observe: Option<u32>, code: Code| {
        world.run_for(Duration::from_millis(100));
        let at = world
            .bare_events
            .iter()
            .position(|(_, e)| matches!(e, coap::Event::Request { .. }))
            .expect("asked");
        let coap::Event::Request {
            exchange, request, ..
        } = world.bare_events.remove(at).1
        else {
            unreachable!()
        };
        assert_eq!(
            (request.observe, request.path.join("/")),
            (Some(0), "3303/0/5700".to_owned())
        );
        let now = world.now.instant;
        let response = Response {
            observe,
            content_format: Some(0),
            payload: "1.5".into(),
            ..Response::new(code)
        };
        world.bare(device).respond(now, exchange, response);
        world.run_for(Duration::from_millis(100));
    };
    let handle = world.request_with("dev1", observe(TEMPERATURE), with_ticket("t1"));
    answer(&mut world, Some(1), Code::CONTENT);
    assert!(world.outcome(handle).is_ok());

    world.from_device(device, register);
    assert_eq!(observation(&world).1, ObservationState::Establishing);
    answer(&mut world, None, Code::NOT_FOUND);
    let events = world.take_events();
    assert!(
        events.iter().any(|e| matches!(
            e,
            Event::ObservationLost {
                why: ObservationLoss::Refused(Code::NOT_FOUND),
                ..
            }
        )),
        "{events:?}"
    );
    assert_eq!(observation(&world).1, ObservationState::Dormant);

    // Its objects have not changed: it is left in peace. When they have, it is asked.
    let location = match world.server.registration("dev1") {
        Some(registration) => vec!["rd".to_owned(), registration.registration_id.clone()],
        None => location,
    };
    world.from_device(device, Request::new(Method::Post, location.clone()));
    world.run_for(seconds(1));
    assert!(
        !world
            .bare_events
            .iter()
            .any(|(_, e)| matches!(e, coap::Event::Request { .. }))
    );
    let update = Request {
        payload: "</3303/0>".into(),
        ..Request::new(Method::Post, location)
    };
    world.from_device(device, update);
    answer(&mut world, Some(1), Code::CONTENT);
    assert_eq!(observation(&world).1, ObservationState::Active);
    assert_eq!(notified(&world.take_events()), [float(1.5, "t1")]);
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

/// After a restart of the server every device has a new DTLS session, and may go on notifying without an update.
#[test]
fn a_new_session_of_the_same_identity_goes_on_with_its_observations() {
    let mut world = World::new();
    let secure = |session| Peer {
        session,
        ..device_peer(1)
    };
    let (old, new, other) = (secure(1), secure(2), secure(3));
    world.add_bare(1);
    world.move_device(device_peer(1), old);
    world
        .server
        .set_admission(move |from, _| from == old || from == new);
    world.from_device(old, register_request(&["ep=dev1"], "</3303/0>"));
    let observe = Operation::Observe {
        path: path(TEMPERATURE),
    };
    let handle = world.request("dev1", observe);
    world.run_for(seconds(1));
    let (exchange, token) = world.asked_token(old);
    let answer = |celsius: &str| Response {
        content_format: Some(0),
        observe: Some(0),
        payload: celsius.as_bytes().to_vec().into(),
        ..Response::new(Code::CONTENT)
    };
    let now = world.now.instant;
    world.bare(old).respond(now, exchange, answer("1"));
    world.outcome(handle).unwrap();
    world.run_for(seconds(1));
    world.take_events();

    // Somebody else's session has the token: it is reset, and nothing of it believed.
    world.move_device(old, other);
    let now = world.now.instant;
    world
        .bare(other)
        .notify(now, SERVER, token, answer("66"), true);
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), []);
    assert_eq!(world.server.coap_stats().resets_sent, 1);

    world.move_device(other, new);
    let now = world.now.instant;
    for _ in 0..2 {
        world
            .bare(new)
            .notify(now, SERVER, token, answer("2"), true);
    }
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()).len(), 2);
    assert_eq!(world.server.coap_stats().resets_sent, 1);
    // What is asked of it goes to the session that there is, and it may Send there.
    world.request(
        "dev1",
        Operation::Read {
            path: path("/3303/0/5700"),
        },
    );
    world.run_for(seconds(1));
    world.asked_of(new);
    let mut send = coap::Request::new(coap::Method::Post, ["dp"]);
    send.content_format = Some(110);
    send.payload = br#"[{"n":"/3303/0/5700","v":3}]"#.to_vec().into();
    assert_eq!(world.from_device(new, send).code, Code::CHANGED);
}

/// A device that comes without security first, and then with a session: what is at its old address has shown nothing.
#[test]
fn who_came_without_security_is_nobody_once_the_device_has_a_session() {
    for by_update in [false, true] {
        let mut world = World::new();
        world.server.set_admission(|_, _| true);
        let (plain, crook) = (world.add_bare(1), world.add_bare(2));
        let secure = Peer {
            session: 7,
            ..device_peer(3)
        };
        let location = world
            .from_device(plain, register_request(&["ep=dev1"], "</3303/0>"))
            .location_path;
        let observe = Operation::Observe {
            path: path(TEMPERATURE),
        };
        let handle = world.request("dev1", observe);
        world.run_for(seconds(1));
        let (exchange, token) = world.asked_token(plain);
        let answer = |celsius: &str| Response {
            content_format: Some(0),
            observe: Some(0),
            payload: celsius.as_bytes().to_vec().into(),
            ..Response::new(Code::CONTENT)
        };
        let now = world.now.instant;
        world.bare(plain).respond(now, exchange, answer("1"));
        world.outcome(handle).unwrap();
        // A stray address, as a NAT gives one.
        let now = world.now.instant;
        world
            .bare(crook)
            .notify(now, SERVER, token, answer("2"), true);
        world.run_for(seconds(1));
        assert_eq!(notified(&world.take_events()).len(), 1);

        world.add_bare(3);
        world.move_device(device_peer(3), secure);
        let request = match by_update {
            true => coap::Request::new(coap::Method::Post, location.clone()),
            false => register_request(&["ep=dev1"], "</3303/0>"),
        };
        assert!(world.from_device(secure, request).code.is_success());
        world.run_for(seconds(1));
        world.take_events();
        for peer in [plain, crook] {
            let now = world.now.instant;
            world
                .bare(peer)
                .notify(now, SERVER, token, answer("66"), true);
            world.run_for(seconds(1));
            assert_eq!(notified(&world.take_events()), [], "{peer}");
        }
        // Nor may it take the name back, whatever the admission says; nor update or end what the device has.
        let again = register_request(&["ep=dev1"], "</3303/0>");
        assert_eq!(world.from_device(plain, again).code, Code::FORBIDDEN);
        if by_update {
            for method in [coap::Method::Post, coap::Method::Delete] {
                let request = coap::Request::new(method, location.clone());
                assert_eq!(world.from_device(plain, request).code, Code::FORBIDDEN);
            }
        }
        assert_eq!(world.server.registration("dev1").unwrap().peer, secure);
        let now = world.now.instant;
        world
            .bare(secure)
            .notify(now, SERVER, token, answer("3"), true);
        world.run_for(seconds(1));
        assert_eq!(notified(&world.take_events()).len(), 1);
    }
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
fn a_server_that_restarts_goes_on_from_its_store() {
    let mut world = World::new();
    let device = observed(&mut world);
    // What a store keeps is text.
    let registrations: Vec<String> = world
        .server
        .registrations()
        .map(|registration| serde_json::to_string(&**registration).unwrap())
        .collect();
    let observations: Vec<String> = world
        .server
        .observations("dev1")
        .map(|(observation, _)| serde_json::to_string(&**observation).unwrap())
        .collect();
    let before = world.server.registration("dev1").unwrap().clone();
    world.restart_server();
    let registrations: Vec<Registration> = registrations
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let observations: Vec<Observation> = observations
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    world.server.restore(world.now, registrations, observations);
    assert_eq!(**world.server.registration("dev1").unwrap(), *before);
    world.take_events();
    world.set(device, TEMPERATURE, Value::Float(25.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(25.0, "t1")]);
    assert_eq!(world.client(device).observed(), 1);
    assert!(
        world
            .ask(
                "dev1",
                Operation::Read {
                    path: path("/3/0/0")
                }
            )
            .is_ok()
    );
    world.run_for(seconds(600));
    assert_eq!(
        world.server.registration("dev1").unwrap().registration_id,
        before.registration_id
    );
}

#[test]
fn lifetimes_go_on_over_a_restart_and_may_be_over() {
    let mut world = World::new();
    let device = observed(&mut world);
    let registration = Registration::clone(world.server.registration("dev1").unwrap());
    let (kept, _) = observation(&world);
    world.devices.clear();
    world.restart_server();
    world.now.unix_ms += 200_000;
    world
        .server
        .restore(world.now, [registration.clone()], [kept.clone()]);
    world.take_events();
    world.run_for(seconds(90));
    assert!(
        world.server.registration("dev1").is_some(),
        "300 s, 200 of which the server was down"
    );
    world.run_for(seconds(11));
    assert!(matches!(
        world.take_events().as_slice(),
        [Event::Deregistered { expired: true, .. }]
    ));

    world.restart_server();
    world.server.restore(world.now, [registration], [kept]);
    assert_eq!(world.server.registered(), 1);
    world.run_for(seconds(0));
    let events = world.take_events();
    assert!(
        matches!(
            events.as_slice(),
            [Event::Deregistered { expired: true, .. }]
        ),
        "{events:?}"
    );
    assert_eq!(
        observation(&world).1,
        ObservationState::Dormant,
        "still there for {device}'s return"
    );
}

#[test]
fn thousands_of_registrations_that_are_over_end_in_turns() {
    let mut world = World::new();
    observed(&mut world);
    let registration = Registration::clone(world.server.registration("dev1").unwrap());
    world.devices.clear();
    world.restart_server();
    world.now.unix_ms += 400_000;
    let registrations = (0..2_500).map(|n| Registration {
        endpoint: format!("dev{n}"),
        registration_id: format!("id{n}"),
        ..registration.clone()
    });
    world.server.restore(world.now, registrations, []);
    world.take_events();
    assert_eq!(world.server.registered(), 2_500);
    world.server.handle_timeout(world.now);
    assert_eq!(
        world.server.registered(),
        1_500,
        "a turn of the driver stays short"
    );
    assert_eq!(world.server.next_timeout(), Some(world.now.instant));
    world.run_for(seconds(0));
    assert_eq!(world.server.registered(), 0);
    assert_eq!(world.take_events().len(), 2_500);
}

#[test]
fn an_observation_not_confirmed_before_the_crash_is_asked_for_after_it() {
    let mut world = World::new();
    let device = observed(&mut world);
    let mut kept = observation(&world).0;
    kept.registration_id = "before".into();
    let registration = Registration::clone(world.server.registration("dev1").unwrap());
    world.restart_server();
    world.server.restore(world.now, [registration], [kept]);
    world.take_events();
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), [float(20.0, "t1")]);
    assert_eq!(world.client(device).observed(), 1);
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
fn a_server_at_another_address_starts_without_observations() {
    let mut world = World::new();
    let device = observed(&mut world);
    let elsewhere = world.add_bare(7);
    let now = world.now.instant;
    world.client(device).start(now, elsewhere);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.client(device).observed(), 0);
    let asked = world.bare_events.pop();
    assert!(
        matches!(&asked, Some((at, coap::Event::Request { request, .. })) if *at == elsewhere && request.path == ["rd"]),
        "{asked:?}"
    );
    world.take_events();
    world.set(device, TEMPERATURE, Value::Float(1.0));
    world.run_for(seconds(1));
    assert_eq!(notified(&world.take_events()), []);
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
