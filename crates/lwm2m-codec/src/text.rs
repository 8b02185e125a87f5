//! `text/plain`: one value as text (TS 1.1 core, section 7.4.1 and appendix C).

use base64::Engine;
use lwm2m_model::{ObjectPath, Value, ValueType};

use crate::DecodeError;
use crate::record::BASE64;

/// Writes a value as `text/plain`: numbers in decimal, never with an exponent; booleans as `0` and `1`; opaque
/// values in base64; times as Unix seconds; object links as `3:0`.
pub fn encode_text(value: &Value) -> String {
    match value {
        Value::String(text) | Value::CoreLink(text) => text.clone(),
        Value::Integer(v) | Value::Time(v) => v.to_string(),
        Value::Unsigned(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Boolean(v) => u8::from(*v).to_string(),
        Value::Opaque(bytes) => BASE64.encode(bytes),
        Value::ObjectLink(object, instance) => format!("{object}:{instance}"),
    }
}

/// Reads `text/plain` as a value of this type; `path` is for the error's message. White space around anything
/// but strings is passed over.
pub fn decode_text(
    payload: &[u8],
    kind: ValueType,
    path: &ObjectPath,
) -> Result<Value, DecodeError> {
    let bad = |reason: String| DecodeError::BadValue {
        path: *path,
        expected: kind,
        reason,
    };
    let text = std::str::from_utf8(payload)
        .map_err(|e| bad(format!("it is not UTF-8 from byte {} on", e.valid_up_to())))?;
    let word = text.trim();
    let shown = || word.chars().take(40).collect::<String>();
    let whole = || {
        word.parse::<i64>()
            .map_err(|e| bad(format!("{:?}: {e}", shown())))
    };
    Ok(match kind {
        ValueType::String => Value::String(text.to_owned()),
        ValueType::CoreLink => Value::CoreLink(text.to_owned()),
        ValueType::Integer => Value::Integer(whole()?),
        ValueType::Time => Value::Time(whole()?),
        ValueType::Unsigned => Value::Unsigned(
            word.parse()
                .map_err(|e| bad(format!("{:?}: {e}", shown())))?,
        ),
        ValueType::Float => match word.parse::<f64>() {
            Ok(v) if v.is_finite() && is_decimal(word) => Value::Float(v),
            _ => return Err(bad(format!("{:?} is no decimal number", shown()))),
        },
        ValueType::Boolean => match word {
            "0" => Value::Boolean(false),
            "1" => Value::Boolean(true),
            _ => return Err(bad(format!("{:?} is neither 0 nor 1", shown()))),
        },
        ValueType::Opaque => Value::Opaque(
            BASE64
                .decode(word)
                .map_err(|e| bad(format!("it is not base64: {e}")))?,
        ),
        ValueType::ObjectLink => {
            let ids = word.split_once(':').and_then(|(object, instance)| {
                Some((object.parse().ok()?, instance.parse().ok()?))
            });
            let (object, instance) = ids.ok_or_else(|| {
                bad(format!(
                    "{:?} is not two ids with a colon between, such as 3:0",
                    shown()
                ))
            })?;
            Value::ObjectLink(object, instance)
        }
    })
}

/// Rust reads `inf` and `nan` too, which LwM2M does not know as text.
pub(crate) fn is_decimal(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
}
