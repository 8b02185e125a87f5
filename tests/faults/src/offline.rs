use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kafka::{Cluster, LookAt, OutRecord, Producer, ProducerSettings, Record, watermarks};
use records::{
    AvroRecord, AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue,
    ResponseBody, ResponseCode, ResponseObserve, ResponsePayload, SchemaId, frame,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{GATEWAY, Part, Path, topic};

/// Devices whose values pile up.
const KEYS: u64 = 1_000;

/// The link is away while so many observations pile up at the edge; then the mirror catches up. Counts and order are
/// looked at in full at the cloud.
///
/// # Errors
/// When a record is lost, repeated beyond a batch, or out of its key's order, or it takes more than half an hour.
pub async fn catch_up(records: u64) -> anyhow::Result<Value> {
    let mut path = Path::start().await?;
    path.kill(Part::MirrorUp);
    let observations = topic("observations");
    let since = Instant::now();
    pile_up(&path.edge.site, &observations, records).await?;
    let piled_up_s = since.elapsed().as_secs_f64();

    let since = Instant::now();
    path.revive(Part::MirrorUp).await?;
    let cluster = Cluster::new(&path.cloud.site.bootstrap, None)?;
    let limit = Duration::from_secs(1_800);
    loop {
        let ends = watermarks(&cluster, &observations).await?;
        let there: i64 = ends.values().sum();
        if u64::try_from(there)? >= records {
            break;
        }
        ensure!(since.elapsed() < limit, "{there} of {records} are there");
        sleep(Duration::from_millis(500)).await;
    }
    let caught_up_s = since.elapsed().as_secs_f64();
    // Markers of transactions count in the offsets, so the last records may still be coming.
    let counted = loop {
        let counted = Counted::default();
        let read = kafka::read_to_end(&cluster, &observations, &[].into(), counted).await;
        let counted = read.map_err(|(_, error)| error)?;
        if counted.different == records || since.elapsed() > limit {
            break counted;
        }
        sleep(Duration::from_secs(2)).await;
    };
    ensure!(
        counted.different == records && counted.disordered == 0,
        "{counted:?}"
    );
    let rate = records as f64 / caught_up_s;
    Ok(json!({
        "records": records, "piled_up_s": piled_up_s, "caught_up_s": caught_up_s, "records_per_s": rate.round(),
        "repeated": counted.repeated,
    }))
}

async fn pile_up(edge: &e2e::Site, topic: &str, records: u64) -> anyhow::Result<()> {
    let registry = kafka::SchemaRegistry::new(&edge.registry)?;
    let schema = ResponseObserve::schema();
    let value_id = registry
        .register(&format!("{topic}-value"), schema.text())
        .await?;
    let encoder = kafka::RecordEncoder::new(registry);
    let mut keys = Vec::new();
    for n in 0..KEYS {
        keys.push(encoder.key(topic, &format!("device-{n}")).await?);
    }
    let producer = Producer::new(
        &Cluster::new(&edge.bootstrap, None)?,
        &ProducerSettings::default(),
    )?;
    let mut sent = Vec::new();
    for number in 0..records {
        let device = number % KEYS;
        let value = observation(&format!("device-{device}"), number / KEYS);
        let value = value.to_framed(SchemaId(value_id));
        let record = OutRecord {
            topic,
            key: Some(&keys[usize::try_from(device)?]),
            value: Some(&value),
            ..OutRecord::default()
        };
        sent.push(producer.send(record).await?);
        if sent.len() == 10_000 {
            for delivery in sent.drain(..) {
                delivery.await?;
            }
        }
    }
    for delivery in sent {
        delivery.await?;
    }
    Ok(())
}

/// The `number`th value of a device, which is also its time.
fn observation(ep: &str, number: u64) -> ResponseObserve {
    let path = "/3303/0/5700".to_owned();
    ResponseObserve {
        ticket: "ticket#1".to_owned(),
        observation_id: "0a0b0c0d".to_owned(),
        server_id: GATEWAY.to_owned(),
        ep: ep.to_owned(),
        path: path.clone(),
        timestamp: i64::try_from(number).expect("a small number"),
        rep: ResponsePayload {
            code: ResponseCode::Content,
            kind: RequestKind::Observe,
            body: Some(ResponseBody::Read(ReadContent::Resource(AvroResource {
                id: 5700,
                path,
                kind: ResourceKind::SingleResource,
                r#type: ResourceType::Float,
                value: ResourceValue::Double(number as f64),
            }))),
        },
    }
}

/// What is at the cloud: of each key the numbers must come one after the other.
#[derive(Clone, Debug, Default)]
struct Counted {
    next: BTreeMap<Vec<u8>, i64>,
    different: u64,
    repeated: u64,
    disordered: u64,
}

impl LookAt for Counted {
    fn look(&mut self, record: &Record) {
        let number = number(record).expect("only observations were produced");
        let key = record.key.clone().expect("each has a key");
        let next = self.next.entry(key).or_default();
        match number.cmp(next) {
            std::cmp::Ordering::Equal => {
                *next += 1;
                self.different += 1;
            }
            std::cmp::Ordering::Less => self.repeated += 1,
            std::cmp::Ordering::Greater => self.disordered += 1,
        }
    }
}

fn number(record: &Record) -> anyhow::Result<i64> {
    let value = record.value.as_deref().context("a value")?;
    frame::schema_id(value)?;
    Ok(ResponseObserve::from_datum(&value[5..])?.timestamp)
}
