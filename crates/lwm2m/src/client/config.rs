use std::time::Duration;

use crate::{Binding, DEFAULT_LIFETIME, Version};

/// How notifications are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NotificationMode {
    /// Acknowledged by the server, and sent again until they are: nothing is lost on the way.
    #[default]
    Confirmable,
    /// Sent once.
    NonConfirmable,
}

/// Settings of a [`Client`](super::Client) with their defaults and bounds.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The endpoint client name.
    pub endpoint: String,
    /// How long the registration stands without an update. Whole seconds, at least 1 s. Default 86,400 s.
    pub lifetime: Duration,
    /// Default 1.1.
    pub version: Version,
    /// Default `U`. With `Q`, or its `queue`, the device sleeps: outside of
    /// [`awake_window`](Self::awake_window) it does not hear what is sent to it.
    pub binding: Binding,
    /// Further parameters of the registration.
    pub attributes: Vec<(String, String)>,
    /// Default confirmable.
    pub notifications: NotificationMode,
    /// How long a device in queue mode (a binding with `Q`) listens after it last sent or received something (TS 1.1
    /// transport, section 6.5). Default 93 s, RFC 7252's MAX_TRANSMIT_WAIT.
    pub awake_window: Duration,
    /// Paths in one composite operation; more get 4.13. Default 100.
    pub max_composite_paths: usize,
    /// Sends that wait for their answers. Default 16.
    pub max_sends: usize,
    /// Observations taken, all paths together; a further one is answered once, without more to come. Default 100.
    pub max_observers: usize,
    /// The wait before the second attempt to register; it doubles with each one that fails. Default 2 s.
    pub retry_first: Duration,
    /// The longest wait between attempts. Default 300 s.
    pub retry_longest: Duration,
    /// How long the server has to answer a registration or an update. Default 93 s, RFC 7252's MAX_TRANSMIT_WAIT.
    pub request_timeout: Duration,
    /// The CoAP endpoint below. The default remembers less than a server's: a device has one peer.
    pub coap: coap::Config,
}

impl ClientConfig {
    /// The defaults, with this endpoint name.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            lifetime: DEFAULT_LIFETIME,
            version: Version::V1_1,
            binding: Binding::default(),
            attributes: Vec::new(),
            notifications: NotificationMode::default(),
            awake_window: Duration::from_secs(93),
            max_composite_paths: 100,
            max_sends: 16,
            max_observers: 100,
            retry_first: Duration::from_secs(2),
            retry_longest: Duration::from_secs(300),
            request_timeout: Duration::from_secs(93),
            coap: coap::Config {
                max_bodies: 16,
                max_exchanges: 64,
                max_dedup: 1_024,
                max_dedup_bytes: 1 << 20,
                max_peers: 64,
                max_observers: 100,
                ..coap::Config::default()
            },
        }
    }
}
