use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::cache;

/// A directory for one server's data and log: removed when dropped, or by the next test process when this one was killed.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held while the directory is in use: the kernel lets go of it even if the process is killed.
    _lock: File,
}

impl RunDir {
    /// Makes an empty directory whose name starts with `name`.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = cache::root().join("run");
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        // One process at a time, so that nobody takes a directory that is made but not yet locked for an abandoned one.
        let gate = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))?;
        gate.lock()?;
        remove_abandoned(&root);
        let path = root.join(format!(
            "{name}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock = File::create(lock_of(&path))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next test process.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn lock_of(dir: &Path) -> PathBuf {
    dir.join(".in-use")
}

fn remove_abandoned(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !dir.is_dir() {
            continue;
        }
        let abandoned = File::open(lock_of(&dir)).map_or(true, |lock| lock.try_lock().is_ok());
        if abandoned {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}
