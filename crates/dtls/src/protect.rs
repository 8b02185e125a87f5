//! Protection of records: AEAD (RFC 6655, RFC 5288) and CBC with HMAC (RFC 5246 section 6.2.3.2, RFC 7366).

use std::fmt;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::Rng as _;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::memcmp;

use crate::prf::{MasterSecret, hmac, prf};
use crate::record::{ContentType, Record, VERSION, numbered};
use crate::suite::{Bulk, CipherSuite};

/// The bytes of an AEAD's nonce that stand in the record, and of a block of AES.
const EXPLICIT_NONCE: usize = 8;
const BLOCK: usize = 16;
const MAC: usize = 32;

/// The keys of one direction. Small: a context of OpenSSL's would take twenty times as much in each session.
pub(crate) struct Keys {
    bulk: Bulk,
    /// The MAC comes over the ciphertext (RFC 7366) instead of over the plaintext.
    encrypt_then_mac: bool,
    key: [u8; 16],
    /// The implicit part of an AEAD's nonce.
    salt: [u8; 4],
    mac: Option<Box<[u8; MAC]>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("bulk", &self.bulk)
            .finish_non_exhaustive()
    }
}

/// Both directions' keys: the client's to write with first.
pub(crate) fn derive_keys(
    suite: CipherSuite,
    encrypt_then_mac: bool,
    master: &MasterSecret,
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> (Keys, Keys) {
    let bulk = suite.bulk();
    let mac_len = if bulk == Bulk::Cbc { MAC } else { 0 };
    // RFC 5246 section 6.3: MAC keys, keys, then the AEAD's salts; the client's first each.
    let mut block = [0; 2 * (MAC + 16 + 4)];
    let block = &mut block[..2 * (mac_len + 16 + 4)];
    prf(
        master,
        "key expansion",
        &[server_random, client_random],
        block,
    );
    let (macs, rest) = block.split_at(2 * mac_len);
    let (keys, salts) = rest.split_at(32);
    let side = |index: usize| {
        let mut key = [0; 16];
        key.copy_from_slice(&keys[16 * index..][..16]);
        let mut salt = [0; 4];
        salt.copy_from_slice(&salts[4 * index..][..4]);
        let mac = macs[mac_len * index..][..mac_len]
            .first_chunk()
            .map(|mac| Box::new(*mac));
        Keys {
            bulk,
            encrypt_then_mac,
            key,
            salt,
            mac,
        }
    };
    (side(0), side(1))
}

/// A record that is not what its sender made: changed on the way, of another session, or nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

impl From<ErrorStack> for Forged {
    fn from(_: ErrorStack) -> Forged {
        Forged
    }
}

/// OpenSSL's contexts, one of each kind, that all sessions take turns in.
pub(crate) struct Protector {
    ccm8: Pair,
    ccm: Pair,
    gcm: Pair,
    cbc: Pair,
    scratch: Vec<u8>,
}

struct Pair {
    seal: CipherCtx,
    open: CipherCtx,
}

impl Pair {
    fn new(
        cipher: &openssl::cipher::CipherRef,
        ccm_tag: Option<usize>,
    ) -> Result<Pair, ErrorStack> {
        let (mut seal, mut open) = (CipherCtx::new()?, CipherCtx::new()?);
        seal.encrypt_init(Some(cipher), None, None)?;
        open.decrypt_init(Some(cipher), None, None)?;
        if let Some(tag) = ccm_tag {
            for context in [&mut seal, &mut open] {
                context.set_iv_length(12)?;
                context.set_tag_length(tag)?;
            }
        }
        Ok(Pair { seal, open })
    }
}

impl fmt::Debug for Protector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protector").finish_non_exhaustive()
    }
}

