use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use kafka::Cluster;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Where reading has to go on, by partition.
pub(crate) type Offsets = BTreeMap<i32, i64>;

/// Brings the group's committed offsets and the state's own together before reading begins; returns where the state's
/// have to change.
///
/// The state's are the ones that count. Usually they are ahead by what the last commit missed, and those records are
/// passed over. They are behind after a power cut, or where an older copy of the folder was put back: then the
/// group's are put back to them, so that what the windows lost is read again. And they can be beyond the partition's
/// end, where the broker lost its last records or the topic was made anew: then they are brought back to its end, or
/// new records would be passed over as known.
pub(crate) async fn align(
    cluster: &Cluster,
    group: &str,
    topic: &str,
    state: Offsets,
) -> anyhow::Result<Offsets> {
    if state.is_empty() {
        return Ok(Offsets::new());
    }
    let consumer: BaseConsumer = cluster
        .client_config()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()?;
    let (group, topic) = (group.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || align_with(&consumer, &group, &topic, state)).await?
}

fn align_with(
    consumer: &BaseConsumer,
    group: &str,
    topic: &str,
    mut state: Offsets,
) -> anyhow::Result<Offsets> {
    let mut changed = Offsets::new();
    let existing = partitions(consumer, topic)?;
    for (partition, next) in &mut state {
        let (low, high) = if existing.contains(partition) {
            consumer
                .fetch_watermarks(topic, *partition, CALL_LIMIT)
                .with_context(|| format!("can't ask where {topic}/{partition} ends"))?
        } else {
            (0, 0)
        };
        if *next > high {
            tracing::warn!(
                topic,
                partition,
                state = *next,
                end = high,
                "the topic ends before what was read of it: reading goes on at its end"
            );
            *next = high;
            changed.insert(*partition, high);
        } else if *next < low {
            tracing::warn!(
                topic,
                partition,
                state = *next,
                start = low,
                "records were deleted before they were read: the windows lack them"
            );
        }
    }

    let mut wanted = TopicPartitionList::new();
    for partition in state.keys().filter(|p| existing.contains(p)) {
        wanted.add_partition(topic, *partition);
    }
    if wanted.count() == 0 {
        return Ok(changed);
    }
    let committed = consumer
        .committed_offsets(wanted, CALL_LIMIT)
        .with_context(|| format!("can't ask for the committed offsets of group '{group}'"))?;
    let mut back = TopicPartitionList::new();
    for element in committed.elements() {
        if let Offset::Offset(at) = element.offset()
            && let Some(next) = state.get(&element.partition())
            && at > *next
        {
            tracing::warn!(
                topic,
                partition = element.partition(),
                state = next,
                committed = at,
                "the state is behind the group's committed offset: reading goes back to where the state is"
            );
            back.add_partition_offset(topic, element.partition(), Offset::Offset(*next))?;
        }
    }
    if back.count() > 0 {
        consumer.commit(&back, CommitMode::Sync).with_context(|| {
            format!(
                "group '{group}' can't be put back to where the state is: has it other members? \
                 (an instance that was killed counts for 10 s; one that runs needs a --group of its own)"
            )
        })?;
    }
    Ok(changed)
}

/// The topic's partitions; none where there is no such topic.
fn partitions(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), CALL_LIMIT)
        .with_context(|| format!("no broker answers about topic '{topic}'"))?;
    let Some(found) = metadata.topics().first() else {
        return Ok(Vec::new());
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(found.partitions().iter().map(|p| p.id()).collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(Vec::new())
        }
        Some(code) => anyhow::bail!("can't ask about topic '{topic}': {code}"),
    }
}
