use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Aggregate, Settings};

/// Windows of one size, side by side, aligned to 1970-01-01: each record of a key falls into exactly one.
///
/// ```text
///  -60 s          -30 s            0             30 s      stream time
/// ───┼──────────────┼──────────────┼──────────────┼───────────┼────────▶
///    │ [-60 s, -30 s) [-30 s, 0)     [0, 30 s)      [30 s, 60 s)
///    └ closed once stream time ≥ its end + grace
/// ```
///
/// A record changes its window, and the change is returned at once: an update stream. A closed window is forgotten, and
/// records that come for it are dropped and counted.
///
/// No more than [`Settings::max_open`] windows are open. When a record needs one more, the oldest windows (those of one
/// start, of every key) are closed early: the grace shrinks, results stay right. If the record's own window is among
/// the oldest, there is nothing to give up for it, and the record is dropped and counted.
#[derive(Clone, Debug)]
pub struct TumblingWindows<K, A> {
    settings: Settings,
    /// By start, then by key.
    open: BTreeMap<i64, BTreeMap<K, A>>,
    /// How many aggregates `open` holds.
    open_count: usize,
    progress: Progress,
    dropped: Dropped,
}

/// A window's bounds, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// The first millisecond in it.
    pub start_ms: i64,
    /// The first millisecond after it.
    pub end_ms: i64,
}

/// What became of a record.
#[derive(Debug, PartialEq)]
pub enum Added<'a, A> {
    /// Its window has a new aggregate: to be emitted, and to be kept if the state is to survive.
    Changed(Window, &'a A),
    /// Its window has taken it in and is as it was.
    Unchanged(Window),
    /// Its window is closed.
    Late(Window),
    /// All windows allowed are open, none of them older than its own.
    Full(Window),
}

/// How far the stream has come: what has to be kept, beside the open windows, to go on after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The latest timestamp seen, Unix milliseconds.
    pub stream_time_ms: i64,
    /// Windows that start before this are closed: what is kept of them can be deleted.
    pub closed_before_ms: i64,
}

impl Progress {
    const NONE: Self = Self {
        stream_time_ms: i64::MIN,
        closed_before_ms: i64::MIN,
    };
}

impl Default for Progress {
    fn default() -> Self {
        Self::NONE
    }
}

/// What has been dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Records that came after their window was closed.
    pub late: u64,
    /// Records that found all windows allowed open and none older than their own.
    pub full: u64,
    /// Windows closed before their grace was over, to make room.
    pub closed_early: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    #[error(
        "no window of {size_ms} ms starts at {start_ms}: the state was kept by windows of another size, delete it to start anew"
    )]
    NotAStart { start_ms: i64, size_ms: i64 },
}

impl<K: Ord, A: Aggregate> TumblingWindows<K, A> {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: BTreeMap::new(),
            open_count: 0,
            progress: Progress::NONE,
            dropped: Dropped::default(),
        }
    }

    /// Goes on from what was kept: the progress and the latest aggregate of each (key, window start). Windows closed by
    /// then are passed over.
    pub fn restore(
        settings: Settings,
        progress: Progress,
        windows: impl IntoIterator<Item = (K, i64, A)>,
    ) -> Result<Self, RestoreError> {
        let mut restored = Self::new(settings);
        restored.progress = progress;
        restored.advance(progress.stream_time_ms);
        for (key, start_ms, aggregate) in windows {
            if restored.window_at(start_ms).start_ms != start_ms {
                return Err(RestoreError::NotAStart {
                    start_ms,
                    size_ms: settings.size_ms(),
                });
            }
            if start_ms < restored.progress.closed_before_ms || !restored.make_room(start_ms) {
                continue;
            }
            if restored
                .open
                .entry(start_ms)
                .or_default()
                .insert(key, aggregate)
                .is_none()
            {
                restored.open_count += 1;
            }
        }
        Ok(restored)
    }

    /// Takes in a record.
    pub fn add(&mut self, key: K, timestamp_ms: i64, input: A::Input) -> Added<'_, A> {
        self.advance(timestamp_ms);
        let window = self.window_at(timestamp_ms);
        if window.start_ms < self.progress.closed_before_ms {
            self.dropped.late += 1;
            return Added::Late(window);
        }
        if self
            .open
            .get(&window.start_ms)
            .is_some_and(|keys| keys.contains_key(&key))
        {
            let known = self
                .open
                .get_mut(&window.start_ms)
                .and_then(|keys| keys.get_mut(&key));
            let aggregate = known.expect("it was there on the line above");
            return if aggregate.add(input) {
                Added::Changed(window, aggregate)
            } else {
                Added::Unchanged(window)
            };
        }
        let Some(aggregate) = A::first(input) else {
            return Added::Unchanged(window);
        };
        if !self.make_room(window.start_ms) {
            self.dropped.full += 1;
            return Added::Full(window);
        }
        self.open_count += 1;
        let keys = self.open.entry(window.start_ms).or_default();
        Added::Changed(window, keys.entry(key).or_insert(aggregate))
    }

    /// The window a timestamp falls into.
    pub fn window_at(&self, timestamp_ms: i64) -> Window {
        let size = self.settings.size_ms();
        // At the very ends of time a window is cut off rather than wrapped round.
        let start_ms = timestamp_ms.saturating_sub(timestamp_ms.rem_euclid(size));
        Window {
            start_ms,
            end_ms: start_ms.saturating_add(size),
        }
    }

    /// What to keep beside the changed windows.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// How many windows are open, over all keys.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// The open windows, oldest first, then by key.
    pub fn open(&self) -> impl Iterator<Item = (&K, Window, &A)> {
        self.open.iter().flat_map(|(start_ms, keys)| {
            let window = self.window_at(*start_ms);
            keys.iter()
                .map(move |(key, aggregate)| (key, window, aggregate))
        })
    }

    /// Moves stream time on and closes what is over: a window whose end + grace stream time has reached.
    fn advance(&mut self, timestamp_ms: i64) {
        if timestamp_ms > self.progress.stream_time_ms {
            self.progress.stream_time_ms = timestamp_ms;
        }
        let over = self
            .progress
            .stream_time_ms
            .saturating_sub(self.settings.grace_ms());
        let closed_before_ms = self.window_at(over).start_ms;
        if closed_before_ms > self.progress.closed_before_ms {
            self.progress.closed_before_ms = closed_before_ms;
            while let Some(entry) = self.open.first_entry()
                && *entry.key() < closed_before_ms
            {
                self.open_count -= entry.remove().len();
            }
        }
    }

    /// Makes room for one more window that starts at `start_ms`; false if there is none to be had.
    fn make_room(&mut self, start_ms: i64) -> bool {
        while self.open_count >= self.settings.max_open() {
            let Some(entry) = self.open.first_entry().filter(|e| *e.key() < start_ms) else {
                return false;
            };
            let (oldest, keys) = entry.remove_entry();
            self.open_count -= keys.len();
            self.dropped.closed_early += keys.len() as u64;
            self.progress.closed_before_ms = self.window_at(oldest).end_ms;
        }
        true
    }
}
