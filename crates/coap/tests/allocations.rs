//! What a notification takes from the heap in the steady state: nothing.
//!
//! A program of its own, since it counts with an allocator of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coap::{Config, Endpoint, Event, Peer, Token};

const DEVICES: u16 = 50;

fn peer(device: u16) -> Peer {
    Peer::plain(([10, 0, 0, 1], 1_000 + device).into())
}

fn token(device: u16) -> Token {
    Token::new(&u64::from(device).to_be_bytes()).expect("eight bytes")
}

/// ```text
/// CON 2.05, token of 8 bytes, Observe of 3 bytes, Content-Format 11542, a TLV of 12 bytes
/// ```
fn notification(device: u16, sequence: u32) -> Vec<u8> {
    let id = (sequence as u16).to_be_bytes();
    let [_, a, b, c] = sequence.to_be_bytes();
    let mut bytes = vec![0x48, 0x45, id[0], id[1]];
    bytes.extend_from_slice(token(device).as_bytes());
    bytes.extend_from_slice(&[0x63, a, b, c, 0x62, 0x2d, 0x16, 0xff]);
    bytes.extend_from_slice(&[0xe8, 0x16, 0x44, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// One turn of a driver, as often as there are batches: datagrams in, events out, acknowledgements in, datagrams out.
fn turns(endpoint: &mut Endpoint, start: Instant, batches: &[Vec<Vec<u8>>], first: u32) {
    let mut acks = Vec::with_capacity(usize::from(DEVICES));
    for (turn, batch) in (first..).zip(batches) {
        // So slow that what is remembered of old messages goes at the rate at which new ones come.
        let now = start + Duration::from_secs(5) * turn;
        for (device, datagram) in (0..).zip(batch) {
            endpoint.handle_datagram(now, peer(device), datagram);
        }
        endpoint.handle_timeout(now);
        while let Some(event) = endpoint.poll_event() {
            let Event::Notification { ack, response, .. } = event else {
                panic!("a notification came: {event:?}");
            };
            assert_eq!(response.payload.len(), 12);
            acks.extend(ack);
        }
        assert_eq!(acks.len(), usize::from(DEVICES), "each is new");
        for ack in acks.drain(..) {
            endpoint.acknowledge(now, ack);
        }
        let mut sent = 0;
        while let Some(transmit) = endpoint.poll_transmit() {
            assert_eq!((transmit.payload.len(), transmit.payload[0]), (4, 0x60));
            sent += 1;
        }
        assert_eq!(sent, DEVICES);
    }
}

#[test]
fn a_notification_and_its_acknowledgement_take_nothing_from_the_heap() {
    let mut endpoint = Endpoint::new(Config::default(), [3; 32]);
    for device in 0..DEVICES {
        endpoint.watch(peer(device), token(device));
    }
    let start = Instant::now();
    let batch = |turn: u32| -> Vec<Vec<u8>> {
        (0..DEVICES)
            .map(|device| notification(device, turn + 1))
            .collect()
    };
    let (warming, measured): (Vec<_>, Vec<_>) = (
        (0..300).map(batch).collect(),
        (300..600).map(batch).collect(),
    );
    turns(&mut endpoint, start, &warming, 0);
    let used = allocation_counter::measure(|| turns(&mut endpoint, start, &measured, 300));
    // One is the list of acknowledgements here.
    assert!(
        used.count_total <= 2,
        "{} allocations for {} notifications",
        used.count_total,
        300 * u32::from(DEVICES)
    );
}

#[test]
fn a_datagram_of_a_kibibyte_takes_a_bounded_piece() {
    let mut endpoint = Endpoint::new(Config::default(), [3; 32]);
    let mut datagram = notification(0, 9);
    datagram.resize(1_024, 7);
    endpoint.watch(peer(0), token(0));
    let used = allocation_counter::measure(|| {
        endpoint.handle_datagram(Instant::now(), peer(0), &datagram);
    });
    assert!(
        used.bytes_max < 64 << 10,
        "{} bytes for one datagram",
        used.bytes_max
    );
    let Some(Event::Notification { response, .. }) = endpoint.poll_event() else {
        panic!("it is a notification");
    };
    assert_eq!(response.payload, Bytes::copy_from_slice(&datagram[20..]));
}
