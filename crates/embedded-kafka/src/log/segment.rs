//! One file of a partition's log: record batches end to end, and an index in memory that says where some of them are.
//!
//! A closed segment has its index beside it (`<base offset>.index`), which also says the segment was written in full.
//! A segment without one, or with one that doesn't fit, is read through and checked at start.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::batch::{self, BatchHeader, HEADER_LEN};
use crate::files::write_atomically;

/// Bytes of log between two index entries: a lookup walks at most this far (or one batch).
const INDEX_INTERVAL: u64 = 32 << 10;
/// Bytes read at a time when walking headers.
const WALK_CHUNK: usize = 16 << 10;
const INDEX_MAGIC: &[u8; 8] = b"zlkidx1\n";
/// No timestamp seen.
pub(crate) const NO_TIMESTAMP: i64 = -1;

/// Where a batch starts, and the largest timestamp before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    offset: i64,
    position: u64,
    max_timestamp_before: i64,
}

/// A segment's file, its extent and its index.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    /// The offset after the last record.
    pub(crate) next_offset: i64,
    /// Bytes of whole batches.
    pub(crate) size: u64,
    /// Largest record timestamp, milliseconds since 1970, or [`NO_TIMESTAMP`].
    pub(crate) max_timestamp: i64,
    path: PathBuf,
    /// Held open while the segment is written to.
    writer: Option<Arc<File>>,
    index: Vec<IndexEntry>,
}

/// A way to a segment's bytes that outlives the log's lock.
#[derive(Debug, Clone)]
pub(crate) struct SegmentReader {
    file: Option<Arc<File>>,
    path: PathBuf,
    /// Where to start looking, and where the whole batches end.
    pub(crate) from: u64,
    pub(crate) size: u64,
}

/// What recovery found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Bytes of whole, checked batches at the start.
    pub(crate) valid_bytes: u64,
    /// Bytes after them, which were cut off.
    pub(crate) torn_bytes: u64,
    /// Record batches.
    pub(crate) batches: u64,
}

impl Segment {
    /// Makes an empty segment for records from `base_offset` on.
    pub(crate) fn create(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = log_path(dir, base_offset);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        remove_if_there(&path.with_extension("index"))?;
        Ok(Self {
            base_offset,
            next_offset: base_offset,
            size: 0,
            max_timestamp: NO_TIMESTAMP,
            path,
            writer: Some(Arc::new(file)),
            index: Vec::new(),
        })
    }

    /// Opens a segment that exists: by its index if it was closed in full, else by reading it through and cutting
    /// off what is torn. `min_offset` is the end of the segment before: batches must not go back behind it.
    pub(crate) fn open(
        dir: &Path,
        base_offset: i64,
        min_offset: i64,
    ) -> io::Result<(Self, Option<Recovered>)> {
        let path = log_path(dir, base_offset);
        let len = fs::metadata(&path)?.len();
        let mut segment = Self {
            base_offset,
            next_offset: base_offset,
            size: 0,
            max_timestamp: NO_TIMESTAMP,
            path,
            writer: None,
            index: Vec::new(),
        };
        if segment.read_index(len) {
            return Ok((segment, None));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&segment.path)?;
        let mut batches = 0;
        segment.next_offset = base_offset.max(min_offset);
        scan(&file, len, segment.next_offset, |header| {
            batches += 1;
            segment.note(header);
        })?;
        let torn_bytes = len - segment.size;
        if torn_bytes > 0 {
            file.set_len(segment.size)?;
            file.sync_all()?;
        }
        Ok((
            segment,
            Some(Recovered {
                valid_bytes: len - torn_bytes,
                torn_bytes,
                batches,
            }),
        ))
    }

    /// Makes the segment writable. Its index on disk goes: from now on it would lie.
    pub(crate) fn start_writing(&mut self) -> io::Result<()> {
        remove_if_there(&self.path.with_extension("index"))?;
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        self.writer = Some(Arc::new(file));
        Ok(())
    }

