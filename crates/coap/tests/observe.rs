//! RFC 7641, from both sides.

mod support;

use std::time::Duration;

use coap::{Code, Config, Event, FailureReason, Method, Request, RequestOptions, Response, Token};
use support::{B, Story, content, peer};

const SECOND: Duration = Duration::from_secs(1);

fn observe() -> Request {
    Request {
        observe: Some(0),
        ..Request::new(Method::Get, ["temperature"])
    }
}

fn token() -> Token {
    Token::new(&[0x4a]).expect("one byte")
}

fn options() -> RequestOptions {
    RequestOptions {
        token: Some(token()),
        ..RequestOptions::default()
    }
}

/// An endpoint that observes, with sequence number 12 from the first response (figure 1 of the RFC).
fn observing() -> Story {
    let mut story = Story::new(Config::default());
    let (_, sent) = story.request(observe(), options());
    assert_eq!(sent, ["CON GET m0 4a Observe:0 Uri-Path:temperature"]);
    story.peer_sends("ACK 2.05 m0 4a Observe:12 = 22.9 Cel");
    assert_eq!(
        story.answer(),
        Response {
            observe: Some(12),
            ..content("22.9 Cel")
        }
    );
    assert!(story.endpoint.is_watched(peer(B), token()));
    story
}

#[test]
fn notifications_are_reported_and_not_acknowledged_before_they_are_safe() {
    let mut story = observing();
    assert!(
        story
            .peer_sends("NON 2.05 0001 4a Observe:44 = 22.8 Cel")
            .is_empty()
    );
    assert_eq!(
        story.notified(),
        (
            Response {
                observe: Some(44),
                ..content("22.8 Cel")
            },
            None
        )
    );

    assert!(
        story
            .peer_sends("CON 2.05 0002 4a Observe:60 = 23.1 Cel")
            .is_empty()
    );
    let (response, ack) = story.notified();
    assert_eq!(response.payload, "23.1 Cel");
    let ack = ack.unwrap();
    story.after(3 * SECOND);
    assert!(
        story
            .peer_sends("CON 2.05 0002 4a Observe:60 = 23.1 Cel")
            .is_empty(),
        "absorbed"
    );
    assert_eq!(story.event(), None);
    story.endpoint.acknowledge(story.now, ack);
    assert_eq!(story.sent(), ["ACK EMPTY 0002"]);
    assert_eq!(
        story.peer_sends("CON 2.05 0002 4a Observe:60 = 23.1 Cel"),
        ["ACK EMPTY 0002"]
    );
    story.endpoint.acknowledge(story.now, ack);
    assert!(story.sent().is_empty(), "once is enough");
    assert_eq!(story.event(), None);
    // The next one may be acknowledged after a later one.
    story.peer_sends("CON 2.05 0003 4a Observe:61 = a");
    story.peer_sends("CON 2.05 0004 4a Observe:62 = b");
    let (first, second) = (story.notified().1.unwrap(), story.notified().1.unwrap());
    story.endpoint.acknowledge(story.now, second);
    story.endpoint.acknowledge(story.now, first);
    assert_eq!(story.sent(), ["ACK EMPTY 0004", "ACK EMPTY 0003"]);
}

/// Section 3.4.
#[test]
fn stale_notifications_are_dropped() {
    let mut story = observing();
    let fresh = |story: &mut Story, id: u16, sequence: u32| {
        story.peer_sends(&format!("NON 2.05 {id:04x} 4a Observe:{sequence} = x"));
        story.event().is_some()
    };
    assert!(fresh(&mut story, 1, 100));
    assert!(!fresh(&mut story, 2, 100));
    assert!(!fresh(&mut story, 3, 99));
    assert!(fresh(&mut story, 4, 101));
    assert!(fresh(&mut story, 5, 101 + (1 << 23) - 1));
    assert!(fresh(&mut story, 6, (1 << 24) - 1));
    assert!(fresh(&mut story, 7, 3), "the number wraps");
    assert!(!fresh(&mut story, 8, (1 << 24) - 1));
    story.after(129 * SECOND);
    assert!(fresh(&mut story, 9, 2), "old enough");
    assert_eq!(story.endpoint.stats().stale_notifications, 3);
    assert_eq!(
        story.peer_sends("CON 2.05 000a 4a Observe:1 = x"),
        ["ACK EMPTY 000a"],
        "nothing to wait for"
    );
    assert_eq!(story.event(), None);
}

