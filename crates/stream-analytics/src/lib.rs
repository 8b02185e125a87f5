//! Windowed analytics of observations: counts printed on the console, and 30-second maxima to a topic.
//!
//! ```text
//! iot.<gw>.observations ─▶ aggregate    ─▶ standard output                          [ep@start/end], n
//!                       └▶ temperature  ─▶ analytics.<gw>.observations.maxper30sec  key <ep>.<path> + window start
//! ```
//!
//! Time is the records' own `timestamp`. Only single-resource readings with a finite number count; what else comes is
//! skipped and counted (`zeelos_analytics_skipped_total{reason}`), what comes later than the grace is dropped and
//! counted (`zeelos_analytics_late_total`), and what can't be decoded goes to `<topic>.dlq`.
//!
//! **State.** Windows and, in the same transaction, the input's offsets are in a SQLite file below `--data-dir`. Results
//! go out first, then the state is written: after a crash, records whose results may be out already are taken again from
//! the same windows and give the same results, byte for byte. So counts and maxima come out as if there had been no
//! crash, and a reader of the maxima sees at worst identical duplicates. The state's offsets rule over the group's: a
//! record is passed over that they cover, and the group is put back at start where they are behind it.
//!
//! **Bounds.** In memory: one batch (1,000 records, 8 MiB), the windows it touches, and SQLite's page cache (8 MiB),
//! however long the grace is and however many devices there are. On disk: `--max-windows`.
//!
//! **Scale.** The state is local: a partition that moves to another instance begins its windows anew there. Run one
//! instance per gateway's topic and analytic, with a data directory of its own; where many run at one cluster, give each
//! a `--group` of its own.

mod aggregate;
mod args;
mod fold;
mod metrics;
mod number;
mod position;
mod reading;
mod store;
mod temperature;
mod worker;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kafka::{
    Cluster, ConsumeSettings, DeadLetters, Producer, ProducerSettings, RecordDecoder,
    await_cluster_id,
};
use service::{Backoff, Context};

pub use args::{Analytic, Args};

use aggregate::Aggregate;
use store::{Store, StoreError};
use temperature::Temperature;
use worker::Worker;

/// Runs an analytic until it is told to stop; `aggregate` prints on standard output.
///
/// # Errors
/// When settings are refused, the state can't be used, or the producer can't go on. Kafka or the registry being away is
/// no error: they are waited for.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    run_with_output(args, context, std::io::stdout()).await
}

/// As [`run`], `aggregate` printing on `output`.
///
/// # Errors
/// As [`run`].
pub async fn run_with_output<W: Write + Send + 'static>(
    args: Args,
    context: Context,
    output: W,
) -> anyhow::Result<()> {
    metrics::touch();
    let settings = args.settings()?;
    let topic = args.input_topic()?.to_owned();
    let cluster = args.kafka.cluster()?;
    let registry = args.kafka.registry()?;
    let producer = Producer::new(&cluster, &ProducerSettings::default())?;
    // The analytics are made before anything is waited for, so that wrong options end the service at once.
    let analytic = match args.analytic {
        Analytic::Aggregate => Either::Aggregate(Aggregate::new(output)),
        Analytic::Temperature => Either::Temperature(Temperature::new(
            args.output_topic()?,
            producer.clone(),
            registry.clone(),
        )),
    };

    let kafka_condition = context.health.condition("kafka");
    let Some(cluster_id) = await_cluster_id(&cluster, &kafka_condition, &context.shutdown).await
    else {
        return Ok(());
    };
    let path = args.state_file(&cluster_id);
    let mut store = open(&path, &args).await?;
    if !align(&cluster, &args, &mut store, &context).await? {
        return Ok(());
    }
    metrics::WINDOWS.set(i64::try_from(store.window_count()).unwrap_or(i64::MAX));
    tracing::info!(
        analytic = ?args.analytic,
        topic,
        group = args.group(),
        state = %path.display(),
        windows = store.window_count(),
        "reading"
    );
    context.health.set_ready();

    let consume = ConsumeSettings::new(args.group(), vec![topic]);
    let max_ahead = Duration::from_secs(args.max_ahead);
    let decoder = RecordDecoder::new(registry);
    let dead_letters = DeadLetters::new(producer);
    let condition = context.health.condition("flow");
    let shutdown = context.shutdown.clone();
    match analytic {
        Either::Aggregate(analytic) => {
            let mut worker = Worker::new(
                analytic,
                settings,
                max_ahead,
                decoder,
                dead_letters,
                store,
                shutdown.clone(),
            )?;
            kafka::consume(&cluster, &consume, &mut worker, &condition, &shutdown).await
        }
        Either::Temperature(analytic) => {
            let mut worker = Worker::new(
                analytic,
                settings,
                max_ahead,
                decoder,
                dead_letters,
                store,
                shutdown.clone(),
            )?;
            kafka::consume(&cluster, &consume, &mut worker, &condition, &shutdown).await
        }
    }
    .context("the analytic ended")
}

enum Either<W> {
    Aggregate(Aggregate<W>),
    Temperature(Temperature),
}

/// How long a predecessor that is still ending may hold the state.
const HANDOVER: Duration = Duration::from_secs(5);

async fn open(path: &Path, args: &Args) -> anyhow::Result<Store> {
    let window_ms = i64::try_from(args.window().as_millis()).context("the window is too long")?;
    let max_windows = args.max_windows;
    let since = tokio::time::Instant::now();
    loop {
        let path = path.to_owned();
        let opened =
            tokio::task::spawn_blocking(move || Store::open(&path, window_ms, max_windows)).await?;
        match opened {
            Err(StoreError::InUse { .. }) if since.elapsed() < HANDOVER => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Brings the group's offsets and the state's together, for as long as that takes; `false` when told to stop first.
async fn align(
    cluster: &Cluster,
    args: &Args,
    store: &mut Store,
    context: &Context,
) -> anyhow::Result<bool> {
    let condition = context.health.condition("position");
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    loop {
        let positions = store.positions()?;
        let offsets = positions
            .into_iter()
            .map(|(partition, position)| (partition, position.next_offset))
            .collect();
        let aligned = tokio::select! {
            aligned = position::align(cluster, args.group(), &args.input_topic, offsets) => aligned,
            () = context.shutdown.cancelled() => return Ok(false),
        };
        match aligned {
            Ok(changed) => {
                for (partition, next_offset) in changed {
                    store.set_next_offset(partition, next_offset)?;
                }
                condition.ok();
                return Ok(true);
            }
            Err(error) => condition.fail(format!("{error:#}")),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = context.shutdown.cancelled() => return Ok(false),
        }
    }
}
