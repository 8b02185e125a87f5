//! RFC 7959: the exchanges of section 3, and what may go wrong between two blocks.

mod support;

use std::time::Duration;

use bytes::Bytes;
use coap::{Code, Config, Event, FailureReason, Method, Request, RequestOptions, Response};
use support::{Story, content};

const SECOND: Duration = Duration::from_secs(1);

fn story() -> Story {
    Story::new(Config::default())
}

fn blocks_of(size: u16) -> Story {
    Story::new(Config {
        block_size: size,
        ..Config::default()
    })
}

fn status() -> Request {
    Request::new(Method::Get, ["status"])
}

fn put(len: usize) -> Request {
    Request {
        payload: vec![b'.'; len].into(),
        ..Request::new(Method::Put, ["options"])
    }
}

fn changed() -> Response {
    Response::new(Code::CHANGED)
}

/// Figure 2: a simple block-wise GET, as the client.
#[test]
fn a_body_is_fetched_in_the_blocks_it_comes_in() {
    let mut story = story();
    let (_, sent) = story.request(status(), RequestOptions::default());
    assert_eq!(sent, ["CON GET m0 t0 Uri-Path:status"]);
    assert_eq!(
        story.peer_sends("ACK 2.05 m0 t0 Block2:0/1/128 = 128 bytes"),
        ["CON GET m1 t1 Uri-Path:status Block2:1/0/128"]
    );
    assert_eq!(
        story.peer_sends("ACK 2.05 m1 t1 Block2:1/1/128 = 128 bytes"),
        ["CON GET m2 t2 Uri-Path:status Block2:2/0/128"]
    );
    assert_eq!(story.event(), None);
    assert!(
        story
            .peer_sends("ACK 2.05 m2 t2 Block2:2/0/128 = 5 bytes")
            .is_empty()
    );
    assert_eq!(story.answer(), content(vec![b'.'; 261]));
    assert!(story.after(300 * SECOND).is_empty());
    assert_eq!(story.endpoint.next_timeout(), None);
}

/// Figure 3: early negotiation, and figure 4: the client is satisfied with smaller blocks than the first.
#[test]
fn the_client_asks_for_smaller_blocks() {
    let mut story = blocks_of(64);
    let options = RequestOptions {
        block_size: Some(64),
        ..RequestOptions::default()
    };
    let (_, sent) = story.request(status(), options);
    assert_eq!(sent, ["CON GET m0 t0 Uri-Path:status Block2:0/0/64"]);
    // A server that does not listen the first time.
    assert_eq!(
        story.peer_sends("ACK 2.05 m0 t0 Block2:0/1/128 = 128 bytes"),
        ["CON GET m1 t1 Uri-Path:status Block2:2/0/64"]
    );
    assert_eq!(
        story.peer_sends("ACK 2.05 m1 t1 Block2:2/1/64 = 64 bytes"),
        ["CON GET m2 t2 Uri-Path:status Block2:3/0/64"]
    );
    story.peer_sends("ACK 2.05 m2 t2 Block2:3/0/64 = 1 bytes");
    assert_eq!(story.answer().payload.len(), 193);
}

