//! Tests of the whole path through the front door: the built program, its command line, and real clients and servers around it.
//!
//! What is here serves the tests under `tests/`: getting the program, running its commands, tapping topics, and
//! looking after a running `zeelos up`.

mod command;
mod processes;
mod program;
mod service;
mod tap;
mod up;

pub use command::{Outcome, Zeelos};
pub use processes::{Process, children_of, is_running, kill_9, signal};
pub use program::zeelos;
pub use service::Service;
pub use tap::{Seen, Tap};
pub use up::{Site, Up};
