//! Committed offsets on disk: a text file of changes, one line each, rewritten when most of it is history.
//!
//! `<CRC-32C of the rest, 8 hex digits> <JSON of the change>\n`. A commit is written before it is acknowledged; a line
//! that was cut short by a crash is dropped at the next start, with what follows it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::files::write_atomically;

/// The file is not rewritten below this size.
const COMPACT_FROM: u64 = 1 << 20;
/// Longest line accepted when reading back; one commit request can't be longer than a request.
const MAX_LINE: usize = 64 << 20;

/// What a group committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// Topic and partition.
pub(crate) type Place = (String, i32);

#[derive(Debug, Default)]
struct GroupOffsets {
    last_change_ms: i64,
    offsets: BTreeMap<Place, Committed>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Change {
    Commit {
        group: String,
        at_ms: i64,
        offsets: Vec<(Place, Committed)>,
    },
    Forget {
        group: String,
        places: Vec<Place>,
    },
    Drop {
        group: String,
    },
}

/// The committed offsets of all groups.
#[derive(Debug)]
pub(crate) struct Offsets {
    path: PathBuf,
    inner: Mutex<Inner>,
    max: usize,
}

#[derive(Debug)]
struct Inner {
    groups: BTreeMap<String, GroupOffsets>,
    count: usize,
    file: File,
    len: u64,
    /// Length after the last rewrite.
    compact_len: u64,
    unsynced: bool,
}

impl Offsets {
    /// Reads the file, or makes it.
    pub(crate) fn open(path: PathBuf, max: usize) -> io::Result<Self> {
        let mut groups = BTreeMap::new();
        let len = match File::open(&path) {
            Ok(file) => read(&file, &mut groups)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let torn = file.metadata()?.len() - len;
        if torn > 0 {
            warn!(path = %path.display(), bytes = torn, "cut off the torn end of the committed offsets");
            file.set_len(len)?;
        }
        let count = groups
            .values()
            .map(|group: &GroupOffsets| group.offsets.len())
            .sum();
        let inner = Inner {
            groups,
            count,
            file,
            len,
            compact_len: 0,
            unsynced: false,
        };
        Ok(Self {
            path,
            inner: Mutex::new(inner),
            max,
        })
    }

    /// Keeps what a group commits. `Ok(false)`: there is no room for that many.
    pub(crate) fn commit(
        &self,
        group: &str,
        offsets: Vec<(Place, Committed)>,
        now_ms: i64,
    ) -> io::Result<bool> {
        if offsets.is_empty() {
            return Ok(true);
        }
        let mut inner = self.inner.lock();
        let known = inner.groups.get(group);
        let new = offsets
            .iter()
            .filter(|(place, _)| !known.is_some_and(|g| g.offsets.contains_key(place)))
            .count();
        if inner.count + new > self.max {
            return Ok(false);
        }
        inner.write(
            &self.path,
            Change::Commit {
                group: group.to_owned(),
                at_ms: now_ms,
                offsets,
            },
        )?;
        Ok(true)
    }

    pub(crate) fn get(&self, group: &str, topic: &str, partition: i32) -> Option<Committed> {
        let inner = self.inner.lock();
        inner
            .groups
            .get(group)?
            .offsets
            .get(&(topic.to_owned(), partition))
            .cloned()
    }

    /// All a group committed.
    pub(crate) fn all_of(&self, group: &str) -> Vec<(Place, Committed)> {
        let inner = self.inner.lock();
        let offsets = inner.groups.get(group).map(|group| group.offsets.clone());
        offsets.unwrap_or_default().into_iter().collect()
    }

    pub(crate) fn groups(&self) -> Vec<String> {
        self.inner.lock().groups.keys().cloned().collect()
    }

    pub(crate) fn has_group(&self, group: &str) -> bool {
        self.inner.lock().groups.contains_key(group)
    }

    /// Forgets some of what a group committed.
    pub(crate) fn forget(&self, group: &str, places: Vec<Place>) -> io::Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        self.inner.lock().write(
            &self.path,
            Change::Forget {
                group: group.to_owned(),
                places,
            },
        )
    }

