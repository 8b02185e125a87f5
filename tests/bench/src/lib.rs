//! Benchmarks of the built program beside its peers, under one load, in one run.
//!
//! Each benchmark is a program of its own under `src/bin`. It prints what it measured as text, and as its last line one
//! JSON object of ratios; it fails where the counts of the two ends differ. What they share is here.

mod load;
mod program;
mod report;
mod site;
mod usage;

pub use load::{Fleet, Outcome, Pace, Work};
pub use program::{Service, release_program};
pub use report::last_line;
pub use site::Gateway;
pub use usage::{Usage, Used};
