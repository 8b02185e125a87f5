//! What survives a restart: registrations, observations, the request journal and records on their way to Kafka.
//!
//! One SQLite file. Everything that one turn of the engine's loop changed goes in with one transaction, before any
//! datagram of that turn is sent. It is synced to the disk when it holds something a device or Kafka is told: that is
//! there after a crash of the machine. What only came to the spool or left it is written without (it outlives the
//! process) and synced within 100 ms.

mod journal;
mod outbox;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lwm2m::{Observation, Registration};
use rusqlite::{Connection, params};

pub(crate) use journal::{Accepted, Entry, EntryState, Known, Offered, must_not_repeat};
use outbox::Published;
pub(crate) use outbox::{Outgoing, OutgoingKind};

use crate::private_file::private_file;

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
    /// The file's mode can't be set.
    #[error("can't keep others from reading the store {path}: {source} (is the folder writable?)")]
    Mode {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
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

/// 1: rows as JSON, one outbox for all kinds. 2: compact rows, an outbox by kind, followers and traces of requests. 3: by
/// what two requests at one origin are told apart.
const FORMAT: i64 = 3;

/// One thing that changed.
#[derive(Debug)]
pub(crate) enum Change {
    PutRegistration(Arc<Registration>),
    RemoveRegistration {
        endpoint: String,
    },
    PutObservation(Arc<Observation>),
    RemoveObservation(Arc<Observation>),
    /// A request that must not be sent twice leaves with this turn's datagrams.
    Sent {
        id: i64,
    },
    /// A record for Kafka that has to outlive a crash, under its number among those of its kind.
    Enqueue {
        id: i64,
        record: Outgoing,
    },
    /// A record that Kafka has acknowledged.
    Published {
        kind: OutgoingKind,
        id: i64,
    },
    /// The replies before this offset of the replies' topic are known to be there.
    RepliesUpTo {
        topic: Arc<str>,
        partition: i32,
        next: i64,
    },
    /// A device's changed registration has to be told when there is room.
    OweUpdate {
        endpoint: String,
    },
    /// It was told, or need not be any more.
    OweNoUpdate {
        endpoint: String,
    },
    /// How long a device in queue mode listens after it was heard of; `None`: the default.
    AwakeWindow {
        endpoint: String,
        window: Option<Duration>,
    },
}

impl Change {
    /// Whether it has to be on the disk before anything of this turn is told to anybody.
    fn is_told(&self) -> bool {
        match self {
            Self::Enqueue { record, .. } => record.kind != OutgoingKind::Observation,
            // Done again, or produced again, where the machine fails.
            Self::Published { .. } | Self::RepliesUpTo { .. } => false,
            _ => true,
        }
    }
}

/// The embedded store.
pub(crate) struct Store {
    connection: Connection,
    /// A transaction was begun for this turn.
    begun: bool,
    /// The transaction begun, or one committed since the last sync, holds something not synced yet.
    synced: bool,
    is_full: bool,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        // What is asked of devices may be secret, as a server's or a network's key that is written.
        private_file(path).map_err(|source| StoreError::Mode {
            path: path.to_owned(),
            source,
        })?;
        let mut connection = Connection::open(path).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -2048;
                 PRAGMA wal_autocheckpoint = 4000;",
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
        let transaction = connection.transaction().map_err(open)?;
        if found == 1 {
            transaction
                .execute_batch(
                    "ALTER TABLE requests RENAME TO requests_1;
                     ALTER TABLE outbox RENAME TO outbox_1;
                     DROP INDEX requests_by_fingerprint; DROP INDEX requests_by_time; DROP INDEX requests_open;
                     ALTER TABLE registrations RENAME COLUMN json TO row;
                     ALTER TABLE observations RENAME COLUMN json TO row;",
                )
                .map_err(open)?;
        }
        if found == 2 {
            transaction
                .execute_batch(
                    "ALTER TABLE requests ADD COLUMN digest BLOB;
                     ALTER TABLE requests ADD COLUMN created_ms INTEGER;",
                )
                .map_err(open)?;
        }
        transaction.execute_batch(SCHEMA).map_err(open)?;
        if found == 1 {
            transaction
                .execute_batch(
                    "INSERT INTO requests (id, origin, fingerprint, accepted_ms, deadline_ms, request, state, reply)
                        SELECT id, origin, fingerprint, accepted_ms, deadline_ms, request, state, reply FROM requests_1;
                     INSERT INTO outbox (kind, id, endpoint, datum) SELECT kind, id, endpoint, datum FROM outbox_1;
                     DROP TABLE requests_1; DROP TABLE outbox_1;",
                )
                .map_err(open)?;
        }
        transaction
            .pragma_update(None, "user_version", FORMAT)
            .map_err(open)?;
        transaction.commit().map_err(open)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self {
            connection,
            begun: false,
            synced: true,
            is_full: true,
        })
    }

    /// Everything that changed, in order, with what was written before in this turn, in one transaction.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        if changes.is_empty() && !self.begun {
            return Ok(0);
        }
        // What was written before in this turn is a request: it is told.
        let told = self.begun || changes.iter().any(Change::is_told);
        self.begin(told)?;
        let mut removed = 0;
        let mut published = Published::default();
        for change in changes {
            match change {
                // Kafka acknowledges rows in runs: one statement for each run.
                Change::Published { kind, id } => {
                    if let Some(run) = published.next(*kind, *id) {
                        removed += outbox::delete(&self.connection, &run)?;
                    }
                }
                change => apply(&self.connection, change)?,
            }
        }
        if let Some(run) = published.end() {
            removed += outbox::delete(&self.connection, &run)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.begun = false;
        self.synced = told;
        Ok(removed)
    }

    /// Begins this turn's transaction. How it is synced has to be said before.
    fn begin(&mut self, told: bool) -> Result<(), StoreError> {
        if self.begun {
            return Ok(());
        }
        if told != self.is_full {
            self.connection.pragma_update(
                None,
                "synchronous",
                if told { "FULL" } else { "NORMAL" },
            )?;
            self.is_full = told;
        }
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        self.begun = true;
        Ok(())
    }

    /// Whether something committed is not synced to the disk yet.
    pub(crate) fn wants_sync(&self) -> bool {
        !self.synced
    }

    /// Syncs what was committed without.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.begin(true)?;
        // A transaction that writes nothing is not synced either.
        self.connection.execute(
            "INSERT OR REPLACE INTO numbers (name, number) VALUES ('syncs', 0)",
            [],
        )?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.begun = false;
        self.synced = true;
        Ok(())
    }

    /// Shows every registration and observation, one after the other: they need not be in memory twice.
    pub(crate) fn take_up(
        &self,
        take: impl FnOnce(&mut dyn Iterator<Item = Registration>, &mut dyn Iterator<Item = Observation>),
    ) -> Result<(), StoreError> {
        let blob = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
        let mut failure = None;
        let mut failed = None;
        let mut registrations = self.connection.prepare("SELECT row FROM registrations")?;
        let registrations = registrations.query_map([], blob)?;
        let mut observations = self.connection.prepare("SELECT row FROM observations")?;
        let observations = observations.query_map([], blob)?;
        take(
            &mut registrations
                .map(|row| rows::registration(&row?))
                .map_while(|read| read.map_err(|error| failure = Some(error)).ok()),
            &mut observations
                .map(|row| rows::observation(&row?))
                .map_while(|read| read.map_err(|error| failed = Some(error)).ok()),
        );
        match failure.or(failed) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The awake windows that were set for devices.
    pub(crate) fn awake_windows(&self) -> Result<Vec<(String, Duration)>, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT endpoint, window_ms FROM awake_windows")?;
        let found = statement.query_map([], |row| {
            let window: i64 = row.get(1)?;
            let window = Duration::from_millis(u64::try_from(window).unwrap_or(0));
            Ok((row.get(0)?, window))
        })?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// The devices whose changed registration has to be told when there is room.
    pub(crate) fn updates_owed(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT endpoint FROM updates_owed")?;
        let found = statement.query_map([], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS registrations (
        endpoint TEXT PRIMARY KEY,
        row BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS observations (
        endpoint TEXT NOT NULL,
        path TEXT NOT NULL,
        row BLOB NOT NULL,
        PRIMARY KEY (endpoint, path)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS requests (
        id INTEGER PRIMARY KEY,
        origin TEXT NOT NULL UNIQUE,
        fingerprint BLOB,
        accepted_ms INTEGER NOT NULL,
        deadline_ms INTEGER NOT NULL,
        request BLOB NOT NULL,
        state INTEGER NOT NULL,
        reply BLOB,
        sleeper INTEGER NOT NULL DEFAULT 0,
        trace TEXT,
        follows INTEGER,
        digest BLOB,
        created_ms INTEGER
    );
    CREATE INDEX IF NOT EXISTS requests_by_fingerprint ON requests (fingerprint, accepted_ms) WHERE fingerprint IS NOT NULL;
    CREATE INDEX IF NOT EXISTS requests_by_time ON requests (accepted_ms);
    CREATE INDEX IF NOT EXISTS requests_open ON requests (id) WHERE state <> 2;
    CREATE TABLE IF NOT EXISTS outbox (
        kind INTEGER NOT NULL,
        id INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        datum BLOB NOT NULL,
        origin TEXT,
        trace TEXT,
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS replies_up_to (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        next INTEGER NOT NULL,
        PRIMARY KEY (topic, partition)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS awake_windows (
        endpoint TEXT PRIMARY KEY,
        window_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS updates_owed (
        endpoint TEXT PRIMARY KEY
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS numbers (
        name TEXT PRIMARY KEY,
        number INTEGER NOT NULL
    ) WITHOUT ROWID;
";

fn apply(connection: &Connection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::PutRegistration(registration) => {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO registrations (endpoint, row) VALUES (?1, ?2)",
                )?
                .execute(params![
                    registration.endpoint,
                    rows::write("registration", registration.as_ref())?
                ])?;
        }
        Change::RemoveRegistration { endpoint } => {
            connection
                .prepare_cached("DELETE FROM registrations WHERE endpoint = ?1")?
                .execute(params![endpoint])?;
        }
        Change::PutObservation(observation) => {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO observations (endpoint, path, row) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![
                    observation.endpoint,
                    observation.target.to_string(),
                    rows::write("observation", observation.as_ref())?
                ])?;
        }
        Change::RemoveObservation(observation) => {
            connection
                .prepare_cached("DELETE FROM observations WHERE endpoint = ?1 AND path = ?2")?
                .execute(params![
                    observation.endpoint,
                    observation.target.to_string()
                ])?;
        }
        Change::Sent { id } => journal::mark_sent(connection, *id)?,
        Change::Enqueue { id, record } => outbox::insert(connection, *id, record)?,
        Change::Published { kind, id } => {
            outbox::delete(connection, &outbox::Run::one(*kind, *id))?;
        }
        Change::RepliesUpTo {
            topic,
            partition,
            next,
        } => outbox::replies_up_to(connection, topic, *partition, *next)?,
        Change::OweUpdate { endpoint } => {
            connection
                .prepare_cached("INSERT OR IGNORE INTO updates_owed (endpoint) VALUES (?1)")?
                .execute(params![endpoint])?;
        }
        Change::OweNoUpdate { endpoint } => {
            connection
                .prepare_cached("DELETE FROM updates_owed WHERE endpoint = ?1")?
                .execute(params![endpoint])?;
        }
        Change::AwakeWindow { endpoint, window } => match window {
            Some(window) => {
                let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO awake_windows (endpoint, window_ms) VALUES (?1, ?2)",
                    )?
                    .execute(params![endpoint, window])?;
            }
            None => {
                connection
                    .prepare_cached("DELETE FROM awake_windows WHERE endpoint = ?1")?
                    .execute(params![endpoint])?;
            }
        },
    }
    Ok(())
}
