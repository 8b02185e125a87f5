//! The server's side of one handshake, from the hello that brought its cookie back to the last Finished.
//!
//! ```text
//! client                                   server
//! ClientHello with cookie          ─────►
//!                                  ◄─────  ServerHello, Certificate*, ServerKeyExchange*, CertificateRequest*, Done
//! Certificate*, ClientKeyExchange,
//! CertificateVerify*, CCS, Finished ────►
//!                                  ◄─────  CCS, Finished                                    (* with ECDSA only)
//! resumed:
//! ClientHello with cookie, id      ─────►
//!                                  ◄─────  ServerHello, CCS, Finished
//! CCS, Finished                    ─────►
//! ```

mod credentials;
mod refusal;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::Rng as _;
use openssl::memcmp;
use openssl::pkey::{PKey, Public};

use crate::choice::{Choice, choose};
use crate::exchange::{Exchange, Message, Taken};
use crate::hello::{CertificateType, ClientHello, ServerHello};
use crate::message::{self, Ephemeral, Fragment, kind};
use crate::prf::{MasterSecret, verify_data};
use crate::protect::{Keys, Protector};
use crate::record::{ContentType, Record, Window};
use crate::resume::{Resumable, SessionId};
use crate::suite::{Bulk, CipherSuite, KeyExchange};
use crate::wire::Reader;
use crate::{Alert, Authority, Identity, ServerConfig, Stats};

pub use refusal::Refusal;

/// What all handshakes of a server use.
pub(crate) struct Tools<'a> {
    pub(crate) config: &'a ServerConfig,
    pub(crate) authority: &'a dyn Authority,
    pub(crate) protector: &'a mut Protector,
    pub(crate) rng: &'a mut ChaCha12Rng,
    pub(crate) stats: &'a mut Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    Certificate,
    KeyExchange,
    CertificateVerify,
    Finished,
}

/// What a record led to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing to send, or nothing yet.
    Wait,
    /// These are to be sent.
    Send(Vec<Vec<u8>>),
    /// It is done: these are to be sent, and the session stands.
    Done(Vec<Vec<u8>>),
}

/// Records of epoch 1 that came before there were keys: kept, since the network may turn two datagrams round.
const EARLY_MOST: usize = 2;
const EARLY_BYTES: usize = 512;
/// How long after a record that does not open a client is taken for one with another key. Not at once: the record may be
/// anybody's, and the client's own, if it was lost, comes again within 9 s (RFC 7925 section 11).
const WRONG_KEY_AFTER: Duration = Duration::from_secs(10);

pub(crate) struct Handshake {
    pub(crate) started: Instant,
    pub(crate) exchange: Exchange,
    pub(crate) suite: CipherSuite,
    pub(crate) extended_master_secret: bool,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) resumed: bool,
    client_random: [u8; 32],
    server_random: [u8; 32],
    encrypt_then_mac: bool,
    certificate_type: CertificateType,
    awaits: Await,
    ephemeral: Option<Ephemeral>,
    client_key: Option<PKey<Public>>,
    identity: Option<Arc<Identity>>,
    identity_unknown: bool,
    master: Option<MasterSecret>,
    /// The client's, then the server's.
    keys: Option<(Keys, Keys)>,
    window: Window,
    early: Vec<(ContentType, u64, Vec<u8>)>,
    /// A record came that should be its Finished and does not open: when it is to be judged by that.
    unreadable: Option<Instant>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("suite", &self.suite)
            .field("awaits", &self.awaits)
            .finish_non_exhaustive()
    }
}

/// What of a finished handshake the session goes on with.
pub(crate) struct Finished {
    pub(crate) identity: Arc<Identity>,
    pub(crate) master: MasterSecret,
    /// The client's, then the server's.
    pub(crate) keys: (Keys, Keys),
    pub(crate) window: Window,
    pub(crate) exchange: Exchange,
}

