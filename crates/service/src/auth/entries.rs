//! Files of users and of tokens: `name:role:hash`, one a line; empty lines and those with `#` in front are passed over.
//! A user whose hash is the word `certificate` has no password: a client certificate with that common name is the login.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use openssl::sha::sha256;

use super::password::{PasswordError, PasswordHash, hash_password};
use super::{AuthError, NoRole, Role};
use crate::Secret;

/// The most bytes of a file.
const FILE_LIMIT: u64 = 1024 * 1024;
/// The most entries of a file.
const ENTRIES: usize = 10_000;
/// What a token's hash begins with.
const SHA_256: &str = "sha256$";
/// What stands in the hash's place where a client certificate is the login.
const CERTIFICATE: &str = "certificate";
/// What a token begins with, so that one that got lost is recognised as one.
const TOKEN: &str = "zlt_";

/// What is wrong with an entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// It does not have three parts.
    #[error("it has to be name:role:hash")]
    Parts,
    /// The first part.
    #[error(
        "a name has 1 to 64 letters, digits and any of the characters dot, underscore, hyphen and @"
    )]
    Name,
    /// The second part.
    #[error(transparent)]
    Role(#[from] NoRole),
    /// The third part, of a user.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The third part, of a token.
    #[error("a token's hash is sha256$ and 64 hexadecimal digits; `zeelos token new` makes it")]
    Token,
    /// The name stands in the file before.
    #[error("the name is there twice")]
    Twice,
    /// The file is not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The file is too long.
    #[error("the file has more than {ENTRIES} entries, or more than {FILE_LIMIT} bytes")]
    TooMany,
}

/// The name of a user or a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = EntryError;
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        if (1..=64).contains(&text.len()) && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(EntryError::Name)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's line for the file of users. Takes some 12 ms.
///
/// # Errors
/// When the password can't be one.
pub fn user_entry(name: &Name, role: Role, password: &Secret) -> Result<String, PasswordError> {
    Ok(format!("{name}:{role}:{}", hash_password(password)?))
}

/// A new token, and its line for the file of tokens; the token itself is kept nowhere.
pub fn token_entry(name: &Name, role: Role) -> (Secret, String) {
    let token = format!("{TOKEN}{}", hex(&rand::random::<[u8; 32]>()));
    let line = format!("{name}:{role}:{SHA_256}{}", hex(&sha256(token.as_bytes())));
    (Secret::new(token), line)
}

/// Who may come in, as the files say.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) users: HashMap<String, User>,
    pub(super) tokens: Vec<Token>,
    /// What the certificates with these common names let do.
    pub(super) certificates: HashMap<String, Role>,
}

impl Directory {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty() && self.certificates.is_empty()
    }
}

pub(super) struct User {
    pub(super) role: Role,
    pub(super) hash: PasswordHash,
}

pub(super) struct Token {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) digest: [u8; 32],
}

/// The files of users and of tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) users: Option<PathBuf>,
    pub(super) tokens: Option<PathBuf>,
}

/// What stands in the files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    users: Vec<u8>,
    tokens: Vec<u8>,
}

const USERS: &str = "--users-file";
const TOKENS: &str = "--tokens-file";

impl Files {
    pub(super) fn read(&self) -> Result<Contents, AuthError> {
        Ok(Contents {
            users: read(self.users.as_deref(), USERS)?,
            tokens: read(self.tokens.as_deref(), TOKENS)?,
        })
    }

    pub(super) fn parse(&self, contents: &Contents) -> Result<Directory, AuthError> {
        let mut directory = Directory::default();
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        each(
            &contents.users,
            (path(&self.users), USERS),
            |name, role, hash| {
                let known = &directory;
                if known.users.contains_key(&name.0) || known.certificates.contains_key(&name.0) {
                    return Err(EntryError::Twice);
                }
                if hash == CERTIFICATE {
                    directory.certificates.insert(name.0, role);
                } else {
                    let hash = hash.parse()?;
                    directory.users.insert(name.0, User { role, hash });
                }
                Ok(())
            },
        )?;
        let mut names = std::collections::HashSet::new();
        each(
            &contents.tokens,
            (path(&self.tokens), TOKENS),
            |name, role, hash| {
                let digest = hash.strip_prefix(SHA_256).and_then(from_hex);
                let digest = digest.ok_or(EntryError::Token)?;
                if !names.insert(name.0.clone()) {
                    return Err(EntryError::Twice);
                }
                directory.tokens.push(Token {
                    name: name.0,
                    role,
                    digest,
                });
                Ok(())
            },
        )?;
        Ok(directory)
    }
}

