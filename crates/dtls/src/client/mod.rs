//! The client: one session with one server, made anew when it is asked to.

mod handshake;

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Public};
use thiserror::Error;

use crate::alert::{self, Level};
use crate::exchange::Exchange;
use crate::hello::CertificateType;
use crate::prf::MasterSecret;
use crate::protect::{Keys, Protector};
use crate::record::{ContentType, LAST_SEQUENCE, Record, Records, VERSION, Window, put_plain};
use crate::suite::CipherSuite;
use crate::{Alert, CertificateRefusal, ClientConfig};

/// What happened to a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The session stands.
    Connected {
        /// What protects it.
        suite: CipherSuite,
        /// Without a full handshake.
        resumed: bool,
    },
    /// The server sent this.
    Data(Vec<u8>),
    /// There is no session, or none any more.
    Closed(ClientClosing),
}

/// Why a client has no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClientClosing {
    /// The server does not answer.
    #[error(
        "the server did not answer the handshake: is it there, and does it speak DTLS on this port?"
    )]
    Timeout,
    /// The server says so.
    #[error(
        "the server ended it: {0} (decrypt_error: the key or the identity is not the one it knows)"
    )]
    ByPeer(Alert),
    /// It can't be proven to be the server.
    #[error("the server's {0}")]
    Untrusted(CertificateRefusal),
    /// Its public key or its signature is another's.
    #[error("the server has not the key that it should have")]
    WrongKey,
    /// What it sent makes no sense.
    #[error("the server's handshake is malformed: {0}")]
    Malformed(Alert),
    /// The library failed.
    #[error("the cipher library failed")]
    Internal,
}

impl From<Alert> for ClientClosing {
    fn from(alert: Alert) -> Self {
        Self::Malformed(alert)
    }
}

