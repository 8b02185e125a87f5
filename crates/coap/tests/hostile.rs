//! What strangers send: floods are bounded, and no bytes do harm.

mod support;

use std::collections::LinkedList;
use std::time::{Duration, Instant};

use coap::{Code, Config, Endpoint, Event, Method, Peer, Request, RequestOptions, Response, Token};
use coap_lite::{CoapOption, MessageClass, MessageType, Packet};
use proptest::prelude::*;
use support::{B, peer};

fn drain(endpoint: &mut Endpoint) -> (usize, usize) {
    let transmits = std::iter::from_fn(|| endpoint.poll_transmit()).count();
    (
        transmits,
        std::iter::from_fn(|| endpoint.poll_event()).count(),
    )
}

#[test]
fn a_flood_of_messages_is_remembered_up_to_a_bound() {
    let config = Config {
        max_dedup: 100,
        max_dedup_bytes: 1_000,
        max_exchanges: 50,
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(config, [0; 32]);
    let now = Instant::now();
    for n in 0..10_000_u32 {
        let from = Peer::plain((n.to_be_bytes(), 5683).into());
        let [_, _, high, low] = n.to_be_bytes();
        // CON GET: the first fifty wait for an answer, the others get 5.03.
        endpoint.handle_datagram(now, from, &[0x40, 1, high, low]);
    }
    assert_eq!(drain(&mut endpoint), (10_000 - 50, 50));
    let stats = endpoint.stats();
    assert_eq!(
        (stats.dedup_evicted, stats.exchanges_refused),
        (9_900, 9_950)
    );
    // A flood of NON does not push the CON out.
    let con = Peer::plain(([192, 0, 2, 9], 1).into());
    endpoint.handle_datagram(now, con, &[0x40, 1, 0, 1]);
    for n in 0..10_000_u32 {
        let [_, _, high, low] = n.to_be_bytes();
        endpoint.handle_datagram(now, peer(B), &[0x50, 0x45, high, low]);
    }
    drain(&mut endpoint);
    endpoint.handle_datagram(now, con, &[0x40, 1, 0, 1]);
    assert_eq!(endpoint.stats().duplicates, 1);
    // With time everything is forgotten.
    let mut now = now;
    while let Some(at) = endpoint.next_timeout() {
        now = at;
        endpoint.handle_timeout(now);
    }
    drain(&mut endpoint);
    endpoint.handle_datagram(now, con, &[0x40, 1, 0, 1]);
    assert_eq!(drain(&mut endpoint), (0, 1));
}

#[test]
fn a_flood_of_peers_does_not_grow_what_is_kept_of_peers() {
    let config = Config {
        max_peers: 10,
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(config, [0; 32]);
    let now = Instant::now();
    for n in 0..1_000_u32 {
        let from = Peer::plain((n.to_be_bytes(), 5683).into());
        endpoint.handle_datagram(now, from, &[0x50, 1, 0, 1]);
        let Some(Event::Request { exchange, .. }) = endpoint.poll_event() else {
            panic!("no request")
        };
        endpoint.respond(now, exchange, Response::new(Code::CONTENT));
        assert_eq!(drain(&mut endpoint), (1, 0), "idle ones make way");
    }
    // Ten that are waited for leave no room.
    for n in 0..10 {
        let to = Peer::plain(([1, 1, 1, n], 1).into());
        endpoint
            .send_request(
                now,
                to,
                Request::new(Method::Get, ["a"]),
                RequestOptions::default(),
            )
            .unwrap();
    }
    let refused = endpoint.send_request(
        now,
        peer(B),
        Request::new(Method::Get, ["a"]),
        RequestOptions::default(),
    );
    assert_eq!(refused, Err(coap::SendError::TooManyPeers { limit: 10 }));
}

#[test]
fn settings_out_of_bounds_are_taken_as_the_nearest_in_bounds() {
    let config = Config {
        ack_timeout: Duration::MAX,
        ack_random_factor: f64::NAN,
        max_retransmit: u32::MAX,
        nstart: 0,
        max_latency: Duration::MAX,
        separate_after: Duration::MAX,
        block_size: 0,
        max_bodies: 0,
        max_dedup: 0,
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(config, [0; 32]);
    let now = Instant::now();
    let options = RequestOptions {
        timeout: Duration::MAX,
        block_size: Some(u16::MAX),
        ..RequestOptions::default()
    };
    let request = Request {
        payload: vec![0; 40].into(),
        ..Request::new(Method::Put, ["a"])
    };
    endpoint
        .send_request(now, peer(B), request, options)
        .unwrap();
    endpoint.handle_datagram(now, peer(B), &[0x40, 1, 0, 1]);
    assert_eq!(drain(&mut endpoint), (1, 1));
    assert!(endpoint.next_timeout().is_some());

    let impatient = Config {
        ack_timeout: Duration::ZERO,
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(impatient, [0; 32]);
    endpoint
        .send_request(
            now,
            peer(B),
            Request::new(Method::Get, ["a"]),
            RequestOptions::default(),
        )
        .unwrap();
    endpoint.handle_timeout(now + Duration::from_secs(3600));
    assert!(drain(&mut endpoint).0 >= 1);
}

#[test]
fn the_corpus_is_decoded() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fuzz/corpus/coap_datagram"
    );
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        coap::fuzz::decode_datagram(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5);
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9),
        prop::sample::select(vec![
            vec![0],
            vec![1],
            vec![2],
            vec![b'w'],
            vec![b'v'],
            vec![b'o']
        ]),
    ]
}

