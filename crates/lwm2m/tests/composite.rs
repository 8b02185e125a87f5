//! Several places in one exchange: composite read, write, observe and cancel (TS 1.1 core, sections 6.3.8, 6.3.9, 6.4.4
//! and 6.4.5).

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use coap::{Code, Method, Response};
use common::{SERVER, World, client_config, path, register_request, value, with_ticket};
use lwm2m::client::{self, ClientConfig};
use lwm2m::server::{Event, RequestOptions, ServerConfig};
use lwm2m::{Body, DeviceResponse, ObservationState, Operation, RequestError, Target, Version};
use lwm2m_codec::{ContentFormat, decode_paths, encode_nodes};
use lwm2m_model::{Node, ObjectPath, ResourceNode, Value, ValueType};

fn paths(texts: &[&str]) -> Vec<ObjectPath> {
    texts.iter().map(|text| path(text)).collect()
}

fn nodes(response: &DeviceResponse) -> &BTreeMap<ObjectPath, Node> {
    match &response.body {
        Body::Nodes(nodes) => nodes,
        other => panic!("no nodes: {other:?}"),
    }
}

fn temperature(nodes: &BTreeMap<ObjectPath, Node>, at: &str) -> f64 {
    match &nodes[&path(at)] {
        Node::Resource(node) => match &node.content {
            lwm2m_model::ResourceContent::Single(Value::Float(value)) => *value,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn format(format: ContentFormat) -> RequestOptions {
    RequestOptions {
        content_format: Some(format),
        ..RequestOptions::default()
    }
}

const LISTS: [&str; 2] = ["/3303/0/5700", "/3303/1/5700"];

fn observe() -> Operation {
    Operation::ObserveComposite {
        paths: paths(&LISTS),
    }
}

fn composite_notifications(events: &[Event]) -> Vec<(f64, f64, Option<String>)> {
    let notified = events.iter().filter_map(|event| match event {
        Event::Notified {
            observation,
            response,
            ..
        } => {
            let nodes = nodes(response);
            let temperatures = LISTS.map(|at| temperature(nodes, at));
            Some((
                temperatures[0],
                temperatures[1],
                observation.context.clone(),
            ))
        }
        _ => None,
    });
    notified.collect()
}

#[test]
fn a_list_is_read_at_every_level_in_both_formats() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let read = || Operation::ReadComposite {
        paths: paths(&["/3/0/1", "/3303/1", "/6", "/3/0/6/1", "/3/0/6", "/3/0/9"]),
    };
    for wanted in [
        None,
        Some(ContentFormat::SenmlCbor),
        Some(ContentFormat::SenmlJson),
    ] {
        let options = RequestOptions {
            content_format: wanted,
            list_format: wanted.map(|_| ContentFormat::SenmlJson),
            ..RequestOptions::default()
        };
        let handle = world.request_with("dev1", read(), options);
        let response = world.outcome(handle).unwrap();
        let nodes = nodes(&response);
        assert_eq!(
            nodes[&path("/3/0/1")],
            Node::single(1, Value::String("test device".into()))
        );
        assert!(matches!(&nodes[&path("/3303/1")], Node::Instance(it) if it.resources.len() == 4));
        assert_eq!(
            nodes[&path("/3/0/6/1")],
            Node::ResourceInstance {
                id: 1,
                value: Value::Integer(5)
            }
        );
        assert!(matches!(&nodes[&path("/3/0/6")], Node::Resource(_)));
        // There is no location, and no battery: they are left out, and the rest is answered.
        assert_eq!(nodes.len(), 4, "{wanted:?}");
    }
}

#[test]
fn the_root_in_a_list_stands_for_the_whole_device_but_its_keys() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let whole = Operation::ObserveComposite {
        paths: paths(&["/", "/3/0/1"]),
    };
    let response = world.ask("dev1", whole).unwrap();
    let nodes = nodes(&response);
    assert!(nodes.contains_key(&path("/3/0/1")) && nodes.contains_key(&path("/3303/1/5701")));
    assert!(
        nodes
            .keys()
            .all(|at| at.depth() == 3 && at.object_id() != Some(0))
    );
    world.take_events();
    world.set(device, "/3303/1/5700", Value::Float(1.0));
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        composite_notifications(&world.take_events()),
        [(20.0, 1.0, None)]
    );
}

