#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;

use super::*;

fn psk(identity: &str, key: &str) -> Credential {
    Credential::PreSharedKey {
        identity: identity.to_owned(),
        key: SecretKey::from_hex(key).unwrap(),
    }
}

fn public_key() -> Vec<u8> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    key.public_key_to_der().unwrap()
}

#[test]
fn what_was_put_is_there_after_a_restart_and_only_its_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials.db");
    let spki = public_key();
    let raw = Credential::RawPublicKey { spki: spki.clone() };
    {
        let credentials = Credentials::open(&path, Vec::new()).unwrap();
        credentials
            .put("boiler", psk("id-boiler", "00112233"))
            .unwrap();
        credentials.put("meter", raw.clone()).unwrap();
        credentials
            .put("pump", Credential::TrustedCertificate)
            .unwrap();
        credentials.put("gone", psk("id-gone", "445566")).unwrap();
        assert!(credentials.delete("gone").unwrap());
        assert!(!credentials.delete("gone").unwrap());
    }
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let credentials = Credentials::open(&path, Vec::new()).unwrap();
    let names: Vec<String> = credentials
        .list()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["boiler", "meter", "pump"]);
    assert_eq!(*credentials.get("meter").unwrap(), raw);
    let (endpoint, key) = credentials.by_identity("id-boiler").unwrap();
    assert_eq!(
        (endpoint.as_str(), key.expose()),
        ("boiler", &[0, 0x11, 0x22, 0x33][..])
    );
    assert_eq!(credentials.by_identity("id-gone"), None);
    assert_eq!(credentials.by_der(&spki).as_deref(), Some("meter"));
}

#[test]
fn an_identity_belongs_to_one_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(&folder.path().join("c.db"), Vec::new()).unwrap();
    credentials.put("one", psk("shared", "00")).unwrap();
    let refused = credentials.put("two", psk("shared", "01")).unwrap_err();
    assert!(refused.to_string().contains("'one'"), "{refused}");
    // The same endpoint may change its key; then another may take the identity it left.
    credentials.put("one", psk("shared", "02")).unwrap();
    credentials.put("one", psk("own", "03")).unwrap();
    credentials.put("two", psk("shared", "04")).unwrap();
    assert_eq!(credentials.by_identity("shared").unwrap().0, "two");
}

#[test]
fn what_can_not_be_used_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(&folder.path().join("c.db"), Vec::new()).unwrap();
    for (endpoint, credential) in [
        ("", psk("id", "00")),
        ("a\nb", psk("id", "00")),
        ("a", psk("", "00")),
        ("a", psk("id", "")),
        ("a", psk("id", &"00".repeat(65))),
        ("a", psk(&"i".repeat(129), "00")),
        (
            "a",
            Credential::RawPublicKey {
                spki: vec![1, 2, 3],
            },
        ),
        ("a", Credential::PinnedCertificate { der: vec![0x30, 0] }),
    ] {
        let refused = credentials.put(endpoint, credential).unwrap_err();
        assert!(matches!(refused, CredentialError::Invalid(_)), "{refused}");
    }
    assert!(SecretKey::from_hex("123").is_err());
}

#[test]
fn sessions_of_what_changed_have_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(&folder.path().join("c.db"), Vec::new()).unwrap();
    credentials.put("one", psk("id", "00")).unwrap();
    let name = |endpoint: &str| Revoked::Name(endpoint.to_owned());
    // Until then the name alone was enough.
    assert_eq!(credentials.take_revoked(), [name("one")]);
    let number = Revoked::Number {
        number: Identity::Psk(b"id".to_vec()).number(),
        endpoint: "one".to_owned(),
    };
    credentials.put("one", psk("id", "01")).unwrap();
    assert_eq!(credentials.take_revoked(), std::slice::from_ref(&number));
    credentials
        .put("two", Credential::TrustedCertificate)
        .unwrap();
    credentials.delete("one").unwrap();
    credentials.delete("two").unwrap();
    assert_eq!(
        credentials.take_revoked(),
        [name("two"), number, name("two")]
    );
}

#[test]
fn the_file_wins_and_its_secrets_stay_out_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.db");
    Credentials::open(&path, Vec::new())
        .unwrap()
        .put("boiler", psk("old", "aa"))
        .unwrap();
    let spki = openssl::base64::encode_block(&public_key());
    let file = folder.path().join("devices.toml");
    fs::write(folder.path().join("key.txt"), "cafebabecafebabe\n").unwrap();
    let text = format!(
        "[[credential]]\nendpoint = \"boiler\"\npsk = {{ identity = \"new\", key_file = \"key.txt\" }}\n\
         [[credential]]\nendpoint = \"meter\"\nrpk = {{ public_key = \"{spki}\" }}\n\
         [[credential]]\nendpoint = \"pump\"\nx509 = {{}}\n"
    );
    fs::write(&file, text).unwrap();
    let credentials = Credentials::open(&path, read_file(&file).unwrap()).unwrap();
    assert_eq!(credentials.list().len(), 3);
    assert_eq!(credentials.by_identity("old"), None);
    assert_eq!(credentials.by_identity("new").unwrap().0, "boiler");
    assert!(matches!(
        credentials.put("boiler", psk("other", "00")),
        Err(CredentialError::FromFile(_))
    ));
    assert!(matches!(
        credentials.delete("pump"),
        Err(CredentialError::FromFile(_))
    ));
    drop(credentials);
    let bytes = fs::read(&path).unwrap();
    let secret = [0xca, 0xfe, 0xba, 0xbe];
    assert!(!bytes.windows(4).any(|window| window == secret));
}

#[test]
fn json_has_the_same_form_and_no_message_quotes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.json");
    fs::write(
        &file,
        r#"{"credential": [{"endpoint": "a", "psk": {"identity": "i", "key": "c0ffee"}}]}"#,
    )
    .unwrap();
    let read = read_file(&file).unwrap();
    assert_eq!(read, [("a".to_owned(), psk("i", "c0ffee"))]);
    assert!(!format!("{read:?}").contains("c0ffee"));

    for (name, text) in [
        (
            "b.json",
            r#"{"credential": [{"endpoint": "a", "psk": "c0ffee"}]}"#,
        ),
        (
            "b.json",
            r#"{"credential": [{"endpoint": "a", "psk": {"identity": "i", "key": "c0ffeez"}}]}"#,
        ),
        (
            "b.toml",
            "[[credential]]\nendpoint = \"a\"\npsk = { identity = \"i\", kay = \"c0ffee\" }\n",
        ),
        (
            "b.toml",
            "[[credential]]\nendpoint = \"a\"\npsk = { identity = \"i\", key = \"c0ffee\"\n",
        ),
        (
            "b.toml",
            "[[credential]]\nendpoint = \"a\"\nx509 = {}\npsk = { identity = \"i\", key = \"c0ffee\" }\n",
        ),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let refused = read_file(&file).unwrap_err();
        assert!(
            !format!("{refused} {refused:?}").contains("c0ffee"),
            "{refused}"
        );
    }
}
