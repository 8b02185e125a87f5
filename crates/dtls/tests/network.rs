//! Networks that lose, repeat, delay and lie.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod pair;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dtls::{Client, ClientAuth, ClientConfig, ServerConfig, ServerTrust};
use pair::{KEY, Weather, World, address, certificate, ec_key, own, psk};
use proptest::prelude::*;

fn certificate_world() -> (World, ClientConfig) {
    let (server_key, key) = (ec_key(), ec_key());
    // Long names, small datagrams: every flight comes in pieces.
    let name = "a-long-name-of-an-endpoint-that-makes-its-certificate-longer";
    let of_server = certificate(name, &server_key, (-1, 10), None);
    let of_device = certificate(name, &key, (-1, 10), None);
    let config = ServerConfig {
        own_key: Some(own(&server_key, &[&of_server])),
        mtu: 300,
        ..ServerConfig::default()
    };
    let world = World::new(config);
    world
        .known
        .0
        .lock()
        .unwrap()
        .pinned
        .push(of_device.to_der().unwrap());
    let auth = ClientAuth::Certificate {
        own: own(&key, &[&of_device]),
        server: ServerTrust::Pinned(of_server.to_der().unwrap()),
    };
    let mut config = ClientConfig::new(auth);
    config.mtu = 300;
    (world, config)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// A third of all datagrams lost, repeated or late, whatever the credential: a client that tries again whenever it
    /// gave up has a session in the end, data passes, and the two agree on it.
    #[test]
    fn foul_weather_only_takes_longer(seed: u64, certificates: bool, resumes: bool) {
        let (mut world, config) = if certificates {
            certificate_world()
        } else {
            (World::with_psk(ServerConfig::default()), psk("id", KEY))
        };
        let device = world.client(1, config);
        if resumes {
            world.connect(device);
            prop_assert!(world.clients[&device].is_connected());
        }
        world.weather = Weather::foul(seed, 20, 15, 15);
        let now = world.now;
        world.clients.get_mut(&device).unwrap().connect(now);
        for _ in 0..12 {
            world.run(Duration::from_secs(30));
            if world.clients[&device].is_idle() {
                let now = world.now;
                world.clients.get_mut(&device).unwrap().connect(now);
            }
        }
        prop_assert!(world.clients[&device].is_connected(), "{:?} {:?}", world.refusals(), world.closings());
        for n in 0..30 {
            world.say(device, format!("{n}").as_bytes());
        }
        let heard = world.heard();
        // Each at most once, and as many as the weather lets through.
        let mut once = heard.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), heard.len());
        prop_assert!(heard.len() >= 15, "{} of 30 came", heard.len());
    }

    /// One datagram of the handshake is changed on the way: the two come to no session, or to one that works.
    #[test]
    fn a_changed_datagram_is_found_out(which in 0_usize..6, place: usize, value: u8, certificates: bool) {
        let (mut world, config) = if certificates {
            certificate_world()
        } else {
            (World::with_psk(ServerConfig::default()), psk("id", KEY))
        };
        let device = world.client(1, config);
        world.tamper = Some((which, place, value));
        world.connect(device);
        world.run(Duration::from_secs(200));
        if world.clients[&device].is_connected() && world.server.sessions() == 1 {
            world.say(device, b"hello");
            prop_assert_eq!(world.heard(), ["hello"]);
        } else {
            world.connect(device);
            prop_assert!(world.say(device, b"hello"));
            prop_assert_eq!(world.heard(), ["hello"]);
        }
    }
}

#[test]
fn a_certificate_handshake_in_small_pieces() {
    let (mut world, config) = certificate_world();
    let device = world.client(1, config);
    world.connect(device);
    assert!(
        world.say(device, b"hello"),
        "{:?} {:?}",
        world.refusals(),
        world.closings()
    );
    assert_eq!(world.heard(), ["hello"]);
    assert!(
        world
            .wire
            .iter()
            .all(|(_, _, datagram)| datagram.len() <= 300)
    );
}

