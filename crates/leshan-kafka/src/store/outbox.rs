//! Records on their way to Kafka that have to outlive a crash, in order by kind.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::{Store, StoreError};

/// Which topic a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutgoingKind {
    Registration = 0,
    Observation = 1,
    Reply = 2,
}

/// A record for Kafka: its Avro datum, framed when it is produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) kind: OutgoingKind,
    /// The device, which is the record's key.
    pub(crate) endpoint: String,
    pub(crate) datum: Vec<u8>,
    /// Of a reply: the origin of the request it answers, by which it is known again.
    pub(crate) origin: Option<String>,
    /// The `traceparent` of what caused it.
    pub(crate) trace: Option<String>,
}

/// What the last run left of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutboxState {
    /// The last record's number, 0 where there is none.
    pub(crate) last: i64,
    /// The bytes of all.
    pub(crate) bytes: u64,
}

impl Store {
    /// The next records of a kind after this number, in order.
    pub(crate) fn outbox_after(
        &self,
        kind: OutgoingKind,
        id: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Outgoing)>, StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT id, endpoint, datum, origin, trace FROM outbox WHERE kind = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = statement.query_map(params![kind as i64, id, limit], |row| {
            let record = Outgoing {
                kind,
                endpoint: row.get(1)?,
                datum: row.get(2)?,
                origin: row.get(3)?,
                trace: row.get(4)?,
            };
            Ok((row.get(0)?, record))
        })?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    pub(crate) fn outbox_state(&self, kind: OutgoingKind) -> Result<OutboxState, StoreError> {
        let state = self.connection().query_row(
            "SELECT coalesce(max(id), 0), coalesce(sum(length(datum)), 0) FROM outbox WHERE kind = ?1",
            params![kind as i64],
            |row| {
                let bytes: i64 = row.get(1)?;
                Ok(OutboxState {
                    last: row.get(0)?,
                    bytes: u64::try_from(bytes).unwrap_or(0),
                })
            },
        )?;
        Ok(state)
    }

    /// The requests whose replies the last run left: Kafka may have some of them.
    pub(crate) fn replies_left(&self) -> Result<HashSet<String>, StoreError> {
        let mut statement = self
            .connection()
            .prepare("SELECT origin FROM outbox WHERE kind = ?1 AND origin IS NOT NULL")?;
        let found = statement.query_map(params![OutgoingKind::Reply as i64], |row| row.get(0))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Up to where, by partition, every reply of the topic is known to be there.
    pub(crate) fn replies_known(&self, topic: &str) -> Result<HashMap<i32, i64>, StoreError> {
        let mut statement = self
            .connection()
            .prepare("SELECT partition, next FROM replies_up_to WHERE topic = ?1")?;
        let found = statement.query_map(params![topic], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }
}

pub(super) fn insert(
    connection: &Connection,
    id: i64,
    outgoing: &Outgoing,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (kind, id, endpoint, datum, origin, trace) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            outgoing.kind as i64,
            id,
            outgoing.endpoint,
            outgoing.datum,
            outgoing.origin,
            outgoing.trace
        ])?;
    Ok(())
}

/// Rows of one kind, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    kind: OutgoingKind,
    first: i64,
    last: i64,
}

impl Run {
    pub(super) fn one(kind: OutgoingKind, id: i64) -> Self {
        Self {
            kind,
            first: id,
            last: id,
        }
    }
}

/// Puts rows together that are removed.
#[derive(Debug, Default)]
pub(super) struct Published(Option<Run>);

impl Published {
    /// A row; the run before it, where it is none of that.
    pub(super) fn next(&mut self, kind: OutgoingKind, id: i64) -> Option<Run> {
        match &mut self.0 {
            Some(run) if run.kind == kind && run.last + 1 == id => {
                run.last = id;
                None
            }
            _ => self.0.replace(Run::one(kind, id)),
        }
    }

    /// The last run.
    pub(super) fn end(self) -> Option<Run> {
        self.0
    }
}

/// Removes records; says how many bytes they had.
pub(super) fn delete(connection: &Connection, run: &Run) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM outbox WHERE kind = ?1 AND id BETWEEN ?2 AND ?3 RETURNING length(datum)",
    )?;
    let mut lengths = statement.query(params![run.kind as i64, run.first, run.last])?;
    let mut bytes = 0;
    while let Some(row) = lengths.next()? {
        bytes += u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
    }
    Ok(bytes)
}

pub(super) fn replies_up_to(
    connection: &Connection,
    topic: &str,
    partition: i32,
    next: i64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO replies_up_to (topic, partition, next) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![topic, partition, next])?;
    Ok(())
}
