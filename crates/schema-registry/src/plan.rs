//! What a registration or a check comes to, from the state alone.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::avro;
use crate::error::ApiError;
use crate::record::{Level, Mode, Reference, SchemaValue};
use crate::state::{AVRO, Identity, State, Version};

/// A schema as clients send it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SchemaRequest {
    schema: Option<String>,
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
    id: Option<i32>,
    version: Option<i32>,
    metadata: Option<Value>,
    rule_set: Option<Value>,
}

/// A schema that was parsed.
pub(crate) struct Prepared {
    pub(crate) schema: avro::Schema,
    pub(crate) identity: Identity,
}

/// Whether changes are allowed.
pub(crate) fn writable(state: &State, subject: Option<&str>) -> Result<(), ApiError> {
    match state.mode_in_force(subject) {
        Mode::Readwrite | Mode::Import => Ok(()),
        Mode::Readonly | Mode::ReadonlyOverride => Err(ApiError::not_permitted(match subject {
            Some(subject) => format!("Subject '{subject}' is in read-only mode"),
            None => "The registry is in read-only mode".to_owned(),
        })),
    }
}

fn given(number: Option<i32>) -> Option<i32> {
    number.filter(|number| *number > 0)
}

/// Parses what the client sent.
pub(crate) fn prepare(
    state: &State,
    subject: &str,
    request: &SchemaRequest,
    normalize: bool,
) -> Result<Prepared, ApiError> {
    if let Some(schema_type) = request.schema_type.as_deref()
        && schema_type != AVRO
    {
        return Err(ApiError::invalid_schema(format_args!(
            "schema type {schema_type} is not supported; this registry takes {AVRO} only"
        )));
    }
    if request.metadata.is_some() || request.rule_set.is_some() {
        return Err(ApiError::invalid_schema(
            "metadata and ruleSet are not supported by this registry",
        ));
    }
    let text = request
        .schema
        .as_deref()
        .filter(|text| !text.trim().is_empty())
        .ok_or_else(|| ApiError::invalid_schema("Empty schema"))?;
    let mut references = request.references.clone().unwrap_or_default();
    for reference in &mut references {
        if reference.version == -1 {
            reference.version = state
                .live_versions(&reference.subject)
                .next_back()
                .map_or(-1, |latest| latest.value.version);
        }
    }
    let normalize = normalize || state.normalizes(subject);
    if normalize {
        references.sort_by(|left, right| left.name.cmp(&right.name));
        references.dedup();
    }
    let texts = state
        .referenced_texts(&references)
        .map_err(ApiError::invalid_schema)?;
    let schema = avro::parse(text, texts.iter().map(|text| text.as_str()))
        .map_err(ApiError::invalid_schema)?;
    let text = if normalize {
        schema.normalized()
    } else {
        schema.canonical()
    };
    Ok(Prepared {
        schema,
        identity: Identity::avro(text, references),
    })
}

/// The id under which the schema is registered for the subject already.
pub(crate) fn registered(
    state: &State,
    subject: &str,
    request: &SchemaRequest,
    prepared: &Prepared,
) -> Option<i32> {
    state
        .live_versions(subject)
        .rev()
        .find(|version| *version.identity == prepared.identity)
        .filter(|version| given(request.id).is_none_or(|id| id == version.value.id))
        .filter(|version| given(request.version).is_none_or(|given| given == version.value.version))
        .map(|version| version.value.id)
}

/// What a registration comes to.
pub(crate) enum Plan {
    Known(i32),
    Write(SchemaValue),
}