#[test]
fn what_no_server_may_read_is_left_out_or_refused() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let read = |list: &[&str]| Operation::ReadComposite { paths: paths(list) };
    let response = world.ask("dev1", read(&["/0/0/5", "/3/0/1"])).unwrap();
    assert_eq!(
        nodes(&response).keys().copied().collect::<Vec<_>>(),
        paths(&["/3/0/1"])
    );
    let response = world.ask("dev1", read(&["/0/0/5"])).unwrap();
    assert_eq!(response.code, Code::UNAUTHORIZED);
}

#[test]
fn what_makes_no_composite_is_not_sent() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let nothing = Operation::ReadComposite { paths: vec![] };
    let object = Operation::WriteComposite {
        nodes: BTreeMap::from([(path("/3"), Node::single(0, Value::Integer(1)))]),
    };
    for operation in [nothing, object] {
        let refused = world
            .server
            .request(world.now, "dev1", operation, RequestOptions::default());
        assert!(
            matches!(refused, Err(RequestError::Invalid { .. })),
            "{refused:?}"
        );
    }
    let refused = world
        .server
        .request(world.now, "dev1", observe(), format(ContentFormat::Tlv));
    assert!(
        matches!(refused, Err(RequestError::Encode(_))),
        "{refused:?}"
    );
}

#[test]
fn a_composite_write_is_done_wholly_or_not_at_all() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let write = |zone: &str, second: (&str, Node)| Operation::WriteComposite {
        nodes: BTreeMap::from([
            (
                path("/3/0/15"),
                Node::single(15, Value::String(zone.to_owned())),
            ),
            (path(second.0), second.1),
        ]),
    };
    let lifetime = |value| ("/1/0/1", Node::single(1, Value::Integer(value)));
    let response = world.ask("dev1", write("Europe/Athens", lifetime(600)));
    assert_eq!(response.unwrap().code, Code::CHANGED);
    let tree = world.client(device).objects();
    assert_eq!(
        tree.get(&path("/3/0/15")),
        Some(&Value::String("Europe/Athens".into()))
    );
    assert_eq!(tree.get(&path("/1/0/1")), Some(&Value::Integer(600)));
    let written = |world: &World| {
        let events = world.device_events.iter();
        let written = events.filter(|(_, event)| matches!(event, client::Event::Written { .. }));
        written.count()
    };
    assert_eq!(written(&world), 2);

    // The manufacturer is not for servers to write, and /1/9 is not there.
    let refused = [
        (
            ("/3/0/0", Node::single(0, Value::String("mine".into()))),
            Code::METHOD_NOT_ALLOWED,
        ),
        (
            ("/1/9/1", Node::single(1, Value::Integer(9))),
            Code::NOT_FOUND,
        ),
    ];
    for (second, code) in refused {
        let response = world.ask("dev1", write("UTC", second)).unwrap();
        assert_eq!(response.code, code);
    }
    let tree = world.client(device).objects();
    assert_eq!(
        tree.get(&path("/3/0/15")),
        Some(&Value::String("Europe/Athens".into())),
        "nothing of it was done"
    );
    assert_eq!(written(&world), 2);
}

#[test]
fn a_composite_write_goes_out_as_one_ipatch() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(
        device,
        register_request(&["ep=dev1", "lwm2m=1.1"], "</3/0>"),
    );
    let operation = Operation::WriteComposite {
        nodes: BTreeMap::from([(
            path("/3/0/15"),
            Node::single(15, Value::String("UTC".into())),
        )]),
    };
    let handle = world.request("dev1", operation);
    world.run_for(Duration::from_secs(1));
    let request = world.asked_of(device);
    assert_eq!(request.1.method, Method::IPatch);
    assert!(request.1.path.is_empty());
    assert_eq!(request.1.content_format, Some(112));
    let now = world.now.instant;
    world
        .bare(device)
        .respond(now, request.0, Response::new(Code::CHANGED));
    assert_eq!(world.outcome(handle).unwrap().code, Code::CHANGED);
}

