//! Records on their way to Kafka that have to outlive a crash, in order.

use rusqlite::{OptionalExtension as _, Transaction, params};

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
}

impl Store {
    /// The next records after this id, in order.
    pub(crate) fn outbox_after(
        &self,
        id: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Outgoing)>, StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT id, kind, endpoint, datum FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![id, limit], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, Vec<u8>>(3)?,
            ))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (id, kind, endpoint, datum) = row?;
            let kind = match kind {
                0 => OutgoingKind::Registration,
                1 => OutgoingKind::Observation,
                2 => OutgoingKind::Reply,
                other => {
                    return Err(StoreError::Row {
                        what: "record",
                        reason: format!("its kind is {other}"),
                    });
                }
            };
            all.push((
                id,
                Outgoing {
                    kind,
                    endpoint,
                    datum,
                },
            ));
        }
        Ok(all)
    }

    /// The last record's id (0: none) and how many bytes all have.
    pub(crate) fn outbox_state(&self) -> Result<(i64, u64), StoreError> {
        let (last, bytes) = self.connection().query_row(
            "SELECT coalesce(max(id), 0), coalesce(sum(length(datum)), 0) FROM outbox",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        Ok((last, u64::try_from(bytes).unwrap_or(0)))
    }
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    outgoing: &Outgoing,
) -> Result<i64, StoreError> {
    transaction
        .prepare_cached("INSERT INTO outbox (kind, endpoint, datum) VALUES (?1, ?2, ?3)")?
        .execute(params![
            outgoing.kind as i64,
            outgoing.endpoint,
            outgoing.datum
        ])?;
    Ok(transaction.last_insert_rowid())
}

/// Removes a record; says how many bytes it had.
pub(super) fn delete(transaction: &Transaction<'_>, id: i64) -> Result<u64, StoreError> {
    let bytes: Option<i64> = transaction
        .prepare_cached("DELETE FROM outbox WHERE id = ?1 RETURNING length(datum)")?
        .query_row(params![id], |row| row.get(0))
        .optional()?;
    Ok(bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(0))
}
