//! What survives a restart: registrations, observations, the request journal and records on their way to Kafka.
//!
//! One SQLite file. Everything that one turn of the engine's loop changed goes in with one synced transaction, before
//! any datagram of that turn is sent: what a device or Kafka was told is there after a crash, of the process or of
//! the machine.

mod journal;
mod outbox;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lwm2m::{Observation, Registration};
use rusqlite::{Connection, Transaction, params};

pub(crate) use journal::{Accepted, Entry, EntryState, Known, must_not_repeat};
pub(crate) use outbox::{Outgoing, OutgoingKind};

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file can't be opened.
    #[error(
        "can't open the store {path}: {source} (is the folder writable, and no other server using it?)"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// It was written by a newer release.
    #[error(
        "the store {path} has format {found}, this release reads {known}: use the release that wrote it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A statement failed.
    #[error("the store failed: {0} (is the disk full?)")]
    Sqlite(#[from] rusqlite::Error),
    /// A row can't be read.
    #[error("the store holds a {what} that can't be read: {reason}")]
    Row {
        /// What it should be.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

const FORMAT: i64 = 1;

/// One thing that changed.
#[derive(Debug)]
pub(crate) enum Change {
    PutRegistration(Arc<Registration>),
    RemoveRegistration {
        endpoint: String,
    },
    PutObservation(Arc<Observation>),
    RemoveObservation(Arc<Observation>),
    /// A request that must not be sent twice is about to be sent.
    Sent {
        id: i64,
    },
    /// A request has its reply; its datum is kept where a duplicate would be answered with it.
    Answered {
        id: i64,
        reply: Option<Vec<u8>>,
    },
    /// A record for Kafka that has to outlive a crash.
    Enqueue(Outgoing),
    /// A record that Kafka has acknowledged.
    Published {
        id: i64,
    },
}

/// What a commit did to the outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The ids of records added, in their order.
    pub(crate) enqueued: Vec<i64>,
    /// The bytes of records removed.
    pub(crate) removed_bytes: u64,
}

/// The embedded store.
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let connection = Connection::open(path).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -4096;
                 PRAGMA wal_autocheckpoint = 1000;",
            )
            .map_err(open)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(open)?;
        if found > FORMAT {
            return Err(StoreError::Format {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        connection.execute_batch(SCHEMA).map_err(open)?;
        connection
            .pragma_update(None, "user_version", FORMAT)
            .map_err(open)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection })
    }

    /// Everything that changed, in order, in one synced transaction.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<Committed, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut committed = Committed::default();
        for change in changes {
            apply(&transaction, change, &mut committed)?;
        }
        transaction.commit()?;
        Ok(committed)
    }

    pub(crate) fn registrations(&self) -> Result<Vec<Registration>, StoreError> {
        self.json_rows("registration", "SELECT json FROM registrations")
    }

    pub(crate) fn observations(&self) -> Result<Vec<Observation>, StoreError> {
        self.json_rows("observation", "SELECT json FROM observations")
    }

    fn json_rows<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        query: &str,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare(query)?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let mut all = Vec::new();
        for row in rows {
            let value = serde_json::from_slice(&row?).map_err(|error| StoreError::Row {
                what,
                reason: error.to_string(),
            })?;
            all.push(value);
        }
        Ok(all)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS registrations (
        endpoint TEXT PRIMARY KEY,
        json BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS observations (
        endpoint TEXT NOT NULL,
        path TEXT NOT NULL,
        json BLOB NOT NULL,
        PRIMARY KEY (endpoint, path)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS requests (
        id INTEGER PRIMARY KEY,
        origin TEXT NOT NULL UNIQUE,
        fingerprint BLOB NOT NULL,
        accepted_ms INTEGER NOT NULL,
        deadline_ms INTEGER NOT NULL,
        request BLOB NOT NULL,
        state INTEGER NOT NULL,
        reply BLOB
    );
    CREATE INDEX IF NOT EXISTS requests_by_fingerprint ON requests (fingerprint, accepted_ms);
    CREATE INDEX IF NOT EXISTS requests_by_time ON requests (accepted_ms);
    CREATE INDEX IF NOT EXISTS requests_open ON requests (id) WHERE state < 2;
    CREATE TABLE IF NOT EXISTS outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        datum BLOB NOT NULL
    );
";

fn apply(
    transaction: &Transaction<'_>,
    change: &Change,
    committed: &mut Committed,
) -> Result<(), StoreError> {
    match change {
        Change::PutRegistration(registration) => {
            let json = json("registration", registration.as_ref())?;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO registrations (endpoint, json) VALUES (?1, ?2)",
                )?
                .execute(params![registration.endpoint, json])?;
        }
        Change::RemoveRegistration { endpoint } => {
            transaction
                .prepare_cached("DELETE FROM registrations WHERE endpoint = ?1")?
                .execute(params![endpoint])?;
        }
        Change::PutObservation(observation) => {
            let json = json("observation", observation.as_ref())?;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO observations (endpoint, path, json) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![observation.endpoint, observation.path.to_string(), json])?;
        }
        Change::RemoveObservation(observation) => {
            transaction
                .prepare_cached("DELETE FROM observations WHERE endpoint = ?1 AND path = ?2")?
                .execute(params![observation.endpoint, observation.path.to_string()])?;
        }
        Change::Sent { id } => journal::mark_sent(transaction, *id)?,
        Change::Answered { id, reply } => journal::answer(transaction, *id, reply.as_deref())?,
        Change::Enqueue(outgoing) => {
            committed
                .enqueued
                .push(outbox::insert(transaction, outgoing)?);
        }
        Change::Published { id } => {
            committed.removed_bytes += outbox::delete(transaction, *id)?;
        }
    }
    Ok(())
}

fn json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Row {
        what,
        reason: error.to_string(),
    })
}
