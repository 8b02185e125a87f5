//! SenML (RFC 8428) as LwM2M uses it (TS 1.1 core, section 7.4): what JSON and CBOR share.

mod cbor;
mod json;

use lwm2m_model::ObjectPath;

use crate::cbor::Number;
use crate::composite::is_a_time;
use crate::json::Boxes;
use crate::record::{Datum, Entry, Record, below, prefix, value_path};
use crate::{ContentFormat, DecodeError};

/// The version of RFC 8428, and the one a pack has that names none.
const VERSION: f64 = 10.0;

/// A record as it stands in the payload. Units, sums and update times are passed over: LwM2M has no use for them.
#[derive(Debug, Default)]
struct Raw {
    base_name: Option<String>,
    base_time: Option<Number>,
    base_value: Option<Number>,
    base_version: Option<Number>,
    name: Option<String>,
    time: Option<Number>,
    value: Option<Datum>,
}

/// What base fields say from their record on (RFC 8428, section 4.1).
#[derive(Default)]
struct Bases {
    name: String,
    time: Option<f64>,
    value: Option<Number>,
}

impl Bases {
    fn take(&mut self, raw: &mut Raw) -> Result<(), DecodeError> {
        if let Some(version) = raw.base_version.map(Number::to_f64)
            && version > VERSION
        {
            let version = version.to_string().chars().take(24).collect();
            return Err(DecodeError::UnsupportedVersion { version });
        }
        if let Some(name) = raw.base_name.take() {
            self.name = name;
        }
        self.time = raw.base_time.map(Number::to_f64).or(self.time);
        self.value = raw.base_value.or(self.value);
        Ok(())
    }
}

/// The values of a pack, all of which must lie inside `request`.
pub(crate) fn entries(
    root: &str,
    payload: &[u8],
    request: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<Entry>, DecodeError> {
    let mut bases = Bases::default();
    let mut entries = Vec::new();
    for (index, mut raw) in read(payload, format)?.into_iter().enumerate() {
        let only_bases = raw.name.is_none() && raw.time.is_none();
        let has_bases = raw.base_name.is_some()
            || raw.base_time.is_some()
            || raw.base_value.is_some()
            || raw.base_version.is_some();
        bases.take(&mut raw)?;
        let datum = match raw.value.take() {
            Some(Datum::Number(v)) => Datum::Number(sum(bases.value, v, format)?),
            Some(datum) => datum,
            None if only_bases && has_bases => continue,
            None => {
                let reason = format!("record {index} has no value");
                return Err(DecodeError::Malformed { format, reason });
            }
        };
        let name = raw.name.take().unwrap_or_default();
        let time_s = match (bases.time, raw.time.map(Number::to_f64)) {
            (None, None) => None,
            (base, time) => Some(base.unwrap_or(0.0) + time.unwrap_or(0.0)),
        };
        if time_s.is_some_and(|t| !is_a_time(t)) {
            let reason = format!("the time of record {index} is in no calendar");
            return Err(DecodeError::Malformed { format, reason });
        }
        let (base, name) = below(root, &bases.name, &name);
        entries.push(Entry {
            path: value_path(base, name, request)?,
            time_s,
            datum,
        });
    }
    Ok(entries)
}

/// The names of a pack without values: what a composite read asks for.
pub(crate) fn paths(payload: &[u8], format: ContentFormat) -> Result<Vec<ObjectPath>, DecodeError> {
    let mut bases = Bases::default();
    let mut paths = Vec::new();
    for mut raw in read(payload, format)? {
        bases.take(&mut raw)?;
        let name = format!("{}{}", bases.name, raw.name.take().unwrap_or_default());
        let path = name.parse().map_err(|_| DecodeError::BadName {
            name: name.chars().take(64).collect(),
        })?;
        paths.push(path);
    }
    Ok(paths)
}

pub(crate) fn write(records: &[Record<'_>], format: ContentFormat) -> Vec<u8> {
    if is_cbor(format) {
        cbor::write(records)
    } else {
        json::write(records)
    }
}

pub(crate) fn write_paths(root: &str, paths: &[ObjectPath], format: ContentFormat) -> Vec<u8> {
    let name = |path: &ObjectPath| match (prefix(root), path) {
        ("", path) => path.to_string(),
        (root, ObjectPath::Root) => root.to_owned(),
        (root, path) => format!("{root}{path}"),
    };
    let names: Vec<String> = paths.iter().map(name).collect();
    if is_cbor(format) {
        cbor::write_names(&names)
    } else {
        json::write_names(&names)
    }
}

fn read(payload: &[u8], format: ContentFormat) -> Result<Boxes<Raw>, DecodeError> {
    if is_cbor(format) {
        cbor::read(payload, format)
    } else {
        json::read(payload, format)
    }
}

fn is_cbor(format: ContentFormat) -> bool {
    matches!(
        format,
        ContentFormat::SenmlCbor | ContentFormat::SenmlEtchCbor
    )
}

fn sum(base: Option<Number>, v: Number, format: ContentFormat) -> Result<Number, DecodeError> {
    let sum = match (base, v) {
        (None, v) => return Ok(v),
        (Some(Number::Whole(a)), Number::Whole(b)) => a.checked_add(b).map(Number::Whole),
        (Some(a), b) => Some(a.to_f64() + b.to_f64())
            .filter(|sum| sum.is_finite())
            .map(Number::Real),
    };
    sum.ok_or_else(|| DecodeError::Malformed {
        format,
        reason: "a base value and a value are too large together".to_owned(),
    })
}

/// A record with the base fields that change at it.
struct Line<'a, 'n> {
    base_name: Option<&'a str>,
    base_time: Option<f64>,
    record: &'a Record<'n>,
}

/// Base fields hold until the next, so those without a time, who must not get another's, come first.
fn lines<'a, 'n>(records: &'a [Record<'n>]) -> Vec<Line<'a, 'n>> {
    let mut ordered: Vec<&Record<'_>> = records.iter().collect();
    ordered.sort_by_key(|record| record.time_s.is_some());
    let (mut last_base, mut last_time) = ("", None);
    let mut lines = Vec::with_capacity(ordered.len());
    for record in ordered {
        lines.push(Line {
            base_name: (record.base != last_base).then_some(record.base.as_str()),
            base_time: record.time_s.filter(|_| record.time_s != last_time),
            record,
        });
        (last_base, last_time) = (&record.base, record.time_s);
    }
    lines
}
