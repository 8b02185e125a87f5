//! A virtual sensor: an LwM2M device with two temperatures that registers, answers and notifies over UDP, with DTLS or without.

mod admin;
mod args;
mod security;
mod sensor;
mod series;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use lwm2m::client::{ClientConfig, Event, NotificationMode, Status};
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use service::{Backoff, Condition, Context};
use tokio::time::timeout;
use transport::{Batch, Link, UdpConfig, UdpTransport};

pub use args::{Args, BadPosition, BadServerAddress, Notifications, Position, ServerAddress};
pub use security::SecurityArgs;
pub use series::Kind;

use admin::Command;
use sensor::{Moment, Sensor, Settings};

/// How long the server has to answer the farewell.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a name server has to answer while the sensor is running.
const LOOKUP: Duration = Duration::from_secs(2);

/// Runs the sensor until it is told to stop; then it de-registers.
///
/// # Errors
/// When the local address can't be had, or the socket fails.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let (routes, mut commands) = admin::routes();
    context.admin_routes(routes);
    let metrics = Metrics::get();
    let registration = context.health.condition("registration");
    registration.fail("not registered yet");
    context.health.set_ready();

    let secure = args.security.config(&args.server.host)?;
    let place = Place {
        host: args.server.host.clone(),
        port: args.server.port(secure.is_some()),
    };
    let Some(server) = find(&place, &context).await else {
        return Ok(());
    };
    let any: IpAddr = if server.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let bind = args.bind.unwrap_or_else(|| SocketAddr::new(any, 0));
    // A device has one peer: the buffers of a server would be a waste.
    let config = UdpConfig {
        receive_buffer: 256 << 10,
        send_buffer: 256 << 10,
        port_setting: "--bind".to_owned(),
    };
    let udp = UdpTransport::bind(bind, &config)?;
    let link = match secure {
        None => Link::Plain(udp),
        Some(config) => {
            let client = dtls::Client::new(config, rand::random())
                .context("OpenSSL lacks a cipher that DTLS needs")?;
            Link::secure(udp, client, server)
        }
    };

    let settings = settings(&args);
    let endpoint = settings.client.endpoint.clone();
    let mut sensor = Sensor::new(settings, moment(), rand::random())
        .context("the sensor's objects don't fit their models")?;
    tracing::info!(%endpoint, %server, "registering");
    sensor.client.start(Instant::now(), link.peer(server));

    let mut device = Running {
        sensor,
        link,
        metrics,
        registration,
        server,
        lost: false,
    };
    let mut batch = Batch::default();
    loop {
        device.turn().await;
        if std::mem::take(&mut device.lost) {
            device.look_again(&place).await;
        }
        let deadline = device.sensor.next_timeout();
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            received = device.link.wait(&mut batch, Some(deadline)) => {
                received.context("the UDP socket failed")?;
                device.take_in(&batch);
            }
            Some(command) = commands.recv() => device.obey(command),
        }
    }
    device.leave(&mut batch).await;
    Ok(())
}

/// Where the server is to be found.
struct Place {
    host: String,
    port: u16,
}

struct Running {
    sensor: Sensor,
    link: Link,
    metrics: &'static Metrics,
    registration: Condition,
    server: SocketAddr,
    /// The server did not answer: it may have another address by now.
    lost: bool,
}

impl Running {
    /// Does what is due, acts on what happened, and sends.
    async fn turn(&mut self) {
        let now = moment();
        self.sensor.work(now);
        while let Some(event) = self.sensor.client.poll_event() {
            self.sensor.act(now, &event);
            self.report(&event);
        }
        let client = &mut self.sensor.client;
        let transmits = std::iter::from_fn(|| client.poll_transmit());
        let lost = self.link.send_all(transmits).await;
        if lost > 0 {
            tracing::debug!(datagrams = lost, "not sent; they are sent again");
        }
    }

    fn take_in(&mut self, batch: &Batch) {
        let now = Instant::now();
        let client = &mut self.sensor.client;
        self.link.take_in(now, batch, |peer, datagram| {
            client.handle_datagram(now, peer, datagram);
        });
    }

    fn obey(&mut self, command: Command) {
        let now = moment();
        // Who asked may have gone: then nobody waits for the answer.
        match command {
            Command::Get { path, reply } => {
                let _ = reply.send(self.sensor.get(&path));
            }
            Command::Set { path, text, reply } => {
                let _ = reply.send(self.sensor.set(now, &path, &text));
            }
            Command::Send { paths, reply } => {
                let _ = reply.send(self.sensor.send(now, &paths));
            }
            Command::Step { direction, reply } => {
                self.sensor.step(now, direction);
                let _ = reply.send(());
            }
        }
    }

