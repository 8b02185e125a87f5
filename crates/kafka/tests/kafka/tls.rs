//! Certificates: who is let in, what the others are told, and what happens when they are renewed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use certs::{Authority, Folder, Pair, Request, Role, Validity};
use embedded_kafka::{Broker, BrokerConfig};
use kafka::{
    Cluster, OutRecord, Process, ProcessError, Producer, ProducerSettings, Record, consume,
    ensure_topic, list_topics,
};
use parking_lot::Mutex;
use service::tls::{ClientAuth, ServerTls, TlsFiles};
use site::{PATIENCE, Running};
use tempfile::TempDir;
use testkit::{free_port, wait_for};

use crate::support::settings;

const DAY: Duration = Duration::from_secs(86_400);
const LIMIT: Duration = Duration::from_secs(3);

fn now_s() -> i64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed()
}

/// A broker that wants certificates, and the folder they come from.
struct Secure {
    dir: TempDir,
    certs: Folder,
    listen: SocketAddr,
    broker: Option<Broker>,
}

impl Secure {
    async fn start() -> Self {
        Self::start_as(Role::new("kafka").unwrap().at([127, 0, 0, 1].into())).await
    }

    async fn start_as(role: Role) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certs = Folder::open_or_create(&dir.path().join("certs"), now_s(), DAY)
            .unwrap()
            .password("itsasecret");
        certs.issue(&role, DAY).unwrap();
        certs.issue(&Role::new("client").unwrap(), DAY).unwrap();
        let mut secure = Self {
            dir,
            certs,
            listen: ([127, 0, 0, 1], free_port()).into(),
            broker: None,
        };
        secure.come_back().await;
        secure
    }

    async fn come_back(&mut self) {
        let mut config = BrokerConfig::new(self.listen, self.dir.path().join("data"));
        let files = TlsFiles {
            ca: Some(self.certs.ca_certificate()),
            certificate: Some(self.certs.certificate("kafka")),
            key: Some(self.certs.key("kafka")),
            ..TlsFiles::default()
        };
        config.tls = Some(ServerTls::open(files, ClientAuth::Required).unwrap());
        self.broker = Some(Broker::start(config).await.unwrap());
    }

    async fn go_away(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    /// A client by the properties that the folder has for it.
    fn client(&self) -> Cluster {
        let properties = self.certs.properties("client");
        Cluster::new(&self.listen.to_string(), Some(&properties)).unwrap()
    }

    fn with(&self, files: TlsFiles) -> Cluster {
        Cluster::with_tls(&self.listen.to_string(), None, files).unwrap()
    }

    /// The certificate's and key's files, written somewhere.
    fn files(&self, name: &str, pair: &Pair) -> TlsFiles {
        let write = |end: &str, pem: Vec<u8>| -> PathBuf {
            let path = self.dir.path().join(format!("{name}.{end}"));
            std::fs::write(&path, pem).unwrap();
            path
        };
        TlsFiles {
            ca: Some(self.certs.ca_certificate()),
            certificate: Some(write("crt", pair.certificate_pem().unwrap())),
            key: Some(write("key", pair.key_pem().unwrap())),
            ..TlsFiles::default()
        }
    }
}

fn request(name: &str, from_s: i64, until_s: i64) -> Request {
    Request {
        common_name: name.to_owned(),
        names: vec![name.to_owned()],
        addresses: Vec::new(),
        validity: Validity { from_s, until_s },
    }
}

