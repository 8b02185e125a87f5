//! Metadata, DescribeCluster and FindCoordinator: one node leads everything.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::{
    messages::{
        BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, MetadataRequest, MetadataResponse,
        describe_cluster_response::DescribeClusterBroker,
        find_coordinator_response::Coordinator,
        metadata_request::MetadataRequestTopic,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::StrBytes,
};
use tracing::error;

use super::{Answer, Call, text, topic_name};
use crate::{
    groups::Code,
    protocol::RequestError,
    topics::{Topic, TopicError},
};

/// FindCoordinator's key types.
const KEY_GROUP: i8 = 0;
const KEY_TRANSACTION: i8 = 1;
const NO_TRANSACTIONS: &str = "transactions are not supported by this single-node broker: point the client at Apache Kafka for them";

pub(super) fn metadata(call: &Call) -> Result<Answer, RequestError> {
    let request: MetadataRequest = call.request()?;
    // Before version 1 an empty list asked for all topics; since then no list does.
    let asked = request
        .topics
        .filter(|topics| call.version() > 0 || !topics.is_empty());
    let topics = match asked {
        None => call
            .shared
            .topics
            .all()
            .iter()
            .map(|topic| describe(call, topic))
            .collect(),
        Some(asked) => {
            // Before version 4 a client could not say, and meant yes.
            let may_create = call.version() < 4 || request.allow_auto_topic_creation;
            asked
                .into_iter()
                .map(|ask| find(call, ask, may_create))
                .collect()
        }
    };
    let node = BrokerId(call.shared.config.node_id);
    let (host, port) = call.ends.reached.clone();
    let broker = MetadataResponseBroker::default()
        .with_node_id(node)
        .with_host(text(host))
        .with_port(port.into());
    let response = MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(call.shared.cluster_id.as_str())))
        .with_controller_id(node)
        .with_topics(topics);
    call.reply(&response)
}

fn find(call: &Call, ask: MetadataRequestTopic, may_create: bool) -> MetadataResponseTopic {
    let topics = &call.shared.topics;
    let Some(name) = ask.name else {
        return match topics.by_id(ask.topic_id) {
            Some(topic) => describe(call, &topic),
            None => {
                let unknown =
                    MetadataResponseTopic::default().with_error_code(Code::UnknownTopicId.code());
                unknown
                    .with_topic_id(ask.topic_id)
                    .with_name((call.version() < 12).then(|| topic_name("")))
            }
        };
    };
    if let Some(topic) = topics.get(&name) {
        return describe(call, &topic);
    }
    let refused = |code: Code| {
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_name(Some(name.clone()))
    };
    if !crate::topics::is_valid_name(&name) {
        return refused(Code::InvalidTopicException);
    }
    if !(may_create && call.shared.config.auto_create) {
        return refused(Code::UnknownTopicOrPartition);
    }
    match topics.create(
        &name,
        call.shared.config.default_partitions,
        BTreeMap::new(),
    ) {
        Ok(topic) => describe(call, &topic),
        // Another client was quicker.
        Err(TopicError::Exists(_)) => topics.get(&name).map_or_else(
            || refused(Code::LeaderNotAvailable),
            |topic| describe(call, &topic),
        ),
        Err(failure) => {
            error!(topic = name.as_str(), error = %failure, "a topic was not created on demand");
            refused(if matches!(failure, TopicError::TooMany(_)) {
                Code::PolicyViolation
            } else {
                Code::KafkaStorageError
            })
        }
    }
}

fn describe(call: &Call, topic: &Arc<Topic>) -> MetadataResponseTopic {
    let node = BrokerId(call.shared.config.node_id);
    let partition = |index: usize| {
        MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(node)
            .with_leader_epoch(0)
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
    };
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(topic.is_internal())
        .with_partitions((0..topic.partition_count()).map(partition).collect())
}

pub(super) fn describe_cluster(call: &Call) -> Result<Answer, RequestError> {
    let request: DescribeClusterRequest = call.request()?;
    let response =
        DescribeClusterResponse::default().with_cluster_id(text(call.shared.cluster_id.as_str()));
    // Endpoint type 2 asks for controllers, which are not reached through a broker (KIP-919).
    if call.version() >= 1 && request.endpoint_type != 1 {
        return call.reply(&response.with_error_code(Code::MismatchedEndpointType.code()));
    }
    let node = BrokerId(call.shared.config.node_id);
    let (host, port) = call.ends.reached.clone();
    let broker = DescribeClusterBroker::default()
        .with_broker_id(node)
        .with_host(text(host))
        .with_port(port.into());
    call.reply(&response.with_controller_id(node).with_brokers(vec![broker]))
}

pub(super) fn find_coordinator(call: &Call) -> Result<Answer, RequestError> {
    let request: FindCoordinatorRequest = call.request()?;
    let found = |key: StrBytes| {
        let (host, port) = call.ends.reached.clone();
        let node = BrokerId(call.shared.config.node_id);
        let answer = Coordinator::default().with_key(key);
        let refused = |code: Code, message: &'static str| {
            let answer = answer.clone().with_node_id((-1).into()).with_port(-1);
            answer
                .with_error_code(code.code())
                .with_error_message(Some(StrBytes::from_static_str(message)))
        };
        match request.key_type {
            KEY_GROUP => answer
                .clone()
                .with_node_id(node)
                .with_host(text(host))
                .with_port(port.into()),
            // The one code that both librdkafka and the Java client take for final; others they retry in silence.
            KEY_TRANSACTION => refused(Code::TransactionalIdAuthorizationFailed, NO_TRANSACTIONS),
            _ => refused(
                Code::InvalidRequest,
                "only consumer groups have a coordinator here",
            ),
        }
    };
    let response = FindCoordinatorResponse::default();
    if call.version() >= 4 {
        let coordinators = request
            .coordinator_keys
            .iter()
            .cloned()
            .map(found)
            .collect();
        return call.reply(&response.with_coordinators(coordinators));
    }
    let one = found(request.key.clone());
    let response = response
        .with_error_code(one.error_code)
        .with_error_message(one.error_message)
        .with_node_id(one.node_id)
        .with_host(one.host)
        .with_port(one.port);
    call.reply(&response)
}
