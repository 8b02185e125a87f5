use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::{Cluster, await_cluster_id};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use service::Context;
use service::auth::Protection;
use service::tls::Peer;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::bandwidth::Bandwidth;
use crate::lane::{Lane, Parts};
use crate::opening::{self, Opened};
use crate::rewrite::Rewrite;
use crate::scout::{Lanes, Scout};
use crate::state::{Delivery, Reasons, Shared, Switches, now_ms};
use crate::target::NoTarget;
use crate::{Args, ArgsError, DeliveryChoice, Flow, metrics, offsets, rest};

const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Who may look at once.
const REST_CONNECTIONS: usize = 16;

/// Runs one flow until it is told to stop. Where certificates are renewed it ends what is under way, and goes on with
/// new clients.
///
/// # Errors
/// When the options name no flow, both sides are the same cluster, another flow carries the same topics back, another
/// process takes the flow over, settings are refused, or a client can't go on.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let source = Cluster::new(
        &args.source_bootstrap_server,
        args.source_properties.as_deref(),
    )?;
    let target = Cluster::new(
        &args.target_bootstrap_server,
        args.target_properties.as_deref(),
    )?;
    let rewrite = match (
        &args.source_schema_registry_url,
        &args.target_schema_registry_url,
    ) {
        _ if args.keep_schema_ids => None,
        (Some(at_source), Some(at_target)) => Some(Arc::new(Rewrite::new(
            source.registry(at_source)?,
            target.registry(at_target)?,
        ))),
        _ => return Err(ArgsError::Registries.into()),
    };
    let site = Site {
        flow: Flow::new(&args)?,
        source,
        target,
        rewrite,
        delivery: args.delivery,
        bandwidth: args.bandwidth_limit,
        current: rest::Current::default(),
    };
    let gate = args.auth.gate(args.rest_listen, "--rest-listen")?;
    let listener = context
        .listen(args.rest_listen, "--rest-listen", REST_CONNECTIONS)
        .await?;
    let (address, scheme) = (listener.address(), listener.scheme());
    let protection = Protection::new(&listener, rest::policy, rest::refuse);
    let app = gate.protect(rest::routes(Arc::clone(&site.current)), protection);
    let serving = context.shutdown.child_token();
    let _stop_serving = serving.clone().drop_guard();
    tokio::spawn({
        let serving = serving.clone();
        async move { gate.follow(serving).await }
    });
    tokio::spawn(async move {
        let served = axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
            .with_graceful_shutdown(serving.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "the REST listener stopped");
        }
    });
    tracing::info!(
        flow = site.flow.name,
        rest = format!("{scheme}://{address}"),
        "starting"
    );
    while carry(&site, &context).await? == Ended::Renewed {
        tracing::info!(
            flow = site.flow.name,
            "certificates were renewed: going on with new clients"
        );
    }
    Ok(())
}

/// What stays over a renewal of certificates.
struct Site {
    flow: Flow,
    source: Cluster,
    target: Cluster,
    rewrite: Option<Arc<Rewrite>>,
    delivery: DeliveryChoice,
    bandwidth: Option<u64>,
    current: rest::Current,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Told,
    Renewed,
}

