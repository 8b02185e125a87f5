//! What survives a restart: the windows and, in the same transaction, how far the input has been read.
//!
//! One SQLite file. `synchronous = NORMAL` in WAL mode: a commit is in the kernel's page cache when it returns, so it
//! survives `kill -9`, and costs no disk write of its own. A power cut takes the file back to an earlier commit as a
//! whole, offsets included; reading then resumes from those offsets (`position`), and the windows come out as if nothing
//! had happened. Synced commits would buy nothing more and cost a gateway's flash card a write per batch.
//!
//! Memory is SQLite's page cache, 8 MiB; nothing else of the state is held between two batches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};
use windows::Progress;

use crate::fold::SeriesKey;
use crate::number::Column;

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("can't make the folder {path} for the state: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "can't open the state {path}: {source} (is the folder writable? a damaged file may be deleted: its windows begin anew)"
    )]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error(
        "the state {path} is in use: another instance of this analytic runs on the same --data-dir, give each its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "the state {path} has format {found}, this release reads {FORMAT}: use the release that wrote it, or another --data-dir"
    )]
    Format { path: PathBuf, found: i64 },
    #[error(
        "the state can't be read or written: {0} (is the disk full? a damaged file may be deleted: its windows begin anew)"
    )]
    Sqlite(#[from] rusqlite::Error),
    #[error("the state holds a window of '{ep}' with a value that is none: delete the file {path}")]
    Row { ep: String, path: PathBuf },
}

impl StoreError {
    /// Whether the same may work later: a full disk does, a damaged file does not.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Sqlite(error) => !matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            _ => false,
        }
    }
}

const FORMAT: i64 = 1;

/// The windows' columns come in the order they are asked for: expired ones lie at the front of their partition, current
/// ones side by side at its end.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS partitions (
        partition        INTEGER PRIMARY KEY,
        next_offset      INTEGER NOT NULL,
        stream_time_ms   INTEGER NOT NULL,
        closed_before_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS windows (
        partition INTEGER NOT NULL,
        start_ms  INTEGER NOT NULL,
        ep        TEXT NOT NULL,
        path      TEXT NOT NULL,
        value     ANY NOT NULL,
        PRIMARY KEY (partition, start_ms, ep, path)
    ) STRICT, WITHOUT ROWID;";

/// How far one partition of the input has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The offset of the first record that is not in the windows yet.
    pub(crate) next_offset: i64,
    pub(crate) progress: Progress,
}

/// What a batch did to one partition.
#[derive(Debug)]
pub(crate) struct Update<A> {
    pub(crate) partition: i32,
    pub(crate) position: Position,
    /// Windows with a new aggregate; of one window the last counts.
    pub(crate) windows: Vec<(SeriesKey, i64, A)>,
}

/// What is so after a batch.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) positions: BTreeMap<i32, Position>,
    /// Windows in the store.
    pub(crate) windows: u64,
    /// Windows given up before their time, to keep to the bound.
    pub(crate) closed_early: u64,
}

pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
    window_ms: i64,
    max_windows: u64,
    /// Windows in the store: counted when it is opened, kept up from then on.
    count: u64,
}

