//! ClientHello, ServerHello and their extensions (RFC 5246 section 7.4.1, RFC 6347 section 4.2.1).

use crate::Alert;
use crate::record::VERSION;
use crate::wire::{Reader, put_u16, put_vec8, put_vec16};

/// Extension numbers (IANA).
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const MAX_FRAGMENT_LENGTH: u16 = 1;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const EC_POINT_FORMATS: u16 = 11;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const CLIENT_CERTIFICATE_TYPE: u16 = 19;
    pub(super) const SERVER_CERTIFICATE_TYPE: u16 = 20;
    pub(super) const ENCRYPT_THEN_MAC: u16 = 22;
    pub(super) const EXTENDED_MASTER_SECRET: u16 = 23;
    pub(super) const RENEGOTIATION_INFO: u16 = 0xff01;
}

/// secp256r1.
pub(crate) const P256: u16 = 23;
/// ecdsa_secp256r1_sha256: SHA-256 (4) with ECDSA (3).
pub(crate) const ECDSA_SHA256: u16 = 0x0403;
/// TLS_EMPTY_RENEGOTIATION_INFO_SCSV (RFC 5746 section 3.3).
const RENEGOTIATION_SCSV: u16 = 0x00ff;

/// What stands in a Certificate message (RFC 7250 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateType {
    X509 = 0,
    RawPublicKey = 2,
}

impl CertificateType {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::X509),
            2 => Some(Self::RawPublicKey),
            _ => None,
        }
    }
}

/// A ClientHello as it came. `Copy`, and all in the datagram: reading one keeps nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientHello<'a> {
    pub(crate) version: [u8; 2],
    pub(crate) random: &'a [u8; 32],
    pub(crate) session_id: &'a [u8],
    pub(crate) cookie: &'a [u8],
    pub(crate) suites: &'a [u8],
    pub(crate) compressions: &'a [u8],
    extensions: &'a [u8],
}

/// What of its extensions counts here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientExtensions {
    /// `None`: the client says nothing about groups.
    pub(crate) p256: Option<bool>,
    pub(crate) point_formats: bool,
    /// `None`: the client says nothing about signatures.
    pub(crate) ecdsa_sha256: Option<bool>,
    /// In the client's order; `None`: it says nothing, so X.509.
    pub(crate) client_certificate_types: Option<Vec<CertificateType>>,
    pub(crate) server_certificate_types: Option<Vec<CertificateType>>,
    pub(crate) encrypt_then_mac: bool,
    pub(crate) extended_master_secret: bool,
    pub(crate) secure_renegotiation: bool,
    /// The most bytes of a record that the client has room for (RFC 6066 section 4).
    pub(crate) max_fragment: Option<usize>,
}

