use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use records::Schema;
use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_referenced_schema, get_schema_by_id, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{
    RawError, RegisteredReference, SchemaType, SuppliedReference, SuppliedSchema,
};
use service::tls::Tls;

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

/// A schema of any kind as one registry holds it, with all it refers to, for another registry.
#[derive(Clone, Debug)]
pub struct SchemaDocument {
    /// Its id at the registry it came from.
    pub id: u32,
    supplied: SuppliedSchema,
}

impl SchemaDocument {
    /// Its text.
    pub fn text(&self) -> &str {
        &self.supplied.schema
    }

    /// The subjects it refers to directly.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.supplied.references.iter().map(|r| r.subject.as_str())
    }
}

/// The client of one schema registry, with its answers kept: schemas never change under their id.
#[derive(Clone)]
pub struct SchemaRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    tls: Tls,
    /// Of which generation of certificates, and the client with them.
    settings: Mutex<(u64, SrSettings)>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    by_id: HashMap<u32, Arc<WriterSchema>>,
    documents: HashMap<u32, Arc<SchemaDocument>>,
    /// Subject → schema text → id.
    ids: HashMap<String, HashMap<String, u32>>,
}

/// The most answers of one kind that are kept; then that kind starts over.
const MOST_KEPT: usize = 10_000;
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The most schemas that one refers to, directly or not.
const MOST_REFERENCES: usize = 200;