impl Store {
    /// Opens or makes the state of windows of `window_ms`; no more than `max_windows` are ever kept.
    pub(crate) fn open(path: &Path, window_ms: i64, max_windows: u64) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse {
                path: path.to_owned(),
            },
            _ => StoreError::Open {
                path: path.to_owned(),
                source,
            },
        };
        let connection = Connection::open(path).map_err(failed)?;
        connection
            .busy_timeout(std::time::Duration::ZERO)
            .map_err(failed)?;
        // Exclusive before anything is read: it keeps a second instance out.
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = NORMAL;
                 PRAGMA cache_size = -8192;
                 PRAGMA wal_autocheckpoint = 1000;
                 PRAGMA journal_size_limit = 16777216;",
            )
            .map_err(failed)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        if found > FORMAT {
            return Err(StoreError::Format {
                path: path.to_owned(),
                found,
            });
        }
        connection.execute_batch(SCHEMA).map_err(failed)?;
        connection
            .pragma_update(None, "user_version", FORMAT)
            .map_err(failed)?;
        let count = connection
            .query_row("SELECT COUNT(*) FROM windows", [], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(failed)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            window_ms,
            max_windows,
            count: count.unsigned_abs(),
        })
    }

    /// As a full disk does; `None`: room again.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, most: Option<u32>) {
        let most = most.unwrap_or(u32::MAX - 1);
        let pragma = format!("PRAGMA max_page_count = {most}");
        let set: i64 = self
            .connection
            .query_row(&pragma, [], |r| r.get(0))
            .unwrap();
        assert!(set > 0);
    }

    pub(crate) fn window_count(&self) -> u64 {
        self.count
    }

    pub(crate) fn positions(&self) -> Result<BTreeMap<i32, Position>, StoreError> {
        positions(&self.connection)
    }

    /// Puts a partition's position back, its windows as they are.
    pub(crate) fn set_next_offset(
        &mut self,
        partition: i32,
        next_offset: i64,
    ) -> Result<(), StoreError> {
        self.connection.execute(
            "UPDATE partitions SET next_offset = ?2 WHERE partition = ?1",
            params![partition, next_offset],
        )?;
        Ok(())
    }

    /// The windows there are among those asked for.
    pub(crate) fn load<A: Column>(
        &self,
        partition: i32,
        wanted: impl IntoIterator<Item = (i64, SeriesKey)>,
    ) -> Result<Vec<(SeriesKey, i64, A)>, StoreError> {
        let mut select = self.connection.prepare_cached(
            "SELECT value FROM windows WHERE partition = ?1 AND start_ms = ?2 AND ep = ?3 AND path = ?4",
        )?;
        let mut found = Vec::new();
        for (start_ms, key) in wanted {
            let aggregate = select
                .query_row(params![partition, start_ms, key.ep, key.path], |row| {
                    row.get_ref(0).map(A::from_column)
                })
                .optional()?;
            match aggregate {
                None => {}
                Some(Some(aggregate)) => found.push((key, start_ms, aggregate)),
                Some(None) => {
                    return Err(StoreError::Row {
                        ep: key.ep,
                        path: self.path.clone(),
                    });
                }
            }
        }
        Ok(found)
    }

    /// Everything a batch changed, in one transaction; windows that are closed by then go.
    pub(crate) fn apply<A: Column>(
        &mut self,
        updates: &[Update<A>],
    ) -> Result<Applied, StoreError> {
        let mut count = self.count;
        let transaction = self.connection.transaction()?;
        for update in updates {
            count += put_windows(&transaction, update)?;
            put_position(&transaction, update)?;
            count -= delete_closed(&transaction, update)?;
        }
        let mut closed_early = 0;
        while count > self.max_windows {
            let closed = close_oldest(&transaction, self.window_ms)?;
            if closed == 0 {
                break;
            }
            count -= closed;
            closed_early += closed;
        }
        let positions = positions(&transaction)?;
        transaction.commit()?;
        self.count = count;
        Ok(Applied {
            positions,
            windows: count,
            closed_early,
        })
    }
}

fn positions(connection: &Connection) -> Result<BTreeMap<i32, Position>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT partition, next_offset, stream_time_ms, closed_before_ms FROM partitions",
    )?;
    let rows = select.query_map([], |row| {
        Ok((
            row.get(0)?,
            Position {
                next_offset: row.get(1)?,
                progress: Progress {
                    stream_time_ms: row.get(2)?,
                    closed_before_ms: row.get(3)?,
                },
            },
        ))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many windows are new.
fn put_windows<A: Column>(
    transaction: &Transaction<'_>,
    update: &Update<A>,
) -> Result<u64, StoreError> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO windows (partition, start_ms, ep, path, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut replace = transaction.prepare_cached(
        "UPDATE windows SET value = ?5 WHERE partition = ?1 AND start_ms = ?2 AND ep = ?3 AND path = ?4",
    )?;
    // Of one window only the last aggregate is written.
    let mut last = BTreeMap::new();
    for (key, start_ms, aggregate) in &update.windows {
        last.insert((start_ms, key), aggregate);
    }
    let mut new = 0;
    for ((start_ms, key), aggregate) in last {
        let row = params![
            update.partition,
            start_ms,
            key.ep,
            key.path,
            aggregate.to_column()
        ];
        if replace.execute(row)? == 0 {
            new += insert.execute(row)? as u64;
        }
    }
    Ok(new)
}

fn put_position<A>(transaction: &Transaction<'_>, update: &Update<A>) -> Result<(), StoreError> {
    let Position {
        next_offset,
        progress,
    } = update.position;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO partitions (partition, next_offset, stream_time_ms, closed_before_ms)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            update.partition,
            next_offset,
            progress.stream_time_ms,
            progress.closed_before_ms
        ])?;
    Ok(())
}