impl Handshake {
    /// A hello has brought its cookie back.
    pub(crate) fn begin(
        tools: &mut Tools<'_>,
        now: Instant,
        hello: &ClientHello<'_>,
        message: &Fragment<'_>,
        record_sequence: u64,
        resumable: Option<(SessionId, Resumable)>,
    ) -> Result<(Handshake, Vec<Vec<u8>>), Refusal> {
        let extensions = hello.extensions()?;
        let resumable = resumable.filter(|(_, session)| {
            hello.suites().any(|id| id == session.suite.id())
                && tools.config.suites.contains(&session.suite)
                // RFC 7627 section 5.3: not to be resumed with less.
                && session.extended_master_secret == extensions.extended_master_secret
                && tools.authority.still_knows(&session.identity)
        });
        let choice = match &resumable {
            Some((_, session)) => Choice {
                suite: session.suite,
                client_type: CertificateType::X509,
                server_type: CertificateType::X509,
            },
            None => choose(tools.config, hello, &extensions).ok_or(Refusal::NoCommonSuite)?,
        };
        let pace = tools.config.retransmission.pace();
        let first_in = message.number.wrapping_add(1);
        // A device with little room gets pieces that fit. It is not told so: what it is sent in the session has the size
        // of CoAP's blocks, which is for CoAP to settle.
        let room = extensions.max_fragment.unwrap_or(usize::MAX);
        let mtu = crate::config::mtu(tools.config.mtu.min(room));
        // The answer to message n is message n, its record the one of the hello (RFC 6347 section 4.2.1).
        let exchange = Exchange::new(first_in, message.number, record_sequence, pace, mtu);
        let mut server_random = [0; 32];
        tools.rng.fill_bytes(&mut server_random);
        let session_id = match &resumable {
            Some((id, _)) => Some(*id),
            None if tools.config.resume_for.is_zero() => None,
            None => {
                let mut id = [0; 32];
                tools.rng.fill_bytes(&mut id);
                Some(id)
            }
        };
        let cbc = choice.suite.bulk() == Bulk::Cbc;
        let mut handshake = Handshake {
            started: now,
            exchange,
            suite: choice.suite,
            extended_master_secret: extensions.extended_master_secret,
            session_id,
            resumed: resumable.is_some(),
            client_random: *hello.random,
            server_random,
            encrypt_then_mac: cbc && extensions.encrypt_then_mac,
            certificate_type: choice.client_type,
            awaits: Await::KeyExchange,
            ephemeral: None,
            client_key: None,
            identity: None,
            identity_unknown: false,
            master: None,
            keys: None,
            window: Window::default(),
            early: Vec::new(),
            unreadable: None,
        };
        handshake
            .exchange
            .note(kind::CLIENT_HELLO, message.number, message.bytes)?;
        let ecdsa = choice.suite.key_exchange() == KeyExchange::EcdheEcdsa;
        let full = resumable.is_none();
        let named = |named: bool, kind| (full && ecdsa && named).then_some(kind);
        let server_hello = ServerHello {
            random: server_random,
            session_id: session_id.map(|id| id.to_vec()).unwrap_or_default(),
            suite: choice.suite.id(),
            client_certificate_type: named(
                extensions.client_certificate_types.is_some(),
                choice.client_type,
            ),
            server_certificate_type: named(
                extensions.server_certificate_types.is_some(),
                choice.server_type,
            ),
            encrypt_then_mac: handshake.encrypt_then_mac,
            extended_master_secret: extensions.extended_master_secret,
            secure_renegotiation: extensions.secure_renegotiation,
            point_formats: full
                && choice.suite.key_exchange().has_ecdhe()
                && extensions.point_formats,
        };
        handshake
            .exchange
            .push(0, kind::SERVER_HELLO, server_hello.encode())?;
        match resumable {
            Some((_, session)) => {
                handshake.identity = Some(session.identity);
                handshake.set_master(session.master);
                handshake.awaits = Await::Finished;
                handshake.push_finished(&session.master)?;
            }
            None => handshake.push_first_flight(tools, choice.server_type)?,
        }
        let datagrams = handshake.send(tools, now, true)?;
        Ok((handshake, datagrams))
    }

    /// Is this hello the one it began with?
    pub(crate) fn began_with(&self, hello: &ClientHello<'_>) -> bool {
        self.client_random == *hello.random
    }

    fn push_first_flight(
        &mut self,
        tools: &mut Tools<'_>,
        server_type: CertificateType,
    ) -> Result<(), Refusal> {
        let exchange = self.suite.key_exchange();
        let own = tools.config.own_key.as_ref();
        if exchange == KeyExchange::EcdheEcdsa {
            let own = own.ok_or(Refusal::NoCommonSuite)?;
            let chain = match server_type {
                CertificateType::X509 => own.chain.clone(),
                CertificateType::RawPublicKey => vec![own.public_key().to_vec()],
            };
            let body = message::certificate(server_type, &chain);
            self.exchange.push(0, kind::CERTIFICATE, body)?;
        }
        if exchange.has_ecdhe() {
            let ephemeral = Ephemeral::new().map_err(Alert::from)?;
            let params = message::ecdhe_params(&ephemeral.point().map_err(Alert::from)?);
            self.ephemeral = Some(ephemeral);
            let mut body = Vec::new();
            if exchange.has_psk() {
                // No hint.
                body.extend_from_slice(&[0, 0]);
            }
            body.extend_from_slice(&params);
            if let (KeyExchange::EcdheEcdsa, Some(own)) = (exchange, own) {
                let signed = [&self.client_random[..], &self.server_random, &params];
                message::put_signature(&mut body, &own.key, &signed).map_err(Alert::from)?;
            }
            self.exchange.push(0, kind::SERVER_KEY_EXCHANGE, body)?;
        }
        if exchange == KeyExchange::EcdheEcdsa {
            self.exchange
                .push(0, kind::CERTIFICATE_REQUEST, message::certificate_request())?;
            self.awaits = Await::Certificate;
        }
        self.exchange.push(0, kind::SERVER_HELLO_DONE, Vec::new())?;
        Ok(())
    }

