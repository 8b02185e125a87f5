//! A device over real UDP, with the objects that the recorded answers have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coap::Peer;
use lwm2m::client::{Client, ClientConfig, Event, InMemoryTree, Status};
use lwm2m_model::{ObjectPath, Registry, ResourceNode, Value, ValueType};
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
    Observed(ObjectPath),
    Update,
    Leave,
    Silence,
}

impl Device {
    /// Starts a device that registers.
    pub(crate) fn start(server: SocketAddr, endpoint: &str) -> Self {
        let (commands, inbox) = mpsc::channel(1);
        let config = ClientConfig {
            lifetime: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            ..ClientConfig::new(endpoint)
        };
        tokio::spawn(run(server, config, inbox));
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

fn tree() -> InMemoryTree {
    let mut tree = InMemoryTree::new(Arc::new(Registry::oma()));
    let text = |id, text: &str| ResourceNode::single(id, Value::String(text.to_owned()));
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
    mut inbox: mpsc::Receiver<(Command, oneshot::Sender<String>)>,
) {
    let transport = UdpTransport::bind(([127, 0, 0, 1], 0).into(), &UdpConfig::default()).unwrap();
    let mut client = Client::new(config, tree(), rand::random());
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
                Event::Observed { path } => observed.push(path),
                Event::ObservationEnded { path } => observed.retain(|at| *at != path),
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
