//! Who may speak as which endpoint: pre-shared keys, raw public keys and certificates, one credential per endpoint.
//!
//! What comes over REST is kept in a database of its own, `credentials.db` beside the server's store, which only the
//! server's user can read; each change is synced before it is answered. What a credentials file says (`--credentials-file`,
//! [`file`](self::file)) is read at each start, stays in memory, wins over the database and can't be changed over REST.
//!
//! All of it is in memory too, by endpoint, identity and key, so that a handshake asks no disk. Bounds: [`MOST`]
//! credentials, an identity of [`MAX_IDENTITY`] bytes, a key of [`MAX_KEY`] bytes, a certificate of [`MAX_DER`].

mod authority;
mod file;
mod key;
mod server_key;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtls::Identity;
use openssl::sha::sha256;
use parking_lot::RwLock;
use rusqlite::{Connection, params};
use tokio::sync::Notify;

use crate::private_file::private_file;

pub(crate) use authority::{Admission, Believed, TrustedEndpoints};
pub(crate) use file::read_file;
pub(crate) use key::SecretKey;
pub(crate) use server_key::{KeySource, ServerKey};

/// The most credentials that are kept: some 100 MB of memory with certificates, 40 MB with keys.
pub(crate) const MOST: usize = 200_000;
/// The most bytes of a PSK identity (RFC 4279 section 5.3 asks for 128 at least).
pub(crate) const MAX_IDENTITY: usize = 128;
/// The most bytes of a PSK (RFC 4279 section 5.3 asks for 64 at least).
pub(crate) const MAX_KEY: usize = 64;
/// The most bytes of a public key or a certificate.
pub(crate) const MAX_DER: usize = 4_096;

/// How an endpoint shows that it is who it says. `Debug` shows no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A key that both know (RFC 4279).
    PreSharedKey {
        /// What the device names in its handshake: UTF-8 (RFC 4279 section 5.1), unique among the endpoints.
        identity: String,
        key: SecretKey,
    },
    /// The device's public key as SubjectPublicKeyInfo in DER (RFC 7250), unique among the endpoints.
    RawPublicKey { spki: Vec<u8> },
    /// Any certificate of the trust store that names the endpoint (subject CN, or a DNS or URI name of the subject's
    /// alternatives).
    TrustedCertificate,
    /// This very certificate, in DER, and no other; unique among the endpoints.
    PinnedCertificate { der: Vec<u8> },
}

