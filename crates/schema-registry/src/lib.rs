//! An embedded schema registry: Confluent's REST API, with its state in the compacted topic `_schemas`.
//!
//! The topic holds Confluent's own records, so that a registry of theirs can take over from ours and the other way
//! round. What is served is only what was read from the topic: a change is produced with acks=all, and answered when
//! the reader has read it back.
//!
//! Its scope: one registry writes to a topic. A second one on the same topic serves the same content and may write
//! as well; two that write in the same moment try again where they took the same id, but there is no leader among
//! them as there is in Confluent's, so one of two versions written to one subject in one moment may be lost.
//! Schema types other than Avro, contexts other than the default one, metadata and rule sets are refused when
//! registered; records of other types in the topic are served as they are.

mod avro;
mod error;
pub mod fuzz;
mod http;
mod json;
mod metrics;
mod plan;
mod record;
mod registry;
mod state;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kafka::{Cluster, KafkaTlsArgs};
use service::tls::ClientFiles as _;
use service::{CancellationToken, Context};
use tokio::task::JoinHandle;

use crate::http::Api;
use crate::registry::Operations;
use crate::store::Store;

/// The most connections at a time; more wait.
const CONNECTIONS: usize = 256;

/// The options of the schema registry.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where the REST API is served (port 0: any free one)
    #[arg(long, env = "SCHEMA_REGISTRY_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// The Kafka brokers to start from, `host:port[,…]`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVER", default_value = "127.0.0.1:9092")]
    pub kafka_bootstrap_server: String,
    /// A file of Kafka client properties (`key=value`), by Java's names or librdkafka's: TLS and whatever else
    #[arg(long, env = "KAFKA_SSL_PROPERTIES_LOCATION", value_name = "FILE")]
    pub kafka_ssl_properties_location: Option<PathBuf>,
    #[command(flatten)]
    pub tls: KafkaTlsArgs,
    /// The topic that holds the schemas; made, compacted, where it is missing
    #[arg(long, env = "SCHEMA_REGISTRY_TOPIC", default_value = "_schemas")]
    pub schemas_topic: String,
    /// How long a change may take before the client is told that it failed, in seconds (1 to 300)
    #[arg(
        long,
        env = "SCHEMA_REGISTRY_WRITE_TIMEOUT_S",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=300)
    )]
    pub write_timeout_s: u64,
}

impl Args {
    /// The defaults, for a given broker and any free port: for tests and programs that embed a registry.
    pub fn on_free_port(kafka_bootstrap_server: &str) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            kafka_bootstrap_server: kafka_bootstrap_server.to_owned(),
            kafka_ssl_properties_location: None,
            tls: KafkaTlsArgs::default(),
            schemas_topic: "_schemas".to_owned(),
            write_timeout_s: 10,
        }
    }
}

/// Runs a registry until told to stop.
///
/// # Errors
/// When its settings can't be used or its port is taken. Kafka being away is no error: it is waited for.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let shutdown = context.shutdown.clone();
    let registry = Registry::start(args, context).await?;
    shutdown.cancelled().await;
    registry.stop().await
}

/// A running registry.
pub struct Registry {
    address: SocketAddr,
    scheme: &'static str,
    store: Arc<Store>,
    shutdown: CancellationToken,
    reader: JoinHandle<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Registry {
    /// Starts a registry; it listens when this returns, and answers 503 until [`Registry::loaded`].
    ///
    /// # Errors
    /// When its settings can't be used or its port is taken.
    pub async fn start(args: Args, context: Context) -> anyhow::Result<Self> {
        metrics::touch();
        let timeout = Duration::from_secs(args.write_timeout_s);
        let cluster = Cluster::with_tls(
            &args.kafka_bootstrap_server,
            args.kafka_ssl_properties_location.as_deref(),
            args.tls.tls_files(),
        )?;
        let condition = context.health.condition("kafka");
        condition.fail(format!(
            "topic '{}' at {} is not read yet",
            args.schemas_topic, args.kafka_bootstrap_server
        ));
        context.health.set_ready();
        let store = Arc::new(Store::new(
            cluster.clone(),
            args.schemas_topic.clone(),
            timeout,
            condition,
        )?);
        let listener = context.listen(args.listen, "--listen", CONNECTIONS).await?;
        let (address, scheme) = (listener.address(), listener.scheme());
        let router = http::router(Arc::new(Api {
            operations: Operations::new(Arc::clone(&store), timeout),
            cluster,
            cluster_id: tokio::sync::OnceCell::new(),
        }));
        let shutdown = context.shutdown.child_token();
        let reader = tokio::spawn({
            let (store, shutdown) = (Arc::clone(&store), shutdown.clone());
            async move { store.follow(shutdown).await }
        });
        let stopped = shutdown.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        });
        tracing::info!(%address, topic = args.schemas_topic, kafka = args.kafka_bootstrap_server, "listening");
        Ok(Self {
            address,
            scheme,
            store,
            shutdown,
            reader,
            server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Waits until the topic was read to its end.
    pub async fn loaded(&self) {
        self.store.loaded().await;
    }

    /// Records of the topic that were skipped, because they are not ours or can't be used.
    pub fn skipped_records(&self) -> u64 {
        self.store.skipped()
    }

    /// Stops it: requests that were begun are answered first, for at most 10 s.
    ///
    /// # Errors
    /// When the listener had failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let mut server = self.server;
        // Clients keep idle connections open; they are not waited for.
        match tokio::time::timeout(Duration::from_secs(10), &mut server).await {
            Ok(ended) => ended?.context("the listener failed")?,
            Err(_) => server.abort(),
        }
        self.reader.await.context("the topic's reader failed")
    }
}
