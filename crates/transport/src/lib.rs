//! UDP sockets, with DTLS or without, that carry the datagrams of a CoAP state machine: in by the batch, out by the queue.
//!
//! A service's loop is the same whatever the machine is:
//!
//! ```no_run
//! # async fn example(mut endpoint: coap::Endpoint) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Instant;
//! use transport::{Batch, UdpConfig, UdpTransport};
//!
//! let transport = UdpTransport::bind(([0, 0, 0, 0], 5683).into(), &UdpConfig::default())?;
//! let mut batch = Batch::default();
//! loop {
//!     // Cancel safe: the service selects between this, its commands and its shutdown.
//!     transport.wait(&mut batch, endpoint.next_timeout()).await?;
//!     for (peer, datagram) in &batch {
//!         endpoint.handle_datagram(Instant::now(), peer, datagram);
//!     }
//!     // After every batch, empty or not: datagrams that keep coming must not hold the timers up.
//!     endpoint.handle_timeout(Instant::now());
//!     while let Some(_event) = endpoint.poll_event() { /* answer, store */ }
//!     // What must be kept is kept by now: only then does the answer leave.
//!     transport.send_all(std::iter::from_fn(|| endpoint.poll_transmit())).await;
//! }
//! # }
//! ```
//!
//! There is no trait for machines: they differ in what time is to them, and the loop above is all they share.

mod batch;
mod dtls;
mod many;
mod udp;

pub use batch::{Batch, Iter};
pub use dtls::{DtlsClient, DtlsServer, Incoming, Link};
pub use udp::{BindError, SendReport, Stats, UdpConfig, UdpTransport};