async fn told(cluster: &Cluster) -> String {
    let error = list_topics(cluster, LIMIT).await.unwrap_err();
    format!("{error:#}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_is_told_why_and_where_to_look() {
    let secure = Secure::start().await;
    list_topics(&secure.client(), PATIENCE).await.unwrap();

    let ca = secure.certs.ca_certificate();
    let only_ca = || TlsFiles {
        ca: Some(ca.clone()),
        ..TlsFiles::default()
    };
    let said = told(&secure.with(only_ca())).await;
    assert!(
        said.contains("asks for a client certificate and none is configured"),
        "{said}"
    );

    let now = now_s();
    let ended = secure
        .certs
        .authority()
        .issue(&request("client", now - 7_200, now - 60));
    let ended = secure.files("ended", &ended.unwrap());
    let said = told(&secure.with(ended)).await;
    assert!(said.contains("ended.crt expired on"), "{said}");

    let validity = Validity::from_now(now, DAY);
    let stranger = Authority::create("stranger-ca", validity).unwrap();
    let theirs = stranger
        .issue(&request("client", now - 60, now + 86_400))
        .unwrap();
    let said = told(&secure.with(secure.files("theirs", &theirs))).await;
    assert!(said.contains("does not trust the CA"), "{said}");
    assert!(
        said.contains("stranger-ca") && said.contains("theirs.crt"),
        "{said}"
    );

    let other_ca = secure.dir.path().join("stranger-ca.crt");
    std::fs::write(&other_ca, stranger.pair().certificate_pem().unwrap()).unwrap();
    let trusting = TlsFiles {
        ca: Some(other_ca),
        ..only_ca()
    };
    let said = told(&secure.with(trusting)).await;
    assert!(said.contains("is not signed by a CA in"), "{said}");
    assert!(said.contains("stranger-ca.crt"), "{said}");

    let plain = Cluster::new(&secure.listen.to_string(), None).unwrap();
    let said = told(&plain).await;
    assert!(said.contains("speaks TLS and we do not"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_under_another_name_and_one_without_tls_are_not_trusted() {
    let secure = Secure::start_as(Role::new("kafka").unwrap()).await;
    let said = told(&secure.client()).await;
    assert!(said.contains("is for another name"), "{said}");

    let plain = site::Kafka::start().await;
    let properties = secure.certs.properties("client");
    let client = Cluster::new(plain.bootstrap(), Some(&properties)).unwrap();
    let said = told(&client).await;
    assert!(said.contains("does not speak TLS at this port"), "{said}");
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeSet<u32>>>);

impl Process for Seen {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let mut seen = self.0.lock();
        for record in batch {
            let text = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap();
            seen.insert(text.parse().unwrap());
        }
        Ok(())
    }
}

/// The first certificate ends while records flow; the broker's restart then breaks every connection made with it. Who
/// had not taken up the renewed one could not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_traffic_loses_nothing() {
    let mut secure = Secure::start().await;
    let first_ends = now_s() + 8;
    let short = secure
        .certs
        .authority()
        .issue(&request("client", now_s() - 60, first_ends));
    let short = short.unwrap();
    let old = secure.with(secure.files("old", &short));
    secure.certs.write("client", &short).unwrap();
    let cluster = secure.client();
    ensure_topic(&cluster, "flow", 1, &[]).await.unwrap();

    let seen = Seen::default();
    let consumer = {
        let (cluster, mut seen) = (cluster.clone(), seen.clone());
        Running::start(|context| async move {
            context.health.set_ready();
            let condition = context.health.condition("flow");
            let settings = settings("renewing", &["flow"]);
            consume(
                &cluster,
                &settings,
                &mut seen,
                &condition,
                &context.shutdown,
            )
            .await
        })
    };
    let go_on = Arc::new(AtomicBool::new(true));
    let sending = {
        let (cluster, go_on) = (cluster.clone(), Arc::clone(&go_on));
        tokio::spawn(async move {
            let producer = Producer::new(&cluster, &ProducerSettings::default()).unwrap();
            let mut deliveries = Vec::new();
            while go_on.load(Ordering::Relaxed) {
                let value = deliveries.len().to_string();
                let record = OutRecord {
                    topic: "flow",
                    value: Some(value.as_bytes()),
                    ..OutRecord::default()
                };
                deliveries.push(producer.send(record).await.unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let sent = u32::try_from(deliveries.len()).unwrap();
            for delivery in deliveries {
                delivery.await.unwrap();
            }
            sent
        })
    };
    let flows = async |what: &str, more: usize| {
        let before = seen.0.lock().len();
        wait_for(PATIENCE, what, async || {
            let now = seen.0.lock().len();
            anyhow::ensure!(now >= before + more, "{now} seen, {before} before");
            Ok(())
        })
        .await
        .unwrap();
    };
    flows("the flow to begin", 50).await;
    let generation = cluster.generation();
    secure
        .certs
        .issue(&Role::new("client").unwrap(), DAY)
        .unwrap();
    cluster.renewed(generation).await;
    flows("the flow to go on with the renewed certificate", 50).await;

    while now_s() <= first_ends {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    secure.go_away().await;
    secure.come_back().await;
    flows("the flow to go on after the first certificate's end", 100).await;
    go_on.store(false, Ordering::Relaxed);
    let sent = sending.await.unwrap();
    wait_for(PATIENCE, "all to be seen", async || {
        let seen = seen.0.lock();
        let missing: Vec<u32> = (0..sent).filter(|n| !seen.contains(n)).collect();
        anyhow::ensure!(missing.is_empty(), "of {sent} sent, missing {missing:?}");
        Ok(())
    })
    .await
    .unwrap();
    consumer.stop().await;
    let said = told(&old).await;
    assert!(said.contains("old.crt expired on"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_can_not_be_used_change_nothing_until_they_can() {
    let secure = Secure::start().await;
    let mut files = TlsFiles {
        ca: Some(secure.certs.ca_certificate()),
        ..TlsFiles::default()
    };
    files.certificate = Some(secure.certs.certificate("client"));
    files.key = Some(secure.certs.key("client"));
    let cluster = secure.with(files);
    let warned = |file: &Path| {
        let file = file.display().to_string();
        let all = service::tls::warnings();
        all.iter()
            .any(|(files, text)| files.contains(&file) && text.contains("stay in use"))
    };
    let certificate = secure.certs.certificate("client");
    let good = std::fs::read(&certificate).unwrap();

    std::fs::write(&certificate, "half of a certif").unwrap();
    wait_for(PATIENCE, "a warning", async || {
        anyhow::ensure!(warned(&certificate), "{:?}", service::tls::warnings());
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(cluster.generation(), 0);
    list_topics(&cluster, PATIENCE).await.unwrap();

    std::fs::write(&certificate, good).unwrap();
    cluster.renewed(0).await;
    assert!(!warned(&certificate));
    list_topics(&cluster, PATIENCE).await.unwrap();
}
