//! Two endpoints over a network that loses, repeats, delays and re-orders: everything completes exactly once.

mod support;

use std::time::Duration;

use bytes::Bytes;
use coap::{Code, Config, Event, Method, Request, RequestId, RequestOptions, Response};
use proptest::prelude::*;
use support::{A, B, Net, Weather, peer};

const DAY: Duration = Duration::from_secs(86_400);

fn patient() -> Config {
    // Enough retransmissions that a run in which all of them are lost does not come up.
    Config {
        max_retransmit: 12,
        ..Config::default()
    }
}

fn options() -> RequestOptions {
    RequestOptions {
        timeout: 10 * DAY,
        ..RequestOptions::default()
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    (
        0..20_u64,
        0..30_u64,
        prop_oneof![Just(1), Just(300), Just(6_000)],
        prop_oneof![Just(1), Just(3_000)],
    )
        .prop_map(
            |(loss_percent, duplicate_percent, max_delay_ms, max_work_ms)| Weather {
                loss_percent,
                duplicate_percent,
                max_delay_ms,
                max_work_ms,
            },
        )
}

fn body(len: usize) -> Bytes {
    (0..len).map(|i| (i / 64) as u8 ^ i as u8).collect()
}

/// Echoes what it is sent; a GET of a number gets as many bytes.
fn serve(request: &Request) -> Response {
    let payload = match request.method {
        Method::Get => body(
            request
                .path
                .last()
                .and_then(|len| len.parse().ok())
                .unwrap_or(1),
        ),
        _ => request.payload.clone(),
    };
    let observe = request.observe.filter(|observe| *observe == 0);
    Response {
        payload,
        observe,
        ..Response::new(Code::CONTENT)
    }
}

fn responses(net: &Net, side: usize) -> Vec<(RequestId, Response)> {
    let mut list: Vec<_> = net
        .events
        .iter()
        .filter_map(|event| match event {
            (at, Event::Response { id, response, .. }) if *at == side => {
                Some((*id, response.clone()))
            }
            _ => None,
        })
        .collect();
    list.sort_by_key(|(id, _)| *id);
    list
}

fn requests_seen(net: &Net, side: usize) -> Vec<Request> {
    net.events
        .iter()
        .filter_map(|event| match event {
            (at, Event::Request { request, .. }) if *at == side => Some(request.clone()),
            _ => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_of_both_sides_are_served_once_and_answered_once(seed: u64, weather in weather()) {
        let mut net = Net::new(seed, weather, patient(), serve);
        let mut sent = [Vec::new(), Vec::new()];
        for n in 0..20 {
            for side in [A, B] {
                let request = Request { payload: format!("{side}-{n}").into(), ..Request::new(Method::Post, ["rd"]) };
                let id = net.ends[side].send_request(net.now, peer(1 - side), request, options()).unwrap();
                sent[side].push((id, format!("{side}-{n}")));
            }
        }
        net.run(5 * DAY);
        for side in [A, B] {
            let got: Vec<_> = responses(&net, side)
                .into_iter()
                .map(|(id, response)| (id, String::from_utf8(response.payload.to_vec()).unwrap()))
                .collect();
            prop_assert_eq!(&got, &sent[side]);
            prop_assert_eq!(requests_seen(&net, 1 - side).len(), 20);
        }
        prop_assert_eq!(net.ends[A].next_timeout(), None, "nothing is kept for ever");
        prop_assert_eq!(net.ends[B].next_timeout(), None);
    }

    #[test]
    fn twenty_kilobytes_up_in_blocks_of_64(seed: u64, weather in weather()) {
        let mut net = Net::new(seed, weather, patient(), |request| Response {
            payload: Bytes::from(request.payload.len().to_string()),
            ..Response::new(Code::CHANGED)
        });
        let request = Request { payload: body(20_000), ..Request::new(Method::Put, ["5", "0", "0"]) };
        let id = net.ends[A]
            .send_request(net.now, peer(B), request.clone(), RequestOptions { block_size: Some(64), ..options() })
            .unwrap();
        net.run(20 * DAY);
        prop_assert_eq!(requests_seen(&net, B), [request]);
        let answer = Response { payload: Bytes::from_static(b"20000"), ..Response::new(Code::CHANGED) };
        prop_assert_eq!(responses(&net, A), [(id, answer)]);
    }

    #[test]
    fn twenty_kilobytes_down_in_any_size(seed: u64, weather in weather(), ours in 0..7_u32, theirs in 0..7_u32) {
        let mut net = Net::new(seed, weather, patient(), serve);
        let small = Config { block_size: 16 << ours, ..patient() };
        net.ends[B] = coap::Endpoint::new(small, [9; 32]);
        let id = net.ends[A]
            .send_request(
                net.now,
                peer(B),
                Request::new(Method::Get, ["20000"]),
                RequestOptions { block_size: Some(16 << theirs), ..options() },
            )
            .unwrap();
        net.run(50 * DAY);
        let answer = Response { payload: body(20_000), ..Response::new(Code::CONTENT) };
        prop_assert_eq!(responses(&net, A), [(id, answer)]);
        prop_assert_eq!(requests_seen(&net, B).len(), 1, "further blocks are served from what is kept");
    }

    #[test]
    fn confirmable_notifications_arrive_once_in_order(seed: u64, weather in weather(), size in prop_oneof![Just(1_usize), Just(3_000)]) {
        let mut net = Net::new(seed, weather, patient(), serve);
        let request = Request { observe: Some(0), ..Request::new(Method::Get, ["3"]) };
        let id = net.ends[A].send_request(net.now, peer(B), request, options()).unwrap();
        let token = net.ends[A].token_of(id).unwrap();
        net.run(DAY);
        prop_assert_eq!(responses(&net, A).len(), 1);
        // One after the other, so that a body in blocks is fetched before the next one takes its place.
        for n in 0..20_u8 {
            let response = Response { payload: vec![n; size].into(), ..Response::new(Code::CONTENT) };
            let (now, to) = (net.now, peer(A));
            net.ends[B].notify(now, to, token, response, true);
            if size > 1024 {
                net.run(DAY);
            }
        }
        net.run(DAY);
        let got: Vec<(u8, usize)> = net
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Notification { response, ack, .. } => {
                    assert!(ack.is_some());
                    Some((response.payload[0], response.payload.len()))
                }
                _ => None,
            })
            .collect();
        prop_assert_eq!(got, (0..20).map(|n| (n, size)).collect::<Vec<_>>());
        let rejected = net.events.iter().any(|(_, event)| matches!(event, Event::NotificationRejected { .. }));
        prop_assert!(!rejected, "no RST to an observation that stands");
    }
}
