//! Asks for the sensors' values the way an operator would: requests produced at the cloud.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka::{Cluster, ReadError, RecordDecoder, SchemaRegistry, StartAt, TopicReader};
use records::{AvroContentFormat, RegistrationResponse, Request, RequestKind, RequestPayload};
use service::CancellationToken;
use tokio::task::JoinHandle;

use super::plan::{Gateway, Plan};
use crate::client::Requester;

/// What is observed on each sensor.
pub(crate) const TEMPERATURES: [&str; 2] = ["/3303/0/5700", "/3303/1/5700"];

/// Starts asking, in the background, as registrations arrive at the cloud.
pub(crate) fn start(plan: Arc<Plan>, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let asked = join_all(plan.gateways.iter().map(|gateway| ask(&plan, gateway)));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = asked => {}
        }
    })
}

async fn ask(plan: &Plan, gateway: &Gateway) {
    while let Err(error) = follow(plan, gateway).await {
        tracing::warn!(gateway = %gateway.id, "can't ask for observations yet: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(plan: &Plan, gateway: &Gateway) -> anyhow::Result<()> {
    let cluster = Cluster::new(&plan.cloud.bootstrap, None)?;
    let registry = SchemaRegistry::new(&plan.cloud.registry)?;
    let topic = &gateway.topics.registrations;
    let mut reader = TopicReader::open(&cluster, topic, StartAt::Beginning).await?;
    let mut decoder = RecordDecoder::<RegistrationResponse>::new(registry.clone());
    let requester = Requester::new(&cluster, registry)?;
    let mut waiting: HashSet<&str> = gateway
        .sensors
        .iter()
        .map(|s| s.endpoint.as_str())
        .collect();
    while !waiting.is_empty() {
        let record = reader.next().await;
        let Some(value) = record.value else { continue };
        let event = match decoder.decode(&value).await {
            Ok(event) => event,
            // One bad record on the topic must not hide those behind it.
            Err(ReadError::Bad { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if let RegistrationResponse::New(new) = event
            && waiting.remove(new.ep.as_str())
        {
            for path in TEMPERATURES {
                let request = observe(gateway, &new.ep, path, format!("up-{}{path}", new.ep));
                requester.request(&gateway.id, &request, &[]).await?;
            }
        }
    }
    Ok(())
}

/// The request to observe a path.
pub(crate) fn observe(gateway: &Gateway, endpoint: &str, path: &str, ticket: String) -> Request {
    simple(gateway, endpoint, path, ticket, RequestKind::Observe)
}

/// A request without a body.
pub(crate) fn simple(
    gateway: &Gateway,
    endpoint: &str,
    path: &str,
    ticket: String,
    kind: RequestKind,
) -> Request {
    Request {
        server_id: gateway.id.to_string(),
        ep: endpoint.to_owned(),
        ticket,
        payload: RequestPayload {
            kind,
            path: path.to_owned(),
            content_format: AvroContentFormat::Tlv,
            body: None,
        },
    }
}
