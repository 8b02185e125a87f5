//! Reads the embedded graph, also while the sink writes it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row};

/// An endpoint with the objects it leads to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Endpoint {
    /// The LwM2M server's id.
    pub server: String,
    /// Its name.
    pub name: String,
    /// When it registered: Unix milliseconds.
    pub reg_date: Option<i64>,
    /// The registration's id.
    pub reg_id: Option<String>,
    /// The device's address.
    pub address: Option<String>,
    /// The device's port.
    pub port: Option<i64>,
    /// The address of the server it registered at.
    pub reg_address: Option<String>,
    /// The port of the server it registered at.
    pub reg_port: Option<i64>,
    /// Lifetime, in seconds.
    pub lifetime_s: Option<i64>,
    /// The LwM2M version.
    pub version: Option<String>,
    /// The binding.
    pub binding: Option<String>,
    /// The last event: Unix milliseconds.
    pub last_update: Option<i64>,
    /// Whether it is registered.
    pub online: bool,
    /// Whether its registration ran out.
    pub expired: bool,
    /// Its SMS number.
    pub sms: Option<String>,
    /// What else it sent, as a JSON object.
    pub attributes: Option<String>,
    /// Object id and instance id of its objects, in order.
    pub objects: Vec<(u16, u16)>,
}

/// Why the graph can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read the embedded graph {path}: {source}")]
pub struct ReadError {
    path: String,
    source: rusqlite::Error,
}

/// The endpoint of this name, the one that changed last where several servers have it; `None` where there is none,
/// or no graph yet.
///
/// # Errors
/// When the file is no such graph or is not readable.
pub fn endpoint(graph: &Path, name: &str) -> Result<Option<Endpoint>, ReadError> {
    Ok(read(graph, Some(name))?.into_iter().next())
}

/// All endpoints, the one that changed last first; none where there is no graph yet.
///
/// # Errors
/// When the file is no such graph or is not readable.
pub fn endpoints(graph: &Path) -> Result<Vec<Endpoint>, ReadError> {
    read(graph, None)
}

fn read(graph: &Path, name: Option<&str>) -> Result<Vec<Endpoint>, ReadError> {
    if !graph.exists() {
        return Ok(Vec::new());
    }
    match try_read(graph, name) {
        // The sink has made the file and not yet the tables.
        Err(error) if error.to_string().contains("no such table") => Ok(Vec::new()),
        other => other.map_err(|source| ReadError {
            path: graph.display().to_string(),
            source,
        }),
    }
}

fn try_read(graph: &Path, name: Option<&str>) -> rusqlite::Result<Vec<Endpoint>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(graph, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // One transaction, so that an endpoint and its edges are of the same moment.
    let snapshot = connection.transaction()?;
    let mut statement = snapshot.prepare(
        "SELECT rid, serverId, name, regDate, regId, address, port, regAddress, regPort, lt, ver, bnd, regLastUpdate,
                online, expired, sms, attributes
         FROM Endpoints WHERE ?1 IS NULL OR name = ?1 ORDER BY regLastUpdate DESC, rid",
    )?;
    let mut links = snapshot.prepare(
        r#"SELECT o.id, h.instance FROM hasObject h JOIN Objects o ON o.rid = h."in" WHERE h."out" = ?1
           ORDER BY o.id, h.instance"#,
    )?;
    let found = statement.query_map([name], |row| Ok((row.get::<_, i64>(0)?, from_row(row)?)))?;
    found
        .map(|found| {
            let (rid, mut endpoint) = found?;
            let objects = links.query_map([rid], |row| Ok((row.get(0)?, row.get(1)?)))?;
            endpoint.objects = objects.collect::<Result<_, _>>()?;
            Ok(endpoint)
        })
        .collect()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Endpoint> {
    Ok(Endpoint {
        server: row.get(1)?,
        name: row.get(2)?,
        reg_date: row.get(3)?,
        reg_id: row.get(4)?,
        address: row.get(5)?,
        port: row.get(6)?,
        reg_address: row.get(7)?,
        reg_port: row.get(8)?,
        lifetime_s: row.get(9)?,
        version: row.get(10)?,
        binding: row.get(11)?,
        last_update: row.get(12)?,
        online: row.get::<_, Option<bool>>(13)?.unwrap_or(false),
        expired: row.get::<_, Option<bool>>(14)?.unwrap_or(false),
        sms: row.get(15)?,
        attributes: row.get(16)?,
        objects: Vec::new(),
    })
}
