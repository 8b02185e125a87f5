//! The embedded graph: a table for each class of vertices and edges, with the names OrientDB has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lwm2m_model::ObjectModel;
use parking_lot::Mutex;
use rusqlite::{
    Connection, OptionalExtension as _, Transaction, params, params_from_iter, types::Value,
};

use crate::change::{Change, Key, Link, OPTIONAL, Property};
use crate::graph::{Applied, GraphError, mandatory, multiple};

/// A handle on the graph; clones share the connection.
#[derive(Clone)]
pub(crate) struct SqliteGraph {
    connection: Arc<Mutex<Connection>>,
}

/// `"out"` and `"in"` are the rids of an edge's ends.
const SCHEMA: &str = r#"
CREATE TABLE IF NOT EXISTS Servers (rid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS Endpoints (
    rid INTEGER PRIMARY KEY, serverId TEXT NOT NULL, name TEXT NOT NULL,
    regDate INTEGER, regId TEXT, regPort INTEGER, regAddress TEXT, port INTEGER, address TEXT, lt INTEGER,
    expired INTEGER, ver TEXT, bnd TEXT, regLastUpdate INTEGER, online INTEGER, sms TEXT, attributes TEXT,
    UNIQUE (name, serverId)
) STRICT;
CREATE TABLE IF NOT EXISTS Objects (
    rid INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, name TEXT, description TEXT, multiple TEXT, mandatory TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS Resources (
    rid INTEGER PRIMARY KEY, objectId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT, description TEXT,
    multiple TEXT, mandatory TEXT, operations TEXT, type TEXT, range TEXT, units TEXT,
    UNIQUE (objectId, id)
) STRICT;
CREATE TABLE IF NOT EXISTS hasEndpoint (
    "out" INTEGER NOT NULL REFERENCES Servers, "in" INTEGER NOT NULL REFERENCES Endpoints,
    PRIMARY KEY ("out", "in")
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hasObject (
    "out" INTEGER NOT NULL REFERENCES Endpoints, "in" INTEGER NOT NULL REFERENCES Objects, instance INTEGER NOT NULL,
    PRIMARY KEY ("out", "in", instance)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hasResource (
    "out" INTEGER NOT NULL REFERENCES Objects, "in" INTEGER NOT NULL REFERENCES Resources,
    PRIMARY KEY ("out", "in")
) STRICT, WITHOUT ROWID;
"#;

impl From<rusqlite::Error> for GraphError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Away(format!("the embedded graph can't be used: {error}"))
    }
}

impl SqliteGraph {
    /// Opens the graph, making it and its folder where they are missing. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, GraphError> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| {
                GraphError::Away(format!(
                    "can't make the folder {}: {error}",
                    folder.display()
                ))
            })?;
        }
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // NORMAL survives the death of the process at any moment. A power loss may take the last commits, and the
        // graph is made to be replayed: resetting the group's offsets builds it anew from the registrations.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    pub(crate) fn apply(&self, changes: &[Change]) -> Result<Applied, GraphError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let mut applied = Applied::default();
        for change in changes {
            apply_one(&transaction, change, &mut applied)?;
        }
        transaction.commit()?;
        Ok(applied)
    }

    pub(crate) fn objects(&self) -> Result<BTreeSet<u16>, GraphError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT id FROM Objects")?;
        let ids = statement.query_map([], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    pub(crate) fn put_models(&self, models: &[ObjectModel]) -> Result<(), GraphError> {
        let mut connection = self.connection.lock();
        for model in models {
            let transaction = connection.transaction()?;
            put_model(&transaction, model)?;
            transaction.commit()?;
        }
        Ok(())
    }
}

fn apply_one(
    transaction: &Transaction<'_>,
    change: &Change,
    applied: &mut Applied,
) -> rusqlite::Result<()> {
    let Key { server, name } = &change.key;
    let known: Option<i64> = transaction
        .prepare_cached("SELECT rid FROM Endpoints WHERE name = ?1 AND serverId = ?2")?
        .query_row([name, server], |row| row.get(0))
        .optional()?;
    let endpoint = match known {
        Some(rid) => rid,
        None if change.replace => make_endpoint(transaction, server, name)?,
        None => {
            tracing::warn!(
                server,
                endpoint = name,
                "an update or de-registration of an endpoint that is not in the graph; skipped"
            );
            applied.unknown_endpoints += 1;
            return Ok(());
        }
    };
    set_properties(transaction, endpoint, change)?;
    if let Some(links) = &change.links {
        applied.unknown_objects += set_links(transaction, endpoint, links, &change.key)?;
    }
    applied.written += 1;
    Ok(())
}

