use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, RcvBuf, RcvBufForce, ReceiveTimeout, SndBuf, SndBufForce,
};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg,
    setsockopt,
};
use nix::sys::time::TimeVal;

/// Datagrams that one call to the system takes.
pub(super) const TOGETHER: usize = 64;

/// A device's address is 127.16.0.0 and its number.
const FIRST: u32 = 127 << 24 | 16 << 16;
const ROOM: usize = 1_500;
/// How long a look for answers may take: what is to be sent again is looked for in between.
const LOOK: Duration = Duration::from_millis(1);

thread_local! {
    // Of the thread, since it can't be sent to another one, as a socket can.
    static HEADERS: RefCell<MultiHeaders<SockaddrIn>> = RefCell::new(MultiHeaders::preallocate(
        TOGETHER,
        Some(nix::cmsg_space!(nix::libc::in_pktinfo)),
    ));
}

/// One socket, many addresses.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UdpSocket,
    server: SockaddrIn,
    buffer: Box<[u8]>,
}

impl Socket {
    pub(super) fn new(server: SocketAddrV4) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let bytes = 32 << 20;
        setsockopt(&socket, RcvBufForce, &bytes)
            .or_else(|_| setsockopt(&socket, RcvBuf, &bytes))?;
        setsockopt(&socket, SndBufForce, &bytes)
            .or_else(|_| setsockopt(&socket, SndBuf, &bytes))?;
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        let look = TimeVal::new(0, LOOK.as_micros() as i64);
        setsockopt(&socket, ReceiveTimeout, &look)?;
        Ok(Self {
            socket,
            server: server.into(),
            buffer: vec![0; TOGETHER * ROOM].into(),
        })
    }

    /// Sends from a device's address.
    pub(super) fn send(&self, device: usize, datagram: &[u8]) -> anyhow::Result<()> {
        let source = Ipv4Addr::from(FIRST + device as u32);
        let info = nix::libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: nix::libc::in_addr {
                s_addr: u32::from(source).to_be(),
            },
            ipi_addr: nix::libc::in_addr { s_addr: 0 },
        };
        loop {
            let sent = sendmsg(
                self.socket.as_raw_fd(),
                &[IoSlice::new(datagram)],
                &[ControlMessage::Ipv4PacketInfo(&info)],
                MsgFlags::empty(),
                Some(&self.server),
            );
            match sent {
                // A server that was killed: its port answers again later, as devices find out.
                Ok(_) | Err(Errno::ECONNREFUSED) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
    }

    /// Takes what has come, waiting a moment where nothing has.
    pub(super) fn receive(&mut self, mut each: impl FnMut(usize, &[u8])) -> anyhow::Result<()> {
        let mut came = [(None, 0); TOGETHER];
        let socket = self.socket.as_raw_fd();
        let mut slots = self.buffer.chunks_exact_mut(ROOM);
        let count = HEADERS.with_borrow_mut(|headers| {
            let mut room: [[IoSliceMut<'_>; 1]; TOGETHER] =
                std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
            let flags = MsgFlags::MSG_WAITFORONE;
            let received = match recvmmsg(socket, headers, room.iter_mut(), flags, None) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(0),
                Err(error) => return Err(error).context("receiving"),
            };
            let mut count = 0;
            for (place, message) in came.iter_mut().zip(received) {
                let device = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        let address = u32::from_be(info.ipi_addr.s_addr);
                        Some(address.checked_sub(FIRST)? as usize)
                    }
                    _ => None,
                });
                *place = (device, message.bytes);
                count += 1;
            }
            Ok(count)
        })?;
        for (at, (device, len)) in came[..count].iter().enumerate() {
            if let Some(device) = device {
                each(*device, &self.buffer[at * ROOM..at * ROOM + len]);
            }
        }
        Ok(())
    }
}
