//! Reads the embedded store, also while the sink writes it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params};

/// A point of the embedded store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    /// Unix milliseconds.
    pub time_ms: i64,
    /// Nanoseconds below the millisecond, with `timestamp.disambiguate=content`.
    pub time_ns: u32,
    /// The ticket of the request that led to it.
    pub ticket: String,
    /// The observation's token in hex; empty for a reply.
    pub observation_id: String,
    /// The LwM2M server's id.
    pub server_id: String,
    /// The endpoint.
    pub ep: String,
    /// The operation (`observe`, `read`, …).
    pub kind: String,
    /// The resource's path.
    pub path: String,
    /// A number.
    pub value: Option<f64>,
    /// A text or a message.
    pub svalue: Option<String>,
    /// A boolean.
    pub bvalue: Option<bool>,
}

/// Which points; what is `None` does not matter.
#[derive(Clone, Debug)]
pub struct Filter<'a> {
    /// The endpoint.
    pub ep: Option<&'a str>,
    /// The resource's path.
    pub path: Option<&'a str>,
    /// The ticket.
    pub ticket: Option<&'a str>,
    /// Not before this time, in Unix milliseconds.
    pub since_ms: Option<i64>,
    /// The most points. Default 100,000.
    pub limit: u32,
}

impl Default for Filter<'_> {
    fn default() -> Self {
        Self {
            ep: None,
            path: None,
            ticket: None,
            since_ms: None,
            limit: 100_000,
        }
    }
}

/// Why the store can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read the embedded time-series store {path}: {source}")]
pub struct ReadError {
    path: String,
    source: rusqlite::Error,
}

/// The latest point of an endpoint's resource; `None` where there is none, or no store yet.
///
/// # Errors
/// When the file is no such store or is not readable.
pub fn query_latest(store: &Path, ep: &str, path: &str) -> Result<Option<StoredPoint>, ReadError> {
    let filter = Filter {
        ep: Some(ep),
        path: Some(path),
        limit: 1,
        ..Filter::default()
    };
    Ok(query(store, &filter)?.into_iter().next())
}

/// Points, the latest first; none where there is no store yet.
///
/// # Errors
/// When the file is no such store or is not readable.
pub fn query(store: &Path, filter: &Filter<'_>) -> Result<Vec<StoredPoint>, ReadError> {
    if !store.exists() {
        return Ok(Vec::new());
    }
    match read(store, filter) {
        // The sink has made the file and not yet the table.
        Err(error) if error.to_string().contains("no such table") => Ok(Vec::new()),
        other => other.map_err(|source| ReadError {
            path: store.display().to_string(),
            source,
        }),
    }
}

fn read(store: &Path, filter: &Filter<'_>) -> rusqlite::Result<Vec<StoredPoint>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(store, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let mut conditions = vec!["time_ms >= ?1".to_owned()];
    let mut given: Vec<&str> = Vec::new();
    for (column, wanted) in [
        ("ep", filter.ep),
        ("path", filter.path),
        ("ticket", filter.ticket),
    ] {
        if let Some(wanted) = wanted {
            given.push(wanted);
            conditions.push(format!("{column} = ?{}", given.len() + 2));
        }
    }
    let sql = format!(
        "SELECT time_ms, time_ns, ticket, observationId, serverId, ep, kind, path, value, svalue, bvalue
         FROM resources WHERE {} ORDER BY time_ms DESC, time_ns DESC LIMIT ?2",
        conditions.join(" AND ")
    );
    let since = filter.since_ms.unwrap_or(i64::MIN);
    let mut bound: Vec<&dyn rusqlite::ToSql> = params![since, filter.limit].to_vec();
    bound.extend(given.iter().map(|text| text as &dyn rusqlite::ToSql));
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(bound.as_slice(), point)?;
    rows.collect()
}

fn point(row: &Row<'_>) -> rusqlite::Result<StoredPoint> {
    Ok(StoredPoint {
        time_ms: row.get(0)?,
        time_ns: row.get(1)?,
        ticket: row.get(2)?,
        observation_id: row.get(3)?,
        server_id: row.get(4)?,
        ep: row.get(5)?,
        kind: row.get(6)?,
        path: row.get(7)?,
        value: row.get(8)?,
        svalue: row.get(9)?,
        bvalue: row.get(10)?,
    })
}
