//! The request journal: from acceptance to reply.

use records::{AvroRecord as _, Request};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Store, StoreError};

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryState {
    /// Accepted; nothing was sent to the device.
    Accepted,
    /// One that must not be sent twice may have reached the device.
    Sent,
    /// The same command as an earlier one that has no reply yet: answered when that is, and as that is.
    Follows(i64),
}

const ACCEPTED: i64 = 0;
const SENT: i64 = 1;
/// The state of a request that has its reply.
const ANSWERED: i64 = 2;
const FOLLOWS: i64 = 3;

/// A request as it is offered to the journal.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// Where it was first written; the same origin is never run twice.
    pub(crate) origin: String,
    pub(crate) request: Request,
    pub(crate) accepted_ms: i64,
    /// When the record says it was written, Unix milliseconds.
    pub(crate) written_ms: i64,
    /// The same where the record says so itself and is no copy.
    pub(crate) created_ms: Option<i64>,
    /// Its own word on when it is too late.
    pub(crate) expires_ms: Option<i64>,
    /// Its `traceparent`.
    pub(crate) trace: String,
    /// It can't be read as a whole, for this reason: it is answered so.
    pub(crate) malformed: Option<String>,
}

/// What the engine adds to an [`Accepted`] before it is written down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    pub(crate) deadline_ms: i64,
    /// Its device is in queue mode: it waits for it, whatever becomes of the registration.
    pub(crate) sleeper: bool,
}

/// A request of the journal that has no reply yet.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    pub(crate) origin: String,
    pub(crate) request: Request,
    /// Of the request as it is written.
    pub(crate) bytes: usize,
    pub(crate) deadline_ms: i64,
    pub(crate) sleeper: bool,
    pub(crate) trace: String,
}

/// What the last run left of a request; what is asked for stays on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRequest {
    pub(crate) id: i64,
    pub(crate) endpoint: String,
    pub(crate) deadline_ms: i64,
    pub(crate) sleeper: bool,
    pub(crate) bytes: usize,
    pub(crate) state: EntryState,
}

/// What the journal says of a request that is offered to it.
#[derive(Debug)]
pub(crate) enum Known {
    /// It was not there: now it is, and has to be run.
    New(Box<Entry>),
    /// This very record was accepted before.
    SameOrigin,
    /// The same command within the window, whose reply (a `Response`'s datum) is this one's too.
    Duplicate { reply: Vec<u8> },
    /// The same command within the window, which has no reply yet.
    Follows { first: i64, id: i64 },
}

/// What is known of a request's origin.
enum Position {
    New,
    /// This very record was accepted before.
    Known,
    /// Another record was there, under this number: the topic was made anew.
    Reused(i64),
}

/// A request that waits, as a person sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queued {
    pub(crate) id: i64,
    pub(crate) request: Request,
    pub(crate) accepted_ms: i64,
    pub(crate) deadline_ms: i64,
}

