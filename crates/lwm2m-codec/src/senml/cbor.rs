//! SenML CBOR: an array of maps, labels as small numbers (RFC 8428, section 6; `vlo` stays text).

use lwm2m_model::Value;

use super::{Raw, lines};
use crate::cbor::{Fault, Item, Number, Reader, Writer};
use crate::json::{Boxes, malformed};
use crate::record::{Datum, Record, whole_seconds};
use crate::{ContentFormat, DecodeError, MAX_ENTRIES};

const BASE_VERSION: i64 = -1;
const BASE_NAME: i64 = -2;
const BASE_TIME: i64 = -3;
const BASE_VALUE: i64 = -5;
const NAME: i64 = 0;
const VALUE: i64 = 2;
const TEXT: i64 = 3;
const BOOL: i64 = 4;
const TIME: i64 = 6;
const DATA: i64 = 8;
const OBJECT_LINK: &str = "vlo";

enum Label {
    Number(i64),
    Text(String),
}

pub(super) fn read(payload: &[u8], format: ContentFormat) -> Result<Boxes<Raw>, DecodeError> {
    let fault = |reason: Fault| malformed(format, &reason);
    let mut reader = Reader::new(payload);
    let mut count = reader.array().map_err(fault)?;
    let mut records = Boxes::new();
    while reader.another(&mut count).map_err(fault)? {
        if records.len() == MAX_ENTRIES {
            return Err(DecodeError::TooManyEntries);
        }
        records.push(Box::new(record(&mut reader).map_err(fault)?));
    }
    reader.end().map_err(fault)?;
    Ok(records)
}

fn record(reader: &mut Reader<'_>) -> Result<Raw, Fault> {
    let mut raw = Raw::default();
    let mut pairs = reader.map()?;
    while reader.another(&mut pairs)? {
        match label(reader)? {
            Label::Number(BASE_NAME) => once(&mut raw.base_name, "bn", text(reader, "bn")?)?,
            Label::Number(BASE_TIME) => once(&mut raw.base_time, "bt", number(reader, "bt")?)?,
            Label::Number(BASE_VALUE) => once(&mut raw.base_value, "bv", number(reader, "bv")?)?,
            Label::Number(BASE_VERSION) => {
                once(&mut raw.base_version, "bver", number(reader, "bver")?)?;
            }
            Label::Number(NAME) => once(&mut raw.name, "n", text(reader, "n")?)?,
            Label::Number(TIME) => once(&mut raw.time, "t", number(reader, "t")?)?,
            Label::Number(VALUE) => {
                let value = Datum::Number(number(reader, "v")?);
                once(&mut raw.value, "v", value)?;
            }
            Label::Number(TEXT) => {
                let value = Datum::Text(text(reader, "vs")?);
                once(&mut raw.value, "vs", value)?;
            }
            Label::Number(BOOL) => match reader.item()? {
                Item::Bool(v) => once(&mut raw.value, "vb", Datum::Bool(v))?,
                _ => return Err("vb is no boolean".to_owned()),
            },
            Label::Number(DATA) => match reader.item()? {
                Item::Bytes(bytes) => once(&mut raw.value, "vd", Datum::Bytes(bytes))?,
                _ => return Err("vd is no byte string".to_owned()),
            },
            Label::Text(name) if name == OBJECT_LINK => {
                let value = Datum::Link(text(reader, OBJECT_LINK)?);
                once(&mut raw.value, OBJECT_LINK, value)?;
            }
            // RFC 8428, section 4.4: who does not understand such a label must not take the record.
            Label::Text(name) if name.ends_with('_') => {
                return Err(format!("the label {name} must be understood, and is not"));
            }
            _ => reader.skip()?,
        }
    }
    Ok(raw)
}

/// Labels of numbers beyond 64 bits, as any that is not known, are passed over.
fn label(reader: &mut Reader<'_>) -> Result<Label, Fault> {
    match reader.item()? {
        Item::Number(Number::Whole(v)) => Ok(Label::Number(i64::try_from(v).unwrap_or(i64::MAX))),
        Item::Text(name) => Ok(Label::Text(name)),
        _ => Err("a label is neither a whole number nor text".to_owned()),
    }
}

fn text(reader: &mut Reader<'_>, name: &str) -> Result<String, Fault> {
    match reader.item()? {
        Item::Text(text) => Ok(text),
        _ => Err(format!("{name} is no text")),
    }
}

fn number(reader: &mut Reader<'_>, name: &str) -> Result<Number, Fault> {
    match reader.item()? {
        Item::Number(number) | Item::Epoch(number) => Ok(number),
        _ => Err(format!("{name} is no number")),
    }
}

/// Sets a field that may be there once.
fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), Fault> {
    match slot.replace(value) {
        Some(_) => Err(format!("{name} stands beside another in one record")),
        None => Ok(()),
    }
}

pub(super) fn write(records: &[Record<'_>]) -> Vec<u8> {
    let lines = lines(records);
    let mut writer = Writer::default();
    writer.array(lines.len());
    for line in lines {
        let name = &line.record.name;
        let fields = [
            line.base_name.is_some(),
            line.base_time.is_some(),
            !name.is_empty(),
        ];
        writer.map(1 + fields.into_iter().filter(|there| *there).count());
        if let Some(base) = line.base_name {
            writer.signed(BASE_NAME);
            writer.text(base);
        }
        if let Some(time_s) = line.base_time {
            writer.signed(BASE_TIME);
            match whole_seconds(time_s) {
                Some(v) => writer.signed(v),
                None => writer.float(time_s),
            }
        }
        if !name.is_empty() {
            writer.signed(NAME);
            writer.text(name);
        }
        write_value(&mut writer, line.record.value);
    }
    writer.finish()
}

fn write_value(writer: &mut Writer, value: &Value) {
    match value {
        Value::String(_) | Value::CoreLink(_) => writer.signed(TEXT),
        Value::Integer(_) | Value::Time(_) | Value::Unsigned(_) | Value::Float(_) => {
            writer.signed(VALUE);
        }
        Value::Boolean(_) => writer.signed(BOOL),
        Value::Opaque(_) => writer.signed(DATA),
        Value::ObjectLink(..) => writer.text(OBJECT_LINK),
    }
    match value {
        // SenML's times are plain numbers: the tag is for single values.
        Value::Time(v) => writer.signed(*v),
        value => crate::cbor_value::write(writer, value),
    }
}

pub(super) fn write_names(names: &[String]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.array(names.len());
    for name in names {
        writer.map(1);
        writer.signed(NAME);
        writer.text(name);
    }
    writer.finish()
}
