//! JSON of LwM2M 1.0 (TS 1.0.2, section 6.4.4; kept in TS 1.1): one object with a base name and a list of entries.
//!
//! ```text
//! {"bn":"/3303/0/","bt":1500000000,"e":[{"n":"5700","v":22.5,"t":-5},{"n":"5701","sv":"Cel"}]}
//! ```

use base64::Engine;
use lwm2m_model::{ObjectPath, Value};
use serde::de::{IgnoredAny, MapAccess};

use crate::cbor::Number;
use crate::composite::is_a_time;
use crate::json::{List, Members, Object, number, once, quoted, read};
use crate::record::{BASE64, Datum, Entry, Record, float_text, seconds_text, value_path};
use crate::{ContentFormat, DecodeError};

#[derive(Default)]
struct Pack {
    base_name: Option<String>,
    base_time: Option<Number>,
    entries: Option<List<Raw>>,
}

#[derive(Default)]
struct Raw {
    name: Option<String>,
    time: Option<Number>,
    value: Option<Datum>,
}

impl Members for Pack {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "bn" => once(&mut self.base_name, name, map.next_value()?),
            "bt" => once(&mut self.base_time, name, number(map)?),
            "e" => once(&mut self.entries, name, map.next_value()?),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

impl Members for Raw {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "n" => once(&mut self.name, name, map.next_value()?),
            "t" => once(&mut self.time, name, number(map)?),
            "v" => once(&mut self.value, name, Datum::Number(number(map)?)),
            "sv" => once(&mut self.value, name, Datum::Text(map.next_value()?)),
            "bv" => once(&mut self.value, name, Datum::Bool(map.next_value()?)),
            "ov" => once(&mut self.value, name, Datum::Link(map.next_value()?)),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

pub(crate) fn entries(
    payload: &[u8],
    request: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<Entry>, DecodeError> {
    let Object(pack) = read::<Object<Pack>>(payload, format)?;
    let base_time = pack.base_time.map(Number::to_f64);
    let raws = pack.entries.unwrap_or_default().bounded()?;
    let mut entries = Vec::with_capacity(raws.len());
    for (index, raw) in raws.into_iter().enumerate() {
        let Raw { name, time, value } = *raw;
        let Some(datum) = value else {
            let reason = format!("entry {index} has no value");
            return Err(DecodeError::Malformed { format, reason });
        };
        let name = name.unwrap_or_default();
        // Without a base name, names are relative to the request's path.
        let path = match &pack.base_name {
            Some(base) => value_path(base, &name, request)?,
            None if name.starts_with('/') => value_path("", &name, request)?,
            None => value_path(&request_base(request, &name), &name, request)?,
        };
        let time_s = match (base_time, time.map(Number::to_f64)) {
            (None, None) => None,
            (base, time) => Some(base.unwrap_or(0.0) + time.unwrap_or(0.0)),
        };
        if time_s.is_some_and(|t| !is_a_time(t)) {
            let reason = format!("the time of entry {index} is in no calendar");
            return Err(DecodeError::Malformed { format, reason });
        }
        entries.push(Entry {
            path,
            time_s,
            datum,
        });
    }
    Ok(entries)
}

fn request_base(request: &ObjectPath, name: &str) -> String {
    if name.is_empty() {
        request.to_string()
    } else {
        format!("{request}/")
    }
}

/// Times are written as they are, without a base time.
pub(crate) fn write(records: &[Record<'_>], path: &ObjectPath) -> Vec<u8> {
    let base = records
        .first()
        .map_or_else(|| format!("{path}/"), |record| record.base.clone());
    let entries: Vec<String> = records
        .iter()
        .map(|record| {
            let mut members = Vec::with_capacity(3);
            if !record.name.is_empty() {
                members.push(format!("\"n\":\"{}\"", record.name));
            }
            members.push(match record.value {
                Value::String(text) | Value::CoreLink(text) => format!("\"sv\":{}", quoted(text)),
                Value::Integer(v) | Value::Time(v) => format!("\"v\":{v}"),
                Value::Unsigned(v) => format!("\"v\":{v}"),
                Value::Float(v) => format!("\"v\":{}", float_text(*v)),
                Value::Boolean(v) => format!("\"bv\":{v}"),
                Value::Opaque(bytes) => format!("\"sv\":\"{}\"", BASE64.encode(bytes)),
                Value::ObjectLink(object, instance) => format!("\"ov\":\"{object}:{instance}\""),
            });
            if let Some(time_s) = record.time_s {
                members.push(format!("\"t\":{}", seconds_text(time_s)));
            }
            format!("{{{}}}", members.join(","))
        })
        .collect();
    format!("{{\"bn\":\"{base}\",\"e\":[{}]}}", entries.join(",")).into_bytes()
}