#[test]
fn a_lost_block_is_asked_for_again() {
    let mut story = Story::new(Config {
        ack_random_factor: 1.0,
        ..Config::default()
    });
    story.request(status(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m0 t0 Block2:0/1/128 = 128 bytes");
    assert_eq!(
        story.after(2 * SECOND),
        ["CON GET m1 t1 Uri-Path:status Block2:1/0/128"]
    );
    story.peer_sends("ACK 2.05 m1 t1 Block2:1/0/128 = 1 bytes");
    assert_eq!(story.answer().payload.len(), 129);
}

#[test]
fn blocks_may_come_in_separate_responses() {
    let mut story = story();
    story.request(status(), RequestOptions::default());
    // The acknowledgement was lost: the response ends the retransmission, and the next block may be asked for at once.
    assert_eq!(
        story.peer_sends("CON 2.05 0001 t0 Block2:0/1/16 = 0123456789abcdef"),
        [
            "ACK EMPTY 0001",
            "CON GET m1 t1 Uri-Path:status Block2:1/0/16"
        ]
    );
    story.peer_sends("ACK EMPTY m1");
    assert!(story.after(20 * SECOND).is_empty());
    assert_eq!(
        story.peer_sends("CON 2.05 0002 t1 Block2:1/0/16 = end"),
        ["ACK EMPTY 0002"]
    );
    assert_eq!(story.answer(), content("0123456789abcdefend"));
}

#[test]
fn a_body_that_changes_on_the_way_is_fetched_from_its_beginning() {
    let mut story = story();
    story.request(status(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m0 t0 ETag:01 Block2:0/1/16 = 0123456789abcdef");
    assert_eq!(
        story.peer_sends("ACK 2.05 m1 t1 ETag:02 Block2:1/0/16 = NEW"),
        ["CON GET m2 t2 Uri-Path:status Block2:0/0/16"]
    );
    assert_eq!(
        story.peer_sends(
            "ACK 2.05 m2 t2 ETag:02 Content-Format:40 Block2:0/1/16 = FEDCBA9876543210"
        ),
        ["CON GET m3 t3 Uri-Path:status Block2:1/0/16"]
    );
    story.peer_sends("ACK 2.05 m3 t3 ETag:02 Block2:1/0/16 = NEW");
    assert_eq!(
        story.answer(),
        Response {
            content_format: Some(40),
            ..content("FEDCBA9876543210NEW")
        }
    );

    // One that never stands still is given up.
    story.request(status(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m4 t4 ETag:10 Block2:0/1/16 = 0123456789abcdef");
    for ask in (5..11).step_by(2) {
        let changed =
            format!("ACK 2.05 m{ask} t{ask} ETag:{ask:02} Block2:1/1/16 = 0123456789abcdef");
        assert_eq!(story.peer_sends(&changed).len(), 1);
        let again = format!(
            "ACK 2.05 m{0} t{0} ETag:{ask:02} Block2:0/1/16 = 0123456789abcdef",
            ask + 1
        );
        assert_eq!(story.peer_sends(&again).len(), 1);
        assert_eq!(story.event(), None);
    }
    story.peer_sends("ACK 2.05 m11 t11 ETag:99 Block2:1/1/16 = 0123456789abcdef");
    let event = story.event();
    assert!(
        matches!(
            event,
            Some(Event::RequestFailed {
                reason: FailureReason::BadMessage,
                ..
            })
        ),
        "{event:?}"
    );
}

#[test]
fn an_answer_whose_blocks_do_not_fit_fails_the_request() {
    let wrong = [
        "ACK 2.05 m0 t0 Block2:1/0/16 = not the first",
        "ACK 2.05 m0 t0 Block2:0/1/16 = too short",
        "ACK 2.31 m0 t0 Block1:0/1/16",
    ];
    for line in wrong {
        let mut story = story();
        story.request(status(), RequestOptions::default());
        story.peer_sends(line);
        let event = story.event();
        assert!(
            matches!(
                event,
                Some(Event::RequestFailed {
                    reason: FailureReason::BadMessage,
                    ..
                })
            ),
            "{line}: {event:?}"
        );
    }
    let then = [
        "ACK 2.05 m1 t1 Block2:2/0/16 = skips one",
        "ACK 2.05 m1 t1 = no block",
    ];
    for line in then {
        let mut story = story();
        story.request(status(), RequestOptions::default());
        story.peer_sends("ACK 2.05 m0 t0 Block2:0/1/16 = 0123456789abcdef");
        story.peer_sends(line);
        let event = story.event();
        assert!(
            matches!(
                event,
                Some(Event::RequestFailed {
                    reason: FailureReason::BadMessage,
                    ..
                })
            ),
            "{line}: {event:?}"
        );
    }
}

#[test]
fn an_answer_without_end_is_given_up_at_the_limit() {
    let mut story = Story::new(Config {
        max_body: 300,
        ..Config::default()
    });
    story.request(status(), RequestOptions::default());
    story.peer_sends("ACK 2.05 m0 t0 Block2:0/1/128 = 128 bytes");
    story.peer_sends("ACK 2.05 m1 t1 Block2:1/1/128 = 128 bytes");
    story.peer_sends("ACK 2.05 m2 t2 Block2:2/1/128 = 128 bytes");
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::BodyTooLarge,
            ..
        })
    ));
}

/// Figure 2, as the server.
#[test]
fn a_large_response_is_handed_out_in_blocks() {
    let mut story = blocks_of(128);
    story.peer_sends("CON GET 1234 01 Uri-Path:status");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, content(vec![b'x'; 300])),
        ["ACK 2.05 1234 01 ETag:* Block2:0/1/128 Size2:300 = 128 bytes"]
    );
    assert_eq!(
        story.peer_sends("CON GET 1235 02 Uri-Path:status Block2:1/0/128"),
        ["ACK 2.05 1235 02 ETag:* Block2:1/1/128 = 128 bytes"]
    );
    // From here on in smaller blocks, then from another angle, then behind the end.
    assert_eq!(
        story.peer_sends("CON GET 1236 03 Uri-Path:status Block2:4/0/64"),
        [format!(
            "ACK 2.05 1236 03 ETag:* Block2:4/0/64 = {}",
            "x".repeat(44)
        )]
    );
    assert_eq!(
        story.peer_sends("CON GET 1237 03 Uri-Path:status Block2:1/0/16"),
        ["ACK 2.05 1237 03 ETag:* Block2:1/1/16 = xxxxxxxxxxxxxxxx"]
    );
    assert_eq!(
        story.peer_sends("CON GET 1238 03 Uri-Path:status Block2:5/0/64"),
        ["ACK 4.00 1238 03"]
    );
    assert_eq!(story.event(), None, "the rest needs no application");
    assert_eq!(
        story.peer_sends("CON GET 1235 02 Uri-Path:status Block2:1/0/128"),
        ["ACK 2.05 1235 02 ETag:* Block2:1/1/128 = 128 bytes"]
    );
}

