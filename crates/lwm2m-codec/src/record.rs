//! What SenML and OMA JSON share: named values with times, resolved and put together to nodes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use lwm2m_model::{
    InstanceNode, Node, ObjectNode, ObjectPath, Registry, ResourceContent, ResourceNode, Value,
    ValueType,
};

use crate::cbor::{Item, Number};
use crate::{ContentFormat, DecodeError, EncodeError, NewInstance, Timestamped};

/// The longest base name and name together, in bytes. The longest path has 24.
const MAX_NAME: usize = 64;

/// Either alphabet is written as its format wants it, and read with and without padding.
pub(crate) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A value as the payload has it, before its resource's type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Number(Number),
    /// Tag 1 in CBOR.
    Epoch(Number),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    /// `vlo` and `ov`: two ids with a colon between.
    Link(String),
}

impl From<Item> for Datum {
    fn from(item: Item) -> Self {
        match item {
            Item::Number(number) => Self::Number(number),
            Item::Epoch(number) => Self::Epoch(number),
            Item::Bool(v) => Self::Bool(v),
            Item::Text(text) => Self::Text(text),
            Item::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl Datum {
    fn name(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Epoch(_) => "a time",
            Self::Bool(_) => "a boolean",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "opaque",
            Self::Link(_) => "an object link",
        }
    }

    /// The type of a value no model is known for. Numbers written whole are integers (unsigned beyond
    /// 2^63 - 1), those with a fraction or an exponent, and CBOR's floats, are floats.
    fn guess(&self) -> ValueType {
        match self {
            Self::Number(Number::Whole(v)) if *v > i128::from(i64::MAX) => ValueType::Unsigned,
            Self::Number(Number::Whole(_)) => ValueType::Integer,
            Self::Number(Number::Real(_)) => ValueType::Float,
            Self::Epoch(_) => ValueType::Time,
            Self::Bool(_) => ValueType::Boolean,
            Self::Text(_) => ValueType::String,
            Self::Bytes(_) => ValueType::Opaque,
            Self::Link(_) => ValueType::ObjectLink,
        }
    }

    pub(crate) fn into_value(
        self,
        kind: Option<ValueType>,
        path: &ObjectPath,
        format: ContentFormat,
    ) -> Result<Value, DecodeError> {
        let expected = kind.unwrap_or_else(|| self.guess());
        let bad = |reason: String| DecodeError::BadValue {
            path: *path,
            expected,
            reason,
        };
        let found = self.name();
        let whole = |number: Number| match number {
            Number::Whole(v) => Ok(v),
            // Up to 2^53 every whole number is a double, so that none is a neighbour's rounding.
            Number::Real(v) if v.fract() == 0.0 && v.abs() <= (1_u64 << 53) as f64 => Ok(v as i128),
            Number::Real(v) => Err(bad(format!("{v} is no whole number"))),
        };
        let signed = |number: Number| {
            let v = whole(number)?;
            i64::try_from(v).map_err(|_| bad(format!("{v} is beyond 64 bits")))
        };
        Ok(match (expected, self) {
            (ValueType::Integer, Self::Number(number)) => Value::Integer(signed(number)?),
            (ValueType::Time, Self::Number(number) | Self::Epoch(number)) => {
                Value::Time(signed(number)?)
            }
            (ValueType::Unsigned, Self::Number(number)) => {
                let v = whole(number)?;
                Value::Unsigned(
                    u64::try_from(v)
                        .map_err(|_| bad(format!("{v} is negative or beyond 64 bits")))?,
                )
            }
            (ValueType::Float, Self::Number(number)) => Value::Float(number.to_f64()),
            (ValueType::Boolean, Self::Bool(v)) => Value::Boolean(v),
            (ValueType::String, Self::Text(text)) => Value::String(text),
            (ValueType::CoreLink, Self::Text(text)) => Value::CoreLink(text),
            (ValueType::Opaque, Self::Bytes(bytes)) => Value::Opaque(bytes),
            // OMA JSON has no member of its own for bytes (TS 1.0.2, table in section 6.4.4).
            (ValueType::Opaque, Self::Text(text))
                if matches!(format, ContentFormat::Json | ContentFormat::OldJson) =>
            {
                Value::Opaque(
                    BASE64
                        .decode(text)
                        .map_err(|e| bad(format!("it is not base64: {e}")))?,
                )
            }
            (ValueType::ObjectLink, Self::Link(text) | Self::Text(text)) => {
                crate::decode_text(text.as_bytes(), ValueType::ObjectLink, path)?
            }
            _ => return Err(bad(format!("it is {found}"))),
        })
    }
}

/// The one type of all values of a multiple resource no model is known for.
fn guess_all(values: &[(ObjectPath, Datum)]) -> ValueType {
    let kinds = || values.iter().map(|(_, datum)| datum.guess());
    let first = kinds().next().unwrap_or(ValueType::String);
    if kinds().all(|kind| kind == first) {
        return first;
    }
    let non_negative = |(_, datum): &(ObjectPath, Datum)| matches!(datum, Datum::Number(Number::Whole(v)) if *v >= 0);
    if values.iter().all(non_negative) {
        ValueType::Unsigned
    } else if kinds().all(|kind| {
        matches!(
            kind,
            ValueType::Integer | ValueType::Unsigned | ValueType::Float
        )
    }) {
        ValueType::Float
    } else {
        first
    }
}

/// A value with its place and its time in seconds: since 1970, or relative to now below 2^28.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: ObjectPath,
    pub(crate) time_s: Option<f64>,
    pub(crate) datum: Datum,
}

/// Puts base name and name together to a path inside `request` that has a value.
///
/// SenML joins the two as they are (RFC 8428, section 4.5.1). Where that gives no path of a value inside the request,
/// a slash that was left out between them is added.
pub(crate) fn value_path(
    base: &str,
    name: &str,
    request: &ObjectPath,
) -> Result<ObjectPath, DecodeError> {
    let bad = || DecodeError::BadName {
        name: base.chars().chain(name.chars()).take(MAX_NAME).collect(),
    };
    if base.len() + name.len() > MAX_NAME {
        return Err(bad());
    }
    let joined = format!("{base}{name}");
    let parse = |text: &str| -> Option<ObjectPath> {
        // `/3/00/1` comes from a slash left out, and is no path.
        let padded = text
            .split('/')
            .any(|part| part.len() > 1 && part.starts_with('0'));
        let path: ObjectPath = text.parse().ok().filter(|_| !padded)?;
        (path.depth() >= 3).then_some(path)
    };
    let direct = parse(&joined);
    if let Some(path) = direct.filter(|path| request.contains(path)) {
        return Ok(path);
    }
    if !base.is_empty() && !base.ends_with('/') && !name.is_empty() && !name.starts_with('/') {
        let with_slash = parse(&format!("{base}/{name}"));
        if let Some(path) = with_slash.filter(|path| request.contains(path)) {
            return Ok(path);
        }
    }
    match direct {
        Some(found) => Err(DecodeError::OutsidePath {
            found,
            path: *request,
        }),
        None => Err(bad()),
    }
}

type Values = BTreeMap<ObjectPath, Datum>;

/// The newest value of each path. What has no time is from now, and so is newer than what has one.
pub(crate) fn newest(entries: Vec<Entry>) -> Result<Values, DecodeError> {
    let mut newest: BTreeMap<ObjectPath, Entry> = BTreeMap::new();
    for entry in entries {
        if let Some(known) = newest.get(&entry.path) {
            match order(known.time_s).partial_cmp(&order(entry.time_s)) {
                Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Greater) => continue,
                _ => return Err(DecodeError::Duplicate { path: entry.path }),
            }
        }
        newest.insert(entry.path, entry);
    }
    Ok(newest
        .into_iter()
        .map(|(path, entry)| (path, entry.datum))
        .collect())
}

