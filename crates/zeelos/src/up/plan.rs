//! What `up` runs: sites, ports and the children with their arguments.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use records::{GatewayId, Topics};
use service::auth::AuthArgs;

use super::UpArgs;
use super::check::CheckStage;
use super::ports::{Ports, Reservations};

/// A Kafka cluster and its registry.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) bootstrap: String,
    pub(crate) registry: String,
}

/// One edge.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pub(crate) topics: Topics,
    pub(crate) site: Site,
    pub(crate) coap: SocketAddr,
    pub(crate) coaps: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) sensors: Vec<Sensor>,
}

/// A virtual sensor.
#[derive(Clone, Debug)]
pub(crate) struct Sensor {
    pub(crate) endpoint: String,
    /// Where its admin listener is: values can be set there.
    pub(crate) admin: SocketAddr,
}

/// A child process.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// Unique, such as `demo/mirror-up`.
    pub(crate) name: String,
    /// Its arguments, the service's name first.
    pub(crate) args: Vec<String>,
    /// Its admin listener.
    pub(crate) admin: SocketAddr,
    /// Higher waves are stopped first.
    pub(crate) wave: u8,
    /// How long it goes on when `up` was killed and could not stop it in order.
    pub(crate) linger_s: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cloud: Site,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) children: Vec<Child>,
    pub(crate) connect: [SocketAddr; 2],
    data_dir: PathBuf,
    _reservations: Reservations,
}

/// The order in which children stop: what produces before what it produces to.
mod wave {
    pub(super) const KAFKA: u8 = 0;
    pub(super) const REGISTRY: u8 = 1;
    pub(super) const DOWNSTREAM: u8 = 2;
    pub(super) const SERVER: u8 = 3;
    pub(super) const DEVICE: u8 = 4;

    /// After a kill of `up` brokers and registries outlast the others: what those still have to say must not reach a
    /// broker of somebody else's that takes the same port.
    pub(super) fn linger_s(wave: u8) -> u64 {
        match wave {
            KAFKA => 6,
            REGISTRY => 5,
            _ => 0,
        }
    }
}

/// The contract's ports; another is taken where one is not free, and for each further gateway.
mod port {
    pub(super) const KAFKA_CLOUD: u16 = 9092;
    pub(super) const REGISTRY_CLOUD: u16 = 8081;
    pub(super) const CONNECT_INFLUXDB: u16 = 8083;
    pub(super) const CONNECT_ASSET: u16 = 8084;
    pub(super) const KAFKA_GATEWAY: u16 = 9082;
    pub(super) const REGISTRY_GATEWAY: u16 = 8071;
    pub(super) const COAP: u16 = 5683;
    pub(super) const COAPS: u16 = 5684;
    pub(super) const HTTP: u16 = 8080;
}

/// The cloud's name among the sites: its folder, and the first part of its children's names.
const CLOUD: &str = "cloud";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Plan {
    /// `shared` are the options that every child gets besides its own.
    pub(crate) fn new(args: &UpArgs, shared: &[String], data_dir: PathBuf) -> anyhow::Result<Self> {
        anyhow::ensure!(
            args.gateways.len() == 1 || args.kafka_gateway.is_none(),
            "--kafka-gateway is for one --gateway only: each gateway has its own cluster"
        );
        for (index, gateway) in args.gateways.iter().enumerate() {
            anyhow::ensure!(
                gateway.as_str() != CLOUD,
                "--gateway {CLOUD}: that is the other site's name; take another id"
            );
            anyhow::ensure!(
                !args.gateways[..index].contains(gateway),
                "--gateway {gateway} is given twice"
            );
        }
        let mut builder = Builder {
            args,
            shared,
            ports: Ports::open(&data_dir, args.check),
            data_dir,
            children: Vec::new(),
        };
        let cloud = builder.site(
            CLOUD,
            [port::KAFKA_CLOUD, port::REGISTRY_CLOUD],
            args.kafka_cloud.as_deref(),
            args.registry_cloud.as_deref(),
        )?;
        let mut gateways = Vec::new();
        for id in &args.gateways {
            gateways.push(builder.gateway(id, &cloud)?);
        }
        let connect = builder.sinks(&cloud, &gateways)?;
        let Builder {
            data_dir,
            children,
            ports,
            ..
        } = builder;
        let reservations = ports.settle()?;
        Ok(Self {
            _reservations: reservations,
            cloud,
            gateways,
            children,
            connect,
            data_dir,
        })
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.data_dir.join("logs")
    }

    /// A child's log file.
    pub(crate) fn log_of(&self, child: &str) -> PathBuf {
        self.log_dir()
            .join(format!("{}.log", child.replace('/', "-")))
    }

    /// The embedded time-series store.
    pub(crate) fn time_series(&self) -> PathBuf {
        time_series(&self.data_dir)
    }

    /// The embedded graph store.
    pub(crate) fn graph(&self) -> PathBuf {
        graph(&self.data_dir)
    }

    /// Where the data is after the end.
    pub(crate) fn data_note(&self, kept: bool) -> String {
        if kept {
            format!("everything is kept in {}", self.data_dir.display())
        } else {
            "nothing is kept (--data-dir FOLDER keeps everything)".to_owned()
        }
    }
}

