//! A server reads, writes, executes, creates, deletes, discovers; a device lets it, or says why not.

mod common;

use std::time::Duration;

use coap::{Code, Response};
use common::{MODELS, SERVER, World, client_config, path, register_request, value};
use lwm2m::client::{self, InMemoryTree, TreeError};
use lwm2m::server::{Event, RequestOptions, ServerConfig};
use lwm2m::{Body, DEVICE_CHOOSES, Operation, RequestError, RequestFailure, WriteMode};
use lwm2m_codec::ContentFormat;
use lwm2m_model::{InstanceNode, Node, ObjectNode, ResourceNode, Value, ValueType};

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

fn text(id: u16, text: &str) -> Node {
    Node::single(id, Value::String(text.to_owned()))
}

#[test]
fn reads_at_every_level() {
    let mut world = World::new();
    world.registered(1, "dev1");
    assert_eq!(
        value(&world.ask("dev1", read("/3/0/1")).unwrap()),
        Value::String("test device".into())
    );

    let instance = world.ask("dev1", read("/3303/1")).unwrap();
    let Body::Node(Node::Instance(instance)) = instance.body else {
        panic!("{instance:?}")
    };
    assert_eq!(
        instance.resources.keys().copied().collect::<Vec<_>>(),
        [5601, 5602, 5700, 5701]
    );

    let object = world.ask("dev1", read("/3303")).unwrap();
    let Body::Node(Node::Object(object)) = object.body else {
        panic!("{object:?}")
    };
    assert_eq!(object.instances.keys().copied().collect::<Vec<_>>(), [0, 1]);

    let multiple = world.ask("dev1", read("/3/0/6")).unwrap();
    let expected = ResourceNode::multiple(
        6,
        ValueType::Integer,
        [(0, Value::Integer(1)), (1, Value::Integer(5))],
    );
    assert_eq!(multiple.body, Body::Node(Node::Resource(expected)));

    let one = world.ask("dev1", read("/3/0/6/1")).unwrap();
    assert_eq!(
        one.body,
        Body::Node(Node::ResourceInstance {
            id: 1,
            value: Value::Integer(5)
        })
    );
}

#[test]
fn a_read_asks_for_the_format_it_wants() {
    let mut world = World::new();
    world.registered(1, "dev1");
    for format in [
        ContentFormat::Text,
        ContentFormat::Tlv,
        ContentFormat::OldTlv,
    ] {
        let options = RequestOptions {
            content_format: Some(format),
            ..RequestOptions::default()
        };
        let handle = world.request_with("dev1", read("/3303/0/5700"), options);
        assert_eq!(
            value(&world.outcome(handle).unwrap()),
            Value::Float(20.0),
            "{format}"
        );
    }
    let options = RequestOptions {
        content_format: Some(ContentFormat::Text),
        ..RequestOptions::default()
    };
    let handle = world.request_with("dev1", read("/3303/0"), options);
    assert_eq!(world.outcome(handle).unwrap().code, Code::NOT_ACCEPTABLE);
}

#[test]
fn refusals_carry_their_code() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let cases = [
        (read("/99/0/0"), Code::NOT_FOUND),
        (read("/3/1"), Code::NOT_FOUND),
        (read("/3/0/9"), Code::NOT_FOUND),
        (read("/3/0/4"), Code::METHOD_NOT_ALLOWED),
        (read("/0/0/5"), Code::UNAUTHORIZED),
        (write("/3/0/0", text(0, "mine")), Code::METHOD_NOT_ALLOWED),
        (write("/3/0/4", text(4, "x")), Code::METHOD_NOT_ALLOWED),
        (write("/3/0/22", text(22, "x")), Code::NOT_FOUND),
        (
            Operation::Execute {
                path: path("/3/0/0"),
                arguments: String::new(),
            },
            Code::METHOD_NOT_ALLOWED,
        ),
        (
            Operation::Execute {
                path: path("/3/0/5"),
                arguments: String::new(),
            },
            Code::NOT_FOUND,
        ),
        (
            Operation::Delete { path: path("/3/0") },
            Code::METHOD_NOT_ALLOWED,
        ),
        (
            Operation::Delete {
                path: path("/3303/9"),
            },
            Code::NOT_FOUND,
        ),
        (Operation::Discover { path: path("/99") }, Code::NOT_FOUND),
        (
            Operation::WriteAttributes {
                path: path("/3303/0/1"),
                attributes: vec!["pmin=1".into()],
            },
            Code::NOT_FOUND,
        ),
    ];
    for (operation, code) in cases {
        let shown = format!("{operation:?}");
        let response = world.ask("dev1", operation).unwrap();
        assert_eq!(response.code, code, "{shown}");
    }
}

