//! RFC 7252: the exchanges of sections 2.2, 4 and 5 and appendix A, and what a peer may get wrong.

mod support;

use std::time::Duration;

use bytes::Bytes;
use coap::{
    Code, Config, Event, FailureReason, Method, Request, RequestOptions, Response, SendError, Token,
};
use support::{B, Story, content, peer};

const SECOND: Duration = Duration::from_secs(1);

fn story() -> Story {
    Story::new(Config::default())
}

fn temperature() -> Request {
    Request::new(Method::Get, ["temperature"])
}

/// Figure 16 of appendix A, byte by byte.
#[test]
fn the_bytes_of_the_specifications_first_example() {
    let mut story = story();
    let request = b"\x40\x01\x7d\x34\xbbtemperature";
    story.endpoint.handle_datagram(story.now, peer(B), request);
    let (exchange, token, asked) = story.asked();
    assert_eq!((token, asked), (Token::EMPTY, temperature()));
    story
        .endpoint
        .respond(story.now, exchange, content("22.3 C"));
    assert_eq!(
        &story.endpoint.poll_transmit().unwrap().payload[..],
        b"\x60\x45\x7d\x34\xff22.3 C"
    );
}

#[test]
fn a_response_in_the_acknowledgement_is_sent_again_for_a_duplicate() {
    let mut story = story();
    assert!(
        story
            .peer_sends("CON GET 7d34 20 Uri-Path:temperature")
            .is_empty()
    );
    let (exchange, ..) = story.asked();
    assert!(
        story
            .peer_sends("CON GET 7d34 20 Uri-Path:temperature")
            .is_empty(),
        "still at work"
    );
    assert_eq!(
        story.respond(exchange, content("22.3 C")),
        ["ACK 2.05 7d34 20 = 22.3 C"]
    );
    assert_eq!(
        story.peer_sends("CON GET 7d34 20 Uri-Path:temperature"),
        ["ACK 2.05 7d34 20 = 22.3 C"]
    );
    assert_eq!(story.event(), None, "processed once");
    assert_eq!(story.endpoint.stats().duplicates, 2);
    // A second answer to the same exchange has no meaning.
    assert!(story.respond(exchange, content("again")).is_empty());
}

#[test]
fn a_message_id_is_new_again_after_exchange_lifetime() {
    let mut story = story();
    story.peer_sends("CON POST 0001 20 Uri-Path:rd");
    let (exchange, ..) = story.asked();
    story.respond(exchange, Response::new(Code::CREATED));
    story.after(246 * SECOND);
    assert_eq!(
        story.peer_sends("CON POST 0001 20 Uri-Path:rd"),
        ["ACK 2.01 0001 20"]
    );
    story.after(2 * SECOND);
    story.peer_sends("CON POST 0001 20 Uri-Path:rd");
    story.asked();
}

