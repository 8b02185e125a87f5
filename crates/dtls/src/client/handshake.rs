//! The client's side of a handshake: the messages of [`crate::handshake`] from the other end.

use std::time::Instant;

use openssl::memcmp;

use super::{Await, Client, ClientClosing, Connecting, EARLY_BYTES, EARLY_MOST, MOST_COOKIES};
use crate::alert::{self, Level};
use crate::exchange::{Message, Taken};
use crate::hello::{CertificateType, Offer, ServerHello};
use crate::message::{self, ClientKeys, Ephemeral, Fragment, kind};
use crate::peer::{certificate_names, check_dates, public_key_of_certificate, public_key_of_spki};
use crate::prf::{MasterSecret, master_secret, psk_premaster, verify_data};
use crate::protect::derive_keys;
use crate::record::{ContentType, Record, VERSION};
use crate::suite::{Bulk, CipherSuite, KeyExchange};
use crate::wire::Reader;
use crate::{Alert, CertificateRefusal, ClientAuth, ServerTrust};

impl Client {
    pub(super) fn send_hello(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        cookie: &[u8],
    ) -> Result<(), ClientClosing> {
        let suites: Vec<u16> = self
            .config
            .suites
            .iter()
            .filter(|suite| {
                let psk = matches!(self.config.auth, ClientAuth::Psk { .. });
                suite.key_exchange().has_psk() == psk
            })
            .map(|suite| suite.id())
            .collect();
        let server_name = match &self.config.auth {
            ClientAuth::Certificate {
                server:
                    ServerTrust::Store {
                        name: Some(name), ..
                    },
                ..
            } if name.parse::<std::net::IpAddr>().is_err() && name.len() <= 255 => {
                Some(name.as_str())
            }
            _ => None,
        };
        let offer = Offer {
            random: &connecting.random,
            session_id: &connecting.session_id,
            cookie,
            suites: &suites,
            certificate_type: match self.config.auth {
                ClientAuth::Psk { .. } => None,
                ClientAuth::RawPublicKey { .. } => Some(CertificateType::RawPublicKey),
                ClientAuth::Certificate { .. } => Some(CertificateType::X509),
            },
            server_name,
        };
        connecting.exchange.begin_flight();
        // What was said before the cookie is not confirmed by the Finished messages.
        connecting.exchange.transcript.clear();
        connecting
            .exchange
            .push(0, kind::CLIENT_HELLO, offer.encode())?;
        self.send_flight(now, connecting, true)
    }

    fn send_flight(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        awaits: bool,
    ) -> Result<(), ClientClosing> {
        let keys = connecting.keys.as_ref().map(|(client, _)| client);
        let datagrams =
            connecting
                .exchange
                .send(now, awaits, &mut self.protector, &mut self.rng, keys)?;
        self.transmits.extend(datagrams);
        Ok(())
    }

