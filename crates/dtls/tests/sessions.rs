//! Sessions: how they come to be with each kind of credential, are refused, resumed, replaced and ended.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod pair;

use std::sync::Arc;
use std::time::Duration;

use dtls::{
    Alert, CertificateRefusal, CipherSuite, ClientAuth, ClientClosing, ClientConfig, ClientEvent,
    Closing, Event, Identity, Refusal, ServerConfig, ServerTrust, TrustStore,
};
use openssl::hash::MessageDigest;
use openssl::x509::X509;
use pair::{KEY, World, address, certificate, ec_key, own, psk};

fn decrypt_error(closing: &ClientClosing) -> bool {
    matches!(closing, ClientClosing::ByPeer(alert) if alert.code() == 51)
}

#[test]
fn a_device_with_a_key_registers_and_both_talk() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    let [
        Event::Established {
            peer,
            session,
            identity,
            suite,
            resumed: false,
        },
    ] = &world.server_events[..]
    else {
        panic!("{:?}", world.server_events);
    };
    assert_eq!(
        (*peer, &**identity),
        (device, &Identity::Psk(b"id".to_vec()))
    );
    assert_eq!(*session, identity.number());
    assert_eq!(*suite, CipherSuite::EcdhePskAes128GcmSha256);
    let session = *session;
    assert!(world.say(device, b"register"));
    assert_eq!(world.heard(), ["register"]);
    assert!(world.server.send(device, session, b"created"));
    world.run(Duration::from_secs(1));
    let last = &world.client_events.last().unwrap().1;
    assert!(matches!(last, ClientEvent::Data(data) if data == b"created"));
    // Nothing of it was on the wire in clear.
    let clear = |needle: &[u8]| {
        world
            .wire
            .iter()
            .any(|(_, _, d)| d.windows(needle.len()).any(|w| w == needle))
    };
    assert!(!clear(b"register") && !clear(b"created") && !clear(KEY));
    // To another address, or in another session, nothing goes.
    assert!(!world.server.send(address(9), session, b"x"));
    assert!(!world.server.send(device, session ^ 1, b"x"));
    assert_eq!(world.server.stats().unsendable, 2);
}

