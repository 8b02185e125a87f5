//! Logins of pages.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use openssl::sha::sha256;

use super::entries::hex;
use super::password::PasswordHash;

/// The most sessions; beyond it the one that was used longest ago ends.
const SESSIONS: usize = 1_024;
/// A session that is not used ends after this.
pub(super) const IDLE: Duration = Duration::from_secs(8 * 3_600);
/// Any session ends after this.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// By the SHA-256 of what the browser has: whoever reads this memory has no session by it, and looking one up takes no
/// time that tells.
#[derive(Default)]
pub(super) struct Sessions(HashMap<[u8; 32], Session>);

struct Session {
    user: String,
    /// The password it was made with: a changed one ends it.
    hash: PasswordHash,
    since: Instant,
    used: Instant,
}

impl Sessions {
    /// A new session; the answer is what the browser keeps.
    pub(super) fn start(&mut self, user: &str, hash: PasswordHash, now: Instant) -> String {
        if self.0.len() >= SESSIONS {
            self.0.retain(|_, session| session.stands(now));
            if self.0.len() >= SESSIONS
                && let Some(oldest) = self
                    .0
                    .iter()
                    .min_by_key(|(_, session)| session.used)
                    .map(|(id, _)| *id)
            {
                self.0.remove(&oldest);
            }
        }
        let id = hex(&rand::random::<[u8; 32]>());
        let session = Session {
            user: user.to_owned(),
            hash,
            since: now,
            used: now,
        };
        self.0.insert(key(&id), session);
        id
    }

    /// The user whose session it is, with the password it was made with.
    pub(super) fn user(&mut self, id: &str, now: Instant) -> Option<(String, PasswordHash)> {
        let key = key(id);
        let session = self.0.get_mut(&key)?;
        if !session.stands(now) {
            self.0.remove(&key);
            return None;
        }
        session.used = now;
        Some((session.user.clone(), session.hash.clone()))
    }

    /// The password that a session was made with, while it stands; to ask is no use of it.
    pub(super) fn made_with(&self, key: &[u8; 32], now: Instant) -> Option<&PasswordHash> {
        let session = self.0.get(key)?;
        session.stands(now).then_some(&session.hash)
    }

    pub(super) fn end(&mut self, id: &str) {
        self.0.remove(&key(id));
    }
}

/// What a session is found by.
pub(super) fn key(id: &str) -> [u8; 32] {
    sha256(id.as_bytes())
}

impl Session {
    fn stands(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE
            && now.saturating_duration_since(self.since) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stands_while_it_is_used_and_not_for_ever() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let id = sessions.start("ann", PasswordHash::of_nobody(), now);
        assert_eq!(id.len(), 64);
        let user =
            |sessions: &mut Sessions, id: &str, at| sessions.user(id, at).map(|(user, _)| user);
        assert_eq!(user(&mut sessions, "", now), None);
        let mut at = now;
        while at + IDLE / 2 < now + LONGEST {
            at += IDLE / 2;
            assert_eq!(user(&mut sessions, &id, at).as_deref(), Some("ann"));
        }
        assert_eq!(user(&mut sessions, &id, now + LONGEST), None);

        let id = sessions.start("ann", PasswordHash::of_nobody(), now);
        let stands = |sessions: &Sessions, at| sessions.made_with(&key(&id), at).is_some();
        assert!(stands(&sessions, now + IDLE / 2));
        // To ask whether it stands was no use of it.
        assert!(!stands(&sessions, now + IDLE));
        assert_eq!(user(&mut sessions, &id, now + IDLE), None);
        let id = sessions.start("ann", PasswordHash::of_nobody(), now);
        sessions.end(&id);
        assert_eq!(user(&mut sessions, &id, now), None);
    }

    #[test]
    fn there_is_an_end_to_sessions() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let first = sessions.start("ann", PasswordHash::of_nobody(), now);
        for number in 1..=1_024 {
            let at = now + Duration::from_millis(number);
            sessions.start("bob", PasswordHash::of_nobody(), at);
        }
        assert_eq!(sessions.0.len(), SESSIONS);
        assert!(sessions.user(&first, now).is_none());
    }
}