    /// A record of this client's, of epoch 0 or 1.
    pub(crate) fn record(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
        record: &Record<'_>,
    ) -> Result<Step, Refusal> {
        match (record.epoch, record.kind) {
            (0, ContentType::Handshake) => self.fragments(tools, now, 0, record.fragment),
            // After its key exchange what a client says is protected: in clear it is somebody else's.
            (0, ContentType::Alert) if self.keys.is_some() && !self.resumed => {
                tools.stats.forged += 1;
                Ok(Step::Wait)
            }
            (0, ContentType::Alert) => match crate::alert::parse(record.fragment) {
                Some((crate::alert::Level::Fatal, alert)) => Err(Refusal::ByPeer(alert)),
                _ => Ok(Step::Wait),
            },
            (1, kind @ (ContentType::Handshake | ContentType::Alert)) => {
                let Some((client, _)) = &self.keys else {
                    if self.early.len() < EARLY_MOST && record.fragment.len() <= EARLY_BYTES {
                        self.early
                            .push((kind, record.sequence, record.fragment.to_vec()));
                    }
                    return Ok(Step::Wait);
                };
                if !self.window.may_be_new(record.sequence) {
                    tools.stats.replayed += 1;
                    return Ok(Step::Wait);
                }
                // What does not open is dropped (RFC 6347 section 4.1.2.7): anybody can send it.
                let Ok(content) = tools.protector.open(client, record) else {
                    tools.stats.forged += 1;
                    // A resumed one may get what belongs to the session before it.
                    if !self.resumed && kind == ContentType::Handshake && self.unreadable.is_none()
                    {
                        self.unreadable = now.checked_add(WRONG_KEY_AFTER);
                    }
                    return Ok(Step::Wait);
                };
                self.window.mark(record.sequence);
                match kind {
                    ContentType::Alert => match crate::alert::parse(&content) {
                        Some((crate::alert::Level::Fatal, alert)) => Err(Refusal::ByPeer(alert)),
                        _ => Ok(Step::Wait),
                    },
                    _ => self.fragments(tools, now, 1, &content),
                }
            }
            // A change of cipher specs says nothing that epoch 1 does not; data waits for the Finished to come again.
            _ => Ok(Step::Wait),
        }
    }

