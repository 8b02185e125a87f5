//! Devices over DTLS, from their handshake to Kafka: the real client, the real server, keys and certificates in files.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod site;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::BasicConstraints;
use openssl::x509::{X509, X509NameBuilder};
use records::{RegistrationResponse, RequestKind, ResponseBody, ResponseCode, ResponseObserve};
use service::Context;
use site::{Running, Site, metric};
use testkit::free_port;
use tokio::task::JoinHandle;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: client_demo::Args,
}

/// A virtual sensor in this process.
struct Sensor {
    task: JoinHandle<anyhow::Result<()>>,
    context: Context,
}

impl Sensor {
    fn start(endpoint: &str, server: SocketAddr, more: &[&str]) -> Self {
        let server = server.to_string();
        let line = ["sensor", "-n", endpoint, "-u", &server, "--interval", "200"];
        let line = line.iter().chain(more);
        let Program { args } = Program::try_parse_from(line).unwrap();
        let context = Context::detached();
        let task = tokio::spawn(client_demo::run(args, context.clone()));
        Self { task, context }
    }

    /// As after a power cut.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn stop(self) {
        self.context.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A folder of keys, and the server's options that name them.
struct Keys {
    folder: tempfile::TempDir,
    coaps: SocketAddr,
}

impl Keys {
    fn new(credentials: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("credentials.toml"), credentials).unwrap();
        let coaps = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { folder, coaps }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn server(&self, site: &Site, more: &[&str]) -> Running {
        let (listen, file) = (
            format!("--coaps-listen={}", self.coaps),
            format!("--credentials-file={}", self.text("credentials.toml")),
        );
        let mut line = vec![listen.as_str(), &file];
        line.extend(more);
        site.start_server_with(&line)
    }
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&subject).unwrap();
    let issued_by = issuer.map_or(&*subject, |(ca, _)| ca.subject_name());
    builder.set_issuer_name(issued_by).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(2).unwrap())
        .unwrap();
    builder.set_pubkey(key).unwrap();
    if issuer.is_none() {
        let ca = BasicConstraints::new().critical().ca().build().unwrap();
        builder.append_extension(ca).unwrap();
    }
    let signer = issuer.map_or(key, |(_, key)| key);
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    builder.build()
}

