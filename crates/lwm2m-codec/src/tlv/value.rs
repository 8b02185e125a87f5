//! Values as bytes (TS 1.1 core, appendix C, table C-1).

use lwm2m_model::{ObjectPath, Value, ValueType};

use crate::DecodeError;

/// Integers take the fewest of 1, 2, 4 or 8 bytes; floats take 8, as Leshan writes them, because a device's
/// reader of doubles need not take the short form.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) | Value::CoreLink(text) => text.as_bytes().to_vec(),
        Value::Integer(v) | Value::Time(v) => signed(*v),
        Value::Unsigned(v) => unsigned(*v),
        Value::Float(v) => v.to_be_bytes().to_vec(),
        Value::Boolean(v) => vec![u8::from(*v)],
        Value::Opaque(bytes) => bytes.clone(),
        Value::ObjectLink(object, instance) => {
            [object.to_be_bytes(), instance.to_be_bytes()].concat()
        }
    }
}

/// Without a type the bytes decide; see [`guess`].
pub(super) fn decode(
    bytes: &[u8],
    kind: Option<ValueType>,
    path: &ObjectPath,
) -> Result<Value, DecodeError> {
    let expected = kind.unwrap_or_else(|| guess(bytes));
    let bad = |reason: String| DecodeError::BadValue {
        path: *path,
        expected,
        reason,
    };
    let length = |allowed: &str| bad(format!("it has {} bytes instead of {allowed}", bytes.len()));
    let text = || match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Err(bad(format!(
            "it is not UTF-8 from byte {} on",
            e.valid_up_to()
        ))),
    };
    let whole = || match *bytes {
        [a] => Ok(i64::from(a as i8)),
        [a, b] => Ok(i64::from(i16::from_be_bytes([a, b]))),
        [a, b, c, d] => Ok(i64::from(i32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(length("1, 2, 4 or 8")),
    };
    Ok(match expected {
        ValueType::String => Value::String(text()?),
        ValueType::CoreLink => Value::CoreLink(text()?),
        ValueType::Opaque => Value::Opaque(bytes.to_vec()),
        ValueType::Integer => Value::Integer(whole()?),
        ValueType::Time => Value::Time(whole()?),
        ValueType::Unsigned => match bytes.len() {
            1 | 2 | 4 | 8 => Value::Unsigned(bytes.iter().fold(0, |n, b| (n << 8) | u64::from(*b))),
            _ => return Err(length("1, 2, 4 or 8")),
        },
        ValueType::Float => match *bytes {
            [a, b, c, d] => Value::Float(f64::from(f32::from_be_bytes([a, b, c, d]))),
            [a, b, c, d, e, f, g, h] => Value::Float(f64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => return Err(length("4 or 8")),
        },
        ValueType::Boolean => match *bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            [other] => return Err(bad(format!("it is {other} instead of 0 or 1"))),
            _ => return Err(length("1")),
        },
        ValueType::ObjectLink => match *bytes {
            [a, b, c, d] => {
                Value::ObjectLink(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            _ => return Err(length("4")),
        },
    })
}

/// The type of a value no model is known for: a string where the bytes are UTF-8 text without control
/// characters (tab and line ends are text), opaque otherwise. Numbers come out opaque, for the most part: nothing in
/// a TLV tells an integer from a float.
fn guess(bytes: &[u8]) -> ValueType {
    match std::str::from_utf8(bytes) {
        Ok(text)
            if !text
                .chars()
                .any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) =>
        {
            ValueType::String
        }
        _ => ValueType::Opaque,
    }
}

/// The one type for all values of a multiple resource no model is known for.
pub(super) fn guess_all<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> ValueType {
    if values.all(|bytes| guess(bytes) == ValueType::String) {
        ValueType::String
    } else {
        ValueType::Opaque
    }
}

fn signed(v: i64) -> Vec<u8> {
    if let Ok(v) = i8::try_from(v) {
        v.to_be_bytes().to_vec()
    } else if let Ok(v) = i16::try_from(v) {
        v.to_be_bytes().to_vec()
    } else if let Ok(v) = i32::try_from(v) {
        v.to_be_bytes().to_vec()
    } else {
        v.to_be_bytes().to_vec()
    }
}

fn unsigned(v: u64) -> Vec<u8> {
    if let Ok(v) = u8::try_from(v) {
        vec![v]
    } else if let Ok(v) = u16::try_from(v) {
        v.to_be_bytes().to_vec()
    } else if let Ok(v) = u32::try_from(v) {
        v.to_be_bytes().to_vec()
    } else {
        v.to_be_bytes().to_vec()
    }
}