#[test]
fn what_makes_no_sense_is_not_sent() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let cases = [
        read("/"),
        write("/3", text(0, "x")),
        Operation::Execute {
            path: path("/3/0"),
            arguments: String::new(),
        },
        Operation::Delete {
            path: path("/3/0/1"),
        },
        Operation::Create {
            path: path("/3303/0/1"),
            node: text(1, "x"),
        },
        Operation::WriteAttributes {
            path: path("/3303"),
            attributes: vec!["colour=red".into()],
        },
        Operation::WriteAttributes {
            path: path("/3303"),
            attributes: vec![],
        },
        Operation::Write {
            path: path("/3/0/11"),
            mode: WriteMode::Update,
            node: Node::Resource(ResourceNode::multiple(11, ValueType::Integer, [])),
        },
    ];
    for operation in cases {
        let shown = format!("{operation:?}");
        let refused = world
            .server
            .request(world.now, "dev1", operation, RequestOptions::default());
        assert!(
            matches!(refused, Err(RequestError::Invalid { .. })),
            "{shown}: {refused:?}"
        );
    }
    let options = RequestOptions {
        content_format: Some(ContentFormat::Link),
        ..RequestOptions::default()
    };
    let refused = world.server.request(world.now, "dev1", read("/3"), options);
    assert!(
        matches!(refused, Err(RequestError::Encode(_))),
        "{refused:?}"
    );
    let refused = world
        .server
        .request(world.now, "nobody", read("/3"), RequestOptions::default())
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "No registration for this endpoint 'nobody'"
    );
}

#[test]
fn writes_in_each_format_and_mode() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    for format in [ContentFormat::Text, ContentFormat::Tlv] {
        let options = RequestOptions {
            content_format: Some(format),
            ..RequestOptions::default()
        };
        let handle = world.request_with("dev1", write("/3/0/15", text(15, format.name())), options);
        assert_eq!(world.outcome(handle).unwrap().code, Code::CHANGED);
        let there = world
            .client(device)
            .objects()
            .get(&path("/3/0/15"))
            .cloned();
        assert_eq!(there, Some(Value::String(format.name().into())));
    }
    // An update leaves what it does not mention; a replace does not.
    let node = Node::Instance(InstanceNode::new(
        0,
        [ResourceNode::single(14, Value::String("+01:00".into()))],
    ));
    let update = Operation::Write {
        path: path("/3/0"),
        mode: WriteMode::Update,
        node: node.clone(),
    };
    assert_eq!(world.ask("dev1", update).unwrap().code, Code::CHANGED);
    assert!(
        world
            .client(device)
            .objects()
            .get(&path("/3/0/15"))
            .is_some()
    );
    assert_eq!(
        world.ask("dev1", write("/3/0", node)).unwrap().code,
        Code::CHANGED
    );
    assert_eq!(world.client(device).objects().get(&path("/3/0/15")), None);
    assert_eq!(
        world.client(device).objects().get(&path("/3/0/14")),
        Some(&Value::String("+01:00".into()))
    );
    assert!(
        world
            .client(device)
            .objects()
            .get(&path("/3/0/1"))
            .is_some(),
        "read-only ones stay"
    );
    let written = |(_, event): &&(_, client::Event)| matches!(event, client::Event::Written { .. });
    assert_eq!(world.device_events.iter().filter(written).count(), 4);
}

