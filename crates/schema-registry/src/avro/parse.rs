use std::collections::{HashMap, HashSet};

use super::{Enum, Field, Fixed, Kind, Name, Node, NodeId, Order, Primitive, Record, Schema};
use crate::json::Json;

/// The most nodes (types and uses of primitives) in a schema together with those it refers to.
pub(crate) const MAX_NODES: usize = 100_000;

/// Why a text is not an Avro schema; the message names the place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("Empty schema")]
    Empty,
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a schema has to be a JSON string, object or array, not {0}")]
    Shape(&'static str),
    #[error("{context} needs a {attribute} '{key}'")]
    Missing {
        context: String,
        key: &'static str,
        attribute: &'static str,
    },
    #[error("'{0}' is neither a type nor a name defined before its use")]
    Undefined(String),
    #[error("'{0}' is defined twice")]
    Redefined(String),
    #[error("'{0}' is not a name: letters, digits and underscores, not starting with a digit")]
    Name(String),
    #[error("'{0}' is a type's word and can't name another type")]
    Reserved(String),
    #[error("{context} has '{name}' twice")]
    Duplicate { context: String, name: String },
    #[error("a union can't directly hold another union")]
    NestedUnion,
    #[error("enum '{name}' has the default '{default}', which is none of its symbols")]
    EnumDefault { name: String, default: String },
    #[error("'{0}' is not an order: ascending, descending or ignore")]
    Order(String),
    #[error("more than {MAX_NODES} types in one schema")]
    TooLarge,
}

/// Parses a schema whose names may be defined by `references`, given in an order in which each knows those before it.
pub(crate) fn parse<'t>(
    text: &str,
    references: impl IntoIterator<Item = &'t str>,
) -> Result<Schema, ParseError> {
    let mut parser = Parser::default();
    for reference in references {
        parser.text(reference)?;
    }
    let own_from = parser.nodes.len();
    let root = parser.text(text)?;
    Ok(Schema {
        nodes: parser.nodes,
        root,
        own_from,
    })
}

const TYPE_RESERVED: [&str; 10] = [
    "doc",
    "fields",
    "items",
    "name",
    "namespace",
    "size",
    "symbols",
    "values",
    "type",
    "aliases",
];
const FIELD_RESERVED: [&str; 6] = ["default", "doc", "name", "order", "type", "aliases"];

