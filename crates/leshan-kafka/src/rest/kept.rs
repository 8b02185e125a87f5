//! The calls that wait for sleeping devices, on disk: what was answered as delayed is there after a crash.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lwm2m::Target;
use rusqlite::{Connection, params};

use super::request::Request;
use crate::private_file::private_file;

/// A database of its own: it changes seldom, and must not wait for the server's store.
#[derive(Clone)]
pub(super) struct Kept(Arc<Mutex<Connection>>);

/// A call as it is kept.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) endpoint: String,
    pub(super) request: Request,
    /// What it does and to what, for those who look.
    pub(super) operation: String,
    pub(super) target: Target,
    pub(super) since_unix_ms: i64,
    pub(super) expires_unix_ms: i64,
}

/// Why a call can't be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("can't open {path}: {source} (is the folder writable, and no other server using it?)")]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("can't keep others from reading {path}: {source} (is the folder writable?)")]
    Mode {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the calls that wait for devices can't be kept: {0} (is the disk full?)")]
    Database(#[from] rusqlite::Error),
    #[error("a call can't be written: {0}")]
    Write(#[from] rmp_serde::encode::Error),
}

impl Kept {
    /// Opens the database, made where it is not there, with what it has. A row that can't be read is warned about and
    /// dropped.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Row>), KeepError> {
        let open = |source| KeepError::Open {
            path: path.to_owned(),
            source,
        };
        // What is written to devices may be secret.
        private_file(path).map_err(|source| KeepError::Mode {
            path: path.to_owned(),
            source,
        })?;
        let connection = Connection::open(path).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = DELETE;
                 PRAGMA synchronous = FULL;
                 PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -256;
                 CREATE TABLE IF NOT EXISTS calls (
                     id INTEGER PRIMARY KEY AUTOINCREMENT,
                     endpoint TEXT NOT NULL,
                     request BLOB NOT NULL,
                     operation TEXT NOT NULL,
                     target TEXT NOT NULL,
                     since INTEGER NOT NULL,
                     expires INTEGER NOT NULL
                 );",
            )
            .map_err(open)?;
        let mut rows = Vec::new();
        {
            let mut statement = connection.prepare(
                "SELECT id, endpoint, request, operation, target, since, expires FROM calls",
            )?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let (id, request, target): (i64, Vec<u8>, String) =
                    (row.get(0)?, row.get(2)?, row.get(4)?);
                let (Ok(request), Ok(target)) = (rmp_serde::from_slice(&request), target.parse())
                else {
                    tracing::warn!(
                        id,
                        "a call that waited for a device can't be read, and is dropped"
                    );
                    continue;
                };
                rows.push(Row {
                    id,
                    endpoint: row.get(1)?,
                    request,
                    operation: row.get(3)?,
                    target,
                    since_unix_ms: row.get(5)?,
                    expires_unix_ms: row.get(6)?,
                });
            }
        }
        Ok((Self(Arc::new(Mutex::new(connection))), rows))
    }

    /// Keeps a call, synced; answers its number.
    pub(super) async fn put(&self, row: Row) -> Result<(i64, Row), KeepError> {
        let request = rmp_serde::to_vec(&row.request)?;
        self.with(move |connection| {
            let id = (row.id != 0).then_some(row.id);
            connection
                .prepare_cached("INSERT OR REPLACE INTO calls VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![
                    id,
                    row.endpoint,
                    request,
                    row.operation,
                    row.target.to_string(),
                    row.since_unix_ms,
                    row.expires_unix_ms
                ])?;
            Ok((connection.last_insert_rowid(), row))
        })
        .await
    }

    /// Forgets a call. One that comes back after a failure is sent again, or expires.
    pub(super) async fn delete(&self, id: i64) {
        let deleted = self.with(move |connection| {
            connection
                .prepare_cached("DELETE FROM calls WHERE id = ?1")?
                .execute([id])?;
            Ok(())
        });
        if let Err(error) = deleted.await {
            tracing::error!(%error, id, "a call that has its answer stays on disk");
        }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, KeepError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let connection = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        // It is not aborted, and does not panic; should it, the call counts as not kept.
        done.await
            .unwrap_or(Err(KeepError::Database(rusqlite::Error::InvalidQuery)))
    }
}
