use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::{Cluster, await_cluster_id};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use service::Context;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::bandwidth::Bandwidth;
use crate::lane::{Lane, Parts};
use crate::rewrite::Rewrite;
use crate::scout::{Lanes, Scout};
use crate::state::{Delivery, Reasons, Shared, Switches, now_ms};
use crate::target::{NoTarget, Target, Ticket};
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
    let listener = context
        .listen(args.rest_listen, "--rest-listen", REST_CONNECTIONS)
        .await?;
    let (address, scheme) = (listener.address(), listener.scheme());
    let app = rest::routes(Arc::clone(&site.current));
    let serving = context.shutdown.child_token();
    let _stop_serving = serving.clone().drop_guard();
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(serving.cancelled_owned());
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
    let (at_source, at_target) = (
        context.health.condition("source"),
        context.health.condition("target"),
    );
    let (Some(source_id), Some(target_id)) = tokio::join!(
        await_cluster_id(source, &at_source, &context.shutdown),
        await_cluster_id(target, &at_target, &context.shutdown),
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
    let client = Scout::client(source, &site.flow.name)?;
    let (client, source_rtt, target_rtt) = {
        let (target, name) = (target.clone(), site.flow.name.clone());
        blocking(move || {
            let source_rtt = round_trip(&client);
            let target_rtt = round_trip(&Scout::client(&target, &name)?);
            Ok((client, source_rtt, target_rtt))
        })
        .await?
    };
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
        target_health: Reasons::new(at_target),
    });
    // Dropped in the middle, as at a kill: no lane may go on for a flow that nobody runs.
    let _drops = DropNow(Arc::clone(&shared));
    if let Some(before) = site.current.write().replace(Arc::clone(&shared)) {
        shared.switches.pause(before.switches.paused());
    }

    let topic = offsets::topic_of(&shared.flow.name);
    if let Err(error) = kafka::ensure_topic(&shared.target, &topic, 1, &offsets::TOPIC_CONFIG).await
    {
        tracing::warn!(
            topic,
            error = format!("{error:#}"),
            "the mirror's own topic was not made"
        );
    }
    let opened = {
        let (shared, choice) = (Arc::clone(&shared), site.delivery);
        let open = blocking(move || Ok(open_targets(&shared, choice)));
        tokio::select! {
            opened = open => opened?,
            () = context.shutdown.cancelled() => return Ok(Ended::Told),
        }
    };
    let targets = match opened {
        Ok(targets) => targets,
        Err(NoTarget::Stopped) => return Ok(Ended::Told),
        Err(error) => return Err(error.into()),
    };
    let delivery = shared.delivery();
    for mode in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
        let info = metrics::DELIVERY.with_label_values(&[mode.as_str()]);
        info.set((mode == delivery).into());
    }
    let kept = if delivery == Delivery::ExactlyOnce {
        let shared = Arc::clone(&shared);
        blocking(move || offsets::read(&shared.target, &topic, CALL_LIMIT))
            .await?
            .places
    } else {
        Default::default()
    };

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
    for (prompt, target) in targets {
        let (tell, commands) = channel();
        lanes.push(tell);
        let parts = Parts {
            shared: Arc::clone(&shared),
            prompt,
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
        spawn(name, ended.clone(), move || Lane::new(parts)?.run())?;
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

/// The producers of the bulk and, where there are such topics, the prompt lane, with the delivery they make possible.
fn open_targets(
    shared: &Arc<Shared>,
    choice: DeliveryChoice,
) -> Result<Vec<(bool, Target)>, NoTarget> {
    let lanes: &[bool] = if shared.flow.prompt.is_empty() {
        &[false]
    } else {
        &[false, true]
    };
    if choice != DeliveryChoice::AtLeastOnce {
        // Assumed until the first says otherwise.
        let open = |prompt: bool| {
            let suffix = if prompt { ".prompt" } else { "" };
            let id = format!("{}{suffix}", shared.flow.name);
            let target = Target::open(shared, Some(&id))?;
            introduce(shared, &target, Some(&id))?;
            Ok((prompt, target))
        };
        let first = match open(false) {
            Err(NoTarget::NoTransactions(_)) if choice == DeliveryChoice::Auto => None,
            other => Some(other?),
        };
        if let Some(first) = first {
            let _ = shared.delivery.set(Delivery::ExactlyOnce);
            let mut targets = vec![first];
            for prompt in &lanes[1..] {
                targets.push(open(*prompt)?);
            }
            return Ok(targets);
        }
        tracing::info!("the target has no transactions: records are delivered at least once");
    }
    let _ = shared.delivery.set(Delivery::AtLeastOnce);
    let mut targets = Vec::new();
    for prompt in lanes {
        targets.push((*prompt, Target::open(shared, None)?));
    }
    introduce(shared, &targets[0].1, None)?;
    Ok(targets)
}

/// Writes what the flow is, for others to see before they carry its topics back; with transactions also which process
/// has it now.
fn introduce(shared: &Shared, target: &Target, id: Option<&str>) -> Result<(), NoTarget> {
    let topic = offsets::topic_of(&shared.flow.name);
    let delivery = match id {
        Some(_) => Delivery::ExactlyOnce,
        None => Delivery::AtLeastOnce,
    };
    let flow = offsets::flow_record(
        &shared.flow.name,
        &shared.source_id,
        &shared.flow.topics,
        delivery.as_str(),
    );
    let own = id.map(|id| offsets::instance_record(id, &shared.instance));
    let broken = |error: rdkafka::error::KafkaError| {
        NoTarget::Failed(anyhow::anyhow!(
            "the mirror's own topic '{topic}' can't be written: {}",
            crate::target::told(&error)
        ))
    };
    loop {
        if id.is_some() {
            target.begin().map_err(broken)?;
        }
        for (key, value) in [&flow].into_iter().chain(&own) {
            let ticket = Ticket {
                slot: 0,
                index: Ticket::BOOKKEEPING,
            };
            let mut record = Target::record(&topic, ticket);
            record.partition = Some(0);
            record.key = Some(key);
            record.payload = Some(value);
            target.send(record).map_err(|(error, _)| broken(error))?;
        }
        while target.in_flight() > 0 && !shared.switches.stops() {
            target.poll(Duration::from_millis(5));
            if let Some(reason) = target.fatal() {
                return Err(NoTarget::Failed(anyhow::anyhow!("{reason}")));
            }
        }
        if shared.switches.stops() {
            return Err(NoTarget::Stopped);
        }
        target.forget(0);
        let failures = target.take_failures();
        let Some(failure) = failures.first() else {
            if id.is_none() {
                return Ok(());
            }
            loop {
                match target.commit() {
                    Ok(()) => return Ok(()),
                    Err(rdkafka::error::KafkaError::Transaction(error)) if error.is_retriable() => {
                        if shared.switches.stops() {
                            return Err(NoTarget::Stopped);
                        }
                    }
                    Err(error) => return Err(broken(error)),
                }
            }
        };
        let reason = format!(
            "the mirror's own topic '{topic}' can't be written: {}",
            failure.code
        );
        if id.is_none() {
            // Without transactions it is for others' sake only.
            tracing::warn!("{reason}");
            return Ok(());
        }
        let lasting = matches!(
            failure.code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        );
        if lasting {
            return Err(NoTarget::Failed(anyhow::anyhow!("{reason}")));
        }
        shared.target_health.fail("introduction", reason);
        target.abort().map_err(broken)?;
        target.take_failures();
        if !shared.switches.rest(Duration::from_millis(500)) {
            return Err(NoTarget::Stopped);
        }
        shared.target_health.ok("introduction");
    }
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