impl Credential {
    /// The word for its kind, as logs have it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::PreSharedKey { .. } => "psk",
            Self::RawPublicKey { .. } => "rpk",
            Self::TrustedCertificate | Self::PinnedCertificate { .. } => "x509",
        }
    }

    fn check(&self) -> Result<(), CredentialError> {
        let bad = |reason: String| Err(CredentialError::Invalid(reason));
        match self {
            Self::PreSharedKey { identity, key } => {
                if identity.is_empty() || identity.len() > MAX_IDENTITY {
                    return bad(format!("the identity has 1 to {MAX_IDENTITY} bytes"));
                }
                if key.is_empty() || key.len() > MAX_KEY {
                    return bad(format!("the key has 1 to {MAX_KEY} bytes"));
                }
                Ok(())
            }
            Self::RawPublicKey { spki } => {
                key::check_public_key(spki).map_err(CredentialError::Invalid)
            }
            Self::TrustedCertificate => Ok(()),
            Self::PinnedCertificate { der } => {
                key::check_certificate(der).map_err(CredentialError::Invalid)
            }
        }
    }

    /// What must be the only one of its kind, with its kind before it.
    fn handle(&self) -> Option<Handle> {
        match self {
            Self::PreSharedKey { identity, .. } => Some(Handle::Identity(identity.clone())),
            Self::RawPublicKey { spki } => Some(Handle::Der(sha256(spki))),
            Self::PinnedCertificate { der } => Some(Handle::Der(sha256(der))),
            Self::TrustedCertificate => None,
        }
    }

    fn columns(&self) -> (i64, &[u8], &[u8]) {
        match self {
            Self::PreSharedKey { identity, key } => (0, identity.as_bytes(), key.expose()),
            Self::RawPublicKey { spki } => (1, spki, &[]),
            Self::TrustedCertificate => (2, &[], &[]),
            Self::PinnedCertificate { der } => (3, der, &[]),
        }
    }

    fn from_columns(kind: i64, public: Vec<u8>, secret: Vec<u8>) -> Result<Self, String> {
        Ok(match kind {
            0 => Self::PreSharedKey {
                identity: String::from_utf8(public).map_err(|_| "the identity is not UTF-8")?,
                key: SecretKey::new(secret),
            },
            1 => Self::RawPublicKey { spki: public },
            2 => Self::TrustedCertificate,
            3 => Self::PinnedCertificate { der: public },
            other => return Err(format!("kind {other} is unknown")),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Handle {
    Identity(String),
    /// The SHA-256 of a public key or a certificate.
    Der([u8; 32]),
}

/// Why a credential can't be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// Something about it is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Another endpoint has it: then nobody could say which of the two speaks.
    #[error("the endpoint '{endpoint}' has the same {what}: give each endpoint its own")]
    InUse {
        /// Who has it.
        endpoint: String,
        /// What it is.
        what: &'static str,
    },
    /// The file rules.
    #[error("the credential of '{0}' comes from the server's credentials file: change it there")]
    FromFile(String),
    /// There is no room.
    #[error("this server keeps {MOST} credentials at most: delete some")]
    Full,
    /// The database does not do it.
    #[error("the credentials' database failed: {0} (is the disk full?)")]
    Database(#[from] rusqlite::Error),
    /// The database can't be opened.
    #[error(
        "can't open the credentials' database {path}: {source} (is the folder writable, and no other server using it?)"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file's mode can't be set.
    #[error("can't keep others from reading {path}: {source}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A row can't be read.
    #[error(
        "the credentials' database holds a credential of '{endpoint}' that can't be read: {reason}"
    )]
    Row {
        /// Whose.
        endpoint: String,
        /// Why not.
        reason: String,
    },
}

/// All credentials; cheap to clone, to be called from anywhere. A change takes a disk's sync: call it where blocking is
/// allowed (`tokio::task::spawn_blocking`), the questions anywhere.
#[derive(Clone)]
pub(crate) struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    state: RwLock<State>,
    /// Writers wait here for the disk, readers don't.
    database: parking_lot::Mutex<Connection>,
    revoked: parking_lot::Mutex<Vec<Revoked>>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    by_endpoint: BTreeMap<String, Kept>,
    by_handle: HashMap<Handle, String>,
}

/// Whose session has to end, since the credential that it was made with does not count any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// That of this identity, by its number.
    Number {
        /// Of the identity.
        number: u64,
        /// Whose it was.
        endpoint: String,
    },
    /// Those whose certificate of the trust store names this endpoint.
    Name(String),
    /// All: there were more than could be kept apart.
    All,
}

/// The most that wait for the doors.
const MOST_REVOKED: usize = 10_000;

struct Kept {
    credential: Arc<Credential>,
    from_file: bool,
}

impl State {
    fn insert(&mut self, endpoint: String, credential: Credential, from_file: bool) {
        self.remove(&endpoint);
        if let Some(handle) = credential.handle() {
            self.by_handle.insert(handle, endpoint.clone());
        }
        let credential = Arc::new(credential);
        self.by_endpoint.insert(
            endpoint,
            Kept {
                credential,
                from_file,
            },
        );
    }

    fn remove(&mut self, endpoint: &str) -> Option<Kept> {
        let kept = self.by_endpoint.remove(endpoint)?;
        if let Some(handle) = kept.credential.handle() {
            self.by_handle.remove(&handle);
        }
        Some(kept)
    }

    /// Refuses what another endpoint has already.
    fn check_unique(&self, endpoint: &str, credential: &Credential) -> Result<(), CredentialError> {
        let holder = credential
            .handle()
            .and_then(|handle| self.by_handle.get(&handle));
        match holder {
            Some(holder) if holder != endpoint => Err(CredentialError::InUse {
                endpoint: holder.clone(),
                what: match credential {
                    Credential::PreSharedKey { .. } => "identity",
                    Credential::RawPublicKey { .. } => "public key",
                    _ => "certificate",
                },
            }),
            _ => Ok(()),
        }
    }
}