    /// `true`: the handshake is done.
    pub(super) fn connecting_record(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        record: &Record<'_>,
    ) -> Result<bool, ClientClosing> {
        match (record.epoch, record.kind) {
            (0, ContentType::Handshake) => self.fragments(now, connecting, 0, record.fragment),
            (0, ContentType::Alert) => match alert::parse(record.fragment) {
                Some((Level::Fatal, alert)) => Err(ClientClosing::ByPeer(alert)),
                _ => Ok(false),
            },
            (1, kind) => {
                let Some((_, server)) = &connecting.keys else {
                    if connecting.early.len() < EARLY_MOST && record.fragment.len() <= EARLY_BYTES {
                        connecting
                            .early
                            .push((kind, record.sequence, record.fragment.to_vec()));
                    }
                    return Ok(false);
                };
                if !connecting.window.may_be_new(record.sequence) {
                    return Ok(false);
                }
                // Anybody can send what does not open.
                let Ok(content) = self.protector.open(server, record) else {
                    return Ok(false);
                };
                connecting.window.mark(record.sequence);
                match kind {
                    ContentType::Handshake => self.fragments(now, connecting, 1, &content),
                    ContentType::Alert => match alert::parse(&content) {
                        Some((Level::Fatal, alert)) => Err(ClientClosing::ByPeer(alert)),
                        _ => Ok(false),
                    },
                    _ => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    fn fragments(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        epoch: u16,
        content: &[u8],
    ) -> Result<bool, ClientClosing> {
        let mut reader = Reader(content);
        let mut stale = false;
        while !reader.is_empty() {
            let fragment = Fragment::take(&mut reader)?;
            stale |= connecting.exchange.take_fragment(epoch, &fragment)? == Taken::Stale;
        }
        while let Some(message) = connecting.exchange.next_message() {
            if self.message(now, connecting, &message)? {
                return Ok(true);
            }
            if connecting.keys.is_some() && !connecting.early.is_empty() {
                for (kind, sequence, fragment) in std::mem::take(&mut connecting.early) {
                    let record = Record {
                        kind,
                        version: VERSION,
                        epoch: 1,
                        sequence,
                        fragment: &fragment,
                    };
                    if self.connecting_record(now, connecting, &record)? {
                        return Ok(true);
                    }
                }
            }
        }
        if stale && connecting.exchange.may_repeat(now) {
            self.send_flight(now, connecting, true)?;
        }
        Ok(false)
    }

    fn message(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        message: &Message,
    ) -> Result<bool, ClientClosing> {
        let Message {
            kind: which,
            number,
            epoch,
            body,
        } = message;
        if *which == kind::HELLO_REQUEST {
            return Ok(false);
        }
        let in_epoch = u16::from(connecting.awaits == Await::Finished);
        if *epoch != in_epoch {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        if (connecting.awaits, *which) == (Await::Hello, kind::HELLO_VERIFY_REQUEST) {
            connecting.cookies += 1;
            if connecting.cookies > MOST_COOKIES {
                return Err(Alert::UNEXPECTED_MESSAGE.into());
            }
            let cookie = message::parse_hello_verify_request(body)?.to_vec();
            self.send_hello(now, connecting, &cookie)?;
            return Ok(false);
        }
        if connecting.awaits == Await::Finished {
            return self.finished(now, connecting, message);
        }
        connecting.exchange.note(*which, *number, body)?;
        match (connecting.awaits, *which) {
            (Await::Hello, kind::SERVER_HELLO) => self.server_hello(connecting, body)?,
            (Await::Certificate, kind::CERTIFICATE) => {
                self.certificate(connecting, body)?;
                connecting.awaits = Await::ServerKeys;
            }
            (Await::ServerKeys, kind::SERVER_KEY_EXCHANGE) => {
                self.server_keys(connecting, body)?;
                connecting.awaits = Await::RequestOrDone;
            }
            (Await::RequestOrDone, kind::CERTIFICATE_REQUEST)
                if connecting.suite.key_exchange() == KeyExchange::EcdheEcdsa
                    && !connecting.certificate_asked_for =>
            {
                connecting.certificate_asked_for = true;
            }
            (Await::RequestOrDone, kind::SERVER_HELLO_DONE)
            | (Await::ServerKeys, kind::SERVER_HELLO_DONE)
                if connecting.awaits == Await::RequestOrDone
                    || connecting.suite.key_exchange() == KeyExchange::Psk =>
            {
                if !body.is_empty() {
                    return Err(Alert::DECODE_ERROR.into());
                }
                self.answer(now, connecting)?;
            }
            _ => return Err(Alert::UNEXPECTED_MESSAGE.into()),
        }
        Ok(false)
    }

    fn server_hello(
        &mut self,
        connecting: &mut Connecting,
        body: &[u8],
    ) -> Result<(), ClientClosing> {
        let hello = ServerHello::parse(body)?;
        let suite = CipherSuite::from_id(hello.suite)
            .filter(|suite| self.config.suites.contains(suite))
            .filter(|suite| {
                suite.key_exchange().has_psk() == matches!(self.config.auth, ClientAuth::Psk { .. })
            })
            .ok_or(Alert::ILLEGAL_PARAMETER)?;
        connecting.server_random = hello.random;
        connecting.suite = suite;
        connecting.extended_master_secret = hello.extended_master_secret;
        connecting.encrypt_then_mac = hello.encrypt_then_mac && suite.bulk() == Bulk::Cbc;
        connecting.client_type = hello
            .client_certificate_type
            .unwrap_or(CertificateType::X509);
        connecting.server_type = hello
            .server_certificate_type
            .unwrap_or(CertificateType::X509);
        let wanted = match self.config.auth {
            ClientAuth::RawPublicKey { .. } => CertificateType::RawPublicKey,
            _ => CertificateType::X509,
        };
        if let Some(resumable) = &self.resumable
            && !resumable.id.is_empty()
            && hello.session_id == resumable.id
            && hello.session_id == connecting.session_id
        {
            if suite != resumable.suite
                || hello.extended_master_secret != resumable.extended_master_secret
            {
                return Err(Alert::ILLEGAL_PARAMETER.into());
            }
            connecting.resumed = true;
            let master = resumable.master;
            set_master(connecting, master);
            connecting.awaits = Await::Finished;
            return Ok(());
        }
        let ecdsa = suite.key_exchange() == KeyExchange::EcdheEcdsa;
        if ecdsa && (connecting.client_type, connecting.server_type) != (wanted, wanted) {
            return Err(Alert::HANDSHAKE_FAILURE.into());
        }
        connecting.session_id = hello.session_id;
        connecting.awaits = if ecdsa {
            Await::Certificate
        } else {
            Await::ServerKeys
        };
        Ok(())
    }

    fn certificate(
        &mut self,
        connecting: &mut Connecting,
        body: &[u8],
    ) -> Result<(), ClientClosing> {
        let chain = message::parse_certificate(connecting.server_type, body)?;
        let first = chain.first().ok_or(Alert::BAD_CERTIFICATE)?;
        let key = match &self.config.auth {
            ClientAuth::RawPublicKey { server, .. } => {
                let key = public_key_of_spki(first)?;
                let known = public_key_of_spki(server)?;
                if !key.public_eq(&known) {
                    return Err(ClientClosing::WrongKey);
                }
                key
            }
            ClientAuth::Certificate { server, .. } => {
                match server {
                    ServerTrust::Pinned(der) => {
                        if der != first {
                            return Err(ClientClosing::Untrusted(CertificateRefusal::Unknown));
                        }
                        check_dates(first).map_err(ClientClosing::Untrusted)?;
                    }
                    ServerTrust::Store { store, name } => {
                        store.check(&chain).map_err(ClientClosing::Untrusted)?;
                        if let Some(name) = name
                            && !certificate_names(first).contains(name)
                        {
                            return Err(ClientClosing::Untrusted(CertificateRefusal::Unknown));
                        }
                    }
                }
                public_key_of_certificate(first)?
            }
            ClientAuth::Psk { .. } => return Err(Alert::UNEXPECTED_MESSAGE.into()),
        };
        connecting.server_key = Some(key);
        Ok(())
    }

    fn server_keys(
        &mut self,
        connecting: &mut Connecting,
        body: &[u8],
    ) -> Result<(), ClientClosing> {
        let exchange = connecting.suite.key_exchange();
        let keys =
            message::parse_server_key_exchange(body, exchange.has_psk(), exchange.has_ecdhe())?;
        if let Some((params, signature)) = keys.signed {
            let key = connecting
                .server_key
                .as_ref()
                .ok_or(Alert::UNEXPECTED_MESSAGE)?;
            let signed = [&connecting.random[..], &connecting.server_random, params];
            message::check_signature(key, &signed, signature)
                .map_err(|_| ClientClosing::WrongKey)?;
        }
        connecting.server_point = keys.point.map(<[u8]>::to_vec);
        Ok(())
    }

    /// The second flight: who this is, the keys, Finished.
    fn answer(&mut self, now: Instant, connecting: &mut Connecting) -> Result<(), ClientClosing> {
        connecting.exchange.begin_flight();
        let exchange = connecting.suite.key_exchange();
        let own = match &self.config.auth {
            ClientAuth::RawPublicKey { own, .. } | ClientAuth::Certificate { own, .. } => Some(own),
            ClientAuth::Psk { .. } => None,
        };
        if connecting.certificate_asked_for
            && let Some(own) = own
        {
            let chain = match connecting.client_type {
                CertificateType::X509 => own.chain.clone(),
                CertificateType::RawPublicKey => vec![own.public_key().to_vec()],
            };
            let body = message::certificate(connecting.client_type, &chain);
            connecting.exchange.push(0, kind::CERTIFICATE, body)?;
        }
        let (mut point, mut shared) = (None, None);
        if exchange.has_ecdhe() {
            let server = connecting
                .server_point
                .take()
                .ok_or(Alert::UNEXPECTED_MESSAGE)?;
            let ephemeral = Ephemeral::new()?;
            shared = Some(ephemeral.agree(&server)?);
            point = Some(ephemeral.point()?);
        }
        let (identity, premaster) = match &self.config.auth {
            ClientAuth::Psk { identity, key } => {
                let premaster = psk_premaster(key.bytes(), shared.as_deref());
                (Some(identity.as_slice()), premaster)
            }
            _ => (None, shared.ok_or(Alert::INTERNAL_ERROR)?),
        };
        let body = ClientKeys {
            identity,
            point: point.as_deref(),
        };
        connecting
            .exchange
            .push(0, kind::CLIENT_KEY_EXCHANGE, body.encode())?;
        let hash = openssl::sha::sha256(&connecting.exchange.transcript);
        let hash = connecting.extended_master_secret.then_some(&hash);
        let master = master_secret(
            &premaster,
            hash,
            &connecting.random,
            &connecting.server_random,
        );
        if connecting.certificate_asked_for
            && let Some(own) = own
            && (connecting.client_type == CertificateType::RawPublicKey || !own.chain.is_empty())
        {
            let mut body = Vec::new();
            message::put_signature(&mut body, &own.key, &[&connecting.exchange.transcript])?;
            connecting
                .exchange
                .push(0, kind::CERTIFICATE_VERIFY, body)?;
        }
        set_master(connecting, master);
        push_finished(connecting, &master)?;
        connecting.awaits = Await::Finished;
        self.send_flight(now, connecting, true)
    }

    fn finished(
        &mut self,
        now: Instant,
        connecting: &mut Connecting,
        message: &Message,
    ) -> Result<bool, ClientClosing> {
        if message.kind != kind::FINISHED {
            return Err(Alert::UNEXPECTED_MESSAGE.into());
        }
        let master = connecting.master.ok_or(Alert::INTERNAL_ERROR)?;
        let expected = verify_data(&master, false, &connecting.exchange.transcript);
        if message.body.len() != expected.len() || !memcmp::eq(&message.body, &expected) {
            return Err(Alert::DECRYPT_ERROR.into());
        }
        connecting
            .exchange
            .note(message.kind, message.number, &message.body)?;
        if connecting.resumed {
            connecting.exchange.begin_flight();
            push_finished(connecting, &master)?;
            self.send_flight(now, connecting, false)?;
        }
        Ok(true)
    }
}

fn set_master(connecting: &mut Connecting, master: MasterSecret) {
    connecting.keys = Some(derive_keys(
        connecting.suite,
        connecting.encrypt_then_mac,
        &master,
        &connecting.random,
        &connecting.server_random,
    ));
    connecting.master = Some(master);
}

fn push_finished(connecting: &mut Connecting, master: &MasterSecret) -> Result<(), Alert> {
    let data = verify_data(master, true, &connecting.exchange.transcript);
    connecting.exchange.push_change_cipher_spec();
    connecting.exchange.push(1, kind::FINISHED, data.to_vec())
}