    /// Writes one batch at the end. After an error the file is as it was before, as far as the disk lets it.
    pub(crate) fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        let Some(file) = &self.writer else {
            return Err(io::Error::other("the segment is closed"));
        };
        if let Err(error) = file.write_all_at(batch, self.size) {
            file.set_len(self.size)?;
            return Err(error);
        }
        self.note(header);
        Ok(())
    }

    /// The open file, for syncing.
    pub(crate) fn writer(&self) -> Option<Arc<File>> {
        self.writer.clone()
    }

    /// Ends writing; the file is to be synced and [`Segment::index_file`] written afterwards.
    pub(crate) fn stop_writing(&mut self) -> Option<Arc<File>> {
        self.writer.take()
    }

    fn note(&mut self, header: &BatchHeader) {
        let far = self
            .index
            .last()
            .is_none_or(|last| self.size - last.position >= INDEX_INTERVAL);
        if far {
            self.index.push(IndexEntry {
                offset: header.base_offset,
                position: self.size,
                max_timestamp_before: self.max_timestamp,
            });
        }
        self.size += header.total_len() as u64;
        self.next_offset = header.next_offset();
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// A reader that starts at the nearest known place at or before the batch of `offset`.
    pub(crate) fn reader_for_offset(&self, offset: i64) -> SegmentReader {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        self.reader_at(after.checked_sub(1).map_or(0, |at| self.index[at].position))
    }

    /// A reader that starts at or before the first batch with a timestamp of at least `timestamp`.
    pub(crate) fn reader_for_timestamp(&self, timestamp: i64) -> SegmentReader {
        let after = self
            .index
            .partition_point(|entry| entry.max_timestamp_before < timestamp);
        self.reader_at(after.checked_sub(1).map_or(0, |at| self.index[at].position))
    }

    pub(crate) fn reader_at(&self, from: u64) -> SegmentReader {
        SegmentReader {
            file: self.writer.clone(),
            path: self.path.clone(),
            from,
            size: self.size,
        }
    }

    /// Milliseconds since 1970 by which the segment's age is judged: its records' times, or the file's own when
    /// they have none.
    pub(crate) fn age_timestamp(&self) -> i64 {
        if self.max_timestamp >= 0 {
            return self.max_timestamp;
        }
        let modified = fs::metadata(&self.path)
            .and_then(|meta| meta.modified())
            .ok();
        modified
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(i64::MAX, |since| since.as_millis() as i64)
    }

    /// Removes the files. Readers that hold the file keep reading it.
    pub(crate) fn delete(&self) -> io::Result<()> {
        remove_if_there(&self.path.with_extension("index"))?;
        remove_if_there(&self.path)
    }

    /// Path and contents of the index file that marks the segment as whole.
    pub(crate) fn index_file(&self) -> (PathBuf, Vec<u8>) {
        let mut bytes = Vec::with_capacity(44 + self.index.len() * 24);
        bytes.extend_from_slice(INDEX_MAGIC);
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.extend_from_slice(&self.next_offset.to_be_bytes());
        bytes.extend_from_slice(&self.max_timestamp.to_be_bytes());
        for entry in &self.index {
            bytes.extend_from_slice(&entry.offset.to_be_bytes());
            bytes.extend_from_slice(&entry.position.to_be_bytes());
            bytes.extend_from_slice(&entry.max_timestamp_before.to_be_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        (self.path.with_extension("index"), bytes)
    }

    pub(crate) fn write_index(&self) -> io::Result<()> {
        let (path, bytes) = self.index_file();
        write_atomically(&path, &bytes)
    }

    /// Takes the index from its file if it is whole and was made for a segment of `len` bytes.
    fn read_index(&mut self, len: u64) -> bool {
        let Ok(bytes) = fs::read(self.path.with_extension("index")) else {
            return false;
        };
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return false;
        };
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return false;
        }
        let Some(rest) = body.strip_prefix(INDEX_MAGIC.as_slice()) else {
            return false;
        };
        let numbers: Vec<i64> = rest
            .chunks_exact(8)
            .map(|eight| i64::from_be_bytes(eight.try_into().expect("chunks of eight")))
            .collect();
        let [size, next_offset, max_timestamp, entries @ ..] = numbers.as_slice() else {
            return false;
        };
        if *size as u64 != len || *next_offset < self.base_offset {
            return false;
        }
        self.size = len;
        self.next_offset = *next_offset;
        self.max_timestamp = *max_timestamp;
        self.index = entries
            .chunks_exact(3)
            .map(|e| IndexEntry {
                offset: e[0],
                position: e[1] as u64,
                max_timestamp_before: e[2],
            })
            .collect();
        true
    }
}

