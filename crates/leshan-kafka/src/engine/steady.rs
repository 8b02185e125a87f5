//! What a notification takes from the heap on its whole way: from the socket to the Kafka client, and from Kafka's
//! acknowledgement back to the socket.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::Token;
use kafka::{Cluster, Delivered, OutRecord, ProducerSettings, TicketProducer};
use lwm2m::server::{Server, ServerConfig};
use lwm2m::{Observation, Target};
use lwm2m_model::Registry;
use records::SchemaId;
use service::Health;
use tokio::sync::mpsc;
use transport::{UdpConfig, UdpTransport};

use super::outbox::{LaneSetup, ProducerMaker, TopicIds};
use super::{Doors, Engine, EngineLoop, JournalSettings, Parts};
use crate::credentials::Credentials;
use crate::rest::Shown;
use crate::store::{Change, OutgoingKind, Store};

const DEVICES: u16 = 50;
const TOPIC: &str = "iot.gw.observations";

/// Nobody answers there: what is sent stays in the client's queue.
fn nowhere() -> Cluster {
    Cluster::new("127.0.0.1:9", None).unwrap()
}

fn producing() -> ProducerSettings {
    ProducerSettings {
        queue_bytes: 256 * 1024 * 1024,
        ..ProducerSettings::default()
    }
}

struct Gateway {
    engine: EngineLoop,
    devices: Vec<UdpSocket>,
    delivered: Vec<Delivered>,
    // What the engine holds the other ends of.
    _folder: tempfile::TempDir,
    _engine: Engine,
    _ends: Box<dyn std::any::Any>,
}

fn endpoint(device: u16) -> String {
    format!("sensor-{device:04}")
}

fn token(device: u16) -> Token {
    Token::new(&u64::from(device).to_be_bytes()).unwrap()
}

impl Gateway {
    /// Devices that are registered, and observed with a trace of what started it.
    async fn new(trace: Option<&str>) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("server.db")).unwrap();
        let kept: Vec<Change> = (0..DEVICES)
            .map(|device| {
                Change::PutObservation(Arc::new(Observation {
                    endpoint: endpoint(device),
                    registration_id: String::new(),
                    target: Target::Path("/3303/0/5700".parse().unwrap()),
                    token: token(device),
                    context: Some(format!("ticket\u{1f}{}", trace.unwrap_or_default())),
                    content_format: None,
                }))
            })
            .collect();
        store.commit(&kept).unwrap();
        let models = Arc::new(Registry::oma());
        let (handle, inbox) = Engine::channel(Arc::clone(&models));
        let credentials =
            Credentials::open(&folder.path().join("credentials.db"), Vec::new()).unwrap();
        let door = UdpTransport::bind(([127, 0, 0, 1], 0).into(), &UdpConfig::default()).unwrap();
        let at = door.local_addr().unwrap();
        let health = Health::default();
        let lane = |topic: &str, name| LaneSetup {
            topic: topic.to_owned(),
            condition: health.condition(name),
        };
        let (_told, ids) = mpsc::channel(1);
        let (replies, _handed) = mpsc::channel(1);
        let (_done, replies_done) = mpsc::channel(1);
        let mut engine = EngineLoop::new(Parts {
            server_id: "gw".to_owned(),
            server: Server::new(ServerConfig::default(), models, [7; 32]),
            doors: Doors::new(Some(door), None, credentials),
            store,
            inbox,
            onlooker: Arc::new(Shown::default()),
            producer: ProducerMaker {
                cluster: nowhere(),
                settings: producing(),
            },
            lanes: [
                lane("iot.gw.registrations", "registrations"),
                lane(TOPIC, "observations"),
            ],
            ids,
            replies,
            replies_done,
            journal: JournalSettings {
                duplicate_window: Duration::from_secs(600),
                timeout: Duration::from_secs(60),
                sleeper_timeout: Duration::from_secs(60),
            },
            usual_window: Duration::from_secs(93),
            spool_bytes: 1024 * 1024,
        })
        .unwrap();
        let ids = TopicIds {
            key: SchemaId(1),
            value: SchemaId(2),
        };
        engine.outbox.set_ids(OutgoingKind::Observation, ids);
        let devices: Vec<UdpSocket> = (0..DEVICES)
            .map(|_| {
                let device = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
                device.connect(at).unwrap();
                let patience = Some(Duration::from_secs(10));
                device.set_read_timeout(patience).unwrap();
                device
            })
            .collect();
        let mut gateway = Gateway {
            engine,
            devices,
            delivered: Vec::new(),
            _folder: folder,
            _engine: handle,
            _ends: Box::new((_told, _handed, _done)),
        };
        gateway.register().await;
        gateway
    }

    async fn register(&mut self) {
        for (device, socket) in (0..).zip(&self.devices) {
            let name = endpoint(device);
            // CON POST /rd?ep=…, link format: </3303/0>
            let mut register = vec![0x40, 0x02, 0x80, device as u8, 0xb2];
            register.extend_from_slice(b"rd\x11\x28");
            let query = format!("ep={name}");
            register.extend_from_slice(&[0x3d, (query.len() - 13) as u8]);
            register.extend_from_slice(query.as_bytes());
            register.push(0xff);
            register.extend_from_slice(b"</3303/0>");
            socket.send(&register).unwrap();
        }
        while self.engine.server.registered() < usize::from(DEVICES) {
            self.turn().await;
        }
        for (device, socket) in (0..).zip(&self.devices) {
            let mut answer = [0; 128];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!((length > 4, answer[1]), (true, 0x41), "2.01 Created");
            // And the observation is asked for again: 2.05 with a value.
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!((length > 12, answer[1]), (true, 0x01), "GET");
            let mut value = vec![0x68, 0x45, answer[2], answer[3]];
            value.extend_from_slice(token(device).as_bytes());
            value.extend_from_slice(&[0x61, 0, 0x62, 0x2d, 0x16, 0xff]);
            value.extend_from_slice(&[0xe8, 0x16, 0x44, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
            socket.send(&value).unwrap();
        }
        for _ in 0..DEVICES {
            self.turn().await;
        }
        self.deliver().await;
    }

    /// A turn of the loop with what is there.
    async fn turn(&mut self) {
        let soon = Instant::now() + Duration::from_millis(5);
        self.engine.doors().wait(Some(soon)).await.unwrap();
        self.engine.take_in(super::run::now());
        self.engine.finish_turn().await.unwrap();
    }

    /// Kafka has all that was sent.
    async fn deliver(&mut self) {
        for slot in 0..u32::from(DEVICES) {
            self.delivered.push(Delivered {
                ticket: slot << 1 | OutgoingKind::Observation as u32,
                outcome: Ok((0, 0)),
            });
        }
        self.engine.take_delivered(&mut self.delivered);
        self.engine.finish_turn().await.unwrap();
    }

    /// One notification of each device, all the way; each has its acknowledgement.
    async fn notify(&mut self, datagrams: &[Vec<u8>]) {
        for (socket, datagram) in self.devices.iter().zip(datagrams) {
            socket.send(datagram).unwrap();
        }
        while self.engine.outbox.on_its_way() < usize::from(DEVICES) {
            self.turn().await;
        }
        self.deliver().await;
        for (socket, datagram) in self.devices.iter().zip(datagrams) {
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..length], [0x60, 0, datagram[2], datagram[3]]);
        }
    }
}

