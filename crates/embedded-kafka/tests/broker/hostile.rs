//! What our broker bounds, and what it says instead of doing what it can't.

use std::time::Duration;

use bytes::BufMut;
use kafka_protocol::{
    messages::{
        ApiKey, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, JoinGroupRequest,
        TransactionalId, join_group_request::JoinGroupRequestProtocol,
    },
    protocol::StrBytes,
};
use rdkafka::producer::{FutureProducer, Producer};

use crate::{
    raw::{Batch, Raw, fetch_request, header},
    support::{Embedded, PATIENCE, client, until},
};

fn counter(name: &str) -> u64 {
    let families = prometheus::gather();
    let family = families.iter().find(|family| family.name() == name);
    family.map_or(0, |family| {
        family.get_metric()[0].get_counter().get_value() as u64
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_lengths_reserve_nothing() {
    let broker = Embedded::start().await;
    let before = counter("zeelos_kafka_malformed_requests_total");
    // An array that claims two billion elements, in each dialect of lengths.
    let mut wide = header(ApiKey::Metadata, 1);
    wide.put_i32(i32::MAX);
    let mut compact = header(ApiKey::Metadata, 9);
    compact.put_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    // A tagged field that the codec would read as a text of its own length, whatever the tag says.
    let mut tagged = header(ApiKey::Fetch, 12);
    tagged.put_u8(0);
    tagged.put_slice(&[0; 25]);
    tagged.put_slice(&[1, 1, 1, 1, 0, 1, 5]);
    for frame in [wide, compact, tagged] {
        let mut raw = Raw::connect(&broker.bootstrap()).await;
        raw.send_frame(&frame).await;
        assert_eq!(raw.frame().await, None);
    }
    until("each was counted", async || {
        counter("zeelos_kafka_malformed_requests_total") >= before + 3
    })
    .await;

    // More elements than a request may have, all of them there.
    let mut many = header(ApiKey::DescribeGroups, 0);
    many.put_i32(300_000);
    many.put_bytes(0, 600_000);
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    raw.send_frame(&many).await;
    assert_eq!(raw.frame().await, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_larger_than_the_limit_closes_its_connection() {
    let broker = Embedded::start_with(|config| config.limits.request_bytes = 10_000).await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    raw.send_bytes(&10_001i32.to_be_bytes()).await;
    assert_eq!(raw.frame().await, None);
    // One that is begun and not finished is given up after its time.
    broker.stop().await;
    let broker =
        Embedded::start_with(|config| config.limits.request_timeout = Duration::from_millis(50))
            .await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    raw.send_bytes(&[0, 0, 1, 0, 0, 3]).await;
    assert_eq!(raw.frame().await, None);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_partitions_are_bounded() {
    let broker = Embedded::start_with(|config| {
        config.limits.connections = 2;
        config.limits.partitions = 3;
    })
    .await;
    let mut one = Raw::connect(&broker.bootstrap()).await;
    one.create_topic("three", 3).await;
    let two = Raw::connect(&broker.bootstrap()).await;
    let mut three = Raw::connect(&broker.bootstrap()).await;
    assert_eq!(three.frame().await, None, "the third is closed at once");
    drop(two);
    until("there is room again", async || {
        let mut next = Raw::connect(&broker.bootstrap()).await;
        tokio::time::timeout(Duration::from_millis(200), next.frame())
            .await
            .is_err()
    })
    .await;
    use kafka_protocol::messages::{CreateTopicsRequest, create_topics_request::CreatableTopic};
    let more = CreatableTopic::default()
        .with_name(crate::raw::name("more"))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let refused = one
        .call(5, &CreateTopicsRequest::default().with_topics(vec![more]))
        .await;
    assert_eq!(refused.topics[0].error_code, 44, "POLICY_VIOLATION");
    assert!(
        refused.topics[0]
            .error_message
            .as_ref()
            .unwrap()
            .contains("at most 3 partitions")
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_refused_with_a_reason() {
    let broker = Embedded::start().await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let id = StrBytes::from_static_str("tx");
    let find = FindCoordinatorRequest::default()
        .with_key(id.clone())
        .with_key_type(1);
    let refused = raw.call(2, &find).await;
    assert_eq!(
        refused.error_code, 53,
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"
    );
    assert!(refused.error_message.unwrap().contains("single-node"));
    let init = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(id)));
    let refused = raw.call(4, &init).await;
    assert_eq!((refused.error_code, refused.producer_id.0), (53, -1));

    // A client sees it at once, with the reason.
    let producer: FutureProducer = client(&broker.bootstrap())
        .set("transactional.id", "tx")
        .create()
        .unwrap();
    let asked = tokio::task::spawn_blocking(move || producer.init_transactions(PATIENCE));
    let failure = asked.await.unwrap().unwrap_err().to_string();
    assert!(failure.contains("single-node"), "{failure}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_sessions_are_declined() {
    let broker = Embedded::start().await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    raw.create_topic("t", 1).await;
    raw.produce("t", 0, Batch::of(&["v"]).bytes()).await;
    let answered: <FetchRequest as kafka_protocol::protocol::Request>::Response = raw
        .call(11, &fetch_request("t", 0, 0, 1000, 0).with_session_epoch(0))
        .await;
    assert_eq!(
        answered.session_id, 0,
        "a client that asks for a session is told to ask in full"
    );
    let unknown = raw
        .call(
            11,
            &fetch_request("t", 0, 0, 1000, 0)
                .with_session_id(7)
                .with_session_epoch(1),
        )
        .await;
    assert_eq!(unknown.error_code, 70, "FETCH_SESSION_ID_NOT_FOUND");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_is_out_after_its_session() {
    let broker = Embedded::start().await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let join = |timeout: i32| {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        JoinGroupRequest::default()
            .with_group_id(text("g").into())
            .with_session_timeout_ms(timeout)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    };
    assert_eq!(
        raw.call(2, &join(1)).await.error_code,
        26,
        "INVALID_SESSION_TIMEOUT"
    );
    let silent = raw.call(2, &join(1_000)).await;
    assert_eq!((silent.error_code, silent.members.len()), (0, 1));
    // Nothing is heard of it again: the next one need not wait for it longer than its session.
    let next = raw.call(2, &join(30_000)).await;
    assert_eq!((next.error_code, next.members.len()), (0, 1));
    assert!(next.generation_id > silent.generation_id);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_those_who_wait() {
    let broker = Embedded::start().await;
    let mut raw = Raw::connect(&broker.bootstrap()).await;
    raw.create_topic("t", 1).await;
    raw.send(11, &fetch_request("t", 0, 0, 1000, 60_000)).await;
    tokio::time::timeout(Duration::from_secs(20), broker.stop())
        .await
        .expect("an outstanding fetch does not hold the broker");
}
