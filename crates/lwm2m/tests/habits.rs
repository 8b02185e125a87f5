//! What LwM2M clients in C send, byte by byte: their order of options, what they leave out, how they answer. The messages
//! are ours, made after the sources of Wakaama, Zephyr, Contiki-NG and Anjay.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod common;

use coap::Peer;
use common::{World, device_peer, observe, path, seconds};
use lwm2m::server::Event;
use lwm2m::{Body, Operation, Version};
use lwm2m_model::{InstanceNode, Node, ResourceNode, Value, ValueType};

const CON: u8 = 0;
const NON: u8 = 1;
const ACK: u8 = 2;

const POST: u8 = 0x02;
const CREATED: u8 = 0x41;
const DELETED: u8 = 0x42;
const CHANGED: u8 = 0x44;
const CONTENT: u8 = 0x45;
const CONTINUE: u8 = 0x5f;

const URI_HOST: u16 = 3;
const OBSERVE: u16 = 6;
const URI_PORT: u16 = 7;
const LOCATION_PATH: u16 = 8;
const URI_PATH: u16 = 11;
const CONTENT_FORMAT: u16 = 12;
const URI_QUERY: u16 = 15;
const BLOCK1: u16 = 27;

/// A message as it is on the wire (RFC 7252 section 3).
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw {
    kind: u8,
    code: u8,
    id: u16,
    token: Vec<u8>,
    options: Vec<(u16, Vec<u8>)>,
    payload: Vec<u8>,
}

impl Raw {
    fn new(kind: u8, code: u8, id: u16, token: &[u8]) -> Self {
        Self {
            kind,
            code,
            id,
            token: token.to_vec(),
            ..Self::default()
        }
    }

    fn option(mut self, number: u16, value: impl AsRef<[u8]>) -> Self {
        self.options.push((number, value.as_ref().to_vec()));
        self
    }

    fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().to_vec();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let nibble = |n: usize| {
            if n < 13 {
                (n as u8, None)
            } else {
                (13, Some(n as u8 - 13))
            }
        };
        let mut out = vec![
            0x40 | self.kind << 4 | self.token.len() as u8,
            self.code,
            (self.id >> 8) as u8,
            self.id as u8,
        ];
        out.extend(&self.token);
        let mut last = 0;
        for (number, value) in &self.options {
            let (delta, more_delta) = nibble(usize::from(number - last));
            let (len, more_len) = nibble(value.len());
            out.push(delta << 4 | len);
            out.extend(more_delta);
            out.extend(more_len);
            out.extend(value);
            last = *number;
        }
        if !self.payload.is_empty() {
            out.push(0xff);
            out.extend(&self.payload);
        }
        out
    }

    fn read(bytes: &[u8]) -> Self {
        let token = usize::from(bytes[0] & 15);
        let mut message = Self::new(
            bytes[0] >> 4 & 3,
            bytes[1],
            u16::from_be_bytes([bytes[2], bytes[3]]),
            &bytes[4..4 + token],
        );
        let (mut at, mut number) = (4 + token, 0);
        let more = |nibble: u8, at: &mut usize| match nibble {
            13 => {
                *at += 1;
                u16::from(bytes[*at - 1]) + 13
            }
            other => u16::from(other),
        };
        while at < bytes.len() && bytes[at] != 0xff {
            let first = bytes[at];
            at += 1;
            number += more(first >> 4, &mut at);
            let len = usize::from(more(first & 15, &mut at));
            message.options.push((number, bytes[at..at + len].to_vec()));
            at += len;
        }
        message.payload = bytes.get(at + 1..).unwrap_or_default().to_vec();
        message
    }

    fn all(&self, number: u16) -> Vec<&[u8]> {
        let these = self.options.iter().filter(|(n, _)| *n == number);
        these.map(|(_, value)| value.as_slice()).collect()
    }

    fn texts(&self, number: u16) -> Vec<String> {
        let texts = self.all(number).into_iter();
        texts
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
            .collect()
    }
}

/// Gives the server a message, and returns what it sends.
fn say(world: &mut World, device: Peer, message: &Raw) -> Vec<Raw> {
    let now = world.now;
    world.server.handle_datagram(now, device, &message.bytes());
    hear(world, device)
}