impl SchemaRegistry {
    /// The client of the registry at `url`, such as `http://127.0.0.1:8081`. Calls end after 10 s.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        Self::with_tls(url, Tls::none())
    }

    /// The same with certificates, which are taken up anew when they change.
    ///
    /// # Errors
    /// When the HTTP client can't be made.
    pub fn with_tls(url: &str, tls: Tls) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let generation = tls.current().generation();
        let settings = settings(&url, &tls)?;
        let cache = Mutex::new(Cache::default());
        Ok(Self {
            inner: Arc::new(Inner {
                url,
                tls,
                settings: Mutex::new((generation, settings)),
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
        self.check(id)?;
        if let Some(known) = self.kept(id) {
            return Ok(known);
        }
        let answer = get_schema_by_id(id, &self.inner.settings()).await;
        let text = match answer {
            Ok(registered) if registered.schema_type == SchemaType::Avro => registered.schema,
            Ok(other) => return Err(self.unusable(id, format!("it is {:?}", other.schema_type))),
            // Never kept: the id may be given out a moment later, and its records are good then.
            Err(error) if code(&error) == Some(40403) => return Err(self.unknown(id)),
            Err(error) => return Err(self.inner.unreachable(&error)),
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
        match post_schema(&self.inner.settings(), subject.to_owned(), supplied).await {
            Ok(registered) => {
                let mut cache = self.inner.cache.lock();
                let ids = bounded(&mut cache.ids)
                    .entry(subject.to_owned())
                    .or_default();
                bounded(ids).insert(schema.to_owned(), registered.id);
                Ok(registered.id)
            }
            Err(error) => Err(self.not_registered(subject, &error)),
        }
    }

    /// The schema with this id, of whatever kind, with all it refers to; for [`SchemaRegistry::register_document`] of
    /// another registry. At most 200 references, however deep.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Unusable`] or [`RegistryError::Unreachable`].
    pub async fn document(&self, id: u32) -> Result<Arc<SchemaDocument>, RegistryError> {
        self.check(id)?;
        let kept = self.inner.cache.lock().documents.get(&id).cloned();
        if let Some(known) = kept {
            return Ok(known);
        }
        let root = match get_schema_by_id(id, &self.inner.settings()).await {
            Ok(root) => root,
            Err(error) if code(&error) == Some(40403) => return Err(self.unknown(id)),
            Err(error) => return Err(self.inner.unreachable(&error)),
        };
        let mut budget = MOST_REFERENCES;
        let references = self.referred_to(id, root.references, &mut budget).await?;
        let supplied =
            SuppliedSchema::new(None, root.schema_type, root.schema).with_references(references);
        let found = Arc::new(SchemaDocument { id, supplied });
        let mut cache = self.inner.cache.lock();
        bounded(&mut cache.documents).insert(id, Arc::clone(&found));
        Ok(found)
    }

    /// `id` is the schema they belong to, for the error's sake.
    async fn referred_to(
        &self,
        id: u32,
        references: Vec<RegisteredReference>,
        budget: &mut usize,
    ) -> Result<Vec<SuppliedReference>, RegistryError> {
        let mut supplied = Vec::with_capacity(references.len().min(MOST_REFERENCES));
        for reference in references {
            *budget = budget.checked_sub(1).ok_or_else(|| {
                self.unusable(
                    id,
                    format!("it refers to more than {MOST_REFERENCES} schemas"),
                )
            })?;
            let found = match get_referenced_schema(&self.inner.settings(), &reference).await {
                Ok(found) => found,
                // No such subject, version or schema.
                Err(error) if matches!(code(&error), Some(40401..=40403)) => {
                    let reason = format!(
                        "it refers to version {} of subject '{}', which is not there",
                        reference.version, reference.subject
                    );
                    return Err(self.unusable(id, reason));
                }
                Err(error) => return Err(self.inner.unreachable(&error)),
            };
            // Boxed, as the depth is the schema's to choose.
            let nested = Box::pin(self.referred_to(id, found.references, budget)).await?;
            supplied.push(
                SuppliedReference::new(reference.name, reference.subject, found.schema)
                    .with_references(nested),
            );
        }
        Ok(supplied)
    }

    /// The id of a schema that another registry gave, under this subject; registers it, and before it what it refers
    /// to under the subjects it has there, where they are new.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] or [`RegistryError::Unreachable`].
    pub async fn register_document(
        &self,
        subject: &str,
        document: &SchemaDocument,
    ) -> Result<u32, RegistryError> {
        let plain = document.supplied.schema_type == SchemaType::Avro
            && document.supplied.references.is_empty();
        if plain {
            return self.register(subject, document.text()).await;
        }
        let supplied = document.supplied.clone();
        match post_schema(&self.inner.settings(), subject.to_owned(), supplied).await {
            Ok(registered) => Ok(registered.id),
            Err(error) => Err(self.not_registered(subject, &error)),
        }
    }

    fn not_registered(&self, subject: &str, error: &SRCError) -> RegistryError {
        match code(error) {
            // 42205 is not among them: a registry that is read-only now says nothing about the schema.
            Some(code @ (409 | 40901 | 42201 | 40301)) => RegistryError::Refused {
                url: self.inner.url.clone(),
                subject: subject.to_owned(),
                reason: format!("{} ({code})", cause(error)),
            },
            _ => self.inner.unreachable(error),
        }
    }

    fn kept_id(&self, subject: &str, schema: &str) -> Option<u32> {
        let cache = self.inner.cache.lock();
        cache.ids.get(subject)?.get(schema).copied()
    }

    fn kept(&self, id: u32) -> Option<Arc<WriterSchema>> {
        self.inner.cache.lock().by_id.get(&id).cloned()
    }

    /// Registries have ids that are Java's ints. For a larger one they know no such page, instead of no such schema, and
    /// bytes that only look like Avro would be asked about for ever.
    fn check(&self, id: u32) -> Result<(), RegistryError> {
        match i32::try_from(id) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.unknown(id)),
        }
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

/// The registry's own error code, where the failure was an answer: for a reference it stands deeper.
fn code(error: &SRCError) -> Option<u32> {
    use std::error::Error as _;
    let mut reason = error.source();
    while let Some(inner) = reason {
        if let Some(raw) = inner.downcast_ref::<RawError>() {
            return Some(raw.error_code);
        }
        reason = inner.source();
    }
    None
}

fn cause(error: &SRCError) -> String {
    error.cause.clone().unwrap_or_else(|| error.error.clone())
}

impl Inner {
    /// The client for the next call.
    fn settings(&self) -> SrSettings {
        let generation = self.tls.current().generation();
        let mut kept = self.settings.lock();
        if kept.0 != generation {
            kept.0 = generation;
            match settings(&self.url, &self.tls) {
                Ok(made) => kept.1 = made,
                Err(error) => {
                    tracing::error!(%error, "renewed certificates can't be used for the schema registry; the old ones stay in use");
                }
            }
        }
        kept.1.clone()
    }

    fn unreachable(&self, error: &SRCError) -> RegistryError {
        RegistryError::Unreachable {
            url: self.url.clone(),
            reason: self.tls.explain(causes(error)),
        }
    }
}

fn settings(url: &str, tls: &Tls) -> Result<SrSettings, RegistryError> {
    let failed = |reason: String| RegistryError::Unreachable {
        url: url.to_owned(),
        reason,
    };
    let client = tls
        .apply(reqwest::Client::builder())
        .map_err(|error| failed(error.to_string()))?;
    SrSettings::new_builder(url.to_owned())
        .set_timeout(CALL_LIMIT)
        .no_proxy()
        .build_with(client)
        .map_err(|error| failed(cause(&error)))
}

/// All that led to an error: the outermost says only that a request failed.
fn causes(error: &SRCError) -> String {
    use std::error::Error as _;
    let mut text = cause(error);
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = inner.source();
    }
    text
}