#[test]
fn every_suite_does() {
    let key = ec_key();
    let server_key = ec_key();
    let certificate_of_server = certificate("server", &server_key, (-1, 10), None);
    for suite in CipherSuite::ALL {
        let config = ServerConfig {
            own_key: Some(own(&server_key, &[&certificate_of_server])),
            ..ServerConfig::default()
        };
        let mut world = World::with_psk(config);
        let public = own(&key, &[]).public_key().to_vec();
        world.known.0.lock().unwrap().public_keys.push(public);
        let mut config = psk("id", KEY);
        if suite.name().contains("ECDSA") {
            config.auth = ClientAuth::RawPublicKey {
                own: own(&key, &[]),
                server: own(&server_key, &[]).public_key().to_vec(),
            };
        }
        config.suites = vec![suite];
        let device = world.client(1, config);
        world.connect(device);
        assert!(
            world.say(device, b"hello"),
            "{suite:?} {:?}",
            world.closings()
        );
        assert_eq!(world.heard(), ["hello"], "{suite:?}");
    }
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_the_same_from_outside() {
    let mut world = World::with_psk(ServerConfig::default());
    for (n, config) in [(1, psk("id", b"another key")), (2, psk("nobody", KEY))] {
        let device = world.client(n, config);
        world.connect(device);
        // Not at once: what does not open may be anybody's.
        assert!(world.server.handshakes() == 1 && world.server.stats().forged > 0);
        world.run(Duration::from_secs(10));
    }
    assert_eq!(
        world.refusals(),
        [Refusal::WrongKey, Refusal::UnknownIdentity]
    );
    assert!(
        world.closings().iter().all(decrypt_error),
        "{:?}",
        world.closings()
    );
    assert_eq!(world.closings().len(), 2);
    let sizes = |n| -> Vec<(bool, usize)> {
        world
            .wire
            .iter()
            .filter(|(_, peer, _)| *peer == address(n))
            .map(|(to_server, _, d)| (*to_server, d.len()))
            .collect()
    };
    // Its key exchange says who it is, and is repeated while there is no answer.
    let mut expected = sizes(1);
    for (to_server, len) in &mut expected[4..] {
        *len += usize::from(*to_server) * ("nobody".len() - "id".len());
    }
    assert_eq!(sizes(2), expected);
    assert_eq!(world.server.stats().refused_key, 2);
    assert_eq!((world.server.sessions(), world.server.handshakes()), (0, 0));
    let shown = format!("{:?} {:?}", world.server_events, world.server);
    assert!(!shown.contains("0123456789abcdef") && shown.contains("nobody"));
}

fn rpk_world() -> (World, ClientConfig) {
    let (key, server_key) = (ec_key(), ec_key());
    let config = ServerConfig {
        own_key: Some(own(&server_key, &[])),
        ..ServerConfig::default()
    };
    let world = World::new(config);
    let auth = ClientAuth::RawPublicKey {
        own: own(&key, &[]),
        server: own(&server_key, &[]).public_key().to_vec(),
    };
    let public = own(&key, &[]).public_key().to_vec();
    world.known.0.lock().unwrap().public_keys.push(public);
    (world, ClientConfig::new(auth))
}

#[test]
fn raw_public_keys_are_known_or_refused_on_both_sides() {
    let (mut world, config) = rpk_world();
    let device = world.client(1, config.clone());
    world.connect(device);
    assert!(world.say(device, b"hello"));
    assert!(matches!(
        &world.server_events[0],
        Event::Established { identity, .. } if matches!(**identity, Identity::RawPublicKey(_))
    ));

    let ClientAuth::RawPublicKey { own: _, server } = config.auth.clone() else {
        panic!()
    };
    let stranger = ClientAuth::RawPublicKey {
        own: own(&ec_key(), &[]),
        server,
    };
    let device = world.client(2, ClientConfig::new(stranger));
    world.connect(device);
    assert_eq!(world.refusals(), [Refusal::UnknownPublicKey]);

    let ClientAuth::RawPublicKey { own: mine, .. } = config.auth else {
        panic!()
    };
    let server = own(&ec_key(), &[]).public_key().to_vec();
    let misled = ClientAuth::RawPublicKey { own: mine, server };
    let device = world.client(3, ClientConfig::new(misled));
    world.connect(device);
    assert_eq!(world.closings().last(), Some(&ClientClosing::WrongKey));
}

#[test]
fn certificates_of_a_trust_store_pinned_ones_and_those_that_are_not_taken() {
    let (ca_key, server_key, device_key) = (ec_key(), ec_key(), ec_key());
    let ca = certificate("our CA", &ca_key, (-1, 10), None);
    let ours = Some((&ca, &ca_key));
    let of_server = certificate("gateway", &server_key, (-1, 10), ours);
    let config = ServerConfig {
        own_key: Some(own(&server_key, &[&of_server])),
        ..ServerConfig::default()
    };
    let mut world = World::new(config);
    let trust = || TrustStore::from_pem(&ca.to_pem().unwrap()).unwrap();
    let server_trust = |name: &str| ServerTrust::Store {
        store: Arc::new(trust()),
        name: Some(name.to_owned()),
    };
    world.known.0.lock().unwrap().trust = Some(trust());
    let pinned_key = ec_key();
    let pinned = certificate("lonely", &pinned_key, (-1, 10), None);
    world
        .known
        .0
        .lock()
        .unwrap()
        .pinned
        .push(pinned.to_der().unwrap());
    let stale_pin = certificate("stale", &pinned_key, (-10, -1), None);
    world
        .known
        .0
        .lock()
        .unwrap()
        .pinned
        .push(stale_pin.to_der().unwrap());

    let other_ca_key = ec_key();
    let other_ca = certificate("other CA", &other_ca_key, (-1, 10), None);
    let strangers = certificate(
        "device",
        &device_key,
        (-1, 10),
        Some((&other_ca, &other_ca_key)),
    );
    let good = certificate("device", &device_key, (-1, 10), ours);
    let expired = certificate("device", &device_key, (-10, -1), ours);
    let weakly = {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(good.subject_name()).unwrap();
        builder.set_issuer_name(ca.subject_name()).unwrap();
        builder.set_not_before(good.not_before()).unwrap();
        builder.set_not_after(good.not_after()).unwrap();
        builder.set_pubkey(&device_key).unwrap();
        builder.sign(&ca_key, MessageDigest::sha1()).unwrap();
        builder.build()
    };
    let future = certificate("device", &device_key, (1, 10), ours);
    let refused = |why| Some(Refusal::Certificate(why));
    let cases = [
        ("of the store", own(&device_key, &[&good]), None),
        ("pinned", own(&pinned_key, &[&pinned]), None),
        (
            "expired",
            own(&device_key, &[&expired]),
            refused(CertificateRefusal::Expired),
        ),
        (
            "not yet",
            own(&device_key, &[&future]),
            refused(CertificateRefusal::Expired),
        ),
        (
            "pinned, expired",
            own(&pinned_key, &[&stale_pin]),
            refused(CertificateRefusal::Expired),
        ),
        (
            "another CA's",
            own(&device_key, &[&strangers, &other_ca]),
            refused(CertificateRefusal::Untrusted),
        ),
        (
            "signed with SHA-1",
            own(&device_key, &[&weakly]),
            refused(CertificateRefusal::Untrusted),
        ),
        ("none", own(&device_key, &[]), Some(Refusal::NoCertificate)),
    ];
    for (index, (what, own, expected)) in cases.into_iter().enumerate() {
        let auth = ClientAuth::Certificate {
            own,
            server: server_trust("gateway"),
        };
        let device = world.client(index as u16, ClientConfig::new(auth));
        let before = world.refusals().len();
        world.connect(device);
        assert_eq!(world.refusals().get(before).copied(), expected, "{what}");
        assert_eq!(
            world.clients[&device].is_connected(),
            expected.is_none(),
            "{what}"
        );
    }
    let Some(Event::Established { identity, .. }) = world.server_events.first() else {
        panic!()
    };
    let Identity::Certificate(der) = &**identity else {
        panic!()
    };
    assert_eq!(dtls::certificate_names(der), ["device", "device"]);

    // And the device looks at the server's.
    let auth = ClientAuth::Certificate {
        own: own(&device_key, &[&good]),
        server: server_trust("elsewhere"),
    };
    let device = world.client(20, ClientConfig::new(auth));
    world.connect(device);
    let unknown = ClientClosing::Untrusted(CertificateRefusal::Unknown);
    assert_eq!(world.closings().last(), Some(&unknown));
    let pin = ServerTrust::Pinned(of_server.to_der().unwrap());
    let auth = ClientAuth::Certificate {
        own: own(&device_key, &[&good]),
        server: pin,
    };
    let device = world.client(21, ClientConfig::new(auth));
    world.connect(device);
    assert!(world.clients[&device].is_connected());
}

#[test]
fn a_session_is_resumed_while_its_credential_stands() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    for round in 0..3 {
        world.connect(device);
        let ClientEvent::Connected { resumed, .. } = world.client_events.last().unwrap().1 else {
            panic!()
        };
        assert!(resumed, "round {round}");
        assert!(world.say(device, format!("round {round}").as_bytes()));
    }
    assert_eq!(world.heard(), ["round 0", "round 1", "round 2"]);
    assert_eq!(
        (
            world.server.stats().established,
            world.server.stats().resumed
        ),
        (4, 3)
    );
    // A server that has not the session any more makes a full handshake.
    world.server.close(Identity::Psk(b"id".to_vec()).number());
    world.run(Duration::from_secs(1));
    assert_eq!(
        world.closings(),
        [ClientClosing::ByPeer(close_notify(&world))]
    );
    world.connect(device);
    assert!(matches!(
        world.client_events.last().unwrap().1,
        ClientEvent::Connected { resumed: false, .. }
    ));
    // One whose credential is gone gets neither.
    world.forget_psk("id");
    world.connect(device);
    world.run(Duration::from_secs(10));
    assert_eq!(world.refusals(), [Refusal::UnknownIdentity]);
}

