//! A schema as a graph of types without attributes: only what shapes the bytes, references resolved to indices.

use std::collections::{HashMap, HashSet};

use apache_avro::Schema as Avro;
use apache_avro::schema::{FixedSchema, InnerDecimalSchema, Name, UuidSchema};

use crate::schema::SchemaError;
use crate::wire::{Cursor, DecodeError, MAX_DEPTH};

pub(crate) type TypeId = usize;

#[derive(Debug)]
pub(crate) struct Graph {
    types: Vec<Type>,
    root: TypeId,
}

#[derive(Debug)]
pub(crate) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed {
        name: String,
        size: usize,
    },
    Enum {
        name: String,
        symbols: Vec<String>,
        default: Option<String>,
    },
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Record {
        name: String,
        aliases: Vec<String>,
        fields: Vec<Field>,
    },
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) default: Option<serde_json::Value>,
    pub(crate) schema: TypeId,
}

impl Graph {
    pub(crate) fn new(schema: &Avro) -> Result<Self, SchemaError> {
        let mut graph = Self {
            types: Vec::new(),
            root: 0,
        };
        graph.root = graph.add(schema, &mut HashMap::new())?;
        Ok(graph)
    }

    pub(crate) fn root(&self) -> TypeId {
        self.root
    }

    pub(crate) fn get(&self, id: TypeId) -> &Type {
        &self.types[id]
    }

    /// The full name of a named type.
    pub(crate) fn name(&self, id: TypeId) -> Option<&str> {
        match self.get(id) {
            Type::Record { name, .. } | Type::Enum { name, .. } | Type::Fixed { name, .. } => {
                Some(name)
            }
            _ => None,
        }
    }

    /// What a value of this type is tagged with in a union of Avro's JSON encoding.
    pub(crate) fn tag(&self, id: TypeId) -> &str {
        match self.get(id) {
            Type::Null => "null",
            Type::Boolean => "boolean",
            Type::Int => "int",
            Type::Long => "long",
            Type::Float => "float",
            Type::Double => "double",
            Type::Bytes => "bytes",
            Type::String => "string",
            Type::Array(_) => "array",
            Type::Map(_) => "map",
            Type::Union(_) => "union",
            Type::Fixed { name, .. } | Type::Enum { name, .. } | Type::Record { name, .. } => name,
        }
    }

    /// Passes over a value.
    pub(crate) fn skip(
        &self,
        id: TypeId,
        from: &mut Cursor<'_>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        from.spend()?;
        match self.get(id) {
            Type::Null => {}
            Type::Boolean => drop(from.boolean()?),
            Type::Int => drop(from.int()?),
            Type::Long => drop(from.long()?),
            Type::Float => drop(from.take(4)?),
            Type::Double => drop(from.take(8)?),
            Type::Bytes | Type::String => drop(from.bytes()?),
            Type::Fixed { size, .. } => drop(from.take(*size)?),
            Type::Enum { symbols, .. } => drop(from.symbol(symbols.len())?),
            Type::Union(branches) => {
                let branch = from.branch(branches.len())?;
                self.skip(branches[branch], from, depth + 1)?;
            }
            Type::Array(items) => loop {
                let count = from.block()?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    self.skip(*items, from, depth + 1)?;
                }
            },
            Type::Map(values) => loop {
                let count = from.block()?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    from.bytes()?;
                    self.skip(*values, from, depth + 1)?;
                }
            },
            Type::Record { fields, .. } => {
                for field in fields {
                    self.skip(field.schema, from, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        self.types.len() - 1
    }

    fn add(
        &mut self,
        schema: &Avro,
        names: &mut HashMap<Name, TypeId>,
    ) -> Result<TypeId, SchemaError> {
        // Logical types stand for their underlying types: the bytes are theirs.
        let ty = match schema {
            Avro::Null => Type::Null,
            Avro::Boolean => Type::Boolean,
            Avro::Int | Avro::Date | Avro::TimeMillis => Type::Int,
            Avro::Long
            | Avro::TimeMicros
            | Avro::TimestampMillis
            | Avro::TimestampMicros
            | Avro::TimestampNanos
            | Avro::LocalTimestampMillis
            | Avro::LocalTimestampMicros
            | Avro::LocalTimestampNanos => Type::Long,
            Avro::Float => Type::Float,
            Avro::Double => Type::Double,
            Avro::Bytes | Avro::BigDecimal | Avro::Uuid(UuidSchema::Bytes) => Type::Bytes,
            Avro::String | Avro::Uuid(UuidSchema::String) => Type::String,
            Avro::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Type::Bytes,
                InnerDecimalSchema::Fixed(fixed) => return Ok(self.add_fixed(fixed, names)),
            },
            Avro::Fixed(fixed) | Avro::Duration(fixed) | Avro::Uuid(UuidSchema::Fixed(fixed)) => {
                return Ok(self.add_fixed(fixed, names));
            }
            Avro::Enum(e) => {
                let id = self.push(Type::Enum {
                    name: e.name.fullname(None),
                    symbols: e.symbols.clone(),
                    default: e.default.clone(),
                });
                names.insert(e.name.clone(), id);
                return Ok(id);
            }
            Avro::Array(array) => Type::Array(self.add(&array.items, names)?),
            Avro::Map(map) => Type::Map(self.add(&map.types, names)?),
            Avro::Union(union) => {
                let branches = union
                    .variants()
                    .iter()
                    .map(|b| self.add(b, names))
                    .collect::<Result<_, _>>()?;
                Type::Union(branches)
            }
            Avro::Record(record) => {
                // The name is known before its fields are: they may refer to it.
                let name = record.name.fullname(None);
                let aliases = record
                    .aliases
                    .iter()
                    .flatten()
                    .map(|a| a.fullname(record.name.namespace()))
                    .collect();
                let id = self.push(Type::Null);
                names.insert(record.name.clone(), id);
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    fields.push(Field {
                        name: field.name.clone(),
                        aliases: field.aliases.clone(),
                        default: field.default.clone(),
                        schema: self.add(&field.schema, names)?,
                    });
                }
                self.types[id] = Type::Record {
                    name,
                    aliases,
                    fields,
                };
                return Ok(id);
            }
            Avro::Ref { name } => {
                return names
                    .get(name)
                    .copied()
                    .ok_or_else(|| SchemaError::UnknownName(name.fullname(None)));
            }
        };
        Ok(self.push(ty))
    }