    fn report(&mut self, event: &Event) {
        match event {
            Event::Registered { location } => {
                tracing::info!(%location, "registered");
                self.registration.ok();
                self.metrics.registered.set(1);
            }
            Event::Updated => tracing::debug!("registration updated"),
            Event::RegistrationFailed { reason, retry_in } => {
                tracing::warn!(%reason, retry_in_s = retry_in.as_secs_f64(), "not registered");
                self.registration.fail(reason.clone());
                self.metrics.registered.set(0);
                self.lost = !retry_in.is_zero();
            }
            Event::Deregistered => {
                self.registration.fail("de-registered");
                self.metrics.registered.set(0);
            }
            Event::Written { path } => tracing::info!(%path, "written"),
            Event::Executed { path, arguments } => tracing::info!(%path, arguments, "executed"),
            Event::Created { path } => tracing::info!(%path, "created"),
            Event::Deleted { path } => tracing::info!(%path, "deleted"),
            Event::Observed { target } => tracing::info!(%target, "observed"),
            Event::ObservationEnded { target } => tracing::info!(%target, "observed no more"),
            Event::Notified { target } => {
                tracing::debug!(%target, "notified");
                self.metrics.notifications.inc();
            }
            Event::SendAnswered { code, .. } => tracing::info!(%code, "sent"),
            Event::SendFailed { reason, .. } => tracing::warn!(%reason, "not sent"),
        }
    }

    /// A server in a container has another address after each start.
    async fn look_again(&mut self, place: &Place) {
        // A server that was restarted does not know the session.
        self.link.begin_anew(self.server);
        if place.host.parse::<IpAddr>().is_ok() {
            return;
        }
        if let Ok(Ok(found)) = timeout(LOOKUP, lookup(place)).await
            && found.is_ipv6() == self.server.is_ipv6()
            && found != self.server
        {
            tracing::info!(server = %found, "the server has another address");
            self.server = found;
            self.link.begin_anew(found);
            let peer = self.link.peer(found);
            self.sensor.client.start(Instant::now(), peer);
        }
    }

    /// De-registers, as far as the server answers in time.
    async fn leave(&mut self, batch: &mut Batch) {
        let end = Instant::now() + FAREWELL;
        self.sensor.client.deregister(Instant::now());
        self.turn().await;
        while self.sensor.client.status() != Status::Idle && Instant::now() < end {
            let deadline = self.sensor.next_timeout().min(end);
            if self.link.wait(batch, Some(deadline)).await.is_err() {
                return;
            }
            self.take_in(batch);
            self.turn().await;
        }
        self.link.close().await;
    }
}

fn settings(args: &Args) -> Settings {
    let endpoint = args.endpoint.clone().unwrap_or_else(random_uuid);
    let notifications = match args.notifications {
        Notifications::Con => NotificationMode::Confirmable,
        Notifications::Non => NotificationMode::NonConfirmable,
    };
    let host = &args.server.host;
    let secure = args.security.is_secure();
    let scheme = if secure { "coaps" } else { "coap" };
    let port = args.server.port(secure);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    Settings {
        client: ClientConfig {
            lifetime: args.lifetime(),
            version: args.lwm2m_version,
            binding: args.binding.clone(),
            awake_window: args.awake_window(),
            notifications,
            ..ClientConfig::new(endpoint)
        },
        server_uri: format!("{scheme}://{host}:{port}"),
        position: args.position.unwrap_or_else(|| Position {
            latitude: rand::random_range(-90.0..=90.0),
            longitude: rand::random_range(-180.0..=180.0),
        }),
        scale: args.scale_factor,
        interval: args.interval(),
        series: args.series,
        seed: args.seed.unwrap_or_else(rand::random),
    }
}

/// A random UUID (RFC 9562 section 5.4) without its dashes.
fn random_uuid() -> String {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let bits: u128 = rand::random();
    format!(
        "{:032x}",
        bits & !VERSION & !VARIANT | 0x4 << 76 | 0b10 << 62
    )
}

fn moment() -> Moment {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Moment {
        instant: Instant::now(),
        unix_s: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
    }
}

/// The server's address, as soon as its name is known; `None` when the service is told to stop before.
async fn find(server: &Place, context: &Context) -> Option<SocketAddr> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let error = tokio::select! {
            () = context.shutdown.cancelled() => return None,
            found = lookup(server) => match found {
                Ok(address) => return Some(address),
                Err(error) => error,
            },
        };
        let wait = backoff.wait();
        tracing::warn!(host = %server.host, %error, retry_in_s = wait.as_secs_f64(), "the server's name is not known (-u)");
        tokio::select! {
            () = context.shutdown.cancelled() => return None,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn lookup(server: &Place) -> std::io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((server.host.as_str(), server.port))
        .await?
        .collect();
    // A name with both kinds (localhost, mostly): servers listen on IPv4 more often.
    let first = addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first());
    first
        .copied()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"))
}

struct Metrics {
    notifications: IntCounter,
    registered: IntGauge,
}

impl Metrics {
    fn get() -> &'static Self {
        static METRICS: std::sync::LazyLock<Metrics> = std::sync::LazyLock::new(|| Metrics {
            notifications: register_int_counter!(
                "zeelos_notifications_sent_total",
                "Notifications sent to the server."
            )
            .expect("registered once, with a valid name"),
            registered: register_int_gauge!(
                "zeelos_device_registered",
                "1 while the server has the device's registration."
            )
            .expect("registered once, with a valid name"),
        });
        &METRICS
    }
}

#[cfg(test)]
mod tests;
