//! ListOffsets and OffsetForLeaderEpoch.

use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    list_offsets_request::ListOffsetsPartition,
    list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
};
use tracing::error;

use super::{Answer, Call};
use crate::{
    groups::Code,
    log::{PartitionLog, ReadError, TimeQuery},
    protocol::RequestError,
};

// Timestamps that stand for places (KIP-734, KIP-405, KIP-1005).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
/// The only leader epoch there is.
const EPOCH: i32 = 0;

pub(super) fn list_offsets(call: &Call) -> Result<Answer, RequestError> {
    let request: ListOffsetsRequest = call.request()?;
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = call.shared.topics.get(&asked.name);
        let mut answers = Vec::with_capacity(asked.partitions.len());
        for ask in asked.partitions {
            let log = topic
                .as_ref()
                .and_then(|topic| topic.partition(ask.partition_index));
            let found = match log {
                None => Err(Code::UnknownTopicOrPartition),
                Some(_) if ask.current_leader_epoch > EPOCH => Err(Code::UnknownLeaderEpoch),
                Some(log) => find(&log, &ask),
            };
            let answer =
                ListOffsetsPartitionResponse::default().with_partition_index(ask.partition_index);
            answers.push(match found {
                Ok((offset, timestamp)) => {
                    let answer = answer.with_offset(offset).with_timestamp(timestamp);
                    // The epoch came with version 4, and only an offset that was found has one.
                    if call.version() >= 4 && offset >= 0 {
                        answer.with_leader_epoch(EPOCH)
                    } else {
                        answer
                    }
                }
                Err(code) => answer
                    .with_error_code(code.code())
                    .with_offset(-1)
                    .with_timestamp(-1),
            });
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(asked.name)
                .with_partitions(answers),
        );
    }
    call.reply(&ListOffsetsResponse::default().with_topics(topics))
}

/// Offset and timestamp; both -1 where nothing fits.
fn find(log: &PartitionLog, ask: &ListOffsetsPartition) -> Result<(i64, i64), Code> {
    let query = match ask.timestamp {
        LATEST => return Ok((log.bounds().end, -1)),
        EARLIEST | EARLIEST_LOCAL => return Ok((log.bounds().start, -1)),
        LATEST_TIERED => return Ok((-1, -1)),
        MAX_TIMESTAMP => TimeQuery::Latest,
        timestamp if timestamp >= 0 => TimeQuery::AtOrAfter(timestamp),
        _ => return Err(Code::InvalidRequest),
    };
    match log.find_by_time(query) {
        Ok(found) => Ok(found.unwrap_or((-1, -1))),
        Err(ReadError::OutOfRange) => Ok((-1, -1)),
        Err(ReadError::Removed) => Err(Code::UnknownTopicOrPartition),
        Err(ReadError::Io(failure)) => {
            error!(error = %failure, "a log could not be searched by time");
            Err(Code::KafkaStorageError)
        }
    }
}

pub(super) fn offset_for_leader_epoch(call: &Call) -> Result<Answer, RequestError> {
    let request: OffsetForLeaderEpochRequest = call.request()?;
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = call.shared.topics.get(&asked.topic);
        let answer = |partition: i32, current: i32, epoch: i32| {
            let answer = EpochEndOffset::default().with_partition(partition);
            let Some(log) = topic.as_ref().and_then(|topic| topic.partition(partition)) else {
                return answer.with_error_code(Code::UnknownTopicOrPartition.code());
            };
            match (current, epoch) {
                (current, _) if current > EPOCH => {
                    answer.with_error_code(Code::UnknownLeaderEpoch.code())
                }
                (_, EPOCH) => answer
                    .with_leader_epoch(EPOCH)
                    .with_end_offset(log.bounds().end),
                _ => answer,
            }
        };
        let partitions = asked.partitions.iter();
        let answers = partitions
            .map(|p| answer(p.partition, p.current_leader_epoch, p.leader_epoch))
            .collect();
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(asked.topic)
                .with_partitions(answers),
        );
    }
    call.reply(&OffsetForLeaderEpochResponse::default().with_topics(topics))
}
