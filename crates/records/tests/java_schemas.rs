//! What Java's Avro does with other writers' schemas and with JSON, ours does too.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

mod golden;

use golden::{Golden, golden};
use records::*;

/// A newer server's schema has more fields, other orders, other numbers; what Java makes of its records is what we do.
#[test]
fn other_writers_records_are_read_as_java_reads_them() {
    fn read<T: AvroRecord>(golden: &Golden, writer: &Schema) -> Vec<u8> {
        RecordReader::<T>::new(writer)
            .unwrap()
            .read(&golden.written)
            .unwrap()
            .to_datum()
    }
    let mut seen = 0;
    for golden in golden() {
        let Some(writer) = &golden.writer else {
            continue;
        };
        let ours = match golden.schema.full_name().unwrap() {
            "io.zeelos.leshan.avro.response.AvroResponseObserve" => {
                read::<ResponseObserve>(&golden, writer)
            }
            "io.zeelos.leshan.avro.registration.AvroRegistrationResponse" => {
                read::<RegistrationResponse>(&golden, writer)
            }
            other => panic!("{other}"),
        };
        assert_eq!(
            hex::encode(ours),
            hex::encode(&golden.resolved),
            "{}",
            golden.name
        );
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn avro_json_is_javas_both_ways() {
    for golden in golden() {
        let schema = golden.writer.as_ref().unwrap_or(golden.schema);
        let datum = from_avro_json(&golden.case_json, schema)
            .unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        assert_eq!(
            hex::encode(datum),
            hex::encode(&golden.written),
            "{}",
            golden.name
        );
        assert_eq!(
            to_avro_json(&golden.written, schema).unwrap(),
            golden.case_json,
            "{}",
            golden.name
        );
        assert_eq!(
            to_avro_json(&golden.resolved, golden.schema).unwrap(),
            golden.json,
            "{}",
            golden.name
        );
    }
}

#[test]
fn a_record_cut_off_anywhere_is_an_error() {
    for golden in golden() {
        let schema = golden.writer.as_ref().unwrap_or(golden.schema);
        let reader = RecordReader::<ResponseObserve>::new(schema).ok();
        for end in 0..golden.written.len() {
            let cut = &golden.written[..end];
            assert!(
                to_avro_json(cut, schema).is_err(),
                "{} cut at {end}",
                golden.name
            );
            if let Some(reader) = &reader {
                assert!(reader.read(cut).is_err(), "{} cut at {end}", golden.name);
            }
        }
        let mut longer = golden.written.clone();
        longer.push(0);
        assert_eq!(
            to_avro_json(&longer, schema),
            Err(DecodeError::TrailingBytes { left: 1 }),
            "{}",
            golden.name
        );
    }
}
