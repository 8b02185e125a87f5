//! The bridge as its neighbours see it: devices over UDP on one side, Kafka's topics on the other.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

#[path = "../site/mod.rs"]
mod site;

mod anew;
mod journal;
mod kills;
mod outage;
mod partitions;
mod queue_mode;
mod raw;
mod records;
mod rights;
mod values;

/// Not a test by itself: the server as a process that can be killed ([`site::Site::start_process`]).
#[test]
fn server_process() {
    site::run_as_process();
}
