//! A Kafka broker for a single node, so that a site runs with nothing else installed: Kafka's protocol in front, a log on disk behind.
//!
//! **Scope: one node.** There is no replication and no cluster. Where one machine is outgrown, the same client settings
//! point at Apache Kafka. Also absent: transactions (refused with a clear error), compaction (`cleanup.policy=compact`
//! is taken and means "keep everything"), SASL and ACLs (with TLS, who has a certificate may do everything).
//!
//! Committed offsets are kept in a file of their own, not in a `__consumer_offsets` topic; members of groups are not kept
//! over a restart: they join again by themselves.
//!
//! What is kept: an acknowledged record survives `kill -9` (it is in the kernel's page cache before the acknowledgement);
//! what a power cut may take is bounded by [`FlushPolicy`]. Record batches are stored as they came, in whatever
//! compression, after their checksum was verified, and are handed out as the same bytes.
//!
//! On disk, below `data_dir`:
//! ```text
//! cluster.json   topics.json   producer-ids   offsets.log   .lock
//! topics/<topic>-<partition>/<base offset>.log         record batches
//!                            <base offset>.index       where some of them are; marks the segment as whole
//!                            <offset>.producers        idempotent producers up to that offset
//!                            log-start                 after DeleteRecords
//! ```

mod broker;
mod clock;
mod config;
mod disk;
mod error;
mod files;
pub mod fuzz;
mod groups;
mod handlers;
mod log;
mod metrics;
mod protocol;
mod run;
mod server;
mod shared;
mod topics;

pub use broker::Broker;
pub use config::{BrokerConfig, FlushPolicy, GroupSettings, Limits, Retention};
pub use error::StartError;
pub use run::{Args, run};
