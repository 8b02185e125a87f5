//! The sensor over real sockets, against the server's state machine.

use std::sync::Arc;

use clap::Parser;
use lwm2m::server::{Event as ServerEvent, RequestOptions, Server, ServerConfig};
use lwm2m::{Body, Now, Operation};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceContent, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

fn args(given: &[&str]) -> Args {
    Program::try_parse_from(std::iter::once("test").chain(given.iter().copied()))
        .unwrap()
        .args
}

/// An LwM2M server on a loopback port.
struct Gateway {
    server: Server,
    transport: UdpTransport,
    batch: Batch,
    events: Vec<ServerEvent>,
}

impl Gateway {
    fn start() -> Self {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            server: Server::new(ServerConfig::default(), Arc::new(Registry::oma()), [3; 32]),
            transport: UdpTransport::bind(bind, &UdpConfig::default()).unwrap(),
            batch: Batch::default(),
            events: Vec::new(),
        }
    }

    fn now() -> Now {
        Now {
            instant: Instant::now(),
            unix_ms: moment().unix_s * 1_000,
        }
    }

    /// Serves until an event is the one that is looked for.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&ServerEvent) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(
                Instant::now() < end,
                "it does not happen; this did: {:?}",
                self.events
            );
            self.server.handle_timeout(Self::now());
            while let Some(event) = self.server.poll_event() {
                if let ServerEvent::Notified { ack: Some(ack), .. } = &event {
                    self.server.acknowledge(Self::now(), *ack);
                }
                self.events.push(event);
            }
            let server = &mut self.server;
            self.transport
                .send_all(std::iter::from_fn(|| server.poll_transmit()))
                .await;
            for (at, event) in self.events.iter().enumerate() {
                if let Some(found) = wanted(event) {
                    self.events.drain(..=at);
                    return found;
                }
            }
            let soon = Instant::now() + Duration::from_millis(50);
            self.transport
                .wait(&mut self.batch, Some(soon))
                .await
                .unwrap();
            for (peer, datagram) in &self.batch {
                self.server.handle_datagram(Self::now(), peer, datagram);
            }
        }
    }

    async fn ask(&mut self, endpoint: &str, operation: Operation) -> Body {
        let wanted = self
            .server
            .request(Self::now(), endpoint, operation, RequestOptions::default())
            .unwrap();
        self.until(|event| match event {
            ServerEvent::Completed { handle, result, .. } if *handle == wanted => {
                Some(result.clone().unwrap())
            }
            _ => None,
        })
        .await
        .body
    }
}

fn path(text: &str) -> ObjectPath {
    text.parse().unwrap()
}

fn number(body: &Body) -> Option<f64> {
    match body {
        Body::Node(Node::Resource(node)) => match &node.content {
            ResourceContent::Single(value) => value.as_f64(),
            ResourceContent::Multiple { .. } => None,
        },
        _ => None,
    }
}

async fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: sensor\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_sensor_registers_notifies_obeys_and_leaves() {
    let mut gateway = Gateway::start();
    let address = gateway.transport.local_addr().unwrap().to_string();
    let context = Context::detached();
    let sensor = args(&[
        "-u",
        &address,
        "-n",
        "sensor-1",
        "--interval",
        "100",
        "--pos",
        "48.1:11.5",
    ]);
    let running = tokio::spawn(run(sensor, context.clone()));

    let registration = gateway
        .until(|event| match event {
            ServerEvent::Registered { registration, .. } => Some(registration.clone()),
            _ => None,
        })
        .await;
    assert_eq!(registration.endpoint, "sensor-1");
    let instances = registration.available_instances();
    assert_eq!(
        instances.keys().copied().collect::<Vec<_>>(),
        [1, 3, 6, 3303]
    );
    assert_eq!(instances[&3303].len(), 2);

    let body = gateway
        .ask(
            "sensor-1",
            Operation::Read {
                path: path("/6/0/0"),
            },
        )
        .await;
    assert!((number(&body).unwrap() - 48.1).abs() < 1e-4, "{body:?}");
    gateway
        .ask(
            "sensor-1",
            Operation::Observe {
                path: path("/3303/0/5700"),
            },
        )
        .await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let value = gateway
            .until(|event| match event {
                ServerEvent::Notified { response, .. } => number(&response.body),
                _ => None,
            })
            .await;
        seen.push(value);
    }
    assert!(
        seen.windows(2).all(|pair| pair[0] != pair[1]),
        "each change is told once: {seen:?}"
    );
    assert!(Metrics::get().notifications.get() >= 3);
    assert!(
        context.health.failing().is_empty(),
        "{:?}",
        context.health.failing()
    );

    // A reboot ends what it knows of its observers; the server asks again.
    gateway
        .ask(
            "sensor-1",
            Operation::Execute {
                path: path("/3/0/4"),
                arguments: String::new(),
            },
        )
        .await;
    gateway
        .until(|event| {
            matches!(
                event,
                ServerEvent::Registered {
                    replaced: Some(_),
                    ..
                }
            )
            .then_some(())
        })
        .await;
    gateway
        .until(|event| matches!(event, ServerEvent::Notified { .. }).then_some(()))
        .await;

    context.shutdown.cancel();
    gateway
        .until(|event| {
            matches!(event, ServerEvent::Deregistered { expired: false, .. }).then_some(())
        })
        .await;
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_speaks_lwm2m_1_1_and_sleeps() {
    let mut gateway = Gateway::start();
    let context = Context::detached();
    let server = gateway.transport.local_addr().unwrap();
    let given = [
        "-u",
        &server.to_string(),
        "-n",
        "sleeper",
        "--binding",
        "UQ",
        "--awake",
        "1",
    ];
    let running = tokio::spawn(run(args(&given), context.clone()));
    let registration = gateway
        .until(|event| match event {
            ServerEvent::Registered { registration, .. } => Some(registration.clone()),
            _ => None,
        })
        .await;
    assert!(registration.binding.queue);
    assert_eq!(registration.binding.raw, "U");
    let list = vec![path("/3303/0/5700"), path("/3/0/0")];
    let body = gateway
        .ask(
            "sleeper",
            Operation::ObserveComposite {
                paths: list.clone(),
            },
        )
        .await;
    assert!(
        matches!(&body, Body::Nodes(nodes) if nodes.len() == 2),
        "{body:?}"
    );
    // Each sample of the temperature wakes it.
    gateway
        .until(|event| match event {
            ServerEvent::Notified { response, .. } => {
                matches!(&response.body, Body::Nodes(nodes) if nodes.len() == 2).then_some(())
            }
            _ => None,
        })
        .await;
    let zone = Node::single(15, Value::String("Europe/Athens".to_owned()));
    let nodes = [(path("/3/0/15"), zone)].into();
    let body = gateway
        .ask("sleeper", Operation::WriteComposite { nodes })
        .await;
    assert_eq!(body, Body::None);
    context.shutdown.cancel();
    gateway
        .until(|event| matches!(event, ServerEvent::Deregistered { .. }).then_some(()))
        .await;
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn values_are_set_and_read_over_http() {
    let (router, mut commands) = admin::routes();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    let settings = settings(&args(&["-n", "x", "--pos", "0:0", "--sf", "0.25"]));
    let sensor = Sensor::new(settings, moment(), [1; 32]).unwrap();
    let registration = service::Health::default().condition("registration");
    let server = SocketAddr::from(([127, 0, 0, 1], 1));
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut device = Running {
        sensor,
        link: Link::Plain(UdpTransport::bind(nowhere, &UdpConfig::default()).unwrap()),
        metrics: Metrics::get(),
        registration,
        server,
        lost: false,
    };
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            device.obey(command);
        }
    });

    let answer = http(address, "POST", "/sensor/3303/0/5700", "87.25").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = http(address, "GET", "/sensor/3303/0/5602", "").await;
    assert!(answer.ends_with("87.25"), "{answer}");
    assert!(
        http(address, "POST", "/location/east", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        http(address, "GET", "/sensor/6/0/1", "")
            .await
            .ends_with("0.25")
    );
    for (target, body, status) in [
        ("/sensor/3303/0/5700", "hot", "400"),
        ("/sensor/3303/9/5700", "1", "404"),
        ("/sensor/a/b/c", "1", "400"),
        ("/location/up", "", "404"),
        ("/send", "/3303/0/5700", "409"),
        ("/send", "not/a/path", "400"),
    ] {
        let answer = http(address, "POST", target, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{target}: {answer}"
        );
    }
}

#[tokio::test]
async fn it_stops_at_once_while_the_servers_name_is_not_known() {
    let context = Context::detached();
    let running = tokio::spawn(run(args(&["-u", "no-such-host.invalid"]), context.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!running.is_finished());
    context.shutdown.cancel();
    timeout(Duration::from_secs(5), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[test]
fn endpoint_names_are_given_or_random_uuids() {
    assert_eq!(settings(&args(&["-n", "here"])).client.endpoint, "here");
    let name = settings(&args(&[])).client.endpoint;
    assert_eq!(name.len(), 32);
    assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(&name[12..13], "4", "{name}");
    assert!("89ab".contains(&name[16..17]), "{name}");
    assert_ne!(name, settings(&args(&[])).client.endpoint);
    assert!(Program::try_parse_from(["test", "-n", ""]).is_err());
    assert!(Program::try_parse_from(["test", "--pos", "-48.1:-11.5"]).is_ok());
}

#[test]
fn a_value_from_outside_is_a_value() {
    let now = moment();
    let mut sensor = Sensor::new(settings(&args(&["-n", "x"])), now, [1; 32]).unwrap();
    sensor.set(now, &path("/3303/1/5700"), "55.5").unwrap();
    assert_eq!(
        sensor.client.objects().get(&path("/3303/1/5700")),
        Some(&Value::Float(55.5))
    );
}
