//! The clients of this crate against the embedded broker and registry.

#![allow(
    clippy::unwrap_used,
    reason = "a story that can not go on should stop there"
)]

mod consuming;
mod letters;
mod producing;
mod registry;
mod support;
mod tls;
