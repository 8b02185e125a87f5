use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use kafka::{Cluster, OutRecord, Producer, ProducerSettings, RecordEncoder, SchemaRegistry};
use lwm2m::client::Event;
use records::{
    AvroResource, RequestBody, RequestKind, ResourceKind, ResourceType, ResourceValue, WriteMode,
    WriteNode, WriteRequest,
};
use site::{Device, request};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::topic;

/// The resource that every device is observed at.
const TEMPERATURE: &str = "/3303/0/5700";

/// How often a device has a new value, and how often the operator asks one of them for something.
const VALUE_EVERY: Duration = Duration::from_millis(40);
const REQUEST_EVERY: Duration = Duration::from_millis(120);

/// What devices and operator know at the end: what must have arrived.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// By endpoint: the values whose notification the server acknowledged.
    pub(crate) acknowledged: BTreeMap<String, BTreeSet<i64>>,
    /// Requests that the cloud's Kafka has taken, by ticket.
    pub(crate) asked: BTreeMap<String, RequestKind>,
    /// How often each ticket's command was executed on its device.
    pub(crate) executed: BTreeMap<String, u32>,
    /// By endpoint: how often something was written there.
    pub(crate) written: BTreeMap<String, usize>,
}

/// What devices and operator do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Work,
    /// Nothing new; devices go on listening, as requests may still be on their way to them.
    Listen,
    End,
}

/// Devices and an operator at work until they are told to stop.
pub(crate) struct Load {
    phase: watch::Sender<Phase>,
    devices: JoinSet<Done>,
    operator: JoinSet<BTreeMap<String, RequestKind>>,
}

impl Load {
    pub(crate) fn start(coap: SocketAddr, cloud: &e2e::Site, devices: usize) -> Self {
        let (phase, now) = watch::channel(Phase::Work);
        let names: Vec<String> = (0..devices).map(|n| format!("device-{n}")).collect();
        let mut running = JoinSet::new();
        for name in names.clone() {
            running.spawn(device(coap, name, now.clone()));
        }
        let mut operator = JoinSet::new();
        operator.spawn(operate(cloud.clone(), names, now));
        Self {
            phase,
            devices: running,
            operator,
        }
    }

    /// No more values and requests; answers which requests there were.
    pub(crate) async fn quiet(&mut self) -> Account {
        let _ = self.phase.send(Phase::Listen);
        let mut account = Account::default();
        while let Some(asked) = self.operator.join_next().await {
            account.asked.extend(asked.unwrap());
        }
        account
    }

    /// The end of the devices, and what they know.
    pub(crate) async fn stop(mut self, mut account: Account) -> Account {
        let _ = self.phase.send(Phase::End);
        while let Some(done) = self.devices.join_next().await {
            let done = done.unwrap();
            account
                .acknowledged
                .insert(done.name.clone(), done.acknowledged);
            account.written.insert(done.name, done.written);
            for ticket in done.executed {
                *account.executed.entry(ticket).or_default() += 1;
            }
        }
        account
    }
}

/// What a device knows at its end.
#[derive(Default)]
struct Done {
    name: String,
    acknowledged: BTreeSet<i64>,
    executed: Vec<String>,
    written: usize,
}

async fn device(coap: SocketAddr, name: String, phase: watch::Receiver<Phase>) -> Done {
    let mut device = Device::start(coap, &name).await;
    let mut done = Done {
        name,
        ..Done::default()
    };
    for value in 0_i64.. {
        let now = *phase.borrow();
        match now {
            Phase::Work => device.temperature(value as f64),
            Phase::Listen => {}
            Phase::End => break,
        }
        sleep(VALUE_EVERY).await;
        for payload in device.acknowledged() {
            done.acknowledged.extend(number(&payload));
        }
        for event in device.drain() {
            match event {
                Event::Executed { arguments, .. } => {
                    let ticket = arguments.trim_start_matches("0='").replace('\'', "");
                    done.executed.push(ticket);
                }
                Event::Written { .. } => done.written += 1,
                _ => {}
            }
        }
    }
    done
}

/// The value in a TLV of one float: its last eight bytes (LwM2M 1.1 core, section 7.4.3).
fn number(tlv: &[u8]) -> Option<i64> {
    let raw = tlv.last_chunk::<8>()?;
    #[allow(clippy::cast_possible_truncation, reason = "whole numbers were sent")]
    Some(f64::from_be_bytes(*raw) as i64)
}

async fn operate(
    cloud: e2e::Site,
    devices: Vec<String>,
    phase: watch::Receiver<Phase>,
) -> BTreeMap<String, RequestKind> {
    let cluster = Cluster::new(&cloud.bootstrap, None).unwrap();
    let producer = Producer::new(&cluster, &ProducerSettings::default()).unwrap();
    let encoder = RecordEncoder::new(SchemaRegistry::new(&cloud.registry).unwrap());
    let requests = topic("management.req");
    let (taken, mut told) = mpsc::unbounded_channel();
    let mut deliveries = JoinSet::new();
    let mut next = Instant::now();
    for number in 0_usize.. {
        // Each device is observed before it is asked for anything.
        let first = number < devices.len();
        if *phase.borrow() != Phase::Work && !first {
            break;
        }
        let ep = &devices[number % devices.len()];
        let ticket = format!("ticket-{number}");
        let (kind, path, body) = match number % 3 {
            _ if first => (RequestKind::Observe, TEMPERATURE, None),
            0 => (RequestKind::Read, "/3/0/0", None),
            1 => {
                let arguments = format!("0='{ticket}'");
                let body = Some(RequestBody::Execute(arguments));
                (RequestKind::Execute, "/3/0/4", body)
            }
            _ => (RequestKind::Write, "/3/0/15", Some(written(&ticket))),
        };
        let record = request(ep, &ticket, kind, path, body);
        let value = encoder.value(&requests, &record).await;
        // A registry that is away is asked again with the next one: nothing was sent.
        if let Ok(value) = value {
            let record = OutRecord {
                topic: &requests,
                value: Some(&value),
                ..OutRecord::default()
            };
            let delivery = producer.send(record).await.unwrap();
            let taken = taken.clone();
            deliveries.spawn(async move {
                if delivery.await.is_ok() {
                    let _ = taken.send((ticket, kind));
                }
            });
        }
        next += REQUEST_EVERY;
        sleep_until(next).await;
    }
    drop(taken);
    while deliveries.join_next().await.is_some() {}
    let mut asked = BTreeMap::new();
    while let Some((ticket, kind)) = told.recv().await {
        asked.insert(ticket, kind);
    }
    asked
}

fn written(zone: &str) -> RequestBody {
    RequestBody::Write(WriteRequest {
        mode: WriteMode::Replace,
        node: WriteNode::Resource(AvroResource {
            id: 15,
            path: "/3/0/15".to_owned(),
            kind: ResourceKind::SingleResource,
            r#type: ResourceType::String,
            value: ResourceValue::String(zone.to_owned()),
        }),
    })
}
