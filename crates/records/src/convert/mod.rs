//! Records' values ⇄ the model's (contract, sections 3, 4 and 6).
//!
//! | model | `AvroType` | branch |
//! |---|---|---|
//! | String, CoreLink | STRING | string |
//! | Integer | INTEGER | long |
//! | Unsigned | INTEGER; STRING above `i64::MAX` | long; string, in decimal |
//! | Float | FLOAT | double |
//! | Boolean | BOOLEAN | boolean |
//! | Opaque | OPAQUE | string, base64 |
//! | Time (seconds) | TIME | long, milliseconds |
//! | ObjectLink | OBJLNK | string, `3:0` |
//!
//! A multiple resource is an `AvroMultipleResource` whose map goes by the resource instances' ids; each entry is an
//! `AvroResource` of kind SINGLE_RESOURCE with the resource instance's id and path (`/3/0/7/1`).

mod flatten;
mod nodes;

pub use flatten::{Reading, ReadingValue, flatten};
pub use nodes::{NewInstance, content_from_node, new_instance, node_from_content, node_from_write};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use lwm2m_model::{MAX_ID, ObjectPath, Value, ValueType};
use thiserror::Error;

use crate::record::{AvroContentFormat, ResourceType, ResourceValue};

/// The ticket of records no request asked for.
pub const UNSET_TICKET: &str = "unset";

/// Written with padding, as Java's encoder does; read with or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a record's values are none of the model's, or do not belong where they are to go.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConvertError {
    #[error("{id} is no LwM2M id: ids go from 0 to {MAX_ID}")]
    BadId { id: i64 },
    #[error("the id {id} stands twice at {path}")]
    TwiceTheSameId { id: u16, path: ObjectPath },
    #[error("{what} can't stand at {path}")]
    WrongPlace {
        what: &'static str,
        path: ObjectPath,
    },
    #[error("the {what} has the id {id}, which is not the one of {path}")]
    WrongId {
        what: &'static str,
        id: u16,
        path: ObjectPath,
    },
    #[error("a value of type {given} can't be a {branch}")]
    WrongBranch {
        given: ResourceType,
        branch: &'static str,
    },
    #[error("{given} was given, {wanted} is wanted")]
    WrongType { given: ValueType, wanted: ValueType },
    #[error("an OPAQUE value has to be base64 text")]
    BadBase64,
    #[error("an OBJLNK value has to be two ids with a colon, such as 3:0")]
    BadObjectLink,
    #[error("the value at {path}: {reason}")]
    At {
        path: ObjectPath,
        reason: Box<ConvertError>,
    },
}

/// The record's form of a value. A time whose milliseconds no `i64` holds is the nearest one it does.
pub fn value_from_model(value: &Value) -> (ResourceType, ResourceValue) {
    match value {
        Value::String(text) | Value::CoreLink(text) => {
            (ResourceType::String, ResourceValue::String(text.clone()))
        }
        Value::Integer(v) => (ResourceType::Integer, ResourceValue::Long(*v)),
        Value::Unsigned(v) => match i64::try_from(*v) {
            Ok(v) => (ResourceType::Integer, ResourceValue::Long(v)),
            Err(_) => (ResourceType::String, ResourceValue::String(v.to_string())),
        },
        Value::Float(v) => (ResourceType::Float, ResourceValue::Double(*v)),
        Value::Boolean(v) => (ResourceType::Boolean, ResourceValue::Boolean(*v)),
        Value::Opaque(bytes) => (
            ResourceType::Opaque,
            ResourceValue::String(BASE64.encode(bytes)),
        ),
        Value::Time(seconds) => (
            ResourceType::Time,
            ResourceValue::Long(seconds.saturating_mul(1000)),
        ),
        Value::ObjectLink(object, instance) => (
            ResourceType::ObjectLink,
            ResourceValue::String(format!("{object}:{instance}")),
        ),
    }
}

