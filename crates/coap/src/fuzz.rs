//! Entry points for fuzzing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::{
    Config, Endpoint, Event, Method, Peer, Request, RequestOptions, Response, Token, Transmit,
};

/// Gives datagrams to an endpoint in the middle of its work: requests are out (one with a body in blocks), tokens are
/// watched, it has observers. The input is cut at each `0xf1 0x7e`; in a datagram `0xa5` as the third byte of a header
/// makes the last message id of the endpoint's own, so that acknowledgements can be found by chance. Must never panic,
/// whatever comes in.
pub fn decode_datagram(data: &[u8]) {
    let peer = Peer::plain(SocketAddr::from(([192, 0, 2, 1], 5683)));
    let mut now = Instant::now();
    let config = Config {
        max_body: 4096,
        max_dedup: 64,
        max_bodies: 4,
        nstart: 4,
        ..Config::default()
    };
    let mut endpoint = Endpoint::new(config, [7; 32]);
    let token = |byte: u8| Token::new(&[byte]).unwrap_or_default();
    let requests = [
        Request::new(Method::Get, ["3", "0"]),
        Request {
            observe: Some(0),
            ..Request::new(Method::Get, ["3303", "0", "5700"])
        },
        Request {
            payload: vec![b'x'; 200].into(),
            ..Request::new(Method::Put, ["5", "0", "0"])
        },
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let options = RequestOptions {
            token: Some(token(number as u8)),
            block_size: Some(64),
            ..RequestOptions::default()
        };
        // Their outcome is not what is asked here.
        let _ = endpoint.send_request(now, peer, request, options);
    }
    endpoint.watch_request(peer, token(b'w'), Request::new(Method::Get, ["3303"]));
    endpoint.watch(peer, token(b'v'));
    let large = Response {
        payload: vec![b'y'; 3000].into(),
        ..Response::new(crate::Code::CONTENT)
    };
    endpoint.notify(now, peer, token(b'o'), large.clone(), true);

    let mut last_id = [0, 0];
    let mut rest = data;
    loop {
        while let Some(Transmit { payload, .. }) = endpoint.poll_transmit() {
            if let [_, _, high, low, ..] = payload[..] {
                last_id = [high, low];
            }
        }
        while let Some(event) = endpoint.poll_event() {
            match event {
                Event::Request {
                    exchange, request, ..
                } => {
                    let response = Response {
                        observe: request.observe,
                        ..large.clone()
                    };
                    endpoint.respond(now, exchange, response);
                }
                Event::Notification { ack: Some(ack), .. } => endpoint.acknowledge(now, ack),
                _ => {}
            }
        }
        if rest.is_empty() {
            break;
        }
        let end = rest.windows(2).position(|pair| pair == [0xf1, 0x7e]);
        let (datagram, behind) =
            end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 2..]));
        rest = behind;
        let mut datagram = datagram.to_vec();
        if let [_, _, high @ 0xa5, low, ..] = &mut datagram[..] {
            (*high, *low) = (last_id[0], last_id[1]);
        }
        endpoint.handle_datagram(now, peer, &datagram);
        now += Duration::from_millis(700);
        endpoint.handle_timeout(now);
    }
}
