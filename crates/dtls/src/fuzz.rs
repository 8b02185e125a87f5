//! Entry points for fuzzing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hello::{ClientHello, ServerHello};
use crate::message::{self, ClientKeys, Fragment};
use crate::wire::Reader;
use crate::{
    Authority, CertificateRefusal, Client, ClientAuth, ClientConfig, Identity, Psk, Server,
    ServerConfig,
};

struct Anybody;

impl Authority for Anybody {
    fn psk(&self, _: &[u8]) -> Option<Psk> {
        Some(Psk::new(*b"key"))
    }

    fn knows_public_key(&self, _: &[u8]) -> bool {
        true
    }

    fn check_chain(&self, _: &[Vec<u8>]) -> Result<(), CertificateRefusal> {
        Ok(())
    }

    fn still_knows(&self, _: &Identity) -> bool {
        true
    }
}

/// Reads the input as each of the handshake's messages, whose parsers see what comes over the network.
pub fn decode_dtls_handshake(data: &[u8]) {
    let _ = Fragment::take(&mut Reader(data));
    if let Ok(hello) = ClientHello::parse(data) {
        let _ = hello.extensions();
    }
    let _ = ServerHello::parse(data);
    let _ = message::parse_hello_verify_request(data);
    let _ = message::parse_certificate_verify(data);
    for (psk, ecdhe) in [(true, false), (true, true), (false, true)] {
        let _ = ClientKeys::parse(data, psk, ecdhe);
        let _ = message::parse_server_key_exchange(data, psk, ecdhe);
    }
    for kind in [
        crate::hello::CertificateType::X509,
        crate::hello::CertificateType::RawPublicKey,
    ] {
        if let Ok(chain) = message::parse_certificate(kind, data) {
            for der in &chain {
                let _ = crate::certificate_names(der);
                let _ = crate::peer::public_key_of_spki(der);
                let _ = crate::peer::public_key_of_certificate(der);
            }
        }
    }
}

/// Gives datagrams to a server and a client that are in the middle of a handshake with each other. The input is cut at each
/// `0xf1 0x7e`; the first byte of a piece says to whom it goes (bit 0), whether what the two have for each other is
/// carried over first (bit 1), and whether time passes (bit 2).
pub fn dtls_datagrams(data: &[u8]) {
    let mut now = Instant::now();
    let address = SocketAddr::from(([192, 0, 2, 1], 5684));
    let config = ServerConfig {
        max_sessions: 4,
        ..ServerConfig::default()
    };
    let auth = ClientAuth::Psk {
        identity: b"id".to_vec(),
        key: Psk::new(*b"key"),
    };
    let server = Server::new(config, Arc::new(Anybody), [1; 32]);
    let client = Client::new(ClientConfig::new(auth), [2; 32]);
    let (Ok(mut server), Ok(mut client)) = (server, client) else {
        return;
    };
    client.connect(now);
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == [0xf1, 0x7e]);
        let (piece, behind) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 2..]));
        rest = behind;
        let Some((how, datagram)) = piece.split_first() else {
            continue;
        };
        if how & 2 != 0 {
            while let Some(datagram) = client.poll_transmit() {
                server.handle_datagram(now, address, &datagram);
            }
            while let Some(transmit) = server.poll_transmit() {
                client.handle_datagram(now, &transmit.payload);
            }
        }
        if how & 1 == 0 {
            server.handle_datagram(now, address, datagram);
        } else {
            client.handle_datagram(now, datagram);
        }
        if how & 4 != 0 {
            now += Duration::from_secs(3);
            server.handle_timeout(now);
            client.handle_timeout(now);
        }
        while server.poll_event().is_some() {}
        while client.poll_event().is_some() {}
    }
}