/// Decides what a registration comes to, by the mode, the level and what is there.
pub(crate) fn plan(
    state: &State,
    subject: &str,
    request: &SchemaRequest,
    prepared: Prepared,
) -> Result<Plan, ApiError> {
    if let Some(id) = registered(state, subject, request, &prepared) {
        return Ok(Plan::Known(id));
    }
    writable(state, Some(subject))?;
    let importing = state.mode_in_force(Some(subject)) == Mode::Import;
    let next = state
        .versions(subject)
        .next_back()
        .map_or(0, |last| last.value.version)
        .checked_add(1)
        .ok_or_else(|| ApiError::store("the subject has no version numbers left"))?;
    let (id, version) = match (importing, given(request.id)) {
        (false, Some(_)) => {
            return Err(ApiError::not_permitted(format!(
                "Subject '{subject}' is not in import mode: an id can't be given"
            )));
        }
        (true, None) => {
            return Err(ApiError::not_permitted(format!(
                "Subject '{subject}' is in import mode: an id has to be given"
            )));
        }
        (true, Some(id)) => {
            let version = given(request.version).unwrap_or(next);
            importable(state, subject, id, version, &prepared.identity)?;
            (id, version)
        }
        (false, None) => {
            if given(request.version).is_some_and(|version| version != next) {
                return Err(ApiError::invalid_schema(
                    "Version is not one more than previous version",
                ));
            }
            let earlier: Vec<&Version> = state.live_versions(subject).collect();
            let level = state.level(Some(subject));
            let reasons = incompatibilities(state, level, &prepared.schema, &earlier)?;
            if !reasons.is_empty() {
                return Err(ApiError::incompatible(subject, &reasons));
            }
            let id = match state.id_of(&prepared.identity) {
                Some(id) => id,
                None => state
                    .max_id()
                    .checked_add(1)
                    .ok_or_else(|| ApiError::store("no ids are left"))?,
            };
            (id, next)
        }
    };
    Ok(Plan::Write(SchemaValue {
        subject: subject.to_owned(),
        version,
        id,
        schema_type: None,
        references: prepared.identity.references().to_vec(),
        schema: prepared.identity.text().to_owned(),
        deleted: false,
        extra: Map::new(),
    }))
}

/// Whether an import may use the id and the version.
fn importable(
    state: &State,
    subject: &str,
    id: i32,
    version: i32,
    identity: &Identity,
) -> Result<(), ApiError> {
    if state
        .by_id(id)
        .is_some_and(|known| *known.identity != *identity)
    {
        return Err(ApiError::id_mismatch(format!(
            "Overwrite new schema with id {id} is not permitted."
        )));
    }
    if state
        .version(subject, version)
        .is_some_and(|known| *known.identity != *identity)
    {
        return Err(ApiError::id_mismatch(format!(
            "Subject '{subject}' has another schema as version {version}"
        )));
    }
    Ok(())
}

/// Why a new schema does not go with earlier ones (oldest first), at a level.
pub(crate) fn incompatibilities(
    state: &State,
    level: Level,
    new: &avro::Schema,
    earlier: &[&Version],
) -> Result<Vec<String>, ApiError> {
    let count = match level {
        Level::None => 0,
        _ if level.transitive() => earlier.len(),
        _ => 1,
    };
    let mut budget = avro::Budget::default();
    for version in earlier.iter().rev().take(count) {
        let reasons = against(state, level, new, version, &mut budget)?;
        if !reasons.is_empty() {
            return Ok(reasons);
        }
    }
    Ok(Vec::new())
}

fn against(
    state: &State,
    level: Level,
    new: &avro::Schema,
    version: &Version,
    budget: &mut avro::Budget,
) -> Result<Vec<String>, ApiError> {
    let old = match old_schema(state, version) {
        Ok(old) => old,
        Err(message) => return Ok(vec![message]),
    };
    let mut found = Vec::new();
    if level.backward() {
        let reasons = avro::can_read(new, &old, budget).map_err(ApiError::invalid_schema)?;
        found.extend(reasons.iter().map(|reason| described(reason, "new", "old")));
    }
    if level.forward() {
        let reasons = avro::can_read(&old, new, budget).map_err(ApiError::invalid_schema)?;
        found.extend(reasons.iter().map(|reason| described(reason, "old", "new")));
    }
    if !found.is_empty() {
        found.push(format!("{{oldSchemaVersion: {}}}", version.value.version));
        found.push(format!("{{oldSchema: '{}'}}", version.value.schema));
        found.push(format!("{{compatibility: '{}'}}", level.as_str()));
    }
    Ok(found)
}

fn old_schema(state: &State, version: &Version) -> Result<avro::Schema, String> {
    let number = version.value.version;
    if let Some(schema_type) = version.value.schema_type.as_deref()
        && schema_type != AVRO
    {
        return Err(format!(
            "version {number} is a {schema_type} schema, the new one is {AVRO}"
        ));
    }
    let texts = state
        .referenced_texts(&version.value.references)
        .map_err(|error| format!("version {number} can't be compared: {error}"))?;
    avro::parse(
        &version.value.schema,
        texts.iter().map(|text| text.as_str()),
    )
    .map_err(|error| format!("version {number} can't be compared: {error}"))
}

/// In the form that Confluent's registry gives these messages, which tools pick apart.
fn described(reason: &avro::Incompatibility, reader: &str, writer: &str) -> String {
    format!(
        "{{errorType:'{}', description:'reading with the {reader} schema what the {writer} schema wrote: {}', path:'{}'}}",
        reason.kind, reason.message, reason.path
    )
}