#[test]
fn a_list_is_observed_and_told_as_a_whole() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let handle = world.request_with("dev1", observe(), with_ticket("t1"));
    let first = world.outcome(handle).unwrap();
    assert_eq!(temperature(nodes(&first), "/3303/1/5700"), 20.0);
    let started = world.take_events();
    let token = started.iter().find_map(|event| match event {
        Event::ObservationStarted { observation, .. } => Some(observation.token),
        _ => None,
    });
    assert!(token.is_some());

    world.set(device, "/3303/1/5700", Value::Float(21.5));
    world.set(device, "/3303/0/5700", Value::Float(19.0));
    world.set(device, "/3303/0/5601", Value::Float(19.0));
    world.run_for(Duration::from_secs(1));
    let ticket = || Some("t1".to_owned());
    assert_eq!(
        composite_notifications(&world.take_events()),
        [(20.0, 21.5, ticket()), (19.0, 21.5, ticket())],
        "the minimum is in nobody's list"
    );

    // The same list in another order is the same observation, with the same token.
    let mut turned = paths(&LISTS);
    turned.reverse();
    let again = Operation::ObserveComposite { paths: turned };
    let handle = world.request_with("dev1", again, with_ticket("t2"));
    world.outcome(handle).unwrap();
    let kept: Vec<_> = world.server.observations("dev1").collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(Some(kept[0].0.token), token);
    assert_eq!(kept[0].0.context.as_deref(), Some("t2"));
    assert_eq!(kept[0].1, ObservationState::Active);
}

#[test]
fn a_single_path_and_a_list_of_it_are_two_observations() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let single = Operation::Observe {
        path: path(LISTS[0]),
    };
    world.ask("dev1", single).unwrap();
    let list = Operation::ObserveComposite {
        paths: paths(&LISTS[..1]),
    };
    world.ask("dev1", list).unwrap();
    assert_eq!(world.server.observations("dev1").count(), 2);
    world.take_events();
    world.set(device, LISTS[0], Value::Float(1.0));
    world.run_for(Duration::from_secs(1));
    let events = world.take_events();
    let bodies: Vec<bool> = events
        .iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(matches!(response.body, Body::Nodes(_))),
            _ => None,
        })
        .collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies.contains(&true) && bodies.contains(&false));
}

#[test]
fn a_list_is_cancelled_passively_by_a_reset_and_actively_by_a_fetch() {
    for active in [false, true] {
        let mut world = World::new();
        let device = world.registered(1, "dev1");
        world.ask("dev1", observe()).unwrap();
        let cancel = Operation::CancelObserveComposite {
            paths: paths(&LISTS),
            active,
        };
        let response = world.ask("dev1", cancel.clone()).unwrap();
        match (&response.body, active) {
            (Body::Cancelled(1), false) => assert_eq!(response.code, Code::DELETED),
            (Body::Nodes(nodes), true) => assert_eq!(nodes.len(), 2),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.server.observations("dev1").count(), 0);
        assert_eq!(world.client(device).observed(), usize::from(!active));
        world.take_events();
        for value in [1.0, 2.0] {
            world.set(device, LISTS[0], Value::Float(value));
            world.run_for(Duration::from_secs(1));
        }
        assert_eq!(composite_notifications(&world.take_events()), []);
        assert_eq!(world.client(device).observed(), 0, "it has learnt of it");
        let response = world.ask("dev1", cancel).unwrap();
        assert_eq!(response.code, Code::NOT_FOUND, "there is none any more");
    }
}

