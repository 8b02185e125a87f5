//! Plain UDP.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coap::Transmit;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::Batch;
use crate::batch::MAX_AT_ONCE;
use crate::many::{receive_many, send_many};

/// How long one datagram may wait for room in the socket's send buffer before it is given up, as the network might.
const SEND_PATIENCE: Duration = Duration::from_secs(1);

/// Settings of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpConfig {
    /// SO_RCVBUF in bytes; the kernel cuts it at `net.core.rmem_max` unless the process may administer the network
    /// (CAP_NET_ADMIN). Default 8 MiB: some 10 000 small datagrams that wait.
    pub receive_buffer: usize,
    /// SO_SNDBUF in bytes; the kernel cuts it at `net.core.wmem_max` likewise. Default 4 MiB.
    pub send_buffer: usize,
    /// The setting that a person changes to take another port, as it appears in messages. Default `--port`.
    pub port_setting: String,
}

impl Default for UdpConfig {
    fn default() -> UdpConfig {
        UdpConfig {
            receive_buffer: 8 << 20,
            send_buffer: 4 << 20,
            port_setting: "--port".to_owned(),
        }
    }
}

/// Why a socket could not be had.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "port {port}/udp is in use: stop the program that listens on {address}, or choose another port with {setting}"
    )]
    InUse {
        /// What was asked for.
        address: SocketAddr,
        /// Its port.
        port: u16,
        /// [`UdpConfig::port_setting`].
        setting: String,
    },
    /// Ports below 1024 are for privileged processes.
    #[error(
        "port {port}/udp may not be opened by this user: grant CAP_NET_BIND_SERVICE, or choose a port from 1024 on with {setting}"
    )]
    NotPermitted {
        /// The port.
        port: u16,
        /// [`UdpConfig::port_setting`].
        setting: String,
    },
    /// The address is none of this machine's.
    #[error(
        "{ip} is no address of this machine: listen on one that `ip address` shows, or on 0.0.0.0 for all of them"
    )]
    NotHere {
        /// What was asked for.
        ip: IpAddr,
    },
    /// Anything else the system says.
    #[error("cannot listen on {address}/udp: {source}")]
    Io {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// What became of the datagrams of one [`UdpTransport::send_all`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Given to the network.
    pub sent: u64,
    /// Refused by the system: unreachable, too large, not permitted, or no room in time. CoAP's retransmission is the remedy.
    pub failed: u64,
    /// For a security session: a plain socket never sends them.
    pub not_plain: u64,
}

/// What was counted since the socket was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Errors the socket told of when reading: late news of a datagram that was refused, mostly.
    pub receive_errors: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams the system refused.
    pub send_errors: u64,
    /// Datagrams for a security session, not sent.
    pub not_plain: u64,
}

/// A UDP socket. All methods take `&self`: it can be shared.
#[derive(Debug)]
pub struct UdpTransport {
    socket: UdpSocket,
    is_v6: bool,
    counters: Counters,
    /// What one call to the system sends, kept for its memory: at most [`MAX_AT_ONCE`], empty between calls.
    together: Mutex<Vec<Transmit>>,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    received_bytes: AtomicU64,
    receive_errors: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    send_errors: AtomicU64,
    not_plain: AtomicU64,
}

impl UdpTransport {
    /// Opens a socket on this address; port 0 takes a free one. `[::]` hears IPv4 as well, and is 0.0.0.0 where the machine
    /// has no IPv6. To be called inside a tokio runtime.
    pub fn bind(address: SocketAddr, config: &UdpConfig) -> Result<UdpTransport, BindError> {
        match open(address, config) {
            Ok(transport) => Ok(transport),
            Err(error)
                if address.is_ipv6()
                    && address.ip().is_unspecified()
                    && error.kind() != ErrorKind::AddrInUse =>
            {
                tracing::info!(%address, %error, "no IPv6 here, listening on IPv4 only");
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                open(address, config).map_err(|error| bind_error(address, config, error))
            }
            Err(error) => Err(bind_error(address, config, error)),
        }
    }

    /// Where it listens, with the port it got.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for datagrams until the deadline, where there is one: then the batch is empty. Datagrams that are there go before a
    /// deadline that is over. Cancel safe: what was not handed out stays in the socket.
    pub async fn wait(&self, batch: &mut Batch, deadline: Option<Instant>) -> io::Result<()> {
        let Some(deadline) = deadline else {
            return self.recv_batch(batch).await;
        };
        match tokio::time::timeout_at(deadline.into(), self.recv_batch(batch)).await {
            Ok(received) => received,
            Err(_) => {
                batch.clear();
                Ok(())
            }
        }
    }

    /// Waits for a datagram, and takes all that are ready, as many as the batch holds. What the batch held before is gone.
    /// Cancel safe. An error is one of the socket itself, not of a datagram.
    pub async fn recv_batch(&self, batch: &mut Batch) -> io::Result<()> {
        loop {
            self.socket.readable().await?;
            if self.try_recv_batch(batch)? {
                return Ok(());
            }
        }
    }