impl<'a> ClientHello<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        let version = reader.array()?;
        let (random, rest) = reader.0.split_first_chunk().ok_or(Alert::DECODE_ERROR)?;
        reader.0 = rest;
        let hello = Self {
            version,
            random,
            session_id: reader.vec8()?,
            cookie: reader.vec8()?,
            suites: reader.vec16()?,
            compressions: reader.vec8()?,
            extensions: if reader.is_empty() {
                &[]
            } else {
                reader.vec16()?
            },
        };
        reader.end()?;
        let fits = hello.session_id.len() <= 32
            && hello.suites.len() >= 2
            && hello.suites.len().is_multiple_of(2)
            && hello.compressions.contains(&0);
        if fits {
            Ok(hello)
        } else {
            Err(Alert::DECODE_ERROR)
        }
    }

    /// Whether the client speaks DTLS 1.2: versions count down from 0xfeff (1.0).
    pub(crate) fn speaks_1_2(&self) -> bool {
        self.version[0] == VERSION[0] && self.version[1] <= VERSION[1]
    }

    /// Its suites in its order.
    pub(crate) fn suites(&self) -> impl Iterator<Item = u16> + 'a {
        self.suites
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    pub(crate) fn extensions(&self) -> Result<ClientExtensions, Alert> {
        let mut found = ClientExtensions {
            secure_renegotiation: self.suites().any(|suite| suite == RENEGOTIATION_SCSV),
            ..ClientExtensions::default()
        };
        each_extension(self.extensions, |kind, mut body| {
            match kind {
                extension::SUPPORTED_GROUPS => {
                    let groups = body.vec16()?;
                    found.p256 = Some(has_u16(groups, P256));
                }
                extension::EC_POINT_FORMATS => found.point_formats = true,
                extension::MAX_FRAGMENT_LENGTH => {
                    // 2^9 to 2^12.
                    let code @ 1..=4 = body.u8()? else {
                        return Err(Alert::ILLEGAL_PARAMETER);
                    };
                    found.max_fragment = Some(256 << code);
                }
                extension::SIGNATURE_ALGORITHMS => {
                    let algorithms = body.vec16()?;
                    found.ecdsa_sha256 = Some(has_u16(algorithms, ECDSA_SHA256));
                }
                extension::CLIENT_CERTIFICATE_TYPE => {
                    found.client_certificate_types = Some(certificate_types(&mut body)?);
                }
                extension::SERVER_CERTIFICATE_TYPE => {
                    found.server_certificate_types = Some(certificate_types(&mut body)?);
                }
                extension::ENCRYPT_THEN_MAC => found.encrypt_then_mac = true,
                extension::EXTENDED_MASTER_SECRET => found.extended_master_secret = true,
                extension::RENEGOTIATION_INFO => {
                    // A first handshake has nothing to renegotiate (RFC 5746 section 3.6).
                    if !body.vec8()?.is_empty() {
                        return Err(Alert::HANDSHAKE_FAILURE);
                    }
                    found.secure_renegotiation = true;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }
}

fn certificate_types(body: &mut Reader<'_>) -> Result<Vec<CertificateType>, Alert> {
    let types = body.vec8()?;
    Ok(types
        .iter()
        .filter_map(|byte| CertificateType::from_byte(*byte))
        .collect())
}

fn has_u16(list: &[u8], wanted: u16) -> bool {
    list.chunks_exact(2)
        .any(|pair| pair == wanted.to_be_bytes())
}

fn each_extension<'a>(
    extensions: &'a [u8],
    mut each: impl FnMut(u16, Reader<'a>) -> Result<(), Alert>,
) -> Result<(), Alert> {
    let mut reader = Reader(extensions);
    while !reader.is_empty() {
        let kind = reader.u16()?;
        each(kind, Reader(reader.vec16()?))?;
    }
    Ok(())
}

/// What a client offers.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) random: &'a [u8; 32],
    pub(crate) session_id: &'a [u8],
    pub(crate) cookie: &'a [u8],
    pub(crate) suites: &'a [u16],
    pub(crate) certificate_type: Option<CertificateType>,
    pub(crate) server_name: Option<&'a str>,
}

impl Offer<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(200);
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(self.random);
        put_vec8(&mut out, self.session_id);
        put_vec8(&mut out, self.cookie);
        let mut suites: Vec<u8> = self.suites.iter().flat_map(|id| id.to_be_bytes()).collect();
        suites.extend_from_slice(&RENEGOTIATION_SCSV.to_be_bytes());
        put_vec16(&mut out, &suites);
        put_vec8(&mut out, &[0]);
        let mut extensions = Extensions::default();
        extensions.put(extension::EXTENDED_MASTER_SECRET, &[]);
        extensions.put(extension::ENCRYPT_THEN_MAC, &[]);
        extensions.put(extension::SUPPORTED_GROUPS, &[0, 2, 0, P256 as u8]);
        extensions.put(extension::EC_POINT_FORMATS, &[1, 0]);
        if let Some(kind) = self.certificate_type {
            // The algorithms of a chain's signatures too, so a CA may have an RSA key.
            extensions.put(extension::SIGNATURE_ALGORITHMS, &SIGNATURES);
            if kind == CertificateType::RawPublicKey {
                extensions.put(extension::CLIENT_CERTIFICATE_TYPE, &[1, kind as u8]);
                extensions.put(extension::SERVER_CERTIFICATE_TYPE, &[1, kind as u8]);
            }
        }
        if let Some(name) = self.server_name {
            let mut entry = vec![0];
            put_vec16(&mut entry, name.as_bytes());
            let mut list = Vec::new();
            put_vec16(&mut list, &entry);
            extensions.put(extension::SERVER_NAME, &list);
        }
        put_vec16(&mut out, &extensions.0);
        out
    }
}

