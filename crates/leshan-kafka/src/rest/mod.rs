//! The REST interface, server-sent events and the page, as today's Leshan tools and those of 2018 expect them.
//!
//! The calls stand in the OpenAPI document ([`openapi`], served at `/api/openapi.json`), which a test holds against
//! [`routes`] and the recorded answers; what is not as with Leshan, and why, stands in `docs/rest.md`.
//!
//! A device's answer is 200 with its code inside, failures too. What never became an answer is text: 400 for what is
//! wrong about the request, 504 for a device that did not answer, 500 for an answer that can't be used, 503 where too
//! much waits for the device already, 409 where it has as many observations as it may.
//!
//! Bounds: bodies have 1 MiB at most, 16 KiB where nobody has to log in (413), 20 s to come in (408), and 16 MiB
//! together ([`limits`]); 512 connections, more wait to be accepted, and one that does nothing or does not read its
//! answer ends ([`service::tls::Listener`]); 256 watchers ([`events`]).

mod body;
mod clients;
mod coap_log;
mod composite;
mod device;
mod events;
mod kept;
mod last_values;
mod limits;
mod onlook;
mod openapi;
mod page;
mod queue;
mod refused;
mod request;
mod routes;
mod security;
mod shape;
mod specs;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use service::CancellationToken;
use service::auth::{Gate, Protection};
use service::tls::{Listener, Peer};

use crate::credentials::{Credentials, ServerKey};
use crate::engine::Engine;
use events::Events;
use last_values::Values;
use queue::Delayed;
use refused::Refused;

pub(crate) use onlook::Shown;

/// The most connections at one time; more wait to be accepted.
pub(crate) const CONNECTIONS: usize = 512;
/// How long requests on their way may take to finish once the server is stopping.
const DRAIN: Duration = Duration::from_secs(5);

/// What the interface is made of.
pub(crate) struct Interface {
    pub(crate) listener: Listener,
    /// Who may come in.
    pub(crate) gate: Gate,
    /// Where devices come to.
    pub(crate) endpoints: Vec<DeviceEndpoint>,
    pub(crate) credentials: Credentials,
    /// What the server shows devices that come over DTLS; `None` where it has no key of its own.
    pub(crate) server_key: Option<ServerKey>,
    pub(crate) engine: Engine,
    /// What the engine shows of values.
    pub(crate) shown: Shown,
    /// Where calls are kept that wait for sleeping devices.
    pub(crate) queue: PathBuf,
}

/// An address that devices come to.
#[derive(Clone, Debug)]
pub(crate) struct DeviceEndpoint {
    /// `coap` or `coaps`.
    scheme: &'static str,
    address: SocketAddr,
    /// For people.
    description: &'static str,
}

impl DeviceEndpoint {
    pub(crate) fn coap(address: SocketAddr) -> Self {
        Self {
            scheme: "coap",
            address,
            description: "CoAP over UDP",
        }
    }

    pub(crate) fn coaps(address: SocketAddr) -> Self {
        Self {
            scheme: "coaps",
            address,
            description: "CoAP over DTLS",
        }
    }
}

/// What the handlers share.
struct Web {
    engine: Engine,
    values: Arc<Values>,
    events: Arc<Events>,
    delayed: Delayed,
    endpoints: Vec<DeviceEndpoint>,
    credentials: Credentials,
    server_key: Option<ServerKey>,
    gate: Gate,
    shutdown: CancellationToken,
}

/// Serves until told to stop.
pub(crate) async fn serve(interface: Interface, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Interface {
        listener,
        gate,
        endpoints,
        credentials,
        server_key,
        engine,
        shown,
        queue,
    } = interface;
    let delayed = Delayed::open(&queue)?;
    let protection = Protection::new(&listener, routes::policy, routes::refuse);
    let web = Arc::new(Web {
        engine,
        values: shown.values,
        events: shown.events,
        delayed,
        endpoints,
        credentials,
        server_key,
        gate: gate.clone(),
        shutdown: shutdown.clone(),
    });
    let app = routes::app(&web, &gate, protection).into_make_service_with_connect_info::<Peer>();
    let serving = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served?,
        // Somebody who does not read an answer must not keep the server from stopping.
        () = drained => {}
        () = events::follow(&web) => {}
        // It ends with the drain at the latest.
        () = follow_users(&gate, &shutdown) => {}
    }
    Ok(())
}

async fn follow_users(gate: &Gate, shutdown: &CancellationToken) {
    gate.follow(shutdown.clone()).await;
    std::future::pending().await
}
