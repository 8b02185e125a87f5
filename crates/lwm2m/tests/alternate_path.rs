//! A device whose tree hangs at `/lwm2m` (TS 1.1 transport, section 6.4.1): its paths begin with that, and so do its names
//! in SenML, if it says them as LwM2M 1.2 makes clear. One that leaves them out is understood as well.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::BTreeMap;

use coap::{Code, Method, Peer, Request, Response};
use common::{SERVER, World, path, register_request, seconds};
use lwm2m::server::{Event, RequestOptions};
use lwm2m::{Body, Operation, WriteMode};
use lwm2m_codec::ContentFormat;
use lwm2m_model::{Node, ObjectPath, Value};

const JSON: u16 = 110;

fn device(world: &mut World) -> Peer {
    let device = world.add_bare(1);
    let links = "</lwm2m>;rt=\"oma.lwm2m\";ct=\"110 112 11542\",</lwm2m/1/0>,</lwm2m/3/0>,</3/7>";
    let request = register_request(&["ep=dev1", "lwm2m=1.1"], links);
    assert_eq!(world.from_device(device, request).code, Code::CREATED);
    let registration = world.server.registration("dev1").unwrap();
    let paths: Vec<_> = registration.object_paths().map(|(path, _)| path).collect();
    assert_eq!(paths, [path("/1/0"), path("/3/0")]);
    device
}

fn json() -> RequestOptions {
    RequestOptions {
        content_format: Some(ContentFormat::SenmlJson),
        ..RequestOptions::default()
    }
}

fn answered(payload: &str) -> Response {
    Response {
        content_format: Some(JSON),
        payload: payload.to_owned().into(),
        ..Response::new(Code::CONTENT)
    }
}

/// Asks, checks what the device is asked, and gives its answer.
fn ask(
    world: &mut World,
    device: Peer,
    operation: Operation,
    check: impl FnOnce(&Request),
    answer: Response,
) -> Body {
    let handle = world.request_with("dev1", operation, json());
    world.run_for(seconds(1));
    let (exchange, request) = world.asked_of(device);
    check(&request);
    let now = world.now.instant;
    world.bare(device).respond(now, exchange, answer);
    world.outcome(handle).unwrap().body
}

fn text(id: u16, text: &str) -> Node {
    Node::single(id, Value::String(text.to_owned()))
}

fn names() -> BTreeMap<ObjectPath, Node> {
    BTreeMap::from([
        (path("/3/0/0"), text(0, "abc")),
        (path("/3/0/1"), text(1, "de")),
    ])
}

const WITH: &str = r#"[{"bn":"/lwm2m/3/0/","n":"0","vs":"abc"},{"n":"1","vs":"de"}]"#;
const IN_NAMES: &str = r#"[{"n":"/lwm2m/3/0/0","vs":"abc"},{"n":"/lwm2m/3/0/1","vs":"de"}]"#;
const WITHOUT: &str = r#"[{"bn":"/3/0/","n":"0","vs":"abc"},{"n":"1","vs":"de"}]"#;

