//! HMAC and the pseudorandom function (RFC 5246 section 5), and the secrets made with it.

use openssl::sha::Sha256;

/// HMAC-SHA256 (RFC 2104) over the parts, one after the other.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&openssl::sha::sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new();
    inner.update(&block.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    let mut outer = Sha256::new();
    outer.update(&block.map(|byte| byte ^ 0x5c));
    outer.update(&inner.finish());
    outer.finish()
}

/// PRF(secret, label, seed), as many bytes as `out` has.
pub(crate) fn prf(secret: &[u8], label: &str, seed: &[&[u8]], out: &mut [u8]) {
    let mut labelled: Vec<&[u8]> = Vec::with_capacity(seed.len() + 2);
    labelled.push(label.as_bytes());
    labelled.extend_from_slice(seed);
    let mut a = hmac(secret, &labelled);
    for chunk in out.chunks_mut(32) {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(labelled.len() + 1);
        parts.push(&a);
        parts.extend_from_slice(&labelled);
        let block = hmac(secret, &parts);
        chunk.copy_from_slice(&block[..chunk.len()]);
        a = hmac(secret, &[&a]);
    }
}

/// What all keys of a session come from.
pub(crate) type MasterSecret = [u8; 48];

/// With the extended master secret (RFC 7627) the seed is the hash of the handshake, else both randoms.
pub(crate) fn master_secret(
    premaster: &[u8],
    session_hash: Option<&[u8; 32]>,
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> MasterSecret {
    let mut master = [0; 48];
    match session_hash {
        Some(hash) => prf(premaster, "extended master secret", &[hash], &mut master),
        None => prf(
            premaster,
            "master secret",
            &[client_random, server_random],
            &mut master,
        ),
    }
    master
}

/// The body of a Finished message.
pub(crate) fn verify_data(master: &MasterSecret, client: bool, transcript: &[u8]) -> [u8; 12] {
    let label = if client {
        "client finished"
    } else {
        "server finished"
    };
    let mut data = [0; 12];
    prf(
        master,
        label,
        &[&openssl::sha::sha256(transcript)],
        &mut data,
    );
    data
}

/// The premaster secret of the PSK suites (RFC 4279 section 2, RFC 5489 section 2).
pub(crate) fn psk_premaster(psk: &[u8], shared: Option<&[u8]>) -> Vec<u8> {
    let zeros = vec![0; psk.len()];
    let other = shared.unwrap_or(&zeros);
    let mut premaster = Vec::with_capacity(4 + other.len() + psk.len());
    crate::wire::put_vec16(&mut premaster, other);
    crate::wire::put_vec16(&mut premaster, psk);
    premaster
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let mac = hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
        // Test case 6: a key longer than a block.
        let mac = hmac(
            &[0xaa; 131],
            &[b"Test Using Larger Than Block-Size Key - Hash Key First"],
        );
        assert_eq!(mac[..8], [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]);
    }

    /// A vector that the TLS working group's list has had since 2009, for P_SHA256.
    #[test]
    fn the_prf_has_the_known_vector() {
        let secret = 0x9bbe_436b_a940_f017_b176_5284_9a71_db35_u128.to_be_bytes();
        let seed = 0xa0ba_9f93_6cda_3118_27a6_f796_ffd5_198c_u128.to_be_bytes();
        let mut out = [0; 100];
        prf(&secret, "test label", &[&seed], &mut out);
        let begin = 0xe3f2_29ba_727b_e17b_8d12_2620_557c_d453_u128.to_be_bytes();
        let then = 0xc2aa_b21d_07c3_d495_329b_52d4_e61e_db5a_u128.to_be_bytes();
        assert_eq!(out[..16], begin);
        assert_eq!(out[16..32], then);
    }
}
