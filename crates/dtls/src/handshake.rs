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

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::Rng as _;
use openssl::memcmp;
use openssl::pkey::{PKey, Public};

use crate::choice::{Choice, choose};
use crate::exchange::{Exchange, Message, Taken};
use crate::hello::{CertificateType, ClientHello, ServerHello};
use crate::message::{self, ClientKeys, Ephemeral, Fragment, kind};
use crate::peer::{check_encoding, public_key_of_certificate, public_key_of_spki};
use crate::prf::{MasterSecret, master_secret, psk_premaster, verify_data};
use crate::protect::{Keys, Protector, derive_keys};
use crate::record::{ContentType, Record, Window};
use crate::resume::{Resumable, SessionId};
use crate::suite::{Bulk, CipherSuite, KeyExchange};
use crate::wire::Reader;
use crate::{Alert, Authority, CertificateRefusal, Identity, ServerConfig};

/// Why a client got no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key is known under its identity.
    #[error("no endpoint has this PSK identity")]
    UnknownIdentity,
    /// Its last message does not open, or is not what it should be: its key is another.
    #[error("the pre-shared key is not the one that is known here")]
    WrongKey,
    /// Nobody has this public key.
    #[error("no endpoint has this public key")]
    UnknownPublicKey,
    /// Its certificate is not taken.
    #[error("{0}")]
    Certificate(#[from] CertificateRefusal),
    /// It sent none.
    #[error("it has no certificate and no public key")]
    NoCertificate,
    /// It does not hold the private key.
    #[error("it does not hold the private key")]
    BadSignature,
    /// There is nothing that both can.
    #[error("it offers no cipher suite that is possible here")]
    NoCommonSuite,
    /// It is older than DTLS 1.2.
    #[error("it does not speak DTLS 1.2")]
    Version,
    /// There are as many sessions as there may be.
    #[error(
        "there are as many sessions as there may be (raise the maximum, or shorten the idle timeout)"
    )]
    Full,
    /// It did not go on in time.
    #[error("it did not finish its handshake in time")]
    Timeout,
    /// It gave up.
    #[error("it ended the handshake: {0}")]
    ByPeer(Alert),
    /// What it sent makes no sense.
    #[error("its handshake is malformed: {0}")]
    Malformed(Alert),
}

impl From<Alert> for Refusal {
    fn from(alert: Alert) -> Refusal {
        Refusal::Malformed(alert)
    }
}

impl Refusal {
    /// What the client is told; `None` where it is told nothing.
    pub(crate) fn alert(self) -> Option<Alert> {
        Some(match self {
            // Who guesses identities is not told which of them exist (RFC 4279 section 2).
            Self::UnknownIdentity | Self::WrongKey | Self::BadSignature => Alert::DECRYPT_ERROR,
            Self::UnknownPublicKey => Alert::CERTIFICATE_UNKNOWN,
            Self::Certificate(refusal) => refusal.alert(),
            Self::NoCertificate | Self::NoCommonSuite => Alert::HANDSHAKE_FAILURE,
            Self::Version => Alert::PROTOCOL_VERSION,
            Self::Full => Alert::INTERNAL_ERROR,
            Self::Malformed(alert) => alert,
            Self::Timeout | Self::ByPeer(_) => return None,
        })
    }
}