async fn carry(site: &Site, context: &Context) -> anyhow::Result<Ended> {
    let (source, target) = (&site.source, &site.target);
    let generations = (source.generation(), target.generation());
    let (source_answers, target_answers) = (
        context.health.condition("source"),
        context.health.condition("target"),
    );
    let (Some(source_id), Some(target_id)) = tokio::join!(
        await_cluster_id(source, &source_answers, &context.shutdown),
        await_cluster_id(target, &target_answers, &context.shutdown),
    ) else {
        return Ok(Ended::Told);
    };
    anyhow::ensure!(
        source_id != target_id,
        "source {} and target {} are the same Kafka cluster ('{source_id}'): mirroring it onto itself would loop; \
         check --source-bootstrap-server and --target-bootstrap-server",
        source.bootstrap(),
        target.bootstrap(),
    );
    let topic = offsets::topic_of(&site.flow.name);
    // Most of a start is waiting for answers, so as much as can be asked is asked at the same time.
    let making = {
        let (target, topic) = (target.clone(), topic.clone());
        tokio::spawn(async move {
            kafka::ensure_topic(&target, &topic, 1, &offsets::TOPIC_CONFIG).await
        })
    };
    let connect = |cluster: &Cluster| {
        let (cluster, name) = (cluster.clone(), site.flow.name.clone());
        blocking(move || {
            let client = Scout::client(&cluster, &name)?;
            let rtt = round_trip(&client);
            Ok((client, rtt))
        })
    };
    let (at_source, from_target, made) = tokio::join!(connect(source), connect(target), making);
    let ((client, source_rtt), (spare, target_rtt)) = (at_source?, from_target?);
    drop_apart(spare);
    if let Err(error) = made? {
        tracing::warn!(
            topic,
            error = format!("{error:#}"),
            "the mirror's own topic was not made"
        );
    }
    let shared = Arc::new(Shared {
        flow: site.flow.clone(),
        source: source.clone(),
        target: target.clone(),
        source_id,
        target_id,
        delivery: OnceLock::new(),
        instance: format!("{:013}-{:08x}", now_ms(), rand_u32()),
        source_rtt,
        target_rtt,
        bandwidth: site.bandwidth.map(Bandwidth::new),
        switches: Switches::default(),
        partitions: Mutex::default(),
        flow_health: Reasons::new(context.health.condition("flow")),
        target_health: Reasons::new(target_answers),
    });
    // Dropped in the middle, as at a kill: no lane may go on for a flow that nobody runs.
    let _drops = DropNow(Arc::clone(&shared));
    if let Some(before) = site.current.write().replace(Arc::clone(&shared)) {
        shared.switches.pause(before.switches.paused());
    }

    let opened = {
        let (shared, choice) = (Arc::clone(&shared), site.delivery);
        let open = blocking(move || Ok(opening::open(&shared, choice)));
        tokio::select! {
            opened = open => opened?,
            () = context.shutdown.cancelled() => return Ok(Ended::Told),
        }
    };
    let Opened { clients, kept } = match opened {
        Ok(opened) => opened,
        Err(NoTarget::Stopped) => return Ok(Ended::Told),
        Err(error) => return Err(error.into()),
    };
    let delivery = shared.delivery();
    for mode in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
        let info = metrics::DELIVERY.with_label_values(&[mode.as_str()]);
        info.set((mode == delivery).into());
    }
    tracing::info!(
        flow = shared.flow.name,
        delivery = delivery.as_str(),
        source_rtt_ms = shared.source_rtt.as_millis(),
        target_rtt_ms = shared.target_rtt.as_millis(),
        "mirroring"
    );
    let (ended, mut endings) = mpsc::channel(4);
    let mut threads = 0;
    let mut lanes = Vec::new();
    for (prompt, source, target) in clients {
        let (tell, commands) = channel();
        lanes.push(tell);
        let parts = Parts {
            shared: Arc::clone(&shared),
            prompt,
            source,
            target,
            commands,
            rewrite: site.rewrite.clone(),
            runtime: Handle::current(),
        };
        let name = if prompt {
            "mirror-prompt"
        } else {
            "mirror-bulk"
        };
        spawn(name, ended.clone(), move || Lane::new(parts).run())?;
        threads += 1;
    }
    let mut lanes = lanes.into_iter();
    let lanes = Lanes {
        bulk: lanes.next().context("a flow has a lane for bulk topics")?,
        prompt: lanes.next(),
    };
    let scout = Scout::new(Arc::clone(&shared), client, lanes, kept);
    spawn("mirror-scout", ended, move || scout.run())?;
    threads += 1;
    context.health.set_ready();

    let mut outcome = Ok(Ended::Told);
    let mut stopping = false;
    while threads > 0 {
        tokio::select! {
            ending = endings.recv() => {
                threads -= 1;
                if let Some(Err(error)) = ending && outcome.is_ok() {
                    outcome = Err(error);
                }
                stopping = true;
            }
            () = context.shutdown.cancelled(), if !stopping => stopping = true,
            () = source.renewed(generations.0), if !stopping => {
                (stopping, outcome) = (true, Ok(Ended::Renewed));
            }
            () = target.renewed(generations.1), if !stopping => {
                (stopping, outcome) = (true, Ok(Ended::Renewed));
            }
        }
        if stopping {
            shared.switches.stop();
        }
    }
    outcome.context("the mirror's flow ended")
}

/// How long a request takes: the second of two, as the first connects.
fn round_trip(client: &BaseConsumer) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let asked = Instant::now();
        if client
            .fetch_metadata(Some("__consumer_offsets"), CALL_LIMIT)
            .is_err()
        {
            return Duration::ZERO;
        }
        took = asked.elapsed();
    }
    took
}

fn rand_u32() -> u32 {
    // Enough to tell two starts in one millisecond apart.
    std::process::id() ^ uuid::Uuid::new_v4().as_fields().0
}

/// Ending a client takes a while, for which nobody has to wait.
fn drop_apart(client: impl Send + 'static) {
    // Where no thread can be had it is dropped here.
    drop(std::thread::Builder::new().spawn(move || drop(client)));
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn spawn(
    name: &str,
    ended: mpsc::Sender<anyhow::Result<()>>,
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let outcome =
                caught.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the mirror panicked")));
            // Nobody listens any more where the flow was dropped.
            let _ = ended.blocking_send(outcome);
        })
        .map(drop)
        .context("can't start a thread")
}

struct DropNow(Arc<Shared>);

impl Drop for DropNow {
    fn drop(&mut self) {
        self.0.switches.drop_now();
    }
}
