//! A partition's log on disk: `topics/<topic>-<partition>/<base offset>.log`, appended to at one end, trimmed at the other.

pub(crate) mod batch;
pub(crate) mod producers;
pub(crate) mod segment;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;
use tracing::{info, warn};

use self::{
    batch::{BatchError, BatchHeader},
    producers::{Producers, Verdict},
    segment::{Segment, SegmentReader, remove_if_there},
};
use crate::{files::write_atomically, metrics, topics::TopicConfig};

/// Read positions remembered per partition, so that a consumer at the tail is served without a search.
const REMEMBERED_READS: usize = 8;
const LOG_START_FILE: &str = "log-start";

/// One partition's log. Cheap to share; every call locks shortly.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    dir: PathBuf,
    inner: Mutex<Inner>,
    waiters: Mutex<Vec<Arc<Notify>>>,
}

#[derive(Debug)]
struct Inner {
    /// Never empty; the last is written to.
    segments: Vec<Segment>,
    /// The first offset a client may read. Never after the end.
    log_start: i64,
    producers: Producers,
    /// (offset, base offset of its segment, position) after recent reads.
    reads: VecDeque<(i64, i64, u64)>,
    /// When the segment written to got its first batch, milliseconds since 1970.
    active_since_ms: i64,
    unsynced: bool,
    closing: Vec<Closing>,
    removed: bool,
}

/// A segment that was closed and whose index is to be written once its data is on the disk.
#[derive(Debug)]
struct Closing {
    file: Arc<File>,
    index: (PathBuf, Vec<u8>),
    producers: (PathBuf, Vec<u8>),
}

/// Where an appended batch landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// Set under `LogAppendTime`, else -1.
    pub(crate) log_append_time_ms: i64,
    pub(crate) log_start: i64,
    pub(crate) records: i32,
}

#[derive(Debug, Error)]
pub(crate) enum AppendError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("a batch of this idempotent producer is missing before this one, or was sent long ago")]
    OutOfOrder,
    #[error("a newer instance of this idempotent producer has written already")]
    Fenced,
    #[error("the topic was deleted")]
    Removed,
    #[error("the record batch could not be written: {0}. Check the disk of the data directory")]
    Io(#[from] io::Error),
}

#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("the offset is outside the log")]
    OutOfRange,
    #[error("the topic was deleted")]
    Removed,
    #[error("the log could not be read: {0}. Check the disk of the data directory")]
    Io(#[from] io::Error),
}

/// First offset, and the offset after the last record (which on one node is the high watermark too).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// What a client may ask to find by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeQuery {
    AtOrAfter(i64),
    Latest,
}

