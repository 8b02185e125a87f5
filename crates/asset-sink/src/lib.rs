//! Keeps the graph of servers, endpoints, objects and resources in step with the registrations.
//!
//! ```text
//! iot.<gw>.registrations → Servers -hasEndpoint→ Endpoints -hasObject{instance}→ Objects -hasResource→ Resources
//! ```
//!
//! A registration replaces the endpoint of its server and name, an update sets what came, a de-registration leaves the
//! vertex with `online` false. An endpoint's events of one batch are folded into one change, which is written in one
//! transaction with its edges, so that a replay from any registration on leads to the same graph. Objects and resources
//! come from the models ([`load_models`]); a task that starts loads those of OMA's registry that are missing.
//!
//! Besides the original's properties, `Endpoints` have `serverId` and `Resources` have `objectId`: what their unique
//! indexes stand on.

mod change;
pub mod embedded;
mod graph;
mod models;
mod orient;
mod settings;
mod sink;
mod sqlite;

use std::sync::Arc;

use anyhow::Context as _;
use connect::{ConnectArgs, Server};
use lwm2m_model::Registry;
use service::tls::{ClientFiles as _, Tls};
use service::{Context, Secret};

pub use graph::GraphError;
pub use models::Loaded;
pub use settings::{Target, TargetError};
pub use sink::AssetSink;

/// The options of the asset sink.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The graph, for connectors that name none: remote:host/db, http://host:2480/db, or sqlite:<path>
    #[arg(long, env = "GRAPH_URL", value_name = "URL")]
    pub graph_url: Option<String>,
    /// The user, for connectors that name none
    #[arg(long, env = "GRAPH_USER", value_name = "USER")]
    pub graph_user: Option<String>,
    /// The user's password, for connectors that name none
    #[arg(
        long,
        env = "GRAPH_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub graph_password: Option<Secret>,
    #[command(flatten)]
    pub graph_tls: GraphTlsArgs,
}

service::client_tls_args!(GraphTlsArgs, "graph", "GRAPH", "OrientDB");

/// Where this service's connectors are kept unless told otherwise.
const CONFIG_TOPIC: &str = "connect-leshan-asset-configs";

/// Binds the sink's REST: `address()` says where, `run` starts it.
///
/// # Errors
/// As [`Server::bind`].
pub async fn bind(args: &Args, context: &Context) -> anyhow::Result<Server> {
    let sink = AssetSink::new(settings::Defaults {
        url: args.graph_url.clone(),
        user: args.graph_user.clone(),
        password: args.graph_password.clone(),
        tls: Tls::open(args.graph_tls.tls_files()).context("TLS to OrientDB")?,
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

/// Loads a registry's objects and resources into a graph, in their highest versions; what is there is brought up to
/// date, what is not in the registry stays. Makes the graph's classes or tables where they are missing.
///
/// # Errors
/// When the graph is away or refuses.
pub async fn load_models(target: &Target, registry: &Registry) -> Result<Loaded, GraphError> {
    let graph = graph::Graph::open(target).await?;
    models::load(&graph, registry, |_| true).await
}
