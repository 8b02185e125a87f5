//! A device over real UDP, with the objects that the recorded answers have.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::Peer;
use lwm2m::Target;
use lwm2m::client::{Client, ClientConfig, Event, InMemoryTree, Status};
use lwm2m_codec::{ContentFormat, Timestamped};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceNode, Value, ValueType};
use tokio::sync::{mpsc, oneshot};
use transport::{Batch, UdpConfig, UdpTransport};

/// A handle on a running device.
pub(crate) struct Device {
    commands: mpsc::Sender<(Command, oneshot::Sender<String>)>,
}

enum Command {
    Set(ObjectPath, Value),
    Get(ObjectPath),
    Executed,
    Observed(Target),
    Send(Vec<(Option<f64>, ObjectPath, Node)>),
    Update,
    Leave,
    Silence,
}

impl Device {
    /// Starts a device that registers.
    pub(crate) fn start(server: SocketAddr, endpoint: &str) -> Self {
        Self::run(server, config(endpoint), tree())
    }

    /// One with the objects, and the answers, of the recorded device.
    pub(crate) fn recorded(server: SocketAddr, endpoint: &str) -> Self {
        let config = ClientConfig {
            binding: "UT".parse().unwrap(),
            ..config(endpoint)
        };
        Self::run(server, config, recorded_tree())
    }

    /// One in queue mode, which listens for so long after it was heard of.
    pub(crate) fn sleeper(server: SocketAddr, endpoint: &str, awake: Duration) -> Self {
        let config = ClientConfig {
            binding: "UQ".parse().unwrap(),
            awake_window: awake,
            ..config(endpoint)
        };
        Self::run(server, config, tree())
    }

    fn run(server: SocketAddr, config: ClientConfig, tree: InMemoryTree) -> Self {
        let (commands, inbox) = mpsc::channel(1);
        tokio::spawn(run(server, config, tree, inbox));
        Self { commands }
    }

    /// The device measured something.
    pub(crate) async fn set(&self, path: &str, value: Value) {
        self.ask(Command::Set(path.parse().unwrap(), value)).await;
    }

    /// What the device has there, as Rust writes it.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.ask(Command::Get(path.parse().unwrap())).await
    }

    /// What was last executed, and with which arguments.
    pub(crate) async fn executed(&self) -> String {
        self.ask(Command::Executed).await
    }

    /// Whether the server has an observation of this path on the device.
    pub(crate) async fn is_observed(&self, path: &str) -> bool {
        self.ask(Command::Observed(path.parse().unwrap())).await == "true"
    }

    /// The device reports of its own accord; times are in seconds since 1970.
    pub(crate) async fn send(&self, values: Vec<(Option<f64>, &str, f64)>) {
        let values = values.into_iter().map(|(time_s, path, value)| {
            let path: ObjectPath = path.parse().unwrap();
            let id = path.resource_id().unwrap();
            (time_s, path, Node::single(id, Value::Float(value)))
        });
        assert_eq!(self.ask(Command::Send(values.collect())).await, "");
    }

    /// Updates its registration.
    pub(crate) async fn update(&self) {
        self.ask(Command::Update).await;
    }

    /// De-registers.
    pub(crate) async fn leave(&self) {
        self.ask(Command::Leave).await;
    }

    /// Answers nothing any more.
    pub(crate) async fn fall_silent(&self) {
        self.ask(Command::Silence).await;
    }

    async fn ask(&self, command: Command) -> String {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.unwrap();
        answer.await.unwrap()
    }
}

fn config(endpoint: &str) -> ClientConfig {
    ClientConfig {
        lifetime: Duration::from_secs(30),
        request_timeout: Duration::from_secs(5),
        ..ClientConfig::new(endpoint)
    }
}

fn text(id: u16, text: &str) -> ResourceNode {
    ResourceNode::single(id, Value::String(text.to_owned()))
}

/// An object that only that device has; the server knows nothing of it.
const TEST_OBJECT: &str = r#"<LWM2M><Object ObjectType="MODefinition"><Name>Test</Name><ObjectID>3442</ObjectID>
    <ObjectURN>urn:oma:lwm2m:ext:3442</ObjectURN><MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory>
    <Resources><Item ID="110"><Name>Text</Name><Operations>RW</Operations><MultipleInstances>Single</MultipleInstances>
    <Mandatory>Optional</Mandatory><Type>String</Type></Item></Resources></Object></LWM2M>"#;

