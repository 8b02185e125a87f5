//! The least that copying costs: librdkafka's consumer and producer, a loop between them, nothing else. It neither
//! rewrites ids nor keeps offsets; a crash would copy all again.

use std::time::Duration;

use clap::Args;
use kafka::Cluster;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord};
use rdkafka::{Offset, TopicPartitionList};

use crate::world::PARTITIONS;

#[derive(Args, Debug)]
pub(crate) struct BareArgs {
    #[arg(long)]
    source: String,
    #[arg(long)]
    target: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    compression: String,
}

/// Until it is ended.
pub(crate) fn run(args: &BareArgs) -> anyhow::Result<()> {
    let consumer: BaseConsumer = Cluster::new(&args.source, None)?
        .client_config()
        .set("group.id", "bench-bare")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let producer: BaseProducer = Cluster::new(&args.target, None)?
        .client_config()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", &args.compression)
        .set("batch.size", "1000000")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&args.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut copied = 0_u32;
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(10)) else {
            producer.poll(Duration::ZERO);
            continue;
        };
        let message = message?;
        let mut record = BaseRecord::<[u8], [u8]>::to(&args.topic);
        record.key = message.key();
        record.payload = message.payload();
        record.timestamp = message.timestamp().to_millis();
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        copied = copied.wrapping_add(1);
        if copied.is_multiple_of(64) {
            producer.poll(Duration::ZERO);
        }
    }
}
