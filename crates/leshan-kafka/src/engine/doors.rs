//! Where devices come in: over plain UDP, and over DTLS.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use coap::{Peer, Transmit};
use dtls::{Closing, Event, Identity, certificate_names};
use parking_lot::RwLock;
use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use transport::{Batch, DtlsServer, Incoming, UdpTransport};

use crate::credentials::{Credentials, Revoked};

static SESSIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("zeelos_dtls_sessions", "DTLS sessions that stand now.")
        .expect("registered once, with a valid name")
});

static HANDSHAKES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_dtls_handshakes_total",
        "DTLS handshakes by their outcome: full, resumed, refused_key, refused_certificate, refused_full, refused_other.",
        &["outcome"]
    )
    .expect("registered once, with a valid name")
});

static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_dtls_dropped_total",
        "What was dropped: records that were forged, replayed or of no session, datagrams for which there was no session.",
        &["what"]
    )
    .expect("registered once, with a valid name")
});

/// Refusals that are logged in a second; more are only counted, since anybody can cause them.
const LOGGED_REFUSALS: u32 = 10;

/// Datagrams over plain UDP in one turn, at most; by whole batches.
const DATAGRAMS_PER_TURN: usize = 512;

/// Who is in which session: shared with the question who may register as what.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<RwLock<HashMap<u64, Arc<Identity>>>>);

impl Sessions {
    /// The identity of a peer in a session.
    pub(crate) fn identity(&self, peer: Peer) -> Option<Arc<Identity>> {
        self.0.read().get(&peer.session).cloned()
    }
}

/// The DTLS door, and who is in its sessions.
pub(crate) struct SecureDoor {
    pub(crate) server: DtlsServer,
    pub(crate) sessions: Sessions,
}

/// Both doors; one of them may be shut.
pub(crate) struct Doors {
    plain: Option<UdpTransport>,
    secure: Option<Secure>,
    credentials: Credentials,
    batch: Batch,
    secure_batch: Batch,
}

struct Secure {
    door: SecureDoor,
    counted: dtls::Stats,
    refusals: (Instant, u32),
}

impl Doors {
    pub(crate) fn new(
        plain: Option<UdpTransport>,
        secure: Option<SecureDoor>,
        credentials: Credentials,
    ) -> Self {
        let secure = secure.map(|door| Secure {
            door,
            counted: dtls::Stats::default(),
            refusals: (Instant::now(), 0),
        });
        Self {
            plain,
            secure,
            credentials,
            batch: Batch::default(),
            secure_batch: Batch::default(),
        }
    }

    /// The server's own address, as registrations name it.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        match (&self.plain, &self.secure) {
            (Some(plain), _) => plain.local_addr(),
            (None, Some(secure)) => secure.door.server.udp().local_addr(),
            (None, None) => Err(io::Error::other("there is no door for devices")),
        }
    }

    /// Waits until something has come in at either door, a credential has changed, or the deadline. Cancel safe.
    pub(crate) async fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let own = self.secure.as_ref();
        let own = own.and_then(|secure| secure.door.server.next_timeout());
        let deadline = [deadline, own].into_iter().flatten().min();
        let Self {
            plain,
            secure,
            credentials,
            batch,
            secure_batch,
        } = self;
        match (plain, secure) {
            (Some(plain), None) => {
                tokio::select! {
                    received = plain.wait(batch, deadline) => received,
                    () = credentials.changed() => Ok(()),
                }
            }
            (Some(plain), Some(secure)) => {
                tokio::select! {
                    received = plain.wait(batch, deadline) => received,
                    received = secure.door.server.recv_batch(secure_batch) => received,
                    () = credentials.changed() => Ok(()),
                }
            }
            (None, Some(secure)) => {
                tokio::select! {
                    received = secure.door.server.udp().wait(secure_batch, deadline) => received,
                    () = credentials.changed() => Ok(()),
                }
            }
            (None, None) => {
                std::future::pending::<()>().await;
                Ok(())
            }
        }
    }

    /// Hands on what [`Doors::wait`] brought, once, and what else has come over plain UDP: under load many datagrams
    /// share one turn, and so one synced commit. Returns what has changed of the credentials: sessions are closed
    /// accordingly, what is registered without security has to be looked at.
    pub(crate) fn take_in(
        &mut self,
        now: Instant,
        mut each: impl FnMut(Peer, &[u8]),
    ) -> Vec<Revoked> {
        let mut taken = 0;
        loop {
            for (peer, datagram) in &self.batch {
                each(peer, datagram);
            }
            taken += self.batch.len();
            if !self.batch.is_full() || taken >= DATAGRAMS_PER_TURN {
                break;
            }
            // An error of the socket comes again with the next wait.
            if let Some(plain) = &self.plain
                && !plain.try_recv_batch(&mut self.batch).unwrap_or(false)
            {
                break;
            }
        }
        self.batch.clear();
        let revoked = self.credentials.take_revoked();
        if let Some(secure) = &mut self.secure {
            secure.follow_changes(&revoked);
            secure.take_in(now, &mut self.secure_batch, &mut each);
        }
        revoked
    }

    /// Sends datagrams by the doors that their devices came in by.
    pub(crate) async fn send_all(&mut self, transmits: impl Iterator<Item = Transmit>) {
        let Some(secure) = &mut self.secure else {
            if let Some(plain) = &self.plain {
                plain.send_all(transmits).await;
            }
            return;
        };
        let server = &mut secure.door.server;
        let plain = transmits.filter(|transmit| {
            let is_plain = transmit.to.session == 0;
            if !is_plain {
                server.queue(transmit);
            }
            is_plain
        });
        match &self.plain {
            Some(door) => {
                door.send_all(plain).await;
            }
            // Devices that registered before the plain door was shut.
            None => drop(plain.count()),
        }
        server.flush().await;
    }

    /// Tells devices that their sessions are over: the server stops. They make new ones when it is back.
    pub(crate) async fn close(&mut self) {
        if let Some(secure) = &mut self.secure {
            secure.door.server.close_all();
            secure.door.server.flush().await;
        }
    }
}

