//! The analytics as their users see them: observations in, maxima and counts out, whatever happens in between.

// A helper of a test fails the test like the test itself.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod crashes;
mod options;
mod results;
mod support;