/// Figure 5: a separate response.
#[test]
fn a_response_that_takes_long_travels_separately() {
    let mut story = story();
    story.peer_sends("CON GET 7a10 73 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    assert_eq!(story.after(SECOND), ["ACK EMPTY 7a10"]);
    assert_eq!(
        story.peer_sends("CON GET 7a10 73 Uri-Path:temperature"),
        ["ACK EMPTY 7a10"]
    );
    assert_eq!(
        story.respond(exchange, content("22.5 C")),
        ["CON 2.05 m0 73 = 22.5 C"]
    );
    assert_eq!(story.after(3 * SECOND), ["CON 2.05 m0 73 = 22.5 C"]);
    assert!(story.peer_sends("ACK EMPTY m0").is_empty());
    assert!(story.after(300 * SECOND).is_empty());
    assert_eq!(story.endpoint.next_timeout(), None);
}

/// Figure 6: a request and a response without acknowledgements.
#[test]
fn a_non_confirmable_request_gets_a_non_confirmable_response_once() {
    let mut story = story();
    story.peer_sends("NON GET 7a11 74 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, content("22.5 C")),
        ["NON 2.05 m0 74 = 22.5 C"]
    );
    assert!(
        story
            .peer_sends("NON GET 7a11 74 Uri-Path:temperature")
            .is_empty()
    );
    assert_eq!(story.event(), None);
}

#[test]
fn a_request_is_sent_again_with_doubling_time_outs_until_it_is_given_up() {
    let mut story = Story::new(Config {
        ack_random_factor: 1.0,
        ..Config::default()
    });
    let (id, sent) = story.request(temperature(), RequestOptions::default());
    assert_eq!(sent, ["CON GET m0 t0 Uri-Path:temperature"]);
    for wait in [2, 4, 8, 16] {
        assert!(story.after(wait * SECOND - SECOND / 2).is_empty());
        assert_eq!(
            story.after(SECOND / 2),
            ["CON GET m0 t0 Uri-Path:temperature"]
        );
    }
    assert!(story.after(31 * SECOND).is_empty());
    assert_eq!(story.event(), None);
    story.after(SECOND);
    let token = match story.event() {
        Some(Event::RequestFailed {
            id: failed,
            token,
            reason: FailureReason::Timeout,
            ..
        }) if failed == id => token,
        other => panic!("{other:?}"),
    };
    assert_eq!(token.as_bytes().len(), 8);
    assert_eq!(story.endpoint.token_of(id), None);
    let stats = story.endpoint.stats();
    assert_eq!((stats.retransmissions, stats.transmit_timeouts), (4, 1));
}

#[test]
fn the_first_time_out_is_spread_by_the_random_factor() {
    let mut seen = Vec::new();
    for seed in 0..50 {
        let mut endpoint = coap::Endpoint::new(Config::default(), [seed; 32]);
        let now = std::time::Instant::now();
        endpoint
            .send_request(now, peer(B), temperature(), RequestOptions::default())
            .unwrap();
        seen.push(endpoint.next_timeout().unwrap() - now);
    }
    assert!(
        seen.iter()
            .all(|wait| (2 * SECOND..=3 * SECOND).contains(wait)),
        "{seen:?}"
    );
    assert!(seen.iter().any(|wait| *wait < Duration::from_millis(2_250)));
    assert!(seen.iter().any(|wait| *wait > Duration::from_millis(2_750)));
}

#[test]
fn a_separate_response_is_acknowledged_and_acknowledges() {
    let mut story = story();
    story.request(temperature(), RequestOptions::default());
    assert!(story.peer_sends("ACK EMPTY m0").is_empty());
    assert!(
        story.after(20 * SECOND).is_empty(),
        "acknowledged: not sent again"
    );
    assert_eq!(
        story.peer_sends("CON 2.05 ad7b t0 = 22.5 C"),
        ["ACK EMPTY ad7b"]
    );
    assert_eq!(story.answer(), content("22.5 C"));
    assert_eq!(
        story.peer_sends("CON 2.05 ad7b t0 = 22.5 C"),
        ["ACK EMPTY ad7b"],
        "the acknowledgement was lost"
    );
    assert_eq!(story.event(), None);

    // The acknowledgement of the request was lost: its response stands for it (section 5.2.2).
    story.request(temperature(), RequestOptions::default());
    assert_eq!(
        story.peer_sends("CON 2.05 ad7c t1 = 22.6 C"),
        ["ACK EMPTY ad7c"]
    );
    assert_eq!(story.answer(), content("22.6 C"));
    assert!(story.after(100 * SECOND).is_empty());
}

#[test]
fn an_acknowledged_request_that_is_never_answered_times_out() {
    let mut story = story();
    let options = RequestOptions {
        timeout: 30 * SECOND,
        ..RequestOptions::default()
    };
    story.request(temperature(), options);
    story.peer_sends("ACK EMPTY m0");
    story.after(29 * SECOND);
    assert_eq!(story.event(), None);
    story.after(SECOND);
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::Unanswered,
            ..
        })
    ));
    // What comes too late is reset.
    assert_eq!(
        story.peer_sends("CON 2.05 ad7b t0 = late"),
        ["RST EMPTY ad7b"]
    );
}

#[test]
fn the_wait_for_an_answer_begins_with_its_acknowledgement() {
    let mut story = story();
    let options = RequestOptions {
        timeout: 3_600 * SECOND,
        answer_timeout: Some(20 * SECOND),
        ..RequestOptions::default()
    };
    story.request(temperature(), options);
    story.after(SECOND);
    story.peer_sends("ACK EMPTY m0");
    story.after(19 * SECOND);
    assert_eq!(story.event(), None);
    story.after(SECOND);
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::Unanswered,
            ..
        })
    ));
}

