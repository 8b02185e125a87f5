//! Consumer groups on the wire.

use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
        HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
        OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
        OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
        delete_groups_response::DeletableGroupResult,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
        list_groups_response::ListedGroup,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};
use uuid::Uuid;

use super::{Answer, Call, code_of, text, topic_name};
use crate::{
    clock::now_ms,
    config::FlushPolicy,
    groups::{
        Code, Coordinator, Description, Join, Sender, millis,
        offsets::{Committed, Place},
    },
    protocol::RequestError,
};

pub(super) async fn join(call: Call) -> Result<Answer, RequestError> {
    let request: JoinGroupRequest = call.request()?;
    let instance_id = request.group_instance_id.as_ref().map(ToString::to_string);
    let name = instance_id.as_deref().unwrap_or(&call.header.client_id);
    let session_timeout = millis(request.session_timeout_ms);
    let join = Join {
        member_id: request.member_id.to_string(),
        new_member_id: format!(
            "{}-{}",
            name.chars().take(255).collect::<String>(),
            Uuid::new_v4()
        ),
        instance_id,
        id_required_first: call.version() >= 4,
        may_skip_assignment: call.version() >= 9,
        client_id: call.header.client_id.clone(),
        client_host: format!("/{}", call.ends.peer.ip()),
        session_timeout,
        // Before version 1 there was one timeout for both.
        rebalance_timeout: if call.version() >= 1 {
            millis(request.rebalance_timeout_ms)
        } else {
            session_timeout
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|p| (p.name.to_string(), p.metadata))
            .collect(),
    };
    let response = JoinGroupResponse::default();
    call.reply(
        &match call.shared.groups.join(&request.group_id, join).await {
            Ok(joined) => {
                let member = |(id, instance, metadata): (String, Option<String>, bytes::Bytes)| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(id))
                        .with_group_instance_id(instance.map(text))
                        .with_metadata(metadata)
                };
                response
                    .with_generation_id(joined.generation)
                    .with_protocol_type(joined.protocol_type.map(text))
                    .with_protocol_name(Some(text(joined.protocol.unwrap_or_default())))
                    .with_leader(text(joined.leader))
                    .with_skip_assignment(joined.skip_assignment)
                    .with_member_id(text(joined.member_id))
                    .with_members(joined.members.into_iter().map(member).collect())
            }
            Err(refused) => response
                .with_error_code(refused.code.code())
                .with_generation_id(-1)
                // Null is allowed from version 7 on.
                .with_protocol_name((call.version() < 7).then(StrBytes::default))
                .with_member_id(text(refused.member_id)),
        },
    )
}

