//! OMA's enabler test cases for LwM2M 1.1 that need time, or a device that does all they ask for: each by its number
//! (docs/interop.md says where the numbers were read). The others are in `tests/interop`.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use std::collections::BTreeMap;

use coap::{Code, Peer};
use common::{World, attributes, path, seconds, value};
use lwm2m::client::ObjectTree as _;
use lwm2m::server::Event;
use lwm2m::{Body, DeviceResponse, Operation, WriteMode};
use lwm2m_codec::Link;
use lwm2m_model::{
    InstanceNode, Node, ObjectPath, ResourceContent, ResourceNode, Value, ValueType,
};

fn read(at: &str) -> Operation {
    Operation::Read { path: path(at) }
}

fn write(at: &str, node: Node) -> Operation {
    Operation::Write {
        path: path(at),
        mode: WriteMode::Replace,
        node,
    }
}

fn number(id: u16, value: i64) -> Node {
    Node::single(id, Value::Integer(value))
}

fn execute(at: &str) -> Operation {
    Operation::Execute {
        path: path(at),
        arguments: String::new(),
    }
}

fn paths(texts: &[&str]) -> Vec<ObjectPath> {
    texts.iter().map(|text| path(text)).collect()
}

/// An instance of the Portfolio object with its list of identities.
fn portfolio(id: u16, identities: &[&str]) -> InstanceNode {
    let values = (0..).zip(
        identities
            .iter()
            .map(|text| Value::String((*text).to_owned())),
    );
    let identity = ResourceNode::multiple(0, ValueType::String, values);
    InstanceNode::new(id, [identity])
}

const A: [&str; 4] = ["aa", "bb", "cc", "dd"];
const B: [&str; 4] = ["11", "22", "33", "44"];

fn create(id: u16, identities: &[&str]) -> Operation {
    Operation::Create {
        path: path("/16"),
        node: Node::Instance(portfolio(id, identities)),
    }
}

/// What the answer to a composite operation, or its notification, has.
fn nodes(body: &Body) -> &BTreeMap<ObjectPath, Node> {
    match body {
        Body::Nodes(nodes) => nodes,
        other => panic!("no nodes: {other:?}"),
    }
}

/// The next notification, and how many seconds it took.
fn next_told(world: &mut World, most_s: u64) -> (u64, DeviceResponse) {
    let begun = world.now.instant;
    loop {
        let is_one = |event: &Event| matches!(event, Event::Notified { .. });
        if let Some(at) = world.events.iter().position(is_one) {
            let Event::Notified { response, .. } = world.events.remove(at) else {
                unreachable!("it is one")
            };
            return ((world.now.instant - begun).as_secs(), response);
        }
        assert!(
            world.step(Some(begun + seconds(most_s))),
            "nothing was told in {most_s} s"
        );
    }
}

fn ok(world: &mut World, operation: Operation, code: Code) {
    let shown = format!("{operation:?}");
    assert_eq!(world.ask("dev1", operation).unwrap().code, code, "{shown}");
}

