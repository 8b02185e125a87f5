//! A server, clients and the network between them, in virtual time.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dtls::{
    Authority, CertificateRefusal, Client, ClientAuth, ClientClosing, ClientConfig, ClientEvent,
    Event, Identity, OwnKey, Psk, Server, ServerConfig, TrustStore,
};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

pub(crate) const KEY: &[u8] = b"0123456789abcdef";

/// What the server believes, as a test sets it.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) psks: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) public_keys: Vec<Vec<u8>>,
    pub(crate) pinned: Vec<Vec<u8>>,
    pub(crate) trust: Option<TrustStore>,
}

#[derive(Clone, Default)]
pub(crate) struct Authorities(pub(crate) Arc<Mutex<Known>>);

impl Authority for Authorities {
    fn psk(&self, identity: &[u8]) -> Option<Psk> {
        let known = self.0.lock().unwrap();
        known.psks.get(identity).map(|key| Psk::new(key.as_slice()))
    }

    fn knows_public_key(&self, spki: &[u8]) -> bool {
        self.0
            .lock()
            .unwrap()
            .public_keys
            .iter()
            .any(|known| known == spki)
    }

    fn check_chain(&self, chain: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
        let known = self.0.lock().unwrap();
        if known.pinned.contains(&chain[0]) {
            return dtls::check_dates(&chain[0]);
        }
        match &known.trust {
            Some(trust) => trust.check(chain),
            None => Err(CertificateRefusal::Unknown),
        }
    }

    fn still_knows(&self, identity: &Identity) -> bool {
        let known = self.0.lock().unwrap();
        match identity {
            Identity::Psk(identity) => known.psks.contains_key(identity),
            Identity::RawPublicKey(spki) => known.public_keys.contains(spki),
            Identity::Certificate(_) => true,
        }
    }
}

/// Which datagrams arrive, and how late: a small generator of its own, so that a seed says all.
pub(crate) struct Weather {
    state: u64,
    loss: u64,
    twice: u64,
    late: u64,
}

impl Weather {
    pub(crate) fn fair() -> Weather {
        Weather {
            state: 1,
            loss: 0,
            twice: 0,
            late: 0,
        }
    }

    /// Percentages.
    pub(crate) fn foul(seed: u64, loss: u64, twice: u64, late: u64) -> Weather {
        Weather {
            state: seed | 1,
            loss,
            twice,
            late,
        }
    }

    fn roll(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % 100
    }

    fn delays(&mut self) -> Vec<Duration> {
        if self.roll() < self.loss {
            return Vec::new();
        }
        let mut one = || {
            let late = self.roll() < self.late;
            Duration::from_millis(if late { 40 + self.roll() * 3 } else { 20 })
        };
        let mut delays = vec![one()];
        if self.roll() < self.twice {
            delays.push(Duration::from_millis(90));
        }
        delays
    }
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) server: Server,
    pub(crate) known: Authorities,
    pub(crate) clients: BTreeMap<SocketAddr, Client>,
    pub(crate) weather: Weather,
    pub(crate) server_events: Vec<Event>,
    pub(crate) client_events: Vec<(SocketAddr, ClientEvent)>,
    /// Everything on the wire, in order, with whether it goes to the server.
    pub(crate) wire: Vec<(bool, SocketAddr, Vec<u8>)>,
    /// Of which datagram, counted from 0, which byte is to become what.
    pub(crate) tamper: Option<(usize, usize, u8)>,
    in_flight: BTreeMap<(Instant, u64), (bool, SocketAddr, Vec<u8>)>,
    serial: u64,
}

pub(crate) fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 40_000 + n))
}

impl World {
    pub(crate) fn new(config: ServerConfig) -> World {
        let known = Authorities::default();
        World {
            now: Instant::now(),
            server: Server::new(config, Arc::new(known.clone()), [5; 32]).unwrap(),
            known,
            clients: BTreeMap::new(),
            weather: Weather::fair(),
            server_events: Vec::new(),
            client_events: Vec::new(),
            wire: Vec::new(),
            tamper: None,
            in_flight: BTreeMap::new(),
            serial: 0,
        }
    }

    /// One that knows the identity "id" and KEY.
    pub(crate) fn with_psk(config: ServerConfig) -> World {
        let world = World::new(config);
        world.learn_psk("id", KEY);
        world
    }

    pub(crate) fn learn_psk(&self, identity: &str, key: &[u8]) {
        let mut known = self.known.0.lock().unwrap();
        known
            .psks
            .insert(identity.as_bytes().to_vec(), key.to_vec());
    }

    pub(crate) fn forget_psk(&self, identity: &str) {
        self.known
            .0
            .lock()
            .unwrap()
            .psks
            .remove(identity.as_bytes());
    }

    pub(crate) fn client(&mut self, n: u16, config: ClientConfig) -> SocketAddr {
        let at = address(n);
        let client = Client::new(config, [n as u8 + 7; 32]).unwrap();
        self.clients.insert(at, client);
        at
    }

