//! Hellos as the libraries in C make them, byte by byte, and what each of them is answered.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod pair;

use std::collections::BTreeMap;

use dtls::{Refusal, ServerConfig};
use pair::{World, address, certificate, ec_key, own};

const PSK_CCM_8: u16 = 0xc0a8;
const PSK_GCM: u16 = 0x00a8;
const PSK_CBC: u16 = 0x00ae;
const ECDSA_CCM_8: u16 = 0xc0ae;
const ECDSA_GCM: u16 = 0xc02b;
/// Of which nothing here has any: RSA, AES-256, ChaCha20, and a number that nobody has been given.
const OTHERS: [u16; 5] = [0xc02f, 0xc030, 0xc02c, 0xcca9, 0xfefe];
const SCSV: u16 = 0x00ff;

const SERVER_NAME: u16 = 0;
const MAX_FRAGMENT_LENGTH: u16 = 1;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const CLIENT_TYPE: u16 = 19;
const SERVER_TYPE: u16 = 20;
const ENCRYPT_THEN_MAC: u16 = 22;
const EXTENDED_MASTER_SECRET: u16 = 23;
const TICKET: u16 = 35;
const CONNECTION_ID: u16 = 54;
const RENEGOTIATION: u16 = 0xff01;

struct Hello {
    /// Of the record, of the hello.
    versions: (u16, u16),
    suites: Vec<u16>,
    extensions: Option<Vec<(u16, Vec<u8>)>>,
    /// How many records the hello is cut into.
    pieces: usize,
}

fn tinydtls() -> Hello {
    Hello {
        versions: (0xfefd, 0xfefd),
        suites: vec![PSK_CCM_8],
        extensions: None,
        pieces: 1,
    }
}

/// All that Mbed TLS may send, in its order, with a certificate or a key.
fn mbed_tls(suites: &[u16]) -> Hello {
    let extensions = vec![
        (SERVER_NAME, b"\x00\x05\x00\x00\x02gw".to_vec()),
        (
            SIGNATURES,
            b"\x00\x08\x06\x03\x05\x03\x04\x03\x04\x01".to_vec(),
        ),
        (GROUPS, b"\x00\x06\x00\x19\x00\x18\x00\x17".to_vec()),
        (POINT_FORMATS, b"\x01\x00".to_vec()),
        // One that it can take, of no bytes.
        (CONNECTION_ID, b"\x00".to_vec()),
        (MAX_FRAGMENT_LENGTH, b"\x01".to_vec()),
        (ENCRYPT_THEN_MAC, vec![]),
        (EXTENDED_MASTER_SECRET, vec![]),
        (TICKET, vec![]),
    ];
    Hello {
        versions: (0xfeff, 0xfefd),
        suites: [suites, &[SCSV]].concat(),
        extensions: Some(extensions),
        pieces: 1,
    }
}