/// A well-formed message of any meaning.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let option = (
        prop::sample::select(vec![
            1_u16, 3, 4, 6, 7, 8, 11, 12, 14, 15, 17, 20, 23, 27, 28, 35, 39, 60, 258, 65_000,
        ]),
        prop::collection::vec(any::<u8>(), 0..5),
    );
    let payload = prop_oneof![Just(0_usize), Just(16), Just(64), 0..200_usize];
    (
        0..4_u8,
        any::<u8>(),
        any::<u16>(),
        token(),
        prop::collection::vec(option, 0..6),
        payload,
    )
        .prop_map(|(kind, code, id, token, options, payload)| {
            let mut packet = Packet::new();
            packet.header.set_type(match kind {
                0 => MessageType::Confirmable,
                1 => MessageType::NonConfirmable,
                2 => MessageType::Acknowledgement,
                _ => MessageType::Reset,
            });
            packet.header.code = MessageClass::from(code);
            packet.header.message_id = if id & 1 == 0 { 0xa500 | id & 0xff } else { id };
            packet.set_token(token);
            for (number, value) in options {
                packet.add_option(CoapOption::from(number), value);
            }
            packet.payload = vec![b'z'; payload];
            packet.to_bytes_unlimited().expect("no limit, no error")
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do_no_harm(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
        coap::fuzz::decode_datagram(&datagrams.join(&[0xf1, 0x7e][..]));
    }

    #[test]
    fn any_messages_do_no_harm(datagrams in prop::collection::vec(message(), 0..12), cut: u16) {
        let mut bytes = datagrams.join(&[0xf1, 0x7e][..]);
        coap::fuzz::decode_datagram(&bytes);
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        coap::fuzz::decode_datagram(&bytes);
    }

    /// What an endpoint reads out of a request is what coap-lite wrote into it.
    #[test]
    fn requests_mean_to_us_what_they_mean_to_coap_lite(
        path in prop::collection::vec("[a-z0-9]{0,20}", 0..5),
        query in prop::collection::vec("[a-z]{1,3}=[a-z0-9 ]{0,240}", 0..4),
        content_format: Option<u16>,
        accept: Option<u16>,
        payload in prop::collection::vec(any::<u8>(), 0..100),
        token in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut packet = Packet::new();
        packet.header.set_type(MessageType::Confirmable);
        packet.header.code = MessageClass::from(2);
        packet.set_token(token.clone());
        let texts = |list: &[String]| list.iter().map(|it| it.clone().into_bytes()).collect::<LinkedList<_>>();
        packet.set_option(CoapOption::UriPath, texts(&path));
        packet.set_option(CoapOption::UriQuery, texts(&query));
        let number = |it: u16| it.to_be_bytes()[it.leading_zeros() as usize / 8..].to_vec();
        if let Some(format) = content_format {
            packet.add_option(CoapOption::ContentFormat, number(format));
        }
        if let Some(format) = accept {
            packet.add_option(CoapOption::Accept, number(format));
        }
        packet.payload.clone_from(&payload);
        let mut endpoint = Endpoint::new(Config::default(), [0; 32]);
        endpoint.handle_datagram(Instant::now(), peer(B), &packet.to_bytes_unlimited().unwrap());
        let expected = Request {
            path, query, content_format, accept, payload: payload.into(), ..Request::new(Method::Post, [""; 0])
        };
        match endpoint.poll_event() {
            Some(Event::Request { token: got, request, .. }) => {
                prop_assert_eq!(request, expected);
                prop_assert_eq!(got, Token::new(&token).unwrap());
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
