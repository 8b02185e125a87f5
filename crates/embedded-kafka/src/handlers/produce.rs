//! Produce and InitProducerId.

use kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
    produce_request::{PartitionProduceData, TopicProduceData},
    produce_response::{PartitionProduceResponse, TopicProduceResponse},
};
use tracing::{error, warn};

use super::{Answer, Call, blocking, message};
use crate::{
    clock::now_ms,
    config::FlushPolicy,
    groups::Code,
    log::{AppendError, batch::BatchError},
    metrics,
    protocol::RequestError,
    topics::Topic,
};

/// Requests up to this size are appended on the connection's own task: the page cache takes them in microseconds.
const INLINE_BYTES: usize = 256 << 10;

pub(super) async fn produce(call: Call) -> Result<Answer, RequestError> {
    let request: ProduceRequest = call.request()?;
    let syncs = call.shared.config.flush == FlushPolicy::EveryAppend;
    if call.body.len() <= INLINE_BYTES && !syncs {
        return append_all(&call, request);
    }
    blocking(move || append_all(&call, request)).await
}

fn append_all(call: &Call, request: ProduceRequest) -> Result<Answer, RequestError> {
    let acks = request.acks;
    let valid = (-1..=1).contains(&acks);
    let mut failed = false;
    let mut responses = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = call.shared.topics.get(&data.name);
        let answer = |partition: &PartitionProduceData| {
            if valid {
                append(call, topic.as_deref(), partition)
            } else {
                refused(partition.index, Code::InvalidRequiredAcks)
            }
        };
        let answers: Vec<_> = data.partition_data.iter().map(answer).collect();
        failed |= answers.iter().any(|answer| answer.error_code != 0);
        let TopicProduceData { name, .. } = data;
        responses.push(
            TopicProduceResponse::default()
                .with_name(name)
                .with_partition_responses(answers),
        );
    }
    if acks != 0 {
        return call.reply(&ProduceResponse::default().with_responses(responses));
    }
    if failed {
        // Nobody waits for an answer that could carry the error: a closed connection is what tells the producer to look again.
        return Err(RequestError::Unanswerable);
    }
    Ok(None)
}

fn append(
    call: &Call,
    topic: Option<&Topic>,
    data: &PartitionProduceData,
) -> PartitionProduceResponse {
    let found = topic.and_then(|topic| Some((topic, topic.partition(data.index)?)));
    let Some((topic, log)) = found else {
        return refused(data.index, Code::UnknownTopicOrPartition);
    };
    let sync = call.shared.config.flush == FlushPolicy::EveryAppend;
    let records = data.records.as_deref().unwrap_or_default();
    let answer = PartitionProduceResponse::default().with_index(data.index);
    let appended = log.append(records, &topic.config(), now_ms(), sync);
    let (disk, place) = (
        &call.shared.disk,
        format_args!("{}-{}", topic.name, data.index),
    );
    match &appended {
        Ok(_) => disk.works(place),
        Err(AppendError::Io(error)) => disk.failed(place, error),
        // The record's fault, or the sender's.
        Err(_) => {}
    }
    match appended {
        Ok(appended) => answer
            .with_base_offset(appended.base_offset)
            .with_log_append_time_ms(appended.log_append_time_ms)
            .with_log_start_offset(appended.log_start),
        Err(failure) => {
            metrics::REFUSED_BATCHES.inc();
            let (topic, partition, client) = (&topic.name, data.index, &call.header.client_id);
            match &failure {
                AppendError::Io(_) => {
                    error!(topic, partition, error = %failure, "a record batch was not stored")
                }
                _ => {
                    warn!(topic, partition, client, error = %failure, "a record batch was refused")
                }
            }
            let refused = refused(data.index, code(&failure));
            // The message came with version 8 (KIP-467).
            if call.version() >= 8 {
                refused.with_error_message(message(&failure))
            } else {
                refused
            }
        }
    }
}

fn refused(partition: i32, code: Code) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_index(partition)
        .with_error_code(code.code())
        .with_base_offset(-1)
        .with_log_start_offset(-1)
}

fn code(error: &AppendError) -> Code {
    match error {
        AppendError::Batch(error) => match error {
            BatchError::Truncated { .. } | BatchError::Length(_) | BatchError::Crc { .. } => {
                Code::CorruptMessage
            }
            BatchError::TooLarge { .. } => Code::MessageTooLarge,
            BatchError::Transactional => Code::InvalidTxnState,
            BatchError::Compression(_) => Code::UnsupportedCompressionType,
            BatchError::OldFormat(_)
            | BatchError::Count { .. }
            | BatchError::SeveralBatches
            | BatchError::Control
            | BatchError::Sequence => Code::InvalidRecord,
        },
        AppendError::OutOfOrder => Code::OutOfOrderSequenceNumber,
        AppendError::Fenced => Code::InvalidProducerEpoch,
        AppendError::Removed => Code::UnknownTopicOrPartition,
        AppendError::Io(_) => Code::KafkaStorageError,
    }
}

pub(super) fn init_producer_id(call: &Call) -> Result<Answer, RequestError> {
    let request: InitProducerIdRequest = call.request()?;
    let answer = InitProducerIdResponse::default();
    if let Some(id) = &request.transactional_id {
        warn!(
            transactional_id = id.as_str(),
            "refused: transactions need Apache Kafka, this is a single-node broker"
        );
        // The one code that both librdkafka and the Java client take for final; others they retry in silence.
        let refused = answer.with_error_code(Code::TransactionalIdAuthorizationFailed.code());
        return call.reply(
            &refused
                .with_producer_id((-1).into())
                .with_producer_epoch(-1),
        );
    }
    call.reply(&match call.shared.producer_ids.next() {
        Ok(id) => answer.with_producer_id(id.into()).with_producer_epoch(0),
        Err(error) => {
            error!(%error, "producer ids could not be set aside: check the disk of the data directory");
            let refused = answer.with_error_code(Code::CoordinatorNotAvailable.code());
            refused.with_producer_id((-1).into()).with_producer_epoch(-1)
        }
    })
}