/// Section 3.6.
#[test]
fn a_token_nobody_watches_is_reset_confirmable_or_not() {
    let mut story = observing();
    story.endpoint.unwatch(peer(B), token());
    assert_eq!(
        story.peer_sends("CON 2.05 0001 4a Observe:13 = x"),
        ["RST EMPTY 0001"]
    );
    assert_eq!(
        story.peer_sends("NON 2.05 0002 4a Observe:14 = x"),
        ["RST EMPTY 0002"]
    );
    assert_eq!(story.event(), None);
    // One that stands after a restart is watched from the store.
    story.endpoint.watch(peer(B), token());
    story.peer_sends("CON 2.05 0003 4a Observe:15 = y");
    assert_eq!(story.notified().0.payload, "y");
}

#[test]
fn an_observation_that_is_not_granted_or_is_cancelled_is_not_watched() {
    let mut story = Story::new(Config::default());
    story.request(observe(), options());
    story.peer_sends("ACK 2.05 m0 4a = 22.9 Cel");
    assert_eq!(story.answer(), content("22.9 Cel"));
    assert!(!story.endpoint.is_watched(peer(B), token()));

    let mut story = observing();
    let cancel = Request {
        observe: Some(1),
        ..observe()
    };
    assert_eq!(
        story.request(cancel, options()).1,
        ["CON GET m1 4a Observe:1 Uri-Path:temperature"]
    );
    story.peer_sends("NON 2.05 0001 4a Observe:20 = crossed");
    assert_eq!(story.notified().0.payload, "crossed");
    story.peer_sends("ACK 2.05 m1 4a = last");
    assert_eq!(story.answer(), content("last"));
    assert!(!story.endpoint.is_watched(peer(B), token()));
}

#[test]
fn an_error_is_the_last_notification() {
    let mut story = observing();
    story.peer_sends("CON 4.04 0001 4a");
    let (response, ack) = story.notified();
    assert_eq!(response.code, Code::NOT_FOUND);
    story.endpoint.acknowledge(story.now, ack.unwrap());
    assert_eq!(story.sent(), ["ACK EMPTY 0001"]);
    assert!(!story.endpoint.is_watched(peer(B), token()));
}

#[test]
fn an_observation_that_is_asked_for_again_keeps_its_notifications_apart_from_the_answer() {
    let mut story = observing();
    story.request(observe(), options());
    story.peer_sends("CON 2.05 0001 4a Observe:20 = crossed");
    let (response, ack) = story.notified();
    assert_eq!(
        (response.payload.as_ref(), ack.is_some()),
        (&b"crossed"[..], true)
    );
    assert_eq!(story.event(), None);
    story.peer_sends("ACK 2.05 m1 4a Observe:21 = answer");
    assert_eq!(story.answer().payload, "answer");

    // The same with a response that travels separately, its acknowledgement coming late.
    story.request(observe(), options());
    story.peer_sends("CON 2.05 0002 4a Observe:22 = separate");
    assert_eq!(story.notified().0.payload, "separate");
    story.peer_sends("ACK EMPTY m2");
    assert_eq!(story.answer().payload, "separate");
    story.peer_sends("NON 2.05 0003 4a Observe:23 = next");
    assert_eq!(story.notified().0.payload, "next");
    // Whatever becomes of the question, the observation stands.
    story.request(observe(), options());
    story.peer_sends("RST EMPTY m3");
    assert!(matches!(
        story.event(),
        Some(Event::RequestFailed {
            reason: FailureReason::Reset,
            ..
        })
    ));
    assert!(story.endpoint.is_watched(peer(B), token()));
}

#[test]
fn a_device_may_count_anew_when_it_is_asked_again() {
    let mut story = observing();
    story.request(observe(), options());
    story.peer_sends("ACK 2.05 m1 4a Observe:3 = after its restart");
    story.answer();
    story.peer_sends("NON 2.05 0001 4a Observe:4 = next");
    assert_eq!(story.notified().0.payload, "next");
}

/// RFC 7959 section 2.6 and figure 12.
#[test]
fn the_rest_of_a_large_notification_is_fetched_without_observe() {
    let mut story = observing();
    assert_eq!(
        story.peer_sends("CON 2.05 0001 4a ETag:01 Observe:13 Block2:0/1/64 = 64 bytes"),
        ["CON GET m1 t0 Uri-Path:temperature Block2:1/0/64"]
    );
    assert_eq!(story.event(), None);
    story.peer_sends("ACK 2.05 m1 t0 ETag:01 Block2:1/0/64 = end");
    let (response, ack) = story.notified();
    assert_eq!((response.observe, response.payload.len()), (Some(13), 67));
    assert!(story.sent().is_empty());
    story.endpoint.acknowledge(story.now, ack.unwrap());
    assert_eq!(story.sent(), ["ACK EMPTY 0001"]);
}

