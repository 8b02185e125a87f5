//! OpenSSL's own DTLS as the other end: what both take for a handshake is one.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

mod pair;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use dtls::{
    Client, ClientAuth, ClientConfig, ClientEvent, Event, Server, ServerConfig, ServerTrust,
};
use openssl::ssl::{
    ErrorCode, HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions,
    SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use pair::{Authorities, KEY, address, certificate, ec_key, own, psk};

/// The suites by OpenSSL's names.
const PSK_SUITES: [&str; 7] = [
    "PSK-AES128-CCM8",
    "PSK-AES128-CCM",
    "PSK-AES128-GCM-SHA256",
    "PSK-AES128-CBC-SHA256",
    "ECDHE-PSK-AES128-CBC-SHA256",
    "PSK-AES128-CCM8:PSK-AES128-GCM-SHA256",
    "PSK-AES128-CBC-SHA256:PSK-AES128-CCM8",
];
const ECDSA_SUITES: [&str; 4] = [
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-SHA256",
];

/// A datagram socket in memory.
#[derive(Clone, Debug, Default)]
struct Line {
    to_openssl: Rc<RefCell<VecDeque<Vec<u8>>>>,
    from_openssl: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.to_openssl.borrow_mut().pop_front();
        let datagram = datagram.ok_or(ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Line {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.from_openssl.borrow_mut().push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn context(suites: &str) -> SslContextBuilder {
    let mut context = SslContext::builder(SslMethod::dtls()).unwrap();
    context
        .set_min_proto_version(Some(SslVersion::DTLS1_2))
        .unwrap();
    // OpenSSL counts a tag of 8 bytes as 64 bits of strength.
    context.set_security_level(0);
    context.set_cipher_list(suites).unwrap();
    context
}

/// Runs both until nothing is on the line any more; what OpenSSL says in the end.
fn shake(
    stream: &mut SslStream<Line>,
    line: &Line,
    mut other: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), openssl::ssl::Error> {
    loop {
        let outcome = stream.do_handshake();
        let sent: Vec<Vec<u8>> = line.from_openssl.borrow_mut().drain(..).collect();
        let answers: Vec<Vec<u8>> = sent.iter().flat_map(|datagram| other(datagram)).collect();
        let idle = sent.is_empty() && answers.is_empty();
        line.to_openssl.borrow_mut().extend(answers);
        match outcome {
            Ok(()) if idle => return Ok(()),
            Err(error) if error.code() != ErrorCode::WANT_READ || idle => return Err(error),
            _ => {}
        }
    }
}

fn to_server(server: &mut Server, now: Instant, datagram: &[u8]) -> Vec<Vec<u8>> {
    server.handle_datagram(now, address(1), datagram);
    std::iter::from_fn(|| server.poll_transmit())
        .map(|transmit| transmit.payload)
        .collect()
}

/// OpenSSL's client against our server; then data both ways.
fn client_of_openssl(
    mut context: SslContextBuilder,
    config: ServerConfig,
    known: &Authorities,
) -> &'static str {
    // As on a socket: a line of which nothing is known gets hellos in pieces of 256 bytes.
    context.set_options(SslOptions::NO_QUERY_MTU);
    let (now, line) = (Instant::now(), Line::default());
    let mut server = Server::new(config, Arc::new(known.clone()), [1; 32]).unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_mtu(1_400).unwrap();
    let mut stream = SslStream::new(ssl, line.clone()).unwrap();
    set_connect(&mut stream);
    let shaken = shake(&mut stream, &line, |datagram| {
        to_server(&mut server, now, datagram)
    });
    let events: Vec<Event> = std::iter::from_fn(|| server.poll_event()).collect();
    shaken.unwrap_or_else(|error| panic!("{error} {events:?}"));
    let [Event::Established { session, suite, .. }] = events[..] else {
        panic!("{events:?}");
    };
    stream.write_all(b"from openssl").unwrap();
    let datagram = line.from_openssl.borrow_mut().pop_front().unwrap();
    server.handle_datagram(now, address(1), &datagram);
    let Some(Event::Data { content, .. }) = server.poll_event() else {
        panic!("no data");
    };
    assert_eq!(content, b"from openssl");
    assert!(server.send(address(1), session, b"to openssl"));
    let datagram = server.poll_transmit().unwrap().payload;
    line.to_openssl.borrow_mut().push_back(datagram);
    let mut buffer = [0; 64];
    let len = stream.read(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"to openssl");
    suite.name()
}

fn set_connect(stream: &mut SslStream<Line>) {
    // A connect that can't end yet: it only says which side this is.
    match stream.connect() {
        Ok(()) => {}
        Err(error) => assert_eq!(error.code(), ErrorCode::WANT_READ, "{error}"),
    }
}

#[test]
fn clients_of_openssl_with_a_key() {
    let known = Authorities::default();
    known
        .0
        .lock()
        .unwrap()
        .psks
        .insert(b"id".to_vec(), KEY.to_vec());
    for suites in PSK_SUITES {
        let mut context = context(suites);
        with_key(&mut context);
        let suite = client_of_openssl(context, ServerConfig::default(), &known);
        // Where there is another, it is not CBC.
        assert_eq!(
            suite.contains("CBC"),
            suites.contains("CBC") && !suites.contains(':')
        );
    }
}

fn with_key(context: &mut SslContextBuilder) {
    context.set_psk_client_callback(|_, _, identity, key| {
        identity[..3].copy_from_slice(b"id\0");
        key[..KEY.len()].copy_from_slice(KEY);
        Ok(KEY.len())
    });
}

/// As a program does that leaves the suites to its library: those with certificates, of which it has none, come first.
#[test]
fn a_client_of_openssl_with_a_key_that_offers_all_suites() {
    let server_key = ec_key();
    let of_server = certificate("server", &server_key, (-1, 10), None);
    let known = Authorities::default();
    known
        .0
        .lock()
        .unwrap()
        .psks
        .insert(b"id".to_vec(), KEY.to_vec());
    for suites in ["DEFAULT", "ALL", "ECDHE-ECDSA-AES128-CCM8:PSK-AES128-CCM8"] {
        let mut context = context(suites);
        with_key(&mut context);
        let config = ServerConfig {
            own_key: Some(own(&server_key, &[&of_server])),
            ..ServerConfig::default()
        };
        let suite = client_of_openssl(context, config, &known);
        assert!(suite.contains("PSK"), "{suites}: {suite}");
    }
}

#[test]
fn clients_of_openssl_with_a_certificate() {
    let (server_key, key) = (ec_key(), ec_key());
    let of_server = certificate("server", &server_key, (-1, 10), None);
    let of_client = certificate("client", &key, (-1, 10), None);
    let known = Authorities::default();
    known
        .0
        .lock()
        .unwrap()
        .pinned
        .push(of_client.to_der().unwrap());
    for suites in ECDSA_SUITES {
        let mut context = context(suites);
        context.set_certificate(&of_client).unwrap();
        context.set_private_key(&key).unwrap();
        context
            .cert_store_mut()
            .add_cert(of_server.clone())
            .unwrap();
        context.set_verify(SslVerifyMode::PEER);
        let config = ServerConfig {
            own_key: Some(own(&server_key, &[&of_server])),
            ..ServerConfig::default()
        };
        client_of_openssl(context, config, &known);
    }
}

/// Our client against OpenSSL's server; the second time the session is resumed.
fn server_of_openssl(context: SslContextBuilder, config: ClientConfig) {
    let now = Instant::now();
    let context = context.build();
    let mut client = Client::new(config, [3; 32]).unwrap();
    for round in 0..2 {
        let line = Line::default();
        let ssl = Ssl::new(&context).unwrap();
        client.connect(now);
        line.to_openssl
            .borrow_mut()
            .extend(std::iter::from_fn(|| client.poll_transmit()));
        let mut stream = match ssl.accept(line.clone()) {
            Ok(stream) => stream,
            Err(HandshakeError::WouldBlock(mut middle)) => loop {
                let sent: Vec<Vec<u8>> = line.from_openssl.borrow_mut().drain(..).collect();
                for datagram in sent {
                    client.handle_datagram(now, &datagram);
                }
                line.to_openssl
                    .borrow_mut()
                    .extend(std::iter::from_fn(|| client.poll_transmit()));
                match middle.handshake() {
                    Ok(stream) => break stream,
                    Err(HandshakeError::WouldBlock(again)) => middle = again,
                    Err(error) => panic!("{error:?} {:?}", client.poll_event()),
                }
            },
            Err(error) => panic!("{error:?}"),
        };
        let sent: Vec<Vec<u8>> = line.from_openssl.borrow_mut().drain(..).collect();
        for datagram in sent {
            client.handle_datagram(now, &datagram);
        }
        let event = client.poll_event();
        let Some(ClientEvent::Connected { resumed, .. }) = event else {
            panic!("{event:?}");
        };
        assert_eq!(resumed, round == 1);
        assert!(client.send(b"to openssl"));
        line.to_openssl.borrow_mut().extend(client.poll_transmit());
        let mut buffer = [0; 64];
        let len = stream.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"to openssl");
        stream.write_all(b"from openssl").unwrap();
        let datagram = line.from_openssl.borrow_mut().pop_front().unwrap();
        client.handle_datagram(now, &datagram);
        assert!(
            matches!(client.poll_event(), Some(ClientEvent::Data(data)) if data == b"from openssl")
        );
        stream.shutdown().unwrap();
    }
}

fn resuming(mut context: SslContextBuilder) -> SslContextBuilder {
    context.set_session_cache_mode(SslSessionCacheMode::SERVER);
    context.set_session_id_context(b"test").unwrap();
    context
}

#[test]
fn servers_of_openssl_with_a_key() {
    for suites in PSK_SUITES {
        let mut context = resuming(context(suites));
        context.set_psk_server_callback(|_, identity, key| {
            assert_eq!(identity, Some(&b"id"[..]));
            key[..KEY.len()].copy_from_slice(KEY);
            Ok(KEY.len())
        });
        server_of_openssl(context, psk("id", KEY));
    }
}

#[test]
fn servers_of_openssl_with_a_certificate() {
    let (server_key, key) = (ec_key(), ec_key());
    let of_server = certificate("server", &server_key, (-1, 10), None);
    let of_client = certificate("client", &key, (-1, 10), None);
    for suites in ECDSA_SUITES {
        let mut context = resuming(context(suites));
        context.set_certificate(&of_server).unwrap();
        context.set_private_key(&server_key).unwrap();
        context
            .cert_store_mut()
            .add_cert(of_client.clone())
            .unwrap();
        context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        let auth = ClientAuth::Certificate {
            own: own(&key, &[&of_client]),
            server: ServerTrust::Pinned(of_server.to_der().unwrap()),
        };
        server_of_openssl(context, ClientConfig::new(auth));
    }
}