    /// Forgets a group.
    pub(crate) fn drop_group(&self, group: &str) -> io::Result<()> {
        self.inner.lock().write(
            &self.path,
            Change::Drop {
                group: group.to_owned(),
            },
        )
    }

    /// Forgets what any group committed for a topic that was deleted.
    pub(crate) fn drop_topic(&self, topic: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let places_of = |offsets: &GroupOffsets| -> Vec<Place> {
            offsets
                .offsets
                .keys()
                .filter(|(t, _)| t == topic)
                .cloned()
                .collect()
        };
        let found: Vec<_> = inner
            .groups
            .iter()
            .map(|(group, offsets)| (group.clone(), places_of(offsets)))
            .collect();
        for (group, places) in found.into_iter().filter(|(_, places)| !places.is_empty()) {
            inner.write(&self.path, Change::Forget { group, places })?;
        }
        Ok(())
    }

    /// Groups whose last commit is older than `before_ms`.
    pub(crate) fn idle_since(&self, before_ms: i64) -> Vec<String> {
        let inner = self.inner.lock();
        inner
            .groups
            .iter()
            .filter(|(_, g)| g.last_change_ms < before_ms)
            .map(|(group, _)| group.clone())
            .collect()
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.unsynced) {
            inner.file.sync_data()?;
        }
        Ok(())
    }
}

impl Inner {
    fn write(&mut self, path: &Path, change: Change) -> io::Result<()> {
        let line = line(&change)?;
        if let Err(error) = self.file.write_all(&line) {
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += line.len() as u64;
        self.unsynced = true;
        apply(&mut self.groups, change);
        self.count = self.groups.values().map(|group| group.offsets.len()).sum();
        if self.len > COMPACT_FROM && self.len > 4 * self.compact_len {
            self.compact(path)?;
        }
        Ok(())
    }

    fn compact(&mut self, path: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (group, kept) in &self.groups {
            let offsets = kept
                .offsets
                .iter()
                .map(|(place, committed)| (place.clone(), committed.clone()))
                .collect();
            bytes.extend(line(&Change::Commit {
                group: group.clone(),
                at_ms: kept.last_change_ms,
                offsets,
            })?);
        }
        write_atomically(path, &bytes)?;
        self.file = OpenOptions::new().append(true).open(path)?;
        self.len = bytes.len() as u64;
        self.compact_len = self.len.max(COMPACT_FROM / 4);
        Ok(())
    }
}

fn line(change: &Change) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(change)?;
    let mut line = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Applies all whole lines and gives their length.
fn read(file: &File, groups: &mut BTreeMap<String, GroupOffsets>) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut len, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE as u64).read_until(b'\n', &mut line)?;
        match parse(&line) {
            Some(change) => apply(groups, change),
            None => return Ok(len),
        }
        len += read as u64;
    }
}

fn parse(line: &[u8]) -> Option<Change> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc32c::crc32c(json) == crc).then(|| serde_json::from_slice(json).ok())?
}

fn apply(groups: &mut BTreeMap<String, GroupOffsets>, change: Change) {
    match change {
        Change::Commit {
            group,
            at_ms,
            offsets,
        } => {
            let group = groups.entry(group).or_default();
            group.last_change_ms = at_ms;
            group.offsets.extend(offsets);
        }
        Change::Forget { group, places } => {
            if let Entry::Occupied(mut found) = groups.entry(group) {
                found
                    .get_mut()
                    .offsets
                    .retain(|place, _| !places.contains(place));
                if found.get().offsets.is_empty() {
                    found.remove();
                }
            }
        }
        Change::Drop { group } => {
            groups.remove(&group);
        }
    }
}
