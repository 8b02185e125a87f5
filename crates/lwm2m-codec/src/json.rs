//! JSON as SenML and OMA JSON use it: objects whose members are read one by one, and bounded lists of them.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::cbor::Number;
use crate::{ContentFormat, DecodeError, MAX_ENTRIES};

/// Reads members into itself.
pub(crate) trait Members: Default {
    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// A JSON object.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Members> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<T>(PhantomData<T>);
        impl<'de, T: Members> Visitor<'de> for MembersVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                let mut members = T::default();
                while let Some(name) = map.next_key::<String>()? {
                    members.member(&name, &mut map)?;
                }
                Ok(members)
            }
        }
        deserializer
            .deserialize_map(MembersVisitor(PhantomData))
            .map(Self)
    }
}

/// A list of which no more than [`MAX_ENTRIES`] and one are kept: enough to know that there are too many.
pub(crate) struct List<T>(Boxes<T>);

/// An element takes many times the bytes of its shortest text, so that a small payload would ask for one large
/// piece of memory; boxed it asks for small ones.
#[allow(clippy::vec_box, reason = "no single allocation is to be large")]
pub(crate) type Boxes<T> = Vec<Box<T>>;

impl<T> List<T> {
    pub(crate) fn bounded(self) -> Result<Boxes<T>, DecodeError> {
        if self.0.len() > MAX_ENTRIES {
            Err(DecodeError::TooManyEntries)
        } else {
            Ok(self.0)
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Members> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);
        impl<'de, T: Members> Visitor<'de> for Elements<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while list.len() <= MAX_ENTRIES {
                    match seq.next_element::<Object<T>>()? {
                        Some(Object(element)) => list.push(Box::new(element)),
                        None => return Ok(List(list)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// Reads a whole payload.
pub(crate) fn read<'p, T: Deserialize<'p>>(
    payload: &'p [u8],
    format: ContentFormat,
) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|e| malformed(format, &e.to_string()))
}

/// The reason may quote the payload, so it is cut.
pub(crate) fn malformed(format: ContentFormat, reason: &str) -> DecodeError {
    DecodeError::Malformed {
        format,
        reason: reason.chars().take(160).collect(),
    }
}

/// Sets a member that may be there once.
pub(crate) fn once<T, E: serde::de::Error>(
    slot: &mut Option<T>,
    name: &str,
    value: T,
) -> Result<(), E> {
    match slot.replace(value) {
        Some(_) => Err(E::custom(format_args!("{name} stands twice in one object"))),
        None => Ok(()),
    }
}

/// A number: whole ones keep all their digits up to 64 bits.
pub(crate) fn number<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Number, A::Error> {
    let number: serde_json::Number = map.next_value()?;
    if let Some(v) = number.as_i64() {
        return Ok(Number::Whole(v.into()));
    }
    if let Some(v) = number.as_u64() {
        return Ok(Number::Whole(v.into()));
    }
    match number.as_f64() {
        Some(v) if v.is_finite() => Ok(Number::Real(v)),
        _ => Err(serde::de::Error::custom("a number is not finite")),
    }
}

/// A string as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