#[derive(Default)]
struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<NodeId, ParseError> {
        if text.trim().is_empty() {
            return Err(ParseError::Empty);
        }
        self.schema(&Json::parse(text)?, None)
    }

    // The recursion is bounded by the depth of the JSON, which its parser bounds.
    fn schema(&mut self, json: &Json, namespace: Option<&str>) -> Result<NodeId, ParseError> {
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => self.union(branches, namespace),
            Json::Object(members) => self.object(json, members, namespace),
            Json::Null => Err(ParseError::Shape("null")),
            Json::Bool(_) => Err(ParseError::Shape("a boolean")),
            Json::Signed(_) | Json::Unsigned(_) | Json::Float(_) => {
                Err(ParseError::Shape("a number"))
            }
        }
    }

    fn named(&mut self, name: &str, namespace: Option<&str>) -> Result<NodeId, ParseError> {
        if let Some(primitive) = Primitive::named(name) {
            return self.push(Kind::Primitive(primitive), Vec::new());
        }
        let full = Name::new(name, namespace).full();
        self.names
            .get(&full)
            // A name without dots may also be one of the null namespace (Java looks there second).
            .or_else(|| self.names.get(name))
            .copied()
            .ok_or(ParseError::Undefined(full))
    }

    fn union(&mut self, items: &[Json], namespace: Option<&str>) -> Result<NodeId, ParseError> {
        let mut branches = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        for item in items {
            let branch = self.schema(item, namespace)?;
            let kind = &self.nodes[branch.0].kind;
            if matches!(kind, Kind::Union(_)) {
                return Err(ParseError::NestedUnion);
            }
            let name = kind
                .name()
                .map_or_else(|| kind.type_name().to_owned(), Name::full);
            if !seen.insert(name.clone()) {
                return Err(ParseError::Duplicate {
                    context: "a union".to_owned(),
                    name,
                });
            }
            branches.push(branch);
        }
        self.push(Kind::Union(branches), Vec::new())
    }

    fn object(
        &mut self,
        json: &Json,
        members: &[(String, Json)],
        namespace: Option<&str>,
    ) -> Result<NodeId, ParseError> {
        let word = text_of(json, "type", || "a schema object".to_owned())?;
        if let Some(primitive) = Primitive::named(word) {
            return self.push(
                Kind::Primitive(primitive),
                props(members, &TYPE_RESERVED, None),
            );
        }
        match word {
            "record" | "error" => self.record(json, members, namespace, word == "error"),
            "enum" => self.enumeration(json, members, namespace),
            "fixed" => self.fixed(json, members, namespace),
            "array" => {
                let items = required(json, "items", "schema", || "an array".to_owned())?;
                let items = self.schema(items, namespace)?;
                self.push(Kind::Array(items), props(members, &TYPE_RESERVED, None))
            }
            "map" => {
                let values = required(json, "values", "schema", || "a map".to_owned())?;
                let values = self.schema(values, namespace)?;
                self.push(Kind::Map(values), props(members, &TYPE_RESERVED, None))
            }
            // `{"type": "a.Name"}` is the named type itself.
            name => self.named(name, namespace),
        }
    }

    fn record(
        &mut self,
        json: &Json,
        members: &[(String, Json)],
        namespace: Option<&str>,
        is_error: bool,
    ) -> Result<NodeId, ParseError> {
        let name = type_name(json, namespace)?;
        let full = name.full();
        let Some(Json::Array(items)) = json.get("fields") else {
            return Err(missing(format!("record '{full}'"), "fields", "array"));
        };
        let inner = name.namespace.clone();
        // Defined before its fields, which may use it.
        let id = self.define(
            Kind::Record(Record {
                aliases: aliases(json, &name)?,
                name,
                doc: json.get("doc").and_then(Json::as_str).map(str::to_owned),
                is_error,
                fields: Vec::new(),
            }),
            props(members, &TYPE_RESERVED, None),
        )?;
        let mut fields = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        for item in items {
            let field = self.field(item, &full, inner.as_deref())?;
            if !seen.insert(field.name.clone()) {
                return Err(ParseError::Duplicate {
                    context: format!("record '{full}'"),
                    name: field.name,
                });
            }
            fields.push(field);
        }
        if let Kind::Record(record) = &mut self.nodes[id.0].kind {
            record.fields = fields;
        }
        Ok(id)
    }

    fn field(
        &mut self,
        json: &Json,
        record: &str,
        namespace: Option<&str>,
    ) -> Result<Field, ParseError> {
        let name = text_of(json, "name", || format!("a field of record '{record}'"))?;
        check_name(name)?;
        let context = || format!("field '{name}' of record '{record}'");
        let schema = self.schema(required(json, "type", "schema", context)?, namespace)?;
        let mut default = json.get("default").cloned();
        if let (Some(Json::String(text)), Kind::Primitive(Primitive::Float | Primitive::Double)) =
            (&default, &self.nodes[schema.0].kind)
            && let Ok(number) = text.parse::<f64>()
            && number.is_finite()
        {
            // Java takes "1.5" for 1.5 here.
            default = Some(Json::Float(number));
        }
        let order = match json.get("order").and_then(Json::as_str) {
            None => Order::Ascending,
            Some(word) if word.eq_ignore_ascii_case("ascending") => Order::Ascending,
            Some(word) if word.eq_ignore_ascii_case("descending") => Order::Descending,
            Some(word) if word.eq_ignore_ascii_case("ignore") => Order::Ignore,
            Some(other) => return Err(ParseError::Order(other.to_owned())),
        };
        let Json::Object(members) = json else {
            return Err(ParseError::Shape("a field that is no object"));
        };
        Ok(Field {
            name: name.to_owned(),
            schema,
            doc: json.get("doc").and_then(Json::as_str).map(str::to_owned),
            default,
            order,
            aliases: strings(json, "aliases", context)?,
            props: props(members, &FIELD_RESERVED, None),
        })
    }

    fn enumeration(
        &mut self,
        json: &Json,
        members: &[(String, Json)],
        namespace: Option<&str>,
    ) -> Result<NodeId, ParseError> {
        let name = type_name(json, namespace)?;
        let full = name.full();
        let context = || format!("enum '{full}'");
        required(json, "symbols", "array", context)?;
        let symbols = strings(json, "symbols", context)?;
        let mut seen = HashSet::new();
        for symbol in &symbols {
            check_name(symbol)?;
            if !seen.insert(symbol) {
                return Err(ParseError::Duplicate {
                    context: context(),
                    name: symbol.clone(),
                });
            }
        }
        let default = json
            .get("default")
            .and_then(Json::as_str)
            .map(str::to_owned);
        if let Some(default) = &default
            && !seen.contains(default)
        {
            return Err(ParseError::EnumDefault {
                name: full,
                default: default.clone(),
            });
        }
        let kind = Kind::Enum(Enum {
            aliases: aliases(json, &name)?,
            name,
            doc: json.get("doc").and_then(Json::as_str).map(str::to_owned),
            symbols,
            default,
        });
        self.define(kind, props(members, &TYPE_RESERVED, Some("default")))
    }

    fn fixed(
        &mut self,
        json: &Json,
        members: &[(String, Json)],
        namespace: Option<&str>,
    ) -> Result<NodeId, ParseError> {
        let name = type_name(json, namespace)?;
        let Some(Json::Unsigned(size)) = json.get("size") else {
            return Err(missing(
                format!("fixed '{}'", name.full()),
                "size",
                "number of bytes",
            ));
        };
        let kind = Kind::Fixed(Fixed {
            aliases: aliases(json, &name)?,
            name,
            doc: json.get("doc").and_then(Json::as_str).map(str::to_owned),
            size: *size,
        });
        self.define(kind, props(members, &TYPE_RESERVED, None))
    }

    fn define(&mut self, kind: Kind, props: Vec<(String, Json)>) -> Result<NodeId, ParseError> {
        let full = kind.name().map(Name::full).unwrap_or_default();
        if Primitive::named(&full).is_some() {
            return Err(ParseError::Reserved(full));
        }
        if self.names.contains_key(&full) {
            return Err(ParseError::Redefined(full));
        }
        let id = self.push(kind, props)?;
        self.names.insert(full, id);
        Ok(id)
    }

    fn push(&mut self, kind: Kind, props: Vec<(String, Json)>) -> Result<NodeId, ParseError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(ParseError::TooLarge);
        }
        self.nodes.push(Node { kind, props });
        Ok(NodeId(self.nodes.len() - 1))
    }
}

