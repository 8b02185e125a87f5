//! Bytes nobody of good will would write: each is an error, soon, and without memory for what is only announced.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use proptest::prelude::*;
use records::*;
use records::{frame, fuzz};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

mod golden;

/// A zigzag varint.
fn long(value: i64) -> Vec<u8> {
    from_avro_json(&value.into(), &Schema::parse(r#""long""#).unwrap()).unwrap()
}

#[test]
fn announced_lengths_are_not_believed() {
    let schema = Schemas::get();
    for len in [1_i64 << 20, 1 << 40, i64::MAX, -1, i64::MIN] {
        let datum = long(len);
        assert!(AvroKey::from_datum(&datum).is_err(), "{len}");
        assert!(to_avro_json(&datum, &schema.key).is_err(), "{len}");
    }
    // A registration whose list of links says it has 2^60 of them.
    let mut new = RegistrationResponse::New(RegistrationNew {
        ep: "e".into(),
        server_id: "s".into(),
        reg_date: 0,
        address: String::new(),
        port: 0,
        reg_addr: String::new(),
        reg_port: 0,
        lt: 0,
        sms: None,
        ver: String::new(),
        bnd: Bnd::U,
        reg_id: "i".into(),
        links: vec![],
        attributes: None,
        root: String::new(),
        last_up: 0,
    })
    .to_datum();
    let tail = [0, 0, 0, 0]; // links, attributes, root, last_up
    assert!(new.ends_with(&tail));
    new.truncate(new.len() - tail.len());
    new.extend(long(1 << 60));
    assert!(matches!(
        RegistrationResponse::from_datum(&new),
        Err(DecodeError::Truncated { .. })
    ));
}

#[test]
fn items_that_take_no_bytes_do_not_go_on_for_ever() {
    let nulls = Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap();
    let started = Instant::now();
    let mut datum = long(i64::MAX);
    datum.push(0);
    assert_eq!(to_avro_json(&datum, &nulls), Err(DecodeError::TooManyItems));

    let writer = Schema::parse(
        r#"{"type":"record","name":"AvroKey","fields":[
            {"name":"noise","type":{"type":"array","items":{"type":"record","name":"Empty","fields":[]}}},
            {"name":"ep","type":"string"}]}"#,
    )
    .unwrap();
    let reader = RecordReader::<AvroKey>::new(&writer).unwrap();
    datum.extend([2, b'a']);
    assert_eq!(reader.read(&datum), Err(DecodeError::TooManyItems));
    let mut few = long(3);
    few.extend([0, 2, b'a']);
    assert_eq!(reader.read(&few), Ok(AvroKey::new("a")));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_recursive_schema_is_not_followed_into_the_stacks_end() {
    let list =
        r#"{"type":"record","name":"List","fields":[{"name":"next","type":["null","List"]}]}"#;
    let schema = Schema::parse(list).unwrap();
    let deep = [vec![2_u8; 1_000_000], vec![0]].concat();
    assert_eq!(to_avro_json(&deep, &schema), Err(DecodeError::TooDeep));
    let shallow = [vec![2_u8; 20], vec![0]].concat();
    assert!(to_avro_json(&shallow, &schema).is_ok());

    let writer = format!(
        r#"{{"type":"record","name":"AvroKey","fields":[{{"name":"x","type":{list}}},{{"name":"ep","type":"string"}}]}}"#
    );
    let reader = RecordReader::<AvroKey>::new(&Schema::parse(&writer).unwrap()).unwrap();
    assert_eq!(reader.read(&deep), Err(DecodeError::TooDeep));
    assert_eq!(
        reader.read(&[&shallow[..], &[2, b'a']].concat()),
        Ok(AvroKey::new("a"))
    );

    let mut json = serde_json::Value::Null;
    for _ in 0..100 {
        json = serde_json::json!({"List": {"next": json}});
    }
    assert!(from_avro_json(&serde_json::json!({ "next": json }), &schema).is_err());
}

/// A chain of references is as deep as it is long, though no bracket of its text is.
#[test]
fn a_schema_that_is_a_long_chain_of_names_is_refused_or_read() {
    let mut branches = vec![r#"{"type":"record","name":"R0","fields":[]}"#.to_owned()];
    for i in 1..5_000 {
        branches.push(format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"f","type":"R{}"}}]}}"#,
            i - 1
        ));
    }
    let writer = format!(
        r#"{{"type":"record","name":"AvroKey","fields":[{{"name":"x","type":[{}]}},{{"name":"ep","type":"string"}}]}}"#,
        branches.join(",")
    );
    let schema = Schema::parse(&writer).unwrap();
    let reader = RecordReader::<AvroKey>::new(&schema).unwrap();
    assert_eq!(reader.read(&[0, 2, b'a']), Ok(AvroKey::new("a")));
    let last = [long(4_999), vec![2, b'a']].concat();
    assert_eq!(reader.read(&last), Err(DecodeError::TooDeep));
    assert_eq!(to_avro_json(&last, &schema), Err(DecodeError::TooDeep));
}