pub(super) async fn sync(call: Call) -> Result<Answer, RequestError> {
    let request: SyncGroupRequest = call.request()?;
    let sender = Sender {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let shares = request
        .assignments
        .into_iter()
        .map(|share| (share.member_id.to_string(), share.assignment))
        .collect();
    let synced = call
        .shared
        .groups
        .sync(
            &request.group_id,
            sender,
            request.protocol_type.as_deref(),
            request.protocol_name.as_deref(),
            shares,
        )
        .await;
    let response = SyncGroupResponse::default();
    call.reply(&match synced {
        Ok(synced) => response
            .with_protocol_type(synced.protocol_type.map(text))
            .with_protocol_name(synced.protocol.map(text))
            .with_assignment(synced.assignment),
        Err(code) => response.with_error_code(code.code()),
    })
}

pub(super) fn heartbeat(call: &Call) -> Result<Answer, RequestError> {
    let request: HeartbeatRequest = call.request()?;
    let sender = Sender {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let beat = call.shared.groups.heartbeat(&request.group_id, sender);
    call.reply(&HeartbeatResponse::default().with_error_code(code_of(&beat)))
}

pub(super) fn leave(call: &Call) -> Result<Answer, RequestError> {
    let request: LeaveGroupRequest = call.request()?;
    let groups = &call.shared.groups;
    let response = LeaveGroupResponse::default();
    if call.version() < 3 {
        let left = groups.leave(&request.group_id, &request.member_id, None);
        return call.reply(&response.with_error_code(code_of(&left)));
    }
    let members = request.members.into_iter().map(|member| {
        let left = groups.leave(
            &request.group_id,
            &member.member_id,
            member.group_instance_id.as_deref(),
        );
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code_of(&left))
    });
    let members = members.collect();
    call.reply(&response.with_members(members))
}

pub(super) fn commit(call: &Call) -> Result<Answer, RequestError> {
    let request: OffsetCommitRequest = call.request()?;
    let sender = Sender {
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id_or_member_epoch,
    };
    let allowed = call.shared.groups.check_commit(&request.group_id, sender);
    // What each partition is told, in the request's order; those without an error are kept together below.
    let mut outcomes: Vec<Result<(), Code>> = Vec::new();
    let mut kept: Vec<(Place, Committed)> = Vec::new();
    for asked in &request.topics {
        let topic = call.shared.topics.get(&asked.name);
        for ask in &asked.partitions {
            let metadata = ask.committed_metadata.as_deref().unwrap_or_default();
            let known = topic
                .as_ref()
                .is_some_and(|topic| topic.partition(ask.partition_index).is_some());
            let known = if known {
                Ok(())
            } else {
                Err(Code::UnknownTopicOrPartition)
            };
            let outcome = allowed
                .and(known)
                .and_then(|()| Coordinator::check_metadata(metadata));
            if outcome.is_ok() {
                let committed = Committed {
                    offset: ask.committed_offset,
                    leader_epoch: ask.committed_leader_epoch,
                    metadata: metadata.to_owned(),
                };
                kept.push(((asked.name.to_string(), ask.partition_index), committed));
            }
            outcomes.push(outcome);
        }
    }
    let syncs = call.shared.config.flush == FlushPolicy::EveryAppend;
    let written = call
        .shared
        .groups
        .commit(&request.group_id, kept, now_ms(), syncs);
    let mut outcomes = outcomes.into_iter().map(|outcome| outcome.and(written));
    let topics = request.topics.into_iter().map(|asked| {
        let partitions = asked
            .partitions
            .iter()
            .zip(&mut outcomes)
            .map(|(ask, outcome)| {
                OffsetCommitResponsePartition::default()
                    .with_partition_index(ask.partition_index)
                    .with_error_code(code_of(&outcome))
            });
        OffsetCommitResponseTopic::default()
            .with_name(asked.name)
            .with_partitions(partitions.collect())
    });
    let topics = topics.collect();
    call.reply(&OffsetCommitResponse::default().with_topics(topics))
}

/// The committed offsets of one group: of the places asked for, or all it has. -1 where it has none.
fn committed(
    call: &Call,
    group: &str,
    asked: Option<Vec<(String, Vec<i32>)>>,
) -> Vec<(String, Vec<(i32, Committed)>)> {
    let offsets = call.shared.groups.offsets();
    let none = || Committed {
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
    };
    match asked {
        Some(asked) => asked
            .into_iter()
            .map(|(topic, partitions)| {
                let get = |index| {
                    (
                        index,
                        offsets.get(group, &topic, index).unwrap_or_else(none),
                    )
                };
                let found = partitions.into_iter().map(get).collect();
                (topic, found)
            })
            .collect(),
        None => {
            let mut topics: Vec<(String, Vec<(i32, Committed)>)> = Vec::new();
            for ((topic, partition), committed) in offsets.all_of(group) {
                match topics.last_mut() {
                    Some((last, found)) if *last == topic => found.push((partition, committed)),
                    _ => topics.push((topic, vec![(partition, committed)])),
                }
            }
            topics
        }
    }
}

pub(super) fn fetch_offsets(call: &Call) -> Result<Answer, RequestError> {
    let request: OffsetFetchRequest = call.request()?;
    let response = OffsetFetchResponse::default();
    // The epoch came with version 5.
    let epoch = |committed: &Committed| {
        if call.version() >= 5 {
            committed.leader_epoch
        } else {
            -1
        }
    };
    if call.version() >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            let asked = group.topics.map(|topics| {
                topics
                    .into_iter()
                    .map(|topic| (topic.name.to_string(), topic.partition_indexes))
                    .collect()
            });
            let topics =
                committed(call, &group.group_id, asked)
                    .into_iter()
                    .map(|(topic, found)| {
                        let partitions = found.into_iter().map(|(index, committed)| {
                            OffsetFetchResponsePartitions::default()
                                .with_partition_index(index)
                                .with_committed_offset(committed.offset)
                                .with_committed_leader_epoch(epoch(&committed))
                                .with_metadata(Some(text(committed.metadata)))
                        });
                        OffsetFetchResponseTopics::default()
                            .with_name(topic_name(&topic))
                            .with_partitions(partitions.collect())
                    });
            let topics = topics.collect();
            OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id)
                .with_topics(topics)
        });
        let groups = groups.collect();
        return call.reply(&response.with_groups(groups));
    }
    let asked = request.topics.map(|topics| {
        topics
            .into_iter()
            .map(|topic| (topic.name.to_string(), topic.partition_indexes))
            .collect()
    });
    let topics = committed(call, &request.group_id, asked)
        .into_iter()
        .map(|(topic, found)| {
            let partitions = found.into_iter().map(|(index, committed)| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(committed.offset)
                    .with_committed_leader_epoch(epoch(&committed))
                    .with_metadata(Some(text(committed.metadata)))
            });
            OffsetFetchResponseTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions.collect())
        });
    let topics = topics.collect();
    call.reply(&response.with_topics(topics))
}

