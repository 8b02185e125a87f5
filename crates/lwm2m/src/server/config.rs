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
            lifetime_grace: Duration::ZERO,
        }
    }
}