/// Times since 1970 come before those relative to now.
fn order(time_s: Option<f64>) -> (bool, f64) {
    let time_s = time_s.unwrap_or(0.0);
    (crate::is_relative_time(time_s), time_s)
}

/// Groups by time, in the order in which the times come. A path that has several values at one time gets as
/// many groups of that time.
pub(crate) fn by_time(entries: Vec<Entry>) -> Vec<Timestamped<Values>> {
    let key = |time_s: Option<f64>| time_s.map(|t| (t + 0.0).to_bits());
    let mut seen: BTreeMap<(Option<u64>, ObjectPath), usize> = BTreeMap::new();
    let mut places: BTreeMap<(Option<u64>, usize), usize> = BTreeMap::new();
    let mut groups: Vec<Timestamped<Values>> = Vec::new();
    for entry in entries {
        let time = key(entry.time_s);
        let nth = seen.entry((time, entry.path)).or_default();
        let place = *places.entry((time, *nth)).or_insert_with(|| {
            groups.push(Timestamped {
                time_s: entry.time_s,
                content: Values::new(),
            });
            groups.len() - 1
        });
        *nth += 1;
        groups[place].content.insert(entry.path, entry.datum);
    }
    groups
}

/// Puts values together to nodes.
#[derive(Clone, Copy)]
pub(crate) struct Builder<'r> {
    pub(crate) registry: &'r Registry,
    pub(crate) format: ContentFormat,
}

