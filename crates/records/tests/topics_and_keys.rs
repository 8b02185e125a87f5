//! Names and keys as the contract has them.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use proptest::prelude::*;
use records::*;
use records::{frame, topics, windowed};

fn gateway(id: &str) -> GatewayId {
    id.parse().unwrap()
}

#[test]
fn a_gateways_topics() {
    let topics = Topics::for_gateway(&gateway("rock64"));
    assert_eq!(topics.registrations, "iot.rock64.registrations");
    assert_eq!(topics.observations, "iot.rock64.observations");
    assert_eq!(topics.management_req, "iot.rock64.management.req");
    assert_eq!(topics.management_rep, "iot.rock64.management.rep");
    assert_eq!(
        topics.maxper30sec,
        "analytics.rock64.observations.maxper30sec"
    );
    assert_eq!(
        topics::dlq(&topics.management_req),
        "iot.rock64.management.req.dlq"
    );
    assert_eq!(
        topics::dlq_source("iot.rock64.management.req.dlq"),
        Some("iot.rock64.management.req")
    );
    assert_eq!(topics::dlq_source("iot.rock64.management.req"), None);
    assert_eq!(topics::dlq_source(".dlq"), None);
    assert_eq!(
        topics::key_subject(&topics.observations),
        "iot.rock64.observations-key"
    );
    assert_eq!(
        topics::value_subject(&topics.observations),
        "iot.rock64.observations-value"
    );
}

#[test]
fn a_topic_names_its_gateway() {
    assert_eq!(
        parse_topic("iot.rock64.observations"),
        Some((gateway("rock64"), TopicKind::Observations))
    );
    assert_eq!(
        parse_topic("iot.freq1.management.req"),
        Some((gateway("freq1"), TopicKind::ManagementReq))
    );
    assert_eq!(
        parse_topic("analytics.up_board-2.observations.maxper30sec"),
        Some((gateway("up_board-2"), TopicKind::MaxPer30Sec))
    );
    for other in [
        "",
        "iot..observations",
        "iot.observations",
        "iot.a.b.observations",
        "iot.rock64.observations.dlq",
        "iot.rock64.other",
        "analytics.rock64.observations",
        "xiot.rock64.observations",
        "_schemas",
    ] {
        assert_eq!(parse_topic(other), None, "{other:?}");
    }
}

#[test]
fn gateway_ids_are_letters_digits_and_two_signs() {
    assert_eq!(
        "Rock_64-a".parse::<GatewayId>().unwrap().as_str(),
        "Rock_64-a"
    );
    assert_eq!("".parse::<GatewayId>(), Err(GatewayIdError::Empty));
    assert_eq!(
        "a.b".parse::<GatewayId>(),
        Err(GatewayIdError::BadCharacter('.'))
    );
    assert_eq!(
        "größe".parse::<GatewayId>(),
        Err(GatewayIdError::BadCharacter('ö'))
    );
    assert_eq!(
        "a".repeat(201).parse::<GatewayId>(),
        Err(GatewayIdError::TooLong(201))
    );
    let longest = gateway(&"a".repeat(200));
    assert!(
        TopicKind::ALL
            .iter()
            .all(|kind| topics::dlq(&kind.topic(&longest)).len() <= 249)
    );
}

#[test]
fn a_frame_is_a_zero_the_id_and_the_datum() {
    let framed = AvroKey::new("ab").to_framed(SchemaId(0x0102_0304));
    assert_eq!(framed, [0, 1, 2, 3, 4, 4, b'a', b'b']);
    assert_eq!(
        frame::split(&framed),
        Ok((SchemaId(0x0102_0304), &[4, b'a', b'b'][..]))
    );
    assert_eq!(frame::join(SchemaId(0x0102_0304), &[4, b'a', b'b']), framed);
    assert_eq!(
        frame::schema_id(&[0, 0xff, 0xff, 0xff, 0xff]),
        Ok(SchemaId(u32::MAX))
    );
    assert_eq!(frame::split(b"{\"ep\"").unwrap_err(), FrameError::NotFramed);
    assert_eq!(frame::split(b""), Err(FrameError::NotFramed));
    assert_eq!(
        frame::split(&[0, 0, 0, 1]),
        Err(FrameError::TooShort { len: 4 })
    );
}

#[test]
fn a_windowed_key_is_the_key_and_its_windows_start() {
    let key = AvroKey::new("sensor-1./3303/0/5700").to_framed(SchemaId(7));
    let windowed = windowed::encode(&key, 1_527_587_190_000);
    assert_eq!(&windowed[key.len()..], 1_527_587_190_000_i64.to_be_bytes());
    assert_eq!(
        windowed::decode(&windowed),
        Ok((key.as_slice(), 1_527_587_190_000))
    );
    assert_eq!(
        windowed::decode(&windowed::encode(b"", -30_000)),
        Ok((&b""[..], -30_000))
    );
    assert_eq!(
        windowed::decode(&[0; 7]),
        Err(windowed::WindowedKeyError::TooShort { len: 7 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_name_parses_to_what_it_was_made_of(id in "[A-Za-z0-9_-]{1,40}", kind in proptest::sample::select(&TopicKind::ALL[..])) {
        let gateway = gateway(&id);
        prop_assert_eq!(parse_topic(&kind.topic(&gateway)), Some((gateway, kind)));
    }

    #[test]
    fn frames_and_windows_come_apart_as_they_were_put_together(id: u32, start_ms: i64, datum: Vec<u8>) {
        let framed = frame::join(SchemaId(id), &datum);
        prop_assert_eq!(frame::split(&framed), Ok((SchemaId(id), datum.as_slice())));
        let windowed = windowed::encode(&framed, start_ms);
        prop_assert_eq!(windowed::decode(&windowed), Ok((framed.as_slice(), start_ms)));
    }
}