impl Protector {
    pub(crate) fn new() -> Result<Protector, ErrorStack> {
        Ok(Protector {
            ccm8: Pair::new(Cipher::aes_128_ccm(), Some(8))?,
            ccm: Pair::new(Cipher::aes_128_ccm(), Some(16))?,
            gcm: Pair::new(Cipher::aes_128_gcm(), None)?,
            cbc: Pair::new(Cipher::aes_128_cbc(), None)?,
            scratch: Vec::new(),
        })
    }

    /// Appends a protected record of epoch 1.
    pub(crate) fn seal(
        &mut self,
        rng: &mut ChaCha12Rng,
        keys: &Keys,
        kind: ContentType,
        sequence: u64,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorStack> {
        let number = numbered(1, sequence);
        out.push(kind as u8);
        out.extend_from_slice(&VERSION);
        out.extend_from_slice(&number);
        match keys.bulk {
            Bulk::Ccm8 => seal_aead(
                &mut self.ccm8.seal,
                8,
                true,
                keys,
                kind,
                number,
                plaintext,
                out,
            ),
            Bulk::Ccm => seal_aead(
                &mut self.ccm.seal,
                16,
                true,
                keys,
                kind,
                number,
                plaintext,
                out,
            ),
            Bulk::Gcm => seal_aead(
                &mut self.gcm.seal,
                16,
                false,
                keys,
                kind,
                number,
                plaintext,
                out,
            ),
            Bulk::Cbc => self.seal_cbc(rng, keys, kind, number, plaintext, out),
        }
    }

    /// The plaintext of a record of epoch 1. Whether it came before is not looked at.
    pub(crate) fn open(&mut self, keys: &Keys, record: &Record<'_>) -> Result<Vec<u8>, Forged> {
        match keys.bulk {
            Bulk::Ccm8 => open_aead(&mut self.ccm8.open, 8, true, keys, record),
            Bulk::Ccm => open_aead(&mut self.ccm.open, 16, true, keys, record),
            Bulk::Gcm => open_aead(&mut self.gcm.open, 16, false, keys, record),
            Bulk::Cbc => self.open_cbc(keys, record),
        }
    }

    fn seal_cbc(
        &mut self,
        rng: &mut ChaCha12Rng,
        keys: &Keys,
        kind: ContentType,
        number: [u8; 8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorStack> {
        let mac_key = mac_key(keys);
        let mut iv = [0; BLOCK];
        rng.fill_bytes(&mut iv);
        self.scratch.clear();
        self.scratch.extend_from_slice(plaintext);
        if !keys.encrypt_then_mac {
            let header = mac_header(number, kind, plaintext.len());
            let mac = hmac(mac_key, &[&header, plaintext]);
            self.scratch.extend_from_slice(&mac);
        }
        // Padding: n bytes of the value n - 1, at least one.
        let padding = BLOCK - self.scratch.len() % BLOCK;
        self.scratch
            .resize(self.scratch.len() + padding, (padding - 1) as u8);
        let context = &mut self.cbc.seal;
        context.encrypt_init(None, Some(&keys.key), Some(&iv))?;
        context.set_padding(false);
        let mut sealed = vec![0; self.scratch.len() + BLOCK];
        let len = context.cipher_update(&self.scratch, Some(&mut sealed))?;
        let sealed = &sealed[..len];
        let mac = keys.encrypt_then_mac.then(|| {
            let header = mac_header(number, kind, BLOCK + sealed.len());
            hmac(mac_key, &[&header, &iv, sealed])
        });
        let mac = mac.as_ref().map_or(&[][..], |mac| &mac[..]);
        crate::wire::put_u16(out, (BLOCK + sealed.len() + mac.len()) as u16);
        out.extend_from_slice(&iv);
        out.extend_from_slice(sealed);
        out.extend_from_slice(mac);
        Ok(())
    }

    fn open_cbc(&mut self, keys: &Keys, record: &Record<'_>) -> Result<Vec<u8>, Forged> {
        let mac_key = mac_key(keys);
        let number = numbered(record.epoch, record.sequence);
        let mut sealed = record.fragment;
        if keys.encrypt_then_mac {
            let (covered, mac) = sealed.split_last_chunk::<MAC>().ok_or(Forged)?;
            let header = mac_header(number, record.kind, covered.len());
            if !memcmp::eq(&hmac(mac_key, &[&header, covered]), mac) {
                return Err(Forged);
            }
            sealed = covered;
        }
        let (iv, sealed) = sealed.split_first_chunk::<BLOCK>().ok_or(Forged)?;
        let shortest = if keys.encrypt_then_mac {
            BLOCK
        } else {
            MAC + BLOCK
        };
        if !sealed.len().is_multiple_of(BLOCK) || sealed.len() < shortest {
            return Err(Forged);
        }
        let context = &mut self.cbc.open;
        context.decrypt_init(None, Some(&keys.key), Some(iv))?;
        context.set_padding(false);
        let mut plain = vec![0; sealed.len() + BLOCK];
        let len = context.cipher_update(sealed, Some(&mut plain))?;
        plain.truncate(len);
        if keys.encrypt_then_mac {
            // Authentic by now: what is wrong here is its sender's fault and no oracle.
            let padding = usize::from(plain.last().copied().unwrap_or_default()) + 1;
            let len = plain.len().checked_sub(padding).ok_or(Forged)?;
            plain.truncate(len);
            return Ok(plain);
        }
        let len = checked_len(mac_key, number, record.kind, &plain)?;
        plain.truncate(len);
        Ok(plain)
    }
}

fn mac_key(keys: &Keys) -> &[u8] {
    keys.mac.as_ref().map_or(&[], |mac| &mac[..])
}

/// Checks padding and MAC of what was MACed and then encrypted, in a time that hardly tells which of them was wrong, or
/// how long the padding is (RFC 5246 section 6.2.3.2): padding that is wrong counts as none, and as many blocks are
/// hashed whatever the padding.
fn checked_len(
    mac_key: &[u8],
    number: [u8; 8],
    kind: ContentType,
    plain: &[u8],
) -> Result<usize, Forged> {
    let most = plain.len() - MAC - 1;
    let padding = usize::from(plain.last().copied().unwrap_or_default());
    let fits = usize::from(padding <= most);
    let mut wrong = 0_u8;
    // The last byte and up to 255 before it, whatever the padding says.
    for (index, byte) in plain.iter().rev().enumerate().take(256) {
        let counts = u8::from(index <= padding).wrapping_neg();
        wrong |= counts & (byte ^ padding as u8);
    }
    let good = fits & usize::from(wrong == 0);
    let padding = padding * good;
    let len = most - padding;
    let header = mac_header(number, kind, len);
    let mac = hmac(mac_key, &[&header, &plain[..len]]);
    // As many compressions more as the longest content would have taken.
    let blocks = |len: usize| (64 + 13 + len + 8) / 64 + 1;
    let mut rest = openssl::sha::Sha256::new();
    for _ in blocks(len)..blocks(most) {
        rest.update(&[0; 64]);
    }
    std::hint::black_box(rest.finish());
    let same = memcmp::eq(&mac, &plain[len..len + MAC]);
    if same & (good == 1) {
        Ok(len)
    } else {
        Err(Forged)
    }
}

/// Additional data of an AEAD and head of a MAC: number, type, version, length of the content.
fn mac_header(number: [u8; 8], kind: ContentType, len: usize) -> [u8; 13] {
    let mut header = [0; 13];
    header[..8].copy_from_slice(&number);
    header[8] = kind as u8;
    header[9..11].copy_from_slice(&VERSION);
    header[11..].copy_from_slice(&(len as u16).to_be_bytes());
    header
}

fn nonce(keys: &Keys, explicit: &[u8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&keys.salt);
    nonce[4..].copy_from_slice(explicit);
    nonce
}

#[expect(
    clippy::too_many_arguments,
    reason = "one place calls it, with a context that is borrowed beside the rest"
)]
fn seal_aead(
    context: &mut CipherCtx,
    tag_len: usize,
    ccm: bool,
    keys: &Keys,
    kind: ContentType,
    number: [u8; 8],
    plaintext: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ErrorStack> {
    // The record's number never comes twice under one key, so it is the nonce (RFC 6655 section 3).
    crate::wire::put_u16(out, (EXPLICIT_NONCE + plaintext.len() + tag_len) as u16);
    out.extend_from_slice(&number);
    context.encrypt_init(None, Some(&keys.key), Some(&nonce(keys, &number)))?;
    if ccm {
        context.set_data_len(plaintext.len())?;
    }
    context.cipher_update(&mac_header(number, kind, plaintext.len()), None)?;
    let start = out.len();
    out.resize(start + plaintext.len() + tag_len, 0);
    let (sealed, tag) = out[start..].split_at_mut(plaintext.len());
    if ccm || !plaintext.is_empty() {
        context.cipher_update(plaintext, Some(sealed))?;
    }
    if !ccm {
        context.cipher_final(&mut [])?;
    }
    context.tag(tag)
}

fn open_aead(
    context: &mut CipherCtx,
    tag_len: usize,
    ccm: bool,
    keys: &Keys,
    record: &Record<'_>,
) -> Result<Vec<u8>, Forged> {
    let (explicit, rest) = record
        .fragment
        .split_at_checked(EXPLICIT_NONCE)
        .ok_or(Forged)?;
    let len = rest.len().checked_sub(tag_len).ok_or(Forged)?;
    let (sealed, tag) = rest.split_at(len);
    context.decrypt_init(None, Some(&keys.key), Some(&nonce(keys, explicit)))?;
    context.set_tag(tag)?;
    if ccm {
        context.set_data_len(len)?;
    }
    let number = numbered(record.epoch, record.sequence);
    context.cipher_update(&mac_header(number, record.kind, len), None)?;
    let mut plain = vec![0; len];
    if ccm || len > 0 {
        // CCM checks the tag here.
        context.cipher_update(sealed, Some(&mut plain))?;
    }
    if !ccm {
        context.cipher_final(&mut [])?;
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

    use super::*;
    use crate::record::Records;
    use chacha20::rand_core::SeedableRng as _;

    #[test]
    fn what_was_sealed_opens_and_nothing_else() {
        let mut protector = Protector::new().unwrap();
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        for (suite, encrypt_then_mac) in CipherSuite::ALL
            .into_iter()
            .flat_map(|s| [(s, false), (s, true)])
        {
            let (client, server) =
                derive_keys(suite, encrypt_then_mac, &[7; 48], &[1; 32], &[2; 32]);
            for len in [0_usize, 1, 15, 16, 17, 60, 300, 1200] {
                let content: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let mut wire = Vec::new();
                protector
                    .seal(
                        &mut rng,
                        &client,
                        ContentType::ApplicationData,
                        5 + len as u64,
                        &content,
                        &mut wire,
                    )
                    .unwrap();
                let record = Records(&wire).next().unwrap();
                assert_eq!(record.fragment.len() + crate::record::HEADER, wire.len());
                assert_eq!(
                    protector.open(&client, &record).unwrap(),
                    content,
                    "{suite:?} {len}"
                );
                assert_eq!(protector.open(&server, &record), Err(Forged));
                // Every byte counts: of the header, the nonce, the content, the tag.
                for index in (0..wire.len()).filter(|index| !(1..3).contains(index)) {
                    let mut changed = wire.clone();
                    changed[index] ^= 1;
                    if let Some(record) = Records(&changed).next() {
                        assert_eq!(
                            protector.open(&client, &record),
                            Err(Forged),
                            "{suite:?} {len} {index}"
                        );
                    }
                }
            }
        }
    }
}
