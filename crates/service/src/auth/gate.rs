use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::sign::Signer;
use tokio::sync::{Semaphore, watch};

use super::entries::{Contents, Directory, Files, User};
use super::failures::{Failures, Source};
use super::password::{LONGEST, PasswordHash};
use super::sessions::{self, Sessions};
use super::{AuthArgs, AuthError, Role};
use crate::seldom::Seldom;
use crate::{CancellationToken, Secret};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The most passwords that wait to be hashed.
const WAITING: usize = 16;
/// How much longer than its hashing a wrong password keeps the place.
const PENALTY: u32 = 3;
/// The most verified passwords remembered, and for how long.
const VERIFIED: usize = 1_024;
const VERIFIED_FOR: Duration = Duration::from_secs(600);
/// How often a stream looks whether its session still stands: it ends by time too.
const STANDS: Duration = Duration::from_secs(60);

/// Somebody who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's or token's name; `None` where nobody has to say who they are.
    pub name: Option<String>,
    pub role: Role,
    by: By,
}

/// What let somebody in.
#[derive(Clone, PartialEq, Eq)]
enum By {
    /// Everything is open.
    Nothing,
    Certificate,
    Password(Box<PasswordHash>),
    Session([u8; 32]),
    Token([u8; 32]),
}

/// Without what it was: this gets into logs.
impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Certificate => "certificate",
            Self::Password(_) => "password",
            Self::Session(_) => "session",
            Self::Token(_) => "token",
        })
    }
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was said that could be checked.
    #[error(
        "log in: this takes a user and password (Basic), a token (Bearer), a client certificate, or a session of the \
         page"
    )]
    Unknown,
    /// It was wrong. Not told: whether there is such a user.
    #[error("the user, password or token is wrong")]
    Wrong,
    /// Too many failures from there.
    #[error("too many failed logins from this address: try again in {} s", retry_after.as_secs().max(1))]
    TooMany {
        /// When the next attempt counts.
        retry_after: Duration,
    },
    /// Too many logins at once, from anywhere.
    #[error("too many logins at this moment: try again in a second")]
    Busy,
}

/// A user who logged in over a page.
#[derive(Clone, Debug)]
pub struct Login {
    pub caller: Caller,
    /// What the browser keeps as its cookie.
    pub session: Secret,
}

/// What a request says about who makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    Token(Secret),
    Password {
        user: String,
        password: Secret,
    },
    Session(Secret),
    /// The common name of a certificate that the listener has checked.
    Certificate(String),
    /// Something that can't be understood.
    Other,
}

/// Decides who may come in; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    /// `None`: everybody may do everything.
    closed: Option<Closed>,
    changed: watch::Sender<u64>,
    refusals: Seldom,
}

struct Closed {
    files: Files,
    /// What the directory was made of.
    contents: Mutex<Contents>,
    directory: Mutex<Arc<Directory>>,
    sessions: Mutex<Sessions>,
    failures: Mutex<Failures>,
    verified: Mutex<Verified>,
    /// Of digests in memory; new with each start.
    key: [u8; 32],
    place: Semaphore,
    waiting: AtomicUsize,
}

impl AuthArgs {
    /// The gate of an interface that listens there, by the option of that name.
    ///
    /// # Errors
    /// When a file can't be used, or when others could come in without saying who they are and nobody wanted that.
    pub fn gate(&self, listen: SocketAddr, option: &str) -> Result<Gate, AuthError> {
        let files = Files {
            users: self.users_file.clone(),
            tokens: self.tokens_file.clone(),
        };
        if files.users.is_none() && files.tokens.is_none() {
            if !self.web_open && !listen.ip().to_canonical().is_loopback() {
                return Err(AuthError::Open {
                    listen,
                    option: option.to_owned(),
                });
            }
            return Ok(Gate::open());
        }
        let contents = files.read()?;
        let directory = files.parse(&contents)?;
        if directory.is_empty() {
            tracing::warn!(
                "the files of users and tokens have no entry: nobody can use the interface"
            );
        }
        Ok(Gate::new(Some(Closed {
            files,
            contents: Mutex::new(contents),
            directory: Mutex::new(Arc::new(directory)),
            sessions: Mutex::default(),
            failures: Mutex::default(),
            verified: Mutex::default(),
            key: rand::random(),
            place: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        })))
    }
}

