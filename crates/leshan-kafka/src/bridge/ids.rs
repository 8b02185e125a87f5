//! The schemas' ids of the topics, told by the registry once.

use std::time::Duration;

use kafka::{RegistryError, SchemaRegistry};
use records::{
    AvroKey, AvroRecord, RegistrationResponse, Response, ResponseObserve, SchemaId, topics,
};
use service::{Backoff, Condition};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::args::ServerTopics;
use crate::engine::TopicIds;
use crate::store::OutgoingKind;

/// Asks until the registry has told the ids of all topics' keys and values; until then records wait on the disk.
pub(crate) async fn learn_ids(
    registry: SchemaRegistry,
    names: ServerTopics,
    condition: Condition,
    learned: mpsc::Sender<(OutgoingKind, TopicIds)>,
) {
    let wanted = [
        (
            OutgoingKind::Registration,
            names.registrations,
            RegistrationResponse::schema(),
        ),
        (
            OutgoingKind::Observation,
            names.observations,
            ResponseObserve::schema(),
        ),
        (
            OutgoingKind::Reply,
            names.management_rep,
            Response::schema(),
        ),
    ];
    for (kind, topic, schema) in wanted {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let ids = loop {
            match ask(&registry, &topic, schema.text()).await {
                Ok(ids) => break ids,
                Err(error) => condition.fail(format!("{error}; records go to the spool")),
            }
            sleep(backoff.wait()).await;
        };
        if learned.send((kind, ids)).await.is_err() {
            return;
        }
    }
    condition.ok();
}

async fn ask(
    registry: &SchemaRegistry,
    topic: &str,
    value: &str,
) -> Result<TopicIds, RegistryError> {
    let (keys, values) = (topics::key_subject(topic), topics::value_subject(topic));
    let key = registry.register(&keys, AvroKey::schema().text()).await?;
    let value = registry.register(&values, value).await?;
    Ok(TopicIds {
        key: SchemaId(key),
        value: SchemaId(value),
    })
}