impl Store {
    /// Offers a request to the journal. It is there with the next commit. `true`: another record stood at its origin
    /// before, so that the topic was made anew.
    pub(crate) fn offer(
        &mut self,
        accepted: &Accepted,
        offered: Offered,
        window_ms: i64,
    ) -> Result<(Known, bool), StoreError> {
        self.begin(true)?;
        let connection = self.connection();
        let whole = accepted.request.to_datum();
        let digest = digest(&whole);
        let reused = match position(connection, accepted, &digest)? {
            Position::New => false,
            Position::Known => return Ok((Known::SameOrigin, false)),
            Position::Reused(earlier) => {
                // No origin looks so: what stood there before is found by its number only.
                connection
                    .prepare_cached(
                        "UPDATE requests SET origin = origin || '~' || id WHERE id = ?1",
                    )?
                    .execute(params![earlier])?;
                true
            }
        };
        let must_not_repeat = accepted.malformed.is_none() && must_not_repeat(&accepted.request);
        let fingerprint = must_not_repeat.then(|| fingerprint(&accepted.request));
        let earlier = match &fingerprint {
            None => None,
            Some(fingerprint) => connection
                .prepare_cached(
                    "SELECT id, state, reply FROM requests
                     WHERE fingerprint = ?1 AND accepted_ms > ?2 ORDER BY id LIMIT 1",
                )?
                .query_row(
                    params![fingerprint, accepted.accepted_ms.saturating_sub(window_ms)],
                    |row| {
                        let reply = row.get::<_, Option<Vec<u8>>>(2)?;
                        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, reply))
                    },
                )
                .optional()?,
        };
        // A duplicate's fingerprint is not kept: the window counts from the command that was run.
        let (state, follows, kept) = match &earlier {
            None => (ACCEPTED, None, fingerprint),
            Some((_, ANSWERED, _)) => (ANSWERED, None, None),
            Some((first, _, _)) => (FOLLOWS, Some(*first), None),
        };
        let datum = if state == ANSWERED { &[][..] } else { &whole };
        connection
            .prepare_cached(
                "INSERT INTO requests
                     (origin, fingerprint, accepted_ms, deadline_ms, request, state, sleeper, trace, follows, digest, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                accepted.origin,
                kept,
                accepted.accepted_ms,
                offered.deadline_ms,
                datum,
                state,
                offered.sleeper,
                accepted.trace,
                follows,
                digest,
                accepted.created_ms
            ])?;
        let id = connection.last_insert_rowid();
        let known = match earlier {
            None => Known::New(Box::new(Entry {
                id,
                origin: accepted.origin.clone(),
                request: accepted.request.clone(),
                bytes: whole.len(),
                deadline_ms: offered.deadline_ms,
                sleeper: offered.sleeper,
                trace: accepted.trace.clone(),
            })),
            Some((_, ANSWERED, reply)) => Known::Duplicate {
                reply: reply.unwrap_or_default(),
            },
            Some((first, _, _)) => Known::Follows { first, id },
        };
        Ok((known, reused))
    }

    /// A request has its reply; its datum is kept where a duplicate would be answered with it. In this turn's transaction
    /// at once: a duplicate that is offered later in the turn has to see it.
    pub(crate) fn answer(&mut self, id: i64, reply: Option<&[u8]>) -> Result<(), StoreError> {
        self.begin(true)?;
        // Of one that is answered its origin and fingerprint are remembered, not what was asked for.
        self.connection()
            .prepare_cached(
                "UPDATE requests SET state = ?3, reply = ?2, request = x'' WHERE id = ?1",
            )?
            .execute(params![id, reply, ANSWERED])?;
        Ok(())
    }

    /// The reply that is kept of a command, where it has one.
    pub(crate) fn reply_to(&self, id: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let kept = self
            .connection()
            .prepare_cached("SELECT reply FROM requests WHERE id = ?1 AND state = ?2")?
            .query_row(params![id, ANSWERED], |row| row.get(0))
            .optional()?;
        Ok(kept.flatten())
    }

    /// Shows every request without a reply, in the order of their acceptance. Only one is in memory at a time.
    pub(crate) fn each_open(&self, mut each: impl FnMut(OpenRequest)) -> Result<(), StoreError> {
        let mut statement = self.connection().prepare(
            "SELECT id, request, deadline_ms, sleeper, state, follows FROM requests WHERE state <> 2 ORDER BY id",
        )?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let state = match row.get::<_, i64>(4)? {
                SENT => EntryState::Sent,
                FOLLOWS => EntryState::Follows(row.get(5)?),
                _ => EntryState::Accepted,
            };
            let datum = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            each(OpenRequest {
                id: row.get(0)?,
                endpoint: request(datum)?.ep,
                deadline_ms: row.get(2)?,
                sleeper: row.get(3)?,
                bytes: datum.len(),
                state,
            });
        }
        Ok(())
    }

    /// A request that has no reply yet.
    pub(crate) fn open_request(&self, id: i64) -> Result<Option<Entry>, StoreError> {
        let mut statement = self.connection().prepare_cached(&format!(
            "SELECT {ENTRY} FROM requests WHERE id = ?1 AND state <> 2"
        ))?;
        let mut found = statement.query(params![id])?;
        found.next()?.map(entry).transpose()
    }

    /// These requests as a person sees them; those that were answered meanwhile are left out.
    pub(crate) fn queued(&self, ids: &[i64]) -> Result<Vec<Queued>, StoreError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT request, accepted_ms, deadline_ms FROM requests WHERE id = ?1 AND state <> 2",
        )?;
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let mut found = statement.query(params![id])?;
            if let Some(row) = found.next()? {
                all.push(Queued {
                    id: *id,
                    request: request(&row.get::<_, Vec<u8>>(0)?)?,
                    accepted_ms: row.get(1)?,
                    deadline_ms: row.get(2)?,
                });
            }
        }
        Ok(all)
    }

    /// Forgets answered requests that were accepted before this, and all but the last `most` (whatever their age).
    pub(crate) fn forget_answered(&mut self, unix_ms: i64, most: i64) -> Result<(), StoreError> {
        self.connection().execute(
            "DELETE FROM requests WHERE state = ?1 AND accepted_ms < ?2",
            params![ANSWERED, unix_ms],
        )?;
        self.connection().execute(
            "DELETE FROM requests WHERE state = ?1 AND id <= (SELECT max(id) FROM requests) - ?2",
            params![ANSWERED, most],
        )?;
        Ok(())
    }
}

