//! Which port is whose, the same over a restart on the same data.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Gives out ports, and holds them until all are given out, so that none is given twice.
pub(super) struct Ports {
    /// Where they are written down.
    file: PathBuf,
    /// What each had the last time.
    before: BTreeMap<String, u16>,
    now: BTreeMap<String, u16>,
    held: Vec<Held>,
    reserved: Vec<UnixListener>,
    /// Whether the contract's ports are left alone, as for a check beside a running deployment.
    only_others: bool,
    /// Until then a port that was ours the last time is waited for.
    patience: Instant,
}

enum Held {
    Tcp(#[expect(dead_code, reason = "held for its port")] TcpListener),
    Udp(#[expect(dead_code, reason = "held for its port")] UdpSocket),
}

/// Keeps every other `up` of this machine off the ports given out here, also while their services are not up (yet).
///
/// A reservation is a name in the kernel's abstract namespace: no file stays behind, and it ends with the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations(
    #[expect(dead_code, reason = "held for its names")] Arc<Vec<UnixListener>>,
);

/// Children of an `up` that was killed take a moment to end; devices and clients know them by these ports.
const PATIENCE: Duration = Duration::from_secs(12);
/// Below the kernel's range for outgoing connections, which could take a port while its service is restarted.
const OTHERS: std::ops::Range<u16> = 20_000..30_000;
const TRIES: usize = 100;

impl Ports {
    pub(super) fn open(data_dir: &Path, only_others: bool) -> Self {
        let file = data_dir.join("ports.json");
        let text = std::fs::read(&file).unwrap_or_default();
        Self {
            // One that can't be read is as good as none: it is written anew.
            before: serde_json::from_slice(&text).unwrap_or_default(),
            file,
            now: BTreeMap::new(),
            held: Vec::new(),
            reserved: Vec::new(),
            only_others,
            patience: Instant::now() + PATIENCE,
        }
    }

    /// The port of the last time, else the preferred one where it is free, else any.
    pub(super) fn tcp(
        &mut self,
        name: &str,
        ip: IpAddr,
        preferred: u16,
    ) -> anyhow::Result<SocketAddr> {
        let bind = |port| TcpListener::bind((ip, port));
        let (listener, reserved) = self.first_free(name, ip, preferred, bind)?;
        self.reserved.extend(reserved);
        let address = listener.local_addr()?;
        self.held.push(Held::Tcp(listener));
        self.now.insert(name.to_owned(), address.port());
        Ok(address)
    }

    /// As [`Ports::tcp`].
    pub(super) fn udp(
        &mut self,
        name: &str,
        ip: IpAddr,
        preferred: u16,
    ) -> anyhow::Result<SocketAddr> {
        let bind = |port| UdpSocket::bind((ip, port));
        let (socket, reserved) = self.first_free(name, ip, preferred, bind)?;
        self.reserved.extend(reserved);
        let address = socket.local_addr()?;
        self.held.push(Held::Udp(socket));
        self.now.insert(name.to_owned(), address.port());
        Ok(address)
    }

    fn first_free<T>(
        &self,
        name: &str,
        ip: IpAddr,
        preferred: u16,
        bind: impl Fn(u16) -> io::Result<T>,
    ) -> anyhow::Result<(T, Option<UnixListener>)> {
        // Another `up` may be starting on this port: that is as good as taken.
        let bind = |port| {
            if port == 0 {
                return Ok((bind(0)?, None));
            }
            let reserved = match reserve(port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                // Where there are no such names, ports go without.
                other => other.ok(),
            };
            Ok((bind(port)?, reserved))
        };
        if let Some(port) = self.before.get(name) {
            loop {
                match bind(*port) {
                    Ok(socket) => return Ok(socket),
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse
                            && Instant::now() < self.patience =>
                    {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    Err(_) => break,
                }
            }
        }
        let preferred = (preferred != 0 && !self.only_others).then_some(preferred);
        let others = std::iter::repeat_with(|| rand::random_range(OTHERS)).take(TRIES);
        preferred
            .into_iter()
            .chain(others)
            .find_map(|port| bind(port).ok())
            .map_or_else(|| bind(0), Ok)
            .with_context(|| format!("no port can be had on {ip} (--bind)"))
    }

    /// Writes down which are whose, and lets go of them: their services are next. They stay reserved as long as the
    /// answer lives.
    pub(super) fn settle(self) -> anyhow::Result<Reservations> {
        let text = serde_json::to_vec_pretty(&self.now)?;
        std::fs::write(&self.file, text)
            .with_context(|| format!("can't write {}", self.file.display()))?;
        Ok(Reservations(Arc::new(self.reserved)))
    }
}

fn reserve(port: u16) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&UnixAddr::from_abstract_name(format!(
        "zeelos-up-port-{port}"
    ))?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_same_data_keeps_its_ports() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let taken = TcpListener::bind((IP, 0))?;
        let mut ports = Ports::open(dir.path(), false);
        let first = ports.tcp("a", IP, taken.local_addr()?.port())?;
        assert_ne!(first, taken.local_addr()?);
        let second = ports.udp("b", IP, 0)?;
        assert!(ports.tcp("c", IP, first.port())? != first, "given once");
        let reservations = ports.settle()?;
        let mut other = Ports::open(&dir.path().join("other"), false);
        let elsewhere = other.tcp("a", IP, first.port())?;
        assert_ne!(
            elsewhere, first,
            "nobody listens there yet, but it is given out"
        );
        drop((taken, reservations, other));

        let mut again = Ports::open(dir.path(), false);
        assert_eq!(again.tcp("a", IP, 0)?, first);
        assert_eq!(again.udp("b", IP, 0)?, second);
        Ok(())
    }

    #[test]
    fn a_port_of_the_last_time_is_waited_for() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut ports = Ports::open(dir.path(), false);
        let first = ports.tcp("a", IP, 0)?;
        ports.settle()?;
        let ending = TcpListener::bind(first)?;
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(ending);
        });
        assert_eq!(Ports::open(dir.path(), false).tcp("a", IP, 0)?, first);
        ends.join().expect("it only sleeps");
        Ok(())
    }
}
