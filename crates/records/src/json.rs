//! Avro's JSON encoding (Avro specification, "JSON Encoding"), both ways, for any schema.
//!
//! A union's value is tagged with its type's full name, `{"string": "a"}`, null stands alone; bytes are text of the
//! characters 0 to 255. Beyond the specification, NaN and the infinities are the strings `"NaN"`, `"Infinity"` and
//! `"-Infinity"`, as Java's encoder writes them, and a field that has a default may be left out.

use std::fmt::{self, Write};

use serde_json::Value;
use thiserror::Error;

use crate::graph::{Field, Graph, Type, TypeId};
use crate::schema::Schema;
use crate::wire::{Cursor, DecodeError, MAX_DEPTH, put_bytes, put_len, put_long};

/// Why JSON does not say what the schema wants.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {problem}", if path.is_empty() { "the record" } else { path.as_str() })]
pub struct JsonError {
    /// Where, such as `payload.body.mode`; empty for the whole.
    pub path: String,
    pub problem: String,
}

/// A datum in Avro's JSON encoding. JSON objects may come back in another order than the schema's: where people
/// read it, use [`to_avro_json_text`].
pub fn to_avro_json(datum: &[u8], schema: &Schema) -> Result<Value, DecodeError> {
    let text = to_avro_json_text(datum, schema)?;
    // MAX_DEPTH keeps below serde_json's own limit of 128 levels, also with a tag at each.
    Ok(serde_json::from_str(&text).expect("what was written is JSON"))
}

/// A datum in Avro's JSON encoding as one line of text, fields in the schema's order.
pub fn to_avro_json_text(datum: &[u8], schema: &Schema) -> Result<String, DecodeError> {
    let mut cursor = Cursor::new(datum);
    let mut out = String::with_capacity(datum.len() * 2);
    decode(
        schema.graph(),
        schema.graph().root(),
        &mut cursor,
        &mut out,
        0,
    )?;
    cursor.finish()?;
    Ok(out)
}

/// Reads Avro's JSON encoding into a datum.
pub fn from_avro_json(json: &Value, schema: &Schema) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::new();
    encode(
        schema.graph(),
        schema.graph().root(),
        json,
        Unions::Tagged,
        &mut out,
        0,
    )?;
    Ok(out)
}

/// A field's default: a union's is its first branch's, without a tag.
pub(crate) fn encode_default(
    graph: &Graph,
    ty: TypeId,
    default: &Value,
) -> Result<Vec<u8>, JsonError> {
    let mut out = Vec::new();
    encode(graph, ty, default, Unions::FirstBranch, &mut out, 0)?;
    Ok(out)
}

#[derive(Clone, Copy, PartialEq)]
enum Unions {
    Tagged,
    FirstBranch,
}

