//! Topics and their settings.

use kafka_protocol::messages::{
    DeleteRecordsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    metadata_request::MetadataRequestTopic,
};
use rdkafka::{
    admin::{
        AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    producer::FutureRecord,
    types::RDKafkaErrorCode,
};

use super::text;
use crate::{
    raw::{Batch, Raw, name},
    support::{PATIENCE, admin, produce, producer, reader, take, unique, until, watermarks},
};

pub(crate) async fn topics_are_made_on_demand(bootstrap: &str) {
    let topic = unique("demand");
    let sender = producer(bootstrap);
    assert_eq!(produce(&sender, &topic, 0, "first").await, 0);
    assert_eq!(take(&reader(bootstrap, &topic, 0, 0), 1).await, ["first"]);
}

async fn metadata_of(raw: &mut Raw, topic: &str, create: bool) -> i16 {
    let ask = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![ask]))
        .with_allow_auto_topic_creation(create);
    raw.call(9, &request).await.topics[0].error_code
}

pub(crate) async fn unknown_and_invalid_topics_are_told_apart(bootstrap: &str) {
    let mut raw = Raw::connect(bootstrap).await;
    let topic = unique("unknown");
    assert_eq!(
        metadata_of(&mut raw, &topic, false).await,
        3,
        "UNKNOWN_TOPIC_OR_PARTITION"
    );
    for invalid in ["not a name", "über", "..", &"x".repeat(250)] {
        assert_eq!(
            metadata_of(&mut raw, invalid, true).await,
            17,
            "INVALID_TOPIC_EXCEPTION for {invalid}"
        );
    }
    let refused = raw.produce(&topic, 0, Batch::of(&["lost"]).bytes()).await;
    assert_eq!(refused.error_code, 3);
    raw.create_topic(&topic, 1).await;
    assert_eq!(
        raw.produce(&topic, 7, Batch::of(&["lost"]).bytes())
            .await
            .error_code,
        3
    );
    assert_eq!(
        raw.produce(&topic, 0, Batch::of(&["kept"]).bytes())
            .await
            .error_code,
        0
    );
}

pub(crate) async fn topics_are_administered(bootstrap: &str) {
    let (admin, options) = (
        admin(bootstrap),
        AdminOptions::new().operation_timeout(Some(PATIENCE)),
    );
    let topic = unique("admin");
    let new = NewTopic::new(&topic, 2, TopicReplication::Fixed(1)).set("retention.ms", "123456");
    assert_eq!(
        admin.create_topics([&new], &options).await.unwrap(),
        [Ok(topic.clone())]
    );
    let again = admin.create_topics([&new], &options).await.unwrap();
    assert_eq!(
        again,
        [Err((topic.clone(), RDKafkaErrorCode::TopicAlreadyExists))]
    );
    let (wide, none, odd) = (unique("wide"), unique("none"), unique("odd"));
    let refused = [
        NewTopic::new(&wide, 1, TopicReplication::Fixed(3)),
        NewTopic::new(&none, 0, TopicReplication::Fixed(1)),
        NewTopic::new(&odd, 1, TopicReplication::Fixed(1)).set("retention.ms", "soon"),
    ];
    let codes: Vec<_> = admin
        .create_topics(&refused, &options)
        .await
        .unwrap()
        .into_iter()
        .map(|r| r.unwrap_err().1)
        .collect();
    use RDKafkaErrorCode::{InvalidConfig, InvalidPartitions, InvalidReplicationFactor};
    assert_eq!(
        codes,
        [InvalidReplicationFactor, InvalidPartitions, InvalidConfig]
    );

    let grown = admin
        .create_partitions([&NewPartitions::new(&topic, 3)], &options)
        .await
        .unwrap();
    assert_eq!(grown, [Ok(topic.clone())]);
    let shrunk = admin
        .create_partitions([&NewPartitions::new(&topic, 1)], &options)
        .await
        .unwrap();
    assert_eq!(shrunk, [Err((topic.clone(), InvalidPartitions))]);
    let sender = producer(bootstrap);
    until("the third partition can be written", async || {
        let record = FutureRecord::<str, str>::to(&topic)
            .partition(2)
            .payload("grown");
        sender.send(record, PATIENCE).await.is_ok()
    })
    .await;

    assert_eq!(
        admin.delete_topics(&[&topic], &options).await.unwrap(),
        [Ok(topic.clone())]
    );
    let mut raw = Raw::connect(bootstrap).await;
    until("the topic is gone", async || {
        metadata_of(&mut raw, &topic, false).await == 3
    })
    .await;
    let gone = admin.delete_topics(&[&topic], &options).await.unwrap();
    assert_eq!(
        gone,
        [Err((
            topic.clone(),
            RDKafkaErrorCode::UnknownTopicOrPartition
        ))]
    );
    // A topic of the same name starts empty.
    raw.create_topic(&topic, 1).await;
    assert_eq!(raw.offset(&topic, 0, -1).await.0, 0);
}