/// The first datagram of a client: it can be sent from anywhere.
fn hello() -> Vec<u8> {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    world.wire.remove(0).2
}

#[test]
fn hellos_from_invented_addresses_leave_nothing_behind() {
    let hello = hello();
    let mut world = World::with_psk(ServerConfig::default());
    for n in 0..200_000_u32 {
        let from = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 40_000));
        world.server.handle_datagram(world.now, from, &hello);
        let answer = world.server.poll_transmit().unwrap();
        // Who names another's address can't make the server send that one more than it was sent itself.
        assert!(answer.payload.len() < hello.len() && answer.to == from);
        assert!(world.server.poll_transmit().is_none() && world.server.poll_event().is_none());
    }
    assert_eq!((world.server.sessions(), world.server.handshakes()), (0, 0));
    assert_eq!(world.server.stats().cookies, 200_000);
    assert!(
        world.server.next_timeout().is_none(),
        "nothing to wait for, so nothing is kept"
    );
}

#[test]
fn a_cookie_is_for_one_address_and_for_some_minutes() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    world.connect(device);
    let with_cookie = world.wire[2].2.clone();
    let elsewhere = SocketAddr::from(([198, 51, 100, 7], 40_001));
    world
        .server
        .handle_datagram(world.now, elsewhere, &with_cookie);
    assert_eq!(
        (world.server.handshakes(), world.server.stats().bad_cookies),
        (0, 1)
    );
    // A secret lasts five minutes, and five more.
    for _ in 0..2 {
        world.now += Duration::from_secs(301);
        world.server.handle_datagram(world.now, elsewhere, &hello());
    }
    world
        .server
        .handle_datagram(world.now, device, &with_cookie);
    assert_eq!(
        (world.server.handshakes(), world.server.stats().bad_cookies),
        (0, 2)
    );
}

/// A client gets its cookie and gives it back, then is gone.
fn begin_and_go(world: &mut World, at: SocketAddr) {
    let now = world.now;
    let mut client = Client::new(psk("id", KEY), [at.port() as u8; 32]).unwrap();
    client.connect(now);
    let first = client.poll_transmit().unwrap();
    world.server.handle_datagram(now, at, &first);
    let cookie = world.server.poll_transmit().unwrap();
    client.handle_datagram(now, &cookie.payload);
    let second = client.poll_transmit().unwrap();
    world.server.handle_datagram(now, at, &second);
    while world.server.poll_transmit().is_some() {}
}

#[test]
fn handshakes_that_nobody_goes_on_with_are_bounded_and_end() {
    let config = ServerConfig {
        max_handshakes: 10,
        ..ServerConfig::default()
    };
    let mut world = World::with_psk(config);
    for n in 0..30 {
        begin_and_go(&mut world, address(n));
    }
    assert_eq!(world.server.handshakes(), 10);
    assert_eq!(world.server.stats().refused_full, 20);
    // Who is honest has not to wait until they are over: the slowest of them makes room.
    world.run(Duration::from_secs(9));
    let device = world.client(40, psk("id", KEY));
    world.connect(device);
    assert!(world.clients[&device].is_connected());
    assert_eq!(world.server.handshakes(), 9);
    world.run(Duration::from_secs(100));
    assert_eq!(world.server.handshakes(), 0);
}

