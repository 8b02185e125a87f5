use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::cache::{self, Entry};
use crate::process::{Child, Launch};
use crate::{RunDir, free_port, java};

/// The version that tests run against unless the environment's `KAFKA_VERSION` names another (`3.9.2`).
const VERSION: &str = "4.3.1";

/// Kafka 4 logs through log4j 2 behind slf4j 1.7, Kafka 3 through log4j 1's heir.
const LOG4J_2: &str = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3";
const LOG4J_1: &str = "org.slf4j:slf4j-reload4j:1.7.36";

const LOGGING: &str = "appender.out.type = Console\nappender.out.name = out\nappender.out.layout.type = PatternLayout\n\
    appender.out.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n\nrootLogger.level = INFO\nrootLogger.appenderRef.out.ref = out\n";

const LOGGING_1: &str = "log4j.rootLogger=INFO, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.out.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.out.layout.ConversionPattern=%d{HH:mm:ss,SSS} %-5p %c{1} %m%n\n";

/// A start on a busy machine of two cores takes 4 to 15 s.
const START: Duration = Duration::from_secs(90);

/// Apache Kafka: one process, broker and KRaft controller in one, creating topics when they are first used.
#[derive(Debug)]
pub struct RealKafka {
    // Ends before its directory goes.
    child: Child,
    port: u16,
    bootstrap: String,
    ssl_bootstrap: Option<String>,
    cluster_id: String,
    launch: Launch,
    dir: RunDir,
    lib: PathBuf,
}

impl RealKafka {
    /// A fresh cluster with one partition for each topic that is created on first use.
    pub async fn start() -> anyhow::Result<Self> {
        Self::builder().start().await
    }

    pub fn builder() -> RealKafkaBuilder {
        RealKafkaBuilder {
            properties: BTreeMap::new(),
            ssl: None,
            linked: None,
        }
    }

    /// One cluster for all tests of this process that do not stop it; started by the first that asks. Use names of
    /// topics and groups that no other test uses.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<RealKafka> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// `host:port` of the plaintext listener; of the only one, with TLS, where ACLs are in force.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `host:port` of the listener with TLS.
    ///
    /// # Panics
    /// When it was not asked for ([`RealKafkaBuilder::ssl`]).
    pub fn ssl_bootstrap(&self) -> &str {
        let address = self.ssl_bootstrap.as_deref();
        address.expect("a listener with TLS was asked for")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's id; each instance has another.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The process, to pause it or to read its log.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the broker as a power cut would; its data stays.
    pub fn stop(&mut self) {
        self.child.kill();
    }

    /// Starts it again on the same ports and data, after [`RealKafka::stop`] or in place of it.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill();
        self.child = spawn(&self.launch, self.dir.path(), self.port).await?;
        Ok(())
    }

