//! The roles of LwM2M 1.0 and 1.1 as state machines: the server (registrations, requests, observations) and the device.
//!
//! Nothing here has a socket, a clock or a source of randomness. A driver hands in datagrams and the time, and takes
//! out datagrams to send, events, and the moment it wants to be called again; [`server`] and [`client`] each show the
//! loop. Underneath both is one [`coap::Endpoint`].

mod answer;
pub mod client;
pub mod fuzz;
mod observation;
mod operation;
mod registration;
mod serde_forms;
pub mod server;
mod target;

use std::time::Instant;

pub use answer::{Body, DeviceResponse, RequestError, RequestFailure, Values};
pub use observation::{Observation, ObservationState};
pub use operation::{DEVICE_CHOOSES, Operation, WriteMode};
pub use registration::{
    Binding, DEFAULT_LIFETIME, InvalidBinding, Registration, RegistrationUpdate, Version,
};
pub use target::{InvalidTarget, Target};

/// One moment on both clocks: timers run on the monotonic one, what is stored or shown carries the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub unix_ms: i64,
}
