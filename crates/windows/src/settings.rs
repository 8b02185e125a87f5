use std::time::Duration;

use thiserror::Error;

/// How long a window stays open after its end, unless set: 24 hours (contract, section 8).
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many windows are open at once, over all keys, unless set.
pub const DEFAULT_MAX_OPEN: usize = 200_000;

/// The shape of tumbling windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    size_ms: i64,
    grace_ms: i64,
    max_open: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error(
        "a window's size has to be whole milliseconds, at least one and at most 2^62, not {0:?}"
    )]
    BadSize(Duration),
    #[error("the grace has to be whole milliseconds and at most 2^62, not {0:?}")]
    BadGrace(Duration),
    #[error("at least one window has to be allowed to be open")]
    NoWindows,
}

impl Settings {
    /// Windows of `size`, with [`DEFAULT_GRACE`] and [`DEFAULT_MAX_OPEN`].
    pub fn new(size: Duration) -> Result<Self, SettingsError> {
        let size_ms = whole_ms(size)
            .filter(|ms| *ms > 0)
            .ok_or(SettingsError::BadSize(size))?;
        Self {
            size_ms,
            grace_ms: 0,
            max_open: DEFAULT_MAX_OPEN,
        }
        .with_grace(DEFAULT_GRACE)
    }

    /// How long after its end, in stream time, a window still takes late records.
    pub fn with_grace(self, grace: Duration) -> Result<Self, SettingsError> {
        let grace_ms = whole_ms(grace).ok_or(SettingsError::BadGrace(grace))?;
        Ok(Self { grace_ms, ..self })
    }

    /// How many windows may be open at once, over all keys. What happens beyond is said at
    /// [`TumblingWindows`](crate::TumblingWindows).
    pub fn with_max_open(self, max_open: usize) -> Result<Self, SettingsError> {
        if max_open == 0 {
            return Err(SettingsError::NoWindows);
        }
        Ok(Self { max_open, ..self })
    }

    pub fn size(&self) -> Duration {
        Duration::from_millis(self.size_ms.unsigned_abs())
    }

    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.unsigned_abs())
    }

    pub fn max_open(&self) -> usize {
        self.max_open
    }

    pub(crate) fn size_ms(&self) -> i64 {
        self.size_ms
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        self.grace_ms
    }
}

fn whole_ms(duration: Duration) -> Option<i64> {
    let ms = i64::try_from(duration.as_millis())
        .ok()
        .filter(|ms| *ms <= 1 << 62)?;
    duration
        .subsec_nanos()
        .is_multiple_of(1_000_000)
        .then_some(ms)
}
