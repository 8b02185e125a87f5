//! The whole path over mutual TLS: two Apache Kafkas with access rules, registries, server, mirrors and a sink, each with
//! a certificate of its own that `certs-create.sh` made, and stock clients beside them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use certs::{Folder, Request, Validity};
use e2e::{Outcome, Service, Zeelos, zeelos};
use influxdb_sink::embedded::query_latest;
use kafka::{Cluster, OutRecord, Producer, ProducerSettings};
use serde_json::Value;
use testkit::{RealKafka, RunDir, free_port, wait_for};
use tokio::process::Command;

const GATEWAY: &str = "A";
const ENDPOINT: &str = "sensor";
const TEMPERATURE: &str = "/3303/0/5700";
const SOON: Duration = Duration::from_secs(60);
const YEARS: Duration = Duration::from_secs(3_650 * 86_400);
const TOPIC_COMMAND: &str = "org.apache.kafka.tools.TopicCommand";
const ACL_COMMAND: &str = "org.apache.kafka.tools.AclCommand";

/// The folder that the walkthrough's script fills.
struct Certs {
    dir: RunDir,
}

impl Certs {
    async fn create() -> anyhow::Result<Self> {
        let dir = RunDir::new("security")?;
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../security");
        for script in ["certs-create.sh", "certs-clean.sh", "zeelos.sh"] {
            std::fs::copy(scripts.join(script), dir.path().join(script))?;
        }
        let certs = Self { dir };
        certs
            .script(
                "certs-create.sh",
                &["--gateway", "A", "--gateway", "B", "--localhost"],
            )
            .await?;
        Ok(certs)
    }

    async fn script(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.dir.path().join(name));
        command.args(arguments).env("ZEELOS", zeelos());
        said(command).await
    }

    fn folder(&self) -> anyhow::Result<Folder> {
        Ok(Folder::open_or_create(self.dir.path(), now_s(), YEARS)?.password("itsasecret"))
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn properties(&self, role: &str) -> String {
        self.file(&format!("{role}.properties"))
    }

    fn certificate(&self, role: &str) -> String {
        self.file(&format!("{role}.certificate.pem"))
    }

    fn key(&self, role: &str) -> String {
        self.file(&format!("{role}.key"))
    }

    fn ca(&self) -> String {
        self.file("zeelos.io-ca.crt")
    }

    /// A listener's options: PEM, and nobody without a certificate.
    fn listener(&self, role: &str) -> Vec<String> {
        vec![
            "--tls-certificate-location".to_owned(),
            self.certificate(role),
            "--tls-key-location".to_owned(),
            self.key(role),
            "--tls-ca-location".to_owned(),
            self.ca(),
        ]
    }

    fn kafka(&self, site: &Secure, role: &str) -> Vec<String> {
        vec![
            "--kafka-bootstrap-server".to_owned(),
            site.kafka.bootstrap().to_owned(),
            "--kafka-schema-registry-url".to_owned(),
            site.registry_url.clone(),
            "--kafka-ssl-properties-location".to_owned(),
            self.properties(role),
        ]
    }

    fn cluster(&self, site: &Secure, role: &str) -> anyhow::Result<Cluster> {
        let properties = PathBuf::from(self.properties(role));
        Ok(Cluster::new(site.kafka.bootstrap(), Some(&properties))?)
    }
}

fn now_s() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs().cast_signed()
}

/// What a command writes; another code than 0 is an error.
async fn said(mut command: Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{text}",
        output.status
    );
    Ok(text)
}

/// A site's Kafka with TLS and access rules, and its registry.
struct Secure {
    kafka: RealKafka,
    registry_url: String,
    _registry: Service,
}

