//! Event-time windows for analytics: what came when, whatever order it arrives in.
//!
//! Time is the records' own: *stream time* is the latest timestamp seen, and it alone closes windows. A timestamp far
//! ahead of its fellows therefore closes theirs; whoever feeds in timestamps that devices set should hold them
//! against a clock first.

mod aggregate;
mod settings;
mod tumbling;

pub use aggregate::{Aggregate, Count, Max};
pub use settings::{DEFAULT_GRACE, DEFAULT_MAX_OPEN, Settings, SettingsError};
pub use tumbling::{Added, Dropped, Progress, RestoreError, TumblingWindows, Window};
