use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use clap::Args;
use kafka::{Cluster, DeadLetters, KafkaArgs, Producer, ProducerSettings};
use parking_lot::RwLock;
use prometheus::{IntGaugeVec, register_int_gauge_vec};
use service::Context;
use service::auth::{AuthArgs, Gate, Protection};
use service::tls::{Listener, Peer};
use tokio::sync::Mutex;

use crate::rest::{self, App};
use crate::store::{self, Follower};
use crate::worker::Worker;
use crate::{Config, Sink, files};

/// The options of a service that runs connectors.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub auth: AuthArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Where the connectors' REST listens (Kafka Connect's; port 0: any free one)
    #[arg(long, env = "CONNECT_LISTEN", default_value = "127.0.0.1:8083")]
    pub connect_listen: SocketAddr,
    /// A connector to run from the start: a JSON file {name, config} as it would be posted (repeatable)
    #[arg(
        long,
        env = "CONNECT_CONNECTORS",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub connector: Vec<PathBuf>,
    /// The compacted topic that keeps the connectors' configurations; replicas share it [default: the service's own]
    #[arg(long, env = "CONNECT_CONFIG_STORAGE_TOPIC", value_name = "TOPIC")]
    pub connect_config_topic: Option<String>,
    /// What answers call this worker [default: the address its REST listens on]
    #[arg(long, env = "CONNECT_WORKER_ID", value_name = "ID")]
    pub connect_worker_id: Option<String>,
}

static TASKS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "zeelos_connect_tasks",
        "Tasks of this worker's connectors by state.",
        &["state"]
    )
    .expect("registered once, with a valid name")
});

/// How often health and metrics are brought up to date.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The most connections of the REST at a time; more wait.
const CONNECTIONS: usize = 256;

/// A worker with its REST bound, not running yet.
pub struct Server {
    app: Arc<App>,
    follower: Follower,
    listener: Listener,
    gate: Gate,
    address: SocketAddr,
    given: Vec<(String, Config)>,
}

impl Server {
    /// Binds the REST listener and reads the connector files. `config_topic` is the service's own, for where the
    /// arguments name none.
    ///
    /// # Errors
    /// When the port is taken, a file is no connector, or the Kafka settings are refused.
    pub async fn bind(
        args: &ConnectArgs,
        config_topic: &str,
        sinks: Vec<Arc<dyn Sink>>,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let given = files::read(&args.connector)?;
        let cluster: Cluster = args.kafka.cluster()?;
        let producer = Producer::new(&cluster, &ProducerSettings::default())?;
        let gate = args.auth.gate(args.connect_listen, "--connect-listen")?;
        let listener = context
            .listen(args.connect_listen, "--connect-listen", CONNECTIONS)
            .await?;
        let address = listener.address();
        let id = args.connect_worker_id.clone();
        let worker = Worker::new(
            id.unwrap_or_else(|| address.to_string()),
            cluster.clone(),
            args.kafka.kafka_schema_registry_url.clone(),
            sinks,
            DeadLetters::new(producer.clone()),
            context.shutdown.clone(),
        );
        let topic = args.connect_config_topic.as_deref().unwrap_or(config_topic);
        let (store, follower) = store::open(&cluster, topic, producer);
        let app = Arc::new(App {
            worker: Arc::new(worker),
            store,
            cluster_id: RwLock::new(None),
            changes: Mutex::new(()),
        });
        Ok(Self {
            app,
            follower,
            listener,
            gate,
            address,
            given,
        })
    }

    /// Where the REST listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves and runs tasks until the context's shutdown, then waits for the tasks to end.
    ///
    /// # Errors
    /// When the listener or the reader of the config topic breaks down.
    pub async fn run(self, context: Context) -> anyhow::Result<()> {
        let Self {
            app,
            follower,
            listener,
            gate,
            address,
            given,
        } = self;
        let condition = context.health.condition("kafka");
        condition.fail("the connectors were not read from Kafka yet");
        tracing::info!(%address, scheme = listener.scheme(), "Connect's REST is ready for calls");

        let protection = Protection::new(&listener, rest::policy, rest::refuse);
        let routes = gate.protect(rest::routes(Arc::clone(&app)), protection);
        let serve = axum::serve(
            listener,
            routes.into_make_service_with_connect_info::<Peer>(),
        )
        .with_graceful_shutdown(context.shutdown.clone().cancelled_owned());
        let follow = follower.follow(
            app.worker.as_ref(),
            &app.cluster_id,
            &condition,
            &context.shutdown,
        );
        let background = async {
            tokio::join!(
                apply_given(&app, given, &context),
                watch(&app, &context),
                gate.follow(context.shutdown.clone()),
            );
        };
        let ended = tokio::select! {
            served = async { serve.await } => served.map_err(anyhow::Error::from),
            followed = follow => followed,
            () = async { background.await; std::future::pending::<()>().await } => Ok(()),
        };
        app.worker.drain().await;
        ended
    }
}

/// Writes the connectors given by files down, where they differ from what is stored.
async fn apply_given(app: &App, given: Vec<(String, Config)>, context: &Context) {
    tokio::select! {
        () = app.worker.loaded() => {}
        () = context.shutdown.cancelled() => return,
    }
    for (name, config) in given {
        let stored = app.worker.view(&name).map(|view| view.config);
        if stored.as_ref() == Some(&config) {
            continue;
        }
        while let Err(error) = app.store.configure(&name, &config).await {
            tracing::warn!(connector = name, %error, "can't write the connector down; trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = context.shutdown.cancelled() => return,
            }
        }
    }
    context.health.set_ready();
}

async fn watch(app: &App, context: &Context) {
    let condition = context.health.condition("connectors");
    while !context.shutdown.is_cancelled() {
        let (trouble, counts) = app.worker.summary();
        match trouble {
            Some(trouble) => condition.fail(trouble),
            None => condition.ok(),
        }
        for (state, count) in counts {
            TASKS.with_label_values(&[state]).set(count);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            () = context.shutdown.cancelled() => {}
        }
    }
}
