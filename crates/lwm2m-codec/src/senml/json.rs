//! SenML JSON: an array of records, labels as text (RFC 8428, section 5; `vlo` is of TS 1.1 core, section 7.4).

use base64::Engine;
use lwm2m_model::Value;
use serde::de::{Error, IgnoredAny, MapAccess};

use super::{Raw, lines};
use crate::json::{Boxes, List, Members, number, once, quoted, read as read_json};
use crate::record::{BASE64_URL, Datum, Record, float_text, seconds_text};
use crate::{ContentFormat, DecodeError};

pub(super) fn read(payload: &[u8], format: ContentFormat) -> Result<Boxes<Raw>, DecodeError> {
    read_json::<List<Raw>>(payload, format)?.bounded()
}

impl Members for Raw {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "bn" => once(&mut self.base_name, name, map.next_value()?),
            "bt" => once(&mut self.base_time, name, number(map)?),
            "bv" => once(&mut self.base_value, name, number(map)?),
            "bver" => once(&mut self.base_version, name, number(map)?),
            "n" => once(&mut self.name, name, map.next_value()?),
            "t" => once(&mut self.time, name, number(map)?),
            "v" => once(&mut self.value, name, Datum::Number(number(map)?)),
            "vs" => once(&mut self.value, name, Datum::Text(map.next_value()?)),
            "vb" => once(&mut self.value, name, Datum::Bool(map.next_value()?)),
            "vlo" => once(&mut self.value, name, Datum::Link(map.next_value()?)),
            "vd" => {
                let text: String = map.next_value()?;
                let bytes = BASE64_URL
                    .decode(text)
                    .map_err(|e| A::Error::custom(format_args!("vd is not base64url: {e}")))?;
                once(&mut self.value, name, Datum::Bytes(bytes))
            }
            // RFC 8428, section 4.4: who does not understand such a label must not take the record.
            _ if name.ends_with('_') => Err(A::Error::custom(format_args!(
                "the label {name} must be understood, and is not"
            ))),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

pub(super) fn write(records: &[Record<'_>]) -> Vec<u8> {
    let lines: Vec<String> = lines(records)
        .into_iter()
        .map(|line| {
            let mut members = Vec::with_capacity(4);
            if let Some(base) = line.base_name {
                members.push(format!("\"bn\":{}", quoted(base)));
            }
            if let Some(time_s) = line.base_time {
                members.push(format!("\"bt\":{}", seconds_text(time_s)));
            }
            if !line.record.name.is_empty() {
                members.push(format!("\"n\":\"{}\"", line.record.name));
            }
            members.push(match line.record.value {
                Value::String(text) | Value::CoreLink(text) => format!("\"vs\":{}", quoted(text)),
                Value::Integer(v) | Value::Time(v) => format!("\"v\":{v}"),
                Value::Unsigned(v) => format!("\"v\":{v}"),
                Value::Float(v) => format!("\"v\":{}", float_text(*v)),
                Value::Boolean(v) => format!("\"vb\":{v}"),
                Value::Opaque(bytes) => format!("\"vd\":\"{}\"", BASE64_URL.encode(bytes)),
                Value::ObjectLink(object, instance) => format!("\"vlo\":\"{object}:{instance}\""),
            });
            format!("{{{}}}", members.join(","))
        })
        .collect();
    format!("[{}]", lines.join(",")).into_bytes()
}

pub(super) fn write_names(names: &[String]) -> Vec<u8> {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{{\"n\":{}}}", quoted(name)))
        .collect();
    format!("[{}]", names.join(",")).into_bytes()
}
