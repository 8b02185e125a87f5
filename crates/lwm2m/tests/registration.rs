//! Devices come, stay, and go.

mod common;

use std::time::Duration;

use coap::{Code, Method, Request};
use common::{SERVER, World, client_config, path, register_request, seconds};
use lwm2m::client;
use lwm2m::server::{Event, ServerConfig};
use lwm2m::{Body, Operation, Version};

const LINKS: &str = "</1/0>,</3/0>,</3303>;ver=1.1,</3303/0>,</3303/1>";

#[test]
fn a_device_registers_with_all_it_has_to_say() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let request = register_request(
        &[
            "ep=dev1",
            "lt=60",
            "lwm2m=1.1",
            "b=UT",
            "Q",
            "sms=0123",
            "site=roof",
        ],
        LINKS,
    );
    let reply = world.from_device(device, request);

    assert_eq!(reply.code, Code::CREATED);
    let [rd, id] = reply.location_path.as_slice() else {
        panic!("{:?}", reply.location_path)
    };
    assert_eq!((rd.as_str(), id.len()), ("rd", 10));
    let events = world.take_events();
    let [
        Event::Registered {
            registration,
            replaced: None,
        },
        Event::Awake { .. },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(registration.endpoint, "dev1");
    assert_eq!(registration.registration_id, *id);
    assert_eq!(registration.peer, device);
    assert_eq!(registration.lifetime, seconds(60));
    assert_eq!(registration.version, Version::V1_1);
    assert_eq!(
        (
            registration.binding.raw.as_str(),
            registration.binding.queue
        ),
        ("UT", true)
    );
    assert_eq!(registration.sms.as_deref(), Some("0123"));
    assert_eq!(
        registration.attributes.get("site").map(String::as_str),
        Some("roof")
    );
    assert_eq!(registration.root_path, "/");
    assert_eq!(registration.object_version(3303), Some("1.1"));
    let instances = registration.available_instances();
    assert_eq!(instances[&3303].iter().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(
        registration.registered_at_unix_ms,
        registration.last_update_unix_ms
    );
}

#[test]
fn what_is_not_said_has_its_default() {
    let mut world = World::new();
    let device = world.add_bare(1);
    assert_eq!(
        world
            .from_device(device, register_request(&["ep=old"], "</3/0>"))
            .code,
        Code::CREATED
    );
    let registration = world.server.registration("old").unwrap();
    assert_eq!(registration.version, Version::V1_0);
    assert_eq!(registration.lifetime, seconds(86_400));
    assert_eq!(registration.binding.raw, "U");
    assert!(!registration.binding.queue);
}

#[test]
fn bad_registrations_are_refused_with_the_reason() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let long = format!("ep={}", "x".repeat(129));
    let many: Vec<String> = (0..33).map(|n| format!("own{n}=1")).collect();
    let many: Vec<&str> = std::iter::once("ep=d")
        .chain(many.iter().map(String::as_str))
        .collect();
    let cases: &[(&[&str], &str, Code)] = &[
        (&[], LINKS, Code::BAD_REQUEST),
        (&["ep="], LINKS, Code::BAD_REQUEST),
        (&["ep=a\u{7}b"], LINKS, Code::BAD_REQUEST),
        (&[&long], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "ep=e"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "lt=0"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "lt=-1", "lwm2m=1.1"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "lt=+5"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "lt=4294967296"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "b=X"], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "b="], LINKS, Code::BAD_REQUEST),
        (&["ep=d", "lwm2m=2.0"], LINKS, Code::PRECONDITION_FAILED),
        (&["ep=d", "lwm2m=1.2"], LINKS, Code::PRECONDITION_FAILED),
        (&["ep=d"], "", Code::BAD_REQUEST),
        (&["ep=d"], "</3/0", Code::BAD_REQUEST),
        (&many, LINKS, Code::BAD_REQUEST),
    ];
    for (query, links, code) in cases {
        let reply = world.from_device(device, register_request(query, links));
        assert_eq!(reply.code, *code, "{query:?} {links:?}");
        assert!(
            !reply.payload.is_empty(),
            "no reason for {query:?} {links:?}"
        );
    }
    let mut text = register_request(&["ep=d"], LINKS);
    text.content_format = Some(0);
    assert_eq!(
        world.from_device(device, text).code,
        Code::UNSUPPORTED_CONTENT_FORMAT
    );
    let links: String = (0..1001).map(|n| format!("</3303/{n}>,")).collect();
    let reply = world.from_device(
        device,
        register_request(&["ep=d"], links.trim_end_matches(',')),
    );
    assert_eq!(reply.code, Code::REQUEST_ENTITY_TOO_LARGE);

    assert_eq!(world.server.registered(), 0);
    assert_eq!(world.take_events(), []);
    assert_eq!(
        world.server.stats().registrations_refused,
        cases.len() as u64 + 2
    );
    assert_eq!(
        world
            .from_device(device, register_request(&["ep=d"], LINKS))
            .code,
        Code::CREATED
    );
}

