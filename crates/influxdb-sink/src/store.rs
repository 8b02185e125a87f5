//! The embedded time-series store: one SQLite table.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use connect::ProcessError;
use parking_lot::Mutex;
use records::ReadingValue;
use rusqlite::{Connection, Transaction, params};

use crate::point::Point;
use crate::settings::Bounds;

/// A handle on the store; clones share the connection.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    connection: Connection,
    bounds: Bounds,
    trimmed: Option<Instant>,
}

/// A point is its series (the tags) and its time, as in InfluxDB: writing it again sets its fields again. A tag
/// without a value is empty here, so that the key has no NULLs, which SQLite would hold to be different.
const SCHEMA: &str = r#"
CREATE TABLE IF NOT EXISTS resources (
    time_ms INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    ep TEXT NOT NULL,
    path TEXT NOT NULL,
    kind TEXT NOT NULL,
    ticket TEXT NOT NULL,
    observationId TEXT NOT NULL,
    serverId TEXT NOT NULL,
    value REAL,
    svalue TEXT,
    bvalue INTEGER,
    PRIMARY KEY (ep, path, time_ms, time_ns, kind, ticket, observationId, serverId)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS resources_by_time ON resources (time_ms);
"#;

const INSERT: &str = "INSERT INTO resources (time_ms, time_ns, ep, path, kind, ticket, observationId, serverId, value, svalue, bvalue)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    ON CONFLICT DO UPDATE SET value = coalesce(excluded.value, value),
        svalue = coalesce(excluded.svalue, svalue), bvalue = coalesce(excluded.bvalue, bvalue)";

/// How often the bounds are looked at.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// How many points go at once, so that a write never waits long behind a trim.
const TRIM_ROWS: i64 = 10_000;
/// The most such steps of one trim.
const TRIM_STEPS: u32 = 20;

impl Store {
    /// Opens the store, making it and its folder where they are missing. Blocks.
    pub(crate) fn open(path: &Path, bounds: Bounds) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // NORMAL survives the death of the process at any moment, which is what is promised here: what a commit wrote
        // is then in the system's cache. Only a power loss can take the commits since the last checkpoint, and offsets
        // committed meanwhile don't bring them back; whoever needs that too sets FULL and pays one fsync a batch.
        let synchronous = if bounds.full_sync { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                connection,
                bounds,
                trimmed: None,
            })),
        })
    }

    /// Writes points in one transaction. Blocks.
    pub(crate) fn write(&self, points: &[Point]) -> Result<(), ProcessError> {
        let mut inner = self.inner.lock();
        inner.write(points).map_err(failed)?;
        if inner
            .trimmed
            .is_none_or(|last| last.elapsed() >= TRIM_EVERY)
        {
            inner.trim().map_err(failed)?;
            inner.trimmed = Some(Instant::now());
        }
        Ok(())
    }
}

fn failed(error: rusqlite::Error) -> ProcessError {
    ProcessError::Retry(format!("the embedded store can't be written: {error}"))
}

impl Inner {
    fn write(&mut self, points: &[Point]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        insert(&transaction, points)?;
        transaction.commit()
    }

    /// Deletes what is older than the retention, and the oldest points where the store is too large.
    fn trim(&mut self) -> rusqlite::Result<()> {
        if !self.bounds.retention.is_zero() {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let oldest = now.saturating_sub(self.bounds.retention);
            let oldest = i64::try_from(oldest.as_millis()).unwrap_or(i64::MAX);
            for _ in 0..TRIM_STEPS {
                if self.delete_oldest(Some(oldest))? == 0 {
                    break;
                }
            }
        }
        for _ in 0..TRIM_STEPS {
            if self.bytes()? <= self.bounds.bytes || self.delete_oldest(None)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn delete_oldest(&mut self, before: Option<i64>) -> rusqlite::Result<usize> {
        // The time up to which the oldest points reach; several points may share it.
        let limit: Option<i64> = self.connection.query_row(
            "SELECT max(time_ms) FROM (SELECT time_ms FROM resources WHERE time_ms < ?1 ORDER BY time_ms LIMIT ?2)",
            params![before.unwrap_or(i64::MAX), TRIM_ROWS],
            |row| row.get(0),
        )?;
        match limit {
            None => Ok(0),
            Some(limit) => self
                .connection
                .execute("DELETE FROM resources WHERE time_ms <= ?1", [limit]),
        }
    }

    /// Bytes in use: freed pages are filled again before the file grows.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name: &str| -> rusqlite::Result<i64> {
            self.connection
                .pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }
}

fn insert(transaction: &Transaction<'_>, points: &[Point]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(INSERT)?;
    for point in points {
        let (value, svalue, bvalue) = match &point.value {
            ReadingValue::Number(number) => (Some(*number), None, None),
            ReadingValue::Text(text) => (None, Some(text.as_str()), None),
            ReadingValue::Boolean(yes) => (None, None, Some(*yes)),
        };
        statement.execute(params![
            point.time_ms,
            point.time_ns,
            point.ep,
            point.path,
            point.kind,
            point.ticket,
            point.observation_id,
            point.server_id,
            value,
            svalue,
            bvalue,
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    const BOUNDS: Bounds = Bounds {
        retention: Duration::ZERO,
        bytes: u64::MAX,
        full_sync: false,
    };

    fn point(time_ms: i64, value: ReadingValue) -> Point {
        Point {
            ticket: "t".to_owned(),
            observation_id: String::new(),
            server_id: "s".to_owned(),
            ep: "e'); DROP TABLE resources; --".to_owned(),
            kind: "read",
            path: "/3/0/9".to_owned(),
            time_ms,
            time_ns: 0,
            value,
            is_message: false,
        }
    }

    #[test]
    fn a_replay_changes_nothing_and_a_name_is_only_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/series.db");
        let store = Store::open(&path, BOUNDS).unwrap();
        let points = [
            point(1, ReadingValue::Number(4.5)),
            point(2, ReadingValue::Boolean(true)),
        ];
        store.write(&points).unwrap();
        let once = embedded::query(&path, &embedded::Filter::default()).unwrap();
        store.write(&points).unwrap();
        let twice = embedded::query(&path, &embedded::Filter::default()).unwrap();
        assert_eq!(once, twice);
        assert_eq!(once.len(), 2);
        assert_eq!(once[0].ep, "e'); DROP TABLE resources; --");
        assert_eq!(once[0].bvalue, Some(true));
        assert_eq!(once[1].value, Some(4.5));
    }

    #[test]
    fn old_points_go_with_time_and_with_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series.db");
        let bounds = Bounds {
            retention: Duration::from_secs(3_600),
            ..BOUNDS
        };
        let store = Store::open(&path, bounds).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        store
            .write(&[
                point(now - 3_700_000, ReadingValue::Number(1.0)),
                point(now, ReadingValue::Number(2.0)),
            ])
            .unwrap();
        let left = embedded::query(&path, &embedded::Filter::default()).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].value, Some(2.0));

        let path = folder.path().join("small.db");
        let bounds = Bounds {
            bytes: 1024 * 1024,
            ..BOUNDS
        };
        let store = Store::open(&path, bounds).unwrap();
        let text = "x".repeat(500);
        let points: Vec<Point> = (0..30_000)
            .map(|time| point(time, ReadingValue::Text(text.clone())))
            .collect();
        store.write(&points).unwrap();
        let left = embedded::query(&path, &embedded::Filter::default()).unwrap();
        assert!(left.len() < 30_000, "{}", left.len());
        assert!(store.inner.lock().bytes().unwrap() <= 1024 * 1024);
    }
}
