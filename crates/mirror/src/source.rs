//! The client that reads: partitions are assigned by hand, from where the offsets say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::Transfer;
use crate::bandwidth::{self, Wire};
use crate::state::Shared;

pub(crate) struct Source {
    consumer: BaseConsumer<Reports>,
}

/// What the client reports; told on the thread that polls.
pub(crate) struct Reports {
    shared: Arc<Shared>,
    wire: Wire,
}

impl ClientContext for Reports {
    fn stats_raw(&self, statistics: &[u8]) {
        if self.shared.flow.transfer == Transfer::Pull
            && let Some(total) = bandwidth::total(statistics, "rx_bytes")
        {
            self.shared.crossed(&self.wire, total);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the source's client");
    }
}

impl ConsumerContext for Reports {}

/// How long a new client is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long the group's coordinator is waited for.
const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// By how many records the queue is bounded, so that small ones with their overhead in librdkafka don't fill the memory.
const SMALL_RECORD: usize = 160;

impl Source {
    pub(crate) fn open(shared: &Arc<Shared>) -> anyhow::Result<Self> {
        let fetch_bytes = shared.queue_bytes(Transfer::Pull, 2 * 1024 * 1024);
        let mut config = shared.source.client_config();
        config
            .set("group.id", &shared.flow.name)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // Where the source deleted what was to be read next, the lane counts the loss and goes on.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            // The default of 1 s starves a consumer that is slower than its fetcher.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.message.max.bytes", fetch_bytes.to_string())
            .set("fetch.max.bytes", fetch_bytes.to_string())
            // Or it refuses a smaller one; a larger record is fetched all the same.
            .set("message.max.bytes", fetch_bytes.to_string())
            .set(
                "queued.max.messages.kbytes",
                // Twice a fetch, or the next one would be asked for only when this one is used up.
                (2 * fetch_bytes / 1024).to_string(),
            )
            .set(
                "queued.min.messages",
                (2 * fetch_bytes / SMALL_RECORD).to_string(),
            )
            // An outage is told by who looks for new topics, more surely.
            .set("statistics.interval.ms", shared.statistics_interval_ms());
        let context = Reports {
            shared: Arc::clone(shared),
            wire: Wire::default(),
        };
        let consumer: BaseConsumer<Reports> = config.create_with_context(context)?;
        // Connects, and learns who leads what, so that it reads at once when it is told what to read.
        let _ = consumer.fetch_metadata(None, CONNECT_LIMIT);
        Ok(Self { consumer })
    }

    pub(crate) fn poll(&self, wait: Duration) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        self.consumer.poll(wait)
    }

    /// Pays for records that were read, where the link is on this side.
    pub(crate) fn pay(&self, bytes: usize) {
        let context = self.consumer.context();
        if context.shared.flow.transfer == Transfer::Pull {
            context.shared.pay_ahead(&context.wire, bytes);
        }
    }

    pub(crate) fn assign(&self, places: &[(&str, i32, i64)]) -> KafkaResult<()> {
        self.consumer.incremental_assign(&list(places)?)
    }

    pub(crate) fn unassign(&self, places: &[(&str, i32, i64)]) -> KafkaResult<()> {
        self.consumer.incremental_unassign(&list(places)?)
    }

    /// Reads on from these offsets; what was fetched already is forgotten.
    pub(crate) fn rewind(&self, places: &[(&str, i32, i64)]) -> KafkaResult<()> {
        self.unassign(places)?;
        self.assign(places)
    }

    /// Waits until the group's coordinator is found: until then nothing would be committed, however much is carried.
    pub(crate) fn find_group(&self, topic: &str) {
        let asked = list(&[(topic, 0, END)]);
        let found = asked.and_then(|asked| self.consumer.committed_offsets(asked, GROUP_LIMIT));
        if let Err(error) = found {
            tracing::debug!(%error, "the group's coordinator was not found yet");
        }
    }

    /// Commits to the flow's group; without waiting it is not told whether it was done. The note says which process did.
    pub(crate) fn commit(
        &self,
        places: &[(&str, i32, i64)],
        note: &str,
        mode: CommitMode,
    ) -> KafkaResult<()> {
        self.consumer.commit(&with_note(list(places)?, note), mode)
    }

    /// First or last offsets, all in one request to each leader.
    pub(crate) fn ask(&self, places: &[(&str, i32, i64)], limit: Duration) -> KafkaResult<Places> {
        ask(&self.consumer, places, limit)
    }

    /// The next offset of each partition of which something came: also behind what ends transactions, which is no record.
    pub(crate) fn positions(&self) -> KafkaResult<Places> {
        Ok(offsets_of(&self.consumer.position()?))
    }

    /// The first offset of a partition with a record as young as this; `None` where there is none, or no answer.
    pub(crate) fn offset_at(
        &self,
        topic: &str,
        partition: i32,
        timestamp_ms: i64,
        limit: Duration,
    ) -> Option<i64> {
        let asked = list(&[(topic, partition, timestamp_ms)]).ok()?;
        let found = self.consumer.offsets_for_times(asked, limit).ok()?;
        match found.elements().first()?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

/// What this process writes beside an offset it commits: later processes sort higher.
pub(crate) fn note(instance: &str) -> String {
    format!("{NOTE}{instance}")
}

/// The process that a note names.
pub(crate) fn noted(note: &str) -> Option<&str> {
    note.strip_prefix(NOTE)
}

const NOTE: &str = "zeelos-mirror/";

/// A partition, and something about it.
pub(crate) type Places = BTreeMap<(String, i32), i64>;

/// As Kafka's request for offsets has them.
pub(crate) const BEGINNING: i64 = -2;
pub(crate) const END: i64 = -1;

/// Offsets by time, [`BEGINNING`] or [`END`]; partitions that have none now are not among the answers.
pub(crate) fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    places: &[(&str, i32, i64)],
    limit: Duration,
) -> KafkaResult<Places> {
    let found = consumer.offsets_for_times(list(places)?, limit)?;
    Ok(offsets_of(&found))
}

pub(crate) fn offsets_of(list: &TopicPartitionList) -> Places {
    let mut found = Places::new();
    for element in list.elements() {
        if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
            found.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    found
}

pub(crate) fn list(places: &[(&str, i32, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition, offset) in places {
        list.add_partition_offset(topic, *partition, Offset::from_raw(*offset))?;
    }
    Ok(list)
}

pub(crate) fn with_note(list: TopicPartitionList, note: &str) -> TopicPartitionList {
    for mut element in list.elements() {
        element.set_metadata(note);
    }
    list
}