#[test]
fn a_newer_notification_overtakes_the_fetching_of_an_older_one() {
    let mut story = observing();
    story.peer_sends("CON 2.05 0001 4a ETag:01 Observe:13 Block2:0/1/64 = 64 bytes");
    assert_eq!(
        story.peer_sends("CON 2.05 0002 4a ETag:02 Observe:14 Block2:0/1/64 = 64 bytes"),
        [
            "ACK EMPTY 0001",
            "CON GET m2 t1 Uri-Path:temperature Block2:1/0/64"
        ]
    );
    story.peer_sends("ACK 2.05 m1 t0 ETag:01 Block2:1/0/64 = old");
    assert_eq!(story.event(), None);
    story.peer_sends("ACK 2.05 m2 t1 ETag:02 Block2:1/0/64 = newer");
    let (response, ack) = story.notified();
    assert_eq!((response.payload.len(), ack.is_some()), (69, true));
    assert_eq!(story.event(), None);
    assert!(story.endpoint.is_watched(peer(B), token()));
}

#[test]
fn a_large_notification_of_a_restored_observation_needs_the_request() {
    let mut story = Story::new(Config::default());
    story.endpoint.watch(peer(B), token());
    assert!(
        story
            .peer_sends("CON 2.05 0001 4a Observe:13 Block2:0/1/64 = 64 bytes")
            .is_empty()
    );
    assert_eq!(story.endpoint.stats().incomplete_notifications, 1);
    story.endpoint.watch_request(peer(B), token(), observe());
    assert_eq!(
        story.peer_sends("CON 2.05 0002 4a Observe:14 Block2:0/1/64 = 64 bytes"),
        ["CON GET m0 t0 Uri-Path:temperature Block2:1/0/64"]
    );
    story.peer_sends("RST EMPTY m0");
    assert_eq!(story.endpoint.stats().incomplete_notifications, 2);
    assert_eq!(story.event(), None);
    assert!(
        story.endpoint.is_watched(peer(B), token()),
        "the next one may come whole"
    );
}

#[test]
fn the_first_answer_may_be_large_and_be_overtaken_too() {
    let mut story = Story::new(Config::default());
    story.request(observe(), options());
    assert_eq!(
        story.peer_sends("ACK 2.05 m0 4a Observe:12 Block2:0/1/64 = 64 bytes"),
        ["CON GET m1 t0 Uri-Path:temperature Block2:1/0/64"]
    );
    assert_eq!(
        story.peer_sends("CON 2.05 0001 4a Observe:13 = small now"),
        ["ACK EMPTY 0001"]
    );
    assert_eq!(
        story.answer(),
        Response {
            observe: Some(13),
            ..content("small now")
        }
    );
    assert!(story.endpoint.is_watched(peer(B), token()));
    story.peer_sends("ACK 2.05 m1 t0 Block2:1/0/64 = end");
    assert_eq!(story.event(), None);
}

/// An endpoint that is observed under token 4a.
fn observed(config: Config) -> Story {
    let mut story = Story::new(config);
    story.peer_sends("CON GET 1633 4a Observe:0 Uri-Path:temperature");
    let (exchange, _, request) = story.asked();
    assert_eq!(request, observe());
    let response = Response {
        observe: Some(0),
        ..content("18.5 Cel")
    };
    assert_eq!(
        story.respond(exchange, response),
        ["ACK 2.05 1633 4a Observe:2 = 18.5 Cel"]
    );
    story
}

fn notify(story: &mut Story, payload: &str, confirmable: bool) -> Vec<String> {
    story.endpoint.notify(
        story.now,
        peer(B),
        token(),
        content(payload.to_owned()),
        confirmable,
    );
    story.sent()
}

