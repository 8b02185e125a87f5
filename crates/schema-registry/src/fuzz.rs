//! Entry points for fuzzing: what arrives from clients and from the topic must never panic.

use crate::avro;
use crate::record::Record;
use crate::state::State;

/// A schema's text, as a client may send it: parsed, printed, compared with itself.
pub fn parse_schema(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(schema) = avro::parse(text, []) else {
        return;
    };
    let canonical = schema.canonical();
    let again = avro::parse(&canonical, []).expect("what we print, we parse");
    assert_eq!(again.canonical(), canonical, "the canonical text is stable");
    // What is too complex is refused; anything else reads itself.
    if let Ok(reasons) = avro::can_read(&schema, &again, &mut avro::Budget::default()) {
        assert!(reasons.is_empty(), "a schema reads itself: {reasons:?}");
    }
}

/// Records of the topic, one after the other: the key's length, the value's length (two bytes each, big endian;
/// a value's length of 0xFFFF is a tombstone), key, value.
pub fn parse_record(data: &[u8]) {
    let mut state = State::default();
    let mut rest = data;
    while let Some((key, value)) = next_record(&mut rest) {
        let Ok(record) = Record::decode(Some(key), value) else {
            continue;
        };
        let written = record.key();
        let read = Record::decode(Some(written.as_bytes()), value);
        assert_eq!(read.as_ref(), Ok(&record), "a key survives being written");
        // A skipped record is an outcome like any other.
        let _ = state.apply(record);
    }
}

fn next_record<'d>(rest: &mut &'d [u8]) -> Option<(&'d [u8], Option<&'d [u8]>)> {
    let (header, after) = rest.split_first_chunk::<4>()?;
    let key_length = usize::from(u16::from_be_bytes([header[0], header[1]]));
    let value_length = u16::from_be_bytes([header[2], header[3]]);
    let (key, after) = after.split_at_checked(key_length)?;
    if value_length == u16::MAX {
        *rest = after;
        return Some((key, None));
    }
    let (value, after) = after.split_at_checked(usize::from(value_length))?;
    *rest = after;
    Some((key, Some(value)))
}