const ENTRY: &str = "id, origin, request, deadline_ms, sleeper, trace";

fn entry(row: &Row<'_>) -> Result<Entry, StoreError> {
    let datum = row
        .get_ref("request")?
        .as_blob()
        .map_err(rusqlite::Error::from)?;
    Ok(Entry {
        id: row.get("id")?,
        origin: row.get("origin")?,
        request: request(datum)?,
        bytes: datum.len(),
        deadline_ms: row.get("deadline_ms")?,
        sleeper: row.get("sleeper")?,
        trace: row.get::<_, Option<String>>("trace")?.unwrap_or_default(),
    })
}

fn request(datum: &[u8]) -> Result<Request, StoreError> {
    Request::from_datum(datum).map_err(|error| StoreError::Row {
        what: "request",
        reason: error.to_string(),
    })
}

/// Whether the record at this origin is known. The same request at the same origin is the same record, and never another
/// one as long as it has no reply. Another request there, or the same one written at another time, says that the topic
/// was deleted and made anew; the time counts where no copy can have another one.
fn position(
    connection: &Connection,
    accepted: &Accepted,
    digest: &[u8; 16],
) -> Result<Position, StoreError> {
    let known = connection
        .prepare_cached("SELECT id, state, digest, created_ms FROM requests WHERE origin = ?1")?
        .query_row(params![accepted.origin], |row| {
            let id: i64 = row.get(0)?;
            let state: i64 = row.get(1)?;
            // Those of an earlier release have neither.
            let digest: Option<Vec<u8>> = row.get(2)?;
            let created_ms: Option<i64> = row.get(3)?;
            Ok((id, state, digest, created_ms))
        })
        .optional()?;
    let Some((id, state, kept, created_ms)) = known else {
        return Ok(Position::New);
    };
    let is_another = kept.is_some_and(|kept| kept != digest);
    let was_written_later = state == ANSWERED
        && created_ms
            .zip(accepted.created_ms)
            .is_some_and(|(before, now)| before != now);
    Ok(if is_another || was_written_later {
        Position::Reused(id)
    } else {
        Position::Known
    })
}

/// What tells two requests apart: half of a SHA-256 over the whole of it.
fn digest(datum: &[u8]) -> [u8; 16] {
    let whole = openssl::sha::sha256(datum);
    std::array::from_fn(|place| whole[place])
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

pub(super) fn mark_sent(connection: &Connection, id: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE requests SET state = ?2 WHERE id = ?1 AND state = ?3")?
        .execute(params![id, SENT, ACCEPTED])?;
    Ok(())
}