#[test]
fn a_device_that_starts_over_is_asked_for_the_list_again_under_its_token() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let handle = world.request_with("dev1", observe(), with_ticket("t1"));
    world.outcome(handle).unwrap();
    let token = world.server.observations("dev1").next().unwrap().0.token;
    world.take_events();
    let now = world.now.instant;
    world.client(device).restart(now);
    world.run_for(Duration::from_secs(1));
    let first: Vec<_> = composite_notifications(&world.take_events());
    assert_eq!(first, [(20.0, 20.0, Some("t1".to_owned()))]);
    assert_eq!(
        world.server.observations("dev1").next().unwrap().0.token,
        token
    );
    world.set(device, LISTS[1], Value::Float(3.0));
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        composite_notifications(&world.take_events()),
        [(20.0, 3.0, Some("t1".to_owned()))]
    );
}

#[test]
fn a_restarted_server_knows_its_lists_and_completes_their_blocks() {
    let mut world = World::new();
    // A device with blocks of 64 bytes: the notifications of the whole list come in many.
    let mut config: ClientConfig = client_config("dev1");
    config.coap.block_size = 64;
    let device = world.add_client(1, config);
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(Duration::from_secs(1));
    let wide = || Operation::ObserveComposite {
        paths: paths(&["/3303", "/3/0/15"]),
    };
    let other = || Operation::ObserveComposite {
        paths: paths(&["/3303/0", "/3/0", "/1/0/1"]),
    };
    for operation in [wide(), other()] {
        let response = world.ask("dev1", operation).unwrap();
        assert!(nodes(&response).len() >= 2);
    }
    let registrations: Vec<_> = world
        .server
        .registrations()
        .map(|registration| lwm2m::Registration::clone(registration))
        .collect();
    let observations: Vec<_> = world
        .server
        .observations("dev1")
        .map(|(observation, _)| {
            // As a store keeps it.
            let stored = serde_json::to_string(observation.as_ref()).unwrap();
            serde_json::from_str(&stored).unwrap()
        })
        .collect();
    assert_eq!(observations.len(), 2);
    world.restart_server();
    let now = world.now;
    world.server.restore(now, registrations, observations);
    world.take_events();
    world.set(device, "/3303/0/5700", Value::Float(7.0));
    world.run_for(Duration::from_secs(2));
    let told: Vec<_> = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Notified {
                observation,
                response,
                ..
            } => Some((observation.target.clone(), nodes(&response).len())),
            _ => None,
        })
        .collect();
    let mut lengths: BTreeMap<Target, usize> = told.into_iter().collect();
    assert_eq!(lengths.remove(&wide().target()), Some(2));
    assert_eq!(lengths.remove(&other().target()), Some(3));
    assert_eq!(world.server.coap_stats().incomplete_notifications, 0);
    assert_eq!(world.server.coap_stats().resets_sent, 0);
}

#[test]
fn a_list_of_six_goes_to_a_device_that_takes_no_more_and_a_longer_one_is_refused_by_it() {
    let mut world = World::new();
    let mut config: ClientConfig = client_config("dev1");
    config.max_composite_paths = 6;
    config.coap.block_size = 256;
    let device = world.add_client(1, config);
    let now = world.now.instant;
    world.client(device).start(now, SERVER);
    world.run_for(Duration::from_secs(1));
    let six = [
        "/3303/0/5700",
        "/3303/1/5700",
        "/3303/0",
        "/3303/1",
        "/3/0/0",
        "/3/0/1",
    ];
    let read = |list: &[&str]| Operation::ReadComposite { paths: paths(list) };
    assert_eq!(nodes(&world.ask("dev1", read(&six)).unwrap()).len(), 6);
    let mut seven = six.to_vec();
    seven.push("/3/0/15");
    let response = world.ask("dev1", read(&seven)).unwrap();
    assert_eq!(response.code, Code::REQUEST_ENTITY_TOO_LARGE);
}

