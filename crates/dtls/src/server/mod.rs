//! The server: cookies, handshakes and sessions of all clients.

mod records;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng as _;
use openssl::error::ErrorStack;

use crate::alert::Level;
use crate::cookie::Cookies;
use crate::exchange::Exchange;
use crate::handshake::{Handshake, Refusal, Tools};
use crate::protect::{Keys, Protector};
use crate::record::{ContentType, LAST_SEQUENCE, Records, VERSION, Window, put_plain};
use crate::resume::Resumables;
use crate::{Alert, Authority, CipherSuite, Identity, ServerConfig};

/// How often sessions are looked through for those that are idle.
const SWEEP: Duration = Duration::from_secs(60);
/// How long the last flight of a handshake can be repeated where no data comes.
const LAST_FLIGHT: Duration = Duration::from_secs(120);

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: SocketAddr,
    /// The whole datagram.
    pub payload: Vec<u8>,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client has shown who it is. A session that its identity, or its address, had before is gone.
    Established {
        /// Where it is.
        peer: SocketAddr,
        /// [`Identity::number`].
        session: u64,
        /// Who it is.
        identity: Arc<Identity>,
        /// What protects it.
        suite: CipherSuite,
        /// Without a full handshake.
        resumed: bool,
    },
    /// A client sent this.
    Data {
        /// Where it is.
        peer: SocketAddr,
        /// Its session.
        session: u64,
        /// What it sent.
        content: Vec<u8>,
    },
    /// A session is over.
    Closed {
        /// Where the client was.
        peer: SocketAddr,
        /// The session it was.
        session: u64,
        /// Why.
        why: Closing,
    },
    /// A client got no session.
    Refused {
        /// Where it is.
        peer: SocketAddr,
        /// Who it says it is, if it came so far.
        claimed: Option<Arc<Identity>>,
        /// Why.
        why: Refusal,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The client said so.
    ByPeer(Alert),
    /// Nothing was heard for too long.
    Idle,
    /// [`Server::close`] was called.
    ByUs,
    /// A new session of the same identity, or from the same address, took its place.
    Replaced,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Hellos that got a cookie.
    pub cookies: u64,
    /// Hellos whose cookie was not ours, or too old.
    pub bad_cookies: u64,
    /// Handshakes that came to a session.
    pub established: u64,
    /// Those of them that resumed one.
    pub resumed: u64,
    /// Handshakes that came to nothing.
    pub refused: u64,
    /// Those of them with an identity that is not known, or a wrong key.
    pub refused_key: u64,
    /// Those with a certificate or public key that is not taken.
    pub refused_certificate: u64,
    /// Those that were one too many.
    pub refused_full: u64,
    /// Records that don't open.
    pub forged: u64,
    /// Records that came before.
    pub replayed: u64,
    /// Records that belong to no session and no handshake.
    pub stray: u64,
    /// Datagrams to send for which there is no session.
    pub unsendable: u64,
}

struct Session {
    number: u64,
    identity: Arc<Identity>,
    /// The client's keys: what comes is opened with them.
    read: Keys,
    write: Keys,
    window: Window,
    /// The next record's.
    sequence: u64,
    heard: Instant,
    /// Until the client has shown that it got the last flight.
    last_flight: Option<Box<Exchange>>,
}

/// A DTLS 1.2 server for all clients of one socket.
///
/// After each call that takes `&mut self` the caller drains [`Server::poll_transmit`] and [`Server::poll_event`]. What
/// clients can make grow is bounded by [`ServerConfig`]; a hello without a valid cookie makes nothing grow.
pub struct Server {
    config: ServerConfig,
    authority: Arc<dyn Authority>,
    rng: ChaCha12Rng,
    protector: Protector,
    cookies: Cookies,
    sessions: HashMap<SocketAddr, Session>,
    /// Where an identity is, by its number.
    places: HashMap<u64, SocketAddr>,
    handshakes: HashMap<SocketAddr, Box<Handshake>>,
    timers: BTreeSet<(Instant, SocketAddr)>,
    resumables: Resumables,
    next_sweep: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("sessions", &self.sessions.len())
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server without sessions. The seed makes cookies, randoms and session ids: take it from the operating system.
    /// Key pairs of the exchange come from OpenSSL's own source of randomness.
    ///
    /// # Errors
    /// When OpenSSL has not the ciphers.
    pub fn new(
        config: ServerConfig,
        authority: Arc<dyn Authority>,
        seed: [u8; 32],
    ) -> Result<Server, ErrorStack> {
        let mut rng = ChaCha12Rng::from_seed(seed);
        Ok(Server {
            cookies: Cookies::new(&mut rng),
            rng,
            protector: Protector::new()?,
            resumables: Resumables::new(config.max_resumable, config.resume_for),
            config,
            authority,
            sessions: HashMap::new(),
            places: HashMap::new(),
            handshakes: HashMap::new(),
            timers: BTreeSet::new(),
            next_sweep: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        })
    }