/// How many windows of the partition were closed by now and are gone.
fn delete_closed<A>(transaction: &Transaction<'_>, update: &Update<A>) -> Result<u64, StoreError> {
    let deleted = transaction
        .prepare_cached("DELETE FROM windows WHERE partition = ?1 AND start_ms < ?2")?
        .execute(params![
            update.partition,
            update.position.progress.closed_before_ms
        ])?;
    Ok(deleted as u64)
}

/// Closes the oldest windows (those of one start, in one partition) before their time; how many there were.
fn close_oldest(transaction: &Transaction<'_>, window_ms: i64) -> Result<u64, StoreError> {
    let oldest: Option<(i32, i64)> = transaction
        .prepare_cached(
            "SELECT p.partition,
                    (SELECT MIN(w.start_ms) FROM windows w WHERE w.partition = p.partition) AS oldest
             FROM partitions p WHERE oldest IS NOT NULL ORDER BY oldest LIMIT 1",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((partition, start_ms)) = oldest else {
        return Ok(0);
    };
    let closed_before_ms = start_ms.saturating_add(window_ms);
    let deleted = transaction
        .prepare_cached("DELETE FROM windows WHERE partition = ?1 AND start_ms < ?2")?
        .execute(params![partition, closed_before_ms])?;
    transaction
        .prepare_cached(
            "UPDATE partitions SET closed_before_ms = MAX(closed_before_ms, ?2) WHERE partition = ?1",
        )?
        .execute(params![partition, closed_before_ms])?;
    Ok(deleted as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use windows::{Added, Settings, TumblingWindows};

    use super::*;
    use crate::fold::{Folded, Item, fold};
    use crate::number::{Highest, Number};

    type Reading = (i64, String, f64);

    fn key(ep: &str) -> SeriesKey {
        SeriesKey {
            ep: ep.to_owned(),
            path: "/3303/0/5700".to_owned(),
        }
    }

    /// One batch, as the worker takes it.
    fn step(
        store: &mut Store,
        settings: Settings,
        partition: i32,
        batch: &[Reading],
    ) -> Folded<Highest> {
        let position = store.positions().unwrap().get(&partition).copied();
        let progress = position.map_or_else(Default::default, |p| p.progress);
        let next_offset = position.map_or(0, |p| p.next_offset) + batch.len() as i64;
        let calendar = TumblingWindows::<(), Highest>::new(settings);
        let wanted: Vec<(i64, SeriesKey)> = batch
            .iter()
            .map(|(at, ep, _)| (calendar.window_at(*at).start_ms, key(ep)))
            .collect();
        let items = batch
            .iter()
            .enumerate()
            .map(|(reading, (at, ep, value))| Item {
                reading,
                key: key(ep),
                timestamp_ms: *at,
                input: Number::Double(*value),
            });
        let known = store.load(partition, wanted).unwrap();
        let folded = fold(settings, progress, known, items.collect()).unwrap();
        let update = Update {
            partition,
            position: Position {
                next_offset,
                progress: folded.progress,
            },
            windows: folded
                .changes
                .iter()
                .map(|c| (c.key.clone(), c.window.start_ms, c.aggregate))
                .collect(),
        };
        let applied = store.apply(&[update]).unwrap();
        assert_eq!(applied.windows, store.rows());
        assert_eq!(applied.positions[&partition].next_offset, next_offset);
        folded
    }

    impl Store {
        fn rows(&self) -> u64 {
            let count = "SELECT COUNT(*) FROM windows";
            let rows: i64 = self.connection.query_row(count, [], |r| r.get(0)).unwrap();
            rows.unsigned_abs()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 48,
            rng_seed: RngSeed::Fixed(20_260_101),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Batches of any size, with restarts between them, come out as one unbroken stream does in memory; and only
        /// the windows still open are on disk.
        #[test]
        fn batches_and_restarts_make_no_difference(
            readings in vec((0..40_000_i64, "[ab]", -9.0..9.0_f64), 1..120),
            cuts in vec((1..20_usize, any::<bool>()), 1..40),
        ) {
            let settings = Settings::new(Duration::from_secs(1))
                .and_then(|s| s.with_grace(Duration::from_secs(5)))
                .unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.db");
            let mut store = Store::open(&path, 1_000, 1_000_000).unwrap();
            let mut unbroken = TumblingWindows::<SeriesKey, Highest>::new(settings);

            let mut rest: &[Reading] = &readings;
            for (size, restart) in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (batch, later) = rest.split_at(rest.len().min(*size));
                rest = later;
                let late_before = unbroken.dropped().late;
                let mut expected = Vec::new();
                for (reading, (at, ep, value)) in batch.iter().enumerate() {
                    if let Added::Changed(window, highest) =
                        unbroken.add(key(ep), *at, Number::Double(*value))
                    {
                        expected.push((reading, key(ep), window, *highest));
                    }
                }
                if *restart {
                    drop(store);
                    store = Store::open(&path, 1_000, 1_000_000).unwrap();
                }
                let folded = step(&mut store, settings, 0, batch);
                let changes: Vec<_> = folded
                    .changes
                    .into_iter()
                    .map(|c| (c.reading, c.key, c.window, c.aggregate))
                    .collect();
                prop_assert_eq!(changes, expected);
                prop_assert_eq!(folded.progress, unbroken.progress());
                prop_assert_eq!(folded.late, unbroken.dropped().late - late_before);
            }

            let open: BTreeMap<(i64, SeriesKey), Highest> = unbroken
                .open()
                .map(|(key, window, highest)| ((window.start_ms, key.clone()), *highest))
                .collect();
            let kept: BTreeMap<(i64, SeriesKey), Highest> = store
                .load(0, open.keys().cloned())
                .unwrap()
                .into_iter()
                .map(|(key, start_ms, highest)| ((start_ms, key), highest))
                .collect();
            prop_assert_eq!(store.rows(), open.len() as u64);
            prop_assert_eq!(kept, open);
        }
    }

    #[test]
    fn partitions_have_a_time_of_their_own() {
        let settings = Settings::new(Duration::from_secs(1))
            .and_then(|s| s.with_grace(Duration::ZERO))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("state.db"), 1_000, 100).unwrap();
        step(&mut store, settings, 0, &[(60_000, "a".to_owned(), 1.0)]);
        let behind = step(&mut store, settings, 1, &[(500, "a".to_owned(), 1.0)]);
        assert_eq!((behind.late, behind.changes.len()), (0, 1));
        let late = step(&mut store, settings, 0, &[(500, "a".to_owned(), 1.0)]);
        assert_eq!((late.late, late.changes.len()), (1, 0));
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let settings = Settings::new(Duration::from_secs(1)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("state.db"), 1_000, 10).unwrap();
        for second in 0..100 {
            let batch: Vec<Reading> = ["a", "b", "c"]
                .map(|ep| (second * 1_000, ep.to_owned(), 1.0))
                .into();
            step(&mut store, settings, i32::from(second % 2 == 1), &batch);
            assert!(store.rows() <= 10);
        }
        // The newest three seconds, of both partitions.
        assert_eq!(store.rows(), 9);
        // A flood of names within one window is given up as a whole.
        let flood: Vec<Reading> = (0..50).map(|i| (100_000, format!("x{i}"), 1.0)).collect();
        step(&mut store, settings, 0, &flood);
        assert!(store.rows() <= 10);
    }
}
