//! The request journal: from acceptance to reply.

use records::{AvroRecord as _, Request};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Store, StoreError};

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// Accepted; nothing was sent to the device.
    Accepted = 0,
    /// One that must not be sent twice may have reached the device.
    Sent = 1,
}

/// The state of a request that has its reply.
const ANSWERED: i64 = 2;

/// A request as it is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// Where it was first written; the same origin is never run twice.
    pub(crate) origin: String,
    pub(crate) request: Request,
    pub(crate) accepted_ms: i64,
    pub(crate) deadline_ms: i64,
}

/// A request of the journal that has no reply yet.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) request: Request,
    pub(crate) deadline_ms: i64,
    pub(crate) state: EntryState,
}

/// What the journal says of a request that is offered to it.
#[derive(Debug)]
pub(crate) enum Known {
    /// It was not there: now it is, and has to be run.
    New(Entry),
    /// This very record was accepted before.
    SameOrigin,
    /// The same command within the window, and its reply (a `Response`'s datum) where it has one.
    Duplicate { reply: Option<Vec<u8>> },
}

impl Store {
    /// Offers requests to the journal, in one synced transaction. `window_ms`: within which an identical command is
    /// a duplicate.
    pub(crate) fn accept(
        &mut self,
        offered: &[Accepted],
        window_ms: i64,
    ) -> Result<Vec<Known>, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut known = Vec::with_capacity(offered.len());
        for accepted in offered {
            known.push(offer(&transaction, accepted, window_ms)?);
        }
        transaction.commit()?;
        Ok(known)
    }

    /// Requests without a reply, in the order of their acceptance.
    pub(crate) fn open_requests(&self) -> Result<Vec<Entry>, StoreError> {
        let mut statement = self.connection().prepare(
            "SELECT id, request, deadline_ms, state FROM requests WHERE state < 2 ORDER BY id",
        )?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })?;
        let mut entries = Vec::new();
        for row in rows {
            let (id, datum, deadline_ms, state) = row?;
            let request = Request::from_datum(&datum).map_err(|error| StoreError::Row {
                what: "request",
                reason: error.to_string(),
            })?;
            let state = if state == EntryState::Sent as i64 {
                EntryState::Sent
            } else {
                EntryState::Accepted
            };
            entries.push(Entry {
                id,
                request,
                deadline_ms,
                state,
            });
        }
        Ok(entries)
    }

    /// Forgets answered requests that were accepted before this, and all but the last `most` (whatever their age).
    pub(crate) fn forget_answered(&mut self, unix_ms: i64, most: i64) -> Result<(), StoreError> {
        self.connection.execute(
            "DELETE FROM requests WHERE state = ?1 AND accepted_ms < ?2",
            params![ANSWERED, unix_ms],
        )?;
        self.connection.execute(
            "DELETE FROM requests WHERE state = ?1 AND id <= (SELECT max(id) FROM requests) - ?2",
            params![ANSWERED, most],
        )?;
        Ok(())
    }
}

fn offer(
    transaction: &Transaction<'_>,
    accepted: &Accepted,
    window_ms: i64,
) -> Result<Known, StoreError> {
    let same_origin = transaction
        .prepare_cached("SELECT 1 FROM requests WHERE origin = ?1")?
        .query_row(params![accepted.origin], |_| Ok(()))
        .optional()?;
    if same_origin.is_some() {
        return Ok(Known::SameOrigin);
    }
    let datum = accepted.request.to_datum();
    let fingerprint = fingerprint(&accepted.request);
    let earlier = if must_not_repeat(&accepted.request) {
        transaction
            .prepare_cached(
                "SELECT reply FROM requests WHERE fingerprint = ?1 AND accepted_ms > ?2 ORDER BY id LIMIT 1",
            )?
            .query_row(
                params![fingerprint, accepted.accepted_ms.saturating_sub(window_ms)],
                |row| row.get::<_, Option<Vec<u8>>>(0),
            )
            .optional()?
    } else {
        None
    };
    if let Some(reply) = earlier {
        return Ok(Known::Duplicate { reply });
    }
    transaction
        .prepare_cached(
            "INSERT INTO requests (origin, fingerprint, accepted_ms, deadline_ms, request, state)
             VALUES (?1, ?2, ?3, ?4, ?5, 0)",
        )?
        .execute(params![
            accepted.origin,
            fingerprint,
            accepted.accepted_ms,
            accepted.deadline_ms,
            datum
        ])?;
    Ok(Known::New(Entry {
        id: transaction.last_insert_rowid(),
        request: accepted.request.clone(),
        deadline_ms: accepted.deadline_ms,
        state: EntryState::Accepted,
    }))
}

/// Requests that change something by being sent once more.
pub(crate) fn must_not_repeat(request: &Request) -> bool {
    use records::RequestKind::{Create, Delete, Execute, Write};
    matches!(request.payload.kind, Execute | Create | Delete | Write)
}

/// The same ticket, endpoint and payload. The server id is left out: it is not part of what is asked for.
fn fingerprint(request: &Request) -> [u8; 32] {
    let asked = Request {
        server_id: String::new(),
        ..request.clone()
    };
    openssl::sha::sha256(&asked.to_datum())
}

pub(super) fn mark_sent(transaction: &Transaction<'_>, id: i64) -> Result<(), StoreError> {
    transaction
        .prepare_cached("UPDATE requests SET state = 1 WHERE id = ?1 AND state = 0")?
        .execute(params![id])?;
    Ok(())
}

pub(super) fn answer(
    transaction: &Transaction<'_>,
    id: i64,
    reply: Option<&[u8]>,
) -> Result<(), StoreError> {
    // Of one that is answered its origin and fingerprint are remembered, not what was asked for.
    transaction
        .prepare_cached("UPDATE requests SET state = ?3, reply = ?2, request = x'' WHERE id = ?1")?
        .execute(params![id, reply, ANSWERED])?;
    Ok(())
}