#[test]
fn a_device_is_asked_in_what_it_lists() {
    let cases = [
        ("lwm2m=1.1", "</>;rt=\"oma.lwm2m\";ct=110,</3/0>", 110, 110),
        (
            "lwm2m=1.1",
            "</>;rt=\"oma.lwm2m\";ct=\"60 112 110\",</3/0>",
            112,
            112,
        ),
        (
            "lwm2m=1.1",
            "</>;rt=\"oma.lwm2m\";ct=\"110 11542\",</3/0>",
            11542,
            110,
        ),
        ("lwm2m=1.1", "</3/0>", 11542, 112),
        (
            "lwm2m=1.0",
            "</>;rt=\"oma.lwm2m\";ct=11543,</3/0>",
            11542,
            112,
        ),
    ];
    for (number, (version, links, single, composite)) in (1..).zip(cases) {
        let mut world = World::with(ServerConfig::default(), number);
        let device = world.add_bare(1);
        world.from_device(device, register_request(&["ep=dev1", version], links));
        world.request(
            "dev1",
            Operation::Read {
                path: path("/3/0/0"),
            },
        );
        world.run_for(Duration::from_millis(100));
        let (exchange, request) = world.asked_of(device);
        assert_eq!(request.accept, Some(single), "{version} {links}");
        let now = world.now.instant;
        world
            .bare(device)
            .respond(now, exchange, Response::new(Code::NOT_FOUND));
        world.request(
            "dev1",
            Operation::ReadComposite {
                paths: paths(&LISTS),
            },
        );
        world.run_for(Duration::from_millis(100));
        let (_, request) = world.asked_of(device);
        assert_eq!(request.method, Method::Fetch);
        assert_eq!(request.accept, Some(composite), "{version} {links}");
        let asked = ContentFormat::from_id(request.content_format.unwrap()).unwrap();
        assert_eq!(
            decode_paths(&request.payload, asked).unwrap(),
            paths(&LISTS)
        );
    }
}

/// The times of a notification's values are kept: a device reports what it measured while it was out of reach
/// (TS 1.1 core, section 6.4.2).
#[test]
fn a_history_keeps_its_times() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(
        device,
        register_request(&["ep=dev1", "lwm2m=1.1"], "</3303/0>"),
    );
    let options = format(ContentFormat::SenmlJson);
    let observe = Operation::Observe {
        path: path(LISTS[0]),
    };
    let handle = world.request_with("dev1", observe, options);
    world.run_for(Duration::from_millis(100));
    let (exchange, token) = world.asked_token(device);
    let answer = |payload: &str| Response {
        content_format: Some(110),
        observe: Some(0),
        payload: payload.as_bytes().to_vec().into(),
        ..Response::new(Code::CONTENT)
    };
    let now = world.now.instant;
    world
        .bare(device)
        .respond(now, exchange, answer(r#"[{"n":"/3303/0/5700","v":1}]"#));
    assert_eq!(value(&world.outcome(handle).unwrap()), Value::Float(1.0));
    world.take_events();
    let history =
        r#"[{"bn":"/3303/0/5700","bt":1700000100,"v":2},{"t":5,"v":3},{"t":-3600,"v":4}]"#;
    world
        .bare(device)
        .notify(now, SERVER, token, answer(history), true);
    let relative = r#"[{"bn":"/3303/0/5700","bt":-10,"v":5}]"#;
    world
        .bare(device)
        .notify(now, SERVER, token, answer(relative), true);
    world.run_for(Duration::from_millis(100));
    let read_at = world.now.unix_ms;
    let told: Vec<Vec<(Option<i64>, f64)>> = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(response.body),
            _ => None,
        })
        .map(|body| match body {
            Body::Timed(values) => values
                .iter()
                .map(|values| (values.at_unix_ms, temperature(&values.nodes, LISTS[0])))
                .collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told[0],
        [
            (Some(1_700_000_100_000), 2.0),
            (Some(1_700_000_105_000), 3.0),
            (Some(1_699_996_500_000), 4.0)
        ]
    );
    let [(Some(at), measured)] = told[1][..] else {
        panic!("{told:?}")
    };
    assert_eq!(measured, 5.0);
    assert!((read_at - 10_200..=read_at - 9_900).contains(&at));
}

