//! Values with times, and values of several paths in one payload: notifications with a history, Send, composite
//! read and write (TS 1.1 core, sections 6.3 and 6.4).

use std::collections::BTreeMap;

use lwm2m_model::{Node, ObjectPath, Registry};

use crate::content::check_fit;
use crate::record::{Builder, Entry, by_time, records};
use crate::{ContentFormat, DecodeError, EncodeError, decode, encode, oma_json, senml};

/// Something with the time its message gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Timestamped<T> {
    /// Seconds, as the payload has them: since 1970-01-01 00:00 UTC, or relative to now
    /// ([`resolve_time`] makes the one of the other). `None` without a time in the payload.
    pub time_s: Option<f64>,
    pub content: T,
}

/// The last second of the year 9999: nothing has been measured later, and calendars end there.
const LAST_TIME_S: f64 = 253_402_300_799.0;

/// Whether a time of a record can be one, before or after now as far as calendars go.
pub(crate) fn is_a_time(time_s: f64) -> bool {
    time_s.abs() <= LAST_TIME_S
}

/// Seconds below 2^28 are relative to now (RFC 8428, section 4.5.3).
pub fn is_relative_time(time_s: f64) -> bool {
    time_s < f64::from(1_u32 << 28)
}

/// The time since 1970, both in seconds, that a [`Timestamped`] with this time has, read at `now_s`.
pub fn resolve_time(time_s: f64, now_s: f64) -> f64 {
    if is_relative_time(time_s) {
        now_s + time_s
    } else {
        time_s
    }
}

/// Reads a payload about `path` as [`decode`] does, but keeps the times: one node for each time, in the order in
/// which they first come. Several values that a path has at one time are kept apart as nodes of the same time.
/// Formats without times give one node.
pub fn decode_timestamped(
    payload: &[u8],
    path: &ObjectPath,
    format: ContentFormat,
    registry: &Registry,
) -> Result<Vec<Timestamped<Node>>, DecodeError> {
    timestamped("/", payload, path, format, registry)
}

pub(crate) fn timestamped(
    root: &str,
    payload: &[u8],
    path: &ObjectPath,
    format: ContentFormat,
    registry: &Registry,
) -> Result<Vec<Timestamped<Node>>, DecodeError> {
    let has_times = format.is_composite() || is_oma_json(format);
    let entries = if has_times {
        entries(root, payload, path, format)?
    } else {
        vec![]
    };
    if entries.is_empty() {
        // Formats without times; and whether nothing at all is something, `decode` knows.
        let content = decode(payload, path, format, registry)?;
        return Ok(vec![Timestamped {
            time_s: None,
            content,
        }]);
    }
    let builder = Builder { registry, format };
    by_time(entries)
        .into_iter()
        .map(|group| {
            Ok(Timestamped {
                time_s: group.time_s,
                content: builder.node(path, group.content)?,
            })
        })
        .collect()
}

/// Writes nodes with their times as a payload about `path`: a notification with its history. Nodes without a time
/// come first in SenML.
pub fn encode_timestamped(
    nodes: &[Timestamped<Node>],
    path: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    if let [
        Timestamped {
            time_s: None,
            content,
        },
    ] = nodes
    {
        return encode(content, path, format);
    }
    if !format.is_composite() && !is_oma_json(format) {
        return Err(EncodeError::NotComposite { format });
    }
    let mut all = Vec::new();
    for node in nodes {
        check_fit(&node.content, path)?;
        all.extend(records("/", &node.content, path, node.time_s)?);
    }
    Ok(if is_oma_json(format) {
        oma_json::write(&all, path)
    } else {
        senml::write(&all, format)
    })
}

/// Reads the values of a composite read's answer, a composite write or a Send: for each time the nodes by path, in
/// the order in which the times first come; several values that a path has at one time are kept apart as groups of
/// the same time.
///
/// `paths` says which nodes: each has the values inside it, and a value inside none of them is an error; a path
/// without values is left out. With no `paths` the nodes are the resources. SenML only.
pub fn decode_nodes(
    payload: &[u8],
    paths: &[ObjectPath],
    format: ContentFormat,
    registry: &Registry,
) -> Result<Vec<Timestamped<BTreeMap<ObjectPath, Node>>>, DecodeError> {
    nodes("/", payload, paths, format, registry)
}