fn write_key(path: &Path, key: &PKey<Private>) {
    fs::write(path, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
}

const PSK: &str = "00112233445566778899aabbccddeeff";

fn psk_file(endpoint: &str) -> String {
    format!(
        "[[credential]]\nendpoint = \"{endpoint}\"\npsk = {{ identity = \"id-{endpoint}\", key = \"{PSK}\" }}\n"
    )
}

async fn refused(what: &str, before: f64) {
    let counted = || async {
        let now = metric(&format!(
            "zeelos_dtls_handshakes_total{{outcome=\"{what}\"}}"
        ));
        anyhow::ensure!(now > before, "no handshake was refused: {what}");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "a refusal", counted)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_with_a_key_is_read_and_observed_and_outlives_the_server() {
    let keys = Keys::new(&psk_file("boiler"));
    let site = Site::with_kafka().await;
    let server = keys.server(&site, &[]);
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut observations = site.topic::<ResponseObserve>("iot.gw.observations").await;
    let mut desk = site.desk().await;

    let sensor = Sensor::start("boiler", keys.coaps, &["-i", "id-boiler", "-p", PSK]);
    let RegistrationResponse::New(_) = registrations.next().await else {
        panic!("not NEW");
    };
    let read = desk
        .ask("boiler", "t-1", RequestKind::Read, "/3303/0/5700", None)
        .await;
    assert_eq!(read.rep.code, ResponseCode::Content);
    let observed = desk
        .ask("boiler", "t-2", RequestKind::Observe, "/3303/0/5700", None)
        .await;
    assert_eq!(observed.rep.code, ResponseCode::Content);
    for _ in 0..3 {
        assert_eq!(observations.next().await.ticket, "t-2");
    }

    // The server forgets every session; the sensor makes a new one when nobody answers, under the same registration.
    server.kill().await;
    let server = keys.server(&site, &[]);
    for _ in 0..3 {
        assert_eq!(observations.next().await.ticket, "t-2");
    }
    let read = desk
        .ask("boiler", "t-3", RequestKind::Read, "/3303/0/5700", None)
        .await;
    assert!(
        matches!(read.rep.body, Some(ResponseBody::Read(_))),
        "{:?}",
        read.rep
    );

    sensor.stop().await;
    let gone = registrations
        .find(|event| matches!(event, RegistrationResponse::Delete(_)))
        .await;
    drop(gone);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_belongs_to_its_endpoint() {
    let both = psk_file("boiler") + &psk_file("valve");
    let keys = Keys::new(&both);
    let site = Site::with_kafka().await;
    let server = keys.server(&site, &[]);
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;

    // With another's name, without security, with a wrong key, with an identity that nobody has.
    let wrong_keys = metric("zeelos_dtls_handshakes_total{outcome=\"refused_key\"}");
    let crooks = [
        Sensor::start("boiler", keys.coaps, &["-i", "id-valve", "-p", PSK]),
        Sensor::start("nobody", keys.coaps, &["-i", "id-valve", "-p", PSK]),
        Sensor::start("boiler", site.coap, &[]),
        Sensor::start("boiler", keys.coaps, &["-i", "id-boiler", "-p", "00"]),
        Sensor::start("boiler", keys.coaps, &["-i", "id-nobody", "-p", PSK]),
    ];
    refused("refused_key", wrong_keys + 1.0).await;
    assert!(registrations.is_quiet().await);
    // Who has no credential may come without security, as it is by default.
    let open = Sensor::start("open", site.coap, &[]);
    let honest = Sensor::start("valve", keys.coaps, &["-i", "id-valve", "-p", PSK]);
    let mut names = Vec::new();
    for _ in 0..2 {
        match registrations.next().await {
            RegistrationResponse::New(new) => names.push(new.ep),
            other => panic!("{other:?}"),
        }
    }
    names.sort();
    assert_eq!(names, ["open", "valve"]);
    for sensor in crooks.into_iter().chain([open, honest]) {
        sensor.kill().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_raw_public_keys_and_no_door_without_security() {
    let keys = Keys::new("");
    let (ca_key, server_key, pump_key, meter_key) = (ec_key(), ec_key(), ec_key(), ec_key());
    let ca = certificate("the CA", &ca_key, None);
    let of_server = certificate("gateway", &server_key, Some((&ca, &ca_key)));
    let of_pump = certificate("pump", &pump_key, Some((&ca, &ca_key)));
    for (name, key) in [
        ("server.key", &server_key),
        ("pump.key", &pump_key),
        ("meter.key", &meter_key),
    ] {
        write_key(&keys.path(name), key);
    }
    for (name, certificate) in [
        ("ca.pem", &ca),
        ("server.pem", &of_server),
        ("pump.pem", &of_pump),
    ] {
        fs::write(keys.path(name), certificate.to_pem().unwrap()).unwrap();
    }
    fs::write(
        keys.path("server.pub"),
        server_key.public_key_to_pem().unwrap(),
    )
    .unwrap();
    fs::write(
        keys.path("meter.pub"),
        meter_key.public_key_to_pem().unwrap(),
    )
    .unwrap();
    let credentials = "[[credential]]\nendpoint = \"pump\"\nx509 = {}\n\
        [[credential]]\nendpoint = \"meter\"\nrpk = { public_key_file = \"meter.pub\" }\n";
    fs::write(keys.path("credentials.toml"), credentials).unwrap();

    let site = Site::with_kafka().await;
    let server = keys.server(
        &site,
        &[
            "--nosec=false",
            &format!("--dtls-private-key={}", keys.text("server.key")),
            &format!("--dtls-certificate={}", keys.text("server.pem")),
            &format!("--dtls-trust-store={}", keys.text("ca.pem")),
        ],
    );
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let mut desk = site.desk().await;
    let pump_options = [
        "--private-key",
        &keys.text("pump.key"),
        "--certificate",
        &keys.text("pump.pem"),
        "--trust-store",
        &keys.text("ca.pem"),
        "--server-name",
        "gateway",
    ];
    let meter_options = [
        "--private-key",
        &keys.text("meter.key"),
        "--server-public-key",
        &keys.text("server.pub"),
    ];
    let before = metric("zeelos_dtls_handshakes_total{outcome=\"full\"}");
    let sensors = [
        Sensor::start("open", site.coap, &[]),
        // The pump's certificate does not name a valve.
        Sensor::start("valve", keys.coaps, &pump_options),
        Sensor::start("meter", keys.coaps, &meter_options),
    ];
    let RegistrationResponse::New(new) = registrations.next().await else {
        panic!("not NEW")
    };
    assert_eq!(new.ep, "meter");
    refused_not_more(before).await;
    let pump = Sensor::start("pump", keys.coaps, &pump_options);
    let RegistrationResponse::New(new) = registrations.next().await else {
        panic!("not NEW")
    };
    assert_eq!(new.ep, "pump");
    for (endpoint, ticket) in [("pump", "t-1"), ("meter", "t-2")] {
        let read = desk
            .ask(endpoint, ticket, RequestKind::Read, "/3303/0/5700", None)
            .await;
        assert_eq!(read.rep.code, ResponseCode::Content, "{endpoint}");
    }
    assert!(registrations.is_quiet().await);
    for sensor in sensors.into_iter().chain([pump]) {
        sensor.kill().await;
    }
    server.stop().await;
}

/// From its first credential on an endpoint's name alone is not enough, also for who has registered under it before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_registered_without_security_is_not_when_the_endpoint_gets_a_credential() {
    let keys = Keys::new("");
    let site = Site::with_kafka().await;
    // Without DTLS as well: then the plain door alone has to see the change.
    let server = keys.server(&site, &["--dtls=false"]);
    let mut registrations = site
        .topic::<RegistrationResponse>("iot.gw.registrations")
        .await;
    let sensors = [
        Sensor::start("boiler", site.coap, &[]),
        Sensor::start("valve", site.coap, &[]),
    ];
    for _ in 0..2 {
        let RegistrationResponse::New(_) = registrations.next().await else {
            panic!("not NEW")
        };
    }
    let body = format!(
        "{{\"endpoint\":\"valve\",\"psk\":{{\"identity\":\"id-valve\",\"key\":\"{PSK}\"}}}}"
    );
    let put = reqwest::Client::new()
        .put(format!("http://{}/api/security/clients", site.web))
        .header("content-type", "application/json")
        .body(body);
    assert_eq!(put.send().await.unwrap().status(), 200);
    let deleted = |name: &'static str| move |event: &RegistrationResponse| matches!(event, RegistrationResponse::Delete(gone) if gone.ep == name);
    registrations.find(deleted("valve")).await;

    // What the store kept of the other, whose credential comes with a file.
    server.kill().await;
    fs::write(keys.path("credentials.toml"), psk_file("boiler")).unwrap();
    let server = keys.server(&site, &[]);
    registrations.find(deleted("boiler")).await;
    for sensor in sensors {
        sensor.kill().await;
    }
    server.stop().await;
}

/// The valve's handshake is a good one; its registration is what is refused.
async fn refused_not_more(before: f64) {
    let two = || async {
        let now = metric("zeelos_dtls_handshakes_total{outcome=\"full\"}");
        anyhow::ensure!(now >= before + 2.0, "{now} handshakes");
        Ok(())
    };
    testkit::wait_for(site::PATIENCE, "two handshakes", two)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
}
