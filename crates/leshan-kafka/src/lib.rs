//! The LwM2M server of a gateway: devices on one side, Kafka on the other, a store that survives in the middle.

mod args;
mod bridge;
mod credentials;
mod engine;
mod mdns;
mod models;
mod private_file;
mod rest;
mod security;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kafka::{Cluster, ConsumeSettings, ProducerSettings, SchemaRegistry, await_cluster_id};
use lwm2m::server::{Server, ServerConfig};
use service::{CancellationToken, Condition, Context};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use transport::{UdpConfig, UdpTransport};

pub use args::Args;

use bridge::{ReplyPublisher, ReplySettings, RequestIntake, learn_ids};
use engine::{
    Doors, Engine, EngineLoop, JournalSettings, LaneSetup, Parts, ProducerMaker, TopicIds,
};
use mdns::{Announcement, Service};
use rest::DeviceEndpoint;
use store::{OutgoingKind, Store};

/// The most replies between the engine and their publisher.
const HANDED: usize = 1_024;

/// How long the last replies may take once the engine has to stop.
const LAST_REPLIES: Duration = Duration::from_secs(3);

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
    let transport = match args.security.nosec {
        true => Some(UdpTransport::bind(args.coap_address(), &udp).context("CoAP")?),
        false => None,
    };
    let coap_at = transport
        .as_ref()
        .map(UdpTransport::local_addr)
        .transpose()?;
    let security = args
        .security
        .open(&args.data_dir, coap_at.unwrap_or(args.coap_address()))?;
    let (secure_door, coaps_at) = security.door.unzip();
    let doors = Doors::new(transport, secure_door, security.credentials.clone());
    let (admission, sessions) = (security.admission, security.sessions);
    let gate = args.auth.gate(args.web_address(), "--web-listen")?;
    let web = context
        .listen(args.web_address(), "--web-listen", rest::CONNECTIONS)
        .await?;
    let web_at = web.address();

    let topics = args.topics();
    let cluster = args.kafka.cluster()?;
    let registry = args.kafka.registry()?;
    let producer = ProducerSettings {
        compression: args.kafka_producer_compression_type.clone(),
        batch_bytes: args.kafka_producer_batch_size,
        linger: Duration::from_millis(args.kafka_producer_linger_ms),
        ..ProducerSettings::default()
    };
    let (replies, handed) = mpsc::channel(HANDED);
    let (done, replies_done) = mpsc::channel(HANDED);
    let (learned, told) = mpsc::channel(3);
    let (reply_ids, reply_ids_told) = oneshot::channel();
    let publisher = ReplyPublisher::new(ReplySettings {
        cluster: cluster.clone(),
        producer: producer.clone(),
        topic: topics.management_rep.clone(),
        transactional_id: format!("leshan-server-kafka-{}-replies", args.server_id),
        known: store.replies_known(&topics.management_rep)?,
        left: store.replies_left()?,
        condition: context.health.condition("replies"),
    });
    let (engine, inbox) = Engine::channel(Arc::clone(&models));
    let shown = rest::Shown::default();
    let config = ServerConfig {
        awake_window: Duration::from_secs(args.awake_window_s),
        ..ServerConfig::default()
    };
    let (all_ids, ids) = mpsc::channel(3);
    let lane = |topic: &str, name| LaneSetup {
        topic: topic.to_owned(),
        condition: context.health.condition(name),
    };
    let usual_window = config.awake_window;
    let mut server = Server::new(config, models, rand::random());
    server.set_admission(move |peer, endpoint| match peer.session {
        0 => admission.admits(None, endpoint),
        _ => sessions
            .identity(peer)
            .is_some_and(|identity| admission.admits(Some(&identity), endpoint)),
    });
    let engine_loop = EngineLoop::new(Parts {
        server_id: args.server_id.clone(),
        usual_window,
        server,
        doors,
        store,
        inbox,
        onlooker: Arc::new(shown.clone()),
        producer: ProducerMaker {
            cluster: cluster.clone(),
            settings: producer.clone(),
        },
        lanes: [
            lane(&topics.registrations, "registrations"),
            lane(&topics.observations, "observations"),
        ],
        ids,
        replies,
        replies_done,
        journal: JournalSettings {
            duplicate_window: Duration::from_secs(args.duplicate_window_s),
            timeout: args.request_timeout(),
            sleeper_timeout: Duration::from_secs(args.sleeper_request_timeout_s),
        },
        spool_bytes: args.spool_mb.saturating_mul(1024 * 1024),
    })?;
    tracing::info!(coap = ?coap_at, coaps = ?coaps_at, web = %web_at, server_id = args.server_id, "listening");
    let services: Vec<Service> = [
        Some(Service::http(web_at)),
        coap_at.map(Service::coap),
        coaps_at.map(Service::coaps),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Taken back when the service ends.
    let _announced = match args.mdns {
        true => Some(Announcement::begin(&args.server_id, &services)?),
        false => None,
    };
    context.health.set_ready();

    // Requests stop first, so that none is accepted that nobody runs; the publisher ends when the engine has.
    let engine_stop = CancellationToken::new();
    let intake = take_requests(Requests {
        engine: engine.clone(),
        registry: registry.clone(),
        cluster: cluster.clone(),
        producer,
        server_id: args.server_id.clone(),
        topic: topics.management_req.clone(),
        condition: context.health.condition("requests"),
        shutdown: context.shutdown.clone(),
    });
    let interface = rest::Interface {
        listener: web,
        gate,
        endpoints: [
            coap_at.map(DeviceEndpoint::coap),
            coaps_at.map(DeviceEndpoint::coaps),
        ]
        .into_iter()
        .flatten()
        .collect(),
        credentials: security.credentials,
        server_key: security.server_key,
        engine: engine.clone(),
        shown,
        queue: args.data_dir.join("rest-queue.db"),
    };
    let serving = rest::serve(interface, context.shutdown.clone());
    let outside = async {
        // One that can't go on ends the other: a server that takes no requests any more must not seem to run.
        let (intake, serving) = tokio::join!(
            ending_all(intake, &context.shutdown),
            ending_all(serving, &context.shutdown)
        );
        engine_stop.cancel();
        intake.and(serving)
    };
    // A task of its own, so that what wakes it does not poll all the others; it ends with this future.
    let mut engine_task = JoinSet::new();
    engine_task.spawn(engine_loop.run(engine_stop.clone()));
    let engine_running = async {
        let ended = match engine_task.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(panicked)) => Err(panicked.into()),
            None => Ok(()),
        };
        // Without the engine nothing else is of use.
        context.shutdown.cancel();
        ended.context("the server's loop ended")
    };
    let learning = learn_ids(
        registry.clone(),
        topics.clone(),
        context.health.condition("registry"),
        learned,
    );
    // Ends with the engine, which holds the other ends of the channels.
    let publishing = async {
        tokio::select! {
            () = publisher.run(handed, reply_ids_told, done) => {}
            () = too_late(&engine_stop) => {}
        }
    };
    let passing_on = pass_on(told, all_ids, reply_ids);
    let learning = async {
        tokio::select! {
            ((), ()) = async { tokio::join!(learning, passing_on) } => {}
            () = engine_stop.cancelled() => {}
        }
    };
    let (outside, engine_running, (), ()) =
        tokio::join!(outside, engine_running, publishing, learning);
    engine_running.and(outside)
}

