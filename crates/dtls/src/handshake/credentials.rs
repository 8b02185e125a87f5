//! What a client shows of itself, and the keys that come of it.

use std::sync::Arc;

use chacha20::rand_core::Rng as _;

use super::{Handshake, Refusal, Tools};
use crate::hello::CertificateType;
use crate::message::{self, ClientKeys};
use crate::peer::{check_encoding, public_key_of_certificate, public_key_of_spki};
use crate::prf::{MasterSecret, master_secret, psk_premaster};
use crate::protect::derive_keys;
use crate::{Alert, Identity};

impl Handshake {
    pub(super) fn certificate(&mut self, tools: &Tools<'_>, body: &[u8]) -> Result<(), Refusal> {
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

    pub(super) fn client_keys(
        &mut self,
        tools: &mut Tools<'_>,
        body: &[u8],
    ) -> Result<(), Refusal> {
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

    pub(super) fn set_master(&mut self, master: MasterSecret) {
        self.keys = Some(derive_keys(
            self.suite,
            self.encrypt_then_mac,
            &master,
            &self.client_random,
            &self.server_random,
        ));
        self.master = Some(master);
    }
}
