use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use prometheus::{IntCounter, register_int_counter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_openssl::SslStream;

use super::ServerTls;
use super::patience::Patience;
use crate::seldom::Seldom;

/// A listener for `axum::serve`, with a bound on its connections: what is beyond waits in the kernel's queue, so that
/// connections can't use up the process's file descriptors. Handshakes run beside each other, so that a slow client
/// delays nobody.
pub struct Listener {
    accepted: mpsc::Receiver<(Stream, Peer)>,
    local: SocketAddr,
    secure: bool,
}

/// Who is at the other end; handlers get it as `ConnectInfo<Peer>`.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Its certificate, checked, where the listener asks for one and it has one.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// What a client's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its common name, such as `client-cloud`.
    pub common_name: Option<String>,
    /// The whole subject, as `O=zeelos,CN=client-cloud`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
}

static REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "zeelos_tls_refused_total",
        "Connections that ended in their TLS handshake."
    )
    .expect("registered once, with a valid name")
});

/// Connections that have shaken hands and are not taken yet.
const WAITING: usize = 16;
/// Wait after the system refuses to accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl Listener {
    /// Takes at most `connections` at a time, over TLS where it is given.
    ///
    /// # Errors
    /// When the socket does not know its address.
    pub fn new(tcp: TcpListener, tls: Option<ServerTls>, connections: usize) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let (handed, accepted) = mpsc::channel(WAITING);
        let secure = tls.is_some();
        LazyLock::force(&REFUSED);
        tokio::spawn(accept(tcp, tls, connections, handed));
        Ok(Self {
            accepted,
            local,
            secure,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

async fn accept(
    tcp: TcpListener,
    tls: Option<ServerTls>,
    connections: usize,
    handed: mpsc::Sender<(Stream, Peer)>,
) {
    let room = Arc::new(Semaphore::new(connections));
    let said = Refusals::default();
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (place, tcp.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = handed.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(tls) = tls.clone() else {
            let peer = Peer {
                address,
                certificate: None,
            };
            let kind = Kind::Plain(stream);
            if handed
                .send((Stream::patient(kind, place), peer))
                .await
                .is_err()
            {
                return;
            }
            continue;
        };
        let (handed, said) = (handed.clone(), said.clone());
        tokio::spawn(async move {
            match tls.accept(stream).await {
                Ok((stream, certificate)) => {
                    let peer = Peer {
                        address,
                        certificate: certificate.map(Arc::new),
                    };
                    let kind = Kind::Tls(Box::new(stream));
                    // Closed when the listener is gone: then so is the connection.
                    let _gone = handed.send((Stream::patient(kind, place), peer)).await;
                }
                Err(error) => said.say(address, &error),
            }
        });
    }
}

/// Says who was refused and why, once a second at most: anybody can cause it.
#[derive(Clone, Default)]
pub struct Refusals(Seldom);

impl Refusals {
    /// Counts a refused client, and says so.
    pub fn say(&self, address: SocketAddr, error: &super::HandshakeError) {
        REFUSED.inc();
        if let Some(unsaid) = self.0.turn(Instant::now()) {
            tracing::warn!(client = %address, reason = %error, unsaid, "not let in");
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task that accepts ends only after this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.local,
            certificate: None,
        })
    }
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection, over TLS or not.
pub struct Stream {
    kind: Kind,
    /// Of a listener's; one that was accepted elsewhere has all the time.
    patience: Option<Patience>,
    /// Its place among the listener's connections.
    _place: Option<OwnedSemaphorePermit>,
}

enum Kind {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Stream {
    /// A connection that was accepted elsewhere.
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            kind: Kind::Plain(stream),
            patience: None,
            _place: None,
        }
    }

    /// The same over TLS.
    pub fn tls(stream: SslStream<TcpStream>) -> Self {
        Self {
            kind: Kind::Tls(Box::new(stream)),
            patience: None,
            _place: None,
        }
    }

    fn patient(kind: Kind, place: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            kind,
            patience: Some(Patience::new()),
            _place: place,
        }
    }

    /// Bytes were written, or could not be.
    fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(patience) = &mut self.patience else {
            return written;
        };
        if matches!(written, Poll::Ready(Ok(_))) {
            patience.wrote();
        }
        patience.after_write(cx, written)
    }

    /// The socket under it.
    pub fn tcp(&self) -> &TcpStream {
        match &self.kind {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => stream.get_ref(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let bytes = buffer.filled().len() - before;
        match &mut self.patience {
            Some(patience) => patience.after_read(cx, read, bytes),
            None => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        };
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(&self.kind, Kind::Plain(stream) if stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