#[test]
fn an_observer_is_notified_with_growing_numbers() {
    let mut story = observed(Config::default());
    assert_eq!(
        notify(&mut story, "19.2 Cel", false),
        ["NON 2.05 m0 4a Observe:3 = 19.2 Cel"]
    );
    assert_eq!(
        notify(&mut story, "19.7 Cel", true),
        ["CON 2.05 m1 4a Observe:4 = 19.7 Cel"]
    );
    assert!(
        notify(&mut story, "19.8 Cel", true).is_empty(),
        "one at a time"
    );
    assert_eq!(
        story.peer_sends("ACK EMPTY m1"),
        ["CON 2.05 m2 4a Observe:5 = 19.8 Cel"]
    );
    story.peer_sends("ACK EMPTY m2");
    // Asking again goes on counting.
    story.peer_sends("CON GET 1634 4a Observe:0 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    let response = Response {
        observe: Some(0),
        ..content("20")
    };
    assert_eq!(
        story.respond(exchange, response),
        ["ACK 2.05 1634 4a Observe:6 = 20"]
    );
    story.endpoint.notify(
        story.now,
        peer(B),
        token(),
        Response::new(Code::NOT_FOUND),
        true,
    );
    assert_eq!(story.sent(), ["CON 4.04 m3 4a"]);
    assert_eq!(story.event(), None);
}

#[test]
fn an_observer_that_resets_or_is_silent_is_gone() {
    for confirmable in [true, false] {
        let mut story = observed(Config::default());
        notify(&mut story, "a", confirmable);
        notify(&mut story, "b", true);
        story.peer_sends("RST EMPTY m0");
        assert_eq!(
            story.event(),
            Some(Event::NotificationRejected {
                to: peer(B),
                token: token()
            })
        );
        assert_eq!(story.event(), None);
    }
    let mut story = observed(Config::default());
    notify(&mut story, "a", true);
    notify(&mut story, "b", true);
    assert_eq!(
        story.after(100 * SECOND).len(),
        4,
        "retransmissions of a; b waits for nobody"
    );
    assert_eq!(
        story.event(),
        Some(Event::NotificationRejected {
            to: peer(B),
            token: token()
        })
    );
    assert_eq!(story.event(), None);
    story.after(300 * SECOND);
    assert_eq!(story.endpoint.next_timeout(), None);
}

#[test]
fn notifications_that_wait_are_bounded_and_the_newest_stays() {
    let mut story = observed(Config {
        max_queue_per_peer: 2,
        ..Config::default()
    });
    for n in 0..6 {
        notify(&mut story, &n.to_string(), true);
    }
    assert_eq!(
        story.peer_sends("ACK EMPTY m0"),
        ["CON 2.05 m1 4a Observe:4 = 1"]
    );
    assert_eq!(
        story.peer_sends("ACK EMPTY m1"),
        ["CON 2.05 m2 4a Observe:8 = 5"]
    );
    assert!(story.peer_sends("ACK EMPTY m2").is_empty());
    assert_eq!(story.endpoint.stats().overflowed, 3);
}

#[test]
fn an_observer_asks_for_the_blocks_of_a_notification() {
    let mut story = observed(Config {
        block_size: 64,
        ..Config::default()
    });
    let sent = notify(&mut story, &"x".repeat(100), true);
    assert_eq!(
        sent,
        [format!(
            "CON 2.05 m0 4a ETag:* Observe:3 Block2:0/1/64 Size2:100 = {}",
            "x".repeat(64)
        )]
    );
    assert_eq!(
        story.peer_sends("CON GET 0001 99 Uri-Path:temperature Block2:1/0/64"),
        [format!(
            "ACK 2.05 0001 99 ETag:* Block2:1/0/64 = {}",
            "x".repeat(36)
        )]
    );
    assert_eq!(story.event(), None);
}

#[test]
fn more_observers_than_there_is_room_for_get_an_answer_without_observe() {
    let mut story = observed(Config {
        max_observers: 1,
        ..Config::default()
    });
    story.peer_sends("CON GET 0001 4b Observe:0 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    let response = Response {
        observe: Some(0),
        ..content("20")
    };
    assert_eq!(story.respond(exchange, response), ["ACK 2.05 0001 4b = 20"]);
    // The first one cancels: now there is room.
    story.peer_sends("CON GET 0002 4a Observe:1 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    assert_eq!(
        story.respond(exchange, content("20")),
        ["ACK 2.05 0002 4a = 20"]
    );
    story.peer_sends("CON GET 0003 4b Observe:0 Uri-Path:temperature");
    let (exchange, ..) = story.asked();
    let response = Response {
        observe: Some(0),
        ..content("20")
    };
    assert_eq!(
        story.respond(exchange, response),
        ["ACK 2.05 0003 4b Observe:2 = 20"]
    );
}