fn missing(context: String, key: &'static str, attribute: &'static str) -> ParseError {
    ParseError::Missing {
        context,
        key,
        attribute,
    }
}

fn required<'j>(
    json: &'j Json,
    key: &'static str,
    attribute: &'static str,
    context: impl Fn() -> String,
) -> Result<&'j Json, ParseError> {
    json.get(key)
        .ok_or_else(|| missing(context(), key, attribute))
}

fn text_of<'j>(
    json: &'j Json,
    key: &'static str,
    context: impl Fn() -> String,
) -> Result<&'j str, ParseError> {
    json.get(key)
        .and_then(Json::as_str)
        .ok_or_else(|| missing(context(), key, "text"))
}

fn type_name(json: &Json, namespace: Option<&str>) -> Result<Name, ParseError> {
    let written = text_of(json, "name", || "a record, enum or fixed".to_owned())?;
    let own = json.get("namespace").and_then(Json::as_str);
    let name = Name::new(written, own.or(namespace));
    check_name(&name.simple)?;
    Ok(name)
}

fn aliases(json: &Json, name: &Name) -> Result<Vec<Name>, ParseError> {
    let written = strings(json, "aliases", || format!("type '{}'", name.full()))?;
    let mut aliases: Vec<Name> = Vec::with_capacity(written.len());
    let mut seen = HashSet::new();
    for alias in &written {
        let alias = Name::new(alias, name.namespace.as_deref());
        if seen.insert(alias.clone()) {
            aliases.push(alias);
        }
    }
    Ok(aliases)
}

/// An optional array of strings.
fn strings(
    json: &Json,
    key: &'static str,
    context: impl Fn() -> String,
) -> Result<Vec<String>, ParseError> {
    match json.get(key) {
        None => Ok(Vec::new()),
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| missing(context(), key, "array of strings")),
        Some(_) => Err(missing(context(), key, "array of strings")),
    }
}

fn check_name(name: &str) -> Result<(), ParseError> {
    let mut characters = name.chars();
    let good = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|other| other.is_ascii_alphanumeric() || other == '_');
    if good {
        Ok(())
    } else {
        Err(ParseError::Name(name.to_owned()))
    }
}

fn props(members: &[(String, Json)], reserved: &[&str], also: Option<&str>) -> Vec<(String, Json)> {
    members
        .iter()
        .filter(|(name, _)| !reserved.contains(&name.as_str()) && Some(name.as_str()) != also)
        .cloned()
        .collect()
}
