use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Below the kernel's range for outgoing connections (32768 up), so that no client's own port can take one between
/// a server's stop and its restart; above the ports that this project's services have by default.
const RANGE: std::ops::Range<u16> = 14_000..32_000;

/// Ports this process holds: dropping the socket would give the port to another test process.
static HELD: Mutex<BTreeMap<u16, UnixListener>> = Mutex::new(BTreeMap::new());

/// A loopback port that is free for TCP as well as UDP, and that no other test process will be given while this
/// one lives.
///
/// The reservation is a socket in the kernel's abstract namespace: no file stays behind, and it ends with the process.
///
/// # Panics
/// When all 18,000 ports are taken.
pub fn free_port() -> u16 {
    let span = usize::from(RANGE.end - RANGE.start);
    let start = rand::random_range(0..span);
    for step in 0..span {
        let offset = u16::try_from((start + step) % span).expect("the span of the range fits u16");
        if reserve(RANGE.start + offset) {
            return RANGE.start + offset;
        }
    }
    panic!(
        "no loopback port between {} and {} is free: end what holds them",
        RANGE.start, RANGE.end
    );
}

fn reserve(port: u16) -> bool {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.contains_key(&port) {
        return false;
    }
    let Ok(address) = SocketAddr::from_abstract_name(format!("zeelos-testkit-port-{port}")) else {
        return false;
    };
    let Ok(lock) = UnixListener::bind_addr(&address) else {
        return false;
    };
    let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    if free {
        held.insert(port, lock);
    }
    free
}