pub(super) fn delete_offsets(call: &Call) -> Result<Answer, RequestError> {
    let request: OffsetDeleteRequest = call.request()?;
    let groups = &call.shared.groups;
    let mut missing = false;
    let mut forgotten: Vec<Place> = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let outcome = match groups.is_subscribed(&request.group_id, &asked.name) {
            None => {
                missing = true;
                Ok(())
            }
            Some(true) => Err(Code::GroupSubscribedToTopic),
            Some(false) => Ok(()),
        };
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for ask in asked.partitions {
            if outcome.is_ok() {
                forgotten.push((asked.name.to_string(), ask.partition_index));
            }
            let answer =
                OffsetDeleteResponsePartition::default().with_partition_index(ask.partition_index);
            partitions.push(answer.with_error_code(code_of(&outcome)));
        }
        topics.push(
            OffsetDeleteResponseTopic::default()
                .with_name(asked.name)
                .with_partitions(partitions),
        );
    }
    let response = OffsetDeleteResponse::default();
    if missing {
        return call.reply(&response.with_error_code(Code::GroupIdNotFound.code()));
    }
    call.reply(
        &match groups.offsets().forget(&request.group_id, forgotten) {
            Ok(()) => response.with_topics(topics),
            Err(error) => {
                tracing::error!(%error, "committed offsets could not be deleted");
                response.with_error_code(Code::CoordinatorNotAvailable.code())
            }
        },
    )
}

pub(super) fn list(call: &Call) -> Result<Answer, RequestError> {
    let request: ListGroupsRequest = call.request()?;
    let states = &request.states_filter;
    let types = &request.types_filter;
    let is_wanted = |group: &Description| {
        (states.is_empty()
            || states
                .iter()
                .any(|state| state.eq_ignore_ascii_case(group.state)))
            && (types.is_empty()
                || types
                    .iter()
                    .any(|kind| kind.eq_ignore_ascii_case("classic")))
    };
    let groups = call
        .shared
        .groups
        .list()
        .into_iter()
        .filter(is_wanted)
        .map(|group| {
            ListedGroup::default()
                .with_group_id(text(group.group).into())
                .with_protocol_type(text(group.protocol_type))
                .with_group_state(text(group.state))
                .with_group_type(text("classic"))
        });
    let groups = groups.collect();
    call.reply(&ListGroupsResponse::default().with_groups(groups))
}

pub(super) fn describe(call: &Call) -> Result<Answer, RequestError> {
    let request: DescribeGroupsRequest = call.request()?;
    let groups = request.groups.into_iter().map(|id| {
        let answer = DescribedGroup::default().with_group_id(id.clone());
        let Some(group) = call.shared.groups.describe(&id) else {
            let answer = answer.with_group_state(text("Dead"));
            // Before version 6 an unknown group was a dead one, without an error (KIP-1043).
            return if call.version() >= 6 {
                let message = text(format!("there is no group {}", id.as_str()));
                answer
                    .with_error_code(Code::GroupIdNotFound.code())
                    .with_error_message(Some(message))
            } else {
                answer
            };
        };
        let members = group.members.into_iter().map(|member| {
            let answer = DescribedGroupMember::default()
                .with_member_id(text(member.member_id))
                .with_client_id(text(member.client_id))
                .with_client_host(text(member.client_host))
                .with_member_metadata(member.metadata)
                .with_member_assignment(member.assignment);
            // The instance id came with version 4.
            if call.version() >= 4 {
                answer.with_group_instance_id(member.instance_id.map(text))
            } else {
                answer
            }
        });
        answer
            .with_group_state(text(group.state))
            .with_protocol_type(text(group.protocol_type))
            .with_protocol_data(text(group.protocol))
            .with_members(members.collect())
    });
    let groups = groups.collect();
    call.reply(&DescribeGroupsResponse::default().with_groups(groups))
}

pub(super) fn delete(call: &Call) -> Result<Answer, RequestError> {
    let request: DeleteGroupsRequest = call.request()?;
    let results = request.groups_names.into_iter().map(|group| {
        let deleted = call.shared.groups.delete(&group);
        DeletableGroupResult::default()
            .with_group_id(group)
            .with_error_code(code_of(&deleted))
    });
    let results = results.collect();
    call.reply(&DeleteGroupsResponse::default().with_results(results))
}