impl Builder<'_> {
    /// The node at `path` from values that all lie inside it.
    pub(crate) fn node(&self, path: &ObjectPath, values: Values) -> Result<Node, DecodeError> {
        match *path {
            ObjectPath::Root => Err(DecodeError::NoNodeAtPath { path: *path }),
            ObjectPath::Object(id) => Ok(Node::Object(ObjectNode {
                id,
                instances: self.instances(values)?,
            })),
            ObjectPath::Instance(_, id) => {
                let instance = self.instances(values)?.remove(&id);
                Ok(Node::Instance(instance.unwrap_or(InstanceNode {
                    id,
                    resources: BTreeMap::new(),
                })))
            }
            ObjectPath::Resource(_, _, id) => {
                let multiple = self
                    .registry
                    .resource(path)
                    .is_some_and(|model| model.multiple);
                if values.is_empty() && !multiple {
                    return Err(DecodeError::Missing { path: *path });
                }
                let content = self.content(path, values.into_iter().collect())?;
                Ok(Node::Resource(ResourceNode { id, content }))
            }
            ObjectPath::ResourceInstance(_, _, _, id) => {
                let Some((_, datum)) = values.into_iter().next() else {
                    return Err(DecodeError::Missing { path: *path });
                };
                let value = datum.into_value(self.type_at(path), path, self.format)?;
                Ok(Node::ResourceInstance { id, value })
            }
        }
    }

    /// Each resource by its path.
    pub(crate) fn resources(
        &self,
        values: Values,
    ) -> Result<BTreeMap<ObjectPath, Node>, DecodeError> {
        by_resource(values)
            .into_iter()
            .map(|(path, values)| {
                let id = path.resource_id().unwrap_or_default();
                let content = self.content(&path, values)?;
                Ok((path, Node::Resource(ResourceNode { id, content })))
            })
            .collect()
    }

    /// The one instance of a create.
    pub(crate) fn new_instance(&self, values: Values) -> Result<NewInstance, DecodeError> {
        let mut instances = self.instances(values)?;
        let found = instances.len();
        match instances.pop_first() {
            None => Ok(NewInstance {
                id: None,
                resources: BTreeMap::new(),
            }),
            Some((id, instance)) if found == 1 => Ok(NewInstance {
                id: Some(id),
                resources: instance.resources,
            }),
            Some(_) => Err(DecodeError::NotOneInstance { found }),
        }
    }

    fn instances(&self, values: Values) -> Result<BTreeMap<u16, InstanceNode>, DecodeError> {
        let mut instances: BTreeMap<u16, InstanceNode> = BTreeMap::new();
        for (path, values) in by_resource(values) {
            let id = path.resource_id().unwrap_or_default();
            let content = self.content(&path, values)?;
            let of = path.instance_id().unwrap_or_default();
            let instance = instances.entry(of).or_insert_with(|| InstanceNode {
                id: of,
                resources: BTreeMap::new(),
            });
            instance.resources.insert(id, ResourceNode { id, content });
        }
        Ok(instances)
    }

    /// A value at the resource's own path is its only one; values below it are its instances.
    fn content(
        &self,
        path: &ObjectPath,
        mut values: Vec<(ObjectPath, Datum)>,
    ) -> Result<ResourceContent, DecodeError> {
        let known = self.type_at(path);
        let own = values.iter().any(|(at, _)| at == path);
        if own && values.len() > 1 {
            return Err(DecodeError::SingleAndMultiple { path: *path });
        }
        if own && let Some((_, datum)) = values.pop() {
            return Ok(ResourceContent::Single(datum.into_value(
                known,
                path,
                self.format,
            )?));
        }
        let kind = known.unwrap_or_else(|| guess_all(&values));
        let instances = values
            .into_iter()
            .map(|(at, datum)| {
                let id = at.resource_instance_id().unwrap_or_default();
                Ok((id, datum.into_value(Some(kind), &at, self.format)?))
            })
            .collect::<Result<_, DecodeError>>()?;
        Ok(ResourceContent::Multiple { kind, instances })
    }

    fn type_at(&self, path: &ObjectPath) -> Option<ValueType> {
        self.registry
            .resource(path)
            .and_then(|model| model.value_type)
    }
}

