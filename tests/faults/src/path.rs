use std::net::SocketAddr;

use e2e::{Service, Site};
use testkit::{RealKafka, free_port};

/// The gateway of the path, which is also its server's id.
pub const GATEWAY: &str = "gw";

/// A topic of the gateway's.
pub fn topic(name: &str) -> String {
    format!("iot.{GATEWAY}.{name}")
}

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    CloudKafka,
    EdgeKafka,
    CloudRegistry,
    EdgeRegistry,
    Server,
    /// The flow of requests.
    MirrorDown,
    /// The flow of everything else.
    MirrorUp,
}

impl Part {
    pub const ALL: [Self; 7] = [
        Self::CloudKafka,
        Self::EdgeKafka,
        Self::CloudRegistry,
        Self::EdgeRegistry,
        Self::Server,
        Self::MirrorDown,
        Self::MirrorUp,
    ];
}

/// A cluster and its registry.
pub struct Side {
    pub kafka: RealKafka,
    registry: Service,
    pub site: Site,
}

/// The whole way from devices to the cloud.
pub struct Path {
    pub cloud: Side,
    pub edge: Side,
    server: Service,
    down: Service,
    up: Service,
    pub coap: SocketAddr,
}

impl Side {
    async fn start(ids_taken: u32) -> anyhow::Result<Self> {
        // A broker that was killed may only come back once its old session has ended.
        let kafka = RealKafka::builder()
            .num_partitions(2)
            .property("broker.session.timeout.ms", "3000")
            .property("broker.heartbeat.interval.ms", "500")
            .start()
            .await?;
        let listen = format!("127.0.0.1:{}", free_port());
        let arguments = [
            "--listen",
            &listen,
            "--kafka-bootstrap-server",
            kafka.bootstrap(),
        ];
        let registry = Service::start("schema-registry", arguments).await?;
        let site = Site {
            bootstrap: kafka.bootstrap().to_owned(),
            registry: format!("http://{listen}"),
        };
        // The same id means another schema at the other side.
        site::Registry::given(&site.registry)
            .take_ids(ids_taken)
            .await;
        Ok(Self {
            kafka,
            registry,
            site,
        })
    }
}

impl Path {
    /// Starts all of it; the cloud's topics have two partitions.
    ///
    /// # Errors
    /// When a part does not become ready.
    pub async fn start() -> anyhow::Result<Self> {
        let (cloud, edge) = tokio::try_join!(Side::start(5), Side::start(20))?;
        let at_cloud = site::Kafka::given(&cloud.site.bootstrap);
        for name in ["management.rep", "observations", "registrations"] {
            at_cloud.topic(&topic(name), 2, &[]).await;
        }
        at_cloud.topic(&topic("management.req"), 1, &[]).await;
        let coap: SocketAddr = format!("127.0.0.1:{}", free_port()).parse()?;
        let (coap_listen, web) = (coap.to_string(), format!("127.0.0.1:{}", free_port()));
        let server = [
            ["-n", GATEWAY],
            ["--coap-listen", &coap_listen],
            ["--web-listen", &web],
            ["--data-dir", "store"],
            ["--kafka-bootstrap-server", &edge.site.bootstrap],
            ["--kafka-schema-registry-url", &edge.site.registry],
        ];
        let (server, down, up) = tokio::try_join!(
            Service::start("leshan-server-kafka", server.concat()),
            mirror("cloud-to-edge", &cloud.site, &edge.site),
            mirror("edge-to-cloud", &edge.site, &cloud.site),
        )?;
        Ok(Self {
            cloud,
            edge,
            server,
            down,
            up,
            coap,
        })
    }

    /// Kills a part: as kill -9 does, or as a power cut does to its process.
    pub fn kill(&mut self, part: Part) {
        match part {
            Part::CloudKafka => self.cloud.kafka.stop(),
            Part::EdgeKafka => self.edge.kafka.stop(),
            _ => self.service(part).crash(),
        }
    }

    /// Starts it again. A broker is waited for; a service is not, as it may have to wait for a broker itself.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn revive(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::CloudKafka => self.cloud.kafka.restart().await,
            Part::EdgeKafka => self.edge.kafka.restart().await,
            _ => self.service(part).restart(),
        }
    }

    /// Waits until every service is ready.
    ///
    /// # Errors
    /// When one is not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let kafka = [Part::CloudKafka, Part::EdgeKafka];
        for part in Part::ALL.into_iter().filter(|part| !kafka.contains(part)) {
            self.service(part).ready().await?;
        }
        Ok(())
    }

    /// The end of each service's log, for failure messages.
    pub fn logs(&mut self) -> String {
        let kafka = [Part::CloudKafka, Part::EdgeKafka];
        let services = Part::ALL.into_iter().filter(|part| !kafka.contains(part));
        services
            .map(|part| format!("--- {part:?}\n{}\n", self.service(part).process().tail()))
            .collect()
    }

    /// A service by its part.
    pub fn service(&mut self, part: Part) -> &mut Service {
        match part {
            Part::CloudRegistry => &mut self.cloud.registry,
            Part::EdgeRegistry => &mut self.edge.registry,
            Part::Server => &mut self.server,
            Part::MirrorDown => &mut self.down,
            Part::MirrorUp => &mut self.up,
            Part::CloudKafka | Part::EdgeKafka => unreachable!("no service of ours"),
        }
    }
}

async fn mirror(direction: &str, source: &Site, target: &Site) -> anyhow::Result<Service> {
    let arguments = [
        ["--gateway", GATEWAY],
        ["--direction", direction],
        ["--source-bootstrap-server", &source.bootstrap],
        ["--source-schema-registry-url", &source.registry],
        ["--target-bootstrap-server", &target.bootstrap],
        ["--target-schema-registry-url", &target.registry],
    ];
    Service::start("mirror", arguments.concat()).await
}
