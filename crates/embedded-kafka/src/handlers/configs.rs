//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    alter_configs_response::AlterConfigsResourceResponse as AlterResponse,
    describe_configs_request::DescribeConfigsResource,
    describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult},
    incremental_alter_configs_request::AlterableConfig,
    incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse,
};

use super::{Answer, Call, admin::refusal, text};
use crate::{
    config::BrokerConfig,
    groups::Code,
    protocol::RequestError,
    topics::{Topic, TopicConfig, TopicError, config},
};

/// Resource types (ConfigResource.Type).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// ConfigSource: set on the topic, or a default.
pub(super) fn source(is_default: bool) -> i8 {
    if is_default { 5 } else { 1 }
}

/// ConfigSource of what the broker was started with.
const STATIC_BROKER: i8 = 4;

pub(super) fn describe(call: &Call) -> Result<Answer, RequestError> {
    let request: DescribeConfigsRequest = call.request()?;
    let results = request.resources.into_iter().map(|resource| {
        let answer = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe_one(call, &resource) {
            Ok(configs) => answer.with_configs(configs),
            Err((code, reason)) => answer
                .with_error_code(code.code())
                .with_error_message(Some(text(reason))),
        }
    });
    let results = results.collect();
    call.reply(&DescribeConfigsResponse::default().with_results(results))
}

fn describe_one(
    call: &Call,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, (Code, String)> {
    let wanted = |name: &str| match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.is_empty() || keys.iter().any(|key| key.as_str() == name),
    };
    let broker = &call.shared.config;
    match resource.resource_type {
        TOPIC => {
            let topic = find(call, &resource.resource_name)?;
            let shown = config::show(&topic.overrides(), broker)
                .into_iter()
                .filter(|shown| wanted(shown.name));
            let result = |shown: config::Shown| {
                DescribeConfigsResourceResult::default()
                    .with_name(text(shown.name))
                    .with_value(Some(text(shown.value)))
                    .with_config_source(source(shown.is_default))
                    .with_config_type(shown.kind)
            };
            Ok(shown.map(result).collect())
        }
        BROKER
            if [broker.node_id.to_string().as_str(), ""]
                .contains(&resource.resource_name.as_str()) =>
        {
            let shown = broker_configs(broker)
                .into_iter()
                .filter(|(name, _)| wanted(name));
            let result = |(name, value): (&'static str, String)| {
                DescribeConfigsResourceResult::default()
                    .with_name(text(name))
                    .with_value(Some(text(value)))
                    .with_read_only(true)
                    .with_config_source(STATIC_BROKER)
                    .with_config_type(2)
            };
            Ok(shown.map(result).collect())
        }
        BROKER => Err((
            Code::InvalidRequest,
            format!(
                "the only broker is {}: this is a single node",
                broker.node_id
            ),
        )),
        other => Err((
            Code::InvalidRequest,
            format!("resources of type {other} have no configs here"),
        )),
    }
}

/// The broker's settings under Kafka's names.
fn broker_configs(broker: &BrokerConfig) -> Vec<(&'static str, String)> {
    let topic_default = |name| config::default_of(name, broker);
    vec![
        ("auto.create.topics.enable", broker.auto_create.to_string()),
        (
            "connections.max.idle.ms",
            broker.limits.idle_timeout.as_millis().to_string(),
        ),
        ("default.replication.factor", "1".to_owned()),
        ("log.cleanup.policy", topic_default("cleanup.policy")),
        ("log.retention.bytes", topic_default("retention.bytes")),
        (
            "log.retention.check.interval.ms",
            broker.retention.check_interval.as_millis().to_string(),
        ),
        ("log.retention.ms", topic_default("retention.ms")),
        ("log.segment.bytes", topic_default("segment.bytes")),
        ("max.connections", broker.limits.connections.to_string()),
        ("message.max.bytes", topic_default("max.message.bytes")),
        ("min.insync.replicas", "1".to_owned()),
        ("node.id", broker.node_id.to_string()),
        ("num.partitions", broker.default_partitions.to_string()),
        (
            "offsets.retention.minutes",
            (broker.groups.offsets_retention.as_secs() / 60).to_string(),
        ),
        (
            "socket.request.max.bytes",
            broker.limits.request_bytes.to_string(),
        ),
    ]
}

