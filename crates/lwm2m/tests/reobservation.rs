//! What outlasts restarts of the device and of the server, changes of address and new sessions: observations, under their
//! tickets, and lifetimes.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::time::Duration;

use coap::{Code, Method, Peer, Request, Response};
use common::{
    SERVER, TEMPERATURE, World, cancel, device_peer, float, notified, observation, observe,
    observed, path, register_request, seconds, with_ticket,
};
use lwm2m::server::{Event, ObservationLoss, RequestOptions};
use lwm2m::{Body, Observation, ObservationState, Operation, Registration, RequestError};
use lwm2m_model::Value;

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
