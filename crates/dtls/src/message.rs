//! Handshake messages besides the hellos (RFC 5246 section 7.4, RFC 4279, RFC 5489, RFC 8422).
//!
//! ```text
//! type 1 | length 3 | message number 2 | fragment offset 3 | fragment length 3 | fragment
//! ```

use openssl::bn::BigNumContext;
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPrivate, PKey, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};

use crate::Alert;
use crate::hello::{CertificateType, ECDSA_SHA256, P256, SIGNATURES};
use crate::wire::{Reader, put_u16, put_u24, put_vec8, put_vec16, put_vec24};

/// A handshake message's header.
pub(crate) const HEADER: usize = 12;

/// Message types.
pub(crate) mod kind {
    pub(crate) const HELLO_REQUEST: u8 = 0;
    pub(crate) const CLIENT_HELLO: u8 = 1;
    pub(crate) const SERVER_HELLO: u8 = 2;
    pub(crate) const HELLO_VERIFY_REQUEST: u8 = 3;
    pub(crate) const CERTIFICATE: u8 = 11;
    pub(crate) const SERVER_KEY_EXCHANGE: u8 = 12;
    pub(crate) const CERTIFICATE_REQUEST: u8 = 13;
    pub(crate) const SERVER_HELLO_DONE: u8 = 14;
    pub(crate) const CERTIFICATE_VERIFY: u8 = 15;
    pub(crate) const CLIENT_KEY_EXCHANGE: u8 = 16;
    pub(crate) const FINISHED: u8 = 20;
}

/// A piece of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment<'a> {
    pub(crate) kind: u8,
    /// Of the whole message.
    pub(crate) len: usize,
    pub(crate) number: u16,
    pub(crate) offset: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Takes one off a record's content, which may hold several.
    pub(crate) fn take(reader: &mut Reader<'a>) -> Result<Self, Alert> {
        let kind = reader.u8()?;
        let len = reader.u24()?;
        let number = reader.u16()?;
        let offset = reader.u24()?;
        let bytes = reader.vec24()?;
        if offset + bytes.len() > len {
            return Err(Alert::DECODE_ERROR);
        }
        Ok(Self {
            kind,
            len,
            number,
            offset,
            bytes,
        })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.offset == 0 && self.bytes.len() == self.len
    }
}

/// Appends a header.
pub(crate) fn put_header(
    out: &mut Vec<u8>,
    kind: u8,
    len: usize,
    number: u16,
    offset: usize,
    fragment: usize,
) {
    out.push(kind);
    put_u24(out, len);
    put_u16(out, number);
    put_u24(out, offset);
    put_u24(out, fragment);
}

/// The body of a HelloVerifyRequest. It names DTLS 1.0, as RFC 6347 section 4.2.1 asks: it agrees on no version.
pub(crate) fn hello_verify_request(cookie: &[u8]) -> Vec<u8> {
    let mut body = vec![0xfe, 0xff];
    put_vec8(&mut body, cookie);
    body
}

pub(crate) fn parse_hello_verify_request(body: &[u8]) -> Result<&[u8], Alert> {
    let mut reader = Reader(body);
    reader.array::<2>()?;
    let cookie = reader.vec8()?;
    reader.end()?;
    Ok(cookie)
}

/// A Certificate message: a chain of certificates, or a raw public key (RFC 7250 section 3).
pub(crate) fn certificate(kind: CertificateType, chain: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    match kind {
        CertificateType::RawPublicKey => {
            put_vec24(&mut body, chain.first().map_or(&[], Vec::as_slice));
        }
        CertificateType::X509 => {
            let mut list = Vec::new();
            for certificate in chain {
                put_vec24(&mut list, certificate);
            }
            put_vec24(&mut body, &list);
        }
    }
    body
}

/// The most certificates of a chain.
const LONGEST_CHAIN: usize = 8;

pub(crate) fn parse_certificate(kind: CertificateType, body: &[u8]) -> Result<Vec<Vec<u8>>, Alert> {
    let mut reader = Reader(body);
    let list = reader.vec24()?;
    reader.end()?;
    if kind == CertificateType::RawPublicKey {
        return Ok(if list.is_empty() {
            Vec::new()
        } else {
            vec![list.to_vec()]
        });
    }
    let mut chain = Vec::new();
    let mut reader = Reader(list);
    while !reader.is_empty() {
        if chain.len() == LONGEST_CHAIN {
            return Err(Alert::BAD_CERTIFICATE);
        }
        chain.push(reader.vec24()?.to_vec());
    }
    Ok(chain)
}

/// ecdsa_sign, the usual signatures, no names: a device knows which certificate it has.
pub(crate) fn certificate_request() -> Vec<u8> {
    let mut body = vec![1, 64];
    body.extend_from_slice(&SIGNATURES);
    put_u16(&mut body, 0);
    body
}

/// P-256, made ready.
pub(crate) fn p256() -> Result<EcGroup, ErrorStack> {
    EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
}

/// One end's part of an ECDHE exchange.
pub(crate) struct Ephemeral {
    group: EcGroup,
    key: EcKey<Private>,
}

impl std::fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ephemeral").finish_non_exhaustive()
    }
}

impl Ephemeral {
    pub(crate) fn new() -> Result<Self, ErrorStack> {
        let group = p256()?;
        let key = EcKey::generate(&group)?;
        Ok(Self { group, key })
    }

    pub(crate) fn point(&self) -> Result<Vec<u8>, ErrorStack> {
        let mut context = BigNumContext::new()?;
        let form = PointConversionForm::UNCOMPRESSED;
        self.key
            .public_key()
            .to_bytes(&self.group, form, &mut context)
    }

