//! The LwM2M server of a gateway: devices on one side, Kafka on the other, a store that survives in the middle.

mod args;
mod bridge;
mod engine;
mod models;
mod rest;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kafka::{ConsumeSettings, DeadLetters, Producer, ProducerSettings, await_cluster_id};
use lwm2m::server::{Server, ServerConfig};
use service::{CancellationToken, Context};
use tokio::sync::mpsc;
use transport::{UdpConfig, UdpTransport};

pub use args::Args;

use bridge::{Progress, Publisher, RequestIntake};
use engine::{Engine, EngineLoop, Parts};
use store::Store;

/// The most records between the engine and the producer.
const HANDED: usize = 8_192;

/// How long acknowledgements are awaited once the engine has to stop. What has none by then is in the store, or its
/// device was not told that it is safe: either way it is produced later.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(3);

/// Runs the server until it is told to stop.
///
/// # Errors
/// When a port is taken, the store can't be used, or the producer can't go on.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("can't make the data folder {}", args.data_dir.display()))?;
    let store = Store::open(&args.data_dir.join("server.db"))?;
    let models = Arc::new(models::load(&args.models_folder)?);
    let udp = UdpConfig {
        port_setting: "--coap-listen".to_owned(),
        ..UdpConfig::default()
    };
    let transport = UdpTransport::bind(args.coap_address(), &udp).context("CoAP")?;
    let web = service::admin::bind(args.web_address(), "--web-listen").await?;
    let (coap_at, web_at) = (transport.local_addr()?, web.local_addr()?);

    let topics = args.topics();
    let cluster = args.kafka.cluster()?;
    let registry = args.kafka.registry()?;
    let producer = Producer::new(
        &cluster,
        &ProducerSettings {
            compression: args.kafka_producer_compression_type.clone(),
            batch_bytes: args.kafka_producer_batch_size,
            linger: Duration::from_millis(args.kafka_producer_linger_ms),
            ..ProducerSettings::default()
        },
    )?;
    let progress = Progress::default();
    let (handed, to_produce) = mpsc::channel(HANDED);
    let (acknowledged, published) = mpsc::channel(HANDED);
    let publisher = Publisher::new(
        producer.clone(),
        registry.clone(),
        topics.clone(),
        progress.clone(),
        context.health.condition("producer"),
    );
    let (engine, inbox) = Engine::channel(Arc::clone(&models));
    let engine_loop = EngineLoop::new(Parts {
        server_id: args.server_id.clone(),
        server: Server::new(ServerConfig::default(), models, rand::random()),
        transport,
        store,
        inbox,
        handed,
        published,
        progress,
        duplicate_window: Duration::from_secs(args.duplicate_window_s),
        spool_bytes: args.spool_mb.saturating_mul(1024 * 1024),
    })?;
    tracing::info!(coap = %coap_at, web = %web_at, server_id = args.server_id, "listening");
    context.health.set_ready();

    // Requests stop first, so that none is accepted that nobody runs; the publisher ends when the engine has.
    let engine_stop = CancellationToken::new();
    let intake = async {
        let condition = context.health.condition("requests");
        let Some(cluster_id) = await_cluster_id(&cluster, &condition, &context.shutdown).await
        else {
            return Ok(());
        };
        let mut intake = RequestIntake::new(
            engine.clone(),
            registry.clone(),
            DeadLetters::new(producer.clone()),
            cluster_id,
            args.request_timeout(),
        );
        let mut settings =
            ConsumeSettings::new(&args.server_id, vec![topics.management_req.clone()]);
        // Commands are few and somebody waits for each.
        settings.batch_wait = Duration::from_millis(1);
        kafka::consume(
            &cluster,
            &settings,
            &mut intake,
            &condition,
            &context.shutdown,
        )
        .await
    };
    let serving = rest::serve((web, coap_at), engine.clone(), context.shutdown.clone());
    let outside = async {
        // One that can't go on ends the other: a server that takes no requests any more must not seem to run.
        let (intake, serving) = tokio::join!(
            ending_all(intake, &context.shutdown),
            ending_all(serving, &context.shutdown)
        );
        engine_stop.cancel();
        intake.and(serving)
    };
    let engine_running = async {
        let ended = engine_loop.run(engine_stop.clone()).await;
        // Without the engine nothing else is of use.
        context.shutdown.cancel();
        ended.context("the server's loop ended")
    };
    let publishing = async {
        let ended = tokio::select! {
            ended = publisher.run(to_produce, acknowledged) => ended,
            () = too_late(&engine_stop) => {
                tracing::warn!("Kafka did not acknowledge the last records in time; they are produced after the next start");
                Ok(())
            }
        };
        if ended.is_err() {
            context.shutdown.cancel();
        }
        ended.context("producing to Kafka ended")
    };
    let (outside, engine_running, publishing) = tokio::join!(outside, engine_running, publishing);
    engine_running.and(publishing).and(outside)
}

/// Whatever ends first, by itself or because it was told to, tells the others.
async fn ending_all(
    part: impl Future<Output = anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let ended = part.await;
    shutdown.cancel();
    ended
}

async fn too_late(engine_stop: &CancellationToken) {
    engine_stop.cancelled().await;
    tokio::time::sleep(LAST_ACKNOWLEDGEMENTS).await;
}
