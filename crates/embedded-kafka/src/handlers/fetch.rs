//! Fetch: waits until enough is there, then reads it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kafka_protocol::messages::{
    FetchRequest, FetchResponse,
    fetch_request::FetchPartition,
    fetch_response::{FetchableTopicResponse, PartitionData},
};
use tokio::sync::Notify;

use super::{Answer, Call};
use crate::{
    groups::Code,
    log::{PartitionLog, ReadError},
    metrics,
    protocol::RequestError,
    topics::Topic,
};

/// Longest wait whatever the client asks for; an empty answer then is as good as a longer wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Fetches that could read more than this leave the connection's task.
const INLINE_BYTES: usize = 256 << 10;
/// From this version on topics are named by their ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
) -> Result<T, RequestError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(RequestError::Stopping),
    }
}

/// A partition that is asked for, if it is there.
struct Wanted {
    log: Result<Arc<PartitionLog>, Code>,
    ask: FetchPartition,
}

struct WantedTopic {
    answer: FetchableTopicResponse,
    partitions: Vec<Wanted>,
}

/// Has a fetch woken by appends to its partitions for as long as it lives.
struct Watch {
    notify: Arc<Notify>,
    logs: Vec<Arc<PartitionLog>>,
}

impl Watch {
    fn new(topics: &[WantedTopic]) -> Self {
        let notify = Arc::new(Notify::new());
        let wanted = topics.iter().flat_map(|topic| &topic.partitions);
        let logs: Vec<_> = wanted
            .filter_map(|partition| partition.log.as_ref().ok().cloned())
            .collect();
        for log in &logs {
            log.watch(&notify);
        }
        Self { notify, logs }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for log in &self.logs {
            log.unwatch(&self.notify);
        }
    }
}