#[test]
fn a_boolean_of_the_server_object_is_written_and_read_back() {
    let mut world = World::new();
    world.registered(1, "dev1");
    assert_eq!(
        world
            .ask(
                "dev1",
                write("/1/0/6", Node::single(6, Value::Boolean(false)))
            )
            .unwrap()
            .code,
        Code::CHANGED
    );
    assert_eq!(
        value(&world.ask("dev1", read("/1/0/6")).unwrap()),
        Value::Boolean(false)
    );
}

#[test]
fn execute_passes_its_arguments_on_as_they_are() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let execute = Operation::Execute {
        path: path("/3/0/4"),
        arguments: "param1,param2".into(),
    };
    assert_eq!(world.ask("dev1", execute).unwrap().code, Code::CHANGED);
    let expected = client::Event::Executed {
        path: path("/3/0/4"),
        arguments: "param1,param2".into(),
    };
    assert!(world.device_events.contains(&(device, expected)));
}

#[test]
fn instances_are_created_and_deleted_and_the_server_learns_of_it() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let instance = |id| InstanceNode::new(id, [ResourceNode::single(5700, Value::Float(1.5))]);
    let instances = |world: &World| {
        let listed = world
            .server
            .registration("dev1")
            .unwrap()
            .available_instances();
        listed[&3303].iter().copied().collect::<Vec<_>>()
    };
    let create = Operation::Create {
        path: path("/3303"),
        node: Node::Instance(instance(7)),
    };
    let response = world.ask("dev1", create.clone()).unwrap();
    assert_eq!(
        (response.code, response.body),
        (Code::CREATED, Body::Location("/3303/7".into()))
    );
    assert_eq!(
        world.ask("dev1", create).unwrap().code,
        Code::BAD_REQUEST,
        "it is there"
    );

    let create = Operation::Create {
        path: path("/3303"),
        node: Node::Instance(instance(DEVICE_CHOOSES)),
    };
    assert_eq!(
        world.ask("dev1", create).unwrap().body,
        Body::Location("/3303/2".into())
    );
    let create = Operation::Create {
        path: path("/3303/9"),
        node: Node::Instance(instance(DEVICE_CHOOSES)),
    };
    assert_eq!(
        world.ask("dev1", create).unwrap().body,
        Body::Location("/3303/9".into())
    );
    let node = Node::Object(ObjectNode::new(3303, [instance(4)]));
    assert_eq!(
        world
            .ask(
                "dev1",
                Operation::Create {
                    path: path("/3303"),
                    node
                }
            )
            .unwrap()
            .body,
        Body::Location("/3303/4".into())
    );
    world.run_for(Duration::from_secs(1));
    assert_eq!(instances(&world), [0, 1, 2, 4, 7, 9]);

    assert_eq!(
        world
            .ask(
                "dev1",
                Operation::Delete {
                    path: path("/3303/7")
                }
            )
            .unwrap()
            .code,
        Code::DELETED
    );
    world.run_for(Duration::from_secs(1));
    assert_eq!(instances(&world), [0, 1, 2, 4, 9]);
    assert_eq!(
        value(&world.ask("dev1", read("/3303/9/5700")).unwrap()),
        Value::Float(1.5)
    );
}

