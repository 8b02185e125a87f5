//! Clusters, registries, mirrors and the server killed in seeded order while values and commands flow; then everything is counted.
//!
//! The parts are real: Apache Kafka twice, our registries, mirrors and server as processes of the built program. The
//! short run is a test of this crate, the long one is `make soak`.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod copies;
mod load;
mod offline;
mod path;
mod plan;
mod readers;
mod run;
mod verdict;

pub use offline::catch_up;
pub use path::{GATEWAY, Part, Path, topic};
pub use plan::{Fault, Plan};
pub use readers::others_read_the_same;
pub use run::{Settings, run};
pub use verdict::Verdict;
