//! What the registry knows: the sum of the topic's records, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::avro;
use crate::record::{ConfigValue, Level, Mode, ModeValue, Record, Reference, SchemaValue, Skip};

/// How many schemas one schema may refer to, directly and through others.
const MAX_REFERENCES: usize = 1_000;
/// How long their texts may be together, in bytes.
const MAX_REFERENCED_TEXT: usize = 16 * 1024 * 1024;
/// How deep references may lead to references.
const MAX_REFERENCE_DEPTH: usize = 64;

/// What makes two schemas the same one: then they share their id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// `None` for Avro.
    schema_type: Option<String>,
    text: String,
    references: Vec<Reference>,
}

impl Identity {
    /// An Avro schema by its canonical text.
    pub(crate) fn avro(canonical: String, references: Vec<Reference>) -> Self {
        Self {
            schema_type: None,
            text: canonical,
            references,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn references(&self) -> &[Reference] {
        &self.references
    }
}

/// A version of a subject, as it stands in the topic.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) value: Arc<SchemaValue>,
    pub(crate) identity: Arc<Identity>,
}

/// Why referenced schemas can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error(
        "no schema for the reference '{name}' to version {version} of subject '{subject}'; register that first"
    )]
    Unknown {
        name: String,
        subject: String,
        version: i32,
    },
    #[error("the reference '{name}' is to a {schema_type} schema; only AVRO is supported")]
    Type { name: String, schema_type: String },
    #[error(
        "too many references: more than {MAX_REFERENCES}, nested deeper than {MAX_REFERENCE_DEPTH}, or longer than {MAX_REFERENCED_TEXT} bytes together"
    )]
    TooMany,
}

type Holder = (String, i32);

#[derive(Clone, Debug)]
struct Id {
    identity: Arc<Identity>,
    holders: BTreeSet<Holder>,
}

/// The registry's content.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    subjects: BTreeMap<String, BTreeMap<i32, Version>>,
    ids: BTreeMap<i32, Id>,
    identities: HashMap<Arc<Identity>, BTreeSet<i32>>,
    referenced_by: HashMap<Holder, BTreeSet<Holder>>,
    configs: BTreeMap<Option<String>, ConfigValue>,
    modes: BTreeMap<Option<String>, ModeValue>,
    /// The largest id that was ever seen: ids of schemas that are gone are not given again.
    max_id: i32,
}