fn encode(
    graph: &Graph,
    ty: TypeId,
    json: &Value,
    unions: Unions,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), JsonError> {
    if depth > MAX_DEPTH {
        return Err(problem(format!("nests deeper than {MAX_DEPTH} levels")));
    }
    let wanted = |what: &str| problem(format!("{what} was expected, not {}", Shown(json)));
    match graph.get(ty) {
        Type::Null => json.as_null().ok_or_else(|| wanted("null"))?,
        Type::Boolean => out.push(u8::from(
            json.as_bool().ok_or_else(|| wanted("true or false"))?,
        )),
        Type::Int => {
            let int = json.as_i64().and_then(|v| i32::try_from(v).ok());
            put_long(
                out,
                i64::from(int.ok_or_else(|| wanted("an integer of 32 bits"))?),
            );
        }
        Type::Long => put_long(
            out,
            json.as_i64()
                .ok_or_else(|| wanted("an integer of 64 bits"))?,
        ),
        Type::Float => {
            let float = number(json).ok_or_else(|| wanted("a number"))? as f32;
            out.extend_from_slice(&float.to_le_bytes());
        }
        Type::Double => out.extend_from_slice(
            &number(json)
                .ok_or_else(|| wanted("a number"))?
                .to_le_bytes(),
        ),
        Type::String => put_bytes(out, json.as_str().ok_or_else(|| wanted("text"))?.as_bytes()),
        Type::Bytes => {
            let bytes = latin1(json).ok_or_else(|| wanted("text of the characters 0 to 255"))?;
            put_bytes(out, &bytes);
        }
        Type::Fixed { size, .. } => {
            let bytes = latin1(json).filter(|b| b.len() == *size);
            out.extend_from_slice(
                &bytes.ok_or_else(|| wanted(&format!("text of {size} characters 0 to 255")))?,
            );
        }
        Type::Enum { symbols, .. } => {
            let position = json
                .as_str()
                .and_then(|name| symbols.iter().position(|s| s == name));
            put_len(
                out,
                position.ok_or_else(|| wanted(&format!("one of {}", symbols.join(", "))))?,
            );
        }
        Type::Array(items) => {
            let array = json.as_array().ok_or_else(|| wanted("an array"))?;
            if !array.is_empty() {
                put_len(out, array.len());
                for (i, item) in array.iter().enumerate() {
                    encode(graph, *items, item, unions, out, depth + 1)
                        .map_err(|e| e.within(&i.to_string()))?;
                }
            }
            out.push(0);
        }
        Type::Map(values) => {
            let map = json.as_object().ok_or_else(|| wanted("an object"))?;
            if !map.is_empty() {
                put_len(out, map.len());
                for (key, value) in map {
                    put_bytes(out, key.as_bytes());
                    encode(graph, *values, value, unions, out, depth + 1)
                        .map_err(|e| e.within(key))?;
                }
            }
            out.push(0);
        }
        Type::Union(branches) if unions == Unions::FirstBranch => {
            put_long(out, 0);
            let first = branches
                .first()
                .ok_or_else(|| problem("the union has no branch".to_owned()))?;
            encode(graph, *first, json, unions, out, depth + 1)?;
        }
        Type::Union(branches) => {
            let tag = match json {
                Value::Null => "null",
                Value::Object(map) if map.len() == 1 => {
                    map.keys().next().map_or("", String::as_str)
                }
                _ => "",
            };
            let Some(position) = branches.iter().position(|b| graph.tag(*b) == tag) else {
                return Err(wanted(&tags(graph, branches)));
            };
            put_len(out, position);
            if let Some(value) = json.get(tag) {
                encode(graph, branches[position], value, unions, out, depth + 1)
                    .map_err(|e| e.within(tag))?;
            }
        }
        Type::Record { fields, .. } => encode_record(graph, fields, json, unions, out, depth)?,
    }
    Ok(())
}

fn encode_record(
    graph: &Graph,
    fields: &[Field],
    json: &Value,
    unions: Unions,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), JsonError> {
    let Value::Object(map) = json else {
        let names: Vec<_> = fields.iter().map(|f| f.name.as_str()).collect();
        return Err(problem(format!(
            "an object with {} was expected, not {}",
            names.join(", "),
            Shown(json)
        )));
    };
    if let Some(unknown) = map.keys().find(|k| fields.iter().all(|f| f.name != **k)) {
        let names: Vec<_> = fields.iter().map(|f| f.name.as_str()).collect();
        return Err(problem(format!(
            "there is no field `{unknown}`, only {}",
            names.join(", ")
        )));
    }
    for field in fields {
        match (map.get(&field.name), &field.default) {
            (Some(value), _) => encode(graph, field.schema, value, unions, out, depth + 1),
            (None, Some(default)) => encode(
                graph,
                field.schema,
                default,
                Unions::FirstBranch,
                out,
                depth + 1,
            ),
            (None, None) => Err(problem("the field is missing".to_owned())),
        }
        .map_err(|e| e.within(&field.name))?;
    }
    Ok(())
}