#[test]
fn a_client_that_wants_small_blocks_gets_them() {
    let mut story = story();
    story.peer_sends("CON GET 1234 01 Uri-Path:status Block2:0/0/16");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, content("0123456789abcdefgh")),
        ["ACK 2.05 1234 01 ETag:* Block2:0/1/16 Size2:18 = 0123456789abcdef"]
    );
    assert_eq!(
        story.peer_sends("CON GET 1235 01 Uri-Path:status Block2:1/0/16"),
        ["ACK 2.05 1235 01 ETag:* Block2:1/0/16 = gh"]
    );
}

#[test]
fn a_block_of_a_body_that_is_not_kept_any_more_is_cut_from_a_fresh_one() {
    let mut story = story();
    story.peer_sends("CON GET 1234 01 Uri-Path:status Block2:1/0/16");
    let (exchange, _, request) = story.asked();
    assert_eq!(request, status());
    assert_eq!(
        story.respond(exchange, content("0123456789abcdefgh")),
        ["ACK 2.05 1234 01 ETag:* Block2:1/0/16 = gh"]
    );
    story.peer_sends("CON GET 1235 01 Uri-Path:status Block2:1/0/16");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, content("short")),
        ["ACK 4.00 1235 01"]
    );
    story.peer_sends("CON GET 1236 01 Uri-Path:status Block2:1/0/16");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, Response::new(Code::NOT_FOUND)),
        ["ACK 4.04 1236 01"]
    );
    // What has an effect is not done twice for the sake of a block.
    assert_eq!(
        story.peer_sends("CON POST 1237 01 Uri-Path:status Block2:1/0/16"),
        ["ACK 4.08 1237 01"]
    );
    assert_eq!(story.event(), None);
}

/// Figure 7: a simple atomic block-wise PUT, as the client.
#[test]
fn a_large_body_is_sent_in_blocks() {
    let mut story = blocks_of(128);
    let (_, sent) = story.request(put(300), RequestOptions::default());
    assert_eq!(
        sent,
        ["CON PUT m0 t0 Uri-Path:options Block1:0/1/128 Size1:300 = 128 bytes"]
    );
    assert_eq!(
        story.peer_sends("ACK 2.31 m0 t0 Block1:0/1/128"),
        ["CON PUT m1 t0 Uri-Path:options Block1:1/1/128 = 128 bytes"]
    );
    assert_eq!(
        story.peer_sends("ACK 2.31 m1 t0 Block1:1/1/128"),
        [format!(
            "CON PUT m2 t0 Uri-Path:options Block1:2/0/128 = {}",
            ".".repeat(44)
        )]
    );
    story.peer_sends("ACK 2.04 m2 t0 Block1:2/0/128");
    assert_eq!(story.answer(), changed());
}

/// Figure 9: the server wants smaller blocks.
#[test]
fn the_server_asks_for_smaller_blocks() {
    let mut story = blocks_of(128);
    story.request(put(200), RequestOptions::default());
    let sent = story.peer_sends("ACK 2.31 m0 t0 Block1:0/1/32");
    assert_eq!(
        sent,
        [format!(
            "CON PUT m1 t0 Uri-Path:options Block1:4/1/32 = {}",
            ".".repeat(32)
        )]
    );
    story.peer_sends("ACK 2.31 m1 t0 Block1:4/1/32");
    story.peer_sends("ACK 2.31 m2 t0 Block1:5/1/32");
    story.peer_sends("ACK 2.04 m3 t0 Block1:6/0/32");
    assert_eq!(story.answer(), changed());
}