impl From<ErrorStack> for ClientClosing {
    fn from(_: ErrorStack) -> Self {
        Self::Internal
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    Hello,
    Certificate,
    ServerKeys,
    RequestOrDone,
    Finished,
}

/// More cookies than this no honest server asks for.
const MOST_COOKIES: u32 = 4;
/// Records of epoch 1 that came before there were keys.
const EARLY_MOST: usize = 2;
const EARLY_BYTES: usize = 512;

struct Connecting {
    exchange: Exchange,
    random: [u8; 32],
    cookies: u32,
    server_random: [u8; 32],
    session_id: Vec<u8>,
    suite: CipherSuite,
    resumed: bool,
    extended_master_secret: bool,
    encrypt_then_mac: bool,
    client_type: CertificateType,
    server_type: CertificateType,
    awaits: Await,
    server_key: Option<PKey<Public>>,
    server_point: Option<Vec<u8>>,
    certificate_asked_for: bool,
    master: Option<MasterSecret>,
    keys: Option<(Keys, Keys)>,
    window: Window,
    early: Vec<(ContentType, u64, Vec<u8>)>,
}

struct Connected {
    read: Keys,
    write: Keys,
    window: Window,
    sequence: u64,
    /// Where ours was the last flight: to be repeated when the server repeats its own.
    last_flight: Option<Exchange>,
}

enum State {
    Idle,
    Connecting(Box<Connecting>),
    Connected(Box<Connected>),
}

struct Resumable {
    id: Vec<u8>,
    master: MasterSecret,
    suite: CipherSuite,
    extended_master_secret: bool,
}

/// A DTLS 1.2 client; see the [crate's documentation](crate).
pub struct Client {
    config: ClientConfig,
    rng: ChaCha12Rng,
    protector: Protector,
    state: State,
    resumable: Option<Resumable>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<ClientEvent>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Idle => "idle",
            State::Connecting(_) => "connecting",
            State::Connected(_) => "connected",
        };
        f.debug_struct("Client")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client without a session. The seed makes its randoms: take it from the operating system.
    ///
    /// # Errors
    /// When OpenSSL has not the ciphers.
    pub fn new(config: ClientConfig, seed: [u8; 32]) -> Result<Client, ErrorStack> {
        Ok(Client {
            config,
            rng: ChaCha12Rng::from_seed(seed),
            protector: Protector::new()?,
            state: State::Idle,
            resumable: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Begins a handshake. A session that stands is given up without a word; if the server still knows the last one, it
    /// is resumed.
    pub fn connect(&mut self, now: Instant) {
        let mut random = [0; 32];
        self.rng.fill_bytes(&mut random);
        let pace = self.config.retransmission.pace();
        let mtu = crate::config::mtu(self.config.mtu);
        let mut connecting = Box::new(Connecting {
            exchange: Exchange::new(0, 0, 0, pace, mtu),
            random,
            cookies: 0,
            server_random: [0; 32],
            session_id: self
                .resumable
                .as_ref()
                .map(|resumable| resumable.id.clone())
                .unwrap_or_default(),
            suite: CipherSuite::PskAes128Ccm8,
            resumed: false,
            extended_master_secret: false,
            encrypt_then_mac: false,
            client_type: CertificateType::X509,
            server_type: CertificateType::X509,
            awaits: Await::Hello,
            server_key: None,
            server_point: None,
            certificate_asked_for: false,
            master: None,
            keys: None,
            window: Window::default(),
            early: Vec::new(),
        });
        match self.send_hello(now, &mut connecting, &[]) {
            Ok(()) => self.state = State::Connecting(connecting),
            Err(why) => self.closed(why),
        }
    }

    /// Takes in a datagram of the server's.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        for record in Records(datagram) {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => return,
                State::Connecting(mut connecting) => {
                    match self.connecting_record(now, &mut connecting, &record) {
                        Ok(false) => self.state = State::Connecting(connecting),
                        Ok(true) => self.connected(*connecting),
                        Err(why) => self.fail(&mut connecting, why),
                    }
                }
                State::Connected(mut connected) => {
                    if self.connected_record(now, &mut connected, &record) {
                        self.state = State::Connected(connected);
                    }
                }
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Connecting(connecting) = &mut self.state else {
            return;
        };
        if connecting.exchange.repeat_at.is_none_or(|at| at > now) {
            return;
        }
        if !connecting.exchange.back_off() {
            // The server may have lost what the session was to be resumed from.
            self.resumable = None;
            self.closed(ClientClosing::Timeout);
            return;
        }
        let keys = connecting.keys.as_ref().map(|(client, _)| client);
        let sent = connecting
            .exchange
            .send(now, true, &mut self.protector, &mut self.rng, keys);
        match sent {
            Ok(datagrams) => self.transmits.extend(datagrams),
            Err(_) => self.closed(ClientClosing::Internal),
        }
    }

    /// When [`Client::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Connecting(connecting) => connecting.exchange.repeat_at,
            _ => None,
        }
    }

    /// The next datagram for the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Does the session stand?
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// Is there neither a session nor a handshake?
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Sends data; `false` without a session, or where it is too long for a record.
    pub fn send(&mut self, content: &[u8]) -> bool {
        content.len() <= crate::LONGEST_CONTENT && self.seal(ContentType::ApplicationData, content)
    }

    /// Tells the server that the session is over. It can be resumed.
    pub fn close(&mut self) {
        let alert = [Level::Warning as u8, Alert::CLOSE_NOTIFY.code()];
        self.seal(ContentType::Alert, &alert);
        self.state = State::Idle;
    }

    /// Forgets the session that could be resumed: the next handshake is a full one.
    pub fn forget(&mut self) {
        self.resumable = None;
    }

    fn seal(&mut self, kind: ContentType, content: &[u8]) -> bool {
        let State::Connected(connected) = &mut self.state else {
            return false;
        };
        if connected.sequence >= LAST_SEQUENCE {
            return false;
        }
        let mut datagram = Vec::with_capacity(content.len() + 64);
        let sequence = connected.sequence;
        connected.sequence += 1;
        let keys = &connected.write;
        let sealed =
            self.protector
                .seal(&mut self.rng, keys, kind, sequence, content, &mut datagram);
        if sealed.is_err() {
            return false;
        }
        self.transmits.push_back(datagram);
        true
    }