#[test]
fn a_full_server_takes_no_further_device_but_known_ones() {
    let mut world = World::with(
        ServerConfig {
            max_registrations: 1,
            ..ServerConfig::default()
        },
        1,
    );
    let device = world.add_bare(1);
    assert_eq!(
        world
            .from_device(device, register_request(&["ep=a"], LINKS))
            .code,
        Code::CREATED
    );
    assert_eq!(
        world
            .from_device(device, register_request(&["ep=b"], LINKS))
            .code,
        Code::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        world
            .from_device(device, register_request(&["ep=a"], LINKS))
            .code,
        Code::CREATED
    );
    assert_eq!(world.server.stats().registrations_over_limit, 1);
}

#[test]
fn an_update_changes_only_what_it_carries() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let location = world
        .from_device(device, register_request(&["ep=dev1", "lt=60"], LINKS))
        .location_path;
    world.take_events();
    world.run_for(seconds(30));

    let reply = world.from_device(device, Request::new(Method::Post, location.clone()));
    assert_eq!(reply.code, Code::CHANGED);
    let events = world.take_events();
    let [
        Event::Updated {
            registration,
            previous,
            update,
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (update.lifetime, &update.links, &update.sms, &update.binding),
        (None, &None, &None, &None)
    );
    assert_eq!(registration.links, previous.links);
    assert!(registration.last_update_unix_ms >= previous.last_update_unix_ms + 30_000);
    assert_eq!(
        registration.registered_at_unix_ms,
        previous.registered_at_unix_ms
    );

    let mut request = Request::new(Method::Post, location);
    request.query = vec!["lt=120".into(), "b=UQ".into(), "sms=7".into()];
    request.payload = "</3/0>".into();
    assert_eq!(world.from_device(device, request).code, Code::CHANGED);
    let registration = world.server.registration("dev1").unwrap();
    assert_eq!(registration.lifetime, seconds(120));
    assert!(registration.binding.queue);
    assert_eq!(registration.sms.as_deref(), Some("7"));
    assert_eq!(registration.links.len(), 1);
}

#[test]
fn an_unknown_registration_is_not_found() {
    let mut world = World::new();
    let device = world.add_bare(1);
    for method in [Method::Post, Method::Delete] {
        assert_eq!(
            world
                .from_device(device, Request::new(method, ["rd", "nobody"]))
                .code,
            Code::NOT_FOUND
        );
    }
    assert_eq!(
        world
            .from_device(device, Request::new(Method::Get, ["rd"]))
            .code,
        Code::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        world
            .from_device(device, Request::new(Method::Get, ["elsewhere"]))
            .code,
        Code::NOT_FOUND
    );
    let core = world.from_device(device, Request::new(Method::Get, [".well-known", "core"]));
    assert_eq!((core.code, core.content_format), (Code::CONTENT, Some(40)));
}