#[test]
fn a_client_with_a_wrong_key_that_begins_again_is_counted_each_time() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", b"another key"));
    for n in 0..3 {
        world.connect(device);
        assert_eq!(world.refusals(), vec![Refusal::WrongKey; n]);
    }
}

fn close_notify(world: &World) -> Alert {
    match world.closings()[0] {
        ClientClosing::ByPeer(alert) if alert.code() == 0 => alert,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_is_resumed_for_its_time_only() {
    let config = ServerConfig {
        resume_for: Duration::from_secs(600),
        ..ServerConfig::default()
    };
    let mut world = World::with_psk(config);
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    world.run(Duration::from_secs(601));
    world.connect(device);
    assert!(matches!(
        world.client_events.last().unwrap().1,
        ClientEvent::Connected { resumed: false, .. }
    ));
}

#[test]
fn a_device_behind_a_new_address_takes_its_session_number_along() {
    let mut world = World::with_psk(ServerConfig::default());
    let before = world.client(1, psk("id", KEY));
    world.connect(before);
    let after = world.client(2, psk("id", KEY));
    world.connect(after);
    assert_eq!(world.server.sessions(), 1);
    let number = Identity::Psk(b"id".to_vec()).number();
    assert!(world.server_events.iter().any(|event| matches!(
        event,
        Event::Closed { peer, session, why: Closing::Replaced } if *peer == before && *session == number
    )));
    assert!(
        world.server.send(after, number, b"here") && !world.server.send(before, number, b"there")
    );
}

#[test]
fn a_forged_hello_does_not_end_the_session_of_the_address_it_names() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    let hello = world.wire[0].2.clone();
    let with_cookie = world.wire[2].2.clone();
    let garbage: Vec<u8> = [22, 0xfe, 0xfd, 0, 1].into_iter().chain([9; 60]).collect();
    for datagram in [hello, with_cookie, garbage] {
        world.server.handle_datagram(world.now, device, &datagram);
    }
    // Even the replayed hello with its cookie began a handshake only, which nobody goes on with.
    assert!(world.say(device, b"still here"));
    assert_eq!(world.heard(), ["still here"]);
    world.run(Duration::from_secs(120));
    assert_eq!((world.server.sessions(), world.server.handshakes()), (1, 0));
    assert!(world.say(device, b"still"));
}

#[test]
fn the_maximum_of_sessions_refuses_the_next_and_keeps_the_others() {
    let config = ServerConfig {
        max_sessions: 3,
        ..ServerConfig::default()
    };
    let mut world = World::new(config);
    for n in 0..5 {
        world.learn_psk(&n.to_string(), KEY);
        let device = world.client(n, psk(&n.to_string(), KEY));
        world.connect(device);
    }
    assert_eq!(world.server.sessions(), 3);
    assert_eq!(world.refusals(), [Refusal::Full, Refusal::Full]);
    for n in 0..3 {
        assert!(world.say(address(n), b"in"));
    }
    assert_eq!(world.heard().len(), 3);
    // Who is in may begin anew; who leaves makes room.
    world.connect(address(0));
    assert!(world.clients[&address(0)].is_connected());
    world.clients.get_mut(&address(1)).unwrap().close();
    world.run(Duration::from_secs(1));
    world.connect(address(4));
    assert!(world.clients[&address(4)].is_connected());
}

/// A reboot or another port of a NAT: the old session is never closed, and the device is somebody who has one.
#[test]
fn who_has_a_session_may_replace_it_from_elsewhere_when_there_is_no_room() {
    let config = ServerConfig {
        max_sessions: 2,
        ..ServerConfig::default()
    };
    let mut world = World::new(config);
    for n in 0..3 {
        world.learn_psk(&n.to_string(), KEY);
    }
    for n in 0..2 {
        let device = world.client(n, psk(&n.to_string(), KEY));
        world.connect(device);
    }
    let moved = world.client(11, psk("1", KEY));
    world.connect(moved);
    assert!(world.say(moved, b"here"));
    let stranger = world.client(12, psk("2", KEY));
    world.connect(stranger);
    assert_eq!(world.refusals(), [Refusal::Full]);
    assert_eq!((world.server.sessions(), world.server.handshakes()), (2, 0));
    assert_eq!(world.heard(), ["here"]);
}

#[test]
fn an_idle_session_is_forgotten() {
    let config = ServerConfig {
        idle_timeout: Duration::from_secs(3_600),
        ..ServerConfig::default()
    };
    let mut world = World::with_psk(config);
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    world.run(Duration::from_secs(3_000));
    world.say(device, b"alive");
    world.run(Duration::from_secs(3_000));
    assert_eq!(world.server.sessions(), 1);
    world.run(Duration::from_secs(700));
    assert_eq!(world.server.sessions(), 0);
    assert!(world.server.next_timeout().is_none());
    // What the device sends now gets no answer: a record that nobody can read could be anybody's.
    let before = world.wire.len();
    world.say(device, b"too late");
    assert_eq!(world.wire.len(), before + 1);
}

#[test]
fn replayed_and_changed_records_are_dropped() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    world.say(device, b"once");
    let record = world.wire.last().unwrap().2.clone();
    for _ in 0..3 {
        world.server.handle_datagram(world.now, device, &record);
    }
    let mut changed = record.clone();
    *changed.last_mut().unwrap() ^= 1;
    changed[10] += 1;
    world.server.handle_datagram(world.now, device, &changed);
    world.run(Duration::from_secs(1));
    assert_eq!(world.heard(), ["once"]);
    assert_eq!(
        (world.server.stats().replayed, world.server.stats().forged),
        (3, 1)
    );
}