fn find(call: &Call, name: &str) -> Result<Arc<Topic>, (Code, String)> {
    call.shared
        .topics
        .get(name)
        .ok_or_else(|| refusal(&TopicError::Unknown))
}

fn check_resource(resource_type: i8) -> Result<(), (Code, String)> {
    match resource_type {
        TOPIC => Ok(()),
        BROKER => Err((
            Code::InvalidRequest,
            "the broker's settings are given when it starts".to_owned(),
        )),
        other => Err((
            Code::InvalidRequest,
            format!("resources of type {other} have no configs here"),
        )),
    }
}

/// Replaces all settings of the topics named.
pub(super) fn alter(call: &Call) -> Result<Answer, RequestError> {
    let request: AlterConfigsRequest = call.request()?;
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let changed = check_resource(resource.resource_type).and_then(|()| {
            let topic = find(call, &resource.resource_name)?;
            let configs = resource.configs.iter();
            let set = configs
                .filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())))
                .collect();
            apply(call, &topic, set, request.validate_only)
        });
        let answer = AlterResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        responses.push(match changed {
            Ok(()) => answer,
            Err((code, reason)) => answer
                .with_error_code(code.code())
                .with_error_message(Some(text(reason))),
        });
    }
    call.reply(&AlterConfigsResponse::default().with_responses(responses))
}

/// Changes the settings named (KIP-339).
pub(super) fn alter_incrementally(call: &Call) -> Result<Answer, RequestError> {
    let request: IncrementalAlterConfigsRequest = call.request()?;
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let changed = check_resource(resource.resource_type).and_then(|()| {
            let topic = find(call, &resource.resource_name)?;
            let mut set = topic.overrides();
            for change in &resource.configs {
                change_one(&mut set, change, &call.shared.config)?;
            }
            apply(call, &topic, set, request.validate_only)
        });
        let answer = IncrementalResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        responses.push(match changed {
            Ok(()) => answer,
            Err((code, reason)) => answer
                .with_error_code(code.code())
                .with_error_message(Some(text(reason))),
        });
    }
    call.reply(&IncrementalAlterConfigsResponse::default().with_responses(responses))
}

fn change_one(
    set: &mut BTreeMap<String, String>,
    change: &AlterableConfig,
    broker: &BrokerConfig,
) -> Result<(), (Code, String)> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    const APPEND: i8 = 2;
    const SUBTRACT: i8 = 3;
    let name = change.name.to_string();
    let value = change.value.as_ref().map(ToString::to_string);
    let value = || {
        value.clone().ok_or_else(|| {
            (
                Code::InvalidRequest,
                format!("{} has no value", change.name.as_str()),
            )
        })
    };
    match change.config_operation {
        SET => {
            set.insert(name, value()?);
        }
        DELETE => {
            set.remove(&name);
        }
        operation @ (APPEND | SUBTRACT) if config::is_list(&name) => {
            let value = value()?;
            let named: Vec<&str> = value.split(',').map(str::trim).collect();
            let now = set
                .get(&name)
                .cloned()
                .unwrap_or_else(|| config::default_of(&name, broker));
            let mut list: Vec<&str> = now
                .split(',')
                .map(str::trim)
                .filter(|one| !one.is_empty())
                .collect();
            list.retain(|one| !named.contains(one));
            if operation == APPEND {
                list.extend(named);
            }
            set.insert(name, list.join(","));
        }
        APPEND | SUBTRACT => return Err((Code::InvalidConfig, format!("{name} is not a list"))),
        other => {
            return Err((
                Code::InvalidRequest,
                format!("there is no operation {other} on configs"),
            ));
        }
    }
    Ok(())
}

fn apply(
    call: &Call,
    topic: &Topic,
    set: BTreeMap<String, String>,
    validate_only: bool,
) -> Result<(), (Code, String)> {
    let done = if validate_only {
        TopicConfig::new(&set, &call.shared.config)
            .map(|_| ())
            .map_err(TopicError::from)
    } else {
        call.shared.topics.configure(topic, set)
    };
    done.map_err(|error| refusal(&error))
}