fn hear(world: &mut World, device: Peer) -> Vec<Raw> {
    let mut heard = Vec::new();
    while let Some(transmit) = world.server.poll_transmit() {
        assert_eq!(transmit.to, device);
        heard.push(Raw::read(&transmit.payload));
    }
    while let Some(event) = world.server.poll_event() {
        if let Event::Notified { ack: Some(ack), .. } = &event {
            let now = world.now;
            world.server.acknowledge(now, *ack);
            while let Some(transmit) = world.server.poll_transmit() {
                heard.push(Raw::read(&transmit.payload));
            }
        }
        world.events.push(event);
    }
    heard
}

/// Registers, and returns the location's parts.
fn registered(world: &mut World, device: Peer, request: &Raw) -> Vec<String> {
    let [answer] = &say(world, device, request)[..] else {
        panic!("one answer")
    };
    assert_eq!(
        (answer.kind, answer.code, answer.id, &answer.token),
        (ACK, CREATED, request.id, &request.token)
    );
    answer.texts(LOCATION_PATH)
}

/// Asks the device, and returns what it is asked.
fn asked(
    world: &mut World,
    device: Peer,
    operation: Operation,
) -> (lwm2m::server::RequestHandle, Raw) {
    let now = world.now;
    let handle = world
        .server
        .request(now, "dev1", operation, Default::default())
        .unwrap();
    let [request] = &hear(world, device)[..] else {
        panic!("one request")
    };
    (handle, request.clone())
}

fn body(world: &mut World, handle: lwm2m::server::RequestHandle) -> Body {
    world.outcome(handle).unwrap().body
}

fn read(at: &str) -> Operation {
    Operation::Read { path: path(at) }
}

/// TLV of `/3/0/0` and `/3/0/1`.
const DEVICE: &[u8] = b"\xc3\x00abc\xc2\x01de";

fn the_device(instance: u16) -> InstanceNode {
    let text = |id, text: &str| ResourceNode::single(id, Value::String(text.to_owned()));
    InstanceNode::new(instance, [text(0, "abc"), text(1, "de")])
}

#[test]
fn wakaama_names_its_formats_by_old_numbers_or_not_at_all() {
    let mut world = World::new();
    let device = device_peer(1);
    let links = "</>;rt=\"oma.lwm2m\";ct=1542, </1/0>, </3/0>,</31024/10>,";
    let register = Raw::new(CON, POST, 0x7a1c, &[0x1c, 0x7a, 0xd2, 0x68])
        .option(URI_PATH, "rd")
        .option(CONTENT_FORMAT, [40])
        .option(URI_QUERY, "ep=dev1")
        .option(URI_QUERY, "b=U")
        .option(URI_QUERY, "lt=300")
        .payload(links);
    let location = registered(&mut world, device, &register);
    let registration = world.server.registration("dev1").unwrap();
    assert_eq!(registration.version, Version::V1_0);
    let instances = registration.available_instances();
    assert_eq!(instances.into_keys().collect::<Vec<_>>(), [1, 3, 31024]);

    // The answer comes with the acknowledgement, as TLV of the time before 1.0; or with no format at all.
    for format in [Some(1542_u16), Some(11542), None] {
        let (handle, request) = asked(&mut world, device, read("/3/0"));
        let mut answer = Raw::new(ACK, CONTENT, request.id, &request.token);
        if let Some(format) = format {
            answer = answer.option(CONTENT_FORMAT, format.to_be_bytes());
        }
        say(&mut world, device, &answer.payload(DEVICE));
        let expected = Body::Node(Node::Instance(the_device(0)));
        assert_eq!(body(&mut world, handle), expected, "{format:?}");
    }

    // An update with links has no format.
    let update = location.iter().fold(
        Raw::new(CON, POST, 0x7a1d, &[0x1d, 0x7a, 0xd2, 0x69]),
        |update, part| update.option(URI_PATH, part),
    );
    let answer = say(&mut world, device, &update.clone().payload("</1/0>,</3/0>"));
    assert_eq!(answer[0].code, CHANGED);
    assert_eq!(world.server.registration("dev1").unwrap().links.len(), 2);
    let leave = Raw {
        code: 0x04,
        id: 0x7a1e,
        ..update
    };
    assert_eq!(say(&mut world, device, &leave)[0].code, DELETED);
}

