//! What can be done with the registry: Confluent's operations, on the state and the topic.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::error::ApiError;
use crate::plan::{Plan, SchemaRequest, incompatibilities, plan, prepare, registered, writable};
use crate::record::{ConfigValue, Level, Mode, ModeValue, Record, SchemaValue};
use crate::state::{State, Version};
use crate::store::{Store, StoreError};

/// Changes that may wait for their turn.
const MAX_WAITING_WRITES: usize = 256;
/// Schemas that are parsed and compared at the same time; others wait.
const MAX_PARALLEL_CHECKS: usize = 4;
/// How often a change is tried again when another registry came between.
const ATTEMPTS: usize = 5;

/// Which version of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionId {
    Latest,
    Number(i32),
}

/// What a compatibility check is made against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// One version, whatever the level says about transitivity.
    Version(VersionId),
    /// What a registration would be checked against.
    Subject,
}

/// The registry's operations.
pub(crate) struct Operations {
    store: Arc<Store>,
    /// One change at a time: ids and versions are given from what was read.
    turn: Mutex<()>,
    waiting: Semaphore,
    checks: Semaphore,
    patience: Duration,
}

/// The right to change, with the topic read to its end.
struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    _turn: MutexGuard<'a, ()>,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Loading(reason) => Self::loading(reason),
            StoreError::Unavailable { .. } => Self::store(error),
            StoreError::Timeout { .. } => Self::store_timeout(error),
            StoreError::TooLarge { .. } => Self::invalid_schema(error),
        }
    }
}

impl Operations {
    pub(crate) fn new(store: Arc<Store>, patience: Duration) -> Self {
        Self {
            store,
            turn: Mutex::new(()),
            waiting: Semaphore::new(MAX_WAITING_WRITES),
            checks: Semaphore::new(MAX_PARALLEL_CHECKS),
            patience,
        }
    }

    /// Reads from the state.
    pub(crate) fn view<T>(
        &self,
        read: impl FnOnce(&State) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let state = self.store.state()?;
        read(&state)
    }

