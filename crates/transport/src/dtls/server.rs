use std::io;
use std::time::Instant;

use coap::{Peer, Transmit};

use crate::{Batch, SendReport, UdpTransport};

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// A device sent this in its session.
    Data(Peer, Vec<u8>),
    /// A session began or ended, or did not begin.
    Session(::dtls::Event),
}

/// A UDP socket with a DTLS server on it.
///
/// ```text
/// recv_batch ─► take_in ─► Incoming …      queue ─┐
///                   └─► handshakes' answers ──────┴─► flush
/// ```
#[derive(Debug)]
pub struct DtlsServer {
    udp: UdpTransport,
    server: ::dtls::Server,
}

impl DtlsServer {
    /// Puts the server on the socket.
    pub fn new(udp: UdpTransport, server: ::dtls::Server) -> DtlsServer {
        DtlsServer { udp, server }
    }

    /// The socket.
    pub fn udp(&self) -> &UdpTransport {
        &self.udp
    }

    /// The sessions.
    pub fn sessions(&self) -> &::dtls::Server {
        &self.server
    }

    /// Waits for datagrams, as [`UdpTransport::recv_batch`]. Cancel safe.
    ///
    /// # Errors
    /// Those of the socket itself.
    pub async fn recv_batch(&self, batch: &mut Batch) -> io::Result<()> {
        self.udp.recv_batch(batch).await
    }

    /// Opens what came, and hands it on.
    pub fn take_in(&mut self, now: Instant, batch: &Batch, mut each: impl FnMut(Incoming)) {
        for (peer, datagram) in batch {
            self.server.handle_datagram(now, peer.addr, datagram);
            self.events(&mut each);
        }
    }

    /// Does what is due. To be called at [`DtlsServer::next_timeout`] or later.
    pub fn handle_timeout(&mut self, now: Instant, mut each: impl FnMut(Incoming)) {
        self.server.handle_timeout(now);
        self.events(&mut each);
    }

    /// When to call [`DtlsServer::handle_timeout`] next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.server.next_timeout()
    }

    /// Ends the session of an identity.
    pub fn close(&mut self, session: u64) {
        self.server.close(session);
    }

    /// Ends all of them.
    pub fn close_all(&mut self) {
        self.server.close_all();
    }

    /// Protects a datagram; [`DtlsServer::flush`] sends it. Without a session it is lost, as it could be on the way: its
    /// device can't be reached until it makes a new one.
    pub fn queue(&mut self, transmit: &Transmit) {
        let Peer { addr, session } = transmit.to;
        if !self.server.send(addr, session, &transmit.payload) {
            tracing::debug!(to = %transmit.to, "no session to send in");
        }
    }

    /// Sends what handshakes and [`DtlsServer::queue`] left.
    pub async fn flush(&mut self) -> SendReport {
        let server = &mut self.server;
        let transmits = std::iter::from_fn(|| server.poll_transmit());
        let plain = transmits.map(|transmit| Transmit {
            to: Peer::plain(transmit.to),
            payload: transmit.payload.into(),
        });
        self.udp.send_all(plain).await
    }

    fn events(&mut self, each: &mut impl FnMut(Incoming)) {
        while let Some(event) = self.server.poll_event() {
            each(match event {
                ::dtls::Event::Data {
                    peer,
                    session,
                    content,
                } => {
                    let addr = peer;
                    Incoming::Data(Peer { addr, session }, content)
                }
                other => Incoming::Session(other),
            });
        }
    }
}