#[test]
fn a_reset_fails_the_request() {
    let mut story = story();
    story.request(temperature(), RequestOptions::default());
    story.peer_sends("RST EMPTY m0");
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::Reset,
            ..
        })
    ));
    let options = RequestOptions {
        confirmable: false,
        ..RequestOptions::default()
    };
    let (_, sent) = story.request(temperature(), options);
    assert_eq!(sent, ["NON GET m1 t1 Uri-Path:temperature"]);
    story.peer_sends("RST EMPTY m1");
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::Reset,
            ..
        })
    ));
}

#[test]
fn requests_to_one_peer_wait_for_each_other_and_the_queue_is_bounded() {
    let mut story = Story::new(Config {
        max_queue_per_peer: 2,
        ..Config::default()
    });
    let (first, sent) = story.request(temperature(), RequestOptions::default());
    assert_eq!(sent.len(), 1);
    let (second, sent) = story.request(temperature(), RequestOptions::default());
    assert!(sent.is_empty());
    story.request(temperature(), RequestOptions::default());
    let refused =
        story
            .endpoint
            .send_request(story.now, peer(B), temperature(), RequestOptions::default());
    assert_eq!(refused, Err(SendError::QueueFull { limit: 2 }));
    // An acknowledgement is enough to let the next one go (section 4.7), and a cancelled one makes way.
    story.endpoint.cancel_request(second);
    assert_eq!(
        story.peer_sends("ACK EMPTY m0"),
        ["CON GET m1 t1 Uri-Path:temperature"]
    );
    story.endpoint.cancel_request(first);
    assert_eq!(
        story.peer_sends("ACK 2.05 m1 t1 = 22"),
        Vec::<String>::new()
    );
    assert_eq!(story.answer(), content("22"));
    assert_eq!(story.event(), None);
}

#[test]
fn a_token_is_used_once_at_a_time() {
    let mut story = story();
    let token: Token = "4f0a".parse().unwrap();
    let options = RequestOptions {
        token: Some(token),
        ..RequestOptions::default()
    };
    let (id, sent) = story.request(temperature(), options.clone());
    assert_eq!(sent, ["CON GET m0 4f0a Uri-Path:temperature"]);
    assert_eq!(story.endpoint.token_of(id), Some(token));
    let again = story
        .endpoint
        .send_request(story.now, peer(B), temperature(), options.clone());
    assert_eq!(again, Err(SendError::TokenInUse(token)));
    story.peer_sends("ACK 2.05 m0 4f0a = 22");
    story.answer();
    story.request(temperature(), options);
}

