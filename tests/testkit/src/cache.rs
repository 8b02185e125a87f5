use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

/// Where fetched servers and running ones' data live: in cargo's target directory, so never under version control,
/// and `cargo clean` removes them.
pub(crate) fn root() -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        // Cargo reads a relative one from where it was called, which a test no longer knows: the workspace is the usual place.
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    };
    target.join("testkit")
}

/// What the cache has under a name.
pub(crate) enum Entry {
    /// Its directory.
    Whole(PathBuf),
    /// Nothing yet, and this process is the one to make it.
    Missing(Missing),
}

/// An entry to be made: fill [`Missing::draft`], [`Missing::place`] it, then say that it is [`Missing::whole`].
///
/// Dropped before that, the next one to ask begins anew, so an entry is whole or absent. One process at a time makes
/// entries (Maven's own store does not bear two writers); the others wait and then find the entry.
pub(crate) struct Missing {
    draft: PathBuf,
    dir: PathBuf,
    _lock: File,
}

/// The entry `name`. `recipe` is all that decides what is in it: another recipe is another entry.
pub(crate) async fn entry(name: &str, recipe: &str) -> anyhow::Result<Entry> {
    let root = root();
    let dir = root.join(format!("{name}-{:08x}", fingerprint(recipe)));
    if is_whole(&dir) {
        return Ok(Entry::Whole(dir));
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let lock = lock(root.join("lock")).await?;
    if is_whole(&dir) {
        return Ok(Entry::Whole(dir));
    }
    let draft = root.join(format!("{name}.draft"));
    for leftover in [&draft, &dir] {
        if leftover.exists() {
            fs::remove_dir_all(leftover)
                .with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    fs::create_dir_all(&draft)?;
    Ok(Entry::Missing(Missing {
        draft,
        dir,
        _lock: lock,
    }))
}

impl Missing {
    /// An empty directory, not yet under its last name.
    pub(crate) fn draft(&self) -> &Path {
        &self.draft
    }

    /// Gives the directory its last name, for what must know its own path.
    pub(crate) fn place(&self) -> anyhow::Result<&Path> {
        fs::rename(&self.draft, &self.dir)?;
        Ok(&self.dir)
    }

    pub(crate) fn whole(self) -> anyhow::Result<PathBuf> {
        File::create(mark_of(&self.dir))?;
        Ok(self.dir)
    }
}

fn is_whole(dir: &Path) -> bool {
    mark_of(dir).exists()
}

fn mark_of(dir: &Path) -> PathBuf {
    dir.join(".whole")
}

/// Takes the lock without holding up the runtime's thread: other tests' servers go on meanwhile.
async fn lock(path: PathBuf) -> anyhow::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await?
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Tries `action` three times, with rests of 2 and 10 s: what comes over a network sometimes does not.
pub(crate) async fn with_retries<T, A, F>(what: &str, mut action: A) -> anyhow::Result<T>
where
    A: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    for rest in [2, 10] {
        match action().await {
            Ok(value) => return Ok(value),
            Err(error) => eprintln!("testkit: {what} failed, trying again in {rest} s: {error:#}"),
        }
        tokio::time::sleep(Duration::from_secs(rest)).await;
    }
    action()
        .await
        .with_context(|| format!("{what} failed three times"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies two levels below the workspace")
}

/// FNV-1a: the standard library's hashes may differ from one compiler to the next.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