    /// The shared secret with the other end's point, which has to be one of the curve.
    pub(crate) fn agree(&self, point: &[u8]) -> Result<Vec<u8>, Alert> {
        // Uncompressed points only, so the point at infinity is none.
        if point.len() != 65 || point[0] != 4 {
            return Err(Alert::ILLEGAL_PARAMETER);
        }
        let mut context = BigNumContext::new()?;
        let point = EcPoint::from_bytes(&self.group, point, &mut context)
            .map_err(|_| Alert::ILLEGAL_PARAMETER)?;
        // OpenSSL takes no point beside the curve, and all others are of the one group that P-256 has.
        let other =
            EcKey::from_public_key(&self.group, &point).map_err(|_| Alert::ILLEGAL_PARAMETER)?;
        let (own, other) = (
            PKey::from_ec_key(self.key.clone())?,
            PKey::from_ec_key(other)?,
        );
        let mut deriver = Deriver::new(&own)?;
        deriver.set_peer(&other)?;
        Ok(deriver.derive_to_vec()?)
    }
}

/// named_curve, secp256r1, the point.
pub(crate) fn ecdhe_params(point: &[u8]) -> Vec<u8> {
    let mut params = vec![3];
    put_u16(&mut params, P256);
    put_vec8(&mut params, point);
    params
}

fn take_ecdhe_params<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Alert> {
    if reader.u8()? != 3 || reader.u16()? != P256 {
        return Err(Alert::ILLEGAL_PARAMETER);
    }
    reader.vec8()
}

/// What a ServerKeyExchange says.
#[derive(Debug, Default)]
pub(crate) struct ServerKeys<'a> {
    pub(crate) point: Option<&'a [u8]>,
    /// What was signed, and the signature.
    pub(crate) signed: Option<(&'a [u8], Signature<'a>)>,
}

pub(crate) fn parse_server_key_exchange(
    body: &[u8],
    psk: bool,
    ecdhe: bool,
) -> Result<ServerKeys<'_>, Alert> {
    let mut reader = Reader(body);
    let mut keys = ServerKeys::default();
    if psk {
        // A hint which key to take: this client has one.
        reader.vec16()?;
    }
    if ecdhe {
        let start = reader.0;
        keys.point = Some(take_ecdhe_params(&mut reader)?);
        if !psk {
            let params = &start[..start.len() - reader.0.len()];
            keys.signed = Some((params, take_signature(&mut reader)?));
        }
    }
    reader.end()?;
    Ok(keys)
}

/// An ECDSA signature, over this hash of what is signed.
#[derive(Clone, Copy)]
pub(crate) struct Signature<'a> {
    digest: MessageDigest,
    bytes: &'a [u8],
}

impl std::fmt::Debug for Signature<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signature").finish_non_exhaustive()
    }
}

fn take_signature<'a>(reader: &mut Reader<'a>) -> Result<Signature<'a>, Alert> {
    let digest = match reader.u16()? {
        ECDSA_SHA256 => MessageDigest::sha256(),
        0x0503 => MessageDigest::sha384(),
        0x0603 => MessageDigest::sha512(),
        _ => return Err(Alert::ILLEGAL_PARAMETER),
    };
    Ok(Signature {
        digest,
        bytes: reader.vec16()?,
    })
}

/// A CertificateVerify's signature.
pub(crate) fn parse_certificate_verify(body: &[u8]) -> Result<Signature<'_>, Alert> {
    let mut reader = Reader(body);
    let signature = take_signature(&mut reader)?;
    reader.end()?;
    Ok(signature)
}

/// Appends the algorithm and the signature over the parts.
pub(crate) fn put_signature(
    out: &mut Vec<u8>,
    key: &PKeyRef<impl HasPrivate>,
    parts: &[&[u8]],
) -> Result<(), ErrorStack> {
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    for part in parts {
        signer.update(part)?;
    }
    put_u16(out, ECDSA_SHA256);
    put_vec16(out, &signer.sign_to_vec()?);
    Ok(())
}

/// Whether the key's owner signed the parts.
pub(crate) fn check_signature(
    key: &PKeyRef<Public>,
    parts: &[&[u8]],
    signature: Signature<'_>,
) -> Result<(), Alert> {
    let mut verifier = Verifier::new(signature.digest, key)?;
    for part in parts {
        verifier.update(part)?;
    }
    match verifier.verify(signature.bytes) {
        Ok(true) => Ok(()),
        // An error is a signature that is not even one.
        Ok(false) | Err(_) => Err(Alert::DECRYPT_ERROR),
    }
}

/// What a ClientKeyExchange says: the identity of a PSK, the point of an ECDHE.
#[derive(Debug, Default)]
pub(crate) struct ClientKeys<'a> {
    pub(crate) identity: Option<&'a [u8]>,
    pub(crate) point: Option<&'a [u8]>,
}

impl<'a> ClientKeys<'a> {
    pub(crate) fn parse(body: &'a [u8], psk: bool, ecdhe: bool) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        let mut keys = Self::default();
        if psk {
            keys.identity = Some(reader.vec16()?);
        }
        if ecdhe {
            keys.point = Some(reader.vec8()?);
        }
        reader.end()?;
        Ok(keys)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(identity) = self.identity {
            put_vec16(&mut body, identity);
        }
        if let Some(point) = self.point {
            put_vec8(&mut body, point);
        }
        body
    }
}
