//! Consumer groups.

use std::{collections::BTreeSet, time::Duration};

use kafka_protocol::messages::{
    DeleteGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest,
    join_group_request::JoinGroupRequestProtocol,
    leave_group_request::MemberIdentity,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
    sync_group_request::SyncGroupRequestAssignment,
};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
};

use super::text;
use crate::{
    raw::{Raw, name},
    support::{PATIENCE, assigned, client, produce, producer, take, unique, until},
};

pub(crate) async fn two_consumers_share_and_resume(bootstrap: &str) {
    let (topic, group) = (unique("shared"), unique("group"));
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 4).await;
    let join = || -> StreamConsumer {
        let consumer: StreamConsumer = client(bootstrap)
            .set("group.id", &group)
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "200")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[&topic]).unwrap();
        consumer
    };
    let (one, two) = (join(), join());
    let half = |consumer: &StreamConsumer| assigned(consumer).len() == 2;
    until("each of two has two partitions", async || {
        poll(&[&one, &two]).await;
        half(&one) && half(&two)
    })
    .await;
    assert!(assigned(&one).is_disjoint(&assigned(&two)));

    let sender = producer(bootstrap);
    for n in 0..40 {
        produce(&sender, &topic, n % 4, &format!("{n}")).await;
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 40 {
        let next = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                record = one.recv() => (record.unwrap().detach(), &one),
                record = two.recv() => (record.unwrap().detach(), &two),
            }
        });
        let (record, from) = next.await.expect("no record came");
        assert!(
            assigned(from).contains(&record.partition()),
            "each reads its own share"
        );
        assert!(
            seen.insert(record.payload().unwrap().to_vec()),
            "none is read twice"
        );
    }
    one.commit_consumer_state(CommitMode::Sync).unwrap();
    two.commit_consumer_state(CommitMode::Sync).unwrap();

    // One leaves; the other gets its share, and goes on where it had committed.
    let leaving = tokio::task::spawn_blocking(move || drop(one));
    until("the one that stays has all partitions", async || {
        poll(&[&two]).await;
        assigned(&two).len() == 4
    })
    .await;
    leaving.await.unwrap();
    for n in 40..44 {
        produce(&sender, &topic, n % 4, &format!("{n}")).await;
    }
    let rest: BTreeSet<String> = take(&two, 4).await.into_iter().collect();
    assert_eq!(rest, (40..44).map(|n| n.to_string()).collect());
    two.commit_consumer_state(CommitMode::Sync).unwrap();
    tokio::task::spawn_blocking(move || drop(two))
        .await
        .unwrap();

    // A later one resumes.
    let three = join();
    produce(&sender, &topic, 2, "last").await;
    assert_eq!(take(&three, 1).await, ["last"]);
    tokio::task::spawn_blocking(move || drop(three))
        .await
        .unwrap();
}