impl Credentials {
    /// Opens the database, made if it is not there, and lays the file's credentials over it.
    ///
    /// # Errors
    /// When the database can't be used, or two endpoints have the same credential.
    pub(crate) fn open(
        path: &Path,
        from_file: Vec<(String, Credential)>,
    ) -> Result<Self, CredentialError> {
        let open = |source| CredentialError::Open {
            path: path.to_owned(),
            source,
        };
        make_private(path)?;
        let connection = Connection::open(path).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = DELETE;
                 PRAGMA synchronous = FULL;
                 PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA secure_delete = ON;
                 PRAGMA cache_size = -256;
                 CREATE TABLE IF NOT EXISTS credentials (
                     endpoint TEXT PRIMARY KEY,
                     kind INTEGER NOT NULL,
                     public BLOB NOT NULL,
                     secret BLOB NOT NULL
                 ) WITHOUT ROWID;",
            )
            .map_err(open)?;
        let mut state = State::default();
        {
            let mut statement =
                connection.prepare("SELECT endpoint, kind, public, secret FROM credentials")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let endpoint: String = row.get(0)?;
                let credential = Credential::from_columns(row.get(1)?, row.get(2)?, row.get(3)?)
                    .map_err(|reason| CredentialError::Row {
                        endpoint: endpoint.clone(),
                        reason,
                    })?;
                state.insert(endpoint, credential, false);
            }
        }
        for (endpoint, credential) in from_file {
            check_endpoint(&endpoint)?;
            credential.check()?;
            // An older one of this endpoint gives way, so it can't be what stands in the way.
            if state.remove(&endpoint).is_some_and(|kept| !kept.from_file) {
                tracing::warn!(
                    endpoint,
                    "the credentials file and the database both have a credential of this endpoint: the file's counts, and \
                     the database's will again when the file has none (take it out of the file for one start, and delete it \
                     over REST)"
                );
            }
            state.check_unique(&endpoint, &credential)?;
            state.insert(endpoint, credential, true);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                state: RwLock::new(state),
                database: parking_lot::Mutex::new(connection),
                revoked: parking_lot::Mutex::new(Vec::new()),
                changed: Notify::new(),
            }),
        })
    }

    /// Every endpoint that has a credential, by name.
    pub(crate) fn list(&self) -> Vec<(String, Arc<Credential>)> {
        let state = self.shared.state.read();
        let all = state.by_endpoint.iter();
        all.map(|(endpoint, kept)| (endpoint.clone(), Arc::clone(&kept.credential)))
            .collect()
    }

    /// The credential of an endpoint.
    pub(crate) fn get(&self, endpoint: &str) -> Option<Arc<Credential>> {
        let state = self.shared.state.read();
        state
            .by_endpoint
            .get(endpoint)
            .map(|kept| Arc::clone(&kept.credential))
    }

    /// Keeps a credential in the place of the one that the endpoint had. Sessions under the old one are closed; where there
    /// was none, so is what the endpoint's name alone was enough for.
    ///
    /// # Errors
    /// When it is none that can be used, another endpoint has it, it comes from the file, or the disk refuses.
    pub(crate) fn put(
        &self,
        endpoint: &str,
        credential: Credential,
    ) -> Result<(), CredentialError> {
        check_endpoint(endpoint)?;
        credential.check()?;
        let database = self.shared.database.lock();
        {
            let state = self.shared.state.read();
            state.check_unique(endpoint, &credential)?;
            match state.by_endpoint.get(endpoint) {
                Some(kept) if kept.from_file => {
                    return Err(CredentialError::FromFile(endpoint.to_owned()));
                }
                None if state.by_endpoint.len() >= MOST => return Err(CredentialError::Full),
                _ => {}
            }
        }
        let (kind, public, secret) = credential.columns();
        database
            .prepare_cached("INSERT OR REPLACE INTO credentials VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![endpoint, kind, public, secret])?;
        tracing::info!(endpoint, kind = credential.kind(), "credential kept");
        let before = {
            let mut state = self.shared.state.write();
            let before = state.remove(endpoint);
            state.insert(endpoint.to_owned(), credential, false);
            before
        };
        self.revoke(before.as_ref(), endpoint);
        Ok(())
    }

    /// Forgets the credential of an endpoint, and closes its session; `false` if it had none.
    ///
    /// # Errors
    /// When it comes from the file, or the disk refuses.
    pub(crate) fn delete(&self, endpoint: &str) -> Result<bool, CredentialError> {
        let database = self.shared.database.lock();
        match self.shared.state.read().by_endpoint.get(endpoint) {
            None => return Ok(false),
            Some(kept) if kept.from_file => {
                return Err(CredentialError::FromFile(endpoint.to_owned()));
            }
            Some(_) => {}
        }
        database
            .prepare_cached("DELETE FROM credentials WHERE endpoint = ?1")?
            .execute(params![endpoint])?;
        let before = self.shared.state.write().remove(endpoint);
        self.revoke(before.as_ref(), endpoint);
        Ok(true)
    }

    /// The endpoint and the key behind a PSK identity.
    pub(crate) fn by_identity(&self, identity: &str) -> Option<(String, SecretKey)> {
        let state = self.shared.state.read();
        let endpoint = state
            .by_handle
            .get(&Handle::Identity(identity.to_owned()))?;
        match &*state.by_endpoint.get(endpoint)?.credential {
            Credential::PreSharedKey { key, .. } => Some((endpoint.clone(), key.clone())),
            _ => None,
        }
    }

    /// The endpoint that a raw public key (SubjectPublicKeyInfo) or a pinned certificate belongs to, both in DER.
    pub(crate) fn by_der(&self, der: &[u8]) -> Option<String> {
        let state = self.shared.state.read();
        state.by_handle.get(&Handle::Der(sha256(der))).cloned()
    }

    /// Ends when [`Credentials::take_revoked`] has something. For one waiter, the doors. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whose sessions have to end, and who may not be registered any more without one.
    pub(crate) fn take_revoked(&self) -> Vec<Revoked> {
        std::mem::take(&mut self.shared.revoked.lock())
    }

    fn revoke(&self, kept: Option<&Kept>, endpoint: &str) {
        let endpoint = endpoint.to_owned();
        let identity = match kept.map(|kept| &*kept.credential) {
            Some(Credential::PreSharedKey { identity, .. }) => {
                Some(Identity::Psk(identity.clone().into_bytes()))
            }
            Some(Credential::RawPublicKey { spki }) => Some(Identity::RawPublicKey(spki.clone())),
            Some(Credential::PinnedCertificate { der }) => Some(Identity::Certificate(der.clone())),
            // Where there was none its name was enough: that of a certificate, or one that came without security.
            Some(Credential::TrustedCertificate) | None => None,
        };
        let one = match identity.map(|identity| identity.number()) {
            Some(number) => Revoked::Number { number, endpoint },
            None => Revoked::Name(endpoint),
        };
        let mut revoked = self.shared.revoked.lock();
        if revoked.len() >= MOST_REVOKED {
            *revoked = vec![Revoked::All];
        }
        revoked.push(one);
        drop(revoked);
        self.shared.changed.notify_one();
    }
}

/// As for a registration (TS 1.1 core, section 6.2.1).
fn check_endpoint(endpoint: &str) -> Result<(), CredentialError> {
    if endpoint.is_empty() || endpoint.len() > 128 || endpoint.chars().any(char::is_control) {
        let reason = "an endpoint name has 1 to 128 bytes, and no control characters";
        return Err(CredentialError::Invalid(reason.to_owned()));
    }
    Ok(())
}

/// The file holds keys: it is made so that only its owner can read it.
fn make_private(path: &Path) -> Result<(), CredentialError> {
    private_file(path).map_err(|source| CredentialError::Mode {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
