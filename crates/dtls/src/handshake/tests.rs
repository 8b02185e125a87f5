#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use openssl::ec::EcKey;
use openssl::pkey::PKey;

use super::*;
use crate::{CertificateRefusal, Client, ClientAuth, ClientConfig, Event, OwnKey, Psk, Server};

struct Knows(Vec<u8>);

impl Authority for Knows {
    fn psk(&self, _: &[u8]) -> Option<Psk> {
        None
    }

    fn knows_public_key(&self, spki: &[u8]) -> bool {
        spki == self.0
    }

    fn check_chain(&self, _: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
        Err(CertificateRefusal::Unknown)
    }

    fn still_knows(&self, _: &Identity) -> bool {
        true
    }
}

fn own() -> OwnKey {
    let key = EcKey::generate(&message::p256().unwrap()).unwrap();
    let pem = PKey::from_ec_key(key)
        .unwrap()
        .private_key_to_pem_pkcs8()
        .unwrap();
    OwnKey::from_pem(&pem, None).unwrap()
}

/// What somebody could do who has seen a device's public key: it is on the wire in clear.
#[test]
fn a_public_key_without_its_private_half_is_nothing() {
    for steals in [false, true] {
        let (server_key, device) = (own(), own());
        let config = ServerConfig {
            own_key: Some(server_key.clone()),
            ..ServerConfig::default()
        };
        let known = device.public_key().to_vec();
        let mut server = Server::new(config, Arc::new(Knows(known)), [1; 32]).unwrap();
        let shown = if steals {
            OwnKey {
                key: own().key,
                ..device
            }
        } else {
            device
        };
        let auth = ClientAuth::RawPublicKey {
            own: shown,
            server: server_key.public_key().to_vec(),
        };
        let mut client = Client::new(ClientConfig::new(auth), [2; 32]).unwrap();
        let (now, at) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 5684)));
        client.connect(now);
        while let Some(datagram) = client.poll_transmit() {
            server.handle_datagram(now, at, &datagram);
            while let Some(transmit) = server.poll_transmit() {
                client.handle_datagram(now, &transmit.payload);
            }
        }
        assert_eq!(client.is_connected(), !steals);
        let event = server.poll_event();
        if steals {
            let why = Refusal::BadSignature;
            assert!(matches!(event, Some(Event::Refused { why: is, .. }) if is == why));
        } else {
            assert!(matches!(event, Some(Event::Established { .. })));
        }
    }
}
