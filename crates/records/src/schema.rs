use std::fmt;
use std::sync::{Arc, LazyLock};

use thiserror::Error;

use crate::graph::Graph;

/// The longest schema that is parsed, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 1 << 20;

/// A parsed Avro schema. Clones share it.
#[derive(Clone)]
pub struct Schema(Arc<Parsed>);

struct Parsed {
    text: String,
    avro: apache_avro::Schema,
    graph: Graph,
}

#[derive(Debug, Error)]
pub enum SchemaError {
    #[error("the schema has {len} bytes, more than the {MAX_SCHEMA_BYTES} that are read")]
    TooLong { len: usize },
    #[error("not an Avro schema: {0}")]
    Invalid(#[source] Box<apache_avro::Error>),
    #[error("the schema refers to `{0}`, which it does not define")]
    UnknownName(String),
}

impl Schema {
    /// Parses a complete schema: every name it uses is defined in it.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLong { len: text.len() });
        }
        let avro =
            apache_avro::Schema::parse_str(text).map_err(|e| SchemaError::Invalid(Box::new(e)))?;
        let graph = Graph::new(&avro)?;
        Ok(Self(Arc::new(Parsed {
            text: compact(text),
            avro,
            graph,
        })))
    }

    /// The schema's JSON in one line, all attributes kept: what is sent to a registry.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The Parsing Canonical Form (Avro specification): equal for schemas whose data look alike.
    pub fn canonical_form(&self) -> String {
        self.0.avro.canonical_form()
    }

    /// The schema as the `apache-avro` crate has it.
    pub fn avro(&self) -> &apache_avro::Schema {
        &self.0.avro
    }

    /// The full name of the record, enum or fixed the schema is; `None` for types without a name.
    pub fn full_name(&self) -> Option<&str> {
        self.graph().name(self.graph().root())
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.0.graph
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.text()).finish()
    }
}

/// The contract's schemas, one for each record that stands in a topic.
#[derive(Clone, Debug)]
pub struct Schemas {
    /// `AvroKey`
    pub key: Schema,
    /// `AvroRegistrationResponse`
    pub registration: Schema,
    /// `AvroRequest`
    pub request: Schema,
    /// `AvroResponse`
    pub response: Schema,
    /// `AvroResponseObserve`
    pub response_observe: Schema,
}

impl Schemas {
    /// The schemas of `schemas/avro`, parsed once.
    pub fn get() -> &'static Self {
        static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
            let parse = |text| {
                Schema::parse(text)
                    .expect("the files of schemas/avro are built in and parsed by every test")
            };
            Schemas {
                key: parse(include_str!("../../../schemas/avro/key.avsc")),
                registration: parse(include_str!("../../../schemas/avro/registration.avsc")),
                request: parse(include_str!("../../../schemas/avro/request.avsc")),
                response: parse(include_str!("../../../schemas/avro/response.avsc")),
                response_observe: parse(include_str!(
                    "../../../schemas/avro/response-observe.avsc"
                )),
            }
        });
        &SCHEMAS
    }

    /// All five.
    pub fn all(&self) -> [&Schema; 5] {
        [
            &self.key,
            &self.registration,
            &self.request,
            &self.response,
            &self.response_observe,
        ]
    }
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}
