//! Shows a cluster's brokers, topics' offsets and consumer groups' lags as metrics, by the names of kafka_exporter, so
//! that dashboards made for it go on working.
//!
//! | metric | labels |
//! |---|---|
//! | `kafka_brokers` | – |
//! | `kafka_broker_info` | id, address |
//! | `kafka_topic_partitions` | topic |
//! | `kafka_topic_partition_current_offset`, `…_oldest_offset` | topic, partition |
//! | `kafka_topic_partition_leader`, `…_replicas`, `…_in_sync_replica`, `…_under_replicated_partition` | topic, partition |
//! | `kafka_consumergroup_members` | consumergroup |
//! | `kafka_consumergroup_current_offset`, `kafka_consumergroup_lag` | consumergroup, topic, partition |
//! | `kafka_consumergroup_current_offset_sum`, `kafka_consumergroup_lag_sum` | consumergroup, topic |
//!
//! Beyond those of kafka_exporter:
//!
//! | metric | labels |
//! |---|---|
//! | `kafka_consumergroup_lag_seconds`: for how long the oldest waiting record has been there, since the exporter's start at most | consumergroup, topic |
//! | `zeelos_mirror_target_lag_records`, `zeelos_mirror_target_lag_seconds`: what an exactly-once mirror had still to carry to this cluster when it last wrote its offsets here, and how old that is | flow, topic |
//!
//! The cluster is asked every `--interval-s`; a scrape is answered from the last answers, and with 503 once they are three
//! intervals old, so that an outage shows as one and not as values that stand still.

mod collect;
mod mirrors;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use kafka::{Cluster, KafkaTlsArgs};
use prometheus::TextEncoder;
use service::Context;
use service::tls::{ClientFiles as _, Listener};
use tokio::sync::RwLock;

use crate::collect::Collector;

/// The options of the exporter.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where `/metrics` is served (port 0: any free one)
    #[arg(long, env = "KAFKA_EXPORTER_LISTEN", default_value = "127.0.0.1:9308")]
    pub listen: SocketAddr,
    /// The Kafka brokers to start from, `host:port[,…]`
    #[arg(
        long,
        visible_alias = "bootstrap-server",
        env = "KAFKA_BOOTSTRAP_SERVER",
        default_value = "127.0.0.1:9092"
    )]
    pub kafka_bootstrap_server: String,
    /// A file of Kafka client properties (`key=value`), by Java's names or librdkafka's: TLS and whatever else
    #[arg(
        long,
        alias = "command-config",
        env = "KAFKA_SSL_PROPERTIES_LOCATION",
        value_name = "FILE"
    )]
    pub kafka_ssl_properties_location: Option<PathBuf>,
    #[command(flatten)]
    pub tls: KafkaTlsArgs,
    /// How often the cluster is asked, in seconds
    #[arg(long, env = "KAFKA_EXPORTER_INTERVAL_S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval_s: u64,
}

/// The most scrapes at a time.
const CONNECTIONS: usize = 32;
/// Answers older than so many intervals are none.
const STALE_INTERVALS: u32 = 3;

struct Shown {
    text: RwLock<Option<(Instant, String)>>,
    stale: Duration,
}

/// An exporter whose listener is bound.
pub struct Exporter {
    listener: Listener,
    cluster: Cluster,
    interval: Duration,
}

/// Binds the exporter: `address()` says where, `run` starts it.
///
/// # Errors
/// When the port is taken, or the Kafka settings can't be used.
pub async fn bind(args: &Args, context: &Context) -> anyhow::Result<Exporter> {
    let cluster = Cluster::with_tls(
        &args.kafka_bootstrap_server,
        args.kafka_ssl_properties_location.as_deref(),
        args.tls.tls_files(),
    )?;
    let listener = context.listen(args.listen, "--listen", CONNECTIONS).await?;
    Ok(Exporter {
        listener,
        cluster,
        interval: Duration::from_secs(args.interval_s),
    })
}

/// Runs the exporter until it is told to stop.
///
/// # Errors
/// As [`bind`], or when the listener fails.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    bind(&args, &context).await?.run(context).await
}

impl Exporter {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Asks and serves until the context's shutdown.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, context: Context) -> anyhow::Result<()> {
        let shown = Arc::new(Shown {
            text: RwLock::default(),
            stale: self.interval * STALE_INTERVALS,
        });
        tracing::info!(address = %self.address(), kafka = self.cluster.bootstrap(), "listening");
        let app = Router::new()
            .route("/metrics", get(metrics))
            .with_state(Arc::clone(&shown));
        let serving = axum::serve(self.listener, app)
            .with_graceful_shutdown(context.shutdown.clone().cancelled_owned());
        let asking = ask(self.cluster, self.interval, &shown, &context);
        tokio::select! {
            served = async { serving.await } => served.map_err(Into::into),
            () = asking => Ok(()),
        }
    }
}

async fn ask(cluster: Cluster, interval: Duration, shown: &Shown, context: &Context) {
    let condition = context.health.condition("kafka");
    condition.fail("the cluster was not asked yet");
    context.health.set_ready();
    let mut kept: Option<(Option<u64>, Collector)> = None;
    while !context.shutdown.is_cancelled() {
        let generation = cluster.generation();
        // With new clients once certificates are renewed, and after an error.
        let (settings, before) = (cluster.clone(), kept.take());
        let round = tokio::task::spawn_blocking(move || {
            let mut collector = match before {
                Some((made, collector)) if made == Some(generation) => collector,
                Some((_, collector)) => collector.renewed()?,
                None => Collector::new(&settings)?,
            };
            let collected = collector.collect();
            anyhow::Ok((collector, collected))
        });
        let outcome = match round.await {
            Ok(outcome) => outcome,
            Err(broken) => Err(broken.into()),
        };
        let text = outcome.and_then(|(collector, collected)| {
            let made = collected.is_ok().then_some(generation);
            kept = Some((made, collector));
            Ok(TextEncoder::new().encode_to_string(&collected?)?)
        });
        match text {
            Ok(text) => {
                *shown.text.write().await = Some((Instant::now(), text));
                condition.ok();
            }
            Err(error) => condition.fail(cluster.explain(format!("{error:#}")).await),
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = context.shutdown.cancelled() => {}
        }
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    match &*shown.text.read().await {
        Some((at, text)) if at.elapsed() <= shown.stale => (
            [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
            text.clone(),
        )
            .into_response(),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the Kafka cluster does not answer; /readyz of the admin listener says why\n",
        )
            .into_response(),
    }
}