#[test]
fn resource_instances_are_read_written_observed_and_deleted() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    // The binary data container: a writable list of opaque values.
    let container = ResourceNode::multiple(
        0,
        ValueType::Opaque,
        [(0, Value::Opaque(vec![1])), (7, Value::Opaque(vec![2, 3]))],
    );
    let tree = world.client(device).objects_mut();
    tree.add_instance(19, 0, [container]).unwrap();
    let at = "/19/0/0/7";
    let bytes = |bytes: &[u8]| Value::Opaque(bytes.to_vec());
    let one = |response: &DeviceResponse| match &response.body {
        Body::Node(Node::ResourceInstance { id: 7, value }) => value.clone(),
        other => panic!("{other:?}"),
    };
    let read = world
        .ask("dev1", Operation::Read { path: path(at) })
        .unwrap();
    assert_eq!(one(&read), bytes(&[2, 3]));
    let observed = world
        .ask("dev1", Operation::Observe { path: path(at) })
        .unwrap();
    assert_eq!(one(&observed), bytes(&[2, 3]));
    world.take_events();
    let write = Operation::Write {
        path: path(at),
        mode: lwm2m::WriteMode::Replace,
        node: Node::ResourceInstance {
            id: 7,
            value: bytes(&[9]),
        },
    };
    assert_eq!(world.ask("dev1", write).unwrap().code, Code::CHANGED);
    world.run_for(Duration::from_secs(1));
    let told: Vec<Value> = world
        .take_events()
        .iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(one(response)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [bytes(&[9])]);
    let delete = || Operation::Delete { path: path(at) };
    assert_eq!(world.ask("dev1", delete()).unwrap().code, Code::DELETED);
    assert_eq!(world.ask("dev1", delete()).unwrap().code, Code::NOT_FOUND);
    let rest = world
        .ask(
            "dev1",
            Operation::Read {
                path: path("/19/0/0"),
            },
        )
        .unwrap();
    let expected = ResourceNode::multiple(0, ValueType::Opaque, [(0, bytes(&[1]))]);
    assert_eq!(rest.body, Body::Node(Node::Resource(expected)));
}

#[test]
fn a_device_without_models_is_read_by_the_types_in_its_data() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(
        device,
        register_request(&["ep=dev1", "lwm2m=1.1"], "</65000/0>"),
    );
    let handle = world.request(
        "dev1",
        Operation::ReadComposite {
            paths: paths(&["/65000/0/1", "/65000/0/2"]),
        },
    );
    world.run_for(Duration::from_millis(100));
    let (exchange, _) = world.asked_of(device);
    let group = lwm2m_codec::Timestamped {
        time_s: None,
        content: BTreeMap::from([
            (path("/65000/0/1"), Node::single(1, Value::Boolean(true))),
            (path("/65000/0/2"), Node::single(2, Value::Float(1.5))),
        ]),
    };
    let response = Response {
        content_format: Some(112),
        payload: encode_nodes(std::slice::from_ref(&group), ContentFormat::SenmlCbor)
            .unwrap()
            .into(),
        ..Response::new(Code::CONTENT)
    };
    let now = world.now.instant;
    world.bare(device).respond(now, exchange, response);
    assert_eq!(*nodes(&world.outcome(handle).unwrap()), group.content);
}

#[test]
fn targets_are_written_and_read_back() {
    for text in ["/3/0/9", "/", "[/3/0/9]", "[/3/0/9,/3303/0/5700]"] {
        let target: Target = text.parse().unwrap();
        assert_eq!(target.to_string(), text);
        assert_eq!(target.is_composite(), text.starts_with('['));
    }
    let unordered: Target = "[/3303,/3/0/9,/3303]".parse().unwrap();
    assert_eq!(unordered.to_string(), "[/3/0/9,/3303]");
    for text in ["", "[]", "[/3,]", "[/3", "/3/x"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
    assert_eq!(Version::parse("1.1"), Some(Version::V1_1));
}