    /// When [`Handshake::on_time`] is due.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let times = [self.exchange.repeat_at, self.unreadable];
        times.into_iter().flatten().min()
    }

    /// Its time has come: the flight is repeated, unless it was often enough or the client is to be refused.
    pub(crate) fn on_time(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
    ) -> Result<Vec<Vec<u8>>, Refusal> {
        if self.unreadable.is_some_and(|at| at <= now) {
            return Err(self.wrong_key());
        }
        let age = now.saturating_duration_since(self.started);
        if age < tools.config.handshake_timeout && self.exchange.back_off() {
            return Ok(self.send(tools, now, true)?);
        }
        Err(self.gave_up())
    }

    /// Why it came to nothing, if it did not go on.
    pub(crate) fn gave_up(&self) -> Refusal {
        match self.unreadable {
            Some(_) => self.wrong_key(),
            None => Refusal::Timeout,
        }
    }

    /// Repeats it since the client repeats its own.
    pub(crate) fn repeat_for_peer(&mut self, tools: &mut Tools<'_>, now: Instant) -> Step {
        if !self.exchange.may_repeat(now) {
            return Step::Wait;
        }
        self.send(tools, now, true).map_or(Step::Wait, Step::Send)
    }

    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Everything that the session needs; to be called when it is done.
    pub(crate) fn finish(self) -> Option<Finished> {
        Some(Finished {
            identity: self.identity?,
            master: self.master?,
            keys: self.keys?,
            window: self.window,
            exchange: self.exchange,
        })
    }

    fn fragments(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
        epoch: u16,
        content: &[u8],
    ) -> Result<Step, Refusal> {
        let mut reader = Reader(content);
        let mut stale = false;
        while !reader.is_empty() {
            let fragment = Fragment::take(&mut reader)?;
            stale |= self.exchange.take_fragment(epoch, &fragment)? == Taken::Stale;
        }
        let mut step = Step::Wait;
        while let Some(message) = self.exchange.next_message() {
            if let done @ Step::Done(_) = self.message(tools, now, &message)? {
                return Ok(done);
            }
            if self.keys.is_some() && !self.early.is_empty() {
                for (kind, sequence, fragment) in std::mem::take(&mut self.early) {
                    let record = Record {
                        kind,
                        version: crate::record::VERSION,
                        epoch: 1,
                        sequence,
                        fragment: &fragment,
                    };
                    match self.record(tools, now, &record)? {
                        Step::Wait => {}
                        other => step = other,
                    }
                }
                if matches!(step, Step::Done(_)) {
                    return Ok(step);
                }
            }
        }
        if stale && matches!(step, Step::Wait) {
            step = self.repeat_for_peer(tools, now);
        }
        Ok(step)
    }

    fn message(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
        message: &Message,
    ) -> Result<Step, Refusal> {
        let due = match self.awaits {
            Await::Certificate => (kind::CERTIFICATE, 0),
            Await::KeyExchange => (kind::CLIENT_KEY_EXCHANGE, 0),
            Await::CertificateVerify => (kind::CERTIFICATE_VERIFY, 0),
            Await::Finished => (kind::FINISHED, 1),
        };
        if (message.kind, message.epoch) != due {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        match self.awaits {
            Await::Certificate => {
                self.certificate(tools, &message.body)?;
                self.exchange
                    .note(message.kind, message.number, &message.body)?;
                self.awaits = Await::KeyExchange;
            }
            Await::KeyExchange => {
                self.exchange
                    .note(message.kind, message.number, &message.body)?;
                self.client_keys(tools, &message.body)?;
                self.awaits = if self.client_key.is_some() {
                    Await::CertificateVerify
                } else {
                    Await::Finished
                };
            }
            Await::CertificateVerify => {
                let signature = message::parse_certificate_verify(&message.body)?;
                let key = self.client_key.as_ref().ok_or(Alert::INTERNAL_ERROR)?;
                message::check_signature(key, &[&self.exchange.transcript], signature)
                    .map_err(|_| Refusal::BadSignature)?;
                self.exchange
                    .note(message.kind, message.number, &message.body)?;
                self.awaits = Await::Finished;
            }
            Await::Finished => return self.finished(tools, now, message),
        }
        Ok(Step::Wait)
    }

    fn finished(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
        message: &Message,
    ) -> Result<Step, Refusal> {
        let master = self.master.ok_or(Alert::INTERNAL_ERROR)?;
        let expected = verify_data(&master, true, &self.exchange.transcript);
        if message.body.len() != expected.len() || !memcmp::eq(&message.body, &expected) {
            return Err(self.wrong_key());
        }
        if self.identity_unknown {
            return Err(Refusal::UnknownIdentity);
        }
        self.exchange
            .note(message.kind, message.number, &message.body)?;
        if self.resumed {
            return Ok(Step::Done(Vec::new()));
        }
        self.exchange.begin_flight();
        self.push_finished(&master)?;
        let datagrams = self.send(tools, now, false)?;
        Ok(Step::Done(datagrams))
    }

    fn push_finished(&mut self, master: &MasterSecret) -> Result<(), Alert> {
        let data = verify_data(master, false, &self.exchange.transcript);
        self.exchange.push_change_cipher_spec();
        self.exchange.push(1, kind::FINISHED, data.to_vec())
    }

    fn wrong_key(&self) -> Refusal {
        if self.identity_unknown {
            Refusal::UnknownIdentity
        } else if self.suite.key_exchange().has_psk() && !self.resumed {
            Refusal::WrongKey
        } else {
            Refusal::Malformed(Alert::DECRYPT_ERROR)
        }
    }

    fn send(
        &mut self,
        tools: &mut Tools<'_>,
        now: Instant,
        awaits: bool,
    ) -> Result<Vec<Vec<u8>>, Alert> {
        let keys = self.keys.as_ref().map(|(_, server)| server);
        self.exchange
            .send(now, awaits, tools.protector, tools.rng, keys)
    }
}

#[cfg(test)]
mod tests;
