//! What every service starts with: configuration, logging, metrics, health and shutdown.
//!
//! A program calls [`config::parse`] for its arguments and [`run`] with what it does; it gets a
//! [`Context`] whose parts answer the operator's questions: `/metrics`, `/livez` and `/readyz` on
//! the admin listener, and a [`CancellationToken`] that fires on SIGINT or SIGTERM.

pub mod admin;
pub mod auth;
mod clock;
pub mod config;
pub mod health;
pub mod metrics;
mod runtime;
mod secret;
mod seldom;
pub mod tls;

pub use clock::now_ms;
pub use health::{Condition, Health};
pub use runtime::{Backoff, CommonArgs, Context, LogFormat, run};
pub use secret::Secret;
pub use tokio_util::sync::CancellationToken;
