//! A PKCS#12 truststore that Java takes for one.
//!
//! Java trusts a certificate in a PKCS#12 file only where the bag has Oracle's attribute `trustedKeyUsage`, which OpenSSL
//! can write from 3.2 on; Debian 12 has 3.0. Certificates are no secret, so nothing is encrypted; the MAC proves the password.
//!
//! ```text
//! PFX { 3, data [ data [ certBag { x509Certificate, attributes { friendlyName, trustedKeyUsage } } ] ], mac }   RFC 7292
//! ```

use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::sign::Signer;
use openssl::x509::X509;

use crate::der;

const DATA: &[u32] = &[1, 2, 840, 113_549, 1, 7, 1];
const CERT_BAG: &[u32] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509_CERTIFICATE: &[u32] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME: &[u32] = &[1, 2, 840, 113_549, 1, 9, 20];
const TRUSTED_KEY_USAGE: &[u32] = &[2, 16, 840, 1, 113_894, 746_875, 1, 1];
const ANY_EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37, 0];
const SHA256: &[u32] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

const ITERATIONS: u16 = 10_000;

pub(crate) fn truststore(
    alias: &str,
    certificate: &X509,
    password: &str,
) -> Result<Vec<u8>, ErrorStack> {
    let attribute =
        |id: &[u32], value: Vec<u8>| der::sequence(&[&der::oid(id), &der::set(vec![value])]);
    let bag = der::sequence(&[
        &der::oid(CERT_BAG),
        &der::explicit(&der::sequence(&[
            &der::oid(X509_CERTIFICATE),
            &der::explicit(&der::octets(&certificate.to_der()?)),
        ])),
        &der::set(vec![
            attribute(FRIENDLY_NAME, der::bmp(alias)),
            attribute(TRUSTED_KEY_USAGE, der::oid(ANY_EXTENDED_KEY_USAGE)),
        ]),
    ]);
    let data =
        |content: &[u8]| der::sequence(&[&der::oid(DATA), &der::explicit(&der::octets(content))]);
    let safes = der::sequence(&[&data(&der::sequence(&[&bag]))]);

    let mut salt = [0; 16];
    rand_bytes(&mut salt)?;
    let key = PKey::hmac(&mac_key(password, &salt, ITERATIONS)?)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    signer.update(&safes)?;
    let digest = signer.sign_to_vec()?;
    let mac = der::sequence(&[
        &der::sequence(&[
            &der::sequence(&[&der::oid(SHA256), &der::null()]),
            &der::octets(&digest),
        ]),
        &der::octets(&salt),
        &der::integer(ITERATIONS),
    ]);
    Ok(der::sequence(&[&der::integer(3), &data(&safes), &mac]))
}

/// RFC 7292, appendix B.2, for as many bytes as one hash has; ID 3 asks for a MAC's key.
fn mac_key(password: &str, salt: &[u8], iterations: u16) -> Result<Vec<u8>, ErrorStack> {
    const BLOCK: usize = 64;
    // B.1: big-endian UTF-16 with a terminating zero.
    let password: Vec<u8> = password
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_be_bytes)
        .collect();
    let fill = |bytes: &[u8]| -> Vec<u8> {
        let length = bytes.len().div_ceil(BLOCK) * BLOCK;
        bytes.iter().copied().cycle().take(length).collect()
    };
    let input = [vec![3; BLOCK], fill(salt), fill(&password)].concat();
    let mut key = hash(MessageDigest::sha256(), &input)?.to_vec();
    for _ in 1..iterations {
        key = hash(MessageDigest::sha256(), &key)?.to_vec();
    }
    Ok(key)
}
