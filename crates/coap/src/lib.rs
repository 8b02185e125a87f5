//! A CoAP endpoint as a state machine: datagrams and an `Instant` go in, datagrams and events come out.
//!
//! It speaks RFC 7252 (messages, reliability, deduplication), RFC 7641 (observe, both sides) and RFC 7959 (block-wise
//! transfers, both ways). It owns no socket, clock or thread: the caller passes `now` in, asks [`Endpoint::next_timeout`]
//! when to come back, and after every call drains [`Endpoint::poll_transmit`] and [`Endpoint::poll_event`].
//!
//! Option numbers are `coap-lite`'s. Its `Packet` is not used on the way in: it makes a list node and a vector of each
//! option and takes messages that RFC 7252 section 3 calls malformed; the tests hold our bytes against it instead.

mod block;
mod code;
mod config;
mod endpoint;
pub mod fuzz;
mod message;
mod scratch;
mod token;
mod types;

pub use code::{Code, Method};
pub use config::Config;
pub use endpoint::Endpoint;
pub use token::{ParseTokenError, Token, TokenTooLong};
pub use types::{
    AckId, Event, ExchangeId, FailureReason, Peer, Request, RequestId, RequestOptions, Response,
    SendError, Stats, Transmit,
};
