//! What a registration weighs: a gateway keeps a hundred thousand of them beside everything else. Alone in its program,
//! as it looks at the memory of the whole of it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::{Endpoint, Method, Peer, Request, RequestOptions};
use lwm2m::Now;
use lwm2m::server::{Server, ServerConfig};
use lwm2m_model::Registry;

const DEVICES: u32 = 20_000;
/// As a usual device lists its objects.
const LINKS: &str = "</>;rt=\"oma.lwm2m\";ct=\"60 110 112 11542 11543\",</1>;ver=1.1,</1/0>,</3>;ver=1.2,</3/0>,</4/0>,\
                     </5/0>,</6/0>,</7/0>,</3303>;ver=1.1,</3303/0>,</3303/1>,</3304/0>,</3311/0>";
/// Bytes for one registration, with what CoAP remembers of its exchange for a while (RFC 7252 section 4.8.2).
const MOST: usize = 1_900;
/// What of it stays when that time is over.
const MOST_AT_REST: usize = 1_400;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn register(device: u32) -> Vec<u8> {
    let mut request = Request::new(Method::Post, ["rd"]);
    let ep = format!("ep=urn:imei:{device:015}");
    request.query = [&ep, "lt=86400", "lwm2m=1.1", "b=U"]
        .map(str::to_owned)
        .to_vec();
    request.content_format = Some(40);
    request.payload = LINKS.as_bytes().into();
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&device.to_be_bytes());
    let mut endpoint = Endpoint::new(coap::Config::default(), seed);
    let server = Peer::plain(([192, 0, 2, 1], 5683).into());
    endpoint
        .send_request(Instant::now(), server, request, RequestOptions::default())
        .unwrap();
    endpoint.poll_transmit().unwrap().payload.to_vec()
}

#[test]
fn a_registration_is_light() {
    let mut server = Server::new(ServerConfig::default(), Arc::new(Registry::oma()), [1; 32]);
    let start = Instant::now();
    let at = |seconds: u64| Now {
        instant: start + Duration::from_secs(seconds),
        unix_ms: 1_700_000_000_000 + i64::try_from(seconds).unwrap() * 1_000,
    };
    let drain = |server: &mut Server| {
        while server.poll_event().is_some() {}
        while server.poll_transmit().is_some() {}
    };
    let before = resident();
    for device in 0..DEVICES {
        let [_, a, b, c] = device.to_be_bytes();
        let peer = Peer::plain(([10, a, b, c], 40_000).into());
        server.handle_datagram(at(1), peer, &register(device));
        drain(&mut server);
    }
    assert_eq!(server.registered(), usize::try_from(DEVICES).unwrap());
    let each = (resident() - before) / server.registered();
    println!("{each} bytes for each registration");
    assert!(each < MOST, "{each} bytes for each registration");

    // What is freed when CoAP may forget is taken by twice the devices, without the program growing as much again.
    for seconds in (2..600).step_by(10) {
        server.handle_timeout(at(seconds));
        drain(&mut server);
    }
    let before_more = resident();
    for device in DEVICES..2 * DEVICES {
        let [_, a, b, c] = device.to_be_bytes();
        let peer = Peer::plain(([10, a, b, c], 40_000).into());
        server.handle_datagram(at(600), peer, &register(device));
        drain(&mut server);
    }
    let each = (resident() - before_more) / usize::try_from(DEVICES).unwrap();
    println!("{each} bytes for each further registration");
    assert!(
        each < MOST_AT_REST,
        "{each} bytes for each further registration"
    );
}
