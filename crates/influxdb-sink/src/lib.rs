//! Writes observations and replies to InfluxDB, or to a SQLite store of its own, one point per resource.
//!
//! ```text
//! iot.<gw>.observations, iot.<gw>.management.rep
//!   → measurement resources
//!     tags   ticket, observationId (observations only), serverId, ep, kind, path
//!     fields value (numbers, always as float), svalue (text, messages), bvalue
//!     time   the record's timestamp, in milliseconds
//! ```
//!
//! `kind` is the operation the record answers (`observe`, `read`, …): the record's `rep.kind`, not the kind of the
//! resource. Tags without a value are left out, as InfluxDB has no empty ones. A replay writes the same points again,
//! which changes nothing: a point is its series and its time.

pub mod embedded;
pub mod fuzz;
mod http;
mod kcql;
mod line;
mod point;
mod settings;
mod sink;
mod store;

use std::sync::Arc;

use anyhow::Context as _;
use connect::{ConnectArgs, Server};
use service::tls::{ClientFiles as _, Tls};
use service::{Context, Secret};

pub use sink::InfluxSink;

/// The options of the time-series sink.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The database, for connectors that name none: http://host:8086, or sqlite:<path> for the embedded store
    #[arg(long, env = "INFLUX_URL", value_name = "URL")]
    pub influx_url: Option<String>,
    /// The user, for connectors that name none
    #[arg(long, env = "INFLUX_USERNAME", value_name = "USER")]
    pub influx_username: Option<String>,
    /// The user's password, for connectors that name none
    #[arg(
        long,
        env = "INFLUX_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub influx_password: Option<Secret>,
    /// The token of the v2 API, for connectors that name none
    #[arg(
        long,
        env = "INFLUX_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub influx_token: Option<Secret>,
    #[command(flatten)]
    pub influx_tls: InfluxTlsArgs,
}

service::client_tls_args!(InfluxTlsArgs, "influx", "INFLUX", "InfluxDB");

/// Where this service's connectors are kept unless told otherwise.
const CONFIG_TOPIC: &str = "connect-influxdb-configs";

/// Binds the sink's REST: `address()` says where, `run` starts it.
///
/// # Errors
/// As [`Server::bind`].
pub async fn bind(args: &Args, context: &Context) -> anyhow::Result<Server> {
    let sink = InfluxSink::new(settings::Defaults {
        url: args.influx_url.clone(),
        username: args.influx_username.clone(),
        password: args.influx_password.clone(),
        token: args.influx_token.clone(),
        tls: Tls::open(args.influx_tls.tls_files()).context("TLS to InfluxDB")?,
    });
    Server::bind(&args.connect, CONFIG_TOPIC, vec![Arc::new(sink)], context).await
}

/// Runs the sink's connectors until the context's shutdown.
///
/// # Errors
/// When the REST can't listen, a connector file can't be used, or the Kafka settings are refused.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    bind(&args, &context).await?.run(context).await
}
