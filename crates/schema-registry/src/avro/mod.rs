//! Avro schemas as the registry sees them: parsed strictly, printed in Java's canonical order, compared by Avro's resolution rules.
//!
//! `apache_avro::Schema` is not used for this: it loses the order of custom properties (so the text differs from what
//! Confluent's registry makes of the same schema), and its parser recurses without a bound.

mod compat;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use crate::json::Json;

pub(crate) use compat::{Budget, Incompatibility, can_read};
pub(crate) use parse::parse;

/// A node of [`Schema`]: its place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

/// A parsed schema: an arena, because named types may refer to themselves.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    nodes: Vec<Node>,
    root: NodeId,
    /// Nodes below this belong to referenced schemas.
    own_from: usize,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    /// What the specification does not define, such as `avro.java.string` or `logicalType`, in the order written.
    props: Vec<(String, Json)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Primitive(Primitive),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Record),
    Enum(Enum),
    Fixed(Fixed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

impl Primitive {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "bytes" => Self::Bytes,
            "string" => Self::String,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }
}

/// A name of a named type: `namespace.simple`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    namespace: Option<String>,
    simple: String,
}

impl Name {
    /// A name as written, inside a namespace: dots in it make it a full name.
    fn new(written: &str, namespace: Option<&str>) -> Self {
        match written.rsplit_once('.') {
            Some((namespace, simple)) => Self {
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                simple: simple.to_owned(),
            },
            None => Self {
                namespace: namespace.filter(|name| !name.is_empty()).map(str::to_owned),
                simple: written.to_owned(),
            },
        }
    }

    fn full(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}.{}", self.simple),
            None => self.simple.clone(),
        }
    }

    /// How the name is written inside `namespace`.
    fn relative_to(&self, namespace: Option<&str>) -> String {
        if self.namespace.is_none() || self.namespace.as_deref() == namespace {
            self.simple.clone()
        } else {
            self.full()
        }
    }
}

#[derive(Clone, Debug)]
struct Record {
    name: Name,
    aliases: Vec<Name>,
    doc: Option<String>,
    is_error: bool,
    fields: Vec<Field>,
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    schema: NodeId,
    doc: Option<String>,
    default: Option<Json>,
    order: Order,
    aliases: Vec<String>,
    props: Vec<(String, Json)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
    Ignore,
}

#[derive(Clone, Debug)]
struct Enum {
    name: Name,
    aliases: Vec<Name>,
    doc: Option<String>,
    symbols: Vec<String>,
    default: Option<String>,
}

#[derive(Clone, Debug)]
struct Fixed {
    name: Name,
    aliases: Vec<Name>,
    doc: Option<String>,
    size: u64,
}

impl Schema {
    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}

impl Kind {
    /// The specification's word for the type.
    fn type_name(&self) -> &'static str {
        match self {
            Self::Primitive(primitive) => primitive.as_str(),
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(_) => "union",
            Self::Record(record) if record.is_error => "error",
            Self::Record(_) => "record",
            Self::Enum(_) => "enum",
            Self::Fixed(_) => "fixed",
        }
    }

    fn name(&self) -> Option<&Name> {
        match self {
            Self::Record(record) => Some(&record.name),
            Self::Enum(found) => Some(&found.name),
            Self::Fixed(fixed) => Some(&fixed.name),
            _ => None,
        }
    }

    fn aliases(&self) -> &[Name] {
        match self {
            Self::Record(record) => &record.aliases,
            Self::Enum(found) => &found.aliases,
            Self::Fixed(fixed) => &fixed.aliases,
            _ => &[],
        }
    }
}
