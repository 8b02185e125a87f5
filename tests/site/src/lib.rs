//! What tests of services stand on: a Kafka cluster and a schema registry, the embedded ones or real ones, clients of both, and a service run in a task.
//!
//! Everything here is for tests only: what can't go on panics, so that a test reads as its story.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod connectors;
mod desk;
mod device;
mod kafka;
mod registry;
mod running;
#[allow(clippy::module_inception, reason = "the crate is called after it")]
mod site;
mod topic;

use std::time::Duration;

pub use crate::connectors::Connectors;
pub use crate::desk::{Desk, WatchingDesk, request};
pub use crate::device::Device;
pub use crate::kafka::Kafka;
pub use crate::registry::Registry;
pub use crate::running::Running;
pub use crate::site::Site;
pub use crate::topic::Topic;

/// The longest wait for anything: generous, as machines are busy, and nothing waits for it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);