impl Gate {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Self::new(None)
    }

    fn new(closed: Option<Closed>) -> Self {
        let changed = watch::channel(0).0;
        Self(Arc::new(Inner {
            closed,
            changed,
            refusals: Seldom::default(),
        }))
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.0.closed.is_none()
    }

    /// Follows the files until told to stop: what changes in them counts two seconds later. A file that can't be used is
    /// warned about, and the entries before it stay.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let Some(closed) = &self.0.closed else {
            return shutdown.cancelled().await;
        };
        let mut told = String::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            match closed.read_again() {
                Ok(false) => told.clear(),
                Ok(true) => {
                    told.clear();
                    tracing::info!("users and tokens were read again");
                    self.0.changed.send_modify(|version| *version += 1);
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(error, "users and tokens stay as they were");
                        told = error;
                    }
                }
            }
        }
    }

    /// Ends when what let this caller in does not count any more: a logout, a session's end, a change in the files. A
    /// stream that goes on for hours ends with it.
    pub async fn shut_out(&self, caller: &Caller) {
        let mut changed = self.0.changed.subscribe();
        loop {
            let counts = match &self.0.closed {
                Some(closed) => closed.still_counts(caller),
                None => return std::future::pending().await,
            };
            if !counts {
                return;
            }
            // The sender is this gate's own: it does not end before.
            let _ = tokio::time::timeout(STANDS, changed.changed()).await;
        }
    }

    /// Whether to log that somebody was refused, and how many before were not.
    pub(super) fn tells_refusal(&self) -> Option<u64> {
        self.0.refusals.turn(Instant::now())
    }

    /// Who makes a request that comes from there and says this.
    pub(super) async fn caller(
        &self,
        credentials: Option<Credentials>,
        from: IpAddr,
    ) -> Result<Caller, Denied> {
        let Some(closed) = &self.0.closed else {
            return Ok(Caller {
                name: None,
                role: Role::Admin,
                by: By::Nothing,
            });
        };
        match credentials.ok_or(Denied::Unknown)? {
            Credentials::Session(id) => closed.of_session(&id).ok_or(Denied::Unknown),
            Credentials::Token(token) => match closed.of_token(&token) {
                Some(caller) => Ok(caller),
                None => Err(closed.failed(from, Denied::Wrong)),
            },
            Credentials::Password { user, password } => closed
                .of_password(&user, &password, from)
                .await
                .map(|(caller, _)| caller),
            Credentials::Certificate(name) => closed.of_certificate(name).ok_or(Denied::Unknown),
            Credentials::Other => Err(closed.failed(from, Denied::Unknown)),
        }
    }

    /// Logs a user in over a page.
    ///
    /// # Errors
    /// As for any request with that user and password; [`Denied::Unknown`] where everything is open.
    pub async fn login(
        &self,
        user: &str,
        password: &Secret,
        from: IpAddr,
    ) -> Result<Login, Denied> {
        let closed = self.0.closed.as_ref().ok_or(Denied::Unknown)?;
        let (caller, hash) = closed.of_password(user, password, from).await?;
        let session = lock(&closed.sessions).start(user, hash, Instant::now());
        Ok(Login {
            caller,
            session: Secret::new(session),
        })
    }

    /// Ends a session.
    pub fn logout(&self, session: &Secret) {
        if let Some(closed) = &self.0.closed {
            lock(&closed.sessions).end(session.expose());
            self.0.changed.send_modify(|version| *version += 1);
        }
    }
}

