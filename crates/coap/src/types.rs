//! What goes into an endpoint and what comes out of it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::{Code, Method, Token};

/// The other end: an address, and the security session that it speaks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Where its datagrams come from.
    pub addr: SocketAddr,
    /// 0 is plain UDP (NoSec); each DTLS session has its own number.
    pub session: u64,
}

impl Peer {
    /// A peer without security.
    pub const fn plain(addr: SocketAddr) -> Peer {
        Peer { addr, session: 0 }
    }
}

/// In one piece: the derived one gives a hasher ten small ones, for each datagram several times over.
impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (ip, scope) = match self.addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped().to_bits(), 0),
            SocketAddr::V6(v6) => (v6.ip().to_bits(), v6.scope_id()),
        };
        let mut bytes = [0; 30];
        bytes[..16].copy_from_slice(&ip.to_ne_bytes());
        bytes[16..20].copy_from_slice(&scope.to_ne_bytes());
        bytes[20..22].copy_from_slice(&self.addr.port().to_ne_bytes());
        bytes[22..].copy_from_slice(&self.session.to_ne_bytes());
        state.write(&bytes);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.session {
            0 => write!(f, "{}", self.addr),
            session => write!(f, "{} (session {session})", self.addr),
        }
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: Peer,
    /// The whole datagram.
    pub payload: Bytes,
}

/// A request with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Uri-Path, one item per segment, each at most 255 bytes.
    pub path: Vec<String>,
    /// Uri-Query, one item per argument, each at most 255 bytes.
    pub query: Vec<String>,
    /// Content-Format of the body.
    pub content_format: Option<u16>,
    /// Accept.
    pub accept: Option<u16>,
    /// Observe: 0 registers, 1 deregisters (RFC 7641 section 2).
    pub observe: Option<u32>,
    /// The body.
    pub payload: Bytes,
}

impl Request {
    /// A request without query, options and body.
    pub fn new<S: Into<String>>(method: Method, path: impl IntoIterator<Item = S>) -> Request {
        Request {
            method,
            path: path.into_iter().map(Into::into).collect(),
            query: Vec::new(),
            content_format: None,
            accept: None,
            observe: None,
            payload: Bytes::new(),
        }
    }
}

/// A response with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The response code.
    pub code: Code,
    /// Content-Format of the body.
    pub content_format: Option<u16>,
    /// Location-Path, one item per segment.
    pub location_path: Vec<String>,
    /// Observe. Incoming: the 24-bit sequence number. Outgoing: `Some` accepts the observer, the endpoint fills the number in.
    pub observe: Option<u32>,
    /// Max-Age in seconds.
    pub max_age: Option<u32>,
    /// The body.
    pub payload: Bytes,
}

impl Response {
    /// A response of nothing but a code.
    pub fn new(code: Code) -> Response {
        Response {
            code,
            content_format: None,
            location_path: Vec::new(),
            observe: None,
            max_age: None,
            payload: Bytes::new(),
        }
    }
}

/// How a request is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOptions {
    /// The token to use; `None` takes a fresh one of 8 random bytes.
    pub token: Option<Token>,
    /// Sent as CON (default) or NON.
    pub confirmable: bool,
    /// Time to the answer, waiting behind NSTART included; every block of a block-wise body starts it anew.
    /// Default 93 s, MAX_TRANSMIT_WAIT of RFC 7252.
    pub timeout: Duration,
    /// Largest block the peer takes in bytes, if it is known to be less than the endpoint's own: 16, 32 .. 1024.
    pub block_size: Option<u16>,
    /// Time from an acknowledgement without the answer to the answer itself, where that is less than what is left of
    /// `timeout`. `None`, the default: no bound of its own.
    pub answer_timeout: Option<Duration>,
}

impl Default for RequestOptions {
    fn default() -> RequestOptions {
        RequestOptions {
            token: None,
            confirmable: true,
            timeout: Duration::from_secs(93),
            block_size: None,
            answer_timeout: None,
        }
    }
}

/// A request of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// A request of a peer that waits for [`crate::Endpoint::respond`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub(crate) u64);

/// A confirmable notification that waits for [`crate::Endpoint::acknowledge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AckId {
    pub(crate) peer: Peer,
    pub(crate) message_id: u16,
    /// Which of the confirmable messages that ever came.
    pub(crate) serial: u64,
}