/// SHA-256, SHA-384, SHA-512 with ECDSA, then with RSA, with the length before them.
pub(crate) const SIGNATURES: [u8; 14] = [0, 12, 4, 3, 5, 3, 6, 3, 4, 1, 5, 1, 6, 1];

#[derive(Default)]
struct Extensions(Vec<u8>);

impl Extensions {
    fn put(&mut self, kind: u16, body: &[u8]) {
        put_u16(&mut self.0, kind);
        put_vec16(&mut self.0, body);
    }
}

/// What a server chose.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerHello {
    pub(crate) random: [u8; 32],
    pub(crate) session_id: Vec<u8>,
    pub(crate) suite: u16,
    pub(crate) client_certificate_type: Option<CertificateType>,
    pub(crate) server_certificate_type: Option<CertificateType>,
    pub(crate) encrypt_then_mac: bool,
    pub(crate) extended_master_secret: bool,
    pub(crate) secure_renegotiation: bool,
    pub(crate) point_formats: bool,
}

impl ServerHello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&self.random);
        put_vec8(&mut out, &self.session_id);
        put_u16(&mut out, self.suite);
        out.push(0);
        let mut extensions = Extensions::default();
        if self.secure_renegotiation {
            extensions.put(extension::RENEGOTIATION_INFO, &[0]);
        }
        if self.extended_master_secret {
            extensions.put(extension::EXTENDED_MASTER_SECRET, &[]);
        }
        if self.encrypt_then_mac {
            extensions.put(extension::ENCRYPT_THEN_MAC, &[]);
        }
        if let Some(kind) = self.client_certificate_type {
            extensions.put(extension::CLIENT_CERTIFICATE_TYPE, &[kind as u8]);
        }
        if let Some(kind) = self.server_certificate_type {
            extensions.put(extension::SERVER_CERTIFICATE_TYPE, &[kind as u8]);
        }
        if self.point_formats {
            extensions.put(extension::EC_POINT_FORMATS, &[1, 0]);
        }
        if !extensions.0.is_empty() {
            put_vec16(&mut out, &extensions.0);
        }
        out
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        if reader.array::<2>()? != VERSION {
            return Err(Alert::PROTOCOL_VERSION);
        }
        let mut hello = Self {
            random: reader.array()?,
            session_id: reader.vec8()?.to_vec(),
            suite: reader.u16()?,
            ..Self::default()
        };
        if reader.u8()? != 0 || hello.session_id.len() > 32 {
            return Err(Alert::ILLEGAL_PARAMETER);
        }
        let extensions = if reader.is_empty() {
            &[]
        } else {
            reader.vec16()?
        };
        reader.end()?;
        each_extension(extensions, |kind, mut body| {
            let one = |body: &mut Reader<'_>| {
                let kind = CertificateType::from_byte(body.u8()?);
                kind.map(Some).ok_or(Alert::ILLEGAL_PARAMETER)
            };
            match kind {
                extension::CLIENT_CERTIFICATE_TYPE => {
                    hello.client_certificate_type = one(&mut body)?
                }
                extension::SERVER_CERTIFICATE_TYPE => {
                    hello.server_certificate_type = one(&mut body)?
                }
                extension::ENCRYPT_THEN_MAC => hello.encrypt_then_mac = true,
                extension::EXTENDED_MASTER_SECRET => hello.extended_master_secret = true,
                extension::RENEGOTIATION_INFO => {
                    if !body.vec8()?.is_empty() {
                        return Err(Alert::HANDSHAKE_FAILURE);
                    }
                    hello.secure_renegotiation = true;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(hello)
    }
}