/// What all handshakes of a server use.
pub(crate) struct Tools<'a> {
    pub(crate) config: &'a ServerConfig,
    pub(crate) authority: &'a dyn Authority,
    pub(crate) protector: &'a mut Protector,
    pub(crate) rng: &'a mut ChaCha12Rng,
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
        // The answer to message n is message n, its record the one of the hello (RFC 6347 section 4.2.1).
        let exchange = Exchange::new(
            first_in,
            message.number,
            record_sequence,
            pace,
            crate::config::mtu(tools.config.mtu),
        );
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
                    return Ok(Step::Wait);
                }
                let content = match tools.protector.open(client, record) {
                    Ok(content) => content,
                    // A resumed one may get what belongs to the session before it.
                    Err(_) if self.resumed || kind == ContentType::Alert => return Ok(Step::Wait),
                    Err(_) => return Err(self.wrong_key()),
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

    /// Repeats the flight; `None` when it was repeated often enough.
    pub(crate) fn repeat(&mut self, tools: &mut Tools<'_>, now: Instant) -> Option<Vec<Vec<u8>>> {
        if self.exchange.back_off() {
            self.send(tools, now, true).ok()
        } else {
            None
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

    fn certificate(&mut self, tools: &Tools<'_>, body: &[u8]) -> Result<(), Refusal> {
        let chain = message::parse_certificate(self.certificate_type, body)?;
        let first = chain.first().ok_or(Refusal::NoCertificate)?;
        let (key, identity) = match self.certificate_type {
            CertificateType::RawPublicKey => {
                let key = public_key_of_spki(first)?;
                // As OpenSSL writes it: the same key has one name, however the client wrote it.
                let spki = key.public_key_to_der().map_err(Alert::from)?;
                if !tools.authority.knows_public_key(&spki) {
                    self.identity = Some(Arc::new(Identity::RawPublicKey(spki)));
                    return Err(Refusal::UnknownPublicKey);
                }
                (key, Identity::RawPublicKey(spki))
            }
            CertificateType::X509 => {
                // Before its bytes become somebody's name.
                check_encoding(first)?;
                let identity = Identity::Certificate(first.clone());
                let checked = tools.authority.check_chain(&chain);
                if let Err(refusal) = checked {
                    self.identity = Some(Arc::new(identity));
                    return Err(refusal.into());
                }
                (public_key_of_certificate(first)?, identity)
            }
        };
        self.client_key = Some(key);
        self.identity = Some(Arc::new(identity));
        Ok(())
    }

    fn client_keys(&mut self, tools: &mut Tools<'_>, body: &[u8]) -> Result<(), Refusal> {
        let exchange = self.suite.key_exchange();
        let keys = ClientKeys::parse(body, exchange.has_psk(), exchange.has_ecdhe())?;
        let shared = match (&self.ephemeral, keys.point) {
            (Some(own), Some(point)) => Some(own.agree(point)?),
            _ => None,
        };
        self.ephemeral = None;
        let premaster = match keys.identity {
            Some(identity) => {
                self.identity = Some(Arc::new(Identity::Psk(identity.to_vec())));
                let psk = tools.authority.psk(identity);
                self.identity_unknown = psk.is_none();
                // A key that nobody has: the handshake fails as it does with a wrong key, and as late.
                let mut nobodys = [0; 16];
                tools.rng.fill_bytes(&mut nobodys);
                let bytes = psk.as_ref().map_or(&nobodys[..], |psk| psk.bytes());
                psk_premaster(bytes, shared.as_deref())
            }
            None => shared.ok_or(Alert::INTERNAL_ERROR)?,
        };
        let hash = openssl::sha::sha256(&self.exchange.transcript);
        let hash = self.extended_master_secret.then_some(&hash);
        let master = master_secret(&premaster, hash, &self.client_random, &self.server_random);
        self.set_master(master);
        Ok(())
    }

    fn set_master(&mut self, master: MasterSecret) {
        self.keys = Some(derive_keys(
            self.suite,
            self.encrypt_then_mac,
            &master,
            &self.client_random,
            &self.server_random,
        ));
        self.master = Some(master);
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Instant;

    use openssl::ec::EcKey;
    use openssl::pkey::PKey;

    use super::*;
    use crate::{Client, ClientAuth, ClientConfig, Event, OwnKey, Psk, Server};

    struct Knows(Vec<u8>);

    impl Authority for Knows {
        fn psk(&self, _: &[u8]) -> Option<Psk> {
            None
        }

        fn knows_public_key(&self, spki: &[u8]) -> bool {
            spki == self.0
        }

        fn check_chain(&self, _: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
            Err(CertificateRefusal::Unknown)
        }

        fn still_knows(&self, _: &Identity) -> bool {
            true
        }
    }

    fn own() -> OwnKey {
        let key = EcKey::generate(&message::p256().unwrap()).unwrap();
        let pem = PKey::from_ec_key(key)
            .unwrap()
            .private_key_to_pem_pkcs8()
            .unwrap();
        OwnKey::from_pem(&pem, None).unwrap()
    }

    /// What somebody could do who has seen a device's public key: it is on the wire in clear.
    #[test]
    fn a_public_key_without_its_private_half_is_nothing() {
        for steals in [false, true] {
            let (server_key, device) = (own(), own());
            let config = ServerConfig {
                own_key: Some(server_key.clone()),
                ..ServerConfig::default()
            };
            let known = device.public_key().to_vec();
            let mut server = Server::new(config, Arc::new(Knows(known)), [1; 32]).unwrap();
            let shown = if steals {
                OwnKey {
                    key: own().key,
                    ..device
                }
            } else {
                device
            };
            let auth = ClientAuth::RawPublicKey {
                own: shown,
                server: server_key.public_key().to_vec(),
            };
            let mut client = Client::new(ClientConfig::new(auth), [2; 32]).unwrap();
            let (now, at) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 5684)));
            client.connect(now);
            while let Some(datagram) = client.poll_transmit() {
                server.handle_datagram(now, at, &datagram);
                while let Some(transmit) = server.poll_transmit() {
                    client.handle_datagram(now, &transmit.payload);
                }
            }
            assert_eq!(client.is_connected(), !steals);
            let event = server.poll_event();
            if steals {
                let why = Refusal::BadSignature;
                assert!(matches!(event, Some(Event::Refused { why: is, .. }) if is == why));
            } else {
                assert!(matches!(event, Some(Event::Established { .. })));
            }
        }
    }
}