/// Something the caller wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer asks; the body is complete. To be answered with [`crate::Endpoint::respond`].
    Request {
        /// To be passed to `respond`.
        exchange: ExchangeId,
        /// Who asks.
        from: Peer,
        /// The token of the request; with observe 0 it names the observation.
        token: Token,
        /// What it asks.
        request: Request,
    },
    /// The answer to a request of ours; the body is complete. The last event of this id.
    Response {
        /// Which request.
        id: RequestId,
        /// Who answers.
        from: Peer,
        /// The token the request was sent with.
        token: Token,
        /// The answer.
        response: Response,
    },
    /// A request of ours got no usable answer. The last event of this id.
    RequestFailed {
        /// Which request.
        id: RequestId,
        /// Whom it was for.
        to: Peer,
        /// The token the request was sent with.
        token: Token,
        /// What went wrong.
        reason: FailureReason,
    },
    /// A newer value of a watched token; stale ones (RFC 7641 section 3.4) are not reported. With an error code it is the last one.
    Notification {
        /// Who sends it.
        from: Peer,
        /// The observation's token.
        token: Token,
        /// The value.
        response: Response,
        /// Present when the notification is confirmable: to be passed to [`crate::Endpoint::acknowledge`] when the value is safe.
        ack: Option<AckId>,
    },
    /// A notification of ours was reset, or was never acknowledged: the observer is gone.
    NotificationRejected {
        /// The observer.
        to: Peer,
        /// The observation's token.
        token: Token,
    },
}

/// Why a request of ours failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum FailureReason {
    /// No acknowledgement after all retransmissions, or no answer in the request's time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The peer acknowledged the request, and no answer followed in time.
    #[error("the peer took the request and did not answer in time")]
    Unanswered,
    /// The peer sent RST: it lacks the context to process the request (RFC 7252 section 4.2).
    #[error("the peer reset the request")]
    Reset,
    /// The answer is larger than `Config::max_body`.
    #[error("the answer is larger than the limit for bodies")]
    BodyTooLarge,
    /// The answer has a critical option that is not understood, or its blocks do not fit together.
    #[error("the answer is not valid CoAP")]
    BadMessage,
}

/// Why a request was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SendError {
    /// `Config::max_queue_per_peer` messages are waiting for this peer.
    #[error("{limit} messages are waiting for this peer already; try again when it has answered")]
    QueueFull {
        /// The bound.
        limit: usize,
    },
    /// `Config::max_peers` peers have messages on the way.
    #[error(
        "messages are on the way to {limit} peers already; raise the limit of peers or try again later"
    )]
    TooManyPeers {
        /// The bound.
        limit: usize,
    },
    /// Another request to this peer is using the token.
    #[error("token {0} is used by a request to this peer that has no answer yet")]
    TokenInUse(Token),
    /// The body is larger than `Config::max_body`.
    #[error("a body of {size} bytes is larger than the limit of {limit}")]
    BodyTooLarge {
        /// Its bytes.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// A path segment or query argument is longer than RFC 7252 section 5.10 allows.
    #[error(
        "a segment of a path or an argument of a query has at most 255 bytes, this one has {0}"
    )]
    SegmentTooLong(usize),
}

/// What was counted since the endpoint was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams given to `handle_datagram`.
    pub datagrams: u64,
    /// Datagrams that are no CoAP message (RFC 7252 section 3), or of a type and code that do not go together.
    pub malformed: u64,
    /// Messages recognised as duplicates.
    pub duplicates: u64,
    /// Confirmable messages sent again.
    pub retransmissions: u64,
    /// Confirmable messages that were never acknowledged.
    pub transmit_timeouts: u64,
    /// RST messages sent.
    pub resets_sent: u64,
    /// RST messages received that match a message of ours.
    pub resets_received: u64,
    /// Acknowledgements, resets and responses that match nothing here.
    pub unmatched: u64,
    /// Requests answered 4.02 for an option.
    pub bad_options: u64,
    /// Notifications that were older than one seen before, or overtaken by a newer one while their blocks were fetched.
    pub stale_notifications: u64,
    /// Notifications whose further blocks could not be fetched.
    pub incomplete_notifications: u64,
    /// Requests refused because of `Config::max_exchanges`.
    pub exchanges_refused: u64,
    /// Requests that were not answered by the caller in EXCHANGE_LIFETIME.
    pub exchanges_expired: u64,
    /// Responses and notifications of ours that found a queue full or too many peers.
    pub overflowed: u64,
    /// Remembered messages that had to give way before their time.
    pub dedup_evicted: u64,
    /// Bodies of block-wise transfers that had to give way before their time.
    pub bodies_evicted: u64,
}