/// Section 2.9.3.
#[test]
fn too_large_with_a_smaller_block_is_tried_again_and_without_one_is_the_answer() {
    let mut story = story();
    story.request(put(1000), RequestOptions::default());
    assert_eq!(
        story.peer_sends("ACK 4.13 m0 t0 Block1:0/1/256"),
        ["CON PUT m1 t0 Uri-Path:options Block1:0/1/256 Size1:1000 = 256 bytes"]
    );
    assert_eq!(
        story.peer_sends("ACK 4.13 m1 t0 Block1:0/1/64"),
        [format!(
            "CON PUT m2 t0 Uri-Path:options Block1:0/1/64 Size1:1000 = {}",
            ".".repeat(64)
        )]
    );
    assert!(story.peer_sends("ACK 4.13 m2 t0 Size1:100").is_empty());
    assert_eq!(story.answer().code, Code::REQUEST_ENTITY_TOO_LARGE);
}

#[test]
fn an_error_in_the_middle_is_the_answer() {
    let mut story = blocks_of(128);
    story.request(put(300), RequestOptions::default());
    story.peer_sends("ACK 2.31 m0 t0 Block1:0/1/128");
    assert!(story.peer_sends("ACK 4.08 m1 t0").is_empty());
    assert_eq!(story.answer().code, Code::REQUEST_ENTITY_INCOMPLETE);
    assert!(story.after(300 * SECOND).is_empty());
}

/// Figure 7, as the server.
#[test]
fn a_body_that_comes_in_blocks_is_one_request() {
    let mut story = story();
    assert_eq!(
        story.peer_sends("CON PUT 1234 01 Uri-Path:options Block1:0/1/128 = 128 bytes"),
        ["ACK 2.31 1234 01 Block1:0/1/128"]
    );
    assert_eq!(
        story.peer_sends("CON PUT 1235 02 Uri-Path:options Block1:1/1/128 = 128 bytes"),
        ["ACK 2.31 1235 02 Block1:1/1/128"]
    );
    assert_eq!(
        story.peer_sends("CON PUT 1235 02 Uri-Path:options Block1:1/1/128 = 128 bytes"),
        ["ACK 2.31 1235 02 Block1:1/1/128"]
    );
    assert_eq!(story.event(), None);
    assert!(
        story
            .peer_sends("CON PUT 1236 03 Uri-Path:options Block1:2/0/128 = 5 bytes")
            .is_empty()
    );
    let (exchange, _, request) = story.asked();
    assert_eq!(request, put(261));
    assert_eq!(
        story.respond(exchange, changed()),
        ["ACK 2.04 1236 03 Block1:2/0/128"]
    );
}

/// Figure 9, as the server.
#[test]
fn a_server_of_small_blocks_says_so_with_the_first() {
    let mut story = blocks_of(32);
    assert_eq!(
        story.peer_sends("CON PUT 1234 01 Uri-Path:options Block1:0/1/128 = 128 bytes"),
        ["ACK 2.31 1234 01 Block1:0/1/32"]
    );
    assert_eq!(
        story.peer_sends("CON PUT 1235 01 Uri-Path:options Block1:4/0/32 = 7 bytes"),
        Vec::<String>::new()
    );
    assert_eq!(story.asked().2, put(135));
}

#[test]
fn blocks_that_do_not_fit_together_are_refused() {
    let mut story = Story::new(Config {
        max_body: 256,
        ..Config::default()
    });
    let mut put = |rest: &str| story.peer_sends(&format!("CON PUT {rest}"));
    assert_eq!(
        put("0001 01 Uri-Path:a Block1:1/1/16 = 16 bytes"),
        ["ACK 4.08 0001 01"],
        "no beginning"
    );
    assert_eq!(
        put("0002 01 Uri-Path:a Block1:0/1/16 = 15 bytes"),
        ["ACK 4.00 0002 01"],
        "not full"
    );
    assert_eq!(
        put("0003 01 Uri-Path:a Block1:0/1/16 = 16 bytes"),
        ["ACK 2.31 0003 01 Block1:0/1/16"]
    );
    assert_eq!(
        put("0004 01 Uri-Path:b Block1:1/1/16 = 16 bytes"),
        ["ACK 4.08 0004 01"],
        "of something else"
    );
    assert_eq!(
        put("0005 01 Uri-Path:a Block1:3/0/16 = 16 bytes"),
        ["ACK 4.08 0005 01"],
        "a gap"
    );
    assert_eq!(
        put("0006 01 Uri-Path:a Block1:0/1/128 Size1:257 = 128 bytes"),
        ["ACK 4.13 0006 01 Size1:256"]
    );
    assert_eq!(
        put("0007 01 Uri-Path:a Block1:0/1/128 = 128 bytes"),
        ["ACK 2.31 0007 01 Block1:0/1/128"]
    );
    assert_eq!(
        put("0008 01 Uri-Path:a Block1:1/1/128 = 128 bytes"),
        ["ACK 2.31 0008 01 Block1:1/1/128"]
    );
    assert_eq!(
        put("0009 01 Uri-Path:a Block1:2/0/128 = 1 bytes"),
        ["ACK 4.13 0009 01 Size1:256"]
    );
    assert_eq!(
        put("000a 01 Uri-Path:a 27:xxxx = 1 bytes"),
        ["ACK 4.02 000a 01 = option 27 is not understood here"]
    );
    assert_eq!(story.event(), None);
}

