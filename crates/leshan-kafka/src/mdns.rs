//! Says on the local network where the server is: DNS-SD over multicast DNS (RFC 6763, RFC 6762).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};

/// What is announced, and where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Such as `_coap._udp`.
    pub(crate) kind: &'static str,
    pub(crate) at: SocketAddr,
    /// Text records (RFC 6763 section 6).
    pub(crate) properties: Vec<(&'static str, &'static str)>,
}

impl Service {
    /// The page and the REST interface.
    pub(crate) fn http(at: SocketAddr) -> Self {
        Self {
            kind: "_http._tcp",
            at,
            properties: vec![("path", "/")],
        }
    }

    /// Where devices come to.
    pub(crate) fn coap(at: SocketAddr) -> Self {
        Self {
            kind: "_coap._udp",
            at,
            properties: vec![("rt", "core.rd"), ("path", "/rd")],
        }
    }

    /// The same with DTLS.
    pub(crate) fn coaps(at: SocketAddr) -> Self {
        Self {
            kind: "_coaps._udp",
            ..Self::coap(at)
        }
    }
}

/// Announces services as long as it is kept.
pub(crate) struct Announcement {
    daemon: ServiceDaemon,
    names: Vec<String>,
}

/// How long taking an announcement back may take.
const FAREWELL: Duration = Duration::from_secs(1);

impl Announcement {
    /// `name`: how the services are called, the same for all.
    pub(crate) fn begin(name: &str, services: &[Service]) -> anyhow::Result<Self> {
        let daemon = ServiceDaemon::new().context("multicast DNS (--mdns)")?;
        if services.iter().any(|service| service.at.ip().is_loopback()) {
            // Not among the usual ones: what listens there only is found from there only.
            daemon.enable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        }
        let host = format!("{}.local.", host_label(name));
        let mut names = Vec::new();
        for service in services {
            let info = info(service, name, &host)
                .with_context(|| format!("can't announce {} (--mdns)", service.kind))?;
            names.push(info.get_fullname().to_owned());
            tracing::info!(
                service = info.get_fullname(),
                port = service.at.port(),
                "announced"
            );
            daemon.register(info)?;
        }
        Ok(Self { daemon, names })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // A farewell is a courtesy: what is announced is forgotten in two minutes anyway.
        for name in &self.names {
            if let Ok(done) = self.daemon.unregister(name) {
                let _ = done.recv_timeout(FAREWELL);
            }
        }
        let _ = self.daemon.shutdown();
    }
}

fn info(service: &Service, name: &str, host: &str) -> mdns_sd::Result<ServiceInfo> {
    let kind = format!("{}.local.", service.kind);
    let properties: HashMap<String, String> = service
        .properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let (ip, port) = (service.at.ip(), service.at.port());
    if ip.is_unspecified() {
        // Every address this machine has, also those it gets later.
        return Ok(ServiceInfo::new(&kind, name, host, "", port, properties)?.enable_addr_auto());
    }
    ServiceInfo::new(&kind, name, host, ip, port, properties)
}

/// A name as a DNS label: letters, digits and hyphens, 63 bytes at most (RFC 1035 section 2.3.1).
fn host_label(name: &str) -> String {
    let label: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "lwm2m-server".to_owned()
    } else {
        label.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceEvent;

    use super::*;

    #[test]
    fn what_is_announced_is_found_with_its_port() {
        // A name of its own: others on this network may announce too.
        let name = format!("gw_{:08x}", rand::random::<u32>());
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let services = [
            Service::http(local(18_080)),
            Service::coap(local(15_683)),
            Service::coaps(local(15_684)),
        ];
        let announcement = Announcement::begin(&name, &services).unwrap();
        let browser = ServiceDaemon::new().unwrap();
        browser
            .enable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])
            .unwrap();
        for service in services {
            let events = browser.browse(&format!("{}.local.", service.kind)).unwrap();
            let found = loop {
                match events.recv_timeout(Duration::from_secs(20)).unwrap() {
                    ServiceEvent::ServiceResolved(found) if found.fullname.starts_with(&name) => {
                        break found;
                    }
                    _ => {}
                }
            };
            assert_eq!(found.port, service.at.port());
        }
        drop(announcement);
        browser.shutdown().unwrap();
    }

    #[test]
    fn a_name_becomes_a_label() {
        assert_eq!(host_label("rock_64"), "rock-64");
        assert_eq!(host_label("__"), "lwm2m-server");
        assert!(host_label(&"x".repeat(200)).len() <= 63);
    }
}