impl Secure {
    async fn start(certs: &Certs, broker: &str, registry: &str) -> anyhow::Result<Self> {
        let kafka = RealKafka::builder().ssl(&certs.folder()?, broker).acls();
        let kafka = kafka.start().await?;
        let mut rules = Zeelos::new("acls apply --gateway A");
        rules = if broker == "kafka-cloud" {
            rules.args(["--cluster", "cloud", "--gateway", "B"])
        } else {
            rules.args(["--cluster", "gateway"])
        };
        let properties = certs.properties(broker);
        let applied = rules
            .args([
                "--bootstrap-server",
                kafka.bootstrap(),
                "--command-config",
                &properties,
            ])
            .succeed()
            .await?;
        ensure!(applied.stdout.contains(" 0 were there"), "{applied}");
        let listen = format!("127.0.0.1:{}", free_port());
        let registry = Service::start(
            "schema-registry",
            [
                "--listen",
                &listen,
                "--kafka-bootstrap-server",
                kafka.bootstrap(),
                "--kafka-ssl-properties-location",
                &certs.properties(registry),
            ]
            .into_iter()
            .map(str::to_owned)
            .chain(certs.listener(registry)),
        )
        .await?;
        Ok(Self {
            kafka,
            registry_url: format!("https://{listen}"),
            _registry: registry,
        })
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// One story, as two sites take half a minute to start.
#[tokio::test]
async fn the_whole_path_over_mutual_tls() -> anyhow::Result<()> {
    let certs = Certs::create().await?;
    let (cloud, edge) = tokio::try_join!(
        Secure::start(&certs, "kafka-cloud", "schema-registry-cloud"),
        Secure::start(&certs, "kafka-gateway-A", "schema-registry-gateway-A"),
    )?;
    let operator = |words: &str| Zeelos::new(words).args(certs.kafka(&cloud, "client-cloud"));
    for topic in [
        "management.req",
        "management.rep",
        "observations",
        "registrations",
    ] {
        operator(&format!("topics create iot.A.{topic}"))
            .succeed()
            .await?;
    }

    let coap = format!("127.0.0.1:{}", free_port());
    let web = format!("127.0.0.1:{}", free_port());
    let server = format!(
        "-n {GATEWAY} --coap-listen {coap} --dtls false --web-listen {web} --data-dir store"
    );
    let mirror = |direction: &str, source: &Secure, target: &Secure| {
        let properties = certs.properties("mirror-A");
        words(&format!(
            "--gateway {GATEWAY} --direction {direction} \
             --source-bootstrap-server {} --source-schema-registry-url {} --source-properties {properties} \
             --target-bootstrap-server {} --target-schema-registry-url {} --target-properties {properties}",
            source.kafka.bootstrap(),
            source.registry_url,
            target.kafka.bootstrap(),
            target.registry_url,
        ))
    };
    let rest = format!("127.0.0.1:{}", free_port());
    // Also from other machines; whose certificate may change connectors stands in a file.
    let everywhere = rest.replace("127.0.0.1", "0.0.0.0");
    let users = Path::new(&certs.ca()).with_file_name("users");
    std::fs::write(&users, "client-cloud:operate:certificate\n")?;
    let sink = words(&format!(
        "--connect-listen {everywhere} --users-file {}",
        users.display()
    ));
    let sink = sink
        .into_iter()
        .chain(certs.kafka(&cloud, "connect-cloud"))
        .chain(certs.listener("connect-cloud"));
    let server = words(&server)
        .into_iter()
        .chain(certs.kafka(&edge, "leshan-server-kafka-A"));
    let (_server, _down, _up, sink) = tokio::try_join!(
        Service::start("leshan-server-kafka", server),
        Service::start("mirror", mirror("cloud-to-edge", &cloud, &edge)),
        Service::start("mirror", mirror("edge-to-cloud", &edge, &cloud)),
        Service::start("influxdb-sink", sink),
    )?;
    let store = sink.dir().join("series.db");
    connectors_are_managed_with_curl(&certs, &rest, &store, &cloud).await?;

    let _device = Service::start("client-demo", ["-u", &coap, "-n", ENDPOINT]).await?;
    let observe = format!("send {GATEWAY} {ENDPOINT} observe {TEMPERATURE} --timeout 50");
    wait_for(SOON, "an answer from the device", async || {
        operator(&observe).succeed().await
    })
    .await?;
    wait_for(SOON, "a value in the store", async || {
        let latest = query_latest(&store, ENDPOINT, TEMPERATURE)?;
        latest.context("none yet").map(drop)
    })
    .await?;

    dead_letters_go_back_once(&certs, &cloud, &edge).await?;
    a_gateways_certificate_is_for_its_own_topics(&certs, &cloud).await?;
    the_rules_are_what_kafkas_own_tool_lists(&certs, &cloud).await?;
    who_has_no_good_certificate_is_told_why(&certs, &cloud).await?;
    stock_clients_come_in(&certs, &cloud).await
}

/// As in the walkthrough: its curl, with its files.
async fn connectors_are_managed_with_curl(
    certs: &Certs,
    rest: &str,
    store: &Path,
    cloud: &Secure,
) -> anyhow::Result<()> {
    let connector = serde_json::json!({"name": "A_influxdb_sink", "config": {
        "connector.class": "com.datamountaineer.streamreactor.connect.influx.InfluxSinkConnector",
        "tasks.max": "1",
        "topics": "iot.A.observations,iot.A.management.rep",
        "connect.influx.url": format!("sqlite:{}", store.display()),
        "connect.influx.db": "zeelosdb",
        "value.converter.schema.registry.url": cloud.registry_url,
    }});
    let file = store.with_file_name("connector.json");
    std::fs::write(&file, connector.to_string())?;
    let port = rest.rsplit(':').next().context("a port")?;
    let curl = |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command
            .current_dir(Path::new(&certs.ca()).parent().unwrap_or(Path::new(".")))
            .args(["-sS", "--fail-with-body"])
            .args(arguments)
            .arg(format!("https://localhost:{port}{path}"));
        said(command)
    };
    let ours = [
        "-k",
        "--cert",
        "client-cloud.certificate.pem",
        "--key",
        "client-cloud.key",
    ];
    let data = format!("@{}", file.display());
    let post = [
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-d",
        &data,
    ];
    let created = curl(&[&post[..], &ours[..]].concat(), "/connectors").await?;
    ensure!(created.contains("A_influxdb_sink"), "{created}");
    for path in ["/connectors", "/connectors/"] {
        let listed: Value = serde_json::from_str(&curl(&ours, path).await?)?;
        ensure!(listed == serde_json::json!(["A_influxdb_sink"]), "{listed}");
    }
    wait_for(SOON, "the connector to run", async || {
        let status = curl(&ours, "/connectors/A_influxdb_sink/status/").await?;
        let status: Value = serde_json::from_str(&status)?;
        ensure!(status["tasks"][0]["state"] == "RUNNING", "{status}");
        Ok(())
    })
    .await?;
    // Checked against the CA it is the one it says it is, and without a certificate nobody comes in.
    let ca = certs.ca();
    let checked = [
        "--cacert",
        &ca,
        "--cert",
        "client-cloud.certificate.pem",
        "--key",
        "client-cloud.key",
    ];
    curl(&checked, "/connectors").await?;
    // A gateway's certificate is good for the handshake, and for nothing here.
    let gateways = [
        "-k",
        "--cert",
        "mirror-A.certificate.pem",
        "--key",
        "mirror-A.key",
    ];
    let refused = curl(&gateways, "/connectors").await;
    let refused = format!("{:#}", refused.err().context("a gateway came in")?);
    ensure!(refused.contains("401"), "{refused}");
    let refused = curl(&["-k"], "/connectors").await;
    let refused = format!(
        "{:#}",
        refused.err().context("it came in without a certificate")?
    );
    ensure!(refused.contains("certificate required"), "{refused}");
    Ok(())
}

/// Something that is no request goes the way down and is put aside at the gateway; sent back, it is put aside again.
async fn dead_letters_go_back_once(
    certs: &Certs,
    cloud: &Secure,
    edge: &Secure,
) -> anyhow::Result<()> {
    let topic = "iot.A.management.req";
    let cluster = certs.cluster(cloud, "client-cloud")?;
    let producer = Producer::new(&cluster, &ProducerSettings::default())?;
    let record = OutRecord {
        topic,
        value: Some(b"no request"),
        ..OutRecord::default()
    };
    producer.send(record).await?.await?;
    let dlq = |words: &str| Zeelos::new(words).args(certs.kafka(edge, "client-gateway-A"));
    let list = format!("dlq show {topic} --output json");
    let letters = async |count: usize| {
        wait_for(SOON, "dead letters", async || {
            let shown = dlq(&list).arg("--retried").succeed().await?.json()?;
            let letters = shown.as_array().cloned().unwrap_or_default();
            ensure!(letters.len() == count, "{letters:?}");
            Ok(letters)
        })
        .await
    };
    let first = letters(1).await?.remove(0);
    ensure!(first["reason"] == "not_framed", "{first}");
    ensure!(first["value"] == "no request", "{first}");
    ensure!(first["from"]["topic"] == topic, "{first}");
    let origin = first["headers"]["zeelos-origin"].as_str();
    ensure!(
        origin.is_some_and(|origin| origin.contains(topic)),
        "{first}"
    );
    let listed = dlq("dlq list").succeed().await?.stdout;
    ensure!(
        listed.contains("iot.A.management.req.dlq") && listed.contains("not_framed 1"),
        "{listed}"
    );

    let retry = format!("dlq retry {topic} --reason not_framed");
    let dry = dlq(&retry).arg("--dry-run").succeed().await?.stdout;
    ensure!(dry.contains("1 selected, nothing sent"), "{dry}");
    let sent = dlq(&retry).succeed().await?.stdout;
    ensure!(sent.contains("1 sent back"), "{sent}");
    let second = letters(2).await?.remove(1);
    ensure!(
        second["headers"]["zeelos-origin"].as_str() == origin,
        "{second}"
    );
    let sent = dlq(&format!("dlq retry {topic} --at 0/0"))
        .succeed()
        .await?
        .stdout;
    ensure!(sent.starts_with("0 sent back"), "{sent}");
    let unasked = dlq(&format!("dlq retry {topic}")).run().await?;
    ensure!(unasked.stderr.contains("which ones?"), "{unasked}");
    Ok(())
}

async fn a_gateways_certificate_is_for_its_own_topics(
    certs: &Certs,
    cloud: &Secure,
) -> anyhow::Result<()> {
    let write = async |role: &str, topic: &str| {
        let producer = Producer::new(&certs.cluster(cloud, role)?, &ProducerSettings::default())?;
        let record = OutRecord {
            topic,
            value: Some(b"x"),
            ..OutRecord::default()
        };
        producer.send(record).await?.await?;
        anyhow::Ok(())
    };
    write("mirror-B", "iot.B.observations").await?;
    // Who may write nowhere is refused before a topic is asked for.
    for (role, topic, expected) in [
        ("mirror-A", "iot.B.observations", "TopicAuthorizationFailed"),
        (
            "mirror-A",
            "iot.A.management.req",
            "TopicAuthorizationFailed",
        ),
        (
            "client-cloud",
            "iot.A.observations",
            "TopicAuthorizationFailed",
        ),
        (
            "kafka-exporter-cloud",
            "iot.A.observations",
            "ClusterAuthorizationFailed",
        ),
    ] {
        let error = write(role, topic).await.err();
        let error = error.with_context(|| format!("{role} may write {topic}"))?;
        let error = format!("{error:#}");
        ensure!(error.contains(expected), "{role} at {topic}: {error}");
    }
    Ok(())
}

async fn the_rules_are_what_kafkas_own_tool_lists(
    certs: &Certs,
    cloud: &Secure,
) -> anyhow::Result<()> {
    let admin = certs.properties("kafka-cloud");
    let at = ["--bootstrap-server", cloud.kafka.bootstrap()];
    let acls = async |words: &str| {
        let rules = Zeelos::new(words)
            .args(at)
            .args(["--command-config", &admin]);
        anyhow::Ok(rules.succeed().await?.stdout)
    };
    let again = acls("acls apply --gateway A --gateway B").await?;
    ensure!(again.starts_with("0 added"), "{again}");
    let in_force = acls("acls list").await?;
    let ours = in_force.lines().count();
    let arguments = [&at[..], &["--command-config", &admin, "--list"]].concat();
    let listed = cloud.kafka.tool(ACL_COMMAND, &arguments).await?;
    let theirs = listed.matches("(principal=User:").count();
    ensure!(
        ours == theirs && ours > 20,
        "{ours} and {theirs}:\n{in_force}\n{listed}"
    );

    // What is printed for Kafka's tool is taken by it: a rule that is not there yet.
    let printed = acls("acls print --gateway C --role mirror-C").await?;
    let line = printed
        .lines()
        .find(|line| line.contains("iot.C.") && line.contains("--deny-principal"))
        .with_context(|| format!("no denial in\n{printed}"))?;
    let words: Vec<&str> = line
        .split_whitespace()
        .skip(1)
        .map(|word| word.trim_matches('\''))
        .collect();
    cloud.kafka.tool(ACL_COMMAND, &words).await?;
    let in_force = acls("acls list").await?;
    ensure!(
        in_force.contains("mirror-C may not Write topic iot.C.management.req"),
        "{in_force}"
    );

    // Who is no super user may not make rules, and is told so.
    let refused = Zeelos::new("acls apply --gateway A --gateway C")
        .args(at)
        .args(["--command-config", &certs.properties("mirror-A")])
        .run()
        .await?;
    ensure!(
        refused
            .stderr
            .contains("we may not see or make access rules"),
        "{refused}"
    );
    Ok(())
}

async fn who_has_no_good_certificate_is_told_why(
    certs: &Certs,
    cloud: &Secure,
) -> anyhow::Result<()> {
    let refused = async |arguments: Vec<String>| -> anyhow::Result<Outcome> {
        let at = ["--bootstrap-server", cloud.kafka.bootstrap()];
        let outcome = Zeelos::new("topics list")
            .args(at)
            .args(arguments)
            .run()
            .await?;
        ensure!(outcome.code() == Some(1), "{outcome}");
        Ok(outcome)
    };
    let ca = words(&format!("--kafka-ssl-ca-location {}", certs.ca()));
    let none = refused(ca.clone()).await?;
    ensure!(
        none.stderr
            .contains("asks for a client certificate and none is configured"),
        "{none}"
    );
    let plain = refused(Vec::new()).await?;
    ensure!(plain.stderr.contains("speaks TLS and we do not"), "{plain}");

    let folder = certs.folder()?;
    let now = now_s();
    let pair = folder.authority().issue(&Request {
        common_name: "client-cloud".to_owned(),
        names: Vec::new(),
        addresses: Vec::new(),
        validity: Validity {
            from_s: now - 7_200,
            until_s: now - 60,
        },
    })?;
    folder.write("ended", &pair)?;
    let with = |role: &str| {
        let files = format!(
            "--kafka-ssl-certificate-location {} --kafka-ssl-key-location {}",
            certs.certificate(role),
            certs.key(role)
        );
        [ca.clone(), words(&files)].concat()
    };
    let ended = refused(with("ended")).await?;
    ensure!(
        ended.stderr.contains("ended.certificate.pem expired on"),
        "{ended}"
    );
    let listed = Zeelos::new("certs list --dir")
        .arg(certs.file(""))
        .run()
        .await?;
    ensure!(
        listed.code() == Some(1) && listed.stdout.contains("ENDED"),
        "{listed}"
    );

    let other = RunDir::new("other-security")?;
    Zeelos::new("certs create --only --role client-cloud --dir")
        .arg(other.path())
        .succeed()
        .await?;
    let theirs = other.path().join("client-cloud");
    let files = format!(
        "--kafka-ssl-certificate-location {0}.certificate.pem --kafka-ssl-key-location {0}.key",
        theirs.display()
    );
    let stranger = refused([ca.clone(), words(&files)].concat()).await?;
    ensure!(
        stranger.stderr.contains("does not trust the CA"),
        "{stranger}"
    );
    ensure!(
        stranger.stderr.contains(&theirs.display().to_string()),
        "{stranger}"
    );
    Ok(())
}

/// Java's tools by the properties file, kcat by PEM files; at Apache Kafka and at our broker.
async fn stock_clients_come_in(certs: &Certs, cloud: &Secure) -> anyhow::Result<()> {
    let listen = format!("127.0.0.1:{}", free_port());
    let arguments = ["--listen", &listen, "--data-dir", "data"];
    let arguments = arguments.into_iter().map(str::to_owned);
    let _broker = Service::start(
        "embedded-kafka",
        arguments.chain(certs.listener("kafka-gateway")),
    )
    .await?;
    let properties = certs.properties("client-cloud");
    let at = [
        "--bootstrap-server",
        &listen,
        "--command-config",
        &properties,
    ];
    let create = [&at[..], &["--create", "--topic", "from-java"]].concat();
    cloud.kafka.tool(TOPIC_COMMAND, &create).await?;
    let seen = cloud
        .kafka
        .tool(
            TOPIC_COMMAND,
            &[
                "--bootstrap-server",
                cloud.kafka.bootstrap(),
                "--command-config",
                &properties,
                "--list",
            ],
        )
        .await?;
    ensure!(seen.contains("iot.A.observations"), "{seen}");
    ensure!(
        !seen.contains("connect-influxdb-configs"),
        "an operator sees {seen}"
    );

    testkit::ensure_command("kcat", &["kcat"]).await?;
    let kcat = |arguments: &[&str]| {
        let mut command = Command::new("kcat");
        command.args(["-b", &listen, "-X", "security.protocol=SSL"]);
        for (name, file) in [
            ("ssl.ca.location", certs.ca()),
            (
                "ssl.certificate.location",
                certs.certificate("client-gateway-A"),
            ),
            ("ssl.key.location", certs.key("client-gateway-A")),
        ] {
            command.args(["-X", &format!("{name}={file}")]);
        }
        command.args(arguments);
        command
    };
    let sent = certs.file("sent");
    std::fs::write(&sent, "over mutual TLS\n")?;
    said(kcat(&["-P", "-t", "from-java", "-l", &sent])).await?;
    let read = said(kcat(&[
        "-C",
        "-t",
        "from-java",
        "-o",
        "beginning",
        "-e",
        "-q",
    ]))
    .await?;
    ensure!(read.contains("over mutual TLS"), "{read}");
    Ok(())
}