#[test]
fn discover_shows_what_there_is_and_its_attributes() {
    let mut world = World::new();
    world.registered(1, "dev1");
    let set = |at: &str, attributes: &[&str]| Operation::WriteAttributes {
        path: path(at),
        attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
    };
    assert_eq!(
        world
            .ask("dev1", set("/3303/0", &["pmin=10"]))
            .unwrap()
            .code,
        Code::CHANGED
    );
    assert_eq!(
        world
            .ask("dev1", set("/3303/0/5700", &["pmax=60", "gt=25.5"]))
            .unwrap()
            .code,
        Code::CHANGED
    );

    let links = |world: &mut World, at: &str| match world
        .ask("dev1", Operation::Discover { path: path(at) })
        .unwrap()
        .body
    {
        Body::Links(links) => lwm2m_codec::parse_links(links.as_bytes()).unwrap(),
        other => panic!("{other:?}"),
    };
    let found = links(&mut world, "/3303/0");
    let urls: Vec<&str> = found.iter().map(|link| link.url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "/3303/0",
            "/3303/0/5601",
            "/3303/0/5602",
            "/3303/0/5605",
            "/3303/0/5700",
            "/3303/0/5701"
        ]
    );
    assert_eq!(found[0].attribute("pmin"), Some("10"));
    assert_eq!(
        (found[4].attribute("pmax"), found[4].attribute("gt")),
        (Some("60"), Some("25.5"))
    );
    assert_eq!(
        found[4].attribute("pmin"),
        None,
        "inherited ones only show at the resource"
    );
    let resource = links(&mut world, "/3303/0/5700");
    assert_eq!(
        (resource[0].attribute("pmin"), resource[0].attribute("pmax")),
        (Some("10"), Some("60"))
    );
    assert_eq!(links(&mut world, "/3/0/6")[0].attribute("dim"), Some("2"));
    let object = links(&mut world, "/3303");
    assert_eq!(object[0].url, "/3303");
    assert_eq!(object.len(), 1 + 2 * 6);

    // Without a value an attribute is unset.
    assert_eq!(
        world.ask("dev1", set("/3303/0", &["pmin"])).unwrap().code,
        Code::CHANGED
    );
    assert_eq!(links(&mut world, "/3303/0")[0].attribute("pmin"), None);
}

#[test]
fn large_bodies_travel_in_blocks_both_ways_whatever_a_device_can_bear() {
    for block_size in [16, 64, 256, 512, 1_024] {
        let mut world = World::new();
        let mut config = client_config("dev1");
        config.coap.block_size = block_size;
        let device = world.add_client(1, config);
        let now = world.now.instant;
        world.client(device).start(now, SERVER);
        world.run_for(Duration::from_secs(5));
        let long: String = (0..5_000)
            .map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap()))
            .collect();
        assert_eq!(
            world
                .ask("dev1", write("/3/0/15", text(15, &long)))
                .unwrap()
                .code,
            Code::CHANGED,
            "{block_size}"
        );
        assert_eq!(
            world.client(device).objects().get(&path("/3/0/15")),
            Some(&Value::String(long.clone()))
        );
        assert_eq!(
            value(&world.ask("dev1", read("/3/0/15")).unwrap()),
            Value::String(long)
        );
    }
}

#[test]
fn requests_to_a_device_go_one_after_the_other_and_their_number_is_bounded() {
    let mut world = World::with(
        ServerConfig {
            max_pending_per_device: 3,
            ..ServerConfig::default()
        },
        1,
    );
    let device = world.add_bare(1);
    world.from_device(device, register_request(&["ep=dev1"], "</3/0>"));
    let handles: Vec<_> = (0..4)
        .map(|n| world.request("dev1", read(&format!("/3/0/{n}"))))
        .collect();
    let refused = world
        .server
        .request(world.now, "dev1", read("/3"), RequestOptions::default());
    assert_eq!(
        refused,
        Err(RequestError::TooManyPending {
            endpoint: "dev1".into(),
            limit: 3
        })
    );
    for (n, handle) in handles.into_iter().enumerate() {
        world.run_for(Duration::from_millis(100));
        let asked: Vec<_> = std::mem::take(&mut world.bare_events);
        let [
            (
                _,
                coap::Event::Request {
                    exchange, request, ..
                },
            ),
        ] = asked.as_slice()
        else {
            panic!("{asked:?}")
        };
        assert_eq!(request.path, ["3", "0", n.to_string().as_str()]);
        let (now, payload) = (world.now.instant, "1".into());
        let response = Response {
            content_format: Some(0),
            payload,
            ..Response::new(Code::CONTENT)
        };
        world.bare(device).respond(now, *exchange, response);
        assert!(world.outcome(handle).is_ok());
    }
    assert_eq!(world.server.pending("dev1"), 0);
}