/// ```text
/// CON 2.05, token of 8 bytes, Observe of 3 bytes, Content-Format 11542, a TLV of a double
/// ```
fn notification(device: u16, sequence: u16) -> Vec<u8> {
    let id = sequence.to_be_bytes();
    let mut bytes = vec![0x48, 0x45, id[0], id[1]];
    bytes.extend_from_slice(token(device).as_bytes());
    bytes.extend_from_slice(&[0x63, 1, id[0], id[1], 0x62, 0x2d, 0x16, 0xff]);
    bytes.extend_from_slice(&[0xe8, 0x16, 0x44, 8]);
    bytes.extend_from_slice(&f64::from(sequence).to_be_bytes());
    bytes
}

/// What the Kafka client takes for one record, whatever it holds.
fn of_the_client(headers: &[(String, Option<Vec<u8>>)]) -> u64 {
    let (producer, _deliveries) = TicketProducer::new(&nowhere(), &producing()).unwrap();
    let send = || {
        let record = OutRecord {
            topic: TOPIC,
            key: Some(&[1; 16]),
            value: Some(&[1; 120]),
            headers,
            ..OutRecord::default()
        };
        producer.try_send(record, 1).unwrap();
    };
    send();
    allocation_counter::measure(send).count_total
}

fn all_the_way(trace: Option<&str>) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut gateway = runtime.block_on(Gateway::new(trace));
    let round = |sequence: u16| -> Vec<Vec<u8>> {
        (0..DEVICES)
            .map(|device| notification(device, sequence))
            .collect()
    };
    let (warming, measured): (Vec<_>, Vec<_>) = (
        (1..=400).map(round).collect(),
        (401..=420).map(round).collect(),
    );
    runtime.block_on(async {
        for datagrams in &warming {
            gateway.notify(datagrams).await;
        }
    });
    let used = allocation_counter::measure(|| {
        runtime.block_on(async {
            for datagrams in &measured {
                gateway.notify(datagrams).await;
            }
        });
    });
    (used.count_total, measured.len() as u64 * u64::from(DEVICES))
}

#[test]
fn a_notification_takes_nothing_from_the_heap_but_what_the_kafka_client_takes() {
    let (used, notifications) = all_the_way(None);
    let clients = of_the_client(&[]) * notifications;
    // As what is remembered of messages grows it takes a larger piece now and then.
    assert!(
        used <= clients + 10,
        "{used} allocations for {notifications} notifications, of which {clients} are the Kafka client's"
    );
}

#[test]
fn nor_does_one_with_a_trace() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (used, notifications) = all_the_way(Some(trace));
    let header = (
        kafka::TRACE_HEADER.to_owned(),
        Some(trace.as_bytes().to_vec()),
    );
    let clients = of_the_client(&[header]) * notifications;
    assert!(
        used <= clients + 10,
        "{used} allocations for {notifications} notifications, of which {clients} are the Kafka client's"
    );
}