#[test]
fn a_lifetime_that_is_over_ends_the_registration_and_an_update_prolongs_it() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let location = world
        .from_device(device, register_request(&["ep=dev1", "lt=60"], LINKS))
        .location_path;
    world.run_for(seconds(50));
    assert_eq!(
        world
            .from_device(device, Request::new(Method::Post, location.clone()))
            .code,
        Code::CHANGED
    );
    world.run_for(seconds(50));
    assert!(world.server.registration("dev1").is_some());
    world.take_events();
    world.run_for(seconds(11));
    let events = world.take_events();
    assert!(
        matches!(events.as_slice(), [Event::Deregistered { registration, expired: true }] if registration.endpoint == "dev1"),
        "{events:?}"
    );
    assert_eq!(
        world
            .from_device(device, Request::new(Method::Post, location))
            .code,
        Code::NOT_FOUND
    );
}

/// The Server object of LwM2M 1.1: "0" is a lifetime without end.
#[test]
fn a_lifetime_of_zero_has_no_end() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let request = register_request(&["ep=dev1", "lt=0", "lwm2m=1.1"], LINKS);
    let location = world.from_device(device, request).location_path;
    world.run_for(seconds(400 * 86_400));
    assert_eq!(
        world.server.registration("dev1").unwrap().lifetime,
        seconds(0)
    );
    // It can get one, lose it, and is restored with what it has.
    let mut update = |lifetime: &str| {
        let mut request = Request::new(Method::Post, location.clone());
        request.query = vec![lifetime.to_owned()];
        world.from_device(device, request).code
    };
    assert_eq!(update("lt=60"), Code::CHANGED);
    assert_eq!(update("lt=0"), Code::CHANGED);
    let stored: Vec<_> = world
        .server
        .registrations()
        .map(|registration| lwm2m::Registration::clone(registration))
        .collect();
    world.restart_server();
    let now = world.now;
    world.server.restore(now, stored, []);
    world.run_for(seconds(400 * 86_400));
    assert_eq!(world.server.registered(), 1);
    // A device of LwM2M 1.0 has no such lifetime.
    let other = world.add_bare(2);
    let location = world
        .from_device(other, register_request(&["ep=old"], LINKS))
        .location_path;
    let mut request = Request::new(Method::Post, location);
    request.query = vec!["lt=0".to_owned()];
    assert_eq!(world.from_device(other, request).code, Code::BAD_REQUEST);
}

#[test]
fn the_device_role_without_end_of_its_lifetime_never_updates() {
    let mut world = World::new();
    let config = client::ClientConfig {
        lifetime: seconds(0),
        ..client_config("dev1")
    };
    let device = world.add_client(1, config);
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(seconds(400 * 86_400));
    assert_eq!(world.server.registered(), 1);
    let updated = |event: &Event| matches!(event, Event::Updated { .. });
    assert!(!world.take_events().iter().any(updated));
}

#[test]
fn a_device_that_registers_again_replaces_itself() {
    let mut world = World::new();
    let (first, second) = (world.add_bare(1), world.add_bare(2));
    let old = world
        .from_device(first, register_request(&["ep=dev1"], LINKS))
        .location_path;
    world.take_events();
    let new = world
        .from_device(second, register_request(&["ep=dev1"], LINKS))
        .location_path;
    assert_ne!(old, new);
    let events = world.take_events();
    let [
        Event::Registered {
            registration,
            replaced: Some(replaced),
        },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((registration.peer, replaced.peer), (second, first));
    assert_eq!(world.server.registered(), 1);
    assert_eq!(
        world
            .from_device(first, Request::new(Method::Delete, old))
            .code,
        Code::NOT_FOUND
    );
    assert_eq!(
        world
            .from_device(second, Request::new(Method::Delete, new))
            .code,
        Code::DELETED
    );
    let events = world.take_events();
    assert!(
        matches!(
            events.as_slice(),
            [Event::Deregistered { expired: false, .. }]
        ),
        "{events:?}"
    );
    assert_eq!(world.server.registered(), 0);
}

#[test]
fn an_alternate_root_path_stands_before_every_path() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let links = "</lwm2m>;rt=\"oma.lwm2m\",</lwm2m/3/0>,</elsewhere>";
    world.from_device(device, register_request(&["ep=dev1"], links));
    let registration = world.server.registration("dev1").unwrap();
    assert_eq!(registration.root_path, "/lwm2m");
    let paths: Vec<_> = registration.object_paths().map(|(path, _)| path).collect();
    assert_eq!(paths, [path("/3/0")]);
    world.request(
        "dev1",
        Operation::Read {
            path: path("/3/0/1"),
        },
    );
    world.run_for(seconds(1));
    let (_, event) = world.bare_events.last().unwrap();
    assert!(
        matches!(event, coap::Event::Request { request, .. } if request.path == ["lwm2m", "3", "0", "1"]),
        "{event:?}"
    );
}