impl Closed {
    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&lock(&self.directory))
    }

    fn read_again(&self) -> Result<bool, AuthError> {
        let now = self.files.read()?;
        if now == *lock(&self.contents) {
            return Ok(false);
        }
        *lock(&self.directory) = Arc::new(self.files.parse(&now)?);
        *lock(&self.contents) = now;
        Ok(true)
    }

    fn of_session(&self, id: &Secret) -> Option<Caller> {
        let (name, hash) = lock(&self.sessions).user(id.expose(), Instant::now())?;
        let directory = self.directory();
        let user = directory
            .users
            .get(&name)
            .filter(|user| user.hash == hash)?;
        Some(Caller {
            name: Some(name),
            role: user.role,
            by: By::Session(sessions::key(id.expose())),
        })
    }

    fn of_certificate(&self, name: String) -> Option<Caller> {
        let role = *self.directory().certificates.get(&name)?;
        Some(Caller {
            name: Some(name),
            role,
            by: By::Certificate,
        })
    }

    /// Whether what let a caller in lets in still, as the same and with the same role.
    fn still_counts(&self, caller: &Caller) -> bool {
        let directory = self.directory();
        let name = caller.name.as_deref().unwrap_or_default();
        let user = |hash: &PasswordHash| {
            let user = directory.users.get(name);
            user.filter(|user| user.hash == *hash).map(|user| user.role)
        };
        let role = match &caller.by {
            By::Nothing => None,
            By::Certificate => directory.certificates.get(name).copied(),
            By::Password(hash) => user(hash),
            By::Session(key) => {
                let now = Instant::now();
                lock(&self.sessions).made_with(key, now).and_then(user)
            }
            By::Token(digest) => directory
                .tokens
                .iter()
                .find(|token| token.name == name && token.digest == *digest)
                .map(|token| token.role),
        };
        role == Some(caller.role)
    }

    /// All are compared, each in constant time: a thousand take some 20 µs.
    fn of_token(&self, token: &Secret) -> Option<Caller> {
        let digest = sha256(token.expose().as_bytes());
        let directory = self.directory();
        let mut found = None;
        for token in &directory.tokens {
            if openssl::memcmp::eq(&token.digest, &digest) {
                found = Some(token);
            }
        }
        found.map(|token| Caller {
            name: Some(token.name.clone()),
            role: token.role,
            by: By::Token(digest),
        })
    }

    async fn of_password(
        &self,
        name: &str,
        password: &Secret,
        from: IpAddr,
    ) -> Result<(Caller, PasswordHash), Denied> {
        if password.expose().len() > LONGEST {
            return Err(self.failed(from, Denied::Wrong));
        }
        let directory = self.directory();
        let user = directory.users.get(name);
        let digest = self.digest(from, name, password);
        let caller = |user: &User| Caller {
            name: Some(name.to_owned()),
            role: user.role,
            by: By::Password(Box::new(user.hash.clone())),
        };
        if let (Some(user), Some(digest)) = (user, digest)
            && lock(&self.verified).holds(&digest, &user.hash, Instant::now())
        {
            return Ok((caller(user), user.hash.clone()));
        }
        let source = Source::from(from);
        lock(&self.failures)
            .attempt(source, Instant::now())
            .map_err(|retry_after| Denied::TooMany { retry_after })?;
        let hash = match user {
            Some(user) => user.hash.clone(),
            None => PasswordHash::of_nobody(),
        };
        let right = self.verify(hash, password.clone()).await;
        if right != Ok(false) {
            // Nobody is at fault who could not even be asked.
            lock(&self.failures).forgive(source, Instant::now());
        }
        match user.filter(|_| right == Ok(true)) {
            Some(user) => {
                if let Some(digest) = digest {
                    lock(&self.verified).put(digest, user.hash.clone(), Instant::now());
                }
                Ok((caller(user), user.hash.clone()))
            }
            None => Err(right.err().unwrap_or(Denied::Wrong)),
        }
    }

    /// Whether it is the password, one at a time.
    async fn verify(&self, hash: PasswordHash, password: Secret) -> Result<bool, Denied> {
        let waits = Waits::new(&self.waiting).ok_or(Denied::Busy)?;
        let place = self.place.acquire().await.map_err(|_| Denied::Busy)?;
        drop(waits);
        let begun = Instant::now();
        let right = tokio::task::spawn_blocking(move || hash.is_of(&password))
            .await
            .map_err(|_| Denied::Busy)?;
        if !right {
            tokio::time::sleep(begun.elapsed() * PENALTY).await;
        }
        drop(place);
        Ok(right)
    }

    /// Counts a failure that took no hashing.
    fn failed(&self, from: IpAddr, denied: Denied) -> Denied {
        match lock(&self.failures).attempt(Source::from(from), Instant::now()) {
            Ok(()) => denied,
            Err(retry_after) => Denied::TooMany { retry_after },
        }
    }

    /// What a user and a password are remembered by, for where they came from: to anybody else a remembered password
    /// would be one to be guessed without an attempt being counted.
    fn digest(&self, from: IpAddr, user: &str, password: &Secret) -> Option<[u8; 32]> {
        let from = match from.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let key = PKey::hmac(&self.key).ok()?;
        let mut signer = Signer::new(MessageDigest::sha256(), &key).ok()?;
        // An address has 16 bytes, and a user's name no zero byte.
        for part in [
            &from.octets()[..],
            user.as_bytes(),
            &[0],
            password.expose().as_bytes(),
        ] {
            signer.update(part).ok()?;
        }
        signer.sign_to_vec().ok()?.try_into().ok()
    }
}

/// One that waits, for as long as it does.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Self(waiting);
        (before < WAITING).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Passwords that were right a short time ago, each from one address, so that a program that says its password with each call does not pay
/// for the hashing with each.
#[derive(Default)]
struct Verified {
    by_digest: HashMap<[u8; 32], (PasswordHash, Instant)>,
    in_order: VecDeque<([u8; 32], Instant)>,
}

impl Verified {
    fn holds(&self, digest: &[u8; 32], hash: &PasswordHash, now: Instant) -> bool {
        self.by_digest
            .get(digest)
            .is_some_and(|(of, at)| of == hash && now.saturating_duration_since(*at) < VERIFIED_FOR)
    }

    fn put(&mut self, digest: [u8; 32], hash: PasswordHash, now: Instant) {
        self.by_digest.insert(digest, (hash, now));
        self.in_order.push_back((digest, now));
        while self.in_order.len() > VERIFIED {
            if let Some((oldest, at)) = self.in_order.pop_front()
                && self.by_digest.get(&oldest).is_some_and(|(_, of)| *of == at)
            {
                self.by_digest.remove(&oldest);
            }
        }
    }
}

/// Nothing panics while one is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