    /// The same on a thread of its own, for what parses or compares schemas.
    async fn heavy<T: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _permit = self.checks.acquire().await.map_err(ApiError::store)?;
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || {
            // A snapshot would cost more than the reader waiting a moment: checks are bounded.
            let state = store.state()?;
            work(&state)
        })
        .await
        .map_err(ApiError::store)?
    }

    async fn turn(&self) -> Result<Turn<'_>, ApiError> {
        let permit = self.waiting.try_acquire().map_err(|_| ApiError::busy())?;
        let turn = tokio::time::timeout(self.patience * 4, self.turn.lock())
            .await
            .map_err(|_| ApiError::store_timeout("other changes are still being made"))?;
        self.store.catch_up().await?;
        Ok(Turn {
            _permit: permit,
            _turn: turn,
        })
    }

    /// Registers a schema, or finds it registered: its id.
    pub(crate) async fn register(
        &self,
        subject: String,
        request: SchemaRequest,
        normalize: bool,
    ) -> Result<i32, ApiError> {
        let request = Arc::new(request);
        {
            // A schema that is there is answered without Kafka, so that producers can start while it is away.
            let (subject, request) = (subject.clone(), Arc::clone(&request));
            let known = self
                .heavy(move |state| {
                    let prepared = prepare(state, &subject, &request, normalize)?;
                    Ok(registered(state, &subject, &request, &prepared))
                })
                .await?;
            if let Some(id) = known {
                return Ok(id);
            }
        }
        let _turn = self.turn().await?;
        for _ in 0..ATTEMPTS {
            let plan = {
                let (subject, request) = (subject.clone(), Arc::clone(&request));
                self.heavy(move |state| {
                    let prepared = prepare(state, &subject, &request, normalize)?;
                    plan(state, &subject, &request, prepared)
                })
                .await?
            };
            let value = match plan {
                Plan::Known(id) => return Ok(id),
                Plan::Write(value) => value,
            };
            let (id, version) = (value.id, value.version);
            let text = value.schema.clone();
            self.store
                .write(&[Record::Schema {
                    subject: subject.clone(),
                    version,
                    value: Some(value),
                }])
                .await?;
            // What counts is what was read back: another registry may have written in between.
            let counted = self
                .store
                .state()?
                .version(&subject, version)
                .is_some_and(|read| read.value.id == id && read.value.schema == text);
            if counted {
                return Ok(id);
            }
            tracing::warn!(
                subject,
                id,
                version,
                "another registry took the id or version; trying again"
            );
        }
        Err(ApiError::store(
            "another registry writes to the same topic at the same time",
        ))
    }

    /// Finds a schema under a subject.
    pub(crate) async fn look_up(
        &self,
        subject: String,
        request: SchemaRequest,
        normalize: bool,
        deleted: bool,
    ) -> Result<Version, ApiError> {
        self.heavy(move |state| {
            if !state
                .versions(&subject)
                .any(|found| deleted || !found.value.deleted)
            {
                return Err(ApiError::subject_not_found(&subject));
            }
            let prepared = prepare(state, &subject, &request, normalize)?;
            let found = state
                .versions(&subject)
                .rev()
                .filter(|found| deleted || !found.value.deleted)
                .find(|found| *found.identity == prepared.identity)
                .cloned();
            found.ok_or_else(ApiError::schema_not_found)
        })
        .await
    }

    /// Checks a schema against earlier ones; the reasons why it is not compatible, none if it is.
    pub(crate) async fn check(
        &self,
        subject: String,
        against: Against,
        request: SchemaRequest,
        normalize: bool,
    ) -> Result<Vec<String>, ApiError> {
        self.heavy(move |state| {
            let earlier: Vec<&Version> = match against {
                Against::Subject => state.live_versions(&subject).collect(),
                Against::Version(VersionId::Latest) => state
                    .live_versions(&subject)
                    .next_back()
                    .into_iter()
                    .collect(),
                Against::Version(VersionId::Number(number)) => vec![
                    state
                        .version(&subject, number)
                        .filter(|version| !version.value.deleted)
                        .ok_or_else(|| ApiError::version_not_found(number))?,
                ],
            };
            let prepared = prepare(state, &subject, &request, normalize)?;
            incompatibilities(
                state,
                state.level(Some(&subject)),
                &prepared.schema,
                &earlier,
            )
        })
        .await
    }

    /// Deletes a subject, softly or for good: the versions that were deleted.
    pub(crate) async fn delete_subject(
        &self,
        subject: String,
        permanent: bool,
    ) -> Result<Vec<i32>, ApiError> {
        let _turn = self.turn().await?;
        let (versions, records) = self.view(|state| {
            let all: Vec<&Version> = state.versions(&subject).collect();
            if all.is_empty() {
                return Err(ApiError::subject_not_found(&subject));
            }
            writable(state, Some(&subject))?;
            let live: Vec<i32> = numbers(state.live_versions(&subject));
            let mut records = Vec::new();
            let gone = if permanent {
                if !live.is_empty() {
                    return Err(ApiError::subject_not_soft_deleted(&subject));
                }
                let all = numbers(all);
                records.extend(all.iter().map(|version| Record::Schema {
                    subject: subject.clone(),
                    version: *version,
                    value: None,
                }));
                all
            } else {
                let last = *live
                    .last()
                    .ok_or_else(|| ApiError::subject_soft_deleted(&subject))?;
                records.push(Record::DeleteSubject {
                    subject: subject.clone(),
                    up_to: Some(last),
                });
                live
            };
            for version in &gone {
                if !state.referenced_by(&subject, *version).is_empty() {
                    return Err(ApiError::referenced(&subject, *version));
                }
            }
            // What was configured for the subject goes with it.
            if state.config(Some(&subject)).is_some() {
                records.push(Record::Config {
                    subject: Some(subject.clone()),
                    value: None,
                });
            }
            if state.mode(Some(&subject)).is_some() {
                records.push(Record::Mode {
                    subject: Some(subject.clone()),
                    value: None,
                });
            }
            Ok((gone, records))
        })?;
        self.store.write(&records).await?;
        Ok(versions)
    }

    /// Deletes a version, softly or for good: its number.
    pub(crate) async fn delete_version(
        &self,
        subject: String,
        version: VersionId,
        permanent: bool,
    ) -> Result<i32, ApiError> {
        let _turn = self.turn().await?;
        let record = self.view(|state| {
            if state.versions(&subject).next().is_none() {
                return Err(ApiError::subject_not_found(&subject));
            }
            let found = match version {
                VersionId::Latest if permanent => state.versions(&subject).next_back(),
                VersionId::Latest => state.live_versions(&subject).next_back(),
                VersionId::Number(number) => state.version(&subject, number),
            };
            let found = found.ok_or_else(|| match version {
                VersionId::Latest => ApiError::subject_soft_deleted(&subject),
                VersionId::Number(number) => ApiError::version_not_found(number),
            })?;
            writable(state, Some(&subject))?;
            let number = found.value.version;
            match (permanent, found.value.deleted) {
                (false, true) => return Err(ApiError::version_soft_deleted(&subject, number)),
                (true, false) => return Err(ApiError::version_not_soft_deleted(&subject, number)),
                _ => {}
            }
            if !state.referenced_by(&subject, number).is_empty() {
                return Err(ApiError::referenced(&subject, number));
            }
            let value = (!permanent).then(|| SchemaValue {
                deleted: true,
                ..found.value.as_ref().clone()
            });
            Ok(Record::Schema {
                subject: subject.clone(),
                version: number,
                value,
            })
        })?;
        let number = match &record {
            Record::Schema { version, .. } => *version,
            _ => 0,
        };
        self.store.write(&[record]).await?;
        Ok(number)
    }

    /// Sets a subject's configuration, or the global one; what stays `None` is left as it is.
    pub(crate) async fn set_config(
        &self,
        subject: Option<String>,
        level: Option<Level>,
        normalize: Option<bool>,
    ) -> Result<(), ApiError> {
        let _turn = self.turn().await?;
        let value = self.view(|state| {
            writable(state, subject.as_deref())?;
            let before = state
                .config(subject.as_deref())
                .cloned()
                .unwrap_or_default();
            Ok(ConfigValue {
                compatibility_level: level.or(before.compatibility_level),
                normalize: normalize.or(before.normalize),
                extra: before.extra,
            })
        })?;
        let record = Record::Config {
            subject,
            value: Some(value),
        };
        Ok(self.store.write(&[record]).await?)
    }

    /// Takes a subject's configuration back, or the global one: what it was.
    pub(crate) async fn delete_config(
        &self,
        subject: Option<String>,
    ) -> Result<ConfigValue, ApiError> {
        let _turn = self.turn().await?;
        let before = self.view(|state| {
            writable(state, subject.as_deref())?;
            match (state.config(subject.as_deref()), &subject) {
                (Some(config), _) => Ok(config.clone()),
                (None, Some(subject)) => Err(ApiError::subject_not_found(subject)),
                (None, None) => Ok(ConfigValue {
                    compatibility_level: Some(state.level(None)),
                    ..ConfigValue::default()
                }),
            }
        })?;
        let record = Record::Config {
            subject,
            value: None,
        };
        self.store.write(&[record]).await?;
        Ok(before)
    }

    /// Sets a subject's mode, or the global one.
    pub(crate) async fn set_mode(
        &self,
        subject: Option<String>,
        mode: Mode,
        force: bool,
    ) -> Result<(), ApiError> {
        let _turn = self.turn().await?;
        self.view(|state| {
            if mode == Mode::ReadonlyOverride && subject.is_some() {
                return Err(ApiError::invalid_mode("READONLY_OVERRIDE for a subject"));
            }
            let occupied = match &subject {
                Some(subject) => state.live_versions(subject).next().is_some(),
                None => state.all_versions().any(|version| !version.value.deleted),
            };
            let before = state.mode_in_force(subject.as_deref());
            if mode == Mode::Import && before != Mode::Import && occupied && !force {
                return Err(ApiError::not_permitted(
                    "Cannot import since found existing schemas; delete them or set force=true",
                ));
            }
            Ok(())
        })?;
        let record = Record::Mode {
            subject,
            value: Some(ModeValue { mode }),
        };
        Ok(self.store.write(&[record]).await?)
    }

    /// Takes a subject's mode back, or the global one: what it was.
    pub(crate) async fn delete_mode(&self, subject: Option<String>) -> Result<Mode, ApiError> {
        let _turn = self.turn().await?;
        let before = self.view(|state| match (state.mode(subject.as_deref()), &subject) {
            (Some(mode), _) => Ok(mode),
            (None, Some(subject)) => Err(ApiError::subject_not_found(subject)),
            (None, None) => Ok(Mode::Readwrite),
        })?;
        let record = Record::Mode {
            subject,
            value: None,
        };
        self.store.write(&[record]).await?;
        Ok(before)
    }
}

/// A version of a subject by number or as the latest that is not deleted.
pub(crate) fn find<'s>(
    state: &'s State,
    subject: &str,
    version: VersionId,
    deleted: bool,
) -> Result<&'s Version, ApiError> {
    if !state
        .versions(subject)
        .any(|found| deleted || !found.value.deleted)
    {
        return Err(ApiError::subject_not_found(subject));
    }
    let found = match version {
        VersionId::Latest => state
            .live_versions(subject)
            .next_back()
            .or_else(|| state.versions(subject).next_back()),
        VersionId::Number(number) => state.version(subject, number),
    };
    found
        .filter(|found| deleted || !found.value.deleted)
        .ok_or_else(|| match version {
            VersionId::Latest => ApiError::subject_not_found(subject),
            VersionId::Number(number) => ApiError::version_not_found(number),
        })
}

fn numbers<'v>(versions: impl IntoIterator<Item = &'v Version>) -> Vec<i32> {
    versions
        .into_iter()
        .map(|version| version.value.version)
        .collect()
}
