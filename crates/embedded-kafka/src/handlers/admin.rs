//! Topics: create, delete, grow, trim, and where their bytes are.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    create_partitions_request::CreatePartitionsTopic,
    create_partitions_response::CreatePartitionsTopicResult,
    create_topics_request::CreatableTopic,
    create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    delete_topics_response::DeletableTopicResult,
    describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    },
};
use tracing::warn;

use super::{Answer, Call, text};
use crate::{
    groups::Code,
    log::ReadError,
    protocol::RequestError,
    topics::{Topic, TopicError, config},
};

/// A refusal with its reason.
type Refusal = (Code, String);

pub(super) fn refusal(error: &TopicError) -> Refusal {
    let code = match error {
        TopicError::Name => Code::InvalidTopicException,
        TopicError::Exists(_) => Code::TopicAlreadyExists,
        TopicError::Unknown => Code::UnknownTopicOrPartition,
        TopicError::Partitions | TopicError::Shrink(_) => Code::InvalidPartitions,
        TopicError::TooMany(_) => Code::PolicyViolation,
        TopicError::Config(_) => Code::InvalidConfig,
        TopicError::Io(_) => Code::KafkaStorageError,
    };
    (code, error.to_string())
}

pub(super) fn create_topics(call: &Call) -> Result<Answer, RequestError> {
    let request: CreateTopicsRequest = call.request()?;
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<_> = request
        .topics
        .iter()
        .filter(|topic| !seen.insert(topic.name.clone()))
        .map(|topic| topic.name.clone())
        .collect();
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let answer = CreatableTopicResult::default().with_name(asked.name.clone());
        let created = if twice.contains(&asked.name) {
            Err((
                Code::InvalidRequest,
                "the request names the topic twice".to_owned(),
            ))
        } else {
            create(call, &asked, request.validate_only)
        };
        results.push(match created {
            Err((code, reason)) => {
                let answer = answer
                    .with_error_code(code.code())
                    .with_error_message(Some(text(reason)));
                if call.version() >= 5 {
                    answer.with_num_partitions(-1).with_replication_factor(-1)
                } else {
                    answer
                }
            }
            Ok(created) if call.version() < 5 => answer.with_topic_id(created.id),
            Ok(created) => {
                let shown = config::show(&created.overrides, &call.shared.config)
                    .into_iter()
                    .map(|shown| {
                        CreatableTopicConfigs::default()
                            .with_name(text(shown.name))
                            .with_value(Some(text(shown.value)))
                            .with_config_source(super::configs::source(shown.is_default))
                    });
                answer
                    .with_topic_id(created.id)
                    .with_num_partitions(created.partitions)
                    .with_replication_factor(1)
                    .with_configs(Some(shown.collect()))
            }
        });
    }
    call.reply(&CreateTopicsResponse::default().with_topics(results))
}

struct Created {
    id: uuid::Uuid,
    partitions: i32,
    overrides: BTreeMap<String, String>,
}

fn create(call: &Call, asked: &CreatableTopic, validate_only: bool) -> Result<Created, Refusal> {
    let node = BrokerId(call.shared.config.node_id);
    let partitions = if asked.assignments.is_empty() {
        if !matches!(asked.replication_factor, -1 | 1) {
            let reason = format!(
                "replication factor {} needs more brokers: this is a single node",
                asked.replication_factor
            );
            return Err((Code::InvalidReplicationFactor, reason));
        }
        if asked.num_partitions == -1 {
            call.shared.config.default_partitions
        } else {
            asked.num_partitions
        }
    } else {
        let indexes: BTreeSet<i32> = asked
            .assignments
            .iter()
            .map(|a| a.partition_index)
            .collect();
        let count = asked.assignments.len() as i32;
        let here = asked.assignments.iter().all(|a| a.broker_ids == [node]);
        if !here || !indexes.iter().copied().eq(0..count) {
            let reason = format!(
                "partitions count from 0, and each is on broker {} alone: this is a single node",
                node.0
            );
            return Err((Code::InvalidReplicaAssignment, reason));
        }
        count
    };
    let overrides: BTreeMap<String, String> = asked
        .configs
        .iter()
        .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
        .collect();
    let topics = &call.shared.topics;
    let refuse = |error: TopicError| refusal(&error);
    let id = if validate_only {
        topics
            .check_new(&asked.name, partitions, &overrides)
            .map_err(refuse)?;
        uuid::Uuid::nil()
    } else {
        topics
            .create(&asked.name, partitions, overrides.clone())
            .map_err(refuse)?
            .id
    };
    Ok(Created {
        id,
        partitions,
        overrides,
    })
}

pub(super) fn delete_topics(call: &Call) -> Result<Answer, RequestError> {
    let request: DeleteTopicsRequest = call.request()?;
    let topics = &call.shared.topics;
    let by_name = request
        .topic_names
        .into_iter()
        .map(|name| (Some(name), uuid::Uuid::nil()));
    let by_state = request
        .topics
        .into_iter()
        .map(|state| (state.name, state.topic_id));
    let mut responses = Vec::new();
    for (name, id) in by_name.chain(by_state) {
        let found = match &name {
            Some(name) => topics.get(name).ok_or(Code::UnknownTopicOrPartition),
            None => topics.by_id(id).ok_or(Code::UnknownTopicId),
        };
        let answer = DeletableTopicResult::default()
            .with_topic_id(id)
            .with_name(name);
        responses.push(match found {
            Err(code) => answer.with_error_code(code.code()),
            Ok(topic) => match delete(call, &topic) {
                Ok(()) => answer
                    .with_topic_id(topic.id)
                    .with_name(Some(super::topic_name(&topic.name))),
                Err((code, reason)) => answer
                    .with_error_code(code.code())
                    .with_error_message(Some(text(reason))),
            },
        });
    }
    call.reply(&DeleteTopicsResponse::default().with_responses(responses))
}

