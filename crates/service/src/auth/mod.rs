//! Who may use a service's HTTP interface: users with passwords, bearer tokens, and what each may do.
//!
//! On loopback without users or tokens everybody may do everything. Beyond loopback a service does not start like that,
//! unless it is told to (`--web-open`).
//!
//! ```text
//! client certificate        the listener has checked it; its name is looked up      microseconds
//! Authorization: Bearer …   a token's SHA-256 is looked up                        microseconds
//! Authorization: Basic …    verified before from there: a digest is looked up     microseconds
//!                           else Argon2id, one at a time                          12 ms and 7 MiB each
//! Cookie: zeelos_session_…  a session's SHA-256 is looked up (login of a page)    microseconds
//! ```
//!
//! # What a flood of wrong passwords costs
//! Each source (an IPv4 address, an IPv6 /64) has ten failures, and gets one back every 30 seconds; beyond them it is
//! answered 429 without any hashing, and only tokens, sessions and passwords that were verified before from that very
//! address still pass. From many sources at once: one password is hashed at a time, and a wrong one keeps that place for
//! three more times what it took, so wrong passwords get at most a quarter of one core. Sixteen more wait; beyond them
//! the answer is 503 at once.

mod entries;
mod failures;
mod foreign;
mod gate;
mod http;
mod password;
mod sessions;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::Method;

pub use entries::{EntryError, Name, token_entry, user_entry};
pub use gate::{Caller, Denied, Gate, Login};
pub use http::{Policy, Protection};
pub use password::PasswordError;

/// The options of a service's HTTP interface that say who may use it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AuthArgs {
    /// A file of users, one `name:role:hash` a line; `zeelos users hash` makes such a line, and
    /// `name:role:certificate` is a client certificate with that common name
    #[arg(long, env = "ZEELOS_USERS_FILE", value_name = "FILE")]
    pub users_file: Option<PathBuf>,
    /// A file of bearer tokens, one `name:role:hash` a line; `zeelos token new` makes such a line
    #[arg(long, env = "ZEELOS_TOKENS_FILE", value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
    /// Let everybody who can reach the HTTP interface use it, also beyond this machine
    #[arg(long, env = "ZEELOS_WEB_OPEN", conflicts_with_all = ["users_file", "tokens_file"])]
    pub web_open: bool,
}

/// What a caller may do; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look: what is there and what it says.
    Read,
    /// Act: what changes devices or connectors.
    Operate,
    /// Rule: who may connect, and with which credentials.
    Admin,
}

impl Role {
    /// What a method takes that is for nobody in particular: to look, or to act.
    pub fn to_call(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Read,
            _ => Self::Operate,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is read, operate or admin")]
pub struct NoRole;

impl FromStr for Role {
    type Err = NoRole;
    fn from_str(word: &str) -> Result<Self, NoRole> {
        match word {
            "read" => Ok(Self::Read),
            "operate" => Ok(Self::Operate),
            "admin" => Ok(Self::Admin),
            _ => Err(NoRole),
        }
    }
}

/// Why a service's HTTP interface can't be served as it was configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Nobody said who may use it, and others than this machine's users could reach it.
    #[error(
        "{listen} ({option}) can be reached from other machines, and nobody would have to log in there: give \
         --users-file or --tokens-file (`zeelos users hash` and `zeelos token new` make their lines), or --web-open \
         where everybody on that network may do everything"
    )]
    Open {
        /// Where it would have listened.
        listen: SocketAddr,
        /// The option that says so.
        option: String,
    },
    /// A file is not readable.
    #[error("can't read {path}, named by {option}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file has an entry that is none. The line itself is not told: it may hold a secret.
    #[error("{path}, named by {option}: line {line}: {reason}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// From 1 on.
        line: usize,
        /// What is wrong with it.
        reason: EntryError,
    },
}