/// What taking requests from Kafka needs. Its own, since a borrowed one would keep the service from being a task.
struct Requests {
    engine: Engine,
    registry: SchemaRegistry,
    cluster: Cluster,
    producer: ProducerSettings,
    server_id: String,
    topic: String,
    condition: Condition,
    shutdown: CancellationToken,
}

async fn take_requests(requests: Requests) -> anyhow::Result<()> {
    let Requests {
        engine,
        registry,
        cluster,
        producer,
        server_id,
        topic,
        condition,
        shutdown,
    } = requests;
    let Some(cluster_id) = await_cluster_id(&cluster, &condition, &shutdown).await else {
        return Ok(());
    };
    let for_intake = (cluster.clone(), producer);
    let mut intake = RequestIntake::new(engine, registry, for_intake, cluster_id);
    let mut settings = ConsumeSettings::new(&server_id, vec![topic]);
    // Commands are few and somebody waits for each.
    settings.batch_wait = Duration::from_millis(1);
    // A server that was killed has its partitions again at once, and not when its session is over.
    let instance = format!("{server_id}-requests");
    settings
        .properties
        .push(("group.instance.id".to_owned(), instance));
    kafka::consume(&cluster, &settings, &mut intake, &condition, &shutdown)
        .await
        .context("no more requests can be taken (has another server this server's id?)")
}

/// The ids of the topics' schemas go where they are used.
async fn pass_on(
    mut told: mpsc::Receiver<(OutgoingKind, TopicIds)>,
    engine: mpsc::Sender<(OutgoingKind, TopicIds)>,
    replies: oneshot::Sender<TopicIds>,
) {
    let mut replies = Some(replies);
    while let Some((kind, ids)) = told.recv().await {
        // Who does not listen any more has ended, and with it the service.
        if kind == OutgoingKind::Reply {
            if let Some(replies) = replies.take() {
                let _ = replies.send(ids);
            }
        } else {
            let _ = engine.send((kind, ids)).await;
        }
    }
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

/// The publisher of replies may be waiting for Kafka: they are in the store.
async fn too_late(engine_stop: &CancellationToken) {
    engine_stop.cancelled().await;
    tokio::time::sleep(LAST_REPLIES).await;
}
