//! What can be set, with defaults and bounds.

use std::time::Duration;

use crate::block::LARGEST_BODY;

const DAY: Duration = Duration::from_secs(86_400);

/// Settings of an [`crate::Endpoint`]. The defaults are RFC 7252's (section 4.8) where it names one.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// ACK_TIMEOUT: time to the first retransmission. Default 2 s; at least 1 ms, at most a day.
    pub ack_timeout: Duration,
    /// ACK_RANDOM_FACTOR: the first time-out is spread over `ack_timeout .. ack_timeout * this`. Default 1.5; below 1 counts as 1.
    pub ack_random_factor: f64,
    /// MAX_RETRANSMIT: retransmissions of a confirmable message. Default 4; at most 16 are made.
    pub max_retransmit: u32,
    /// NSTART: confirmable messages on the way to one peer (section 4.7). Default 1; at least 1, at most 1024.
    pub nstart: usize,
    /// Messages waiting behind `nstart`, for one peer. Default 64.
    pub max_queue_per_peer: usize,
    /// MAX_LATENCY: how long a datagram may live in the network. Default 100 s; at most a day.
    pub max_latency: Duration,
    /// How long an incoming confirmable request waits for [`crate::Endpoint::respond`] before it gets an empty
    /// acknowledgement and its response travels separately (section 5.2.2). Default 500 ms; must be less than the peer's ACK_TIMEOUT.
    pub separate_after: Duration,
    /// Largest block sent, and asked for, in bytes: 16, 32, 64 .. 1024; other values count as the next smaller one. Default 1024.
    pub block_size: u16,
    /// Largest body assembled from blocks, or cut into them, in bytes, either way. Default 1 MiB; at most
    /// 16 MiB, which is what 2^20 of the smallest blocks hold.
    pub max_body: usize,
    /// Bodies held for block-wise transfers: incoming Block1 ones, and separately outgoing Block2 ones; the oldest gives way. Default 1024.
    pub max_bodies: usize,
    /// Bytes of these bodies, per direction; the oldest gives way. Default 32 MiB.
    pub max_bodies_bytes: usize,
    /// Incoming requests waiting for [`crate::Endpoint::respond`]; further ones get 5.03. Default 65 536.
    pub max_exchanges: usize,
    /// Messages remembered to recognise duplicates (section 4.5); the oldest give way. Default 200 000.
    pub max_dedup: usize,
    /// Bytes of replies kept for duplicates; the oldest give way. Default 64 MiB.
    pub max_dedup_bytes: usize,
    /// Peers with a message id counter (one each that was sent a message of our own in the last EXCHANGE_LIFETIME). Default 262 144.
    pub max_peers: usize,
    /// Observers of ours, all peers together; a further one is answered without observe (RFC 7641 section 4.1). Default 262 144.
    pub max_observers: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            nstart: 1,
            max_queue_per_peer: 64,
            max_latency: Duration::from_secs(100),
            separate_after: Duration::from_millis(500),
            block_size: 1024,
            max_body: 1 << 20,
            max_bodies: 1024,
            max_bodies_bytes: 32 << 20,
            max_exchanges: 1 << 16,
            max_dedup: 200_000,
            max_dedup_bytes: 64 << 20,
            max_peers: 1 << 18,
            max_observers: 1 << 18,
        }
    }
}

impl Config {
    /// MAX_TRANSMIT_SPAN: from the first transmission to the last retransmission (section 4.8.2). 45 s by default.
    pub fn max_transmit_span(&self) -> Duration {
        self.spread((1_u32 << self.retransmissions()) - 1)
    }

    /// MAX_TRANSMIT_WAIT: from the first transmission until the sender gives up (section 4.8.2). 93 s by default.
    pub fn max_transmit_wait(&self) -> Duration {
        self.spread((1_u32 << (self.retransmissions() + 1)) - 1)
    }

    /// EXCHANGE_LIFETIME: how long a confirmable message's id may not be used again. 247 s by default.
    pub fn exchange_lifetime(&self) -> Duration {
        self.max_transmit_span() + 2 * self.latency() + self.first_timeout()
    }

    /// NON_LIFETIME: the same for a non-confirmable message. 145 s by default.
    pub fn non_lifetime(&self) -> Duration {
        self.max_transmit_span() + self.latency()
    }

    pub(crate) fn body_limit(&self) -> usize {
        self.max_body.min(LARGEST_BODY)
    }

    pub(crate) fn retransmissions(&self) -> u32 {
        self.max_retransmit.min(16)
    }

    pub(crate) fn random_factor(&self) -> f64 {
        // A NaN fails the comparison and counts as 1 as well; 10 keeps every product far from overflow.
        if self.ack_random_factor > 1.0 {
            self.ack_random_factor.min(10.0)
        } else {
            1.0
        }
    }

    /// Between a millisecond, so that time always moves on, and a day, so that no product overflows.
    pub(crate) fn first_timeout(&self) -> Duration {
        self.ack_timeout.clamp(Duration::from_millis(1), DAY)
    }

    fn latency(&self) -> Duration {
        self.max_latency.min(DAY)
    }

    fn spread(&self, factor: u32) -> Duration {
        (self.first_timeout() * factor).mul_f64(self.random_factor())
    }
}
