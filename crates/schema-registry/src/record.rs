//! The records of the `_schemas` topic, in the form that Confluent's registry writes and reads.
//!
//! ```text
//! key    {"keytype":"SCHEMA","subject":"t-value","version":1,"magic":1}
//! value  {"subject":"t-value","version":1,"id":7,"schema":"\"string\"","deleted":false}     no value: gone for good
//! key    {"keytype":"CONFIG","subject":null,"magic":0}          value  {"compatibilityLevel":"FULL"}
//! key    {"keytype":"MODE","subject":"t-value","magic":0}       value  {"mode":"READONLY"}
//! key    {"keytype":"DELETE_SUBJECT","subject":"t-value","magic":0}   value  {"subject":"t-value","version":3}
//! key    {"keytype":"NOOP","magic":0}                           no value
//! ```
//!
//! The order of a key's members counts: compaction compares keys by their bytes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest record that is looked at; larger ones are skipped (Kafka's own default limit is 1 MiB a batch).
const MAX_RECORD: usize = 16 * 1024 * 1024;

/// What a record of the topic says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Schema {
        subject: String,
        version: i32,
        /// `None`: the version is gone for good.
        value: Option<SchemaValue>,
    },
    /// The subject's versions up to this one are deleted, softly; `None` withdraws the record, not the deletion.
    DeleteSubject {
        subject: String,
        up_to: Option<i32>,
    },
    /// `subject` is `None` for the global one.
    Config {
        subject: Option<String>,
        value: Option<ConfigValue>,
    },
    Mode {
        subject: Option<String>,
        value: Option<ModeValue>,
    },
    Noop,
}

/// A version of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SchemaValue {
    pub(crate) subject: String,
    pub(crate) version: i32,
    pub(crate) id: i32,
    /// Absent for Avro.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schema_type: Option<String>,
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) references: Vec<Reference>,
    pub(crate) schema: String,
    #[serde(default)]
    pub(crate) deleted: bool,
    /// What other registries put there (`metadata`, `ruleSet`, …): kept when the record is written again.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

/// A name in a schema that another subject's schema defines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) version: i32,
}

/// What is configured for a subject, or globally.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigValue {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) compatibility_level: Option<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) normalize: Option<bool>,
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

/// What may be done with a subject, or globally.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModeValue {
    pub(crate) mode: Mode,
}

/// What a new schema of a subject has to be compatible with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Level {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl Level {
    pub(crate) const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// The new schema reads what the old ones wrote.
    pub(crate) fn backward(self) -> bool {
        matches!(
            self,
            Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive
        )
    }

    /// The old schemas read what the new one writes.
    pub(crate) fn forward(self) -> bool {
        matches!(
            self,
            Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive
        )
    }

    /// All versions count, not the latest alone.
    pub(crate) fn transitive(self) -> bool {
        matches!(
            self,
            Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive
        )
    }
}

/// Whether schemas may be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Mode {
    Readwrite,
    Readonly,
    /// Global only: counts before a subject's own mode.
    ReadonlyOverride,
    /// Ids and versions are given by the client, compatibility is not checked.
    Import,
}

impl Mode {
    pub(crate) const ALL: [Self; 4] = [
        Self::Readwrite,
        Self::Readonly,
        Self::ReadonlyOverride,
        Self::Import,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Readwrite => "READWRITE",
            Self::Readonly => "READONLY",
            Self::ReadonlyOverride => "READONLY_OVERRIDE",
            Self::Import => "IMPORT",
        }
    }
}

/// Why a record of the topic is skipped; the text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Skip {
    #[error("no_key")]
    NoKey,
    #[error("too_large")]
    TooLarge,
    #[error("bad_key")]
    BadKey,
    #[error("unknown_key_type")]
    UnknownKeyType,
    #[error("bad_value")]
    BadValue,
    /// In a context other than the default one, whose ids are its own.
    #[error("other_context")]
    OtherContext,
    /// Its id stands for another schema: two registries wrote at the same time.
    #[error("id_conflict")]
    IdConflict,
}

#[derive(Deserialize)]
struct AnyKey {
    keytype: String,
    subject: Option<String>,
    version: Option<i32>,
}

