//! Cookies (RFC 6347 section 4.2.1): who gets one back has shown where it is, and the server has kept nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use chacha20::ChaCha12Rng;
use chacha20::rand_core::Rng as _;
use openssl::memcmp;

use crate::hello::ClientHello;
use crate::prf::hmac;

/// A cookie's bytes. Some constrained clients have room for 32 only.
const LEN: usize = 20;
/// How long a secret is used; the one before it still counts.
const ROTATION: Duration = Duration::from_secs(300);

pub(crate) type Cookie = [u8; LEN];

#[derive(Debug)]
pub(crate) struct Cookies {
    current: Secret,
    previous: Secret,
    since: Option<Instant>,
}

#[derive(Clone)]
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Cookies {
    pub(crate) fn new(rng: &mut ChaCha12Rng) -> Self {
        Self {
            current: fresh(rng),
            previous: fresh(rng),
            since: None,
        }
    }

    pub(crate) fn rotate(&mut self, now: Instant, rng: &mut ChaCha12Rng) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= ROTATION {
            self.previous = std::mem::replace(&mut self.current, fresh(rng));
            self.since = Some(now);
        }
    }

    pub(crate) fn make(&self, from: SocketAddr, hello: &ClientHello<'_>) -> Cookie {
        cookie(&self.current, from, hello)
    }

    pub(crate) fn is_ours(&self, from: SocketAddr, hello: &ClientHello<'_>) -> bool {
        let fits = |secret| memcmp::eq(&cookie(secret, from, hello), hello.cookie);
        hello.cookie.len() == LEN && (fits(&self.current) || fits(&self.previous))
    }
}

fn fresh(rng: &mut ChaCha12Rng) -> Secret {
    let mut secret = Secret([0; 32]);
    rng.fill_bytes(&mut secret.0);
    secret
}

/// The address, and what of the hello has to be the same in the second one.
fn cookie(secret: &Secret, from: SocketAddr, hello: &ClientHello<'_>) -> Cookie {
    let ip = match from.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let lens = [hello.session_id.len() as u8, hello.compressions.len() as u8];
    let mac = hmac(
        &secret.0,
        &[
            &ip,
            &from.port().to_be_bytes(),
            &hello.version,
            hello.random,
            &lens,
            hello.session_id,
            hello.compressions,
            hello.suites,
        ],
    );
    let mut cookie = [0; LEN];
    cookie.copy_from_slice(&mac[..LEN]);
    cookie
}