#[test]
fn wakaama_counts_its_notifications_from_a_number_of_its_own_and_sends_them_unconfirmed() {
    let mut world = World::new();
    let device = device_peer(1);
    let register = Raw::new(CON, POST, 1, &[1])
        .option(URI_PATH, "rd")
        .option(CONTENT_FORMAT, [40])
        .option(URI_QUERY, "ep=dev1")
        .option(URI_QUERY, "lt=300")
        .payload("</3/0>");
    registered(&mut world, device, &register);
    let (handle, request) = asked(&mut world, device, observe("/3/0/9"));
    assert_eq!(request.all(OBSERVE), [b""]);
    // Text without a format, and the counter where it happens to be.
    let notification = |kind, id, count: u8, value: &str| {
        Raw::new(kind, CONTENT, id, &request.token)
            .option(OBSERVE, [count])
            .option(CONTENT_FORMAT, [])
            .payload(value)
    };
    say(
        &mut world,
        device,
        &notification(ACK, request.id, 200, "100"),
    );
    let level = |level| Body::Node(Node::single(9, Value::Integer(level)));
    assert_eq!(body(&mut world, handle), level(100));
    world.take_events();
    for (id, count, value) in [(900, 201, "99"), (901, 203, "98"), (902, 202, "7")] {
        assert_eq!(
            say(&mut world, device, &notification(NON, id, count, value)),
            []
        );
    }
    let told: Vec<Body> = world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Notified { response, .. } => Some(response.body),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [level(99), level(98)],
        "the third is older than the second"
    );
}

#[test]
fn zephyr_says_its_version_first_and_nothing_that_has_a_default() {
    let mut world = World::new();
    let device = device_peer(1);
    let links = "</>;rt=\"oma.lwm2m\";ct=\"60 110 112 11542 11543\",</1>;ver=1.1,</1/0>,</3/0>,</16/0>,\
                 </3303>;ver=1.1,</3303/0>";
    let register = |id: u16, extra: &[&str]| {
        let first = Raw::new(CON, POST, id, &[1, 2, 3, 4, 5, 6, 7, 8])
            .option(URI_PATH, "rd")
            .option(CONTENT_FORMAT, [40])
            .option(URI_QUERY, "lwm2m=1.1")
            .option(URI_QUERY, "ep=dev1")
            .option(URI_QUERY, "lt=86400");
        extra
            .iter()
            .fold(first, |raw, item| raw.option(URI_QUERY, item))
            .payload(links)
    };
    registered(&mut world, device, &register(1, &[]));
    let plain = world.server.registration("dev1").unwrap();
    assert_eq!(
        (plain.binding.raw.as_str(), plain.binding.queue),
        ("U", false)
    );
    // In queue mode it says so.
    let location = registered(&mut world, device, &register(2, &["b=U", "Q"]));
    let sleepy = world.server.registration("dev1").unwrap();
    assert!(sleepy.binding.queue && sleepy.version == Version::V1_1);
    assert_eq!(sleepy.object_version(3303), Some("1.1"));
    // An update without anything, and one that carries the lifetime only.
    for (id, extra) in [(3, None), (4, Some("lt=60"))] {
        let update = location
            .iter()
            .fold(Raw::new(CON, POST, id, &[9]), |raw, part| {
                raw.option(URI_PATH, part)
            });
        let update = extra
            .into_iter()
            .fold(update, |raw, item| raw.option(URI_QUERY, item));
        assert_eq!(say(&mut world, device, &update)[0].code, CHANGED);
    }
    let now = world.server.registration("dev1").unwrap();
    assert_eq!(now.lifetime, seconds(60));
    assert!(now.binding.queue, "it is still in queue mode");
}

#[test]
fn zephyr_acknowledges_first_and_answers_later_in_a_message_of_its_own() {
    let mut world = World::new();
    let device = device_peer(1);
    let register = Raw::new(CON, POST, 1, &[1])
        .option(URI_PATH, "rd")
        .option(CONTENT_FORMAT, [40])
        .option(URI_QUERY, "ep=dev1")
        .option(URI_QUERY, "lwm2m=1.1")
        .payload("</3/0>,</16/0>");
    registered(&mut world, device, &register);
    let (handle, request) = asked(&mut world, device, read("/16/0/0"));
    say(&mut world, device, &Raw::new(ACK, 0, request.id, &[]));
    // SenML CBOR of /16/0/0/0: a base name, the rest of it in the record, a text.
    let pack = [
        &[0x81, 0xa3, 0x21, 0x67][..],
        b"/16/0/0",
        &[0x00, 0x62],
        b"/0",
        &[0x03, 0x61],
        b"x",
    ]
    .concat();
    let answer = Raw::new(CON, CONTENT, 77, &request.token)
        .option(CONTENT_FORMAT, [112])
        .payload(pack);
    let heard = say(&mut world, device, &answer);
    assert_eq!(heard, [Raw::new(ACK, 0, 77, &[])]);
    let one = ResourceNode::multiple(0, ValueType::String, [(0, Value::String("x".into()))]);
    assert_eq!(body(&mut world, handle), Body::Node(Node::Resource(one)));
}

