use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bench::Service;
use kafka::{Cluster, OutRecord, ProducerSettings, RecordEncoder, SchemaRegistry, TicketProducer};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use records::{
    AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue,
    ResponseBody, ResponseCode, ResponseObserve, ResponsePayload, SchemaId,
};
use testkit::{RealKafka, free_port};

pub(crate) const PARTITIONS: i32 = 4;
/// One record only: what a start costs.
pub(crate) const WARM: &str = "bench.warm";
/// All of them.
pub(crate) const LOAD: &str = "bench.load";
const DEVICES: u64 = 1_000;
const CALL_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) source: RealKafka,
    pub(crate) target: RealKafka,
    pub(crate) source_registry: String,
    pub(crate) target_registry: String,
    pub(crate) records: u64,
    pub(crate) record_bytes: usize,
    _registries: [Service; 2],
}

/// The value of a device, to be told from all others by its number: that of its ticket.
pub(crate) fn observation(number: u64) -> ResponseObserve {
    let device = number % DEVICES;
    ResponseObserve {
        ticket: format!("ticket#{number:09}"),
        observation_id: "0a1b2c3d".to_owned(),
        server_id: "server1".to_owned(),
        ep: format!("bench-device-{device:04}"),
        path: "/3303/0/5700".to_owned(),
        timestamp: 1_700_000_000_000 + i64::try_from(number).unwrap_or(0),
        rep: payload(number),
    }
}

fn payload(number: u64) -> ResponsePayload {
    ResponsePayload {
        code: ResponseCode::Content,
        kind: RequestKind::Observe,
        body: Some(ResponseBody::Read(ReadContent::Resource(AvroResource {
            id: 5700,
            path: "/3303/0/5700".to_owned(),
            kind: ResourceKind::SingleResource,
            r#type: ResourceType::Float,
            value: ResourceValue::Double((number % 100_000) as f64 / 1e3),
        }))),
    }
}

/// The number of a framed [`observation`]: its ticket is the record's first field.
///
/// ```text
/// 00 id id id id | length, zigzag | "ticket#000000017" | …
/// ```
fn number(framed: &[u8]) -> Option<usize> {
    let ticket = framed.get(6..22)?;
    let digits = ticket.strip_prefix(b"ticket#")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(crate) async fn registry(program: &Path, bootstrap: &str) -> anyhow::Result<(Service, String)> {
    let listen = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{listen}");
    let arguments = ["--listen", &listen, "--kafka-bootstrap-server", bootstrap];
    let service = Service::start(program, "schema-registry", arguments).await?;
    Ok((service, url))
}

impl World {
    pub(crate) async fn start(program: &Path, records: u64) -> anyhow::Result<Self> {
        let broker = || {
            RealKafka::builder()
                .num_partitions(4)
                .property("log.retention.ms", "-1")
                .start()
        };
        let (source, target) = tokio::try_join!(broker(), broker())?;
        let (registry_a, source_registry) = registry(program, source.bootstrap()).await?;
        let (registry_b, target_registry) = registry(program, target.bootstrap()).await?;
        // So that the same id is another schema at the target.
        let taken = r#"{"type":"record","name":"Taken","fields":[]}"#;
        SchemaRegistry::new(&target_registry)?
            .register("taken", taken)
            .await?;
        let mut world = Self {
            source,
            target,
            source_registry,
            target_registry,
            records,
            record_bytes: 0,
            _registries: [registry_a, registry_b],
        };
        world.fill(WARM, 1).await?;
        world.record_bytes = world.fill(LOAD, records).await?;
        Ok(world)
    }

    /// Answers a record's size.
    async fn fill(&self, topic: &str, records: u64) -> anyhow::Result<usize> {
        let cluster = Cluster::new(self.source.bootstrap(), None)?;
        kafka::ensure_topic(&cluster, topic, PARTITIONS, &[]).await?;
        let encoder = RecordEncoder::new(SchemaRegistry::new(&self.source_registry)?);
        let settings = ProducerSettings {
            linger: Duration::from_millis(20),
            ..ProducerSettings::default()
        };
        let (producer, deliveries) = TicketProducer::new(&cluster, &settings)?;
        let mut delivered = Vec::new();
        let mut bytes = 0;
        for number in 0..records {
            let record = observation(number);
            let key = encoder.key(topic, &record.ep).await?;
            let value = encoder.value(topic, &record).await?;
            bytes = key.len() + value.len();
            let out = || OutRecord {
                topic,
                key: Some(&key),
                value: Some(&value),
                ..OutRecord::default()
            };
            while producer.try_send(out(), 0).is_err() {
                deliveries.take(&mut delivered).await;
            }
        }
        while producer.in_flight() > 0 {
            deliveries.try_take(&mut delivered);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let there = end(self.source.bootstrap(), topic)?;
        ensure!(
            there == records,
            "{there} of {records} records are in {topic}"
        );
        Ok(bytes)
    }

    /// The target's topics, empty.
    pub(crate) async fn clear_target(&self) -> anyhow::Result<()> {
        let cluster = Cluster::new(self.target.bootstrap(), None)?;
        for topic in [WARM, LOAD] {
            let there = end(self.target.bootstrap(), topic).is_ok();
            if there {
                kafka::delete_topic(&cluster, topic).await?;
            }
            let make = async || {
                let made = kafka::ensure_topic(&cluster, topic, PARTITIONS, &[]).await?;
                ensure!(made, "{topic} is still there");
                Ok(())
            };
            testkit::wait_for(Duration::from_secs(60), topic, make).await?;
        }
        Ok(())
    }

    /// Every record is at the target once; answers how many have the target's schema id.
    pub(crate) async fn check_target(&self) -> anyhow::Result<u64> {
        let id = SchemaRegistry::new(&self.target_registry)?
            .register(
                &records::topics::value_subject(LOAD),
                <ResponseObserve as records::AvroRecord>::schema().text(),
            )
            .await?;
        let (bootstrap, records) = (self.target.bootstrap().to_owned(), self.records);
        tokio::task::spawn_blocking(move || check(&bootstrap, records, SchemaId(id))).await?
    }
}

fn check(bootstrap: &str, records: u64, id: SchemaId) -> anyhow::Result<u64> {
    let consumer = reader(bootstrap)?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(LOAD, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut seen = vec![false; usize::try_from(records)?];
    let (mut count, mut rewritten, mut ended) = (0_u64, 0_u64, 0);
    let until = Instant::now() + Duration::from_secs(120);
    while ended < PARTITIONS {
        ensure!(
            Instant::now() < until,
            "the target can't be read to its end"
        );
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let value = message.payload().context("a record without a value")?;
                let number = number(value).context("a record that nobody sent")?;
                let seen = seen.get_mut(number).context("a number that nobody sent")?;
                ensure!(!*seen, "record {number} is there twice");
                *seen = true;
                count += 1;
                let has = records::frame::schema_id(value)?;
                rewritten += u64::from(has == id);
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    ensure!(
        count == records,
        "{count} of {records} records are at the target"
    );
    Ok(rewritten)
}

pub(crate) fn reader(bootstrap: &str) -> anyhow::Result<BaseConsumer> {
    Ok(Cluster::new(bootstrap, None)?
        .client_config()
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "5")
        .create()?)
}

/// Offsets of all partitions together.
pub(crate) fn end(bootstrap: &str, topic: &str) -> anyhow::Result<u64> {
    let consumer = reader(bootstrap)?;
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        sum += consumer.fetch_watermarks(topic, partition, CALL_LIMIT)?.1;
    }
    Ok(u64::try_from(sum)?)
}
