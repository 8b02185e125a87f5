use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};

use super::{Loaded, TlsError, TlsFiles};

/// The files of one end of TLS, loaded, and loaded again when they change. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: Arc<Loaded>,
    /// What `loaded` was made of, or what could not be used in its place.
    seen: Vec<Stamp>,
    /// Other files were there the last time: they are taken when they are the same the next time.
    next: Option<Vec<Stamp>>,
    looked: Option<Instant>,
    trouble: Option<String>,
}

/// What tells one content of a path from another without reading it. Swarm and Kubernetes exchange a link, certbot a
/// file: either changes device, inode, time or length of what the path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<[i64; 5]>);

/// How often files are looked at, at most. They are taken up when they were seen the same twice: certificate and key
/// are two files, which nobody can replace at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A certificate that ends within this is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

static RELOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "zeelos_tls_reloads_total",
        "Changed TLS files that were taken up, or could not be used (the old ones stay in use then).",
        &["result"]
    )
    .expect("registered once, with a valid name")
});

static EXPIRY: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "zeelos_tls_certificate_expiry_timestamp_seconds",
        "When a certificate in use ends, by its file.",
        &["file"]
    )
    .expect("registered once, with a valid name")
});

/// All that is in use, for [`warnings`].
static IN_USE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl Tls {
    /// Nothing named: no client certificate, and the system's CAs.
    pub fn none() -> Self {
        Self::default()
    }

    /// Loads the files.
    ///
    /// # Errors
    /// When one of them can't be used: unlike later, there is nothing older to go on with.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        if files.is_empty() {
            return Ok(Self::none());
        }
        // In this order: a change between the two is seen the next time.
        let seen = stamps(&files);
        let loaded = files.load()?;
        note(&loaded);
        let inner = Arc::new(Inner {
            files,
            state: Mutex::new(State {
                loaded: Arc::new(loaded),
                seen,
                ..State::default()
            }),
        });
        let mut all = lock(&IN_USE);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&inner));
        Ok(Self(inner))
    }

    /// What was named.
    pub fn files(&self) -> &TlsFiles {
        &self.0.files
    }

    /// What the files hold now, or held the last time they could be used.
    pub fn current(&self) -> Arc<Loaded> {
        self.0.current()
    }

    /// Ends when another generation than this one is in use.
    pub async fn renewed(&self, since: u64) {
        if self.0.files.is_empty() {
            return std::future::pending().await;
        }
        while self.current().generation == since {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Inner {
    fn current(&self) -> Arc<Loaded> {
        let mut state = lock(&self.state);
        let due = state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if !self.files.is_empty() && due {
            state.looked = Some(Instant::now());
            self.look(&mut state);
        }
        Arc::clone(&state.loaded)
    }

    fn look(&self, state: &mut State) {
        let now = stamps(&self.files);
        if now == state.seen {
            state.next = None;
            return;
        }
        if state.next.as_ref() != Some(&now) {
            state.next = Some(now);
            return;
        }
        state.next = None;
        state.seen = now;
        match self.files.load() {
            Ok(mut loaded) => {
                loaded.generation = state.loaded.generation + 1;
                note(&loaded);
                tracing::info!(identity = ?loaded.identity(), "renewed TLS files are in use");
                RELOADS.with_label_values(&["taken"]).inc();
                state.loaded = Arc::new(loaded);
                state.trouble = None;
            }
            Err(error) => {
                tracing::error!(%error, "changed TLS files can't be used; the old ones stay in use");
                RELOADS.with_label_values(&["refused"]).inc();
                state.trouble = Some(format!("{error}; the certificates from before stay in use"));
            }
        }
    }
}

/// What an operator should know of the certificates in use, by file: changed ones that can't be used, and those that
/// end within two weeks.
pub fn warnings() -> BTreeMap<String, String> {
    let all: Vec<Arc<Inner>> = lock(&IN_USE).iter().filter_map(Weak::upgrade).collect();
    let mut warnings = BTreeMap::new();
    for inner in all {
        let loaded = inner.current();
        if let Some(identity) = loaded.identity() {
            let left = identity.seconds_left();
            if left < i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX) {
                let word = if left < 0 { "ended" } else { "ends" };
                let text = format!(
                    "the certificate {word} on {}: renew it",
                    identity.not_after()
                );
                warnings.insert(identity.file().display().to_string(), text);
            }
        }
        if let Some(trouble) = lock(&inner.state).trouble.clone() {
            let files: Vec<String> = inner.files.paths().map(shown).collect();
            warnings.insert(files.join(", "), trouble);
        }
    }
    warnings
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn note(loaded: &Loaded) {
    // Seen at zero from the start.
    let _counter = RELOADS.with_label_values(&["refused"]);
    let _counter = RELOADS.with_label_values(&["taken"]);
    if let Some(identity) = loaded.identity() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
        EXPIRY
            .with_label_values(&[identity.file().to_string_lossy()])
            .set(now + identity.seconds_left());
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    files
        .paths()
        .map(|path| {
            let found = std::fs::metadata(path).ok();
            Stamp(found.map(|found| {
                let size = i64::try_from(found.size()).unwrap_or(i64::MAX);
                [
                    found.dev().cast_signed(),
                    found.ino().cast_signed(),
                    found.mtime(),
                    found.mtime_nsec(),
                    size,
                ]
            }))
        })
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