#[test]
fn an_acknowledgement_with_another_token_is_no_answer() {
    let mut story = story();
    story.request(temperature(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m0 0badcafe = forged");
    story.peer_sends("ACK 2.05 1234 t0 = stray");
    assert_eq!(story.event(), None);
    story.peer_sends("ACK 2.05 m0 t0 = 22");
    assert_eq!(story.answer(), content("22"));
}

#[test]
fn options_travel_both_ways() {
    let mut story = story();
    let line =
        "CON POST 0001 0102 Uri-Path:rd Content-Format:40 Uri-Query:ep=a Uri-Query:lt=300 = </1/0>";
    story.peer_sends(line);
    let (exchange, _, request) = story.asked();
    assert_eq!(
        request,
        Request {
            query: vec!["ep=a".into(), "lt=300".into()],
            content_format: Some(40),
            payload: Bytes::from_static(b"</1/0>"),
            ..Request::new(Method::Post, ["rd"])
        }
    );
    let response = Response {
        location_path: vec!["rd".into(), "5a3f".into()],
        max_age: Some(86_400),
        ..Response::new(Code::CREATED)
    };
    assert_eq!(
        story.respond(exchange, response.clone()),
        ["ACK 2.01 0001 0102 Location-Path:rd Location-Path:5a3f Max-Age:86400"]
    );

    let long = "x".repeat(255);
    let request = Request {
        query: vec![long.clone()],
        accept: Some(11_542),
        content_format: Some(0),
        payload: Bytes::from_static(b"1"),
        ..Request::new(Method::Fetch, ["3303", "0"])
    };
    let (_, sent) = story.request(request, RequestOptions::default());
    assert_eq!(
        sent,
        [format!(
            "CON FETCH m0 t0 Uri-Path:3303 Uri-Path:0 Content-Format:0 Uri-Query:{long} Accept:11542 = 1"
        )]
    );
    story.peer_sends("ACK 2.01 m0 t0 Location-Path:rd Location-Path:5a3f Max-Age:86400");
    assert_eq!(story.answer(), response);
    let too_long = Request::new(Method::Get, ["x".repeat(256)]);
    let refused =
        story
            .endpoint
            .send_request(story.now, peer(B), too_long, RequestOptions::default());
    assert_eq!(refused, Err(SendError::SegmentTooLong(256)));
}

/// Section 5.4.1.
#[test]
fn critical_options_must_be_understood_and_elective_ones_need_not() {
    let mut story = story();
    assert_eq!(
        story.peer_sends("CON GET 0001 01 Uri-Path:a 65:x"),
        ["ACK 4.02 0001 01 = option 65 is not understood here"]
    );
    assert_eq!(
        story.peer_sends("CON GET 0002 01 If-Match:x"),
        ["ACK 4.02 0002 01 = option 1 is not understood here"]
    );
    assert_eq!(
        story.peer_sends("CON GET 0003 01 Proxy-Uri:coap://x"),
        ["ACK 5.05 0003 01"]
    );
    assert!(story.peer_sends("NON GET 0004 01 65:x").is_empty());
    // A repeated option that may not be, and one with a value too long, count as not understood (sections 5.4.3, 5.4.5).
    assert_eq!(
        story.peer_sends("CON GET 0005 01 Accept:1 Accept:2").len(),
        1
    );
    assert_eq!(story.peer_sends("CON GET 0006 01 Accept:70000").len(), 1);
    assert_eq!(story.event(), None);
    assert_eq!(story.endpoint.stats().bad_options, 6);
    story.peer_sends("CON GET 0007 01 Uri-Path:a Content-Format:70000 66:x 258:x");
    assert_eq!(story.asked().2, Request::new(Method::Get, ["a"]));

    story.request(temperature(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m0 t0 65:x = 22");
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::BadMessage,
            ..
        })
    ));
    story.request(temperature(), RequestOptions::default());
    assert_eq!(
        story.peer_sends("CON 2.05 0008 t1 65:x = 22"),
        ["RST EMPTY 0008"]
    );
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::BadMessage,
            ..
        })
    ));
}

/// RFC 7959 section 2.2: SZX 7 is reserved, and is a bad request. A block option of four bytes is none at all.
#[test]
fn a_reserved_block_size_is_a_bad_request() {
    let mut story = story();
    assert_eq!(
        story.peer_sends("CON GET 0001 01 Uri-Path:a 23:\u{7}"),
        ["ACK 4.00 0001 01"]
    );
    assert_eq!(
        story.peer_sends("CON PUT 0002 02 Uri-Path:a 27:\u{f} = x"),
        ["ACK 4.00 0002 02"]
    );
    assert_eq!(
        story.peer_sends("CON GET 0003 03 Uri-Path:a 23:xxxx"),
        ["ACK 4.02 0003 03 = option 23 is not understood here"]
    );
    assert_eq!(story.event(), None);
    assert_eq!(story.endpoint.stats().bad_options, 3);
}

#[test]
fn an_unknown_method_is_not_allowed() {
    let mut story = story();
    assert_eq!(story.peer_sends("CON 0.08 0001 01"), ["ACK 4.05 0001 01"]);
    assert_eq!(story.peer_sends("NON 0.31 0002 01"), ["NON 4.05 m0 01"]);
}

