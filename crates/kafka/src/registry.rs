use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use records::Schema;
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_schema_by_id, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SuppliedSchema};

/// Why the registry did not give what was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// No schema has this id: the record was written against another registry, or is not Avro.
    #[error("the schema registry {url} knows no schema with id {id}")]
    Unknown {
        /// The registry.
        url: String,
        /// The id asked for.
        id: u32,
    },
    /// The registry can't be reached or can't answer now: try again.
    #[error("the schema registry {url} does not answer: {reason}")]
    Unreachable {
        /// The registry.
        url: String,
        /// The connection's reason.
        reason: String,
    },
    /// The registry does not take this schema.
    #[error("the schema registry {url} refuses the schema for subject '{subject}': {reason}")]
    Refused {
        /// The registry.
        url: String,
        /// The subject.
        subject: String,
        /// Its reason, such as an incompatible change.
        reason: String,
    },
    /// What the registry holds under the id is not an Avro schema we can read.
    #[error("schema {id} of the registry {url} can't be used: {reason}")]
    Unusable {
        /// The registry.
        url: String,
        /// The id asked for.
        id: u32,
        /// Why.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same call may work later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A schema as a producer registered it.
#[derive(Debug)]
pub struct WriterSchema {
    /// Its id at this registry.
    pub id: u32,
    /// Its text as the registry holds it, for another registry.
    pub text: String,
    /// The same, parsed.
    pub schema: Schema,
}

/// The client of one schema registry, with its answers kept: schemas never change under their id.
#[derive(Clone)]
pub struct SchemaRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    settings: SrSettings,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    by_id: HashMap<u32, Arc<WriterSchema>>,
    /// Subject → schema text → id.
    ids: HashMap<String, HashMap<String, u32>>,
}

/// The most answers of one kind that are kept; then that kind starts over.
const MOST_KEPT: usize = 10_000;
const CALL_LIMIT: Duration = Duration::from_secs(10);

impl SchemaRegistry {
    /// The client of the registry at `url`, such as `http://127.0.0.1:8081`. Calls end after 10 s.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let settings = SrSettings::new_builder(url.clone())
            .set_timeout(CALL_LIMIT)
            .no_proxy()
            .build()
            .map_err(|error| unreachable(&url, &error))?;
        let cache = Mutex::new(Cache::default());
        Ok(Self {
            inner: Arc::new(Inner {
                url,
                settings,
                cache,
            }),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The schema with this id.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Unusable`] or [`RegistryError::Unreachable`].
    pub async fn schema(&self, id: u32) -> Result<Arc<WriterSchema>, RegistryError> {
        if let Some(known) = self.kept(id) {
            return Ok(known);
        }
        let answer = get_schema_by_id(id, &self.inner.settings).await;
        let text = match answer {
            Ok(registered) if registered.schema_type == SchemaType::Avro => registered.schema,
            Ok(other) => return Err(self.unusable(id, format!("it is {:?}", other.schema_type))),
            // Never kept: the id may be given out a moment later, and its records are good then.
            Err(error) if code(&error) == Some(40403) => return Err(self.unknown(id)),
            Err(error) => return Err(unreachable(&self.inner.url, &error)),
        };
        let schema = Schema::parse(&text).map_err(|error| self.unusable(id, error.to_string()))?;
        let found = Arc::new(WriterSchema { id, text, schema });
        let mut cache = self.inner.cache.lock();
        bounded(&mut cache.by_id).insert(id, Arc::clone(&found));
        Ok(found)
    }

    /// The id of this schema under the subject; registers it where it is new.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] or [`RegistryError::Unreachable`].
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        if let Some(id) = self.kept_id(subject, schema) {
            return Ok(id);
        }
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        match post_schema(&self.inner.settings, subject.to_owned(), supplied).await {
            Ok(registered) => {
                let mut cache = self.inner.cache.lock();
                let ids = bounded(&mut cache.ids)
                    .entry(subject.to_owned())
                    .or_default();
                bounded(ids).insert(schema.to_owned(), registered.id);
                Ok(registered.id)
            }
            Err(error) => match code(&error) {
                // 42205 is not among them: a registry that is read-only now says nothing about the schema.
                Some(code @ (409 | 40901 | 42201 | 40301)) => Err(RegistryError::Refused {
                    url: self.inner.url.clone(),
                    subject: subject.to_owned(),
                    reason: format!("{} ({code})", cause(&error)),
                }),
                _ => Err(unreachable(&self.inner.url, &error)),
            },
        }
    }

    fn kept_id(&self, subject: &str, schema: &str) -> Option<u32> {
        let cache = self.inner.cache.lock();
        cache.ids.get(subject)?.get(schema).copied()
    }

    fn kept(&self, id: u32) -> Option<Arc<WriterSchema>> {
        self.inner.cache.lock().by_id.get(&id).cloned()
    }

    fn unknown(&self, id: u32) -> RegistryError {
        RegistryError::Unknown {
            url: self.inner.url.clone(),
            id,
        }
    }

    fn unusable(&self, id: u32, reason: String) -> RegistryError {
        RegistryError::Unusable {
            url: self.inner.url.clone(),
            id,
            reason,
        }
    }
}

fn bounded<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if map.len() >= MOST_KEPT {
        map.clear();
    }
    map
}

/// The registry's own error code, where the failure was an answer.
fn code(error: &SRCError) -> Option<u32> {
    use std::error::Error as _;
    error
        .source()
        .and_then(|source| source.downcast_ref::<RawError>())
        .map(|raw| raw.error_code)
}

fn cause(error: &SRCError) -> String {
    error.cause.clone().unwrap_or_else(|| error.error.clone())
}

fn unreachable(url: &str, error: &SRCError) -> RegistryError {
    RegistryError::Unreachable {
        url: url.to_owned(),
        reason: cause(error),
    }
}
