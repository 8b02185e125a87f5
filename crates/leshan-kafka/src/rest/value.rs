//! Values as JSON and text write them.

use lwm2m_codec::decode_text;
use lwm2m_model::{ObjectPath, Value, ValueType};
use serde_json::Value as Json;

use super::body::{BodyError, wrong};

/// A JSON value as a value of this type; where no type is known the JSON's own counts.
pub(super) fn value_of(
    json: &Json,
    kind: Option<ValueType>,
    path: ObjectPath,
) -> Result<Value, BodyError> {
    let unexpected = |kind: ValueType| {
        let expected = match kind {
            ValueType::Boolean => "true or false",
            ValueType::Time => "Unix milliseconds or an ISO 8601 date and time",
            ValueType::ObjectLink => {
                "{\"objectId\":…,\"objectInstanceId\":…} or a string such as \"3:0\""
            }
            ValueType::Integer | ValueType::Unsigned | ValueType::Float => {
                "a number, or a string with one"
            }
            ValueType::String | ValueType::Opaque | ValueType::CoreLink => "a string",
        };
        BodyError::Node {
            path,
            reason: format!("a value of type {kind} is {expected} in JSON"),
        }
    };
    match (json, kind) {
        (Json::String(text), kind) => parse(text, kind.unwrap_or(ValueType::String), path),
        (Json::Bool(yes), None | Some(ValueType::Boolean)) => Ok(Value::Boolean(*yes)),
        (Json::Number(number), kind) => {
            let value = if let Some(whole) = number.as_i64() {
                match kind {
                    Some(ValueType::Time) => return Ok(Value::Time(whole.div_euclid(1_000))),
                    _ => Value::Integer(whole),
                }
            } else if let Some(whole) = number.as_u64() {
                Value::Unsigned(whole)
            } else {
                Value::Float(number.as_f64().unwrap_or(f64::NAN))
            };
            let Some(kind) = kind.filter(|kind| *kind != ValueType::Time) else {
                return Ok(value);
            };
            // Whole numbers beyond 2^53 become the nearest double, as in Java.
            let nearest = || {
                (kind == ValueType::Float)
                    .then(|| number.as_f64().map(Value::Float))
                    .flatten()
            };
            value
                .to_type(kind)
                .or_else(nearest)
                .ok_or_else(|| unexpected(kind))
        }
        (Json::Object(link), None | Some(ValueType::ObjectLink)) => {
            let part = |name: &str| {
                link.get(name)
                    .and_then(Json::as_u64)
                    .and_then(|id| u16::try_from(id).ok())
            };
            match (part("objectId"), part("objectInstanceId")) {
                (Some(object), Some(instance)) => Ok(Value::ObjectLink(object, instance)),
                _ => Err(unexpected(ValueType::ObjectLink)),
            }
        }
        (_, kind) => Err(unexpected(kind.unwrap_or(ValueType::String))),
    }
}

/// A text as a value. Opaque ones are in hex and times in milliseconds or ISO 8601 here, unlike in LwM2M's text format.
pub(super) fn parse(text: &str, kind: ValueType, path: ObjectPath) -> Result<Value, BodyError> {
    match kind {
        ValueType::Opaque => match from_hex(text.trim()) {
            Some(bytes) => Ok(Value::Opaque(bytes)),
            None => wrong(path, "an opaque value is written in hex, two digits a byte"),
        },
        ValueType::Boolean if text.trim().eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
        ValueType::Boolean if text.trim().eq_ignore_ascii_case("false") => {
            Ok(Value::Boolean(false))
        }
        ValueType::Time => {
            let word = text.trim();
            let milliseconds = word.parse().ok().or_else(|| from_iso_8601(word));
            match milliseconds {
                Some(milliseconds) => Ok(Value::Time(i64::div_euclid(milliseconds, 1_000))),
                None => wrong(
                    path,
                    "a time is written in Unix milliseconds, or as in 2026-01-31T12:00:00Z",
                ),
            }
        }
        kind => Ok(decode_text(text.as_bytes(), kind, &path)?),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok())
        .collect()
}

/// Unix milliseconds of a date and time with its zone, such as `2018-07-25T10:30:00+02:00`.
fn from_iso_8601(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut parts = date.split('-');
    let number = |text: Option<&str>, length: usize| -> Option<i64> {
        let text = text.filter(|text| text.len() == length)?;
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let year = number(parts.next(), 4)?;
    let month = number(parts.next(), 2).filter(|month| (1..=12).contains(month))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(parts.next(), 2).filter(|day| (1..=longest).contains(day))?;
    let at_zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at_zone);
    let minute_of_day = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let hours = number(Some(hours), 2).filter(|hours| *hours < 24)?;
        let minutes = number(Some(minutes), 2).filter(|minutes| *minutes < 60)?;
        Some(hours * 60 + minutes)
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let minutes = minute_of_day(zone.get(1..)?)?;
            if zone.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    let (minutes, seconds) = (clock.get(..5)?, clock.get(5..)?);
    let (seconds, fraction) = match seconds {
        "" => ("00", ""),
        _ => {
            let seconds = seconds.strip_prefix(':')?;
            seconds.split_once('.').unwrap_or((seconds, ""))
        }
    };
    let seconds = number(Some(seconds), 2).filter(|seconds| *seconds < 60)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || parts.next().is_some() {
        return None;
    }
    // Days since 1970-01-01, counting years from March so that the leap day comes last.
    let (y, m) = (year - i64::from(month <= 2), (month + 9) % 12);
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 153 + 2) / 5 + day
            - 1
            - 719_468;
    Some(((days * 1_440 + minute_of_day(minutes)? - offset) * 60 + seconds) * 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_in_iso_8601() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2018-07-25T10:30+02:00", 1_532_507_400),
            ("2018-07-25T03:30:00.123-05:00", 1_532_507_400),
        ] {
            assert_eq!(from_iso_8601(text), Some(seconds * 1_000), "{text}");
        }
        for text in [
            "",
            "T",
            "2018-07-25",
            "2018-07-25T10:30:00",
            "2018-13-25T10:30:00Z",
            "2018-07-25T24:30:00Z",
            "2018-07-25T10:30:0Z",
            "18-07-25T10:30:00Z",
            "2018-07-25T10:30:00+é",
            "2018-07-25-01T10:30:00Z",
        ] {
            assert_eq!(from_iso_8601(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_a_wrong_date(text in "[0-9TZ:.+-]{0,30}|\\PC{0,30}") {
            let _ = from_iso_8601(&text);
        }
    }
}
