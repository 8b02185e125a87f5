//! Several datagrams with one call to the system: recvmmsg and sendmmsg.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use coap::Transmit;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
    sendmmsg,
};

use crate::Batch;
use crate::batch::MAX_AT_ONCE;

// What the system wants beside the bytes, kept for its memory. Two for receiving, since the length of an address that
// came stays in a header as the room for the next; others for sending, which points them at addresses of its own.
thread_local! {
    static RECEIVE_V4: RefCell<MultiHeaders<SockaddrIn>> = headers();
    static RECEIVE_V6: RefCell<MultiHeaders<SockaddrIn6>> = headers();
    static SEND_V4: RefCell<MultiHeaders<SockaddrIn>> = headers();
    static SEND_V6: RefCell<MultiHeaders<SockaddrIn6>> = headers();
}

fn headers<S: SockaddrLike + Copy>() -> RefCell<MultiHeaders<S>> {
    RefCell::new(MultiHeaders::preallocate(MAX_AT_ONCE, None))
}

/// Fills an empty batch with what is ready; how many bytes that was. `WouldBlock` where nothing is.
pub(crate) fn receive_many(
    socket: &impl AsRawFd,
    is_v6: bool,
    batch: &mut Batch,
) -> io::Result<u64> {
    if is_v6 {
        let canonical = |from| canonical(SocketAddrV6::from(from));
        RECEIVE_V6.with_borrow_mut(|headers| receive(socket, headers, batch, canonical))
    } else {
        let canonical = |from| SocketAddrV4::from(from).into();
        RECEIVE_V4.with_borrow_mut(|headers| receive(socket, headers, batch, canonical))
    }
}

/// Sends the first of these datagrams, as many as go; how many that was, at least one.
pub(crate) fn send_many(
    socket: &impl AsRawFd,
    is_v6: bool,
    transmits: &[Transmit],
) -> io::Result<usize> {
    if is_v6 {
        // A dual-stack socket reaches IPv4 by mapped addresses.
        let address = |to| match to {
            SocketAddr::V4(v4) => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            SocketAddr::V6(v6) => v6.into(),
        };
        return SEND_V6
            .with_borrow_mut(|headers| send(socket, headers, transmits, |to| Some(address(to))));
    }
    let address = |to| match to {
        SocketAddr::V4(v4) => Some(v4.into()),
        SocketAddr::V6(_) => None,
    };
    SEND_V4.with_borrow_mut(|headers| send(socket, headers, transmits, address))
}

fn receive<S: SockaddrLike + Copy>(
    socket: &impl AsRawFd,
    headers: &mut MultiHeaders<S>,
    batch: &mut Batch,
    canonical: impl Fn(S) -> SocketAddr,
) -> io::Result<u64> {
    let mut came = [(None, 0); MAX_AT_ONCE];
    let mut count = 0;
    {
        let mut slots = batch.slots();
        let mut room: [[IoSliceMut<'_>; 1]; MAX_AT_ONCE] =
            std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
        let wanted = room.iter().take_while(|[slot]| !slot.is_empty()).count();
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(
            socket.as_raw_fd(),
            headers,
            room.iter_mut().take(wanted),
            flags,
            None,
        )?;
        for (place, message) in came.iter_mut().zip(received) {
            *place = (message.address, message.bytes);
            count += 1;
        }
    }
    let mut bytes = 0;
    for (from, len) in &came[..count] {
        // UDP has a sender for every datagram.
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        batch.push(canonical(from), *len);
        bytes += *len as u64;
    }
    Ok(bytes)
}

fn send<S: SockaddrLike + Copy>(
    socket: &impl AsRawFd,
    headers: &mut MultiHeaders<S>,
    transmits: &[Transmit],
    address: impl Fn(SocketAddr) -> Option<S>,
) -> io::Result<usize> {
    let mut addresses = [None; MAX_AT_ONCE];
    let mut payloads = [[IoSlice::new(&[])]; MAX_AT_ONCE];
    let mut count = 0;
    for (at, transmit) in transmits.iter().take(MAX_AT_ONCE).enumerate() {
        addresses[at] = address(transmit.to.addr);
        if addresses[at].is_none() {
            break;
        }
        payloads[at] = [IoSlice::new(&transmit.payload)];
        count += 1;
    }
    if count == 0 {
        // An IPv6 address, and a socket for IPv4 only.
        return Err(io::ErrorKind::NetworkUnreachable.into());
    }
    let nothing_beside: [ControlMessage<'_>; 0] = [];
    let sent = sendmmsg(
        socket.as_raw_fd(),
        headers,
        &payloads[..count],
        &addresses[..count],
        nothing_beside,
        MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(sent.count())
}

/// One peer has one address, whichever kind of socket heard it.
fn canonical(from: SocketAddrV6) -> SocketAddr {
    match from.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, from.port()).into(),
        IpAddr::V6(_) => from.into(),
    }
}