#[test]
fn a_silent_device_ends_in_a_time_out_and_what_waited_behind_was_not_sent() {
    let mut world = World::new();
    world.registered(1, "dev1");
    world.weather.lost = 1.0;
    let options = |seconds| RequestOptions {
        timeout: Some(Duration::from_secs(seconds)),
        ..RequestOptions::default()
    };
    let first = world.request_with("dev1", read("/3/0/0"), options(10));
    let second = world.request_with("dev1", read("/3/0/1"), options(5));
    let third = world.request_with("dev1", read("/3/0/2"), options(20));
    let before = world.now.instant;
    let failure = world.outcome(second).unwrap_err();
    assert!(
        failure == RequestFailure::Expired && !failure.may_have_acted(),
        "{failure:?}"
    );
    assert_eq!(world.now.instant - before, Duration::from_secs(5));
    let failure = world.outcome(first).unwrap_err();
    assert!(failure == RequestFailure::Timeout && failure.may_have_acted());
    world.weather.lost = 0.0;
    assert!(world.outcome(third).is_ok());
}

#[test]
fn a_device_that_leaves_ends_its_requests() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    world.weather.lost = 1.0;
    let first = world.request("dev1", read("/3/0/0"));
    let second = world.request("dev1", read("/3/0/1"));
    world.weather.lost = 0.0;
    let now = world.now.instant;
    world.client(device).deregister(now);
    assert_eq!(
        world.outcome(first),
        Err(RequestFailure::Gone { sent: true })
    );
    assert_eq!(
        world.outcome(second),
        Err(RequestFailure::Gone { sent: false })
    );
}

#[test]
fn a_device_that_restarts_is_not_sent_the_same_execute_again() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    world.weather.lost = 1.0;
    let execute = world.request(
        "dev1",
        Operation::Execute {
            path: path("/3/0/4"),
            arguments: String::new(),
        },
    );
    let waiting = world.request("dev1", read("/3/0/1"));
    world.weather.lost = 0.0;
    let now = world.now.instant;
    world.client(device).restart(now);
    assert_eq!(
        world.outcome(execute),
        Err(RequestFailure::Gone { sent: true })
    );
    assert!(
        world.outcome(waiting).is_ok(),
        "what was not sent yet goes to the new registration"
    );
    world.run_for(Duration::from_secs(100));
    let executed =
        |(_, event): &&(_, client::Event)| matches!(event, client::Event::Executed { .. });
    assert_eq!(world.device_events.iter().filter(executed).count(), 0);
}

#[test]
fn a_request_can_be_cancelled_before_and_after_it_was_sent() {
    let mut world = World::new();
    world.registered(1, "dev1");
    world.weather.lost = 1.0;
    let first = world.request("dev1", read("/3/0/0"));
    let second = world.request("dev1", read("/3/0/1"));
    world.server.cancel(world.now, second);
    assert_eq!(
        world.outcome(second),
        Err(RequestFailure::Cancelled { sent: false })
    );
    world.server.cancel(world.now, first);
    assert_eq!(
        world.outcome(first),
        Err(RequestFailure::Cancelled { sent: true })
    );
    world.server.cancel(world.now, first);
    world.weather.lost = 0.0;
    assert!(world.ask("dev1", read("/3/0/0")).is_ok());
    assert!(
        !world
            .take_events()
            .iter()
            .any(|event| matches!(event, Event::Completed { .. })),
        "each ends once"
    );
}

