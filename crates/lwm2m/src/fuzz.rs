//! Entry points for fuzzing: none may panic, whatever the bytes.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use coap::{Method, Peer, Request};
use lwm2m_model::Registry;

use crate::client::{Client, ClientConfig, InMemoryTree};
use crate::server::{Server, ServerConfig};
use crate::{Binding, Now, Target, Version};

/// One instant for all runs: an `Instant` can't be made from a number.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The parameters of a registration: query arguments, one a line, up to an empty line; the payload after it.
pub fn decode_registration(data: &[u8]) {
    let split = data.windows(2).position(|pair| pair == b"\n\n");
    let (query, payload) = split.map_or((data, &data[..0]), |at| (&data[..at], &data[at + 2..]));
    let mut request = Request::new(Method::Post, ["rd"]);
    request.query = String::from_utf8_lossy(query)
        .lines()
        .map(str::to_owned)
        .collect();
    request.payload = payload.to_vec().into();
    crate::server::fuzz_registration(&request);
}

/// Datagrams from one device to a server, each behind its length in one byte, a second apart.
pub fn server_datagrams(data: &[u8]) {
    let config = ServerConfig {
        max_registrations: 4,
        ..ServerConfig::default()
    };
    let mut server = Server::new(config, Arc::new(Registry::oma()), [7; 32]);
    for (now, datagram) in datagrams(data) {
        server.handle_datagram(now, peer(), datagram);
        server.handle_timeout(now);
        while server.poll_event().is_some() {}
        while server.poll_transmit().is_some() {}
    }
}

/// Datagrams from its server to a device, each behind its length in one byte, a second apart.
pub fn client_datagrams(data: &[u8]) {
    let tree = InMemoryTree::new(Arc::new(Registry::oma()));
    let mut client = Client::new(ClientConfig::new("fuzz"), tree, [7; 32]);
    client.start(*START, peer());
    for (now, datagram) in datagrams(data) {
        client.handle_datagram(now.instant, peer(), datagram);
        client.handle_timeout(now.instant);
        while client.poll_event().is_some() {}
        while client.poll_transmit().is_some() {}
    }
}

/// What a device says of its binding and its version.
pub fn decode_binding(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Binding::parse(&text, false);
    let _ = Version::parse(&text);
}

/// What a request or an observation is about, as a store has it; what was accepted is written and read back alike.
pub fn decode_target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
}

fn peer() -> Peer {
    Peer {
        addr: ([192, 0, 2, 1], 5683).into(),
        session: 0,
    }
}

fn datagrams(mut data: &[u8]) -> impl Iterator<Item = (Now, &[u8])> {
    let mut seconds = 0;
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first()?;
        let (datagram, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        seconds += 1;
        let now = Now {
            instant: *START + Duration::from_secs(seconds),
            unix_ms: i64::try_from(seconds).ok()? * 1_000,
        };
        Some((now, datagram))
    })
}