/// What the recorded device had, as far as its answers show it.
fn recorded_tree() -> InMemoryTree {
    let mut models = Registry::oma();
    models.add_ddf(TEST_OBJECT).unwrap();
    let mut tree = InMemoryTree::new(Arc::new(models));
    let number = |id, number| ResourceNode::single(id, Value::Integer(number));
    let float = |id, number| ResourceNode::single(id, Value::Float(number));
    let device = [
        text(0, "Leshan Demo Device"),
        text(1, "Model 500"),
        text(2, "LT-500-000-0001"),
        text(3, "1.0.0"),
        number(9, 5),
        number(10, 114_789),
        ResourceNode::multiple(11, ValueType::Integer, [(0, Value::Integer(0))]),
        ResourceNode::single(13, Value::Time(1_795_391_443)),
        text(14, "Z"),
        text(15, "Etc/UTC"),
        text(16, "UT"),
        text(17, "Demo"),
        text(18, "1.0.1"),
        text(19, "1.0.2"),
        number(20, 2),
        number(21, 131_072),
    ];
    let temperature = [
        float(5601, 19.0),
        float(5602, 20.0),
        float(5700, 19.1),
        text(5701, "cel"),
    ];
    let server = [
        number(0, 1),
        number(1, 30),
        ResourceNode::single(6, Value::Boolean(false)),
        text(7, "U"),
    ];
    let location = [
        float(0, 48.1),
        float(1, 11.6),
        ResourceNode::single(5, Value::Time(1_795_391_443)),
    ];
    tree.add_instance(1, 0, server).unwrap();
    tree.add_instance(3, 0, device).unwrap();
    tree.add_instance(6, 0, location).unwrap();
    tree.add_instance(3303, 0, temperature).unwrap();
    tree.add_instance(3442, 0, [text(110, "initial value")])
        .unwrap();
    tree.allow_execute(&ObjectPath::Resource(3, 0, 12)).unwrap();
    tree
}

fn tree() -> InMemoryTree {
    let mut tree = InMemoryTree::new(Arc::new(Registry::oma()));
    tree.add_instance(
        1,
        0,
        [
            ResourceNode::single(0, Value::Integer(1)),
            ResourceNode::single(1, Value::Integer(300)),
            ResourceNode::single(6, Value::Boolean(false)),
            text(7, "U"),
        ],
    )
    .unwrap();
    tree.add_instance(
        3,
        0,
        [
            text(0, "Leshan Demo Device"),
            text(1, "Model 500"),
            ResourceNode::single(9, Value::Integer(5)),
            ResourceNode::multiple(11, ValueType::Integer, [(0, Value::Integer(0))]),
            ResourceNode::single(13, Value::Time(1_795_391_443)),
            text(14, "Z"),
            text(15, "Etc/UTC"),
            text(16, "U"),
        ],
    )
    .unwrap();
    tree.allow_execute(&ObjectPath::Resource(3, 0, 12)).unwrap();
    tree.add_instance(
        3303,
        0,
        [
            ResourceNode::single(5601, Value::Float(19.0)),
            ResourceNode::single(5602, Value::Float(20.0)),
            ResourceNode::single(5700, Value::Float(19.1)),
            text(5701, "cel"),
        ],
    )
    .unwrap();
    tree
}

async fn run(
    server: SocketAddr,
    config: ClientConfig,
    tree: InMemoryTree,
    mut inbox: mpsc::Receiver<(Command, oneshot::Sender<String>)>,
) {
    let transport = UdpTransport::bind(([127, 0, 0, 1], 0).into(), &UdpConfig::default()).unwrap();
    let mut client = Client::new(config, tree, rand::random());
    client.start(Instant::now(), Peer::plain(server));
    let mut batch = Batch::default();
    let mut executed = String::new();
    let mut observed = Vec::new();
    let mut leaving = None;
    loop {
        client.handle_timeout(Instant::now());
        while let Some(event) = client.poll_event() {
            match event {
                Event::Executed { path, arguments } => executed = format!("{path} {arguments}"),
                Event::Observed { target } => observed.push(target),
                Event::ObservationEnded { target } => observed.retain(|at| *at != target),
                _ => {}
            }
        }
        transport
            .send_all(std::iter::from_fn(|| client.poll_transmit()))
            .await;
        if client.status() == Status::Idle
            && let Some(reply) = leaving.take()
        {
            let _: Result<(), String> = oneshot::Sender::send(reply, String::new());
            return;
        }
        tokio::select! {
            received = transport.wait(&mut batch, client.next_timeout()) => {
                received.unwrap();
                for (peer, datagram) in &batch {
                    client.handle_datagram(Instant::now(), peer, datagram);
                }
            }
            command = inbox.recv() => {
                let Some((command, reply)) = command else { return };
                let answer = match command {
                    Command::Set(path, value) => {
                        assert!(client.objects_mut().set(&path, value).unwrap());
                        client.changed(Instant::now(), &path);
                        String::new()
                    }
                    Command::Get(path) => format!("{:?}", client.objects().get(&path)),
                    Command::Executed => executed.clone(),
                    Command::Observed(path) => observed.contains(&path).to_string(),
                    Command::Send(values) => {
                        let groups: Vec<_> = values
                            .into_iter()
                            .map(|(time_s, path, node)| Timestamped {
                                time_s,
                                content: BTreeMap::from([(path, node)]),
                            })
                            .collect();
                        let sent = client.send(Instant::now(), &groups, ContentFormat::SenmlCbor);
                        sent.err().map(|error| error.to_string()).unwrap_or_default()
                    }
                    Command::Update => {
                        client.update(Instant::now());
                        String::new()
                    }
                    Command::Leave => {
                        client.deregister(Instant::now());
                        leaving = Some(reply);
                        continue;
                    }
                    Command::Silence => {
                        let _ = reply.send(String::new());
                        return std::future::pending().await;
                    }
                };
                let _ = reply.send(answer);
            }
        }
    }
}