fn read(path: Option<&Path>, option: &'static str) -> Result<Vec<u8>, AuthError> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|source| AuthError::Read {
            path: path.to_owned(),
            option,
            source,
        })?;
    Ok(bytes)
}

fn each(
    bytes: &[u8],
    (path, option): (PathBuf, &'static str),
    mut take: impl FnMut(Name, Role, &str) -> Result<(), EntryError>,
) -> Result<(), AuthError> {
    let wrong = |line: usize, reason| AuthError::Entry {
        path: path.clone(),
        option,
        line,
        reason,
    };
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(wrong(1, EntryError::TooMany));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(1, EntryError::NotText))?;
    let mut entries = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        entries += 1;
        let mut entry = || {
            if entries > ENTRIES {
                return Err(EntryError::TooMany);
            }
            let mut parts = line.splitn(3, ':');
            let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next())
            else {
                return Err(EntryError::Parts);
            };
            take(name.parse()?, role.parse()?, hash)
        };
        entry().map_err(|reason| wrong(index + 1, reason))?;
    }
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from(digit(2 * index)? * 16 + digit(2 * index + 1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<Directory, String> {
        let contents = Contents {
            users: text.as_bytes().to_vec(),
            tokens: Vec::new(),
        };
        Files::default()
            .parse(&contents)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_of_users_is_read_line_by_line_and_a_wrong_line_is_named_without_its_text() {
        let line = |name: &str, role| {
            user_entry(&name.parse().unwrap(), role, &Secret::new("correct horse")).unwrap()
        };
        let (ann, bob) = (line("ann", Role::Admin), line("bob@site", Role::Read));
        let directory = users(&format!("# who may\n\n{ann}\r\n  {bob}\n"))
            .ok()
            .unwrap();
        assert_eq!(directory.users.len(), 2);
        assert_eq!(directory.users["ann"].role, Role::Admin);
        assert!(directory.certificates.is_empty());

        let by_certificate = "client-cloud:operate:certificate";
        let directory = users(by_certificate).ok().unwrap();
        assert!(directory.users.is_empty());
        assert_eq!(directory.certificates["client-cloud"], Role::Operate);

        let cases = [
            ("hunter2".to_owned(), "line 1: it has to be name:role:hash"),
            (format!("{ann}\n{ann}"), "line 2: the name is there twice"),
            (
                format!("{ann}\nann:read:certificate"),
                "line 2: the name is there twice",
            ),
            (
                "ann:read:certificates".to_owned(),
                "line 1: a password's hash",
            ),
            ("ann:root:x".to_owned(), "line 1: a role is"),
            ("an n:read:x".to_owned(), "line 1: a name has"),
            ("ann:read:hunter2".to_owned(), "line 1: a password's hash"),
        ];
        for (text, expected) in cases {
            let error = users(&text).err().unwrap();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_new_token_is_found_by_its_line() {
        let (token, line) = token_entry(&"ci".parse().unwrap(), Role::Operate);
        assert!(!line.contains(token.expose()));
        let contents = Contents {
            users: Vec::new(),
            tokens: line.into_bytes(),
        };
        let directory = Files::default().parse(&contents).ok().unwrap();
        assert_eq!(
            directory.tokens[0].digest,
            sha256(token.expose().as_bytes())
        );
        let contents = Contents {
            users: Vec::new(),
            tokens: b"ci:read:sha256$abc".to_vec(),
        };
        assert!(Files::default().parse(&contents).is_err());
    }
}