impl Hello {
    fn body(&self, cookie: &[u8]) -> Vec<u8> {
        let mut body = self.versions.1.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        body.extend((2 * self.suites.len() as u16).to_be_bytes());
        body.extend(self.suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        if let Some(extensions) = &self.extensions {
            let mut all = Vec::new();
            for (number, value) in extensions {
                all.extend(number.to_be_bytes());
                all.extend((value.len() as u16).to_be_bytes());
                all.extend(value);
            }
            body.extend((all.len() as u16).to_be_bytes());
            body.extend(all);
        }
        body
    }

    /// The datagram: message `number` in as many records.
    fn datagram(&self, number: u8, cookie: &[u8]) -> Vec<u8> {
        let body = self.body(cookie);
        let mut datagram = Vec::new();
        let piece = body.len().div_ceil(self.pieces);
        for (index, part) in body.chunks(piece).enumerate() {
            let three = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
            let mut message = vec![1];
            message.extend(three(body.len()));
            message.extend([0, number]);
            message.extend(three(index * piece));
            message.extend(three(part.len()));
            message.extend(part);
            datagram.push(22);
            datagram.extend(self.versions.0.to_be_bytes());
            datagram.extend([0, 0, 0, 0, 0, 0, 0, number * 8 + index as u8]);
            datagram.extend((message.len() as u16).to_be_bytes());
            datagram.extend(message);
        }
        datagram
    }

    /// Says hello, brings the cookie back, and returns what comes then.
    fn answer(&self, world: &mut World) -> Vec<Vec<u8>> {
        let (now, at) = (world.now, address(1));
        world
            .server
            .handle_datagram(now, at, &self.datagram(0, &[]));
        let verify = world.server.poll_transmit().unwrap().payload;
        // Record, message, version, then the cookie. The record has the hello's own version and number.
        assert_eq!(verify[0], 22);
        assert_eq!(verify[1..3], self.versions.0.to_be_bytes());
        assert_eq!(verify[13], 3);
        assert_eq!(
            verify[25..27],
            [0xfe, 0xff],
            "DTLS 1.0, whatever is spoken later"
        );
        let cookie = &verify[28..28 + usize::from(verify[27])];
        world
            .server
            .handle_datagram(now, at, &self.datagram(1, cookie));
        std::iter::from_fn(|| world.server.poll_transmit())
            .map(|transmit| transmit.payload)
            .collect()
    }
}

/// What a ServerHello chose: the suite, and the extensions it answers.
fn chosen(flight: &[Vec<u8>]) -> (u16, BTreeMap<u16, Vec<u8>>) {
    let first = &flight[0];
    assert_eq!((first[0], first[13]), (22, 2), "a ServerHello");
    assert_eq!(first[1..3], [0xfe, 0xfd]);
    let two = |at: usize| u16::from_be_bytes([first[at], first[at + 1]]);
    // The message's number is that of the hello it answers; its fragment is whole.
    assert_eq!((two(17), first[14..17] == first[22..25]), (1, true));
    let body = 25;
    let session = usize::from(first[body + 34]);
    let at = body + 35 + session;
    let suite = two(at);
    assert_eq!(first[at + 2], 0, "no compression");
    let end = body + usize::from(two(23));
    let mut extensions = BTreeMap::new();
    let mut at = at + 3;
    if at < end {
        assert_eq!(at + 2 + usize::from(two(at)), end);
        at += 2;
    }
    while at < end {
        let len = usize::from(two(at + 2));
        extensions.insert(two(at), first[at + 4..at + 4 + len].to_vec());
        at += 4 + len;
    }
    (suite, extensions)
}

fn numbers(extensions: &BTreeMap<u16, Vec<u8>>) -> Vec<u16> {
    extensions.keys().copied().collect()
}

/// A server with a key pair and a certificate of its own, and a device's key.
fn world() -> World {
    let key = ec_key();
    // Twice the same, and long: more than what fits into one small datagram.
    let name = "a-name-that-makes-a-certificate-longer";
    let certificate = certificate(name, &key, (-1, 10), None);
    World::with_psk(ServerConfig {
        own_key: Some(own(&key, &[&certificate, &certificate])),
        ..ServerConfig::default()
    })
}

#[test]
fn one_without_any_extension_as_of_tinydtls() {
    let flight = tinydtls().answer(&mut world());
    let (suite, extensions) = chosen(&flight);
    assert_eq!(suite, PSK_CCM_8);
    assert_eq!(
        numbers(&extensions),
        [],
        "nothing is answered that was not asked"
    );
    // ServerHelloDone is all that follows: there is no hint.
    assert_eq!(flight.len(), 1);
    let last = flight[0].len() - 12;
    assert_eq!(flight[0][last], 14);
}

#[test]
fn one_with_all_that_mbed_tls_has_and_a_key() {
    let everything = [
        &[ECDSA_GCM, ECDSA_CCM_8][..],
        &OTHERS,
        &[PSK_GCM, PSK_CCM_8, PSK_CBC],
    ]
    .concat();
    let (suite, extensions) = chosen(&mbed_tls(&everything).answer(&mut world()));
    assert_eq!(suite, PSK_GCM, "who lists a suite with a key has one");
    // Neither a connection id nor a ticket nor a length is promised; encrypt-then-MAC is for CBC only (RFC 7366 section 3),
    // point formats for curves only.
    assert_eq!(
        numbers(&extensions),
        [EXTENDED_MASTER_SECRET, RENEGOTIATION]
    );
    let (suite, extensions) = chosen(&mbed_tls(&[PSK_CBC]).answer(&mut world()));
    assert_eq!(suite, PSK_CBC);
    assert_eq!(
        numbers(&extensions),
        [ENCRYPT_THEN_MAC, EXTENDED_MASTER_SECRET, RENEGOTIATION]
    );
}

#[test]
fn one_of_a_device_with_a_certificate_and_room_for_512_bytes() {
    let flight = mbed_tls(&[ECDSA_CCM_8, OTHERS[0]]).answer(&mut world());
    let (suite, extensions) = chosen(&flight);
    assert_eq!(suite, ECDSA_CCM_8);
    assert_eq!(
        numbers(&extensions),
        [POINT_FORMATS, EXTENDED_MASTER_SECRET, RENEGOTIATION]
    );
    assert!(flight.len() > 1);
    for datagram in &flight {
        assert!(datagram.len() <= 512, "{}", datagram.len());
    }
    // Without that they are longer.
    let mut roomy = mbed_tls(&[ECDSA_CCM_8]);
    roomy
        .extensions
        .as_mut()
        .unwrap()
        .retain(|(number, _)| *number != MAX_FRAGMENT_LENGTH);
    let longest = roomy.answer(&mut world()).iter().map(Vec::len).max();
    assert!(longest > Some(512));
}

#[test]
fn one_that_wants_raw_public_keys_as_of_tinydtls_and_californium() {
    let mut hello = tinydtls();
    hello.suites = vec![ECDSA_CCM_8];
    hello.extensions = Some(vec![
        // tinydtls has no X.509; Californium would take it as its second choice.
        (CLIENT_TYPE, b"\x01\x02".to_vec()),
        (SERVER_TYPE, b"\x02\x02\x00".to_vec()),
        (GROUPS, b"\x00\x02\x00\x17".to_vec()),
        (POINT_FORMATS, b"\x01\x00".to_vec()),
    ]);
    let (suite, extensions) = chosen(&hello.answer(&mut world()));
    assert_eq!(suite, ECDSA_CCM_8);
    assert_eq!(
        numbers(&extensions),
        [POINT_FORMATS, CLIENT_TYPE, SERVER_TYPE]
    );
    assert_eq!(
        (&*extensions[&CLIENT_TYPE], &*extensions[&SERVER_TYPE]),
        (&[2][..], &[2][..])
    );
}

#[test]
fn those_that_come_to_nothing() {
    let refused = |hello: Hello| {
        let mut world = world();
        let flight = hello.answer(&mut world);
        assert_eq!((flight.len(), flight[0][0]), (1, 21), "an alert");
        world.run(std::time::Duration::ZERO);
        (world.refusals(), flight[0][14])
    };
    // Nothing that both have.
    let others = Hello {
        suites: OTHERS.to_vec(),
        ..tinydtls()
    };
    assert_eq!(refused(others), (vec![Refusal::NoCommonSuite], 40));
    // DTLS 1.0.
    let old = Hello {
        versions: (0xfeff, 0xfeff),
        ..tinydtls()
    };
    assert_eq!(refused(old), (vec![Refusal::Version], 70));
    // A length that RFC 6066 does not have: illegal_parameter.
    let mut strange = mbed_tls(&[PSK_CCM_8]);
    for (number, value) in strange.extensions.as_mut().unwrap() {
        if *number == MAX_FRAGMENT_LENGTH {
            *value = vec![5];
        }
    }
    let (why, alert) = refused(strange);
    assert!(matches!(why[..], [Refusal::Malformed(_)]), "{why:?}");
    assert_eq!(alert, 47);
    // One in pieces would have to be kept before anybody has shown where he is: it gets no answer.
    let mut world = world();
    let pieces = Hello {
        pieces: 2,
        ..tinydtls()
    };
    let (now, datagram) = (world.now, pieces.datagram(0, &[]));
    world.server.handle_datagram(now, address(1), &datagram);
    assert_eq!(world.server.poll_transmit(), None);
    assert_eq!(world.server.stats().stray, 2);
}