#[test]
fn contiki_registers_in_small_blocks() {
    let mut world = World::new();
    let device = device_peer(1);
    let links =
        "</>;rt=\"oma.lwm2m\",</1/0>,</3/0>,</3303/0>,</3303/1>,</3303/2>,</3303/3>,</3303/4>";
    let blocks: Vec<&[u8]> = links.as_bytes().chunks(32).collect();
    let mut location = Vec::new();
    for (number, block) in (0_u8..).zip(&blocks) {
        let last = usize::from(number) + 1 == blocks.len();
        let request = Raw::new(CON, POST, u16::from(number) + 1, &[number, 0xc0])
            .option(URI_PATH, "rd")
            .option(CONTENT_FORMAT, [40])
            .option(URI_QUERY, "ep=dev1")
            .option(URI_QUERY, "lt=60")
            .option(URI_QUERY, "b=UQ")
            // SZX 1: 32 bytes.
            .option(BLOCK1, [number << 4 | u8::from(!last) << 3 | 1])
            .payload(block);
        let [answer] = &say(&mut world, device, &request)[..] else {
            panic!("one answer")
        };
        assert_eq!(answer.code, if last { CREATED } else { CONTINUE });
        assert_eq!(answer.all(BLOCK1).len(), 1);
        location = answer.texts(LOCATION_PATH);
    }
    assert_eq!(location.len(), 2);
    let registration = world.server.registration("dev1").unwrap();
    assert!(registration.binding.queue);
    assert_eq!(registration.available_instances()[&3303].len(), 5);
}

#[test]
fn anjay_names_the_host_answers_a_create_without_a_place_and_sends_by_itself() {
    let mut world = World::new();
    let device = device_peer(1);
    let links = "</>;rt=\"oma.lwm2m\";ct=\"60 110 112 11542 11543\",</1>;ver=\"1.1\",</1/1>,</3/0>,</16>;ver=1.0";
    let register = Raw::new(CON, POST, 0xfffe, &[1, 2, 3, 4, 5, 6, 7, 8])
        .option(URI_HOST, "gateway.example")
        .option(URI_PORT, 5683_u16.to_be_bytes())
        .option(URI_PATH, "rd")
        .option(CONTENT_FORMAT, [40])
        .option(URI_QUERY, "lwm2m=1.1")
        .option(URI_QUERY, "ep=dev1")
        .option(URI_QUERY, "lt=0")
        .payload(links);
    registered(&mut world, device, &register);
    let registration = world.server.registration("dev1").unwrap();
    assert_eq!(registration.object_version(1), Some("1.1"));
    assert_eq!(registration.lifetime, seconds(0));

    let create = Operation::Create {
        path: path("/16"),
        node: Node::Instance(InstanceNode::new(
            3,
            [ResourceNode::multiple(
                0,
                ValueType::String,
                [(0, Value::String("x".into()))],
            )],
        )),
    };
    let (handle, request) = asked(&mut world, device, create);
    // An instance whose number the server has chosen has no need of a location.
    say(
        &mut world,
        device,
        &Raw::new(ACK, CREATED, request.id, &request.token),
    );
    assert_eq!(body(&mut world, handle), Body::None);

    // Its own report, right after, under a token that it uses again.
    let report = br#"[{"bn":"/3/0","n":"/0","vs":"abc"},{"n":"/1","vs":"de"}]"#;
    let send = Raw::new(CON, POST, 0xffff, &[1, 2, 3, 4, 5, 6, 7, 8])
        .option(URI_PATH, "dp")
        .option(CONTENT_FORMAT, [110])
        .payload(report);
    world.take_events();
    let now = world.now;
    world.server.handle_datagram(now, device, &send.bytes());
    let sent = std::iter::from_fn(|| world.server.poll_event()).find_map(|event| match event {
        Event::Sent { values, ack, .. } => Some((values, ack)),
        _ => None,
    });
    let (values, ack) = sent.unwrap();
    assert_eq!(values[0].nodes.len(), 2);
    world.server.acknowledge(now, ack);
    let [answer] = &hear(&mut world, device)[..] else {
        panic!("one answer")
    };
    assert_eq!(
        (answer.kind, answer.code, answer.id),
        (ACK, CHANGED, 0xffff)
    );
}