impl State {
    /// Takes a record of the topic in.
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), Skip> {
        match record {
            Record::Schema {
                subject,
                version,
                value: None,
            } => self.remove(&subject, version),
            Record::Schema {
                value: Some(value), ..
            } => self.put(value)?,
            Record::DeleteSubject { subject, up_to } => {
                if let (Some(up_to), Some(versions)) = (up_to, self.subjects.get_mut(&subject)) {
                    for (_, version) in versions.range_mut(..=up_to) {
                        Arc::make_mut(&mut version.value).deleted = true;
                    }
                }
            }
            Record::Config { subject, value } => set(&mut self.configs, subject, value),
            Record::Mode { subject, value } => set(&mut self.modes, subject, value),
            Record::Noop => {}
        }
        Ok(())
    }

    fn put(&mut self, value: SchemaValue) -> Result<(), Skip> {
        let holder = (value.subject.clone(), value.version);
        let identity = self.identity_of(&value);
        self.max_id = self.max_id.max(value.id);
        if let Some(id) = self.ids.get(&value.id)
            && *id.identity != identity
            && id.holders.iter().any(|other| *other != holder)
        {
            // Whoever came first keeps the id. The other writer sees that its record did not count and writes it anew.
            return Err(Skip::IdConflict);
        }
        self.remove(&holder.0, holder.1);
        let identity = match self.identities.get_key_value(&identity) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(identity),
        };
        for reference in &value.references {
            self.referenced_by
                .entry((reference.subject.clone(), reference.version))
                .or_default()
                .insert(holder.clone());
        }
        self.identities
            .entry(Arc::clone(&identity))
            .or_default()
            .insert(value.id);
        self.ids
            .entry(value.id)
            .or_insert_with(|| Id {
                identity: Arc::clone(&identity),
                holders: BTreeSet::new(),
            })
            .holders
            .insert(holder);
        self.subjects
            .entry(value.subject.clone())
            .or_default()
            .insert(
                value.version,
                Version {
                    value: Arc::new(value),
                    identity,
                },
            );
        Ok(())
    }

    fn remove(&mut self, subject: &str, version: i32) {
        let Some(versions) = self.subjects.get_mut(subject) else {
            return;
        };
        let Some(removed) = versions.remove(&version) else {
            return;
        };
        if versions.is_empty() {
            self.subjects.remove(subject);
        }
        let holder = (subject.to_owned(), version);
        for reference in &removed.value.references {
            let target = (reference.subject.clone(), reference.version);
            if let Some(holders) = self.referenced_by.get_mut(&target) {
                holders.remove(&holder);
                if holders.is_empty() {
                    self.referenced_by.remove(&target);
                }
            }
        }
        let id = removed.value.id;
        let Some(entry) = self.ids.get_mut(&id) else {
            return;
        };
        entry.holders.remove(&holder);
        if entry.holders.is_empty() {
            self.ids.remove(&id);
            if let Some(ids) = self.identities.get_mut(&removed.identity) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.identities.remove(&removed.identity);
                }
            }
        }
    }

    /// The identity of what another registry may have written: canonical where it parses, the text as it is otherwise.
    fn identity_of(&self, value: &SchemaValue) -> Identity {
        let schema_type = value
            .schema_type
            .clone()
            .filter(|schema_type| schema_type != AVRO);
        let canonical = match &schema_type {
            Some(_) => None,
            None => self
                .referenced_texts(&value.references)
                .ok()
                .and_then(|texts| {
                    avro::parse(&value.schema, texts.iter().map(|text| text.as_str())).ok()
                })
                .map(|schema| schema.canonical()),
        };
        Identity {
            schema_type,
            text: canonical.unwrap_or_else(|| value.schema.clone()),
            references: value.references.clone(),
        }
    }

    /// The texts that define the referenced names, each after those it refers to itself.
    pub(crate) fn referenced_texts(
        &self,
        references: &[Reference],
    ) -> Result<Vec<ReferencedText>, ReferenceError> {
        let mut collected = Collected::default();
        self.collect(references, 0, &mut collected)?;
        Ok(collected.texts)
    }

    fn collect(
        &self,
        references: &[Reference],
        depth: usize,
        into: &mut Collected,
    ) -> Result<(), ReferenceError> {
        if depth > MAX_REFERENCE_DEPTH {
            return Err(ReferenceError::TooMany);
        }
        for reference in references {
            if !into
                .seen
                .insert((reference.subject.clone(), reference.version))
            {
                continue;
            }
            let found = self
                .version(&reference.subject, reference.version)
                .ok_or_else(|| ReferenceError::Unknown {
                    name: reference.name.clone(),
                    subject: reference.subject.clone(),
                    version: reference.version,
                })?;
            if let Some(schema_type) = &found.identity.schema_type {
                return Err(ReferenceError::Type {
                    name: reference.name.clone(),
                    schema_type: schema_type.clone(),
                });
            }
            into.bytes += found.value.schema.len();
            if into.seen.len() > MAX_REFERENCES || into.bytes > MAX_REFERENCED_TEXT {
                return Err(ReferenceError::TooMany);
            }
            self.collect(&found.value.references, depth + 1, into)?;
            into.texts.push(ReferencedText(Arc::clone(&found.value)));
        }
        Ok(())
    }

    pub(crate) fn max_id(&self) -> i32 {
        self.max_id
    }

    pub(crate) fn subject_names(&self) -> impl Iterator<Item = &String> {
        self.subjects.keys()
    }

    pub(crate) fn subject_count(&self) -> usize {
        self.subjects.len()
    }

    pub(crate) fn schema_count(&self) -> usize {
        self.ids.len()
    }

    /// All versions, those deleted softly too, oldest first; empty where the subject is unknown.
    pub(crate) fn versions(&self, subject: &str) -> impl DoubleEndedIterator<Item = &Version> {
        self.subjects
            .get(subject)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The versions that are not deleted, oldest first.
    pub(crate) fn live_versions(&self, subject: &str) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions(subject)
            .filter(|version| !version.value.deleted)
    }

    pub(crate) fn version(&self, subject: &str, version: i32) -> Option<&Version> {
        self.subjects.get(subject)?.get(&version)
    }

    pub(crate) fn all_versions(&self) -> impl Iterator<Item = &Version> {
        self.subjects.values().flat_map(BTreeMap::values)
    }

    /// Some version with this id (their schemas are the same), one that is not deleted if there is any.
    pub(crate) fn by_id(&self, id: i32) -> Option<&Version> {
        let mut any = None;
        for version in self.holders(id) {
            if !version.value.deleted {
                return Some(version);
            }
            any = Some(version);
        }
        any
    }

    /// Every version with this id.
    pub(crate) fn holders(&self, id: i32) -> impl Iterator<Item = &Version> {
        self.ids
            .get(&id)
            .into_iter()
            .flat_map(|id| &id.holders)
            .filter_map(|(subject, version)| self.version(subject, *version))
    }

    pub(crate) fn id_of(&self, identity: &Identity) -> Option<i32> {
        self.identities
            .get(identity)
            .and_then(|ids| ids.first())
            .copied()
    }

    /// The ids of the versions that refer to this one and are not deleted.
    pub(crate) fn referenced_by(&self, subject: &str, version: i32) -> BTreeSet<i32> {
        self.referenced_by
            .get(&(subject.to_owned(), version))
            .into_iter()
            .flatten()
            .filter_map(|(subject, version)| self.version(subject, *version))
            .filter(|version| !version.value.deleted)
            .map(|version| version.value.id)
            .collect()
    }

    pub(crate) fn config(&self, subject: Option<&str>) -> Option<&ConfigValue> {
        self.configs.get(&subject.map(str::to_owned))
    }

    pub(crate) fn mode(&self, subject: Option<&str>) -> Option<Mode> {
        self.modes
            .get(&subject.map(str::to_owned))
            .map(|value| value.mode)
    }

    /// The level that counts for a subject: its own, the global one, or the default, BACKWARD.
    pub(crate) fn level(&self, subject: Option<&str>) -> Level {
        subject
            .and_then(|subject| self.config(Some(subject)))
            .and_then(|config| config.compatibility_level)
            .or_else(|| {
                self.config(None)
                    .and_then(|config| config.compatibility_level)
            })
            .unwrap_or(Level::Backward)
    }

    /// Whether new schemas of a subject are normalised although the request does not ask for it.
    pub(crate) fn normalizes(&self, subject: &str) -> bool {
        self.config(Some(subject))
            .and_then(|config| config.normalize)
            .or_else(|| self.config(None).and_then(|config| config.normalize))
            .unwrap_or(false)
    }

    /// The mode that counts for a subject: a global READONLY_OVERRIDE, its own, the global one, or READWRITE.
    pub(crate) fn mode_in_force(&self, subject: Option<&str>) -> Mode {
        let global = self.mode(None);
        if global == Some(Mode::ReadonlyOverride) {
            return Mode::ReadonlyOverride;
        }
        subject
            .and_then(|subject| self.mode(Some(subject)))
            .or(global)
            .unwrap_or(Mode::Readwrite)
    }
}

/// The schema type that needs no word in records and answers.
pub(crate) const AVRO: &str = "AVRO";

/// The text of a referenced schema, shared with the state.
pub(crate) struct ReferencedText(Arc<SchemaValue>);

impl ReferencedText {
    pub(crate) fn as_str(&self) -> &str {
        &self.0.schema
    }
}

#[derive(Default)]
struct Collected {
    seen: HashSet<Holder>,
    bytes: usize,
    texts: Vec<ReferencedText>,
}

fn set<T>(map: &mut BTreeMap<Option<String>, T>, subject: Option<String>, value: Option<T>) {
    match value {
        Some(value) => map.insert(subject, value),
        None => map.remove(&subject),
    };
}