    /// A further broker of the same cluster, which gets partitions of topics that are made from now on. When it is stopped
    /// those that have no replica elsewhere are without a leader.
    pub async fn another_broker(&self) -> anyhow::Result<Self> {
        const NODE: &str = "2";
        let controller = fs::read_to_string(self.dir.path().join("server.properties"))?
            .lines()
            .find_map(|line| line.strip_prefix("controller.quorum.voters=1@127.0.0.1:"))
            .context("no controller is named")?
            .parse()?;
        let installed = self.lib.parent().context("no installation")?;
        let dir = RunDir::new("kafka")?;
        let port = free_port();
        let data = dir.path().join("data");
        lay_out_data(&installed.join("template"), &data, &self.cluster_id)?;
        let meta = data.join("meta.properties");
        let text = fs::read_to_string(&meta)?.replace("node.id=1", &format!("node.id={NODE}"));
        fs::write(&meta, text)?;
        let overrides = [
            ("process.roles", "broker"),
            ("node.id", NODE),
            ("listeners", &format!("PLAINTEXT://127.0.0.1:{port}")),
            ("broker.session.timeout.ms", "3000"),
            ("broker.heartbeat.interval.ms", "500"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let properties = server_properties(port, controller, &data, overrides.into());
        launch(
            installed,
            dir,
            port,
            &properties,
            None,
            self.cluster_id.clone(),
        )
        .await
    }

    /// A command-line tool of Kafka's, by its class (`org.apache.kafka.tools.TopicCommand`); about 2 s a call.
    /// `--bootstrap-server` is for the caller to give. Answers its standard output.
    pub async fn tool(&self, class: &str, args: &[&str]) -> anyhow::Result<String> {
        run_tool(&self.lib, class, args).await
    }
}

/// What a [`RealKafka`] shall be like.
#[derive(Debug, Clone)]
pub struct RealKafkaBuilder {
    properties: BTreeMap<String, String>,
    ssl: Option<Ssl>,
    linked: Option<[u16; 2]>,
}

/// TLS of a broker.
#[derive(Debug, Clone)]
struct Ssl {
    /// Certificate and key, PEM.
    keystore: String,
    ca: PathBuf,
    /// Whom its certificate names.
    role: String,
    acls: bool,
}

impl RealKafkaBuilder {
    /// Partitions of a topic created on first use; default 1.
    pub fn num_partitions(self, partitions: u16) -> Self {
        self.property("num.partitions", &partitions.to_string())
    }

    /// Any line of `server.properties`; it goes before the one written here by default.
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A further listener, plaintext, on `port`, whose clients are sent to `link` for all else: the entry of a proxy that
    /// leads here ([`crate::Link`]). Not together with TLS.
    pub fn reached_through(mut self, link: u16, port: u16) -> Self {
        self.linked = Some([link, port]);
        self
    }

    /// A listener with TLS besides, which requires client certificates of the folder's authority; the broker's own is
    /// that of `role`, which has to have the address 127.0.0.1.
    ///
    /// # Panics
    /// When the role has no certificate in the folder.
    pub fn ssl(mut self, folder: &certs::Folder, role: &str) -> Self {
        let read = |file: PathBuf| {
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        };
        self.ssl = Some(Ssl {
            keystore: read(folder.key(role)) + &read(folder.certificate(role)),
            ca: folder.ca_certificate(),
            role: role.to_owned(),
            acls: false,
        });
        self
    }

    /// No listener but that with TLS, and ACLs in force: who has none may do nothing, except the broker's own role,
    /// which may do everything. After [`RealKafkaBuilder::ssl`].
    pub fn acls(mut self) -> Self {
        if let Some(ssl) = &mut self.ssl {
            ssl.acls = true;
        }
        self
    }

    pub async fn start(self) -> anyhow::Result<RealKafka> {
        let installed = install().await?;
        start(&installed, self).await
    }
}

/// Fetches broker and tools; formats a log directory as a template, which saves a JVM per start; starts a broker once
/// to write the class-data archive, which halves the time of all later starts.
async fn install() -> anyhow::Result<PathBuf> {
    let wanted = std::env::var("KAFKA_VERSION").unwrap_or_default();
    let version = match wanted.as_str() {
        "" => VERSION,
        wanted => wanted,
    };
    let (log4j, file, logging) = if version.starts_with("3.") {
        (LOG4J_1, "log4j.properties", LOGGING_1)
    } else {
        (LOG4J_2, "log4j2.properties", LOGGING)
    };
    let (broker, tools) = (
        format!("org.apache.kafka:kafka_2.13:{version}"),
        format!("org.apache.kafka:kafka-tools:{version}"),
    );
    let artifacts = [broker.as_str(), &tools, log4j];
    let recipe = format!("{}{logging}", artifacts.join(" "));
    let missing = match cache::entry(&format!("kafka-{version}"), &recipe).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    java::copy_dependencies(dir, &artifacts).await?;
    fs::write(dir.join(file), logging)?;
    let properties = server_properties(1, 2, &dir.join("template"), BTreeMap::new());
    let file = dir.join("template.properties");
    fs::write(&file, properties)?;
    let format = ["format", "-t", &random_id(), "-c", &file.to_string_lossy()];
    run_tool(&dir.join("lib"), "kafka.tools.StorageTool", &format).await?;
    let dir = missing.place()?;
    let RealKafka {
        child, dir: _data, ..
    } = start(dir, RealKafka::builder()).await?;
    java::write_archive(child, &archive(dir)).await?;
    missing.whole()
}

fn archive(installed: &Path) -> PathBuf {
    installed.join("kafka.jsa")
}

async fn start(installed: &Path, wanted: RealKafkaBuilder) -> anyhow::Result<RealKafka> {
    let dir = RunDir::new("kafka")?;
    let (port, controller_port) = (free_port(), free_port());
    let data = dir.path().join("data");
    let cluster_id = random_id();
    lay_out_data(&installed.join("template"), &data, &cluster_id)?;
    let mut overrides = BTreeMap::new();
    let mut ssl_bootstrap = None;
    if let Some(ssl) = &wanted.ssl {
        let ssl_port = if ssl.acls { port } else { free_port() };
        ssl_bootstrap = Some(format!("127.0.0.1:{ssl_port}"));
        overrides = ssl.properties(dir.path(), [port, ssl_port, controller_port])?;
    }
    if let Some([link, linked_port]) = wanted.linked {
        let plain = format!("PLAINTEXT://127.0.0.1:{port}");
        let all = [
            (
                "listeners",
                format!(
                    "{plain},LINK://127.0.0.1:{linked_port},CONTROLLER://127.0.0.1:{controller_port}"
                ),
            ),
            (
                "advertised.listeners",
                format!("{plain},LINK://127.0.0.1:{link}"),
            ),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
            ),
        ];
        overrides.extend(all.map(|(key, value)| (key.to_owned(), value)));
    }
    overrides.extend(wanted.properties);
    let properties = server_properties(port, controller_port, &data, overrides);
    launch(installed, dir, port, &properties, ssl_bootstrap, cluster_id).await
}

async fn launch(
    installed: &Path,
    dir: RunDir,
    port: u16,
    properties: &str,
    ssl_bootstrap: Option<String>,
    cluster_id: String,
) -> anyhow::Result<RealKafka> {
    let file = dir.path().join("server.properties");
    fs::write(&file, properties)?;
    let lib = installed.join("lib");
    let launch = java::jvm("Kafka", &archive(installed))
        .arg(format!(
            "-Dlog4j2.configurationFile={}",
            installed.join("log4j2.properties").display()
        ))
        .arg("-cp")
        .arg(java::class_path(&lib)?)
        .arg("kafka.Kafka")
        .arg(&file);
    let child = spawn(&launch, dir.path(), port).await?;
    Ok(RealKafka {
        child,
        port,
        bootstrap: format!("127.0.0.1:{port}"),
        ssl_bootstrap,
        cluster_id,
        launch,
        dir,
        lib,
    })
}

impl Ssl {
    fn properties(
        &self,
        dir: &Path,
        [port, ssl_port, controller_port]: [u16; 3],
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let keystore = dir.join("broker.pem");
        fs::write(&keystore, &self.keystore)?;
        let mut all: BTreeMap<String, String> = [
            ("ssl.client.auth", "required"),
            ("ssl.keystore.type", "PEM"),
            ("ssl.truststore.type", "PEM"),
            // The common name is the principal: Java prints a name from its end.
            (
                "ssl.principal.mapping.rules",
                "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let mut set = |key: &str, value: String| all.insert(key.to_owned(), value);
        set("ssl.keystore.location", keystore.display().to_string());
        set("ssl.truststore.location", self.ca.display().to_string());
        let mut listeners = format!("SSL://127.0.0.1:{ssl_port}");
        if self.acls {
            // A listener without TLS that brokers use would make everybody a super user.
            set("inter.broker.listener.name", "SSL".to_owned());
            set(
                "listener.security.protocol.map",
                "SSL:SSL,CONTROLLER:SSL".to_owned(),
            );
            set(
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            );
            set("super.users", format!("User:{}", self.role));
            set("allow.everyone.if.no.acl.found", "false".to_owned());
        } else {
            listeners = format!("PLAINTEXT://127.0.0.1:{port},{listeners}");
        }
        set("advertised.listeners", listeners.clone());
        set(
            "listeners",
            format!("{listeners},CONTROLLER://127.0.0.1:{controller_port}"),
        );
        Ok(all)
    }
}

/// A broker with TLS alone can't be asked without a certificate; its log says when it serves.
const SERVES: &str = "Kafka Server started";

async fn spawn(launch: &Launch, dir: &Path, port: u16) -> anyhow::Result<Child> {
    let log = dir.join("kafka.log");
    let begun = fs::metadata(&log).map_or(0, |log| log.len());
    let mut child = launch.spawn(&log)?;
    let secure_only = !fs::read_to_string(dir.join("server.properties"))?.contains("PLAINTEXT://");
    let probe = async || {
        if !secure_only {
            return has_brokers(port).await;
        }
        let text = fs::read(&log)?;
        let since = text.get(usize::try_from(begun)?..).unwrap_or_default();
        if String::from_utf8_lossy(since).contains(SERVES) {
            return Ok(());
        }
        bail!("its log does not say '{SERVES}' yet")
    };
    child.ready(START, probe).await?;
    Ok(child)
}

fn server_properties(
    port: u16,
    controller_port: u16,
    data: &Path,
    overrides: BTreeMap<String, String>,
) -> String {
    let mut all: BTreeMap<String, String> = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.listener.names", "CONTROLLER"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT",
        ),
        ("auto.create.topics.enable", "true"),
        ("num.partitions", "1"),
        ("default.replication.factor", "1"),
        ("offsets.topic.replication.factor", "1"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        // Internal topics have 50 partitions by default: seconds of a test's time, for one user.
        ("offsets.topic.num.partitions", "2"),
        ("transaction.state.log.num.partitions", "2"),
        ("share.coordinator.state.topic.num.partitions", "2"),
        // 128 MiB by default, taken at start: a quarter of the heap.
        ("log.cleaner.dedupe.buffer.size", "16777216"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    all.insert(
        "controller.quorum.voters".into(),
        format!("1@127.0.0.1:{controller_port}"),
    );
    all.insert(
        "listeners".into(),
        format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"),
    );
    all.insert(
        "advertised.listeners".into(),
        format!("PLAINTEXT://127.0.0.1:{port}"),
    );
    all.insert("log.dirs".into(), data.display().to_string());
    all.extend(overrides);
    all.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "{key}={value}").expect("writing to a string");
        text
    })
}

/// A formatted directory is its template with ids of its own in `meta.properties`.
fn lay_out_data(template: &Path, data: &Path, cluster_id: &str) -> anyhow::Result<()> {
    fs::create_dir_all(data)?;
    for entry in
        fs::read_dir(template).with_context(|| format!("cannot read {}", template.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), data.join(entry.file_name()))?;
        }
    }
    let meta = data.join("meta.properties");
    let text =
        fs::read_to_string(&meta).with_context(|| format!("cannot read {}", meta.display()))?;
    let mut replaced = 0;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("cluster.id", _)) => {
                replaced += 1;
                format!("cluster.id={cluster_id}")
            }
            Some(("directory.id", _)) => {
                replaced += 1;
                format!("directory.id={}", random_id())
            }
            _ => line.to_owned(),
        })
        .collect();
    if replaced != 2 {
        bail!("Kafka's meta.properties is not as expected: {text}");
    }
    fs::write(meta, lines.join("\n") + "\n")?;
    Ok(())
}