#[test]
fn composite_operations_name_it() {
    let mut world = World::new();
    let device = device(&mut world);
    for payload in [WITH, IN_NAMES, WITHOUT] {
        let read = Operation::ReadComposite {
            paths: vec![path("/3/0/0"), path("/3/0/1")],
        };
        let check = |request: &Request| {
            assert_eq!(
                (request.method, &*request.path),
                (Method::Fetch, &["lwm2m".to_owned()][..])
            );
            assert_eq!(
                request.payload,
                r#"[{"n":"/lwm2m/3/0/0"},{"n":"/lwm2m/3/0/1"}]"#
            );
        };
        let body = ask(&mut world, device, read, check, answered(payload));
        assert_eq!(body, Body::Nodes(names()), "{payload}");
    }
    let write = Operation::WriteComposite { nodes: names() };
    let check = |request: &Request| {
        assert_eq!(request.path, ["lwm2m"]);
        let names = String::from_utf8_lossy(&request.payload).into_owned();
        assert!(
            names.contains("/lwm2m/3/0/0") && !names.contains("\"/3"),
            "{names}"
        );
    };
    ask(
        &mut world,
        device,
        write,
        check,
        Response::new(Code::CHANGED),
    );
    // The whole device.
    let root = Operation::ReadComposite {
        paths: vec![ObjectPath::Root],
    };
    let check = |request: &Request| assert_eq!(request.payload, r#"[{"n":"/lwm2m"}]"#);
    let body = ask(&mut world, device, root, check, answered(WITH));
    assert_eq!(body, Body::Nodes(names()));
}

#[test]
fn reads_and_writes_in_senml_name_it_too() {
    let mut world = World::new();
    let device = device(&mut world);
    for payload in [WITH, IN_NAMES, WITHOUT] {
        let read = Operation::Read { path: path("/3/0") };
        let check = |request: &Request| assert_eq!(request.path, ["lwm2m", "3", "0"]);
        let body = ask(&mut world, device, read, check, answered(payload));
        let Body::Node(Node::Instance(instance)) = body else {
            panic!("{body:?}")
        };
        assert_eq!(instance.resources.len(), 2, "{payload}");
    }
    let write = Operation::Write {
        path: path("/3/0/15"),
        mode: WriteMode::Replace,
        node: text(15, "UTC"),
    };
    let check = |request: &Request| {
        assert_eq!(request.payload, r#"[{"bn":"/lwm2m/3/0/15","vs":"UTC"}]"#);
    };
    ask(
        &mut world,
        device,
        write,
        check,
        Response::new(Code::CHANGED),
    );
}

#[test]
fn what_it_sends_by_itself_may_name_it_and_nothing_else() {
    let mut world = World::new();
    let device = device(&mut world);
    world.take_events();
    // Another tree's names are not this one's: a gateway puts its devices' prefixes there.
    let cases = [
        (WITH, Code::CHANGED),
        (WITHOUT, Code::CHANGED),
        (r#"[{"n":"/d01/3/0/0","vs":"abc"}]"#, Code::BAD_REQUEST),
        (r#"[{"n":"/lwm2mx/3/0/0","vs":"abc"}]"#, Code::BAD_REQUEST),
    ];
    for (payload, code) in cases {
        let mut send = Request::new(Method::Post, ["dp"]);
        send.content_format = Some(JSON);
        send.payload = payload.to_owned().into();
        assert_eq!(world.from_device(device, send).code, code, "{payload}");
    }
    let sent = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Sent { values, .. } => Some(values[0].nodes.clone()),
            _ => None,
        });
    assert_eq!(sent.collect::<Vec<_>>(), [names(), names()]);
}

#[test]
fn notifications_of_a_list_name_it() {
    let mut world = World::new();
    let device = device(&mut world);
    let observe = Operation::ObserveComposite {
        paths: vec![path("/3/0/0"), path("/3/0/1")],
    };
    let handle = world.request_with("dev1", observe, json());
    world.run_for(seconds(1));
    let (exchange, token) = world.asked_token(device);
    let now = world.now.instant;
    let first = Response {
        observe: Some(1),
        ..answered(WITH)
    };
    world.bare(device).respond(now, exchange, first);
    assert_eq!(world.outcome(handle).unwrap().body, Body::Nodes(names()));
    world.take_events();
    let timed = WITH.replace("\"vs\"", "\"t\":1700000000,\"vs\"");
    for (number, payload) in [(2, WITHOUT), (3, &*timed)] {
        let told = Response {
            observe: Some(number),
            ..answered(payload)
        };
        world.bare(device).notify(now, SERVER, token, told, true);
        world.run_for(seconds(1));
    }
    let bodies: Vec<Body> = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(response.body),
            _ => None,
        })
        .collect();
    assert_eq!(bodies[0], Body::Nodes(names()));
    let Body::Timed(values) = &bodies[1] else {
        panic!("{bodies:?}")
    };
    assert_eq!(values[0].nodes, names());
}
