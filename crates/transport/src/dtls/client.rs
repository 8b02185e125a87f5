use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::dtls::{Client, ClientEvent};
use bytes::Bytes;
use coap::{Peer, Transmit};

use crate::{Batch, UdpTransport};

/// The most datagrams that wait for a session; more are lost, as they could be on the way.
const WAITING: usize = 32;

/// A device's way to its server: a socket, with a session or without.
#[derive(Debug)]
pub enum Link {
    /// NoSec.
    Plain(UdpTransport),
    /// DTLS.
    Secure(Box<DtlsClient>),
}

/// A UDP socket with one DTLS session, made when there is something to send.
#[derive(Debug)]
pub struct DtlsClient {
    udp: UdpTransport,
    client: Client,
    server: SocketAddr,
    waiting: VecDeque<Bytes>,
    /// Since when a confirmable message is without any answer, and the last of them.
    unanswered: Option<(Instant, Bytes)>,
}

/// After so long without any answer to confirmable messages the session is taken for lost: a server that was killed does
/// not know it, and what it can't read it answers not.
const SILENCE: Duration = Duration::from_secs(10);

/// The session's number on a device: it has one server.
const SESSION: u64 = 1;

impl Link {
    /// With DTLS to this server.
    pub fn secure(udp: UdpTransport, client: Client, server: SocketAddr) -> Link {
        let waiting = VecDeque::new();
        Link::Secure(Box::new(DtlsClient {
            udp,
            client,
            server,
            waiting,
            unanswered: None,
        }))
    }

    /// The server at this address, as the state machine above is to know it.
    pub fn peer(&self, addr: SocketAddr) -> Peer {
        match self {
            Link::Plain(_) => Peer::plain(addr),
            Link::Secure(_) => Peer {
                addr,
                session: SESSION,
            },
        }
    }

    /// The server has another address, or must have lost the session: the next datagram makes a new one.
    pub fn begin_anew(&mut self, server: SocketAddr) {
        if let Link::Secure(secure) = self {
            secure.server = server;
            secure.client.close();
            secure.waiting.clear();
            secure.unanswered = None;
        }
    }

    /// Waits for datagrams until the deadline. What they say is for [`Link::take_in`]. Cancel safe.
    ///
    /// # Errors
    /// Those of the socket itself.
    pub async fn wait(&self, batch: &mut Batch, deadline: Option<Instant>) -> io::Result<()> {
        match self {
            Link::Plain(udp) => udp.wait(batch, deadline).await,
            Link::Secure(secure) => {
                let own = secure.client.next_timeout();
                let deadline = [deadline, own, secure.silence_ends()]
                    .into_iter()
                    .flatten()
                    .min();
                secure.udp.wait(batch, deadline).await
            }
        }
    }

    /// Hands on what came.
    pub fn take_in(&mut self, now: Instant, batch: &Batch, mut each: impl FnMut(Peer, &[u8])) {
        match self {
            Link::Plain(_) => {
                for (peer, datagram) in batch {
                    each(peer, datagram);
                }
            }
            Link::Secure(secure) => {
                for (peer, datagram) in batch {
                    if peer.addr == secure.server {
                        secure.client.handle_datagram(now, datagram);
                    }
                }
                secure.client.handle_timeout(now);
                secure.events(&mut each);
                if secure.silence_ends().is_some_and(|at| at <= now) {
                    secure.try_anew(now);
                }
            }
        }
    }

    /// Sends datagrams; how many could not be.
    pub async fn send_all(&mut self, transmits: impl IntoIterator<Item = Transmit>) -> u64 {
        match self {
            Link::Plain(udp) => udp.send_all(transmits).await.failed,
            Link::Secure(secure) => secure.send_all(transmits).await,
        }
    }

    /// Ends the session, if there is one, and says so.
    pub async fn close(&mut self) {
        if let Link::Secure(secure) = self {
            secure.client.close();
            secure.flush().await;
        }
    }
}

impl DtlsClient {
    fn silence_ends(&self) -> Option<Instant> {
        let (since, _) = self.unanswered.as_ref()?;
        self.client.is_connected().then(|| *since + SILENCE)
    }

    /// The same message in a new session; the server knows it by its number if it has had it.
    fn try_anew(&mut self, now: Instant) {
        tracing::info!(server = %self.server, "no answer in the DTLS session, a new one is made");
        self.waiting.clear();
        self.waiting
            .extend(self.unanswered.take().map(|(_, last)| last));
        self.client.close();
        self.client.connect(now);
    }

    async fn send_all(&mut self, transmits: impl IntoIterator<Item = Transmit>) -> u64 {
        let mut lost = 0;
        let now = Instant::now();
        for transmit in transmits {
            if self.client.is_connected() && is_confirmable(&transmit.payload) {
                let since = self.unanswered.take().map_or(now, |(since, _)| since);
                self.unanswered = Some((since, transmit.payload.clone()));
            }
            if self.client.is_connected() {
                lost += u64::from(!self.client.send(&transmit.payload));
            } else if self.waiting.len() < WAITING {
                self.waiting.push_back(transmit.payload);
            } else {
                lost += 1;
            }
        }
        if self.client.is_idle() && !self.waiting.is_empty() {
            tracing::info!(server = %self.server, "DTLS handshake");
            self.client.connect(now);
        }
        lost + self.flush().await
    }

    async fn flush(&mut self) -> u64 {
        let (client, to) = (&mut self.client, Peer::plain(self.server));
        let transmits = std::iter::from_fn(|| client.poll_transmit());
        let transmits = transmits.map(|payload| Transmit {
            to,
            payload: payload.into(),
        });
        self.udp.send_all(transmits).await.failed
    }

    fn events(&mut self, each: &mut impl FnMut(Peer, &[u8])) {
        let from = Peer {
            addr: self.server,
            session: SESSION,
        };
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Connected { suite, resumed } => {
                    tracing::info!(server = %self.server, suite = suite.name(), resumed, "DTLS session");
                    for datagram in self.waiting.drain(..) {
                        self.client.send(&datagram);
                    }
                }
                ClientEvent::Data(content) => {
                    self.unanswered = None;
                    each(from, &content);
                }
                ClientEvent::Closed(why) => {
                    tracing::warn!(server = %self.server, %why, "no DTLS session");
                    // What waited is sent again by who wants an answer.
                    self.waiting.clear();
                }
                _ => {}
            }
        }
    }
}

/// Of a CoAP message, version 1: somebody waits for its acknowledgement (RFC 7252 section 3).
fn is_confirmable(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first >> 4 == 0b0100)
}