fn decode(
    graph: &Graph,
    ty: TypeId,
    from: &mut Cursor<'_>,
    out: &mut String,
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    from.spend()?;
    match graph.get(ty) {
        Type::Null => out.push_str("null"),
        Type::Boolean => out.push_str(if from.boolean()? { "true" } else { "false" }),
        Type::Int => put(out, from.int()?),
        Type::Long => put(out, from.long()?),
        Type::Float => match from.float()? {
            v if v.is_finite() => put_number(out, serde_json::to_string(&v)),
            v => put_special(out, f64::from(v)),
        },
        Type::Double => match from.double()? {
            v if v.is_finite() => put_number(out, serde_json::to_string(&v)),
            v => put_special(out, v),
        },
        Type::String => put_text(out, from.str()?),
        Type::Bytes => put_latin1(out, from.bytes()?),
        Type::Fixed { size, .. } => put_latin1(out, from.take(*size)?),
        Type::Enum { symbols, .. } => put_text(out, &symbols[from.symbol(symbols.len())?]),
        Type::Array(items) => {
            let mut separator = '[';
            loop {
                let count = from.block()?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    out.push(separator);
                    separator = ',';
                    decode(graph, *items, from, out, depth + 1)?;
                }
            }
            out.push_str(if separator == '[' { "[]" } else { "]" });
        }
        Type::Map(values) => {
            let mut separator = '{';
            loop {
                let count = from.block()?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    out.push(separator);
                    separator = ',';
                    put_text(out, from.str()?);
                    out.push(':');
                    decode(graph, *values, from, out, depth + 1)?;
                }
            }
            out.push_str(if separator == '{' { "{}" } else { "}" });
        }
        Type::Union(branches) => {
            let branch = branches[from.branch(branches.len())?];
            if let Type::Null = graph.get(branch) {
                out.push_str("null");
            } else {
                out.push('{');
                put_text(out, graph.tag(branch));
                out.push(':');
                decode(graph, branch, from, out, depth + 1)?;
                out.push('}');
            }
        }
        Type::Record { fields, .. } => {
            out.push('{');
            for (i, field) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put_text(out, &field.name);
                out.push(':');
                decode(graph, field.schema, from, out, depth + 1)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn put(out: &mut String, value: impl fmt::Display) {
    write!(out, "{value}").expect("a String takes what is written");
}

/// serde_json writes the fewest digits that read as the same number, an f32's fewer than an f64's.
fn put_number(out: &mut String, digits: serde_json::Result<String>) {
    out.push_str(&digits.expect("a finite number can be JSON"));
}

fn put_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("any text can be a JSON string"));
}

fn put_latin1(out: &mut String, bytes: &[u8]) {
    put_text(
        out,
        &bytes.iter().map(|b| char::from(*b)).collect::<String>(),
    );
}

fn put_special(out: &mut String, value: f64) {
    out.push_str(match value {
        v if v.is_nan() => "\"NaN\"",
        v if v > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    });
}

fn number(json: &Value) -> Option<f64> {
    match json.as_str() {
        None => json.as_f64(),
        Some("NaN") => Some(f64::NAN),
        Some("Infinity" | "INF") => Some(f64::INFINITY),
        Some("-Infinity" | "-INF") => Some(f64::NEG_INFINITY),
        Some(_) => None,
    }
}

fn latin1(json: &Value) -> Option<Vec<u8>> {
    json.as_str()?
        .chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

fn tags(graph: &Graph, branches: &[TypeId]) -> String {
    let tags: Vec<_> = branches
        .iter()
        .map(|b| match graph.tag(*b) {
            "null" => "null".to_owned(),
            tag => format!("{{\"{tag}\": …}}"),
        })
        .collect();
    tags.join(" or ")
}

fn problem(problem: String) -> JsonError {
    JsonError {
        path: String::new(),
        problem,
    }
}

impl JsonError {
    fn within(mut self, step: &str) -> Self {
        self.path = if self.path.is_empty() {
            step.to_owned()
        } else {
            format!("{step}.{}", self.path)
        };
        self
    }
}

/// JSON in an error's message: short, whatever it is.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Array(_) => f.write_str("an array"),
            Value::Object(map) if map.len() == 1 => {
                write!(
                    f,
                    "an object with {:.80}",
                    map.keys().next().map_or("", String::as_str)
                )
            }
            Value::Object(_) => f.write_str("an object"),
            Value::String(text) => {
                let short: String = text.chars().take(80).collect();
                write!(f, "{short:?}")
            }
            scalar => scalar.fmt(f),
        }
    }
}