impl PartitionLog {
    /// Makes the log of a new partition. Whatever a removed topic of that name left behind goes.
    pub(crate) fn create(dir: PathBuf) -> io::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let first = Segment::create(&dir, 0)?;
        Ok(Self::new(dir, vec![first], 0, Producers::default()))
    }

    /// Opens a log: trusts what was closed in full, checks the rest and cuts off a torn tail.
    pub(crate) fn open(dir: PathBuf, now_ms: i64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut bases = Vec::new();
        let mut snapshots = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse::<i64>().ok());
            match (
                number,
                path.extension().and_then(|extension| extension.to_str()),
            ) {
                (Some(base), Some("log")) => bases.push(base),
                (Some(offset), Some("producers")) => snapshots.push(offset),
                _ => {}
            }
        }
        bases.sort_unstable();
        let mut segments: Vec<Segment> = Vec::with_capacity(bases.len());
        for base in bases {
            let end = segments.last().map_or(0, |before| before.next_offset);
            let (segment, recovered) = Segment::open(&dir, base, end)?;
            if let Some(found) = recovered {
                if found.torn_bytes > 0 {
                    warn!(dir = %dir.display(), segment = base, ?found, "cut off the torn end of a log segment");
                } else if found.valid_bytes > 0 {
                    info!(dir = %dir.display(), segment = base, ?found, "checked a log segment that was not closed");
                }
            }
            // One that lost everything has nothing to say once another follows it.
            if let Some(empty) = segments.pop_if(|before| before.size == 0) {
                empty.delete()?;
            }
            segments.push(segment);
        }
        match segments.last_mut() {
            Some(last) => last.start_writing()?,
            None => segments.push(Segment::create(&dir, 0)?),
        }
        let closed = segments.len() - 1;
        for segment in &segments[..closed] {
            if !segment.index_file().0.exists() {
                segment.write_index()?;
            }
        }
        let end = segments.last().map_or(0, |last| last.next_offset);
        let first = segments.first().map_or(0, |first| first.base_offset);
        let kept_start = fs::read_to_string(dir.join(LOG_START_FILE))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let log_start = first.max(kept_start.unwrap_or(0)).min(end);

        snapshots.sort_unstable();
        let usable = snapshots
            .iter()
            .rev()
            .filter(|offset| **offset <= end)
            .find_map(|offset| {
                let bytes = fs::read(snapshot_path(&dir, *offset)).ok()?;
                Some((*offset, Producers::from_snapshot(&bytes)?))
            });
        let (from, mut producers) = usable.unwrap_or((first, Producers::default()));
        for segment in segments.iter().filter(|segment| segment.next_offset > from) {
            segment.reader_for_offset(from).find(|header| {
                if header.base_offset >= from {
                    producers.note(header, now_ms);
                }
                false
            })?;
        }
        for offset in snapshots.iter().filter(|offset| **offset != from) {
            remove_if_there(&snapshot_path(&dir, *offset))?;
        }
        Ok(Self::new(dir, segments, log_start, producers))
    }

    fn new(dir: PathBuf, segments: Vec<Segment>, log_start: i64, producers: Producers) -> Self {
        let inner = Inner {
            segments,
            log_start,
            producers,
            reads: VecDeque::with_capacity(REMEMBERED_READS),
            active_since_ms: i64::MAX,
            unsynced: true,
            closing: Vec::new(),
            removed: false,
        };
        Self {
            dir,
            inner: Mutex::new(inner),
            waiters: Mutex::new(Vec::new()),
        }
    }

    /// Appends one batch as a producer sent it. With `sync` it is on the disk before this returns.
    pub(crate) fn append(
        &self,
        records: &[u8],
        config: &TopicConfig,
        now_ms: i64,
        sync: bool,
    ) -> Result<Appended, AppendError> {
        let mut header = batch::check_produced(records, config.max_message_bytes)?;
        let mut bytes = records.to_vec();
        let mut log_append_time_ms = -1;
        if config.log_append_time {
            batch::set_append_time(&mut bytes, now_ms);
            header.max_timestamp = now_ms;
            log_append_time_ms = now_ms;
        }
        let mut inner = self.inner.lock();
        if inner.removed {
            return Err(AppendError::Removed);
        }
        let done = |base_offset, log_start| Appended {
            base_offset,
            log_append_time_ms,
            log_start,
            records: header.record_count,
        };
        match inner.producers.check(&header) {
            Verdict::Append => {}
            Verdict::Duplicate { base_offset } => {
                return Ok(Appended {
                    records: 0,
                    ..done(base_offset, inner.log_start)
                });
            }
            Verdict::OutOfOrder => return Err(AppendError::OutOfOrder),
            Verdict::Fenced => return Err(AppendError::Fenced),
        }
        if inner.is_due_to_roll(bytes.len(), config, now_ms) {
            inner.roll(&self.dir)?;
        }
        header.base_offset = inner.end();
        batch::set_offset(&mut bytes, header.base_offset);
        if inner.active().size == 0 {
            inner.active_since_ms = now_ms;
        }
        inner.active().append(&header, &bytes)?;
        inner.producers.note(&header, now_ms);
        inner.unsynced = true;
        if sync && let Some(file) = inner.active().writer() {
            file.sync_data()?;
            inner.unsynced = !inner.closing.is_empty();
        }
        let appended = done(header.base_offset, inner.log_start);
        drop(inner);
        self.wake();
        metrics::RECORDS_IN.inc_by(header.record_count as u64);
        metrics::BYTES_IN.inc_by(bytes.len() as u64);
        Ok(appended)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let inner = self.inner.lock();
        Bounds {
            start: inner.log_start,
            end: inner.end(),
        }
    }

    /// Bytes on disk.
    pub(crate) fn size(&self) -> u64 {
        self.inner.lock().size()
    }

    /// Bytes a reader at `offset` could get, or an error if it can't stand there.
    pub(crate) fn available(&self, offset: i64) -> Result<u64, ReadError> {
        let Some((reader, later)) = self.locate(offset)? else {
            return Ok(0);
        };
        Ok(reader.size - reader.from + later)
    }

    /// Reads whole batches from the one that holds `offset` on, about `max` bytes; with `at_least_one` the first is
    /// read whatever its size.
    pub(crate) fn read(
        &self,
        offset: i64,
        max: usize,
        at_least_one: bool,
    ) -> Result<Vec<u8>, ReadError> {
        for attempt in 0.. {
            let Some((reader, _)) = self.locate(offset)? else {
                return Ok(Vec::new());
            };
            match reader.read(reader.from, max, at_least_one) {
                Ok((bytes, next)) => {
                    if let Some(next) = next {
                        self.inner
                            .lock()
                            .remember_read(next, reader.from + bytes.len() as u64);
                    }
                    return Ok(bytes);
                }
                // Retention took the segment between the two: look again, and find the log's new start.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < 3 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReadError::OutOfRange)
    }

    /// A reader that stands exactly at the batch with `offset`, and the bytes in the segments after its own.
    /// `None` at the end of the log.
    fn locate(&self, offset: i64) -> Result<Option<(SegmentReader, u64)>, ReadError> {
        let (mut reader, exact, later) = {
            let inner = self.inner.lock();
            if inner.removed {
                return Err(ReadError::Removed);
            }
            if offset < inner.log_start || offset > inner.end() {
                return Err(ReadError::OutOfRange);
            }
            // The first segment that reaches beyond the offset: offsets may have gaps where a torn tail was cut off.
            let at = inner
                .segments
                .partition_point(|segment| segment.next_offset <= offset);
            let Some(segment) = inner.segments.get(at) else {
                return Ok(None);
            };
            let later = inner.segments[at + 1..]
                .iter()
                .map(|segment| segment.size)
                .sum();
            let remembered = inner
                .reads
                .iter()
                .find(|(o, base, _)| *o == offset && *base == segment.base_offset);
            match remembered {
                Some((_, _, position)) => (segment.reader_at(*position), true, later),
                None => (segment.reader_for_offset(offset), false, later),
            }
        };
        if !exact {
            match reader.find(|header| header.last_offset() >= offset)? {
                Some((position, _)) => reader.from = position,
                None => return Ok(None),
            }
        }
        Ok(Some((reader, later)))
    }

    /// Offset and timestamp of a record by time; `None` if there is no such record.
    pub(crate) fn find_by_time(&self, query: TimeQuery) -> Result<Option<(i64, i64)>, ReadError> {
        let (reader, timestamp, start) = {
            let inner = self.inner.lock();
            if inner.removed {
                return Err(ReadError::Removed);
            }
            let readable = || {
                inner
                    .segments
                    .iter()
                    .filter(|segment| segment.next_offset > inner.log_start)
            };
            let timestamp = match query {
                TimeQuery::AtOrAfter(timestamp) => timestamp,
                TimeQuery::Latest => readable()
                    .map(|s| s.max_timestamp)
                    .max()
                    .unwrap_or(segment::NO_TIMESTAMP),
            };
            let found =
                readable().find(|segment| segment.size > 0 && segment.max_timestamp >= timestamp);
            match found {
                Some(segment) => (
                    segment.reader_for_timestamp(timestamp),
                    timestamp,
                    inner.log_start,
                ),
                None => return Ok(None),
            }
        };
        let wanted = |header: &BatchHeader| {
            header.max_timestamp >= timestamp && header.last_offset() >= start
        };
        let Some((position, header)) = reader.find(wanted)? else {
            return Ok(None);
        };
        let (bytes, _) = reader.read(position, header.total_len(), true)?;
        let found = batch::record_at_or_after(&header, &bytes, timestamp);
        Ok(found.map(|(offset, time)| (offset.max(start), time)))
    }

    /// Forgets records before `offset`, or all of them with `None`. Gives the new start.
    pub(crate) fn delete_before(&self, offset: Option<i64>) -> Result<i64, ReadError> {
        let mut inner = self.inner.lock();
        if inner.removed {
            return Err(ReadError::Removed);
        }
        let end = inner.end();
        let offset = offset.unwrap_or(end);
        if offset > end || offset < 0 {
            return Err(ReadError::OutOfRange);
        }
        if offset > inner.log_start {
            inner.log_start = offset;
            write_atomically(
                &self.dir.join(LOG_START_FILE),
                offset.to_string().as_bytes(),
            )?;
            while inner.segments.len() > 1 && inner.segments[0].next_offset <= offset {
                inner.drop_first()?;
            }
        }
        Ok(inner.log_start)
    }

    /// Drops whole segments that are too old, or too many bytes. Gives the bytes freed.
    pub(crate) fn apply_retention(&self, config: &TopicConfig, now_ms: i64) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        if inner.removed || !config.deletes() {
            return Ok(0);
        }
        inner.producers.expire(now_ms);
        let before = inner.size();
        if let Some(age) = config.retention_ms {
            let expired = |segment: &Segment| segment.age_timestamp() < now_ms.saturating_sub(age);
            while inner.segments[0].size > 0 && expired(&inner.segments[0]) {
                inner.drop_first_rolling(&self.dir)?;
            }
        }
        if let Some(bytes) = config.retention_bytes {
            while inner.segments[0].size > 0 && inner.size() - inner.segments[0].size >= bytes {
                inner.drop_first_rolling(&self.dir)?;
            }
        }
        Ok(before - inner.size())
    }

    /// Timestamp and bytes of the oldest segment that may go when the disk's share is used up: any but the one being written.
    pub(crate) fn oldest_closed(&self) -> Option<(i64, u64)> {
        let inner = self.inner.lock();
        let first = (inner.segments.len() > 1 && !inner.removed).then(|| &inner.segments[0])?;
        Some((first.age_timestamp(), first.size))
    }

    pub(crate) fn drop_oldest_closed(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if inner.segments.len() > 1 {
            inner.drop_first()
        } else {
            Ok(())
        }
    }

    /// Forces what was written to the disk. The lock is not held while the disk works.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let (closing, active) = {
            let mut inner = self.inner.lock();
            if inner.removed || !inner.unsynced {
                return Ok(());
            }
            inner.unsynced = false;
            (std::mem::take(&mut inner.closing), inner.active().writer())
        };
        let result = self.flush_files(&closing, active.as_deref());
        if result.is_err() {
            let mut inner = self.inner.lock();
            inner.unsynced = true;
            inner.closing.extend(closing);
        }
        result
    }

    fn flush_files(&self, closing: &[Closing], active: Option<&File>) -> io::Result<()> {
        for closed in closing {
            closed.file.sync_data()?;
            // Retention may have taken the segment meanwhile: an index alone would stay behind.
            if closed.index.0.with_extension("log").exists() {
                write_atomically(&closed.index.0, &closed.index.1)?;
            }
            write_atomically(&closed.producers.0, &closed.producers.1)?;
        }
        if let Some(latest) = closing.last() {
            self.remove_snapshots_except(&latest.producers.0)?;
        }
        if let Some(file) = active {
            file.sync_data()?;
        }
        Ok(())
    }

    /// Leaves the log so that the next start need not check it. Nothing may be appended afterwards.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.flush()?;
        let mut inner = self.inner.lock();
        if inner.removed {
            return Ok(());
        }
        inner.removed = true;
        inner.active().stop_writing();
        inner.active().write_index()?;
        let path = snapshot_path(&self.dir, inner.end());
        write_atomically(&path, &inner.producers.snapshot())?;
        self.remove_snapshots_except(&path)
    }

    /// Removes the log for good; readers and writers see the topic gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.inner.lock().removed = true;
        self.wake();
        fs::remove_dir_all(&self.dir)
    }

    fn remove_snapshots_except(&self, keep: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "producers")
                && path != keep
            {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Has `notify` woken after each append until [`PartitionLog::unwatch`].
    pub(crate) fn watch(&self, notify: &Arc<Notify>) {
        self.waiters.lock().push(notify.clone());
    }

    pub(crate) fn unwatch(&self, notify: &Arc<Notify>) {
        self.waiters
            .lock()
            .retain(|waiter| !Arc::ptr_eq(waiter, notify));
    }

    fn wake(&self) {
        for waiter in self.waiters.lock().iter() {
            waiter.notify_one();
        }
    }
}