fn make_endpoint(transaction: &Transaction<'_>, server: &str, name: &str) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached("INSERT INTO Servers (name) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([server])?;
    transaction
        .prepare_cached("INSERT INTO Endpoints (serverId, name) VALUES (?1, ?2)")?
        .execute([server, name])?;
    let endpoint = transaction.last_insert_rowid();
    transaction
        .prepare_cached(
            r#"INSERT INTO hasEndpoint ("out", "in") SELECT rid, ?2 FROM Servers WHERE name = ?1"#,
        )?
        .execute(params![server, endpoint])?;
    Ok(endpoint)
}

fn set_properties(
    transaction: &Transaction<'_>,
    endpoint: i64,
    change: &Change,
) -> rusqlite::Result<()> {
    let mut columns = Vec::new();
    let mut values: Vec<Value> = vec![Value::Integer(endpoint)];
    for (name, property) in &change.set {
        values.push(match property {
            Property::Text(text) => Value::Text(text.clone()),
            Property::Number(number) => Value::Integer(*number),
            Property::Flag(yes) => Value::Integer((*yes).into()),
            Property::Map(map) => Value::Text(serde_json::json!(map).to_string()),
        });
        columns.push(format!("{name} = ?{}", values.len()));
    }
    if change.replace {
        let gone = OPTIONAL
            .iter()
            .filter(|name| !change.set.contains_key(*name));
        columns.extend(gone.map(|name| format!("{name} = NULL")));
    }
    // The names are the contract's own; what a device sent is bound.
    let sql = format!("UPDATE Endpoints SET {} WHERE rid = ?1", columns.join(", "));
    transaction
        .prepare_cached(&sql)?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// How many links lead to objects that are not in the graph.
fn set_links(
    transaction: &Transaction<'_>,
    endpoint: i64,
    links: &BTreeSet<Link>,
    key: &Key,
) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(r#"DELETE FROM hasObject WHERE "out" = ?1"#)?
        .execute([endpoint])?;
    let mut insert = transaction.prepare_cached(
        r#"INSERT INTO hasObject ("out", "in", instance) SELECT ?1, rid, ?3 FROM Objects WHERE id = ?2"#,
    )?;
    let mut unknown = 0;
    for link in links {
        if insert.execute(params![endpoint, link.object, link.instance])? == 0 {
            unknown += 1;
            warn_unknown_object(key, link.object);
        }
    }
    Ok(unknown)
}

pub(crate) fn warn_unknown_object(key: &Key, object: u16) {
    tracing::warn!(
        server = key.server,
        endpoint = key.name,
        object,
        "an object that is not in the graph; skipped (load its model)"
    );
}

fn put_model(transaction: &Transaction<'_>, model: &ObjectModel) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO Objects (id, name, description, multiple, mandatory) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
                 multiple = excluded.multiple, mandatory = excluded.mandatory",
        )?
        .execute(params![
            model.id,
            model.name,
            model.description.as_deref().unwrap_or_default(),
            multiple(model.multiple),
            mandatory(model.mandatory),
        ])?;
    for resource in model.resources.values() {
        transaction
            .prepare_cached(
                "INSERT INTO Resources (objectId, id, name, description, multiple, mandatory, operations, type, range, units)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (objectId, id) DO UPDATE SET name = excluded.name, description = excluded.description,
                     multiple = excluded.multiple, mandatory = excluded.mandatory, operations = excluded.operations,
                     type = excluded.type, range = excluded.range, units = excluded.units",
            )?
            .execute(params![
                model.id,
                resource.id,
                resource.name,
                resource.description.as_deref().unwrap_or_default(),
                multiple(resource.multiple),
                mandatory(resource.mandatory),
                resource.operations.to_string(),
                resource.value_type.map_or("", |kind| kind.oma_name()),
                resource.range,
                resource.units,
            ])?;
    }
    transaction
        .prepare_cached(
            r#"INSERT INTO hasResource ("out", "in")
               SELECT o.rid, r.rid FROM Objects o JOIN Resources r ON r.objectId = o.id WHERE o.id = ?1
               ON CONFLICT DO NOTHING"#,
        )?
        .execute([model.id])?;
    Ok(())
}
