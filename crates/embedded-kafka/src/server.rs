//! Connections: frames in, frames out, one request at a time each, and nothing a client sends reaches past its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use service::tls::{Refusals, ServerTls, Stream};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::{
    handlers, metrics,
    protocol::{Incoming, RequestError, read_header},
    shared::{Ends, Shared},
};

/// Room made at a time for a request that is arriving: a claimed length reserves nothing by itself.
const READ_STEP: usize = 64 << 10;
/// A buffer larger than this is not kept for the next request.
const KEEP_BUFFER: usize = 256 << 10;
/// Wait after the system refuses to accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a connection ends.
#[derive(Debug, Error)]
enum ConnectionError {
    #[error("a request claims {claimed} bytes; the limit is {limit}")]
    Length { claimed: i32, limit: usize },
    #[error("a request did not arrive in time")]
    Slow,
    #[error("an answer was not taken in time")]
    NotReading,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A listener of the broker.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<ServerTls>,
    /// What its clients are told to come back to; `None`: the address they reached.
    pub(crate) advertised: Option<(String, u16)>,
    /// Shared by all doors.
    pub(crate) slots: Arc<Semaphore>,
}

/// Accepts connections until the broker stops.
pub(crate) async fn accept(door: Door, shared: Arc<Shared>, tasks: TaskTracker) {
    let door = Arc::new(door);
    let refusals = Refusals::default();
    loop {
        let accepted = tokio::select! {
            accepted = door.listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                error!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = door.slots.clone().try_acquire_owned() else {
            metrics::CONNECTIONS_REFUSED.inc();
            warn!(%peer, limit = shared.config.limits.connections, "too many connections: this one was closed");
            continue;
        };
        let (shared, door, refusals) = (shared.clone(), door.clone(), refusals.clone());
        tasks.spawn(async move {
            metrics::CONNECTIONS.inc();
            let _open = scopeguard(|| metrics::CONNECTIONS.dec());
            let _slot = slot;
            let stream = match &door.tls {
                None => Stream::plain(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok((stream, _certificate)) => Stream::tls(stream),
                    Err(error) => {
                        refusals.say(peer, &error);
                        return;
                    }
                },
            };
            serve(stream, (peer, door.advertised.clone()), &shared).await;
        });
    }
}

/// Runs `act` when dropped, also when a handler panics.
fn scopeguard<F: Fn()>(act: F) -> impl Drop {
    struct Guard<F: Fn()>(F);
    impl<F: Fn()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(act)
}

async fn serve(
    stream: Stream,
    (peer, advertised): (SocketAddr, Option<(String, u16)>),
    shared: &Arc<Shared>,
) {
    debug!(%peer, "connected");
    let ended = tokio::select! {
        ended = converse(stream, (peer, advertised), shared) => ended,
        () = shared.stop.cancelled() => return,
    };
    match ended {
        Ok(()) | Err(ConnectionError::Request(RequestError::Stopping)) => {
            debug!(%peer, "disconnected")
        }
        Err(ConnectionError::Io(error)) => debug!(%peer, %error, "connection lost"),
        Err(
            error @ (ConnectionError::NotReading
            | ConnectionError::Request(RequestError::Unanswerable)),
        ) => info!(%peer, %error, "connection closed"),
        Err(error) => {
            metrics::MALFORMED_REQUESTS.inc();
            warn!(%peer, %error, "connection closed: not a request this broker reads");
        }
    }
}

async fn converse(
    mut stream: Stream,
    (peer, advertised): (SocketAddr, Option<(String, u16)>),
    shared: &Arc<Shared>,
) -> Result<(), ConnectionError> {
    stream.tcp().set_nodelay(true)?;
    let local = stream.tcp().local_addr()?;
    let ends = Arc::new(Ends {
        reached: advertised.unwrap_or_else(|| (local.ip().to_string(), local.port())),
        peer,
    });
    let limits = &shared.config.limits;
    let mut buffer = BytesMut::new();
    while let Some(frame) = read_frame(&mut stream, &mut buffer, shared).await? {
        let answer = match read_header(frame)? {
            Incoming::UnknownApiVersions { correlation_id } => {
                Some(handlers::unknown_api_versions(correlation_id)?)
            }
            Incoming::Request(header, body) => {
                Box::pin(handlers::answer(shared, &ends, header, body)).await?
            }
        };
        if let Some(answer) = answer {
            let written = timeout(limits.idle_timeout, async {
                stream.write_all(&answer).await?;
                stream.flush().await
            });
            written.await.map_err(|_| ConnectionError::NotReading)??;
        }
        if buffer.is_empty() && buffer.capacity() > KEEP_BUFFER {
            buffer = BytesMut::new();
        }
    }
    Ok(())
}

/// Reads one frame: four length bytes, then as many. `None` when the client is gone or silent for too long.
async fn read_frame(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    shared: &Shared,
) -> Result<Option<Bytes>, ConnectionError> {
    let limits = &shared.config.limits;
    if buffer.is_empty() {
        buffer.reserve(READ_STEP);
        let read = timeout(limits.idle_timeout, stream.read_buf(buffer)).await;
        if read.map_or(Ok(0), |read| read)? == 0 {
            return Ok(None);
        }
    }
    let rest = async {
        while buffer.len() < 4 {
            more(stream, buffer, 4).await?;
        }
        let claimed = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        let length = usize::try_from(claimed)
            .ok()
            .filter(|length| *length <= limits.request_bytes);
        let length = length.ok_or(ConnectionError::Length {
            claimed,
            limit: limits.request_bytes,
        })?;
        while buffer.len() < 4 + length {
            let missing = 4 + length - buffer.len();
            more(stream, buffer, missing).await?;
        }
        buffer.advance(4);
        Ok(buffer.split_to(length).freeze())
    };
    timeout(limits.request_timeout, rest)
        .await
        .map_err(|_| ConnectionError::Slow)?
        .map(Some)
}

async fn more(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    missing: usize,
) -> Result<(), ConnectionError> {
    buffer.reserve(missing.min(READ_STEP));
    if stream.read_buf(buffer).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(())
}
