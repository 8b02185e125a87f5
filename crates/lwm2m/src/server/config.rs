use std::time::Duration;

/// Settings of a [`Server`](super::Server) with their defaults and bounds.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The CoAP endpoint below.
    pub coap: coap::Config,
    /// Devices registered at one time; a further one gets 5.03. Default 200,000.
    pub max_registrations: usize,
    /// Bytes of an endpoint name; a longer one gets 4.00. Default 128.
    pub max_endpoint_bytes: usize,
    /// Links in one registration or update; more get 4.13. Default 1,000.
    pub max_links: usize,
    /// Parameters of one registration that LwM2M does not define; more get 4.00. Default 32, at most 255 bytes each.
    pub max_attributes: usize,
    /// Requests waiting for one device besides the one on the way. Default 64.
    pub max_pending_per_device: usize,
    /// Observations of one device. Default 64.
    pub max_observations_per_device: usize,
    /// Devices that are gone and whose observations are kept for their return; the first that went gives way.
    /// Default 100,000.
    pub max_dormant_devices: usize,
    /// How long a device has to answer, where the request does not say: from [`Server::request`](super::Server::request)
    /// to its answer. Default 60 s.
    pub request_timeout: Duration,
    /// How long a request holds its device's lane after the device has acknowledged it without answering (RFC 7252
    /// section 5.2.2), where that is less than the time it has left. It then ends with
    /// [`RequestFailure::Timeout`](crate::RequestFailure::Timeout). Default 93 s.
    pub answer_timeout: Duration,
    /// How long a device in queue mode listens after it was last heard of (TS 1.1 transport, section 6.5), where
    /// [`Server::set_awake_window`](super::Server::set_awake_window) says nothing else. Default 93 s, RFC 7252's
    /// MAX_TRANSMIT_WAIT.
    pub awake_window: Duration,
    /// Devices with an awake window of their own; more are refused. Default 200,000.
    pub max_awake_windows: usize,
    /// What a 5.03 of this server gives as Max-Age when a bound is reached. Whole seconds. Default 60 s.
    pub retry_after: Duration,
    /// How much longer than its lifetime a registration stands, for updates that are late on the way. Default 0 s.
    pub lifetime_grace: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            coap: coap::Config::default(),
            max_registrations: 200_000,
            max_endpoint_bytes: 128,
            max_links: 1_000,
            max_attributes: 32,
            max_pending_per_device: 64,
            max_observations_per_device: 64,
            max_dormant_devices: 100_000,
            request_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(93),
            awake_window: Duration::from_secs(93),
            max_awake_windows: 200_000,
            retry_after: Duration::from_secs(60),
            lifetime_grace: Duration::ZERO,
        }
    }
}
