//! What a server remembers of sessions so that they can be resumed (RFC 5246 section 7.4.1.2).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Identity;
use crate::prf::MasterSecret;
use crate::suite::CipherSuite;

/// What a resumed session has in common with the one before.
#[derive(Clone)]
pub(crate) struct Resumable {
    pub(crate) master: MasterSecret,
    pub(crate) suite: CipherSuite,
    pub(crate) extended_master_secret: bool,
    pub(crate) identity: Arc<Identity>,
}

impl fmt::Debug for Resumable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumable")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

pub(crate) type SessionId = [u8; 32];

/// One session of each identity, the latest; the one that was not used for the longest time gives way.
#[derive(Debug)]
pub(crate) struct Resumables {
    most: usize,
    lifetime: Duration,
    by_id: HashMap<SessionId, Entry>,
    /// By the identity's number.
    by_number: HashMap<u64, SessionId>,
    by_age: BTreeMap<u64, SessionId>,
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    session: Resumable,
    number: u64,
    since: Instant,
    age: u64,
}

impl Resumables {
    pub(crate) fn new(most: usize, lifetime: Duration) -> Self {
        Self {
            most,
            lifetime,
            by_id: HashMap::new(),
            by_number: HashMap::new(),
            by_age: BTreeMap::new(),
            serial: 0,
        }
    }

    pub(crate) fn put(&mut self, now: Instant, id: SessionId, session: Resumable) {
        if self.most == 0 || self.lifetime.is_zero() {
            return;
        }
        let number = session.identity.number();
        self.forget(number);
        while self.by_id.len() >= self.most
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            if let Some(entry) = self.by_id.remove(&oldest) {
                self.by_number.remove(&entry.number);
            }
        }
        self.serial += 1;
        let age = self.serial;
        self.by_age.insert(age, id);
        self.by_number.insert(number, id);
        let entry = Entry {
            session,
            number,
            since: now,
            age,
        };
        self.by_id.insert(id, entry);
    }

    /// The session of this id, unless it is too old.
    pub(crate) fn get(&self, now: Instant, id: &[u8]) -> Option<(SessionId, Resumable)> {
        let id: SessionId = id.try_into().ok()?;
        let entry = self.by_id.get(&id)?;
        let fresh = now.saturating_duration_since(entry.since) < self.lifetime;
        fresh.then(|| (id, entry.session.clone()))
    }

    pub(crate) fn clear(&mut self) {
        self.by_id.clear();
        self.by_number.clear();
        self.by_age.clear();
    }

    pub(crate) fn forget(&mut self, number: u64) {
        if let Some(id) = self.by_number.remove(&number)
            && let Some(entry) = self.by_id.remove(&id)
        {
            self.by_age.remove(&entry.age);
        }
    }
}