impl SegmentReader {
    fn open(&self) -> io::Result<Arc<File>> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => Ok(Arc::new(File::open(&self.path)?)),
        }
    }

    /// Walks the headers from where the reader starts and gives the position and header of the first that `wanted` takes.
    pub(crate) fn find(
        &self,
        mut wanted: impl FnMut(&BatchHeader) -> bool,
    ) -> io::Result<Option<(u64, BatchHeader)>> {
        let file = self.open()?;
        let (mut at, mut chunk, mut chunk_at) = (self.from, Vec::new(), self.from);
        while at + HEADER_LEN as u64 <= self.size {
            let within = at.wrapping_sub(chunk_at) as usize;
            if chunk.len() < within.saturating_add(HEADER_LEN) {
                let len = (self.size - at).min(WALK_CHUNK as u64) as usize;
                chunk.resize(len, 0);
                file.read_exact_at(&mut chunk, at)?;
                chunk_at = at;
                continue;
            }
            let header = BatchHeader::parse(&chunk[within..]).map_err(io::Error::other)?;
            if wanted(&header) {
                return Ok(Some((at, header)));
            }
            at += header.total_len() as u64;
        }
        Ok(None)
    }

    /// Reads whole batches from `position`, at most `max` bytes; with `at_least_one` the first is read whatever its size.
    /// Also gives the offset after the last.
    pub(crate) fn read(
        &self,
        position: u64,
        max: usize,
        at_least_one: bool,
    ) -> io::Result<(Vec<u8>, Option<i64>)> {
        let file = self.open()?;
        let left = (self.size - position.min(self.size)) as usize;
        let mut bytes = vec![0; left.min(max.max(if at_least_one { HEADER_LEN } else { 0 }))];
        file.read_exact_at(&mut bytes, position)?;
        let (end, next) = batch::whole_batches(&bytes);
        if end > 0 || !at_least_one || left < HEADER_LEN {
            bytes.truncate(end);
            return Ok((bytes, next));
        }
        let header = BatchHeader::parse(&bytes).map_err(io::Error::other)?;
        bytes.resize(header.total_len().min(left), 0);
        file.read_exact_at(&mut bytes, position)?;
        let (end, next) = batch::whole_batches(&bytes);
        bytes.truncate(end);
        Ok((bytes, next))
    }
}

/// Bytes that can be read at a place: a file, or memory when a decoder is tested.
pub(crate) trait ReadAt {
    /// Fills `buffer` from `at` on.
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl ReadAt for [u8] {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at)
            .ok()
            .and_then(|at| self.get(at..at.checked_add(buffer.len())?));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Reads batches from the start of a file of `len` bytes, calling `found` for each that is whole, has a right checksum
/// and does not go back in offsets; stops at the first that isn't and gives the bytes before it.
pub(crate) fn scan(
    file: &(impl ReadAt + ?Sized),
    len: u64,
    mut min_offset: i64,
    mut found: impl FnMut(&BatchHeader),
) -> io::Result<u64> {
    let (mut at, mut buffer) = (0u64, Vec::new());
    while len - at >= HEADER_LEN as u64 {
        let mut head = [0; HEADER_LEN];
        file.fill(&mut head, at)?;
        let Ok(header) = BatchHeader::parse(&head) else {
            break;
        };
        // Bounded by the file's own length, so a hostile length allocates no more than is there.
        if header.total_len() as u64 > len - at || header.base_offset < min_offset {
            break;
        }
        buffer.resize(header.total_len(), 0);
        file.fill(&mut buffer, at)?;
        if batch::check_crc(&header, &buffer).is_err() {
            break;
        }
        found(&header);
        min_offset = header.next_offset();
        at += header.total_len() as u64;
    }
    Ok(at)
}

/// `<base offset, 20 digits>.log`, so that names sort as offsets do.
pub(crate) fn log_path(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
