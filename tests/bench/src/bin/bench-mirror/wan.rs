//! The lag over a long link: 200 ms of round trip, 100 Mbit/s, no loss, 5 MB/s offered. The link is a delaying and
//! limiting proxy (`testkit::Link`); where the kernel has netem, that would do the same.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bench::Service;
use kafka::{Cluster, OutRecord, ProducerSettings, RecordEncoder, SchemaRegistry, TicketProducer};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use testkit::{Link, LinkQuality, RealKafka, free_port};

use crate::world::{LOAD, PARTITIONS, observation, reader, registry};

const OFFERED_BYTES_PER_S: f64 = 5e6;
const LINK: LinkQuality = LinkQuality {
    delay: Duration::from_millis(100),
    bytes_per_s: Some(12_500_000),
    loss: 0.0,
    seed: 1,
};
/// Until the mirror has found the topic.
const SETTLING: Duration = Duration::from_secs(5);

/// The largest lag of a record, the worse of pull and push.
pub(crate) async fn run(program: &Path, load_s: u64) -> anyhow::Result<f64> {
    println!("\n200 ms, 100 Mbit/s, 5 MB/s offered for {load_s} s, through a delaying proxy");
    let mut worst: f64 = 0.0;
    for transfer in ["pull", "push"] {
        worst = worst.max(over_link(program, transfer, load_s).await?);
    }
    Ok(worst)
}

async fn over_link(program: &Path, transfer: &str, load_s: u64) -> anyhow::Result<f64> {
    let far_port = free_port();
    let link = Link::start(far_port, LINK).await?;
    let far = RealKafka::builder()
        .num_partitions(4)
        .reached_through(link.port(), far_port)
        .start();
    let near = RealKafka::builder().num_partitions(4).start();
    let (far, near) = tokio::try_join!(far, near)?;
    let through_link = format!("127.0.0.1:{}", link.port());
    let (source, target, mirror_source, mirror_target) = match transfer {
        "pull" => (&far, &near, through_link.as_str(), near.bootstrap()),
        _ => (&near, &far, near.bootstrap(), through_link.as_str()),
    };
    let (_source_registry, source_url) = registry(program, source.bootstrap()).await?;
    let (_target_registry, target_url) = registry(program, target.bootstrap()).await?;
    let taken = r#"{"type":"record","name":"Taken","fields":[]}"#;
    SchemaRegistry::new(&target_url)?
        .register("taken", taken)
        .await?;
    for site in [source, target] {
        let cluster = Cluster::new(site.bootstrap(), None)?;
        kafka::ensure_topic(&cluster, LOAD, PARTITIONS, &[]).await?;
    }
    let mirror = Service::start(
        program,
        "mirror",
        [
            "--topics",
            LOAD,
            "--flow",
            "bench-wan",
            "--transfer",
            transfer,
            "--compression",
            "none",
            "--source-bootstrap-server",
            mirror_source,
            "--target-bootstrap-server",
            mirror_target,
            "--source-schema-registry-url",
            &source_url,
            "--target-schema-registry-url",
            &target_url,
        ],
    )
    .await?;
    tokio::time::sleep(SETTLING).await;

    let (bootstrap, count) = (target.bootstrap().to_owned(), expected(load_s));
    let arriving = tokio::task::spawn_blocking(move || arrive(&bootstrap, count));
    let carried_before = link.carried();
    offer(source.bootstrap(), &source_url, load_s).await?;
    let lags = arriving.await??;
    let carried = link.carried();
    let usage = mirror.usage()?;
    let crossed = (carried.0 - carried_before.0).max(carried.1 - carried_before.1);
    println!(
        "{transfer}: {count} records; lag {:.2} s in the median, {:.2} s at most; {:.1} MB crossed the link; mirror {:.2} CPU s, {:.0} MB at its peak; it says {:.2} s at the end",
        lags.median_s,
        lags.worst_s,
        crossed as f64 / 1e6,
        usage.cpu.as_secs_f64(),
        usage.rss_peak as f64 / 1e6,
        mirror
            .metric(&format!("zeelos_mirror_lag_seconds{{topic=\"{LOAD}\"}}"))
            .await?,
    );
    Ok(lags.worst_s)
}

/// Records a second that make the bytes offered; one has about 150.
fn per_second() -> f64 {
    OFFERED_BYTES_PER_S / 150.0
}

fn expected(load_s: u64) -> u64 {
    (per_second() * load_s as f64) as u64
}

async fn offer(bootstrap: &str, registry: &str, load_s: u64) -> anyhow::Result<()> {
    let encoder = RecordEncoder::new(SchemaRegistry::new(registry)?);
    let cluster = Cluster::new(bootstrap, None)?;
    let (producer, deliveries) = TicketProducer::new(&cluster, &ProducerSettings::default())?;
    let mut delivered = Vec::new();
    let began = Instant::now();
    for number in 0..expected(load_s) {
        let due = Duration::from_secs_f64(number as f64 / per_second());
        let early = due.saturating_sub(began.elapsed());
        if early > Duration::from_millis(2) {
            tokio::time::sleep(early).await;
        }
        let record = observation(number);
        let key = encoder.key(LOAD, &record.ep).await?;
        let value = encoder.value(LOAD, &record).await?;
        let out = || OutRecord {
            topic: LOAD,
            key: Some(&key),
            value: Some(&value),
            timestamp_ms: Some(now_ms()),
            ..OutRecord::default()
        };
        while producer.try_send(out(), 0).is_err() {
            deliveries.take(&mut delivered).await;
        }
        if number % 1_000 == 0 {
            deliveries.try_take(&mut delivered);
        }
    }
    let late = began.elapsed().saturating_sub(Duration::from_secs(load_s));
    ensure!(
        late < Duration::from_secs(2),
        "the load could not be offered: {late:?} late"
    );
    while producer.in_flight() > 0 {
        deliveries.try_take(&mut delivered);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

struct Lags {
    median_s: f64,
    worst_s: f64,
}

/// How old each record is when a reader of committed records at the target gets it.
fn arrive(bootstrap: &str, count: u64) -> anyhow::Result<Lags> {
    let consumer = reader(bootstrap)?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(LOAD, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut lags = Vec::new();
    let until = Instant::now() + Duration::from_secs(300);
    while (lags.len() as u64) < count {
        ensure!(
            Instant::now() < until,
            "{} of {count} records arrived",
            lags.len()
        );
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let sent = message
                .timestamp()
                .to_millis()
                .context("a record without a timestamp")?;
            lags.push(now_ms() - sent);
        }
    }
    lags.sort_unstable();
    Ok(Lags {
        median_s: lags[lags.len() / 2] as f64 / 1e3,
        worst_s: lags[lags.len() - 1] as f64 / 1e3,
    })
}

fn now_ms() -> i64 {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}