fn delete(call: &Call, topic: &std::sync::Arc<Topic>) -> Result<(), Refusal> {
    call.shared
        .topics
        .delete(topic)
        .map_err(|error| refusal(&error))?;
    if let Err(error) = call.shared.groups.offsets().drop_topic(&topic.name) {
        warn!(topic = topic.name, %error, "offsets committed for a deleted topic could not be forgotten");
    }
    Ok(())
}

pub(super) fn create_partitions(call: &Call) -> Result<Answer, RequestError> {
    let request: CreatePartitionsRequest = call.request()?;
    let mut results = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let answer = CreatePartitionsTopicResult::default().with_name(asked.name.clone());
        results.push(match grow(call, &asked, request.validate_only) {
            Ok(()) => answer,
            Err((code, reason)) => answer
                .with_error_code(code.code())
                .with_error_message(Some(text(reason))),
        });
    }
    call.reply(&CreatePartitionsResponse::default().with_results(results))
}

fn grow(call: &Call, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
    let topics = &call.shared.topics;
    let refuse = |error: TopicError| refusal(&error);
    let topic = topics
        .get(&asked.name)
        .ok_or(TopicError::Unknown)
        .map_err(refuse)?;
    if let Some(assignments) = &asked.assignments {
        let node = BrokerId(call.shared.config.node_id);
        if assignments
            .iter()
            .any(|assignment| assignment.broker_ids != [node])
        {
            let reason = format!(
                "each partition is on broker {} alone: this is a single node",
                node.0
            );
            return Err((Code::InvalidReplicaAssignment, reason));
        }
    }
    if validate_only {
        topics
            .check_grow(&topic, asked.count)
            .map(|_| ())
            .map_err(refuse)
    } else {
        topics.grow(&topic, asked.count).map_err(refuse)
    }
}

pub(super) fn delete_records(call: &Call) -> Result<Answer, RequestError> {
    let request: DeleteRecordsRequest = call.request()?;
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = call.shared.topics.get(&asked.name);
        let mut answers = Vec::with_capacity(asked.partitions.len());
        for ask in asked.partitions {
            let answer =
                DeleteRecordsPartitionResult::default().with_partition_index(ask.partition_index);
            let refused = |code: Code| {
                answer
                    .clone()
                    .with_error_code(code.code())
                    .with_low_watermark(-1)
            };
            let Some(topic) = &topic else {
                answers.push(refused(Code::UnknownTopicOrPartition));
                continue;
            };
            // Kafka's rule too: a compacted topic's records are its state.
            if !topic.config().deletes() {
                answers.push(refused(Code::PolicyViolation));
                continue;
            }
            let Some(log) = topic.partition(ask.partition_index) else {
                answers.push(refused(Code::UnknownTopicOrPartition));
                continue;
            };
            // -1 stands for the end of the log.
            answers.push(
                match log.delete_before((ask.offset != -1).then_some(ask.offset)) {
                    Ok(start) => answer.with_low_watermark(start),
                    Err(ReadError::OutOfRange) => refused(Code::OffsetOutOfRange),
                    Err(ReadError::Removed) => refused(Code::UnknownTopicOrPartition),
                    Err(ReadError::Io(error)) => {
                        warn!(topic = topic.name, %error, "records could not be deleted");
                        refused(Code::KafkaStorageError)
                    }
                },
            );
        }
        topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(asked.name)
                .with_partitions(answers),
        );
    }
    call.reply(&DeleteRecordsResponse::default().with_topics(topics))
}

pub(super) fn describe_log_dirs(call: &Call) -> Result<Answer, RequestError> {
    let request: DescribeLogDirsRequest = call.request()?;
    let wanted = |topic: &str, partition: i32| match &request.topics {
        None => true,
        Some(asked) => asked
            .iter()
            .any(|ask| ask.topic.as_str() == topic && ask.partitions.contains(&partition)),
    };
    let topics = call.shared.topics.all().into_iter().filter_map(|topic| {
        let logs = topic.partitions().into_iter().enumerate();
        let partitions: Vec<_> = logs
            .filter(|(index, _)| wanted(&topic.name, *index as i32))
            .map(|(index, log)| {
                let size = i64::try_from(log.size()).unwrap_or(i64::MAX);
                DescribeLogDirsPartition::default()
                    .with_partition_index(index as i32)
                    .with_partition_size(size)
            })
            .collect();
        let name = super::topic_name(&topic.name);
        (!partitions.is_empty()).then(|| {
            DescribeLogDirsTopic::default()
                .with_name(name)
                .with_partitions(partitions)
        })
    });
    let dir = call.shared.config.data_dir.display().to_string();
    let result = DescribeLogDirsResult::default()
        .with_log_dir(text(dir))
        .with_topics(topics.collect());
    call.reply(&DescribeLogDirsResponse::default().with_results(vec![result]))
}
