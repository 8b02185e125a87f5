//! What the bridge's way from a value to Kafka costs without devices: the record is encoded and handed to the producer
//! that the LwM2M server uses, on one thread, until Kafka has acknowledged all.

use std::time::{Duration, Instant};

use bench::Usage;
use clap::Args;
use kafka::{Cluster, OutRecord, ProducerSettings, RecordEncoder, SchemaRegistry, TicketProducer};
use records::{AvroKey, AvroRecord as _, ResponseObserve, SchemaId};
use testkit::{Launch, RunDir};

use crate::world::{World, observation};

#[derive(Args, Debug)]
pub(crate) struct BridgeArgs {
    #[arg(long)]
    target: String,
    #[arg(long)]
    registry: String,
    #[arg(long)]
    records: u64,
    #[arg(long)]
    compression: String,
}

const TOPIC: &str = "bench.bridge";

/// Prints what it took.
pub(crate) fn run(args: &BridgeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let cluster = Cluster::new(&args.target, None)?;
    let encoder = RecordEncoder::new(SchemaRegistry::new(&args.registry)?);
    let settings = ProducerSettings {
        compression: args.compression.clone(),
        ..ProducerSettings::default()
    };
    let (producer, deliveries) = TicketProducer::new(&cluster, &settings)?;
    let mut delivered = Vec::new();
    // The schemas' ids, asked for once as the bridge does.
    let sample = observation(0);
    let id_of = |framed: Vec<u8>| records::frame::schema_id(&framed);
    let value_id = id_of(runtime.block_on(encoder.value(TOPIC, &sample))?)?;
    let key_id = id_of(runtime.block_on(encoder.key(TOPIC, &sample.ep))?)?;
    kafka_is_there(&runtime, &cluster)?;
    let before = Usage::of(std::process::id())?;
    let began = Instant::now();
    let samples: Vec<ResponseObserve> = (0..1_000).map(observation).collect();
    let encoding = Instant::now();
    let mut bytes = 0;
    for number in 0..args.records {
        bytes += framed(&samples[(number % 1_000) as usize], key_id, value_id)
            .1
            .len();
    }
    let encoding = encoding.elapsed();
    let after_encoding = Usage::of(std::process::id())?;
    let producing = Instant::now();
    for number in 0..args.records {
        let (key, value) = framed(&samples[(number % 1_000) as usize], key_id, value_id);
        let out = || OutRecord {
            topic: TOPIC,
            key: Some(&key),
            value: Some(&value),
            ..OutRecord::default()
        };
        while producer.try_send(out(), 0).is_err() {
            runtime.block_on(deliveries.take(&mut delivered));
        }
    }
    while producer.in_flight() > 0 {
        deliveries.try_take(&mut delivered);
        std::thread::sleep(Duration::from_millis(1));
    }
    let producing = producing.elapsed();
    let used = Usage::of(std::process::id())?.since(after_encoding);
    let encoded = after_encoding.since(before);
    println!(
        "bridge without UDP       encoding {:.2} µs ({:.0} records/s, {} bytes each); encoding and producing {:.2} CPU µs a record: {:.0} records/s of one core, {:.0} records/s by the clock ({:.1} s in all)",
        encoding.as_secs_f64() * 1e6 / args.records as f64,
        args.records as f64 / encoding.as_secs_f64(),
        bytes as u64 / args.records.max(1),
        used.cpu_us_each(args.records),
        1e6 / used.cpu_us_each(args.records),
        args.records as f64 / producing.as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    anyhow::ensure!(encoded.cpu > Duration::ZERO, "too few records to measure");
    Ok(())
}

fn framed(record: &ResponseObserve, key_id: SchemaId, value_id: SchemaId) -> (Vec<u8>, Vec<u8>) {
    (
        AvroKey::new(&record.ep).to_framed(key_id),
        record.to_framed(value_id),
    )
}

fn kafka_is_there(runtime: &tokio::runtime::Runtime, cluster: &Cluster) -> anyhow::Result<()> {
    runtime.block_on(kafka::ensure_topic(cluster, TOPIC, 4, &[]))?;
    Ok(())
}

pub(crate) async fn report(world: &World, compression: &str) -> anyhow::Result<()> {
    let dir = RunDir::new("bench-bridge")?;
    let launch = Launch::new("bridge", std::env::current_exe()?)
        .args(["bridge", "--compression", compression])
        .args(["--target", world.target.bootstrap()])
        .args(["--registry", &world.target_registry])
        .args(["--records", &world.records.to_string()]);
    let mut child = launch.spawn(&dir.path().join("log"))?;
    let line = child
        .wait_for_line(Duration::from_secs(300), "the bridge's figures", |line| {
            line.starts_with("bridge")
        })
        .await?;
    println!("{line}");
    Ok(())
}