    fn connected(&mut self, mut connecting: Connecting) {
        let (Some(master), Some((write, read))) = (connecting.master, connecting.keys) else {
            self.closed(ClientClosing::Internal);
            return;
        };
        if !connecting.resumed {
            self.resumable = (!connecting.session_id.is_empty()).then_some(Resumable {
                id: connecting.session_id,
                master,
                suite: connecting.suite,
                extended_master_secret: connecting.extended_master_secret,
            });
        }
        connecting.exchange.settle();
        self.state = State::Connected(Box::new(Connected {
            read,
            write,
            window: connecting.window,
            sequence: connecting.exchange.sequences[1],
            last_flight: connecting.resumed.then_some(connecting.exchange),
        }));
        self.events.push_back(ClientEvent::Connected {
            suite: connecting.suite,
            resumed: connecting.resumed,
        });
    }

    /// `false`: the session is over.
    fn connected_record(
        &mut self,
        now: Instant,
        connected: &mut Connected,
        record: &Record<'_>,
    ) -> bool {
        if record.epoch == 0 {
            // The server repeats its flight: it has not got ours.
            if record.kind == ContentType::Handshake {
                self.repeat_last_flight(now, connected);
            }
            return true;
        }
        if record.epoch != 1 || !connected.window.may_be_new(record.sequence) {
            return true;
        }
        let Ok(content) = self.protector.open(&connected.read, record) else {
            return true;
        };
        connected.window.mark(record.sequence);
        match record.kind {
            ContentType::ApplicationData => {
                connected.last_flight = None;
                self.events.push_back(ClientEvent::Data(content));
            }
            ContentType::Alert => match alert::parse(&content) {
                Some((Level::Fatal, alert)) => {
                    self.resumable = None;
                    self.closed(ClientClosing::ByPeer(alert));
                    return false;
                }
                Some((_, Alert::CLOSE_NOTIFY)) => {
                    self.closed(ClientClosing::ByPeer(Alert::CLOSE_NOTIFY));
                    return false;
                }
                _ => {}
            },
            ContentType::Handshake => self.repeat_last_flight(now, connected),
            ContentType::ChangeCipherSpec => {}
        }
        true
    }

    fn repeat_last_flight(&mut self, now: Instant, connected: &mut Connected) {
        let Some(exchange) = &mut connected.last_flight else {
            return;
        };
        if !exchange.may_repeat(now) {
            return;
        }
        exchange.sequences[1] = connected.sequence;
        let keys = Some(&connected.write);
        let sent = exchange.send(now, false, &mut self.protector, &mut self.rng, keys);
        connected.sequence = exchange.sequences[1];
        self.transmits.extend(sent.unwrap_or_default());
    }

    fn fail(&mut self, connecting: &mut Connecting, why: ClientClosing) {
        let alert = match why {
            ClientClosing::Untrusted(refusal) => Some(refusal.alert()),
            ClientClosing::WrongKey => Some(Alert::DECRYPT_ERROR),
            ClientClosing::Malformed(alert) => Some(alert),
            ClientClosing::Internal => Some(Alert::INTERNAL_ERROR),
            ClientClosing::Timeout | ClientClosing::ByPeer(_) => None,
        };
        if let Some(alert) = alert {
            let mut datagram = Vec::with_capacity(15);
            let sequence = connecting.exchange.sequences[0];
            let content = [Level::Fatal as u8, alert.code()];
            put_plain(
                &mut datagram,
                ContentType::Alert,
                VERSION,
                sequence,
                &content,
            );
            self.transmits.push_back(datagram);
        }
        self.resumable = None;
        self.closed(why);
    }

    fn closed(&mut self, why: ClientClosing) {
        self.state = State::Idle;
        self.events.push_back(ClientEvent::Closed(why));
    }
}