#[test]
fn an_answer_that_cannot_be_read_says_why() {
    let mut world = World::new();
    let device = world.add_bare(1);
    world.from_device(device, register_request(&["ep=dev1"], "</3/0>"));
    let answers = [
        Response {
            content_format: Some(11542),
            payload: vec![0xff; 3].into(),
            ..Response::new(Code::CONTENT)
        },
        Response {
            content_format: Some(65000),
            payload: "x".into(),
            ..Response::new(Code::CONTENT)
        },
        Response::new(Code::CHANGED),
    ];
    for answer in answers {
        let handle = world.request("dev1", read("/3/0/1"));
        world.run_for(Duration::from_millis(100));
        let Some((_, coap::Event::Request { exchange, .. })) = world.bare_events.pop() else {
            panic!("not asked")
        };
        let now = world.now.instant;
        world.bare(device).respond(now, exchange, answer.clone());
        let outcome = world.outcome(handle);
        assert!(
            matches!(outcome, Err(RequestFailure::InvalidResponse(_))),
            "{answer:?}: {outcome:?}"
        );
    }
    // A failure's text is passed on.
    let handle = world.request("dev1", read("/3/0/1"));
    world.run_for(Duration::from_millis(100));
    let Some((_, coap::Event::Request { exchange, .. })) = world.bare_events.pop() else {
        panic!("not asked")
    };
    let now = world.now.instant;
    let answer = Response {
        payload: "on fire".into(),
        ..Response::new(Code::INTERNAL_SERVER_ERROR)
    };
    world.bare(device).respond(now, exchange, answer);
    assert_eq!(
        world.outcome(handle).unwrap().body,
        Body::Message("on fire".into())
    );
}

#[test]
fn only_its_server_may_touch_a_device() {
    let mut world = World::new();
    let device = world.registered(1, "dev1");
    let mut stranger = coap::Endpoint::new(coap::Config::default(), [9; 32]);
    let now = world.now.instant;
    let request = coap::Request::new(coap::Method::Get, ["3", "0", "0"]);
    stranger
        .send_request(now, device, request, coap::RequestOptions::default())
        .unwrap();
    let datagram = stranger.poll_transmit().unwrap().payload;
    let from = common::device_peer(99);
    world.client(device).handle_datagram(now, from, &datagram);
    let answer = world.client(device).poll_transmit().unwrap();
    assert_eq!(answer.to, from);
    stranger.handle_datagram(now, device, &answer.payload);
    let event = stranger.poll_event();
    assert!(
        matches!(&event, Some(coap::Event::Response { response, .. }) if response.code == Code::UNAUTHORIZED),
        "{event:?}"
    );
}

#[test]
fn the_tree_in_memory_takes_only_what_the_models_allow() {
    let mut tree = InMemoryTree::new(MODELS.clone());
    let float = |id, v| ResourceNode::single(id, Value::Float(v));
    assert_eq!(
        tree.add_instance(65_000, 0, []),
        Err(TreeError::UnknownObject(65_000))
    );
    assert_eq!(
        tree.add_instance(3303, 0, []),
        Err(TreeError::MissingMandatory {
            path: path("/3303/0/5700")
        })
    );
    let unknown = tree.add_instance(3303, 0, [float(5700, 1.0), float(1, 1.0)]);
    assert_eq!(unknown, Err(TreeError::UnknownResource(path("/3303/0/1"))));
    let wrong = tree.add_instance(3303, 0, [ResourceNode::single(5700, Value::Integer(1))]);
    assert!(
        matches!(wrong, Err(TreeError::WrongType { .. })),
        "{wrong:?}"
    );
    assert_eq!(tree.add_instance(3303, 0, [float(5700, 1.0)]), Ok(()));
    assert_eq!(
        tree.set(&path("/3303/0/5700"), Value::Float(1.0)),
        Ok(false)
    );
    assert_eq!(tree.set(&path("/3303/0/5700"), Value::Float(2.0)), Ok(true));
    assert_eq!(tree.get(&path("/3303/0/5700")), Some(&Value::Float(2.0)));
    assert_eq!(
        tree.set(&path("/3303/1/5700"), Value::Float(2.0)),
        Err(TreeError::NotFound(path("/3303/1/5700")))
    );
    assert_eq!(
        tree.allow_execute(&path("/3303/0/5700")),
        Err(TreeError::UnknownResource(path("/3303/0/5700")))
    );
}