/// Figure 11: block-wise both ways in one exchange.
#[test]
fn a_large_request_with_a_large_response() {
    let mut story = blocks_of(64);
    let request = Request {
        payload: vec![b'.'; 100].into(),
        ..Request::new(Method::Post, ["soap"])
    };
    story.request(request, RequestOptions::default());
    let sent = story.peer_sends("ACK 2.31 m0 t0 Block1:0/1/64");
    assert_eq!(
        sent,
        [format!(
            "CON POST m1 t0 Uri-Path:soap Block1:1/0/64 = {}",
            ".".repeat(36)
        )]
    );
    assert_eq!(
        story.peer_sends("ACK 2.04 m1 t0 Block2:0/1/64 Block1:1/0/64 = 64 bytes"),
        ["CON POST m2 t1 Uri-Path:soap Block2:1/0/64"]
    );
    story.peer_sends("ACK 2.04 m2 t1 Block2:1/0/64 = end");
    assert_eq!(story.answer().payload.len(), 67);

    let mut server = blocks_of(64);
    server.peer_sends("CON POST 0001 01 Uri-Path:soap Block1:0/1/64 = 64 bytes");
    server.peer_sends("CON POST 0002 01 Uri-Path:soap Block1:1/0/64 = end");
    let (exchange, ..) = server.asked();
    let response = Response {
        payload: Bytes::from(vec![b'x'; 70]),
        ..changed()
    };
    assert_eq!(
        server.respond(exchange, response),
        [format!(
            "ACK 2.04 0002 01 ETag:* Block2:0/1/64 Block1:1/0/64 Size2:70 = {}",
            "x".repeat(64)
        )]
    );
    assert_eq!(
        server.peer_sends("CON POST 0003 02 Uri-Path:soap Block2:1/0/64"),
        ["ACK 2.04 0003 02 ETag:* Block2:1/0/64 = xxxxxx"]
    );
    assert_eq!(server.event(), None);
}

#[test]
fn unfinished_bodies_are_bounded_and_forgotten() {
    let mut story = Story::new(Config {
        max_bodies: 3,
        ..Config::default()
    });
    for n in 0..10 {
        story.peer_sends(&format!(
            "CON PUT 000{n} 01 Uri-Path:{n} Block1:0/1/16 = 16 bytes"
        ));
    }
    assert_eq!(story.endpoint.stats().bodies_evicted, 7);
    assert_eq!(
        story.peer_sends("CON PUT 0010 01 Uri-Path:0 Block1:1/0/16 = 1 bytes"),
        ["ACK 4.08 0010 01"]
    );
    story.peer_sends("CON PUT 0011 01 Uri-Path:9 Block1:1/0/16 = 1 bytes");
    assert_eq!(story.asked().2.payload.len(), 17);
    story.after(600 * SECOND);
    assert_eq!(
        story.peer_sends("CON PUT 0012 01 Uri-Path:8 Block1:1/0/16 = 1 bytes"),
        ["ACK 4.08 0012 01"]
    );

    let mut story = Story::new(Config {
        max_bodies_bytes: 100,
        ..Config::default()
    });
    for n in 0..4 {
        story.peer_sends(&format!(
            "CON PUT 000{n} 01 Uri-Path:{n} Block1:0/1/32 = 32 bytes"
        ));
    }
    assert_eq!(story.endpoint.stats().bodies_evicted, 1);
}

#[test]
fn a_response_larger_than_the_limit_is_the_servers_mistake() {
    let mut story = Story::new(Config {
        max_body: 100,
        ..Config::default()
    });
    story.peer_sends("CON GET 0001 01");
    let (exchange, ..) = story.asked();
    let sent = story.respond(exchange, content(vec![0; 101]));
    assert_eq!(
        sent,
        ["ACK 5.00 0001 01 = the body of 101 bytes is larger than the limit of 100"]
    );
}