#[test]
fn integers_are_as_long_as_they_may_be() {
    let (int, long_schema) = (
        Schema::parse(r#""int""#).unwrap(),
        Schema::parse(r#""long""#).unwrap(),
    );
    for value in [0, 63, -64, 64, i64::from(i32::MAX), i64::MIN, i64::MAX] {
        assert_eq!(to_avro_json(&long(value), &long_schema).unwrap(), value);
    }
    assert_eq!(
        to_avro_json(&long(1 << 31), &int),
        Err(DecodeError::BadInteger { at: 0, bits: 32 })
    );
    let too_long = [[0xff; 9].as_slice(), &[2]].concat();
    assert_eq!(
        to_avro_json(&too_long, &long_schema),
        Err(DecodeError::BadInteger { at: 0, bits: 64 })
    );
    assert_eq!(
        to_avro_json(&[0x80], &long_schema),
        Err(DecodeError::Truncated { at: 1 })
    );
}

#[test]
fn values_outside_their_type_are_refused() {
    let boolean = Schema::parse(r#""boolean""#).unwrap();
    assert_eq!(
        to_avro_json(&[2], &boolean),
        Err(DecodeError::BadBoolean { at: 0, found: 2 })
    );
    assert_eq!(
        AvroKey::from_datum(&[2, 0xff]),
        Err(DecodeError::NotUtf8 { at: 0 })
    );
    let read = golden::find("request-read").written;
    let body_at = read.len() - 1;
    for branch in [long(5), long(-1)] {
        let datum = [&read[..body_at], &branch].concat();
        assert!(matches!(
            Request::from_datum(&datum),
            Err(DecodeError::UnknownBranch { branches: 5, .. })
        ));
    }
    let format_at = read.len() - 2;
    for symbol in [5, -1] {
        let datum = [&read[..format_at], &long(symbol), &[0]].concat();
        assert!(matches!(
            Request::from_datum(&datum),
            Err(DecodeError::UnknownSymbol { symbols: 5, .. })
        ));
    }
}

/// Java writes a block's size behind a negative count where it buffers blocks.
#[test]
fn blocks_with_sizes_are_read() {
    let schema = Schema::parse(r#"{"type":"array","items":"long"}"#).unwrap();
    let datum = [long(-2), long(2), vec![2, 4], long(1), vec![6, 0]].concat();
    assert_eq!(
        to_avro_json(&datum, &schema).unwrap(),
        serde_json::json!([1, 2, 3])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(data: Vec<u8>) {
        fuzz::decode_frame(&data);
        fuzz::decode_request(&data);
        fuzz::decode_avro_json(&data);
        fuzz::parse_topic(&data);
        fuzz::parse_schema(&data);
    }

    #[test]
    fn a_changed_byte_never_panics(which: prop::sample::Index, at: prop::sample::Index, to: u8) {
        static GOLDEN: LazyLock<Vec<golden::Golden>> = LazyLock::new(golden::golden);
        let golden = which.get(&GOLDEN);
        let mut datum = golden.written.clone();
        let at = at.index(datum.len());
        datum[at] = to;
        fuzz::decode_request(&datum);
        fuzz::decode_frame(&frame::join(SchemaId(1), &datum));
        if let Some(writer) = &golden.writer {
            let _ = RecordReader::<ResponseObserve>::new(writer).map(|r| r.read(&datum).is_ok());
            let _ = to_avro_json(&datum, writer);
        }
    }

    #[test]
    fn a_changed_schema_never_panics(which: prop::sample::Index, at: prop::sample::Index, to in "[\\[\\]{}\",:0a. ]", datum: Vec<u8>) {
        let writers = [
            Schemas::get().key.text(),
            Schemas::get().request.text(),
            include_str!("golden/writer-newer-observe.avsc"),
            include_str!("golden/writer-older-registration.avsc"),
        ];
        let mut text = which.get(&writers).as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = to.as_bytes()[0];
        fuzz::parse_schema(&[text.as_slice(), &[0], &datum].concat());
    }
}
