//! A folder of certificates through its life, read by OpenSSL's and Java's own tools.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use certs::{Folder, Outcome, Role, cloud_roles, gateway_roles};

const DAY: Duration = Duration::from_secs(86_400);
const YEARS: Duration = Duration::from_secs(3_650 * 86_400);

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

fn folder(path: &Path, now_s: i64) -> Folder {
    Folder::open_or_create(path, now_s, YEARS)
        .unwrap()
        .password("itsasecret")
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

#[test]
fn a_second_run_changes_nothing_and_a_certificate_that_ends_soon_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let now = now_s();
    let first = folder(dir.path(), now);
    let role = &gateway_roles("upboard").unwrap()[0];
    assert_eq!(role.name(), "kafka-gateway-upboard");
    let ensure = |folder: &Folder, role: &Role| folder.ensure(role, DAY * 90, DAY * 30).unwrap();
    assert_eq!(ensure(&first, role), Outcome::Created);
    let made = fs::read(first.certificate(role.name())).unwrap();

    let again = folder(dir.path(), now);
    assert_eq!(ensure(&again, role), Outcome::Kept);
    assert_eq!(fs::read(again.certificate(role.name())).unwrap(), made);

    // Sixty-one days on it has less than thirty left.
    let later = folder(dir.path(), now + 61 * 86_400);
    assert_eq!(ensure(&later, role), Outcome::Renewed);
    assert_ne!(fs::read(later.certificate(role.name())).unwrap(), made);
    assert_eq!(ensure(&later, role), Outcome::Kept);

    // Another name is another certificate.
    let called = role.clone().called("localhost").at([127, 0, 0, 1].into());
    assert_eq!(ensure(&later, &called), Outcome::Renewed);
    assert_eq!(later.role(role.name()).unwrap(), called);
    let entries = later.list().unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.role.as_str()).collect();
    assert_eq!(names, ["CA", "kafka-gateway-upboard"]);
    assert!(entries.iter().all(|entry| entry.trusted));
    assert_eq!(
        entries[1].names,
        [
            "kafka-gateway-upboard",
            "kafka-gateway",
            "localhost",
            "127.0.0.1"
        ]
    );
}

#[test]
fn files_with_secrets_are_for_their_owner_and_clean_removes_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), now_s());
    for role in cloud_roles() {
        folder.issue(&role, DAY).unwrap();
    }
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.key("kafka-cloud")), 0o600);
    assert_eq!(mode(&folder.keystore("kafka-cloud")), 0o600);
    assert_eq!(mode(&folder.properties("kafka-cloud")), 0o600);
    assert_eq!(mode(&dir.path().join("zeelos.io-ca.key")), 0o600);
    assert_eq!(mode(&folder.certificate("kafka-cloud")), 0o644);

    fs::write(dir.path().join("certs-create.sh"), "stays").unwrap();
    assert_eq!(Folder::clean(dir.path()).unwrap(), 6 * 5 + 2);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(Folder::clean(&dir.path().join("none")).unwrap(), 0);
}

#[test]
fn another_authoritys_certificate_is_replaced_and_half_an_authority_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let role = &cloud_roles()[0];
    let theirs = folder(other.path(), now_s());
    theirs.issue(role, DAY * 90).unwrap();
    let ours = folder(one.path(), now_s());
    for (from, to) in [
        (
            theirs.certificate(role.name()),
            ours.certificate(role.name()),
        ),
        (theirs.key(role.name()), ours.key(role.name())),
    ] {
        fs::copy(from, to).unwrap();
    }
    assert!(!ours.list().unwrap()[1].trusted);
    assert_eq!(ours.ensure(role, DAY * 90, DAY).unwrap(), Outcome::Renewed);

    fs::remove_file(one.path().join("zeelos.io-ca.key")).unwrap();
    let error = Folder::open_or_create(one.path(), now_s(), YEARS)
        .err()
        .unwrap();
    assert!(error.to_string().contains("zeelos.io-ca.key"), "{error}");
}

#[test]
fn openssl_and_java_read_what_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), now_s());
    let role = Role::new("kafka-cloud").unwrap().called("localhost");
    folder.issue(&role, DAY).unwrap();
    let (ca, certificate) = (folder.ca_certificate(), folder.certificate("kafka-cloud"));
    let (ca, certificate) = (ca.to_str().unwrap(), certificate.to_str().unwrap());
    for purpose in ["sslserver", "sslclient"] {
        let verify = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            ca,
            certificate,
        ];
        assert!(run("openssl", &verify).contains("OK"));
    }

    let list = |file: &Path| {
        let file = file.to_str().unwrap();
        run(
            "keytool",
            &["-list", "-v", "-keystore", file, "-storepass", "itsasecret"],
        )
    };
    let keystore = list(&folder.keystore("kafka-cloud"));
    assert!(keystore.contains("PrivateKeyEntry"), "{keystore}");
    // Java prints a name from its end: the principal's rule counts on the common name first.
    assert!(
        keystore.contains("Owner: CN=kafka-cloud, O=zeelos"),
        "{keystore}"
    );
    let truststore = list(&folder.truststore("kafka-cloud"));
    assert!(truststore.contains("trustedCertEntry"), "{truststore}");
    assert!(truststore.contains("CN=zeelos.io-ca"), "{truststore}");
    let info = run(
        "openssl",
        &[
            "pkcs12",
            "-in",
            folder.truststore("kafka-cloud").to_str().unwrap(),
            "-passin",
            "pass:itsasecret",
            "-nokeys",
        ],
    );
    assert!(info.contains("BEGIN CERTIFICATE"), "{info}");
}

#[test]
fn a_name_that_would_leave_the_folder_is_none() {
    for bad in ["", "../x", "a/b", "-x", "a b", "a\nb", &"x".repeat(65)] {
        assert!(Role::new(bad).is_err(), "{bad:?}");
    }
    assert!(gateway_roles("../../etc").is_err());
}
