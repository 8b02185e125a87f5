//! Devices on other people's LwM2M and CoAP libraries against our server.
//!
//! What is here serves the tests under `tests/`: a gateway (the built program's server, with an embedded broker and
//! registry behind it), its REST, and the peers. The peers' sources are in `peers/` and, for Leshan, in testkit.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod certificates;
mod gateway;
mod life;
mod peer;
mod rest;

pub use certificates::Certificates;
pub use gateway::{Gateway, story};
pub use life::live;
pub use peer::{Library, Peer};
pub use rest::Rest;