#[test]
fn the_device_role_registers_updates_in_time_and_leaves() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let registration = world.server.registration("dev1").unwrap().clone();
    assert_eq!(registration.version, Version::V1_1);
    let instances = registration.available_instances();
    assert_eq!(
        instances.keys().copied().collect::<Vec<_>>(),
        [1, 3, 3303],
        "all but the security object"
    );
    world.run_for(seconds(3_600));
    let now = world.server.registration("dev1").unwrap();
    assert_eq!(
        now.registration_id, registration.registration_id,
        "updated, never registered anew"
    );
    let at = world.now.instant;
    world.client(device).deregister(at);
    world.run_for(seconds(1));
    assert_eq!(world.server.registered(), 0);
    assert_eq!(world.client(device).status(), client::Status::Idle);
}

#[test]
fn the_device_role_registers_anew_when_the_server_lost_it() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    world.restart_server();
    world.run_for(seconds(300));
    assert!(world.server.registration("dev1").is_some());
    let events = &world.device_events;
    let registered =
        |(_, event): &&(_, client::Event)| matches!(event, client::Event::Registered { .. });
    assert_eq!(events.iter().filter(registered).count(), 2);
    assert_eq!(world.client(device).status(), client::Status::Registered);
}

#[test]
fn the_device_role_keeps_trying_with_longer_waits_while_nobody_answers() {
    let mut world = World::new();
    world.weather.lost = 1.0;
    let device = world.add_client(1, client_config("dev1"));
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(seconds(1_200));
    let waits: Vec<Duration> = world
        .device_events
        .iter()
        .filter_map(|(_, event)| match event {
            client::Event::RegistrationFailed { retry_in, .. } => Some(*retry_in),
            _ => None,
        })
        .collect();
    assert!(waits.len() >= 5, "{waits:?}");
    assert!(waits[4] > waits[0] * 4, "{waits:?}");
    world.weather.lost = 0.0;
    world.run_for(seconds(600));
    assert!(world.server.registration("dev1").is_some());
}

#[test]
fn a_written_lifetime_and_an_update_trigger_reach_the_server_at_once() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let node = lwm2m_model::Node::single(1, lwm2m_model::Value::Integer(1_000));
    let write = Operation::Write {
        path: path("/1/0/1"),
        mode: lwm2m::WriteMode::Replace,
        node,
    };
    assert_eq!(world.ask("dev1", write).unwrap().code, Code::CHANGED);
    world.run_for(seconds(1));
    assert_eq!(
        world.server.registration("dev1").unwrap().lifetime,
        seconds(1_000)
    );
    world.take_events();
    let trigger = Operation::Execute {
        path: path("/1/0/8"),
        arguments: String::new(),
    };
    assert_eq!(world.ask("dev1", trigger).unwrap().body, Body::None);
    world.run_for(seconds(1));
    assert!(
        world
            .take_events()
            .iter()
            .any(|event| matches!(event, Event::Updated { .. }))
    );
    assert_eq!(world.client(device).status(), client::Status::Registered);
}

