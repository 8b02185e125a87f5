use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::Peer;
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};
use lwm2m::client::{Client, ClientConfig, Event, InMemoryTree};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceNode, Value, ValueType};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use transport::{Batch, UdpConfig, UdpTransport};

use crate::PATIENCE;

/// A device on our client over UDP: Device (3/0) and Temperature (3303/0), its values set by the test.
pub struct Device {
    commands: mpsc::UnboundedSender<Do>,
    pub events: mpsc::UnboundedReceiver<Event>,
    acknowledged: mpsc::UnboundedReceiver<Vec<u8>>,
    task: JoinHandle<()>,
}

/// Values with the times they are from.
type Groups = Vec<Timestamped<BTreeMap<ObjectPath, Node>>>;

enum Do {
    Set(ObjectPath, Value),
    Send(Groups),
    Update,
    Hear(bool),
    Deregister,
    Stats(oneshot::Sender<coap::Stats>),
}

impl Device {
    /// One with a lifetime of five minutes that tries again soon.
    pub async fn start(server: SocketAddr, endpoint: &str) -> Self {
        Self::start_with(server, endpoint, |_| {}).await
    }

    /// The same but for what `change` makes of it.
    pub async fn start_with(
        server: SocketAddr,
        endpoint: &str,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let mut config = ClientConfig {
            lifetime: Duration::from_secs(300),
            retry_first: Duration::from_millis(200),
            retry_longest: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            ..ClientConfig::new(endpoint)
        };
        change(&mut config);
        let client = Client::new(config, tree(), rand::random());
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let transport = UdpTransport::bind(local, &UdpConfig::default()).unwrap();
        let (commands, inbox) = mpsc::unbounded_channel();
        let (outbox, events) = mpsc::unbounded_channel();
        let (kept, acknowledged) = mpsc::unbounded_channel();
        let driver = Driver {
            client,
            transport,
            outbox,
            unacknowledged: HashMap::new(),
            kept,
            hears: true,
        };
        Self {
            commands,
            events,
            acknowledged,
            task: tokio::spawn(driver.run(Peer::plain(server), inbox)),
        }
    }

    pub fn set(&self, path: &str, value: Value) {
        let path = path.parse().unwrap();
        let _ = self.commands.send(Do::Set(path, value));
    }

    /// A new reading of 3303/0/5700.
    pub fn temperature(&self, value: f64) {
        self.set("/3303/0/5700", Value::Float(value));
    }

    /// Reports values of its own accord.
    pub fn send(&self, groups: Groups) {
        let _ = self.commands.send(Do::Send(groups));
    }

    /// Whether what is sent to it arrives.
    pub fn hear(&self, does: bool) {
        let _ = self.commands.send(Do::Hear(does));
    }

    /// Shows a sign of life.
    pub fn update(&self) {
        let _ = self.commands.send(Do::Update);
    }

    pub fn deregister(&self) {
        let _ = self.commands.send(Do::Deregister);
    }

    /// What its CoAP endpoint counted so far.
    pub async fn stats(&self) -> coap::Stats {
        let (answer, answered) = oneshot::channel();
        let _ = self.commands.send(Do::Stats(answer));
        answered.await.unwrap()
    }

    /// Payloads of the confirmable notifications that the server has acknowledged since this was asked last.
    pub fn acknowledged(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.acknowledged.try_recv().ok()).collect()
    }

    /// Gone without a word.
    pub fn vanish(&self) {
        self.task.abort();
    }

    pub async fn wait_for(&mut self, is_it: impl Fn(&Event) -> bool) -> Event {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the device runs");
                if is_it(&event) {
                    return event;
                }
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        waited.expect("the device saw it in time")
    }

    pub async fn registered(&mut self) {
        self.wait_for(|event| matches!(event, Event::Registered { .. }))
            .await;
    }

    /// Every event there is by now.
    pub fn drain(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tree() -> InMemoryTree {
    let mut tree = InMemoryTree::new(Arc::new(Registry::oma()));
    let text = |id, value: &str| ResourceNode::single(id, Value::String(value.to_owned()));
    let codes = ResourceNode::multiple(11, ValueType::Integer, [(0, Value::Integer(0))]);
    let device = [text(0, "maker"), codes, text(15, "UTC"), text(16, "U")];
    tree.add_instance(3, 0, device).unwrap();
    let temperature = [ResourceNode::single(5700, Value::Float(20.0))];
    tree.add_instance(3303, 0, temperature).unwrap();
    tree
}

struct Driver {
    client: Client<InMemoryTree>,
    transport: UdpTransport,
    outbox: mpsc::UnboundedSender<Event>,
    /// Confirmable notifications on their way, by message id.
    unacknowledged: HashMap<u16, Vec<u8>>,
    kept: mpsc::UnboundedSender<Vec<u8>>,
    hears: bool,
}

impl Driver {
    async fn run(mut self, server: Peer, mut inbox: mpsc::UnboundedReceiver<Do>) {
        self.client.start(Instant::now(), server);
        let mut batch = Batch::default();
        loop {
            while let Some(event) = self.client.poll_event() {
                let _ = self.outbox.send(event);
            }
            let out: Vec<_> = std::iter::from_fn(|| self.client.poll_transmit()).collect();
            for transmit in &out {
                self.sends(&transmit.payload);
            }
            self.transport.send_all(out).await;
            tokio::select! {
                received = self.transport.wait(&mut batch, self.client.next_timeout()) => {
                    received.unwrap();
                    for (peer, datagram) in (&batch).into_iter().filter(|_| self.hears) {
                        // The server's word that it has the notification.
                        if let [0x60, 0, high, low] = *datagram
                            && let Some(payload) = self.unacknowledged.remove(&u16::from_be_bytes([high, low]))
                        {
                            let _ = self.kept.send(payload);
                        }
                        self.client.handle_datagram(Instant::now(), peer, datagram);
                    }
                }
                Some(command) = inbox.recv() => match command {
                    Do::Set(path, value) => {
                        self.client.objects_mut().set(&path, value).unwrap();
                        self.client.changed(Instant::now(), &path);
                    }
                    Do::Send(groups) => {
                        self.client.send(Instant::now(), &groups, ContentFormat::SenmlCbor).unwrap();
                    }
                    Do::Update => self.client.update(Instant::now()),
                    Do::Hear(does) => self.hears = does,
                    Do::Deregister => self.client.deregister(Instant::now()),
                    Do::Stats(answer) => {
                        let _ = answer.send(self.client.coap_stats());
                    }
                },
            }
            self.client.handle_timeout(Instant::now());
        }
    }

    fn sends(&mut self, datagram: &[u8]) {
        let packet = Packet::from_bytes(datagram).unwrap();
        if packet.header.get_type() == MessageType::Confirmable
            && packet.header.code == MessageClass::Response(ResponseType::Content)
        {
            self.unacknowledged
                .insert(packet.header.message_id, packet.payload);
        }
    }
}
