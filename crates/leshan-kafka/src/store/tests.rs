use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use coap::{Peer, Token};
use lwm2m::{Binding, Target, Version};
use lwm2m_codec::Link;
use records::{AvroContentFormat, AvroRecord as _, Request, RequestKind, RequestPayload};

use super::*;

/// What the first format made.
const SCHEMA_1: &str = "
    CREATE TABLE registrations (endpoint TEXT PRIMARY KEY, json BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE observations (
        endpoint TEXT NOT NULL, path TEXT NOT NULL, json BLOB NOT NULL, PRIMARY KEY (endpoint, path)
    ) WITHOUT ROWID;
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, fingerprint BLOB NOT NULL, accepted_ms INTEGER NOT NULL,
        deadline_ms INTEGER NOT NULL, request BLOB NOT NULL, state INTEGER NOT NULL, reply BLOB
    );
    CREATE INDEX requests_by_fingerprint ON requests (fingerprint, accepted_ms);
    CREATE INDEX requests_by_time ON requests (accepted_ms);
    CREATE INDEX requests_open ON requests (id) WHERE state < 2;
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, endpoint TEXT NOT NULL, datum BLOB NOT NULL
    );
    PRAGMA user_version = 1;
";

fn registration(endpoint: &str) -> Registration {
    let link = |url: &str, attributes| Link {
        url: url.to_owned(),
        attributes,
    };
    Registration {
        endpoint: endpoint.to_owned(),
        registration_id: format!("id-{endpoint}"),
        peer: Peer::plain(([192, 0, 2, 7], 5683).into()),
        registered_at_unix_ms: 1_700_000_000_000,
        last_update_unix_ms: 1_700_000_001_000,
        lifetime: Duration::from_secs(300),
        version: Version::V1_1,
        binding: Binding::parse("U", true).unwrap(),
        sms: Some("+301234".to_owned()),
        links: vec![
            link("/", vec![("rt".to_owned(), Some("oma.lwm2m".to_owned()))]),
            link("/3/0", vec![("obs".to_owned(), None)]),
        ]
        .into(),
        root_path: "/".to_owned(),
        attributes: BTreeMap::from([("batch".to_owned(), "7".to_owned())]),
    }
}

fn observation(endpoint: &str, target: &str) -> Observation {
    Observation {
        endpoint: endpoint.to_owned(),
        registration_id: format!("id-{endpoint}"),
        target: target.parse::<Target>().unwrap(),
        token: Token::new(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
        context: Some("t1\u{1f}trace".to_owned()),
        content_format: Some(11_542),
    }
}

fn all(store: &Store) -> (Vec<Registration>, Vec<Observation>) {
    let mut found = (Vec::new(), Vec::new());
    store
        .take_up(|registrations, observations| {
            found = (registrations.collect(), observations.collect());
        })
        .unwrap();
    found
}

fn read(ticket: &str) -> Request {
    Request {
        server_id: "gw".to_owned(),
        ep: "dev1".to_owned(),
        ticket: ticket.to_owned(),
        payload: RequestPayload {
            kind: RequestKind::Read,
            path: "/3/0/0".to_owned(),
            content_format: AvroContentFormat::Tlv,
            body: None,
        },
    }
}

#[test]
fn what_was_put_is_there_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    // One of an earlier release, which everybody could read.
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let mut store = Store::open(&path).unwrap();
    for file in ["server.db", "server.db-wal"] {
        let mode = fs::metadata(folder.path().join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let (first, second) = (registration("dev1"), registration("dev2"));
    let lists = [
        observation("dev1", "/3/0/9"),
        observation("dev1", "[/3/0/9,/3303/0/5700]"),
    ];
    let mut changes = vec![
        Change::PutRegistration(Arc::new(first.clone())),
        Change::PutRegistration(Arc::new(second)),
        Change::RemoveRegistration {
            endpoint: "dev2".to_owned(),
        },
        Change::AwakeWindow {
            endpoint: "dev1".to_owned(),
            window: Some(Duration::from_secs(20)),
        },
    ];
    changes.extend(
        lists
            .clone()
            .map(|kept| Change::PutObservation(Arc::new(kept))),
    );
    store.commit(&changes).unwrap();
    assert!(!store.wants_sync());
    drop(store);

    let store = Store::open(&path).unwrap();
    let (registrations, mut observations) = all(&store);
    observations.sort_by_key(|kept| kept.target.clone());
    assert_eq!((registrations, observations), (vec![first], lists.to_vec()));
    assert_eq!(
        store.awake_windows().unwrap(),
        [("dev1".to_owned(), Duration::from_secs(20))]
    );
}

#[test]
fn only_what_nobody_is_told_of_waits_for_its_sync() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("server.db")).unwrap();
    let record = |kind| Outgoing {
        kind,
        endpoint: "dev1".to_owned(),
        datum: vec![1; 100],
        origin: None,
        trace: None,
    };
    let enqueue = |kind| Change::Enqueue {
        id: 1,
        record: record(kind),
    };
    store.commit(&[enqueue(OutgoingKind::Observation)]).unwrap();
    assert!(store.wants_sync());
    store.sync().unwrap();
    assert!(!store.wants_sync());
    store.commit(&[enqueue(OutgoingKind::Reply)]).unwrap();
    assert!(!store.wants_sync());
    let kind = OutgoingKind::Observation;
    let removed = store.commit(&[Change::Published { kind, id: 1 }]).unwrap();
    assert_eq!(removed, 100);
}

#[test]
fn a_store_of_the_first_format_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(SCHEMA_1).unwrap();
    let (kept, observed) = (registration("dev1"), observation("dev1", "/3/0/9"));
    old.execute(
        "INSERT INTO registrations VALUES ('dev1', ?1)",
        params![serde_json::to_vec(&kept).unwrap()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO observations VALUES ('dev1', '/3/0/9', ?1)",
        params![serde_json::to_vec(&observed).unwrap()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO requests VALUES (7, 'c/t/0/1', x'00', 1, 2, ?1, 0, NULL)",
        params![read("t1").to_datum()],
    )
    .unwrap();
    old.execute("INSERT INTO outbox VALUES (5, 2, 'dev1', x'0102')", [])
        .unwrap();
    drop(old);

    let store = Store::open(&path).unwrap();
    assert_eq!(all(&store), (vec![kept], vec![observed]));
    let mut open = Vec::new();
    store.each_open(|request| open.push(request)).unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].id, open[0].state), (7, EntryState::Accepted));
    assert_eq!(open[0].endpoint, "dev1");
    let entry = store.open_request(7).unwrap().unwrap();
    assert_eq!(entry.request, read("t1"));
    let state = store.outbox_state(OutgoingKind::Reply).unwrap();
    assert_eq!((state.last, state.bytes), (5, 2));
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn a_row_that_is_nothing_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let store = Store::open(&path).unwrap();
    let put = store
        .connection()
        .execute("INSERT INTO registrations VALUES ('dev1', x'c1c1')", []);
    put.unwrap();
    let error = store
        .take_up(|registrations, _| for _ in registrations {})
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a registration that can't be read"),
        "{error}"
    );
}
