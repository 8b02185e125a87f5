//! The registry through its front door: REST, the topic, and clients that others wrote.

// A helper of a test fails the test like the test itself.
#![allow(clippy::unwrap_used)]

mod clients;
mod common;
mod confluent;
mod rest;
mod topic;