#[test]
fn a_credential_that_goes_in_the_middle_of_its_handshake_makes_no_session() {
    for closes in [false, true] {
        let mut world = World::with_psk(ServerConfig::default());
        let device = world.client(1, psk("id", KEY));
        let now = world.now;
        world.clients.get_mut(&device).unwrap().connect(now);
        // Until the server has the identity, and not the Finished.
        world.run(Duration::from_millis(75));
        assert_eq!(world.server.handshakes(), 1);
        world.forget_psk("id");
        if closes {
            world.server.close(Identity::Psk(b"id".to_vec()).number());
        }
        world.run(Duration::from_secs(300));
        assert_eq!((world.server.sessions(), world.server.handshakes()), (0, 0));
    }
}

#[test]
fn who_ends_all_sessions_forgets_them() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    // Another is in the middle of its handshake.
    let begun = world.client(2, psk("id", KEY));
    let now = world.now;
    world.clients.get_mut(&begun).unwrap().connect(now);
    world.run(Duration::from_millis(70));
    assert_eq!((world.server.sessions(), world.server.handshakes()), (1, 1));
    world.server.close_all();
    assert_eq!((world.server.sessions(), world.server.handshakes()), (0, 0));
    world.clients.remove(&begun);
    world.run(Duration::from_secs(1));
    world.connect(device);
    assert!(matches!(
        world.client_events.last().unwrap().1,
        ClientEvent::Connected { resumed: false, .. }
    ));
}