    /// As [`UdpTransport::recv_batch`], without waiting; `false` where nothing was there.
    pub fn try_recv_batch(&self, batch: &mut Batch) -> io::Result<bool> {
        batch.clear();
        let mut bytes = 0;
        let received = self.socket.try_io(Interest::READABLE, || {
            bytes = receive_many(&self.socket, self.is_v6, batch)?;
            // Fewer than there is room for: the socket is empty, as a second call would only say. The next datagram
            // wakes who waits, also one that comes right now.
            match batch.is_full() {
                true => Ok(()),
                false => Err(ErrorKind::WouldBlock.into()),
            }
        });
        match received {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                // An ICMP message about a datagram sent earlier, or an interrupted call: the socket itself is fine.
                if !is_about_a_peer(&error) {
                    return Err(error);
                }
                self.counters.receive_errors.fetch_add(1, Relaxed);
                Ok(false)
            }
            _ => {
                let count = batch.len() as u64;
                self.counters.received.fetch_add(count, Relaxed);
                self.counters.received_bytes.fetch_add(bytes, Relaxed);
                Ok(count > 0)
            }
        }
    }

    /// Sends datagrams in order, many with one call to the system, waiting where the send buffer is full, a second for one
    /// datagram at most. Never fails as a whole: what cannot be sent is counted, and is lost as it could be on the way.
    pub async fn send_all(&self, transmits: impl IntoIterator<Item = Transmit>) -> SendReport {
        let mut report = SendReport::default();
        let mut together = std::mem::take(&mut *self.together());
        let mut transmits = transmits.into_iter();
        loop {
            together.clear();
            while together.len() < MAX_AT_ONCE
                && let Some(transmit) = transmits.next()
            {
                if transmit.to.session == 0 {
                    together.push(transmit);
                } else {
                    report.not_plain += 1;
                }
            }
            if together.is_empty() {
                break;
            }
            self.send_together(&together, &mut report).await;
        }
        *self.together() = together;
        self.counters.sent.fetch_add(report.sent, Relaxed);
        self.counters.send_errors.fetch_add(report.failed, Relaxed);
        self.counters.not_plain.fetch_add(report.not_plain, Relaxed);
        report
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        let Counters {
            received,
            received_bytes,
            receive_errors,
            sent,
            sent_bytes,
            send_errors,
            not_plain,
        } = &self.counters;
        Stats {
            received: received.load(Relaxed),
            received_bytes: received_bytes.load(Relaxed),
            receive_errors: receive_errors.load(Relaxed),
            sent: sent.load(Relaxed),
            sent_bytes: sent_bytes.load(Relaxed),
            send_errors: send_errors.load(Relaxed),
            not_plain: not_plain.load(Relaxed),
        }
    }

    async fn send_together(&self, mut rest: &[Transmit], report: &mut SendReport) {
        let mut refused = false;
        while let [first, behind @ ..] = rest {
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                send_many(&self.socket, self.is_v6, rest)
            });
            let error = match sent {
                Ok(count) => {
                    let (gone, left) = rest.split_at(count.clamp(1, rest.len()));
                    let bytes: usize = gone.iter().map(|transmit| transmit.payload.len()).sum();
                    self.counters.sent_bytes.fetch_add(bytes as u64, Relaxed);
                    report.sent += gone.len() as u64;
                    (rest, refused) = (left, false);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match timeout(SEND_PATIENCE, self.socket.writable()).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => error,
                        Err(_) => io::Error::new(ErrorKind::TimedOut, "no room in the send buffer"),
                    }
                }
                // News of an earlier datagram to a closed port comes as the result of this one, once.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && !refused => {
                    refused = true;
                    continue;
                }
                Err(error) => error,
            };
            tracing::debug!(to = %first.to, %error, "datagram not sent");
            report.failed += 1;
            (rest, refused) = (behind, false);
        }
    }

    fn together(&self) -> std::sync::MutexGuard<'_, Vec<Transmit>> {
        self.together.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(address: SocketAddr, config: &UdpConfig) -> io::Result<UdpTransport> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Wishes: a system that grants less still works.
    for error in [
        setsockopt(&socket, RcvBufForce, &config.receive_buffer)
            .or_else(|_| setsockopt(&socket, RcvBuf, &config.receive_buffer))
            .err(),
        setsockopt(&socket, SndBufForce, &config.send_buffer)
            .or_else(|_| setsockopt(&socket, SndBuf, &config.send_buffer))
            .err(),
    ]
    .into_iter()
    .flatten()
    {
        tracing::debug!(%address, %error, "socket buffer keeps its size");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    tracing::debug!(
        %address,
        receive_buffer = socket.recv_buffer_size().unwrap_or(0),
        send_buffer = socket.send_buffer_size().unwrap_or(0),
        "listening"
    );
    let socket = UdpSocket::from_std(socket.into())?;
    Ok(UdpTransport {
        socket,
        is_v6: address.is_ipv6(),
        counters: Counters::default(),
        together: Mutex::default(),
    })
}

fn bind_error(address: SocketAddr, config: &UdpConfig, source: io::Error) -> BindError {
    let (port, setting) = (address.port(), config.port_setting.clone());
    match source.kind() {
        ErrorKind::AddrInUse => BindError::InUse {
            address,
            port,
            setting,
        },
        ErrorKind::PermissionDenied => BindError::NotPermitted { port, setting },
        ErrorKind::AddrNotAvailable => BindError::NotHere { ip: address.ip() },
        _ => BindError::Io { address, source },
    }
}

fn is_about_a_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::Interrupted
    )
}