/// Lets consumers take part in their group; there is nothing to read yet.
async fn poll(consumers: &[&StreamConsumer]) {
    for consumer in consumers {
        let record = tokio::time::timeout(Duration::from_millis(20), consumer.recv()).await;
        assert!(record.is_err(), "nothing was produced yet: {record:?}");
    }
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

fn join_request(group: &str, member: &str, instance: Option<&str>) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(vec![0, 0].into());
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// Waits until the coordinator of Apache Kafka has loaded.
async fn coordinator(raw: &mut Raw, group: &str) {
    let request = FindCoordinatorRequest::default().with_key(text(group));
    loop {
        let found = raw.call(2, &request).await.error_code;
        let joined = raw
            .call(2, &join_request(group, "nobody", None))
            .await
            .error_code;
        if found == 0 && !matches!(joined, 14..=16) {
            assert_eq!(joined, 25, "UNKNOWN_MEMBER_ID");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn sync(
    raw: &mut Raw,
    group: &str,
    member: &str,
    generation: i32,
    share: &str,
) -> (i16, bytes::Bytes) {
    let share = SyncGroupRequestAssignment::default()
        .with_member_id(text(member))
        .with_assignment(share.as_bytes().to_vec().into());
    let request = SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(vec![share]);
    let synced = raw.call(3, &request).await;
    (synced.error_code, synced.assignment)
}

async fn beat(
    raw: &mut Raw,
    group: &str,
    member: &str,
    instance: Option<&str>,
    generation: i32,
) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text));
    raw.call(3, &request).await.error_code
}

pub(crate) async fn a_member_is_led_through_its_group(bootstrap: &str) {
    let group = unique("members");
    let mut raw = Raw::connect(bootstrap).await;
    coordinator(&mut raw, &group).await;

    // KIP-394: a newcomer is told its id first.
    let told = raw.call(5, &join_request(&group, "", None)).await;
    assert_eq!(told.error_code, 79, "MEMBER_ID_REQUIRED");
    let id = told.member_id.to_string();
    let joined = raw.call(5, &join_request(&group, &id, None)).await;
    assert_eq!(joined.error_code, 0);
    assert_eq!(
        (joined.leader.as_str(), joined.members.len()),
        (id.as_str(), 1),
        "alone, it leads"
    );
    let generation = joined.generation_id;
    assert_eq!(
        sync(&mut raw, &group, &id, generation, "all").await,
        (0, "all".into())
    );
    assert_eq!(beat(&mut raw, &group, &id, None, generation).await, 0);
    assert_eq!(
        beat(&mut raw, &group, &id, None, generation + 1).await,
        22,
        "ILLEGAL_GENERATION"
    );
    assert_eq!(
        beat(&mut raw, &group, "stranger", None, generation).await,
        25,
        "UNKNOWN_MEMBER_ID"
    );
    let mut odd = join_request(&group, "", None);
    odd.protocol_type = text("other");
    assert_eq!(
        raw.call(2, &odd).await.error_code,
        23,
        "INCONSISTENT_GROUP_PROTOCOL"
    );

    // A second one joins: the first is asked to join again, and the generation goes up.
    let mut other = Raw::connect(bootstrap).await;
    other.send(2, &join_request(&group, "", None)).await;
    until("the first is told of the rebalance", async || {
        beat(&mut raw, &group, &id, None, generation).await == 27
    })
    .await;
    let again = raw.call(5, &join_request(&group, &id, None)).await;
    let second: JoinGroupResponse = other.answer::<JoinGroupRequest>(2).await;
    assert_eq!((again.error_code, second.error_code), (0, 0));
    assert_eq!(
        (again.generation_id, second.generation_id),
        (generation + 1, generation + 1)
    );
    assert_eq!(
        (again.members.len(), second.members.len()),
        (2, 0),
        "only the leader knows all"
    );

    // The second waits for the leader's word.
    let waiting = SyncGroupRequest::default()
        .with_group_id(group_id(&group))
        .with_generation_id(generation + 1)
        .with_member_id(second.member_id.clone());
    other.send(3, &waiting).await;
    assert_eq!(
        sync(&mut raw, &group, &id, generation + 1, "mine").await,
        (0, "mine".into())
    );
    let share = other.answer::<SyncGroupRequest>(3).await;
    assert_eq!(
        (share.error_code, share.assignment.len()),
        (0, 0),
        "the leader gave it nothing"
    );

    // The leader leaves; the other is told, and joins alone.
    let leave = LeaveGroupRequest::default()
        .with_group_id(group_id(&group))
        .with_member_id(text(&id));
    assert_eq!(raw.call(1, &leave).await.error_code, 0);
    let rest = second.member_id.to_string();
    assert_eq!(
        beat(&mut other, &group, &rest, None, generation + 1).await,
        27
    );
    let alone = other.call(2, &join_request(&group, &rest, None)).await;
    assert_eq!(
        (alone.error_code, alone.leader.as_str()),
        (0, rest.as_str())
    );
    assert_eq!(
        raw.call(1, &leave).await.error_code,
        25,
        "it has left already"
    );
}

pub(crate) async fn a_static_member_is_known_by_its_instance(bootstrap: &str) {
    let group = unique("statics");
    let mut raw = Raw::connect(bootstrap).await;
    coordinator(&mut raw, &group).await;
    let joined = raw
        .call(5, &join_request(&group, "", Some("sensor-1")))
        .await;
    assert_eq!(
        joined.error_code, 0,
        "a static member needs no second request"
    );
    let (id, generation) = (joined.member_id.to_string(), joined.generation_id);
    assert_eq!(sync(&mut raw, &group, &id, generation, "share").await.0, 0);

    // It restarts: same instance, no member id. No rebalance, the same generation; the old id is fenced.
    let back = raw
        .call(5, &join_request(&group, "", Some("sensor-1")))
        .await;
    assert_eq!((back.error_code, back.generation_id), (0, generation));
    assert_ne!(back.member_id.as_str(), id);
    assert_eq!(
        beat(&mut raw, &group, &id, Some("sensor-1"), generation).await,
        82,
        "FENCED_INSTANCE_ID"
    );
    let new = back.member_id.to_string();
    assert_eq!(
        beat(&mut raw, &group, &new, Some("sensor-1"), generation).await,
        0
    );
    assert_eq!(
        sync(&mut raw, &group, &new, generation, "ignored").await,
        (0, "share".into())
    );
    let leave = LeaveGroupRequest::default()
        .with_group_id(group_id(&group))
        .with_members(vec![
            MemberIdentity::default().with_group_instance_id(Some(text("sensor-1"))),
        ]);
    let left = raw.call(3, &leave).await;
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
}

pub(crate) async fn committed_offsets_are_kept_per_group(bootstrap: &str) {
    let topic = unique("commits");
    let (one, two) = (unique("one"), unique("two"));
    let mut raw = Raw::connect(bootstrap).await;
    raw.create_topic(&topic, 2).await;
    coordinator(&mut raw, &one).await;
    coordinator(&mut raw, &two).await;
    let commit = |group: &str, partition: i32, offset: i64, metadata: &str| {
        let ask = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text(metadata)));
        let asked = OffsetCommitRequestTopic::default()
            .with_name(name(&topic))
            .with_partitions(vec![ask]);
        OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![asked])
    };
    let mut committed = async |request: OffsetCommitRequest| {
        raw.call(8, &request).await.topics[0].partitions[0].error_code
    };
    assert_eq!(committed(commit(&one, 0, 7, "note")).await, 0);
    assert_eq!(committed(commit(&two, 1, 9, "")).await, 0);
    assert_eq!(
        committed(commit(&one, 0, 8, &"m".repeat(5_000))).await,
        12,
        "OFFSET_METADATA_TOO_LARGE"
    );
    assert_eq!(
        committed(commit(&one, 5, 1, "")).await,
        3,
        "UNKNOWN_TOPIC_OR_PARTITION"
    );
    let mut stranger = commit(&one, 0, 99, "");
    stranger.member_id = text("stranger");
    stranger.generation_id_or_member_epoch = 3;
    assert!(
        matches!(committed(stranger).await, 22 | 25),
        "only members commit as members"
    );

    // Several groups in one request (version 8): some places, or all there are.
    let places = OffsetFetchRequestTopics::default()
        .with_name(name(&topic))
        .with_partition_indexes(vec![0, 1]);
    let request = OffsetFetchRequest::default().with_groups(vec![
        OffsetFetchRequestGroup::default()
            .with_group_id(group_id(&one))
            .with_topics(Some(vec![places])),
        OffsetFetchRequestGroup::default()
            .with_group_id(group_id(&two))
            .with_topics(None),
    ]);
    let found = raw.call(8, &request).await;
    let places: Vec<Vec<(i32, i64)>> = found
        .groups
        .iter()
        .map(|group| {
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions
                .map(|p| (p.partition_index, p.committed_offset))
                .collect()
        })
        .collect();
    assert_eq!(places, [vec![(0, 7), (1, -1)], vec![(1, 9)]]);
    assert_eq!(
        found.groups[0].topics[0].partitions[0].metadata.as_deref(),
        Some("note")
    );

    let delete = DeleteGroupsRequest::default()
        .with_groups_names(vec![group_id(&two), group_id("no such group")]);
    let deleted = raw.call(1, &delete).await;
    let codes: BTreeSet<(bool, i16)> = deleted
        .results
        .iter()
        .map(|result| (result.group_id.as_str() == two, result.error_code))
        .collect();
    assert_eq!(codes, [(true, 0), (false, 69)].into(), "GROUP_ID_NOT_FOUND");
    let gone = raw.call(8, &request).await;
    assert!(gone.groups[1].topics.is_empty());

    // The same through a consumer that is assigned by hand.
    let consumer: StreamConsumer = client(bootstrap).set("group.id", &one).create().unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        let mut places = TopicPartitionList::new();
        places.add_partition(&topic, 0);
        consumer
            .committed_offsets(places, PATIENCE)
            .unwrap()
            .elements()[0]
            .offset()
    });
    assert_eq!(asked.await.unwrap(), Offset::Offset(7));
}
