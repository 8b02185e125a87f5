//! Makes the contract's topics at both sites while everything starts, as an operator of the original did by hand: a topic
//! that exists need not be discovered hop by hop when its first record comes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka::{Cluster, ensure_topic};
use service::{Backoff, CancellationToken};
use tokio::task::JoinHandle;

use super::plan::Plan;

/// Starts making them, in the background: the brokers may still be on their way.
pub(crate) fn start(plan: Arc<Plan>, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let all = plan.gateways.iter().flat_map(|gateway| {
            let topics = &gateway.topics;
            let both = [
                &topics.registrations,
                &topics.observations,
                &topics.management_req,
                &topics.management_rep,
            ];
            let edge = both.into_iter().chain([&topics.maxper30sec]);
            let edge = edge.map(|topic| (gateway.site.bootstrap.as_str(), topic));
            let cloud = both.map(|topic| (plan.cloud.bootstrap.as_str(), topic));
            edge.chain(cloud)
        });
        let made = join_all(all.map(|(bootstrap, topic)| make(bootstrap, topic)));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = made => {}
        }
    })
}

async fn make(bootstrap: &str, topic: &str) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let made = match Cluster::new(bootstrap, None) {
            Ok(cluster) => ensure_topic(&cluster, topic, 1, &[]).await,
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(_) => return,
            Err(error) => tracing::debug!(bootstrap, topic, "not made yet: {error:#}"),
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}