#[test]
fn one_source_has_its_own_share_of_handshakes_only() {
    for own_net in ["198.51.100.9", "2001:db8:0:1::"] {
        let config = ServerConfig {
            max_handshakes: 20,
            max_handshakes_per_source: 4,
            ..ServerConfig::default()
        };
        let mut world = World::with_psk(config);
        let source = |n: u16| match own_net.parse().unwrap() {
            // Of IPv6 a host has a whole network.
            IpAddr::V6(net) => {
                SocketAddr::from((Ipv6Addr::from(u128::from(net) + u128::from(n)), 40_000))
            }
            v4 => SocketAddr::new(v4, 40_000 + n),
        };
        for n in 0..50 {
            begin_and_go(&mut world, source(n));
        }
        assert_eq!(world.server.handshakes(), 4, "{own_net}");
        assert_eq!(world.server.stats().refused_full, 46);
        // Others have theirs.
        let device = world.client(1, psk("id", KEY));
        world.connect(device);
        assert!(world.clients[&device].is_connected());
        // And a device behind the same address has not to wait for long.
        world.run(Duration::from_secs(9));
        let neighbour = Client::new(psk("id", KEY), [77; 32]).unwrap();
        world.clients.insert(source(99), neighbour);
        world.connect(source(99));
        assert!(world.clients[&source(99)].is_connected());
        assert_eq!(world.server.handshakes(), 3);
    }
}

/// A record of somebody who knows where a device is, and has no keys.
fn nobodys_record(kind: u8, epoch: u8, sequence: u8, len: u8) -> Vec<u8> {
    let mut record = vec![kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, sequence, 0, len];
    record.extend((0..len).map(|n| n ^ 0x5a));
    record
}

#[test]
fn what_does_not_open_ends_no_handshake() {
    for certificates in [false, true] {
        let (mut world, config) = if certificates {
            certificate_world()
        } else {
            (World::with_psk(ServerConfig::default()), psk("id", KEY))
        };
        let device = world.client(1, config);
        world.clients.get_mut(&device).unwrap().connect(world.now);
        // Before there are keys, and after each step: a Finished, an alert and data, as long as honest ones or not.
        let mut forged = 0;
        for _ in 0..40 {
            world.run(Duration::from_millis(20));
            for (kind, len) in [(22, 40), (22, 3), (21, 26), (23, 60)] {
                let record = nobodys_record(kind, 1, forged, len);
                world.server.handle_datagram(world.now, device, &record);
                forged += 1;
            }
        }
        assert!(
            world.clients[&device].is_connected(),
            "{:?} {:?}",
            world.refusals(),
            world.closings()
        );
        assert_eq!(world.refusals(), []);
        assert!(world.server.stats().forged > 50);
        world.say(device, b"hello");
        assert_eq!(world.heard(), ["hello"]);
        // Nor is it judged later by what came while it was on its way.
        world.run(Duration::from_secs(60));
        assert_eq!((world.server.sessions(), world.server.handshakes()), (1, 0));
        assert_eq!(world.refusals(), []);
    }
}

/// Between the key exchange and the Finished, which is lost: the device repeats it.
#[test]
fn a_forged_finished_and_a_forged_alert_before_the_true_finished() {
    let mut world = World::with_psk(ServerConfig::default());
    let device = world.client(1, psk("id", KEY));
    let now = world.now;
    let client = world.clients.get_mut(&device).unwrap();
    client.connect(now);
    for _ in 0..2 {
        let hello = client.poll_transmit().unwrap();
        world.server.handle_datagram(now, device, &hello);
        while let Some(answer) = world.server.poll_transmit() {
            client.handle_datagram(now, &answer.payload);
        }
    }
    // Of its last flight only the first record arrives: the key exchange.
    let flight = client.poll_transmit().unwrap();
    let first = 13 + usize::from(u16::from_be_bytes([flight[11], flight[12]]));
    world.server.handle_datagram(now, device, &flight[..first]);
    let mut fatal = nobodys_record(21, 0, 9, 2);
    fatal[13..].copy_from_slice(&[2, 40]);
    for record in [nobodys_record(22, 1, 0, 40), fatal] {
        world.server.handle_datagram(now, device, &record);
    }
    assert_eq!(world.server.stats().forged, 2);
    assert_eq!(world.server.handshakes(), 1);
    world.run(Duration::from_secs(9));
    assert!(world.clients[&device].is_connected());
    assert_eq!(world.refusals(), []);
}