    /// Takes in a datagram. Whatever it holds, the outcome is a transmit, an event or a count.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        for record in Records(datagram) {
            match record.epoch {
                0 => self.plain_record(now, from, &record),
                1 => self.protected_record(now, from, &record),
                _ => self.stats.stray += 1,
            }
        }
    }

    /// Does what is due. To be called at [`Server::next_timeout`]; earlier or later is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, peer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(mut handshake) = self.handshakes.remove(&peer) else {
                continue;
            };
            match handshake.on_time(&mut self.tools(), now) {
                Ok(datagrams) => {
                    self.transmit(peer, datagrams);
                    self.keep(peer, handshake);
                }
                Err(why) => self.end(peer, &handshake, why),
            }
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
    }

    /// When [`Server::handle_timeout`] is to be called; `None` while nothing is waited for.
    pub fn next_timeout(&self) -> Option<Instant> {
        let handshake = self.timers.first().map(|(at, _)| *at);
        [handshake, self.next_sweep].into_iter().flatten().min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Sends data in a session; `false` and counted where the session is not at this address, or no more.
    pub fn send(&mut self, to: SocketAddr, session: u64, content: &[u8]) -> bool {
        let Some(found) = self
            .sessions
            .get_mut(&to)
            .filter(|found| found.number == session)
        else {
            self.stats.unsendable += 1;
            return false;
        };
        let mut payload = Vec::with_capacity(content.len() + 64);
        let sent = seal(
            &mut self.protector,
            &mut self.rng,
            found,
            ContentType::ApplicationData,
            content,
            &mut payload,
        );
        if sent {
            self.transmits.push_back(Transmit { to, payload });
        } else {
            self.stats.unsendable += 1;
        }
        sent
    }

    /// Who is in a session.
    pub fn identity(&self, session: u64) -> Option<&Arc<Identity>> {
        let place = self.places.get(&session)?;
        self.sessions.get(place).map(|session| &session.identity)
    }

    /// The identities that have a session.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.sessions.values().map(|session| &session.identity)
    }

    /// Ends the session of an identity, and forgets what it could be resumed with. The client is told.
    pub fn close(&mut self, session: u64) {
        self.resumables.forget(session);
        // One that is about to have a session, by what it showed before.
        let is_of_it = |one: &Handshake| one.identity().is_some_and(|id| id.number() == session);
        let begun = self.handshakes.iter().filter(|(_, one)| is_of_it(one));
        let begun: Vec<SocketAddr> = begun.map(|(peer, _)| *peer).collect();
        for peer in begun {
            self.take(peer);
        }
        let Some(peer) = self.places.get(&session).copied() else {
            return;
        };
        self.say_close(peer);
        self.remove(peer, Closing::ByUs);
    }

    /// Tells every client that its session is over, and forgets what could become one: handshakes that have begun, and
    /// what sessions could be resumed with.
    pub fn close_all(&mut self) {
        self.resumables.clear();
        self.handshakes.clear();
        self.timers.clear();
        let peers: Vec<SocketAddr> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.say_close(peer);
            self.remove(peer, Closing::ByUs);
        }
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many handshakes are on their way.
    pub fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// A handshake that had begun comes to nothing.
    fn end(&mut self, peer: SocketAddr, handshake: &Handshake, why: Refusal) {
        let sequence = handshake.exchange.sequences[0];
        self.refuse(peer, handshake.identity().cloned(), why, sequence);
    }

    fn refuse(
        &mut self,
        peer: SocketAddr,
        claimed: Option<Arc<Identity>>,
        why: Refusal,
        sequence: u64,
    ) {
        if let Some(alert) = why.alert() {
            let mut payload = Vec::with_capacity(15);
            let content = [Level::Fatal as u8, alert.code()];
            put_plain(
                &mut payload,
                ContentType::Alert,
                VERSION,
                sequence,
                &content,
            );
            self.transmits.push_back(Transmit { to: peer, payload });
        }
        self.refused(peer, claimed, why);
    }

    fn refused(&mut self, peer: SocketAddr, claimed: Option<Arc<Identity>>, why: Refusal) {
        self.stats.refused += 1;
        match why {
            Refusal::UnknownIdentity | Refusal::WrongKey => self.stats.refused_key += 1,
            Refusal::UnknownPublicKey
            | Refusal::Certificate(_)
            | Refusal::NoCertificate
            | Refusal::BadSignature => self.stats.refused_certificate += 1,
            Refusal::Full => self.stats.refused_full += 1,
            _ => {}
        }
        self.events.push_back(Event::Refused { peer, claimed, why });
    }

    fn say_close(&mut self, peer: SocketAddr) {
        self.say(peer, Level::Warning, Alert::CLOSE_NOTIFY);
    }

    fn say(&mut self, peer: SocketAddr, level: Level, alert: Alert) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let mut payload = Vec::with_capacity(64);
        let content = [level as u8, alert.code()];
        let kind = ContentType::Alert;
        if seal(
            &mut self.protector,
            &mut self.rng,
            session,
            kind,
            &content,
            &mut payload,
        ) {
            self.transmits.push_back(Transmit { to: peer, payload });
        }
    }

    fn remove(&mut self, peer: SocketAddr, why: Closing) {
        let Some(session) = self.sessions.remove(&peer) else {
            return;
        };
        self.places.remove(&session.number);
        self.events.push_back(Event::Closed {
            peer,
            session: session.number,
            why,
        });
    }

    fn sweep(&mut self, now: Instant) {
        let idle: Vec<SocketAddr> = self
            .sessions
            .iter_mut()
            .filter_map(|(peer, session)| {
                let silent = now.saturating_duration_since(session.heard);
                if silent >= LAST_FLIGHT {
                    session.last_flight = None;
                }
                (silent >= self.config.idle_timeout).then_some(*peer)
            })
            .collect();
        for peer in idle {
            self.remove(peer, Closing::Idle);
        }
        self.next_sweep = (!self.sessions.is_empty()).then(|| now + SWEEP);
    }

    fn take(&mut self, peer: SocketAddr) -> Option<Box<Handshake>> {
        let handshake = self.handshakes.remove(&peer)?;
        if let Some(at) = handshake.next_time() {
            self.timers.remove(&(at, peer));
        }
        Some(handshake)
    }

    fn keep(&mut self, peer: SocketAddr, handshake: Box<Handshake>) {
        if let Some(at) = handshake.next_time() {
            self.timers.insert((at, peer));
        }
        self.handshakes.insert(peer, handshake);
    }

    fn tools(&mut self) -> Tools<'_> {
        Tools {
            config: &self.config,
            authority: &*self.authority,
            protector: &mut self.protector,
            rng: &mut self.rng,
            stats: &mut self.stats,
        }
    }

    fn transmit(&mut self, to: SocketAddr, datagrams: Vec<Vec<u8>>) {
        let transmits = datagrams
            .into_iter()
            .map(|payload| Transmit { to, payload });
        self.transmits.extend(transmits);
    }
}

impl Session {
    fn next_sequence(&mut self) -> Option<u64> {
        let sequence = self.sequence;
        (sequence < LAST_SEQUENCE).then(|| {
            self.sequence += 1;
            sequence
        })
    }
}

fn seal(
    protector: &mut Protector,
    rng: &mut ChaCha12Rng,
    session: &mut Session,
    kind: ContentType,
    content: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    if content.len() > crate::LONGEST_CONTENT {
        return false;
    }
    let Some(sequence) = session.next_sequence() else {
        return false;
    };
    protector
        .seal(rng, &session.write, kind, sequence, content, out)
        .is_ok()
}