    pub(crate) fn connect(&mut self, at: SocketAddr) {
        let now = self.now;
        self.clients.get_mut(&at).unwrap().connect(now);
        self.run(Duration::from_secs(1));
    }

    pub(crate) fn say(&mut self, at: SocketAddr, content: &[u8]) -> bool {
        let said = self.clients.get_mut(&at).unwrap().send(content);
        self.run(Duration::from_secs(1));
        said
    }

    /// Lets the time pass, and everything happen that is due in it.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.collect();
            let deadlines = self.clients.values().filter_map(Client::next_timeout);
            let next = deadlines
                .chain(self.server.next_timeout())
                .chain(self.in_flight.keys().next().map(|(at, _)| *at))
                .min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            while let Some((&(at, serial), _)) = self.in_flight.first_key_value() {
                if at > self.now {
                    break;
                }
                let (to_server, peer, datagram) = self.in_flight.remove(&(at, serial)).unwrap();
                if to_server {
                    self.server.handle_datagram(self.now, peer, &datagram);
                } else if let Some(client) = self.clients.get_mut(&peer) {
                    client.handle_datagram(self.now, &datagram);
                }
            }
            self.server.handle_timeout(self.now);
            for client in self.clients.values_mut() {
                client.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn collect(&mut self) {
        let mut out = Vec::new();
        while let Some(transmit) = self.server.poll_transmit() {
            out.push((false, transmit.to, transmit.payload));
        }
        while let Some(event) = self.server.poll_event() {
            self.server_events.push(event);
        }
        for (at, client) in &mut self.clients {
            while let Some(datagram) = client.poll_transmit() {
                out.push((true, *at, datagram));
            }
            while let Some(event) = client.poll_event() {
                self.client_events.push((*at, event));
            }
        }
        for (to_server, peer, mut datagram) in out {
            if let Some((which, place, value)) = self.tamper
                && which == self.wire.len()
            {
                let place = place % datagram.len();
                datagram[place] = value;
            }
            self.wire.push((to_server, peer, datagram.clone()));
            for delay in self.weather.delays() {
                self.serial += 1;
                self.in_flight.insert(
                    (self.now + delay, self.serial),
                    (to_server, peer, datagram.clone()),
                );
            }
        }
    }

    /// What the server got, one string each.
    pub(crate) fn heard(&mut self) -> Vec<String> {
        let data = self.server_events.iter().filter_map(|event| match event {
            Event::Data { content, .. } => Some(String::from_utf8_lossy(content).into_owned()),
            _ => None,
        });
        data.collect()
    }

    pub(crate) fn closings(&self) -> Vec<ClientClosing> {
        let closings = self
            .client_events
            .iter()
            .filter_map(|(_, event)| match event {
                ClientEvent::Closed(why) => Some(*why),
                _ => None,
            });
        closings.collect()
    }

    pub(crate) fn refusals(&self) -> Vec<dtls::Refusal> {
        let refusals = self.server_events.iter().filter_map(|event| match event {
            Event::Refused { why, .. } => Some(*why),
            _ => None,
        });
        refusals.collect()
    }
}

pub(crate) fn psk(identity: &str, key: &[u8]) -> ClientConfig {
    ClientConfig::new(ClientAuth::Psk {
        identity: identity.as_bytes().to_vec(),
        key: Psk::new(key),
    })
}

pub(crate) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A certificate for the key, valid from and to these days from now, signed by the issuer or itself.
pub(crate) fn certificate(
    name: &str,
    key: &PKey<Private>,
    days: (i64, i64),
    issuer: Option<(&X509, &PKey<Private>)>,
) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(name.len() as u32 + 1).unwrap();
    builder
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder
        .set_issuer_name(issuer.map_or(&*subject, |(ca, _)| ca.subject_name()))
        .unwrap();
    let day = |n: i64| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        Asn1Time::from_unix(now.as_secs() as i64 + n * 86_400).unwrap()
    };
    builder.set_not_before(&day(days.0)).unwrap();
    builder.set_not_after(&day(days.1)).unwrap();
    builder.set_pubkey(key).unwrap();
    if issuer.is_none() {
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
    } else {
        let context = builder.x509v3_context(issuer.map(|(ca, _)| &**ca), None);
        let alternative = SubjectAlternativeName::new()
            .dns(name)
            .build(&context)
            .unwrap();
        builder.append_extension(alternative).unwrap();
    }
    builder
        .sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256())
        .unwrap();
    builder.build()
}

/// A key pair with its chain, as a file would have it.
pub(crate) fn own(key: &PKey<Private>, chain: &[&X509]) -> OwnKey {
    let mut pem = Vec::new();
    for certificate in chain {
        pem.extend(certificate.to_pem().unwrap());
    }
    let chain = (!chain.is_empty()).then_some(pem.as_slice());
    OwnKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap(), chain).unwrap()
}