fn by_resource(values: Values) -> BTreeMap<ObjectPath, Vec<(ObjectPath, Datum)>> {
    let mut resources: BTreeMap<ObjectPath, Vec<(ObjectPath, Datum)>> = BTreeMap::new();
    for (path, datum) in values {
        let resource = match path {
            ObjectPath::ResourceInstance(object, instance, id, _) => {
                ObjectPath::Resource(object, instance, id)
            }
            other => other,
        };
        resources.entry(resource).or_default().push((path, datum));
    }
    resources
}

/// What a device whose tree hangs at `root` writes before every path: nothing for `/`.
pub(crate) fn prefix(root: &str) -> &str {
    root.trim_end_matches('/')
}

/// A base name and a name without the root before them, which a device may leave out.
pub(crate) fn below<'a>(root: &str, base: &'a str, name: &'a str) -> (&'a str, &'a str) {
    let strip = |text: &'a str| {
        let rest = text.strip_prefix(prefix(root))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    };
    match (strip(base), base.is_empty()) {
        (Some(base), false) => (base, name),
        (_, true) => (base, strip(name).unwrap_or(name)),
        (None, false) => (base, name),
    }
}

/// A value to write, its path split into a base name and the rest.
pub(crate) struct Record<'n> {
    pub(crate) base: String,
    pub(crate) name: String,
    pub(crate) value: &'n Value,
    pub(crate) time_s: Option<f64>,
}

/// The records of one node. A value at the request's path stands under the path itself as base name; those
/// below have the path with a slash as base name.
pub(crate) fn records<'n>(
    root: &str,
    node: &'n Node,
    path: &ObjectPath,
    time_s: Option<f64>,
) -> Result<Vec<Record<'n>>, EncodeError> {
    // What `values` expects for an instance written at its object's path is the instance's own.
    let own = match (node, *path) {
        (Node::Instance(instance), ObjectPath::Object(object)) => {
            ObjectPath::Instance(object, instance.id)
        }
        _ => *path,
    };
    let values = node.values(&own);
    let mut records = Vec::with_capacity(values.len());
    for (at, value) in values {
        let is_nan_or_infinite = matches!(value, Value::Float(v) if !v.is_finite());
        if is_nan_or_infinite || time_s.is_some_and(|t| !t.is_finite()) {
            return Err(EncodeError::NotFinite { path: at });
        }
        let base = base_name(path, &at);
        let name = at.to_string().split_off(base.len());
        records.push(Record {
            base: format!("{}{base}", prefix(root)),
            name,
            value,
            time_s,
        });
    }
    Ok(records)
}

pub(crate) fn base_name(path: &ObjectPath, value: &ObjectPath) -> String {
    match path {
        ObjectPath::Root => "/".to_owned(),
        path if path == value => path.to_string(),
        path => format!("{path}/"),
    }
}

/// The shortest text of a number of seconds that reads back the same: no fraction when there is none.
pub(crate) fn seconds_text(time_s: f64) -> String {
    match whole_seconds(time_s) {
        Some(v) => v.to_string(),
        None => time_s.to_string(),
    }
}

/// Seconds without a fraction, as far as doubles have all whole numbers.
pub(crate) fn whole_seconds(time_s: f64) -> Option<i64> {
    (time_s.fract() == 0.0 && time_s.abs() <= (1_u64 << 53) as f64).then_some(time_s as i64)
}

/// A finite float as JSON: with a fraction or an exponent, so that it reads back as a float.
pub(crate) fn float_text(v: f64) -> String {
    // Debug's shortest text that reads back the same is JSON: `100.0`, `1e21`, `1e-7`.
    format!("{v:?}")
}
