//! Carries a gateway's topics between the edge and the cloud, each record valid at its target's schema registry.
//!
//! Two flows, whose topics are disjoint, so that nothing goes round in a loop:
//!
//! ```text
//! cloud-to-edge   iot.<gw>.management.req                     group mirrormaker_edge_<gw>
//! edge-to-cloud   iot.<gw>.* except iot.<gw>.management.req   group mirrormaker_cloud_<gw>
//! ```
//!
//! A batch is read, its schema ids are rewritten, it is produced, and only when the target has acknowledged all of
//! it are its offsets committed: at least once, in order per partition. A registry or target that is away holds
//! everything up; a record that can't be carried goes to `<topic>.dlq` at the target.
//!
//! # What an operator sees
//!
//! `/metrics`, which MUST NOT grow with the number of devices (no endpoint or path is a label):
//!
//! - `zeelos_records_total{stage="mirror"}`: records the target acknowledged; a record copied twice counts twice.
//! - `zeelos_dead_letters_total{reason}`: records put aside; `reason` is `schema` (unknown, unusable or refused by the
//!   target's registry), `too_large` or `refused` (the target takes no such record).
//! - `zeelos_mirror_lag_records{topic}`: records read from here that are not at the target yet. It SHOULD be near 0;
//!   brought up to date every 5 s, every 10 s while the flow waits.
//!
//! `/readyz` names what fails: `source` and `target` until their clusters first answered, `target` again while it
//! acknowledges nothing for 5 s, `flow` while the source's brokers are away or a batch waits to be offered again.

mod args;
mod copy;
mod flow;
mod metrics;
mod progress;
mod rewrite;

use anyhow::Context as _;
use kafka::{Cluster, Producer, ProducerSettings, SchemaRegistry, await_cluster_id};
use service::Context;

pub use args::{Args, Direction};
pub use flow::Flow;
pub use rewrite::{Rewrite, RewriteError};

use copy::{Copier, Target};

/// Runs one flow until it is told to stop.
///
/// # Errors
/// When both sides are the same cluster, settings are refused, or the producer can't go on.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let source = Cluster::new(
        &args.source_bootstrap_server,
        args.source_properties.as_deref(),
    )?;
    let target = Cluster::new(
        &args.target_bootstrap_server,
        args.target_properties.as_deref(),
    )?;
    let flow = Flow::new(args.direction, &args.gateway, args.compression.as_deref());

    let (at_source, at_target) = (
        context.health.condition("source"),
        context.health.condition("target"),
    );
    let (Some(source_id), Some(target_id)) = tokio::join!(
        await_cluster_id(&source, &at_source, &context.shutdown),
        await_cluster_id(&target, &at_target, &context.shutdown),
    ) else {
        return Ok(());
    };
    anyhow::ensure!(
        source_id != target_id,
        "source {} and target {} are the same Kafka cluster ('{source_id}'): mirroring it onto itself would loop; \
         check --source-bootstrap-server and --target-bootstrap-server",
        source.bootstrap(),
        target.bootstrap(),
    );

    let producer = Producer::new(
        &target,
        &ProducerSettings {
            compression: flow.compression.clone(),
            ..ProducerSettings::default()
        },
    )?;
    let rewrite = Rewrite::new(
        SchemaRegistry::new(&args.source_schema_registry_url)?,
        SchemaRegistry::new(&args.target_schema_registry_url)?,
    );
    let mut copier = Copier::new(
        Target::new(target.bootstrap(), producer, at_target),
        rewrite,
        source_id,
        flow.stamps_origin,
    );
    tracing::info!(gateway = %args.gateway, direction = ?args.direction, "mirroring");
    context.health.set_ready();
    kafka::consume(
        &source,
        &flow.consume,
        &mut copier,
        &context.health.condition("flow"),
        &context.shutdown,
    )
    .await
    .context("the mirror's flow ended")
}