/// Section 4.2 and 4.3: what is no message is rejected where it is confirmable, and ignored otherwise.
#[test]
fn a_ping_and_garbage() {
    let mut story = story();
    assert_eq!(story.peer_sends("CON EMPTY 0001"), ["RST EMPTY 0001"]);
    assert_eq!(story.endpoint.stats().malformed, 0, "a ping is none");
    let mut sends = |bytes: &[u8]| story.peer_sends_bytes(bytes);
    // A token longer than 8, cut tokens and options, a marker without payload, reserved delta and length, reserved class.
    assert_eq!(sends(b"\x49\x01\x00\x02123456789"), ["RST EMPTY 0002"]);
    assert_eq!(sends(b"\x44\x01\x00\x03123"), ["RST EMPTY 0003"]);
    assert_eq!(sends(b"\x40\x01\x00\x04\xb5tem"), ["RST EMPTY 0004"]);
    assert_eq!(sends(b"\x40\x01\x00\x05\xff"), ["RST EMPTY 0005"]);
    assert_eq!(sends(b"\x40\x01\x00\x06\xf0"), ["RST EMPTY 0006"]);
    assert_eq!(sends(b"\x40\x01\x00\x07\x0f"), ["RST EMPTY 0007"]);
    assert_eq!(sends(b"\x40\x21\x00\x08"), ["RST EMPTY 0008"]);
    assert_eq!(sends(b"\x40\x00\x00\x09\xb1a"), ["RST EMPTY 0009"]);
    // Option numbers end at 65535.
    assert_eq!(
        sends(b"\x40\x01\x00\x0a\xe0\xff\x00\xe0\xff\x00"),
        ["RST EMPTY 000a"]
    );
    for silent in [
        &b""[..],
        b"\x40\x01\x00",
        b"\x80\x01\x00\x01",
        b"\x50\x01\x00\x01\xff",
        b"\x60\x01\x00\x01",
        b"\x70\x45\x00\x01",
    ] {
        assert!(sends(silent).is_empty(), "{silent:?}");
    }
    assert_eq!(story.event(), None);
    assert_eq!(story.endpoint.stats().malformed, 9 + 6);
    story.peer_sends("CON GET 00ff 01 Uri-Path:next");
    story.asked();
}

#[test]
fn a_confirmable_response_nobody_asked_for_is_reset() {
    let mut story = story();
    assert_eq!(story.peer_sends("CON 2.05 0001 aa = x"), ["RST EMPTY 0001"]);
    assert!(story.peer_sends("NON 2.05 0002 aa = x").is_empty());
    assert_eq!(story.event(), None);
    assert_eq!(story.endpoint.stats().unmatched, 2);
}

#[test]
fn more_requests_than_the_server_can_hold_are_turned_away() {
    let mut story = Story::new(Config {
        max_exchanges: 2,
        ..Config::default()
    });
    story.peer_sends("CON GET 0001 01");
    story.peer_sends("CON GET 0002 02");
    assert_eq!(
        story.peer_sends("CON GET 0003 03"),
        ["ACK 5.03 0003 03 Max-Age:30"]
    );
    let (exchange, ..) = story.asked();
    story.respond(exchange, content("x"));
    assert!(story.peer_sends("CON GET 0004 04").is_empty());
    // Nobody answers the others: they are forgotten in the end.
    story.after(600 * SECOND);
    assert_eq!(story.endpoint.stats().exchanges_expired, 2);
    assert_eq!(story.endpoint.next_timeout(), None);
}

#[test]
fn a_forgotten_peer_leaves_no_requests_but_its_duplicates_are_still_known() {
    let mut story = story();
    story.peer_sends("CON POST 0001 01");
    let (exchange, ..) = story.asked();
    story.respond(exchange, Response::new(Code::CHANGED));
    let (id, _) = story.request(temperature(), RequestOptions::default());
    story.request(temperature(), RequestOptions::default());
    story.endpoint.forget_peer(peer(B));
    assert_eq!(story.endpoint.token_of(id), None);
    assert!(story.after(100 * SECOND).is_empty());
    assert_eq!(story.event(), None);
    assert_eq!(story.peer_sends("CON POST 0001 01"), ["ACK 2.04 0001 01"]);
    let (_, sent) = story.request(temperature(), RequestOptions::default());
    assert_eq!(
        sent,
        ["CON GET m1 t1 Uri-Path:temperature"],
        "the way is free, and the message id goes on"
    );
}

#[test]
fn tokens_are_written_as_hex() {
    let token = Token::new(&[0x0a, 0xff, 0]).unwrap();
    assert_eq!(token.to_string(), "0aff00");
    assert_eq!("0AFF00".parse(), Ok(token));
    assert_eq!("".parse(), Ok(Token::EMPTY));
    for bad in ["0", "0g", "é", "00112233445566778899"] {
        bad.parse::<Token>().unwrap_err();
    }
    assert!(Token::new(&[0; 9]).is_err());
}