fn discover(world: &mut World, at: &str) -> Vec<Link> {
    let operation = Operation::Discover { path: path(at) };
    match world.ask("dev1", operation).unwrap().body {
        Body::Links(links) => lwm2m_codec::parse_links(links.as_bytes()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn urls(links: &[Link]) -> Vec<&str> {
    links.iter().map(|link| link.url.as_str()).collect()
}

fn device(world: &mut World) -> Peer {
    let device = world.registered(1, "dev1");
    let tree = world.client(device).objects_mut();
    for (at, millivolts) in [("/3/0/7/0", 3_000), ("/3/0/7/1", 5_000)] {
        tree.set(&path(at), Value::Integer(millivolts)).unwrap();
    }
    tree.allow_execute(&path("/1/0/4")).unwrap();
    tree.set(&path("/1/0/5"), Value::Integer(86_400)).unwrap();
    // The Portfolio object, without an instance.
    let some = portfolio(0, &["x"]).resources.into_values();
    tree.add_instance(16, 0, some).unwrap();
    tree.delete(&path("/16/0")).unwrap();
    device
}

#[test]
fn int_102_a_written_lifetime_is_told_with_an_update_and_others_follow_before_it_is_over() {
    let mut world = World::new();
    device(&mut world);
    let before = world.server.registration("dev1").unwrap().clone();
    ok(&mut world, write("/1/0/1", number(1, 20)), Code::CHANGED);
    world.run_for(seconds(1));
    let after = world.server.registration("dev1").unwrap().clone();
    assert_eq!(after.lifetime, seconds(20));
    assert!(after.last_update_unix_ms > before.last_update_unix_ms);
    world.run_for(seconds(60));
    let later = world.server.registration("dev1").unwrap();
    assert_eq!(later.registration_id, before.registration_id);
}

#[test]
fn int_103_a_server_that_disables_itself_is_left_by_the_device_which_comes_back_in_time() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, write("/1/0/5", number(5, 30)), Code::CHANGED);
    ok(&mut world, execute("/1/0/4"), Code::CHANGED);
    world.run_for(seconds(1));
    let events = world.take_events();
    let left = |event: &Event| matches!(event, Event::Deregistered { expired: false, .. });
    assert!(events.iter().any(left), "{events:?}");
    world.run_for(seconds(28));
    assert_eq!(world.server.registered(), 0);
    world.run_for(seconds(2));
    assert_eq!(world.server.registered(), 1);
}

#[test]
fn int_107_a_registration_goes_on_as_long_as_it_is_updated() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, write("/1/0/1", number(1, 120)), Code::CHANGED);
    world.run_for(seconds(1));
    let before = world.server.registration("dev1").unwrap().clone();
    assert_eq!(before.lifetime, seconds(120));
    world.run_for(seconds(10 * 120));
    let after = world.server.registration("dev1").unwrap();
    assert_eq!(after.registration_id, before.registration_id);
    assert!(after.last_update_unix_ms > before.last_update_unix_ms);
}

#[test]
fn int_221_the_security_object_is_neither_read_nor_written_nor_given_attributes() {
    let mut world = World::new();
    device(&mut world);
    let uri = Node::single(0, Value::String("coap://localhost".to_owned()));
    for operation in [
        read("/0/0"),
        write("/0/0/0", uri),
        attributes("/0", &["pmin=10"]),
    ] {
        ok(&mut world, operation, Code::UNAUTHORIZED);
    }
}

#[test]
fn int_228_write_on_a_resource_instance() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &["a", "b"]), Code::CREATED);
    let test = || Node::ResourceInstance {
        id: 0,
        value: Value::String("test".to_owned()),
    };
    ok(&mut world, write("/16/0/0/0", test()), Code::CHANGED);
    let one = world.ask("dev1", read("/16/0/0/0")).unwrap();
    assert_eq!(one.body, Body::Node(test()));
}

#[test]
fn int_230_write_composite_with_resource_instances() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &["a"]), Code::CREATED);
    let text = |id: u16, text: &str| {
        let value = Value::String(text.to_owned());
        (
            ObjectPath::ResourceInstance(16, 0, 0, id),
            Node::ResourceInstance { id, value },
        )
    };
    let mut all: BTreeMap<ObjectPath, Node> = (0..).zip(A).map(|(id, it)| text(id, it)).collect();
    all.insert(path("/1/0/1"), number(1, 60));
    all.insert(path("/1/0/6"), Node::single(6, Value::Boolean(true)));
    ok(
        &mut world,
        Operation::WriteComposite { nodes: all },
        Code::CHANGED,
    );
    let lifetime = world.ask("dev1", read("/1/0/1")).unwrap();
    assert_eq!(value(&lifetime), Value::Integer(60));
    let whole = world.ask("dev1", read("/16/0")).unwrap();
    assert_eq!(whole.body, Body::Node(Node::Instance(portfolio(0, &A))));
}

#[test]
fn int_260_discover_with_attributes_and_numbers_of_values() {
    let mut world = World::new();
    device(&mut world);
    let object = discover(&mut world, "/3");
    for url in ["/3", "/3/0", "/3/0/1", "/3/0/6", "/3/0/7", "/3/0/16"] {
        assert!(urls(&object).contains(&url), "no {url}");
    }
    let set = attributes("/3", &["pmin=10", "pmax=200"]);
    ok(&mut world, set, Code::CHANGED);
    let set = attributes("/3/0/7", &["lt=1", "gt=6", "st=1"]);
    ok(&mut world, set, Code::CHANGED);
    let instance = discover(&mut world, "/3/0");
    let of = |at: &str| instance.iter().find(|link| link.url == at).unwrap();
    assert_eq!(of("/3/0/6").attribute("dim"), Some("2"));
    for (name, expected) in [("dim", "2"), ("lt", "1"), ("gt", "6"), ("st", "1")] {
        assert_eq!(of("/3/0/7").attribute(name), Some(expected), "{name}");
    }
    let resource = discover(&mut world, "/3/0/7");
    assert_eq!(urls(&resource), ["/3/0/7", "/3/0/7/0", "/3/0/7/1"]);
}

