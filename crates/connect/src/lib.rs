//! Connectors, tasks and the Kafka Connect REST they are managed by, shared by the sinks.
//!
//! ```text
//! REST, --connector FILE → config topic (compacted) → Worker → tasks.max × kafka::consume(connect-<name>) → SinkTask::put
//! ```
//!
//! - What is wanted (configurations, paused or started) lives in a Kafka topic in Kafka Connect's own form, so it
//!   survives restarts and every replica of the service follows it. Each replica runs `tasks.max` consumers of the
//!   group `connect-<name>`: scaling out is adding replicas.
//! - A sink implements [`Sink`] and [`SinkTask`]; offsets are committed only after [`SinkTask::put`] returned `Ok`.
//! - A task whose retries are used up is FAILED with its reason as `trace`, and stays so until it is restarted.
//! - Values of secret keys never leave in an answer or a log: they show as `***`, and a configuration sent back with
//!   `***` keeps the stored secret.

mod config;
mod convert;
mod files;
pub mod metrics;
mod rest;
mod server;
mod sink;
mod store;
mod worker;

pub use config::{Config, ConfigError, Problem, Subscription};
pub use convert::{ConvertError, Converter, dead_letter};
pub use kafka::{ProcessError, Record};
pub use server::{ConnectArgs, Server};
pub use sink::{Key, Retries, Sink, SinkTask, TaskContext};