    fn add_fixed(&mut self, fixed: &FixedSchema, names: &mut HashMap<Name, TypeId>) -> TypeId {
        let id = self.push(Type::Fixed {
            name: fixed.name.fullname(None),
            size: fixed.size,
        });
        names.insert(fixed.name.clone(), id);
        id
    }
}

/// Whether every datum of the one type is, byte for byte, the same datum of the other: names, aliases' and defaults'
/// differences left aside, but fields, symbols and branches alike and in the same order.
pub(crate) fn same_bytes(
    a: (&Graph, TypeId),
    b: (&Graph, TypeId),
    assumed: &mut HashSet<(TypeId, TypeId)>,
    depth: usize,
) -> bool {
    // A chain of references can be longer than the stack; what nests so deep is not read anyway.
    if depth > MAX_DEPTH {
        return false;
    }
    // Two recursive types are the same unless a difference is found.
    if !assumed.insert((a.1, b.1)) {
        return true;
    }
    let mut same = |x: TypeId, y: TypeId| same_bytes((a.0, x), (b.0, y), assumed, depth + 1);
    match (a.0.get(a.1), b.0.get(b.1)) {
        (Type::Null, Type::Null)
        | (Type::Boolean, Type::Boolean)
        | (Type::Int, Type::Int)
        | (Type::Long, Type::Long)
        | (Type::Float, Type::Float)
        | (Type::Double, Type::Double)
        | (Type::Bytes, Type::Bytes)
        | (Type::String, Type::String) => true,
        (Type::Fixed { name: n, size: x }, Type::Fixed { name: m, size: y }) => {
            x == y && simple(n) == simple(m)
        }
        (
            Type::Enum {
                name: n,
                symbols: x,
                ..
            },
            Type::Enum {
                name: m,
                symbols: y,
                ..
            },
        ) => x == y && simple(n) == simple(m),
        (Type::Array(x), Type::Array(y)) | (Type::Map(x), Type::Map(y)) => same(*x, *y),
        (Type::Union(x), Type::Union(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(*x, *y))
        }
        (
            Type::Record {
                name: n, fields: x, ..
            },
            Type::Record {
                name: m, fields: y, ..
            },
        ) => {
            simple(n) == simple(m)
                && x.len() == y.len()
                && x.iter()
                    .zip(y)
                    .all(|(x, y)| x.name == y.name && same(x.schema, y.schema))
        }
        _ => false,
    }
}

/// A name without its namespace: types of two schemas belong together by it (Avro specification, "Schema Resolution").
pub(crate) fn simple(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