#[test]
fn int_261_write_attributes_on_a_multiple_resource() {
    let mut world = World::new();
    device(&mut world);
    let links = discover(&mut world, "/3/0/11");
    assert_eq!(urls(&links), ["/3/0/11", "/3/0/11/0"]);
    assert_eq!(links[0].attribute("dim"), Some("1"));
    for (at, list) in [
        ("/3", &["pmin=10", "pmax=200"][..]),
        ("/3/0", &["pmax=320"]),
        ("/3/0/11/0", &["pmax=100", "epmin=1", "epmax=20"]),
    ] {
        ok(&mut world, attributes(at, list), Code::CHANGED);
    }
    let links = discover(&mut world, "/3/0/11");
    let shown = |at: usize, name: &str| links[at].attribute(name).unwrap().to_owned();
    assert_eq!(
        (shown(0, "pmin"), shown(0, "pmax")),
        ("10".into(), "320".into())
    );
    for (name, expected) in [("pmax", "100"), ("epmin", "1"), ("epmax", "20")] {
        assert_eq!(shown(1, name), expected, "{name}");
    }
}

#[test]
fn int_301_notifications_come_no_sooner_than_pmin_and_no_later_than_pmax() {
    let mut world = World::new();
    let device = device(&mut world);
    let set = attributes("/3/0/7", &["pmin=5", "pmax=10"]);
    ok(&mut world, set, Code::CHANGED);
    let observe = Operation::Observe {
        path: path("/3/0/7"),
    };
    ok(&mut world, observe, Code::CONTENT);
    let millivolts = |told: &DeviceResponse| match &told.body {
        Body::Node(Node::Resource(ResourceNode {
            content: ResourceContent::Multiple { instances, .. },
            ..
        })) => instances[&0].clone(),
        other => panic!("{other:?}"),
    };
    world.run_for(seconds(6));
    world.set(device, "/3/0/7/0", Value::Integer(3_100));
    let (after, told) = next_told(&mut world, 1);
    assert_eq!((after, millivolts(&told)), (0, Value::Integer(3_100)));
    world.set(device, "/3/0/7/0", Value::Integer(3_500));
    let (after, told) = next_told(&mut world, 20);
    assert!((4..=5).contains(&after), "{after}");
    assert_eq!(millivolts(&told), Value::Integer(3_500));
    let (after, told) = next_told(&mut world, 20);
    assert!((9..=10).contains(&after), "{after}");
    assert_eq!(millivolts(&told), Value::Integer(3_500));
}

fn observe_composite(world: &mut World, list: &[&str]) -> BTreeMap<ObjectPath, Node> {
    let operation = Operation::ObserveComposite { paths: paths(list) };
    nodes(&world.ask("dev1", operation).unwrap().body).clone()
}

fn cancel_composite(world: &mut World, list: &[&str]) {
    let operation = Operation::CancelObserveComposite {
        paths: paths(list),
        active: true,
    };
    ok(world, operation, Code::CONTENT);
    assert_eq!(world.server.observations("dev1").count(), 0);
}

#[test]
fn int_304_and_305_observe_composite_with_attributes_and_its_cancellation() {
    let mut world = World::new();
    let device = device(&mut world);
    let set = attributes("/1/0/1", &["pmin=30", "pmax=45"]);
    ok(&mut world, set, Code::CHANGED);
    let list = ["/1/0/1", "/3/0/11/0", "/3/0/16"];
    let first = observe_composite(&mut world, &list);
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), paths(&list));
    let (after, told) = next_told(&mut world, 50);
    assert!((30..=45).contains(&after), "{after}");
    assert_eq!(*nodes(&told.body), first);
    cancel_composite(&mut world, &list);
    assert_eq!(world.client(device).observed(), 0);
    world.take_events();
    world.run_for(seconds(100));
    let told = |event: &Event| matches!(event, Event::Notified { .. });
    assert!(!world.take_events().iter().any(told));
}