pub(crate) async fn settings_are_checked_and_kept(bootstrap: &str) {
    let (admin, options) = (
        admin(bootstrap),
        AdminOptions::new().operation_timeout(Some(PATIENCE)),
    );
    let topic = unique("settings");
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    admin.create_topics([&new], &options).await.unwrap()[0]
        .as_ref()
        .unwrap();
    let resource = ResourceSpecifier::Topic(&topic);
    let value = async |setting: &str| {
        let described = admin
            .describe_configs([&resource], &options)
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        described.get(setting).unwrap().value.clone().unwrap()
    };
    assert_eq!(value("cleanup.policy").await, "compact");
    assert_eq!(value("compression.type").await, "producer");

    // One setting changes, the others stay (KIP-339); wrong ones are refused with a reason.
    let mut raw = Raw::connect(bootstrap).await;
    let mut change = async |setting: &str, operation: i8, value: Option<&str>| {
        let change = AlterableConfig::default()
            .with_name(text(setting))
            .with_config_operation(operation)
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(&topic))
            .with_configs(vec![change]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = raw.call(1, &request).await.responses.remove(0);
        assert_eq!(
            response.error_code == 0,
            response
                .error_message
                .is_none_or(|reason| reason.is_empty())
        );
        response.error_code
    };
    assert_eq!(change("retention.bytes", SET, Some("65536")).await, 0);
    until("the change is seen", async || {
        value("retention.bytes").await == "65536"
    })
    .await;
    assert_eq!(value("cleanup.policy").await, "compact");
    assert_eq!(change("cleanup.policy", APPEND, Some("delete")).await, 0);
    until("both are in the list", async || {
        value("cleanup.policy").await == "compact,delete"
    })
    .await;
    assert_eq!(change("cleanup.policy", SUBTRACT, Some("compact")).await, 0);
    until("one is left", async || {
        value("cleanup.policy").await == "delete"
    })
    .await;
    assert_eq!(
        change("retention.bytes", SET, Some("many")).await,
        40,
        "INVALID_CONFIG"
    );
    assert_eq!(change("no.such.setting", SET, Some("1")).await, 40);
    assert_eq!(value("retention.bytes").await, "65536");
    assert_eq!(change("retention.bytes", DELETE, None).await, 0);
    until("the default is back", async || {
        value("retention.bytes").await != "65536"
    })
    .await;

    // The older way replaces all settings.
    let replace = AlterConfig::new(resource).set("segment.bytes", "2000000");
    admin
        .alter_configs([&replace], &options)
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    until("the change is seen", async || {
        value("segment.bytes").await == "2000000"
    })
    .await;
    assert_eq!(value("cleanup.policy").await, "delete");
}

// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(crate) async fn records_are_deleted_up_to_an_offset(bootstrap: &str) {
    let topic = unique("trim");
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 1).await;
    raw.produce(&topic, 0, Batch::of(&["a", "b", "c"]).bytes())
        .await;
    raw.produce(&topic, 0, Batch::of(&["d", "e"]).bytes()).await;
    let mut delete = async |offset: i64| {
        let ask = DeleteRecordsPartition::default()
            .with_partition_index(0)
            .with_offset(offset);
        let asked = DeleteRecordsTopic::default()
            .with_name(name(&topic))
            .with_partitions(vec![ask]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![asked])
            .with_timeout_ms(10_000);
        let response = raw.call(1, &request).await;
        let answer = response.topics[0].partitions[0].clone();
        (answer.error_code, answer.low_watermark)
    };
    assert_eq!(delete(2).await, (0, 2));
    assert_eq!(delete(1).await, (0, 2), "never back");
    assert_eq!(delete(9).await.0, 1, "OFFSET_OUT_OF_RANGE");
    assert_eq!(watermarks(bootstrap, &topic, 0).await, (2, 5));
    assert_eq!(raw.fetch(&topic, 0, 1, 1 << 20).await.error_code, 1);
    assert_eq!(
        take(&reader(bootstrap, &topic, 0, 2), 3).await,
        ["c", "d", "e"]
    );
}
