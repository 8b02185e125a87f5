use std::sync::LazyLock;

use e2e::Service;
use site::{Site, WatchingDesk};
use testkit::free_port;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::Rest;

/// Our server in a process of its own, with a broker and a registry behind it.
pub struct Gateway {
    pub site: Site,
    /// `host:port` for devices, over IPv4.
    pub coap: String,
    /// The same for devices that speak DTLS.
    pub coaps: String,
    pub rest: Rest,
    _server: Service,
}

/// One runtime for all stories of a test process, so that they can share what runs on it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Runs a test.
pub fn story(tell: impl Future<Output = anyhow::Result<()>>) {
    RUNTIME
        .block_on(tell)
        .unwrap_or_else(|error| panic!("{error:#}"));
}

impl Gateway {
    /// The server's id, and the gateway's in the topics.
    pub const ID: &str = "gw";

    /// One for all stories of this process; each takes endpoint names of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Gateway> = OnceCell::const_new();
        SHARED
            .get_or_init(async || Self::start(&[]).await.unwrap())
            .await
    }

    /// One of its own, with more options of the server.
    ///
    /// # Errors
    /// When the server does not become ready.
    pub async fn start(options: &[&str]) -> anyhow::Result<Self> {
        let site = Site::start().await;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let (coap, coaps, web) = (free_port(), free_port(), local(free_port()));
        // Of both families, as a gateway's are.
        let [at, secure_at] = [coap, coaps].map(|port| format!("[::]:{port}"));
        let named = [
            ("-n", Self::ID),
            ("--coap-listen", &*at),
            ("--coaps-listen", &secure_at),
            ("--web-listen", &web),
            ("--data-dir", "store"),
            ("--kafka-bootstrap-server", site.bootstrap()),
            ("--kafka-schema-registry-url", site.registry_url()),
        ];
        let named = named.into_iter().flat_map(|(name, value)| [name, value]);
        let all = named.chain(options.iter().copied());
        let server = Service::start("leshan-server-kafka", all).await?;
        Ok(Self {
            rest: Rest::new(&web),
            site,
            coap: local(coap),
            coaps: local(coaps),
            _server: server,
        })
    }

    /// The same place over IPv6.
    pub fn over_ipv6(place: &str) -> String {
        place.replace("127.0.0.1", "[::1]")
    }

    pub async fn desk(&self) -> WatchingDesk {
        WatchingDesk::open(&self.site, Self::ID).await
    }
}