pub(crate) fn nodes(
    root: &str,
    payload: &[u8],
    paths: &[ObjectPath],
    format: ContentFormat,
    registry: &Registry,
) -> Result<Vec<Timestamped<BTreeMap<ObjectPath, Node>>>, DecodeError> {
    if !format.is_composite() {
        return Err(DecodeError::NotComposite { format });
    }
    let builder = Builder { registry, format };
    by_time(senml::entries(root, payload, &ObjectPath::Root, format)?)
        .into_iter()
        .map(|group| {
            let values = group.content;
            let outside = |at: &&ObjectPath| !paths.iter().any(|path| path.contains(at));
            let content = if paths.is_empty() {
                builder.resources(values)?
            } else if let Some(found) = values.keys().find(outside) {
                return Err(DecodeError::NotAskedFor { found: *found });
            } else {
                let mut nodes = BTreeMap::new();
                for path in paths {
                    let inside: BTreeMap<_, _> = values
                        .iter()
                        .filter(|(at, _)| path.contains(at))
                        .map(|(at, datum)| (*at, datum.clone()))
                        .collect();
                    if !inside.is_empty() {
                        nodes.insert(*path, builder.node(path, inside)?);
                    }
                }
                nodes
            };
            Ok(Timestamped {
                time_s: group.time_s,
                content,
            })
        })
        .collect()
}

/// Writes nodes of several paths with their times: a composite write (one group without a time), the answer to
/// a composite read, a Send. SenML only.
pub fn encode_nodes(
    groups: &[Timestamped<BTreeMap<ObjectPath, Node>>],
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    write_nodes("/", groups, format)
}

pub(crate) fn write_nodes(
    root: &str,
    groups: &[Timestamped<BTreeMap<ObjectPath, Node>>],
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    if !format.is_composite() {
        return Err(EncodeError::NotComposite { format });
    }
    let mut all = Vec::new();
    for group in groups {
        for (path, node) in &group.content {
            check_fit(node, path)?;
            all.extend(records(root, node, path, group.time_s)?);
        }
    }
    Ok(senml::write(&all, format))
}

/// Writes the paths that a composite read or observe asks for, as records that have only names. SenML only.
pub fn encode_paths(paths: &[ObjectPath], format: ContentFormat) -> Result<Vec<u8>, EncodeError> {
    write_paths("/", paths, format)
}

pub(crate) fn write_paths(
    root: &str,
    paths: &[ObjectPath],
    format: ContentFormat,
) -> Result<Vec<u8>, EncodeError> {
    if format.is_composite() {
        Ok(senml::write_paths(root, paths, format))
    } else {
        Err(EncodeError::NotComposite { format })
    }
}

/// Reads the paths that a composite read or observe asks for. SenML only.
pub fn decode_paths(payload: &[u8], format: ContentFormat) -> Result<Vec<ObjectPath>, DecodeError> {
    if format.is_composite() {
        senml::paths(payload, format)
    } else {
        Err(DecodeError::NotComposite { format })
    }
}

pub(crate) fn entries(
    root: &str,
    payload: &[u8],
    path: &ObjectPath,
    format: ContentFormat,
) -> Result<Vec<Entry>, DecodeError> {
    if *path == ObjectPath::Root {
        return Err(DecodeError::NoNodeAtPath { path: *path });
    }
    match format {
        ContentFormat::SenmlJson | ContentFormat::SenmlCbor => {
            senml::entries(root, payload, path, format)
        }
        format if is_oma_json(format) => oma_json::entries(payload, path, format),
        _ => Err(DecodeError::Unsupported { format }),
    }
}

fn is_oma_json(format: ContentFormat) -> bool {
    matches!(format, ContentFormat::Json | ContentFormat::OldJson)
}