impl Secure {
    fn take_in(&mut self, now: Instant, batch: &mut Batch, each: &mut impl FnMut(Peer, &[u8])) {
        let mut incoming = Vec::new();
        let server = &mut self.door.server;
        server.take_in(now, batch, |one| incoming.push(one));
        batch.clear();
        server.handle_timeout(now, |one| incoming.push(one));
        for one in incoming {
            match one {
                Incoming::Data(peer, content) => each(peer, &content),
                Incoming::Session(event) => self.session(now, event),
            }
        }
        self.count();
    }

    fn session(&mut self, now: Instant, event: Event) {
        let sessions = &self.door.sessions.0;
        match event {
            Event::Established {
                peer,
                session,
                identity,
                suite,
                resumed,
            } => {
                tracing::debug!(%peer, %identity, suite = suite.name(), resumed, "DTLS session");
                sessions.write().insert(session, identity);
            }
            Event::Closed { peer, session, why } => {
                tracing::debug!(%peer, ?why, "DTLS session ended");
                // One that was replaced is followed by its successor, whose Established may bear the same number.
                let gone = why != Closing::Replaced
                    || self.door.server.sessions().identity(session).is_none();
                if gone {
                    sessions.write().remove(&session);
                }
            }
            Event::Refused { peer, claimed, why } => {
                if now.saturating_duration_since(self.refusals.0) >= Duration::from_secs(1) {
                    self.refusals = (now, 0);
                }
                self.refusals.1 += 1;
                if self.refusals.1 <= LOGGED_REFUSALS {
                    let claimed = claimed.map(|identity| identity.to_string());
                    tracing::warn!(%peer, claimed = claimed.as_deref(), %why, "DTLS handshake refused");
                }
            }
            _ => {}
        }
    }

    /// Ends the sessions of credentials that are gone or have changed: their devices have to show what counts now.
    fn follow_changes(&mut self, revoked: &[Revoked]) {
        for revoked in revoked {
            let server = &mut self.door.server;
            match revoked {
                Revoked::Number { number, .. } => server.close(*number),
                Revoked::All => server.close_all(),
                Revoked::Name(endpoint) => {
                    let names = |identity: &Identity| match identity {
                        Identity::Certificate(der) => certificate_names(der).contains(endpoint),
                        _ => false,
                    };
                    let of_it = server.sessions().identities().filter(|one| names(one));
                    let numbers: Vec<u64> = of_it.map(|identity| identity.number()).collect();
                    for number in numbers {
                        server.close(number);
                    }
                }
            }
        }
    }

    fn count(&mut self) {
        let now = self.door.server.sessions().stats();
        let before = std::mem::replace(&mut self.counted, now);
        if now == before {
            return;
        }
        SESSIONS.set(i64::try_from(self.door.server.sessions().sessions()).unwrap_or(i64::MAX));
        let outcome = |name: &str, more: u64| HANDSHAKES.with_label_values(&[name]).inc_by(more);
        let resumed = now.resumed - before.resumed;
        outcome("resumed", resumed);
        outcome("full", now.established - before.established - resumed);
        let (key, certificate, full) = (
            now.refused_key - before.refused_key,
            now.refused_certificate - before.refused_certificate,
            now.refused_full - before.refused_full,
        );
        outcome("refused_key", key);
        outcome("refused_certificate", certificate);
        outcome("refused_full", full);
        let all = now.refused - before.refused;
        outcome(
            "refused_other",
            all.saturating_sub(key + certificate + full),
        );
        let dropped = |what: &str, more: u64| DROPPED.with_label_values(&[what]).inc_by(more);
        dropped("forged", now.forged - before.forged);
        dropped("replayed", now.replayed - before.replayed);
        dropped("stray", now.stray - before.stray);
        dropped("unsendable", now.unsendable - before.unsendable);
    }
}