pub(super) async fn fetch(call: Call) -> Result<Answer, RequestError> {
    let request: FetchRequest = call.request()?;
    // There are no fetch sessions here: every answer says session 0, so clients ask in full each time (KIP-227).
    if request.session_id != 0 {
        let refused = FetchResponse::default().with_error_code(Code::FetchSessionIdNotFound.code());
        return call.reply(&refused);
    }
    let min_bytes = u64::try_from(request.min_bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let max_bytes = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(call.shared.config.limits.fetch_bytes);
    let topics = find(&call, request);

    let deadline = Instant::now() + wait;
    // Watching begins before looking, so that nothing written in between is missed.
    let watch = Watch::new(&topics);
    let stop = call.shared.stop.clone();
    while !is_enough(&topics, min_bytes) {
        let more = tokio::time::timeout_at(deadline.into(), watch.notify.notified());
        tokio::select! {
            woken = more => if woken.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    drop(watch);
    if !exceeds(&topics, INLINE_BYTES as u64) {
        return read_all(&call, topics, max_bytes);
    }
    blocking(move || read_all(&call, topics, max_bytes)).await
}

fn find(call: &Call, request: FetchRequest) -> Vec<WantedTopic> {
    let by_id = call.version() >= TOPIC_IDS_FROM;
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = if by_id {
            call.shared
                .topics
                .by_id(asked.topic_id)
                .ok_or(Code::UnknownTopicId)
        } else {
            call.shared
                .topics
                .get(&asked.topic)
                .ok_or(Code::UnknownTopicOrPartition)
        };
        let partitions = asked.partitions.into_iter();
        let partitions = partitions
            .map(|ask| Wanted {
                log: partition(&topic, &ask),
                ask,
            })
            .collect();
        let answer = FetchableTopicResponse::default();
        let answer = if by_id {
            answer.with_topic_id(asked.topic_id)
        } else {
            answer.with_topic(asked.topic)
        };
        topics.push(WantedTopic { answer, partitions });
    }
    topics
}

fn partition(
    topic: &Result<Arc<Topic>, Code>,
    ask: &FetchPartition,
) -> Result<Arc<PartitionLog>, Code> {
    // One node's leader epoch is 0 for ever.
    if ask.current_leader_epoch > 0 {
        return Err(Code::UnknownLeaderEpoch);
    }
    let topic = topic.as_ref().map_err(|code| *code)?;
    topic
        .partition(ask.partition)
        .ok_or(Code::UnknownTopicOrPartition)
}

/// Whether more than `bytes` could be read.
fn exceeds(topics: &[WantedTopic], bytes: u64) -> bool {
    let mut total = 0u64;
    topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .any(|wanted| {
            let most = u64::try_from(wanted.ask.partition_max_bytes).unwrap_or(0);
            if let Ok(Ok(available)) = wanted
                .log
                .as_ref()
                .map(|log| log.available(wanted.ask.fetch_offset))
            {
                total = total.saturating_add(available.min(most));
            }
            total > bytes
        })
}

/// Whether there is something to answer: enough bytes, an error, or nothing was asked for.
fn is_enough(topics: &[WantedTopic], min_bytes: u64) -> bool {
    if topics.iter().all(|topic| topic.partitions.is_empty()) {
        return true;
    }
    let mut bytes = 0u64;
    for wanted in topics.iter().flat_map(|topic| &topic.partitions) {
        match wanted
            .log
            .as_ref()
            .map(|log| log.available(wanted.ask.fetch_offset))
        {
            Ok(Ok(available)) => bytes = bytes.saturating_add(available),
            Ok(Err(_)) | Err(_) => return true,
        }
        if bytes >= min_bytes {
            return true;
        }
    }
    bytes >= min_bytes
}

fn read_all(
    call: &Call,
    topics: Vec<WantedTopic>,
    max_bytes: usize,
) -> Result<Answer, RequestError> {
    let mut left = max_bytes;
    let mut is_first = true;
    let mut responses = Vec::with_capacity(topics.len());
    for WantedTopic { answer, partitions } in topics {
        let mut answers = Vec::with_capacity(partitions.len());
        for wanted in partitions {
            let (data, bytes) = read(&wanted, left, is_first);
            is_first &= bytes == 0;
            left = left.saturating_sub(bytes);
            metrics::BYTES_OUT.inc_by(bytes as u64);
            answers.push(data);
        }
        responses.push(answer.with_partitions(answers));
    }
    call.reply(&FetchResponse::default().with_responses(responses))
}

/// Reads one partition. The first batch of an answer comes whatever its size, so that a consumer never stands still (KIP-74).
fn read(wanted: &Wanted, left: usize, is_first: bool) -> (PartitionData, usize) {
    let data = PartitionData::default()
        .with_partition_index(wanted.ask.partition)
        .with_aborted_transactions(Some(Vec::new()))
        .with_records(Some(Bytes::new()));
    let none = |data: PartitionData, code: Code| {
        let data = data
            .with_error_code(code.code())
            .with_high_watermark(-1)
            .with_last_stable_offset(-1);
        (data.with_log_start_offset(-1), 0)
    };
    let log = match &wanted.log {
        Ok(log) => log,
        Err(code) => return none(data, *code),
    };
    let max = usize::try_from(wanted.ask.partition_max_bytes)
        .unwrap_or(0)
        .min(left);
    let read = if max == 0 && !is_first {
        Ok(Vec::new())
    } else {
        log.read(wanted.ask.fetch_offset, max, is_first)
    };
    let bounds = log.bounds();
    let data = data
        .with_high_watermark(bounds.end)
        .with_last_stable_offset(bounds.end)
        .with_log_start_offset(bounds.start);
    match read {
        Ok(bytes) => {
            let len = bytes.len();
            (data.with_records(Some(bytes.into())), len)
        }
        Err(ReadError::OutOfRange) => none(data, Code::OffsetOutOfRange),
        Err(ReadError::Removed) => none(data, Code::UnknownTopicOrPartition),
        Err(error @ ReadError::Io(_)) => {
            tracing::error!(partition = wanted.ask.partition, %error, "a fetch failed");
            none(data, Code::KafkaStorageError)
        }
    }
}