/// The instances that a composite answer has, by what is in them.
fn portfolios(nodes: &BTreeMap<ObjectPath, Node>) -> Vec<InstanceNode> {
    let instances = nodes.values().map(|node| match node {
        Node::Instance(instance) => instance.clone(),
        other => panic!("{other:?}"),
    });
    instances.collect()
}

const BOTH: [&str; 2] = ["/16/0", "/16/1"];

#[test]
fn int_308_observe_composite_and_creating_an_instance() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &A), Code::CREATED);
    let set = attributes("/16/0", &["pmin=30", "pmax=45"]);
    ok(&mut world, set, Code::CHANGED);
    let one = [portfolio(0, &A)];
    // One of the two places is not there yet: it may be observed all the same.
    let first = observe_composite(&mut world, &BOTH);
    assert_eq!(portfolios(&first), one);
    let (after, told) = next_told(&mut world, 50);
    assert!((30..=45).contains(&after), "{after}");
    assert_eq!(portfolios(nodes(&told.body)), one);
    ok(&mut world, create(1, &B), Code::CREATED);
    let (after, told) = next_told(&mut world, 50);
    assert!(after <= 45, "{after}");
    assert_eq!(
        portfolios(nodes(&told.body)),
        [portfolio(0, &A), portfolio(1, &B)]
    );
    cancel_composite(&mut world, &BOTH);
}

#[test]
fn int_309_observe_composite_and_deleting_an_instance() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &A), Code::CREATED);
    ok(&mut world, create(1, &B), Code::CREATED);
    let set = attributes("/16/0", &["pmin=30", "pmax=45"]);
    ok(&mut world, set, Code::CHANGED);
    let both = [portfolio(0, &A), portfolio(1, &B)];
    let first = observe_composite(&mut world, &BOTH);
    assert_eq!(portfolios(&first), both);
    let (after, told) = next_told(&mut world, 50);
    assert!((30..=45).contains(&after), "{after}");
    assert_eq!(portfolios(nodes(&told.body)), both);
    let delete = Operation::Delete {
        path: path("/16/1"),
    };
    ok(&mut world, delete, Code::DELETED);
    let (after, told) = next_told(&mut world, 50);
    assert!(after <= 45, "{after}");
    assert_eq!(portfolios(nodes(&told.body)), [portfolio(0, &A)]);
    cancel_composite(&mut world, &BOTH);
}

#[test]
fn int_310_observe_composite_and_a_period_written_while_it_stands() {
    let mut world = World::new();
    device(&mut world);
    let list = ["/1/0/1", "/3/0"];
    observe_composite(&mut world, &list);
    ok(&mut world, attributes("/3", &["pmax=5"]), Code::CHANGED);
    for _ in 0..3 {
        let (after, told) = next_told(&mut world, 6);
        assert!(after <= 5, "{after}");
        let nodes = nodes(&told.body);
        assert_eq!(nodes[&path("/1/0/1")], number(1, 300));
        assert!(matches!(&nodes[&path("/3/0")], Node::Instance(it) if it.resources.len() > 5));
    }
    cancel_composite(&mut world, &list);
}

#[test]
fn int_1630_creating_an_instance_of_the_portfolio() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &A), Code::CREATED);
    let links = discover(&mut world, "/16");
    assert_eq!(urls(&links), ["/16", "/16/0", "/16/0/0"]);
    ok(&mut world, create(1, &B), Code::CREATED);
    let links = discover(&mut world, "/16");
    assert_eq!(
        urls(&links),
        ["/16", "/16/0", "/16/0/0", "/16/1", "/16/1/0"]
    );
    let whole = world.ask("dev1", read("/16")).unwrap();
    let Body::Node(Node::Object(object)) = whole.body else {
        panic!("{whole:?}")
    };
    let instances: Vec<InstanceNode> = object.instances.into_values().collect();
    assert_eq!(instances, [portfolio(0, &A), portfolio(1, &B)]);
}

#[test]
fn int_1635_deleting_an_instance_of_the_portfolio() {
    let mut world = World::new();
    device(&mut world);
    ok(&mut world, create(0, &A), Code::CREATED);
    let delete = Operation::Delete {
        path: path("/16/0"),
    };
    ok(&mut world, delete, Code::DELETED);
    let links = discover(&mut world, "/16");
    assert_eq!(urls(&links), ["/16"]);
}