/// The model's form of a value, as the type `wanted` where the object's model names one.
///
/// Operators write requests by hand, so a number may stand in the other number's branch as long as nothing is lost,
/// and STRING and INTEGER become the LwM2M 1.1 types they stand for. Milliseconds of a time are rounded down to seconds.
pub fn value_to_model(
    given: ResourceType,
    value: &ResourceValue,
    wanted: Option<ValueType>,
) -> Result<Value, ConvertError> {
    let value = match (given, value) {
        (ResourceType::String, ResourceValue::String(text)) => Value::String(text.clone()),
        (ResourceType::Integer, ResourceValue::Long(v)) => Value::Integer(*v),
        (ResourceType::Integer, ResourceValue::Double(v)) if integral(*v).is_some() => {
            Value::Integer(integral(*v).unwrap_or_default())
        }
        (ResourceType::Float, ResourceValue::Double(v)) => Value::Float(*v),
        (ResourceType::Float, ResourceValue::Long(v)) => Value::Float(*v as f64),
        (ResourceType::Boolean, ResourceValue::Boolean(v)) => Value::Boolean(*v),
        (ResourceType::Opaque, ResourceValue::String(text)) => {
            Value::Opaque(BASE64.decode(text).map_err(|_| ConvertError::BadBase64)?)
        }
        (ResourceType::Time, ResourceValue::Long(ms)) => Value::Time(ms.div_euclid(1000)),
        (ResourceType::ObjectLink, ResourceValue::String(text)) => {
            let ids = text
                .split_once(':')
                .and_then(|(o, i)| Some((o.parse().ok()?, i.parse().ok()?)));
            let (object, instance) = ids.ok_or(ConvertError::BadObjectLink)?;
            Value::ObjectLink(object, instance)
        }
        (given, value) => {
            return Err(ConvertError::WrongBranch {
                given,
                branch: branch_name(value),
            });
        }
    };
    let Some(wanted) = wanted.filter(|w| *w != value.value_type()) else {
        return Ok(value);
    };
    let given = value.value_type();
    match (value, wanted) {
        (Value::Integer(v), ValueType::Unsigned) => u64::try_from(v).ok().map(Value::Unsigned),
        (Value::String(text), ValueType::Unsigned) => text.parse().ok().map(Value::Unsigned),
        (Value::String(text), ValueType::CoreLink) => Some(Value::CoreLink(text)),
        (Value::Integer(v), ValueType::Float) => Some(Value::Float(v as f64)),
        (Value::Float(v), ValueType::Integer) => integral(v).map(Value::Integer),
        (Value::Float(v), ValueType::Unsigned) => integral(v)
            .and_then(|v| u64::try_from(v).ok())
            .map(Value::Unsigned),
        _ => None,
    }
    .ok_or(ConvertError::WrongType { given, wanted })
}

impl AvroContentFormat {
    /// The format's number in CoAP's content-format registry; for TLV and JSON OMA's own, not Leshan's provisional ones.
    pub fn coap_id(self) -> u16 {
        match self {
            Self::Tlv => 11542,
            Self::Json => 11543,
            Self::Text => 0,
            Self::Opaque => 42,
            Self::Link => 40,
        }
    }

    /// The format of this number, the provisional 1541 (text), 1542 (TLV), 1543 (JSON) and 1544 (opaque) included;
    /// `None` for formats the records have no name for.
    pub fn from_coap_id(id: u16) -> Option<Self> {
        Some(match id {
            11542 | 1542 => Self::Tlv,
            11543 | 1543 => Self::Json,
            0 | 1541 => Self::Text,
            42 | 1544 => Self::Opaque,
            40 => Self::Link,
            _ => return None,
        })
    }

    /// The format by the name REST calls and command lines use: `TLV`, `JSON`, `TEXT`, `OPAQUE`, `LINK`, with or without
    /// the records' `_CODE`, in any case.
    pub fn from_short_name(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_uppercase();
        Self::ALL
            .iter()
            .copied()
            .find(|f| f.name().trim_end_matches("_CODE") == name.trim_end_matches("_CODE"))
    }
}

impl From<ValueType> for ResourceType {
    fn from(kind: ValueType) -> Self {
        match kind {
            ValueType::String | ValueType::CoreLink => Self::String,
            ValueType::Integer | ValueType::Unsigned => Self::Integer,
            ValueType::Float => Self::Float,
            ValueType::Boolean => Self::Boolean,
            ValueType::Opaque => Self::Opaque,
            ValueType::Time => Self::Time,
            ValueType::ObjectLink => Self::ObjectLink,
        }
    }
}

impl From<ResourceType> for ValueType {
    fn from(kind: ResourceType) -> Self {
        match kind {
            ResourceType::String => Self::String,
            ResourceType::Integer => Self::Integer,
            ResourceType::Float => Self::Float,
            ResourceType::Boolean => Self::Boolean,
            ResourceType::Opaque => Self::Opaque,
            ResourceType::Time => Self::Time,
            ResourceType::ObjectLink => Self::ObjectLink,
        }
    }
}

fn integral(value: f64) -> Option<i64> {
    // 2^63 itself is no i64, and -2^63 is.
    let limit = 9_223_372_036_854_775_808.0;
    (value.fract() == 0.0 && (-limit..limit).contains(&value)).then_some(value as i64)
}

fn branch_name(value: &ResourceValue) -> &'static str {
    match value {
        ResourceValue::String(_) => "string",
        ResourceValue::Double(_) => "double",
        ResourceValue::Long(_) => "long",
        ResourceValue::Boolean(_) => "boolean",
    }
}