fn time_series(data_dir: &Path) -> PathBuf {
    data_dir.join("cloud").join("time-series.db")
}

fn graph(data_dir: &Path) -> PathBuf {
    data_dir.join("cloud").join("graph.db")
}

struct Builder<'a> {
    args: &'a UpArgs,
    shared: &'a [String],
    data_dir: PathBuf,
    children: Vec<Child>,
    ports: Ports,
}

impl Builder<'_> {
    fn site(
        &mut self,
        name: &str,
        [kafka_port, registry_port]: [u16; 2],
        kafka: Option<&str>,
        registry: Option<&str>,
    ) -> anyhow::Result<Site> {
        let bootstrap = match kafka {
            Some(given) => given.to_owned(),
            None => {
                let listen =
                    self.ports
                        .tcp(&format!("{name}/kafka"), self.args.bind, kafka_port)?;
                let data = self.folder(name, "kafka")?;
                self.child(
                    format!("{name}/kafka"),
                    wave::KAFKA,
                    strings(&[
                        "embedded-kafka",
                        "--listen",
                        &listen.to_string(),
                        "--data-dir",
                        &data,
                    ]),
                )?;
                reachable(listen).to_string()
            }
        };
        let registry = match registry {
            Some(given) => given.to_owned(),
            None => {
                let listen = self.ports.tcp(
                    &format!("{name}/schema-registry"),
                    self.args.bind,
                    registry_port,
                )?;
                self.child(
                    format!("{name}/schema-registry"),
                    wave::REGISTRY,
                    strings(&[
                        "schema-registry",
                        "--listen",
                        &listen.to_string(),
                        "--kafka-bootstrap-server",
                        &bootstrap,
                    ]),
                )?;
                format!("http://{}", reachable(listen))
            }
        };
        Ok(Site {
            bootstrap,
            registry,
        })
    }

    fn gateway(&mut self, id: &GatewayId, cloud: &Site) -> anyhow::Result<Gateway> {
        let site = self.site(
            id.as_str(),
            [port::KAFKA_GATEWAY, port::REGISTRY_GATEWAY],
            self.args.kafka_gateway.as_deref(),
            self.args.registry_gateway.as_deref(),
        )?;
        let topics = Topics::for_gateway(id);
        let [coap, coaps, http] = self.server(id, &site, &topics)?;
        self.mirror(id, "mirror-cloud-to-edge", "cloud-to-edge", cloud, &site)?;
        self.mirror(id, "mirror-edge-to-cloud", "edge-to-cloud", &site, cloud)?;
        self.analytics(id, &site, &topics)?;
        let sensors = self.sensors(id, coap)?;
        Ok(Gateway {
            id: id.clone(),
            topics,
            site,
            coap,
            coaps,
            http,
            sensors,
        })
    }

    fn server(
        &mut self,
        id: &GatewayId,
        site: &Site,
        topics: &Topics,
    ) -> anyhow::Result<[SocketAddr; 3]> {
        let coap = self
            .ports
            .udp(&format!("{id}/coap"), self.args.bind, port::COAP)?;
        let coaps = self
            .ports
            .udp(&format!("{id}/coaps"), self.args.bind, port::COAPS)?;
        let http = self
            .ports
            .tcp(&format!("{id}/http"), self.args.bind, port::HTTP)?;
        let data = self.folder(id.as_str(), "leshan-server-kafka")?;
        let topic = |name: &String, stage| self.unless_broken(stage, name);
        let mut args = strings(&[
            "leshan-server-kafka",
            "--server-id",
            id.as_str(),
            "--coap-listen",
            &coap.to_string(),
            "--coaps-listen",
            &coaps.to_string(),
            "--web-listen",
            &http.to_string(),
            "--data-dir",
            &data,
            "--kafka-topic-registrations",
            &topic(&topics.registrations, CheckStage::Registration),
            "--kafka-topic-observations",
            &topic(&topics.observations, CheckStage::Observation),
            "--kafka-topic-management-req",
            &topics.management_req,
            "--kafka-topic-management-rep",
            &topic(&topics.management_rep, CheckStage::Reply),
        ]);
        args.extend(kafka_args(site));
        args.extend(auth_args(&self.args.auth));
        if let Some(file) = &self.args.credentials_file {
            args.extend(["--credentials-file".to_owned(), file.display().to_string()]);
        }
        self.child(format!("{id}/leshan-server-kafka"), wave::SERVER, args)?;
        Ok([coap, coaps, http].map(reachable))
    }

    fn mirror(
        &mut self,
        id: &GatewayId,
        name: &str,
        direction: &str,
        source: &Site,
        target: &Site,
    ) -> anyhow::Result<()> {
        let args = strings(&[
            "mirror",
            "--gateway",
            id.as_str(),
            "--direction",
            direction,
            "--source-bootstrap-server",
            &source.bootstrap,
            "--source-schema-registry-url",
            &source.registry,
            "--target-bootstrap-server",
            &target.bootstrap,
            "--target-schema-registry-url",
            &target.registry,
        ]);
        self.child(format!("{id}/{name}"), wave::DOWNSTREAM, args)
    }

    fn analytics(&mut self, id: &GatewayId, site: &Site, topics: &Topics) -> anyhow::Result<()> {
        for analytic in ["aggregate", "temperature"] {
            let data = self.folder(id.as_str(), &format!("analytics-{analytic}"))?;
            let mut args = strings(&[
                "stream-analytics",
                "--data-dir",
                &data,
                "--input-topic",
                &topics.observations,
            ]);
            if analytic == "temperature" {
                args.extend(strings(&["--output-topic", &topics.maxper30sec]));
            }
            args.extend(kafka_args(site));
            args.push(analytic.to_owned());
            self.child(format!("{id}/analytics-{analytic}"), wave::DOWNSTREAM, args)?;
        }
        Ok(())
    }

    fn sensors(&mut self, id: &GatewayId, coap: SocketAddr) -> anyhow::Result<Vec<Sensor>> {
        let mut sensors = Vec::new();
        for number in 1..=self.args.sensors {
            // On clusters that exist, a check must not take an earlier sensor for its own.
            let endpoint = if self.args.check {
                format!("{id}-check-{:08x}-{number}", rand::random::<u32>())
            } else {
                format!("{id}-sensor-{number}")
            };
            let args = strings(&["client-demo", "-u", &coap.to_string(), "-n", &endpoint]);
            self.child(format!("{id}/sensor-{number}"), wave::DEVICE, args)?;
            let admin = self.last_admin();
            sensors.push(Sensor { endpoint, admin });
        }
        Ok(sensors)
    }

    fn sinks(&mut self, cloud: &Site, gateways: &[Gateway]) -> anyhow::Result<[SocketAddr; 2]> {
        self.folder("cloud", "connectors")?;
        let time_series = time_series(&self.data_dir);
        let graph = graph(&self.data_dir);
        let mut influxdb = Vec::new();
        let mut asset = Vec::new();
        for gateway in gateways {
            let (id, topics) = (&gateway.id, &gateway.topics);
            influxdb.push(self.connector(
                &format!("{id}_influxdb_sink"),
                &[
                    (
                        "connector.class",
                        "com.datamountaineer.streamreactor.connect.influx.InfluxSinkConnector",
                    ),
                    (
                        "topics",
                        &format!("{},{}", topics.observations, topics.management_rep),
                    ),
                    (
                        "connect.influx.url",
                        &format!("sqlite:{}", time_series.display()),
                    ),
                    ("connect.influx.db", "zeelosdb"),
                    ("value.converter.schema.registry.url", &cloud.registry),
                ],
            )?);
            asset.push(self.connector(
                &format!("{id}_leshan_asset_sink"),
                &[
                    (
                        "connector.class",
                        "io.zeelos.leshan.kafka.connect.sink.asset.LeshanSinkAssetConnector",
                    ),
                    ("topics", &topics.registrations),
                    ("tinkerpop3.url", &format!("sqlite:{}", graph.display())),
                    ("value.converter.schema.registry.url", &cloud.registry),
                ],
            )?);
        }
        let first = self.sink("influxdb-sink", port::CONNECT_INFLUXDB, cloud, &influxdb)?;
        let second = self.sink("asset-sink", port::CONNECT_ASSET, cloud, &asset)?;
        Ok([first, second])
    }

    fn sink(
        &mut self,
        service: &str,
        port: u16,
        cloud: &Site,
        connectors: &[PathBuf],
    ) -> anyhow::Result<SocketAddr> {
        let listen = self
            .ports
            .tcp(&format!("cloud/{service}"), self.args.bind, port)?;
        let mut args = strings(&[service, "--connect-listen", &listen.to_string()]);
        for file in connectors {
            args.extend(strings(&["--connector", &file.display().to_string()]));
        }
        args.extend(kafka_args(cloud));
        args.extend(auth_args(&self.args.auth));
        self.child(format!("cloud/{service}"), wave::DOWNSTREAM, args)?;
        Ok(reachable(listen))
    }

    /// A connector's definition as a file, in the form that is posted to a Connect worker.
    fn connector(&self, name: &str, config: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
        let mut all = serde_json::Map::new();
        all.insert("tasks.max".to_owned(), "1".into());
        for (key, value) in config {
            all.insert((*key).to_owned(), (*value).into());
        }
        let definition = serde_json::json!({ "name": name, "config": all });
        let folder = self.data_dir.join("cloud").join("connectors");
        let file = folder.join(format!("{name}.json"));
        std::fs::write(&file, format!("{definition:#}\n"))
            .with_context(|| format!("can't write {}", file.display()))?;
        Ok(file)
    }

    /// `--break` on a stage of the server's: it writes to a topic nobody reads.
    fn unless_broken(&self, stage: CheckStage, topic: &str) -> String {
        if self.args.broken == Some(stage) {
            format!("broken.{topic}")
        } else {
            topic.to_owned()
        }
    }

    fn child(&mut self, name: String, wave: u8, mut args: Vec<String>) -> anyhow::Result<()> {
        args.extend_from_slice(self.shared);
        // `--break` on a stage that is a process of its own: it does not run.
        let left_out = match self.args.broken {
            Some(CheckStage::Mirror) => "/mirror-edge-to-cloud",
            Some(CheckStage::TimeSeries) => "/influxdb-sink",
            Some(CheckStage::Graph) => "/asset-sink",
            Some(CheckStage::Analytics) => "/analytics-temperature",
            _ => "/",
        };
        if name.ends_with(left_out) {
            return Ok(());
        }
        let admin = self.ports.tcp(&format!("{name}/admin"), LOOPBACK, 0)?;
        self.children.push(Child {
            name,
            args,
            admin,
            wave,
            linger_s: wave::linger_s(wave),
        });
        Ok(())
    }

    fn last_admin(&self) -> SocketAddr {
        self.children
            .last()
            .map_or(SocketAddr::new(LOOPBACK, 0), |child| child.admin)
    }

    fn folder(&self, site: &str, name: &str) -> anyhow::Result<String> {
        let folder = self.data_dir.join(site).join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("can't make {}", folder.display()))?;
        Ok(folder.display().to_string())
    }
}

/// Who may use the interfaces, as `up` was told.
fn auth_args(auth: &AuthArgs) -> Vec<String> {
    let file = |option: &str, path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| format!("{option}={}", path.display()))
    };
    let open = auth.web_open.then(|| "--web-open".to_owned());
    [
        file("--users-file", &auth.users_file),
        file("--tokens-file", &auth.tokens_file),
        open,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn kafka_args(site: &Site) -> Vec<String> {
    strings(&[
        "--kafka-bootstrap-server",
        &site.bootstrap,
        "--kafka-schema-registry-url",
        &site.registry,
    ])
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// Where our own clients reach what listens there: any address is reached over loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::new(LOOPBACK, listen.port())
    } else {
        listen
    }
}
