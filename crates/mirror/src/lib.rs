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
//! it are its offsets committed: at least once, in order per partition.

mod args;
mod copy;
mod flow;
mod rewrite;

use anyhow::Context as _;
use kafka::{Cluster, DeadLetters, Producer, ProducerSettings, SchemaRegistry, await_cluster_id};
use service::Context;

pub use args::{Args, Direction};
pub use flow::Flow;
pub use rewrite::{Rewrite, RewriteError};

use copy::Copier;

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
        producer.clone(),
        DeadLetters::new(producer),
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
