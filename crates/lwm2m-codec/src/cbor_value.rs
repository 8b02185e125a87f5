//! `application/cbor`: one value (TS 1.1 core, section 7.4 and appendix C).

use lwm2m_model::{ObjectPath, Value, ValueType};

use crate::cbor::{Reader, Writer};
use crate::json::malformed;
use crate::record::Datum;
use crate::{ContentFormat, DecodeError, EncodeError};

pub(crate) fn encode(value: &Value, path: &ObjectPath) -> Result<Vec<u8>, EncodeError> {
    if matches!(value, Value::Float(v) if !v.is_finite()) {
        return Err(EncodeError::NotFinite { path: *path });
    }
    let mut writer = Writer::default();
    write(&mut writer, value);
    Ok(writer.finish())
}

pub(crate) fn write(writer: &mut Writer, value: &Value) {
    match value {
        Value::String(text) | Value::CoreLink(text) => writer.text(text),
        Value::Integer(v) => writer.signed(*v),
        Value::Unsigned(v) => writer.unsigned(*v),
        Value::Float(v) => writer.float(*v),
        Value::Boolean(v) => writer.bool(*v),
        Value::Opaque(bytes) => writer.bytes(bytes),
        Value::Time(v) => writer.epoch(*v),
        Value::ObjectLink(object, instance) => writer.text(&format!("{object}:{instance}")),
    }
}

/// Without a type the item decides: floats are floats, whole numbers integers, a number under tag 1 is a time.
pub(crate) fn decode(
    payload: &[u8],
    kind: Option<ValueType>,
    path: &ObjectPath,
) -> Result<Value, DecodeError> {
    let format = ContentFormat::Cbor;
    let mut reader = Reader::new(payload);
    let item = reader.item().map_err(|e| malformed(format, &e))?;
    reader.end().map_err(|e| malformed(format, &e))?;
    Datum::from(item).into_value(kind, path, format)
}
