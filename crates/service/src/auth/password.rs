//! Passwords as Argon2id hashes.

use std::str::FromStr;
use std::sync::LazyLock;

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};

use crate::Secret;

/// 7 MiB, five passes, one lane: one of the settings that OWASP holds to be of equal strength, and the one that needs
/// least memory, which a gateway has little of. 12 ms on a 2024 server core, some 60 ms on a small ARM one.
const MEMORY_KIB: u32 = 7 * 1024;
const PASSES: u32 = 5;
/// The most memory that a hash of the file may ask for, and the most work in KiB written.
const MOST_MEMORY_KIB: u32 = 64 * 1024;
const MOST_WORK: u64 = 512 * 1024;
/// The most bytes of a password; a longer one would be a way to make work.
pub(super) const LONGEST: usize = 1_024;
/// The fewest characters of a new password.
const SHORTEST: usize = 8;

/// Why a password or its hash can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short, or too long.
    #[error("a password has at least {SHORTEST} characters and at most {LONGEST} bytes")]
    Length,
    /// No Argon2id hash, or one that costs too much.
    #[error(
        "a password's hash begins with $argon2id$, and asks for 64 MiB at most; `zeelos users hash` makes it (a client \
         certificate of that name is said by the word certificate)"
    )]
    Hash,
}

static ARGON: LazyLock<Argon2<'static>> = LazyLock::new(|| {
    let params =
        Params::new(MEMORY_KIB, PASSES, 1, None).expect("the constants are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
});

/// What is verified against for a user who does not exist, so that the time does not tell.
static NOBODY: LazyLock<PasswordHash> = LazyLock::new(|| {
    let nothing = Secret::new(super::entries::hex(&rand::random::<[u8; 32]>()));
    hash_password(&nothing)
        .and_then(|hash| hash.parse())
        .expect("a random password of fit length has a hash")
});

/// Hashes a password with a new salt, in the PHC string format.
pub(super) fn hash_password(password: &Secret) -> Result<String, PasswordError> {
    let password = password.expose();
    if password.chars().count() < SHORTEST || password.len() > LONGEST {
        return Err(PasswordError::Length);
    }
    let salt: [u8; 16] = rand::random();
    let hash: phc::PasswordHash = ARGON
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|_| PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// A password's hash of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PasswordHash(phc::PasswordHash);

impl PasswordHash {
    /// Of a user who does not exist.
    pub(super) fn of_nobody() -> Self {
        NOBODY.clone()
    }

    /// Whether this is the password; compares in constant time. It takes as long as the hash asks for.
    pub(super) fn is_of(&self, password: &Secret) -> bool {
        ARGON
            .verify_password(password.expose().as_bytes(), &self.0)
            .is_ok()
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordError;
    fn from_str(text: &str) -> Result<Self, PasswordError> {
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordError::Hash)?;
        let params = Params::try_from(&hash).map_err(|_| PasswordError::Hash)?;
        let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
        let fits = text.starts_with("$argon2id$")
            && hash.hash.is_some()
            && hash.salt.is_some()
            && params.m_cost() <= MOST_MEMORY_KIB
            && work <= MOST_WORK;
        fits.then_some(Self(hash)).ok_or(PasswordError::Hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let right = Secret::new("correct horse");
        let hash = hash_password(&right).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{hash}");
        assert_ne!(hash, hash_password(&right).unwrap());
        let hash: PasswordHash = hash.parse().unwrap();
        assert!(hash.is_of(&right));
        assert!(!hash.is_of(&Secret::new("correct horses")));
        assert!(!hash.is_of(&Secret::new("")));
        assert!(!PasswordHash::of_nobody().is_of(&right));
    }

    #[test]
    fn hashes_of_other_programs_are_read_as_long_as_they_are_bounded() {
        // Made by the reference implementation's command line: `echo -n password | argon2 somesalt -id -t 2 -k 16 -p 1`
        // has this form; what counts here is that the parameters of the file are used, and bounded.
        let asks = |m: u32, t: u32| {
            format!("$argon2id$v=19$m={m},t={t},p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI")
                .parse::<PasswordHash>()
        };
        assert!(asks(16, 2).is_ok());
        assert!(asks(65_536, 3).is_ok());
        assert_eq!(asks(65_537, 1), Err(PasswordError::Hash));
        assert_eq!(asks(65_536, 9), Err(PasswordError::Hash));
        for text in [
            "",
            "hunter2",
            "$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe",
            "$argon2id$v=19$m=16,t=2,p=1$c29tZXNhbHQ",
            "$argon2i$v=19$m=16,t=2,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI",
        ] {
            assert!(text.parse::<PasswordHash>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_password_is_neither_short_nor_endless() {
        assert_eq!(
            hash_password(&Secret::new("1234567")),
            Err(PasswordError::Length)
        );
        let endless = Secret::new("x".repeat(LONGEST + 1));
        assert_eq!(hash_password(&endless), Err(PasswordError::Length));
    }
}
