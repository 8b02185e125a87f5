use std::time::Duration;

use testkit::{Child, Launch, LeshanClient, RunDir, c_program, go_program, python_packages};

const LIBCOAP: &str = include_str!("../peers/c/device.c");
/// In front of a device without DTLS: `tls.h`, then the library's part, then the relay.
const RELAY: [&str; 2] = [
    include_str!("../peers/c/tls.h"),
    include_str!("../peers/c/relay.c"),
];
const MBED_TLS: &str = include_str!("../peers/c/mbedtls.c");
const WOLF_SSL: &str = include_str!("../peers/c/wolfssl.c");
const AIOCOAP: &str = include_str!("../peers/python/device.py");
const GO_COAP: [(&str, &str); 3] = [
    ("main.go", include_str!("../peers/go/main.go")),
    ("go.mod", include_str!("../peers/go/go.mod")),
    ("go.sum", include_str!("../peers/go/go.sum")),
];

/// Whose CoAP (and, with Leshan, whose LwM2M) a device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// libcoap with OpenSSL.
    LibcoapOpenSsl,
    /// libcoap with GnuTLS.
    LibcoapGnuTls,
    /// libcoap behind Mbed TLS, the DTLS of Anjay and Zephyr: a relay between its plain CoAP and the server.
    LibcoapMbedTls,
    /// libcoap behind wolfSSL, in the same way.
    LibcoapWolfSsl,
    /// aiocoap with tinydtls.
    Aiocoap,
    /// go-coap with pion's DTLS.
    GoCoap,
    /// Eclipse Leshan's client on Californium and Scandium.
    Leshan,
}

/// The longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device in a process of its own: `<program> <server uri> <endpoint> [<name>=<value> …]`.
///
/// ```text
/// settings   lifetime=<s>  psk=<identity>:<key, hex>  block=<bytes>
/// prints     started  registered <location>  updated  deregistered  failed <what>
///            executed <path> <arguments>  written <path> <value>  value <path> <number>
/// takes      set <path> <number>  update  deregister
/// ```
///
/// All have the Device object (3/0: 0, 1, 4, 15, 16) and a temperature (3303/0: 5700 to observe, 5750 a text of any
/// length), in text and TLV; Leshan's has more (see [`LeshanClient`]).
pub struct Peer {
    program: Program,
}

enum Program {
    Ours(
        Child,
        /// What the device needs for as long as it lives.
        #[allow(dead_code, reason = "kept for its drop")]
        (RunDir, Option<Child>),
    ),
    Leshan(LeshanClient),
}

impl Peer {
    /// Starts a device and waits until it has registered.
    ///
    /// # Errors
    /// When its library can't be had, or it does not register.
    pub async fn start(
        library: Library,
        uri: &str,
        endpoint: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut peer = Self::spawn(library, uri, endpoint, settings).await?;
        peer.line("registered ").await?;
        Ok(peer)
    }

    /// Starts a device and does not wait.
    ///
    /// # Errors
    /// When its library can't be had.
    pub async fn spawn(
        library: Library,
        uri: &str,
        endpoint: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        if library == Library::Leshan {
            let mut builder = LeshanClient::builder();
            for (name, value) in settings {
                builder = match *name {
                    "lifetime" => builder.lifetime(Duration::from_secs(value.parse()?)),
                    _ => builder.setting(name, value),
                };
            }
            let client = builder.start(uri, endpoint).await?;
            return Ok(Self {
                program: Program::Leshan(client),
            });
        }
        let dir = RunDir::new(endpoint)?;
        let settings = settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let mut settings: Vec<String> = settings.collect();
        let mut uri = uri.to_owned();
        let relay = match relay(library).await? {
            Some(relay) => {
                let port = uri.rsplit(':').next().unwrap_or_default().to_owned();
                let relay = relay.arg(port).args(settings.drain(..));
                let mut relay = relay.spawn(&dir.path().join("relay.log"))?;
                let listens = |line: &str| line.starts_with("listening ");
                let line = relay.wait_for_line(PATIENCE, "its port", listens).await?;
                uri = line.replace("listening ", "coap://127.0.0.1:");
                Some(relay)
            }
            None => None,
        };
        let launch = launch(library, &dir).await?;
        let launch = launch.args([&*uri, endpoint]).args(settings);
        let child = launch.spawn(&dir.path().join("log"))?;
        Ok(Self {
            program: Program::Ours(child, (dir, relay)),
        })
    }

    /// Waits until it has printed a line that starts so, and returns the first such.
    ///
    /// # Errors
    /// When there is none in half a minute.
    pub async fn line(&mut self, start: &str) -> anyhow::Result<String> {
        let what = format!("the line '{start}…'");
        self.process()
            .wait_for_line(PATIENCE, &what, |line| line.starts_with(start))
            .await
    }

    /// Gives it a command.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        self.process().write_line(command)
    }

    pub fn process(&mut self) -> &mut Child {
        match &mut self.program {
            Program::Ours(child, _) => child,
            Program::Leshan(client) => client.process(),
        }
    }
}

/// The process between a device and the server, where there is one.
async fn relay(library: Library) -> anyhow::Result<Option<Launch>> {
    let (name, own, flags, package) = match library {
        Library::LibcoapMbedTls => (
            "mbedtls-relay",
            MBED_TLS,
            "-lmbedtls -lmbedx509 -lmbedcrypto",
            "libmbedtls-dev",
        ),
        Library::LibcoapWolfSsl => ("wolfssl-relay", WOLF_SSL, "wolfssl", "libwolfssl-dev"),
        _ => return Ok(None),
    };
    let source = [RELAY[0], own, RELAY[1]].concat();
    let program = c_program(name, &source, flags, package).await?;
    Ok(Some(Launch::new(name, program)))
}

async fn launch(library: Library, dir: &RunDir) -> anyhow::Result<Launch> {
    let name = format!("{library:?} device");
    let compiled =
        async |program, library| c_program(program, LIBCOAP, library, "libcoap3-dev").await;
    Ok(match library {
        Library::LibcoapOpenSsl | Library::LibcoapMbedTls | Library::LibcoapWolfSsl => Launch::new(
            name,
            compiled("libcoap-openssl-device", "libcoap-3-openssl").await?,
        ),
        Library::LibcoapGnuTls => Launch::new(
            name,
            compiled("libcoap-gnutls-device", "libcoap-3-gnutls").await?,
        ),
        Library::GoCoap => Launch::new(name, go_program("go-coap-device", &GO_COAP).await?),
        Library::Aiocoap => {
            let requirements = ["aiocoap==0.4.17", "DTLSSocket==0.2.3"];
            // DTLSSocket brings tinydtls as a source with a configure script to be made.
            let build = [("autoconf", "autoconf"), ("automake", "automake")];
            let packages = python_packages("aiocoap", &requirements, &build).await?;
            let file = dir.path().join("device.py");
            std::fs::write(&file, AIOCOAP)?;
            Launch::new(name, "python3")
                .env("PYTHONPATH", packages)
                .arg(file)
        }
        Library::Leshan => unreachable!("started by testkit"),
    })
}