/// 16 random bytes as Kafka writes its ids; one that starts with a dash would look like an option.
fn random_id() -> String {
    loop {
        let id =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        if !id.starts_with('-') {
            return id;
        }
    }
}

async fn run_tool(lib: &Path, class: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = tokio::process::Command::new("java")
        .args([
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
        ])
        .arg(java::class_path(lib)?)
        .arg(class)
        .args(args)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run java")?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        bail!(
            "{class} {} failed ({}):\n{out}\n{err}",
            args.join(" "),
            output.status
        );
    }
    Ok(out.into_owned())
}

/// Asks for metadata: the port is open a while before the broker has joined its own cluster.
///
/// ```text
/// request   size:i32  key=3:i16  version=0:i16  correlation:i32  client:string  topics:[string]
/// response  size:i32  correlation:i32  brokers:[…]  …
/// ```
async fn has_brokers(port: u16) -> anyhow::Result<()> {
    const REQUEST: [u8; 23] = *b"\0\0\0\x13\0\x03\0\0\0\0\0\x01\0\x05probe\0\0\0\0";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .context("no connection")?;
    stream.write_all(&REQUEST).await?;
    let mut head = [0; 12];
    stream
        .read_exact(&mut head)
        .await
        .context("no answer to a metadata request")?;
    let brokers = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if brokers < 1 {
        bail!("the metadata has no broker yet");
    }
    Ok(())
}