impl Inner {
    fn active(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a log always has a segment")
    }

    fn end(&self) -> i64 {
        self.segments.last().map_or(0, |last| last.next_offset)
    }

    fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    fn is_due_to_roll(&mut self, more: usize, config: &TopicConfig, now_ms: i64) -> bool {
        let age = now_ms.saturating_sub(self.active_since_ms);
        let size = self.active().size;
        size > 0 && (size + more as u64 > config.segment_bytes || age > config.segment_ms)
    }

    fn roll(&mut self, dir: &Path) -> io::Result<()> {
        let end = self.end();
        let next = Segment::create(dir, end)?;
        let producers = (snapshot_path(dir, end), self.producers.snapshot());
        if let Some(file) = self.active().stop_writing() {
            let index = self.active().index_file();
            self.closing.push(Closing {
                file,
                index,
                producers,
            });
        }
        self.segments.push(next);
        self.unsynced = true;
        Ok(())
    }

    fn drop_first_rolling(&mut self, dir: &Path) -> io::Result<()> {
        if self.segments.len() == 1 {
            self.roll(dir)?;
        }
        self.drop_first()
    }

    fn drop_first(&mut self) -> io::Result<()> {
        self.segments[0].delete()?;
        self.segments.remove(0);
        self.log_start = self.log_start.max(self.segments[0].base_offset);
        self.reads.clear();
        Ok(())
    }

    fn remember_read(&mut self, next: i64, position: u64) {
        let Some(segment) = self
            .segments
            .iter()
            .rev()
            .find(|segment| segment.base_offset < next)
        else {
            return;
        };
        let entry = (next, segment.base_offset, position);
        // A read that ended where its segment does is followed by one at the start of the next.
        if next >= segment.next_offset && segment.writer().is_none() || self.reads.contains(&entry)
        {
            return;
        }
        if self.reads.len() == REMEMBERED_READS {
            self.reads.pop_front();
        }
        self.reads.push_back(entry);
    }
}

fn snapshot_path(dir: &Path, offset: i64) -> PathBuf {
    dir.join(format!("{offset:020}.producers"))
}