/// A device that came from a bootstrap server shows it: its Security and Server objects, several servers by their short
/// ids, an alternate path, formats and versions, and parameters that no specification has.
#[test]
fn a_device_that_a_bootstrap_server_sent_is_welcome() {
    let mut world = World::new();
    let device = world.add_bare(1);
    let links = "</lwm2m>;rt=\"oma.lwm2m\";ct=\"60 110 112 11542 11543\",</lwm2m/0/0>,</lwm2m/0/1>,\
                 </lwm2m/1>;ver=1.1,</lwm2m/1/0>;ssid=101,</lwm2m/1/1>;ssid=102,</lwm2m/2/0>,\
                 </lwm2m/3/0>,</lwm2m/21/0>,</lwm2m/65000/7>;ver=2.0,</other>;rt=\"oic.r\";obs";
    let query = [
        "ep=dev1",
        "lwm2m=1.1",
        "lt=60",
        "b=U",
        "bs=coaps://boot",
        "pct=112",
    ];
    let reply = world.from_device(device, register_request(&query, links));
    assert_eq!(reply.code, Code::CREATED);
    let registration = world.server.registration("dev1").unwrap();
    assert_eq!(registration.root_path, "/lwm2m");
    assert_eq!(
        registration.content_formats().collect::<Vec<_>>(),
        [60, 110, 112, 11542, 11543]
    );
    let instances = registration.available_instances();
    assert_eq!(instances[&1].iter().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(instances[&0].len(), 2);
    assert_eq!(registration.object_version(1), Some("1.1"));
    let servers: Vec<_> = registration
        .object_paths()
        .filter_map(|(at, link)| Some((at.to_string(), link.attribute("ssid")?.to_owned())))
        .collect();
    assert_eq!(
        servers,
        [
            ("/1/0".to_owned(), "101".to_owned()),
            ("/1/1".to_owned(), "102".to_owned())
        ]
    );
    assert_eq!(registration.attributes["bs"], "coaps://boot");

    // It is asked at its own path.
    world.request(
        "dev1",
        Operation::Read {
            path: path("/3/0/0"),
        },
    );
    world.run_for(seconds(1));
    let (_, request) = world.asked_of(device);
    assert_eq!(request.path, ["lwm2m", "3", "0", "0"]);
}

#[test]
fn a_version_that_is_not_spoken_here_is_refused_until_the_device_offers_one_that_is() {
    let mut world = World::new();
    let device = world.add_bare(1);
    for (version, code) in [
        ("lwm2m=1.2", Code::PRECONDITION_FAILED),
        ("lwm2m=", Code::PRECONDITION_FAILED),
        ("lwm2m=1.1", Code::CREATED),
        ("lwm2m=1.0", Code::CREATED),
    ] {
        let reply = world.from_device(device, register_request(&["ep=dev1", version], LINKS));
        assert_eq!(reply.code, code, "{version}");
    }
    assert_eq!(
        world.server.registration("dev1").unwrap().version,
        Version::V1_0
    );
}

/// A fleet of like devices has one list of links in memory.
#[test]
fn like_devices_share_their_list() {
    let mut world = World::new();
    for number in 1..=3 {
        let device = world.add_bare(number);
        let endpoint = format!("ep=dev{number}");
        let links = if number == 3 { "</3/0>" } else { LINKS };
        world.from_device(device, register_request(&[&endpoint], links));
    }
    let links = |endpoint: &str| &world.server.registration(endpoint).unwrap().links;
    assert!(std::sync::Arc::ptr_eq(links("dev1"), links("dev2")));
    assert!(!std::sync::Arc::ptr_eq(links("dev1"), links("dev3")));
    let stored: Vec<String> = world
        .server
        .registrations()
        .map(|registration| serde_json::to_string(registration.as_ref()).unwrap())
        .collect();
    world.restart_server();
    let now = world.now;
    let restored = stored
        .iter()
        .map(|json| serde_json::from_str(json).unwrap());
    world.server.restore(now, restored, []);
    let links = |endpoint: &str| &world.server.registration(endpoint).unwrap().links;
    assert!(std::sync::Arc::ptr_eq(links("dev1"), links("dev2")));
    assert_eq!(world.server.registered(), 3);
}
