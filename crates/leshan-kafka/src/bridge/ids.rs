//! The schemas' ids of the topics, told by the registry once.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::{RegistryError, SchemaRegistry};
use parking_lot::Mutex;
use records::{
    AvroKey, AvroRecord, RegistrationResponse, Response, ResponseObserve, Schema, SchemaId, topics,
};
use service::{Backoff, Condition};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::args::ServerTopics;
use crate::engine::TopicIds;
use crate::store::OutgoingKind;

/// Asks until the registry has told the ids of all topics' keys and values; until then a topic's records wait on the
/// disk. No topic waits for another.
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
    let failing = Failing {
        condition,
        by_topic: Mutex::default(),
    };
    let learn = |(kind, topic, schema): (OutgoingKind, String, &'static Schema)| {
        let (registry, failing, learned) = (&registry, &failing, &learned);
        async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            let ids = loop {
                match ask(registry, &topic, schema.text()).await {
                    Ok(ids) => break ids,
                    Err(error) => failing.fail(&topic, error.to_string()),
                }
                sleep(backoff.wait()).await;
            };
            failing.ok(&topic);
            // Who does not listen any more has ended.
            let _ = learned.send((kind, ids)).await;
        }
    };
    let [first, second, third] = wanted;
    tokio::join!(learn(first), learn(second), learn(third));
}

/// What is said of the topics whose schemas the registry does not take or does not tell.
struct Failing {
    condition: Condition,
    by_topic: Mutex<BTreeMap<String, String>>,
}

impl Failing {
    fn fail(&self, topic: &str, reason: String) {
        let mut by_topic = self.by_topic.lock();
        by_topic.insert(topic.to_owned(), reason);
        self.say(&by_topic);
    }

    fn ok(&self, topic: &str) {
        let mut by_topic = self.by_topic.lock();
        by_topic.remove(topic);
        self.say(&by_topic);
    }

    fn say(&self, by_topic: &BTreeMap<String, String>) {
        let Some(reason) = by_topic.values().next() else {
            return self.condition.ok();
        };
        let topics: Vec<&str> = by_topic.keys().map(String::as_str).collect();
        self.condition.fail(format!(
            "{reason}; records of {} go to the spool",
            topics.join(", ")
        ));
    }
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