#[derive(Serialize, Deserialize)]
struct DeleteSubjectValue {
    subject: String,
    version: i32,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Reference>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The subject without the default context's prefix; `None` in another context.
pub(crate) fn in_default_context(subject: &str) -> Option<&str> {
    let name = subject.strip_prefix(":.:").unwrap_or(subject);
    // What is left must not name a context itself, or it would be read as another subject than was written.
    (!name.starts_with(":.")).then_some(name)
}

impl Record {
    /// Reads a record of the topic.
    pub(crate) fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, Skip> {
        let key = key.ok_or(Skip::NoKey)?;
        if key.len() > MAX_RECORD || value.is_some_and(|value| value.len() > MAX_RECORD) {
            return Err(Skip::TooLarge);
        }
        let key: AnyKey = serde_json::from_slice(key).map_err(|_| Skip::BadKey)?;
        let subject = match key.subject.as_deref() {
            None => None,
            Some(subject) => Some(
                in_default_context(subject)
                    .ok_or(Skip::OtherContext)?
                    .to_owned(),
            ),
        };
        Ok(match key.keytype.as_str() {
            "SCHEMA" => {
                let subject = subject.ok_or(Skip::BadKey)?;
                let version = key
                    .version
                    .filter(|version| *version > 0)
                    .ok_or(Skip::BadKey)?;
                let mut value: Option<SchemaValue> = parse(value)?;
                if let Some(value) = &mut value {
                    // The key decides, as it does for compaction.
                    value.subject.clone_from(&subject);
                    value.version = version;
                    if value.id < 0 {
                        return Err(Skip::BadValue);
                    }
                }
                Self::Schema {
                    subject,
                    version,
                    value,
                }
            }
            "DELETE_SUBJECT" => Self::DeleteSubject {
                subject: subject.ok_or(Skip::BadKey)?,
                up_to: parse::<DeleteSubjectValue>(value)?.map(|value| value.version),
            },
            "CONFIG" => Self::Config {
                subject,
                value: parse(value)?,
            },
            "MODE" => Self::Mode {
                subject,
                value: parse(value)?,
            },
            "NOOP" => Self::Noop,
            _ => return Err(Skip::UnknownKeyType),
        })
    }

    /// The record's key, in the order of members that Confluent's registry writes.
    pub(crate) fn key(&self) -> String {
        fn quoted(text: &str) -> String {
            Value::from(text).to_string()
        }
        fn or_null(subject: Option<&String>) -> String {
            subject.map_or_else(|| "null".to_owned(), |subject| quoted(subject))
        }
        match self {
            Self::Schema {
                subject, version, ..
            } => format!(
                r#"{{"keytype":"SCHEMA","subject":{},"version":{version},"magic":1}}"#,
                quoted(subject)
            ),
            Self::DeleteSubject { subject, .. } => format!(
                r#"{{"keytype":"DELETE_SUBJECT","subject":{},"magic":0}}"#,
                quoted(subject)
            ),
            Self::Config { subject, .. } => format!(
                r#"{{"keytype":"CONFIG","subject":{},"magic":0}}"#,
                or_null(subject.as_ref())
            ),
            Self::Mode { subject, .. } => format!(
                r#"{{"keytype":"MODE","subject":{},"magic":0}}"#,
                or_null(subject.as_ref())
            ),
            Self::Noop => r#"{"keytype":"NOOP","magic":0}"#.to_owned(),
        }
    }

    /// The record's value; `None` is a tombstone.
    pub(crate) fn value(&self) -> Result<Option<String>, serde_json::Error> {
        match self {
            Self::Schema { value, .. } => value.as_ref().map(serde_json::to_string).transpose(),
            Self::DeleteSubject { subject, up_to } => up_to
                .map(|version| {
                    serde_json::to_string(&DeleteSubjectValue {
                        subject: subject.clone(),
                        version,
                    })
                })
                .transpose(),
            Self::Config { value, .. } => value.as_ref().map(serde_json::to_string).transpose(),
            Self::Mode { value, .. } => value.as_ref().map(serde_json::to_string).transpose(),
            Self::Noop => Ok(None),
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(value: Option<&[u8]>) -> Result<Option<T>, Skip> {
    match value {
        // Some clients write a tombstone as an empty or a `null` value.
        None | Some(b"" | b"null") => Ok(None),
        Some(bytes) => serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|_| Skip::BadValue),
    }
}
