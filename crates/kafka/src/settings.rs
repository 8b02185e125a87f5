use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rdkafka::ClientConfig;
use service::tls::{ClientFiles as _, Tls, TlsError, TlsFiles};

use crate::properties::{self, Properties};
use crate::{RegistryError, SchemaRegistry};

/// Why a cluster's settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The properties file is not readable.
    #[error("can't read the Kafka properties {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not `key=value`.
    #[error("{path}, line {line}: expected key=value")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A key or certificate can't be used.
    #[error("TLS to Kafka: {0}")]
    Tls(#[from] TlsError),
    /// librdkafka does not take the settings.
    #[error("the Kafka client refuses its settings: {0}")]
    Client(#[from] rdkafka::error::KafkaError),
}

service::client_tls_args!(
    KafkaTlsArgs,
    "kafka",
    "KAFKA",
    "Kafka and its schema registry"
);

/// The options of a service that uses one cluster and its schema registry.
#[derive(Args, Clone, Debug)]
pub struct KafkaArgs {
    /// The Kafka brokers to start from, `host:port[,…]`
    #[arg(
        long,
        visible_alias = "bootstrap-server",
        alias = "broker-list",
        env = "KAFKA_BOOTSTRAP_SERVER",
        default_value = "127.0.0.1:9092"
    )]
    pub kafka_bootstrap_server: String,
    /// The schema registry (Confluent's REST API)
    #[arg(
        long,
        visible_alias = "schema-registry-url",
        env = "KAFKA_SCHEMA_REGISTRY_URL",
        default_value = "http://127.0.0.1:8081"
    )]
    pub kafka_schema_registry_url: String,
    /// A file of Kafka client properties (`key=value`), by Java's names or librdkafka's: TLS and whatever else
    #[arg(
        long,
        aliases = ["consumer-config", "consumer.config", "producer-config", "producer.config", "command-config"],
        env = "KAFKA_SSL_PROPERTIES_LOCATION",
        value_name = "FILE"
    )]
    pub kafka_ssl_properties_location: Option<PathBuf>,
    #[command(flatten)]
    pub tls: KafkaTlsArgs,
}

impl KafkaArgs {
    /// The cluster these options name.
    ///
    /// # Errors
    /// When the properties file, a key or a certificate can't be used.
    pub fn cluster(&self) -> Result<Cluster, SettingsError> {
        Cluster::with_tls(
            &self.kafka_bootstrap_server,
            self.kafka_ssl_properties_location.as_deref(),
            self.tls.tls_files(),
        )
    }

    /// The registry these options name, with the cluster's certificates.
    ///
    /// # Errors
    /// When its client can't be made, or the properties file, a key or a certificate can't be used.
    pub fn registry(&self) -> anyhow::Result<SchemaRegistry> {
        Ok(self.cluster()?.registry(&self.kafka_schema_registry_url)?)
    }
}

/// How to reach one Kafka cluster. Clones share its certificates.
#[derive(Clone)]
pub struct Cluster {
    bootstrap: String,
    properties: Properties,
    tls: Tls,
    registry_tls: Tls,
}

impl std::fmt::Debug for Cluster {
    // The properties hold passwords: only their names may show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("bootstrap", &self.bootstrap)
            .field(
                "properties",
                &self.properties.client.keys().collect::<Vec<_>>(),
            )
            .field("tls", self.tls.files())
            .finish()
    }
}

impl Cluster {
    /// A cluster by its bootstrap brokers and, where it needs more, a file of properties.
    ///
    /// # Errors
    /// When the file can't be read, has a line that is not a property, or names keys or certificates that can't be used.
    pub fn new(bootstrap: &str, properties: Option<&Path>) -> Result<Self, SettingsError> {
        Self::with_tls(bootstrap, properties, TlsFiles::default())
    }

    /// The same with TLS files that stand above those of the properties.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn with_tls(
        bootstrap: &str,
        properties: Option<&Path>,
        files: TlsFiles,
    ) -> Result<Self, SettingsError> {
        let mut properties = match properties {
            None => Properties::default(),
            Some(path) => properties::read(path)?,
        };
        properties.name_files(files);
        let tls = Tls::open(properties.files.clone())?;
        let registry_tls = match &properties.registry_files {
            Some(files) if *files != properties.files => Tls::open(files.clone())?,
            _ => tls.clone(),
        };
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            properties,
            tls,
            registry_tls,
        })
    }

    /// The bootstrap brokers as given.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Its schema registry's client, with the certificates for Kafka, or those of `schema.registry.ssl.…` where the
    /// properties have such. They are taken up anew when they change.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn registry(&self, url: &str) -> Result<SchemaRegistry, RegistryError> {
        SchemaRegistry::with_tls(url, self.registry_tls.clone())
    }

    /// Keys and certificates for the brokers.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Whether the brokers are spoken to over TLS.
    pub fn is_secure(&self) -> bool {
        self.properties.is_secure()
    }

    /// Which generation of certificates [`Cluster::client_config`] gives out now. Ask before making a client, and make
    /// another one when [`Cluster::renewed`] of it ends: librdkafka can't exchange them in one that runs.
    pub fn generation(&self) -> u64 {
        self.tls.current().generation()
    }

    /// Ends when there are other certificates than those of this generation; never, where none are used.
    pub async fn renewed(&self, generation: u64) {
        self.tls.renewed(generation).await;
    }

    /// A librdkafka configuration with what every client of ours has, and the newest certificates.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "zeelos")
            // An address that answers nothing must not hold a client for the default 30 s.
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            // Idle connections through NAT die silently; the broker's ping keeps them.
            .set("socket.keepalive.enable", "true")
            // The address the client was given is IPv4 or IPv6; a name may be both.
            .set("broker.address.family", "any");
        for (key, value) in &self.properties.client {
            config.set(key, value);
        }
        // The loaded form and not the files' names: one reader of keys and certificates for all clients, which takes
        // truststores too and says what is wrong.
        let loaded = self.tls.current();
        if let Some(pem) = loaded.ca_pem() {
            config.set("ssl.ca.pem", pem);
        }
        if let Some(identity) = loaded.identity() {
            config
                .set("ssl.certificate.pem", identity.certificate_pem())
                .set("ssl.key.pem", identity.key_pem().expose());
        }
        config
    }

    /// Why no broker lets us in, where TLS is the reason: in words, with what to look at. Takes 9 s at most; for when
    /// brokers do not answer.
    pub async fn trouble(&self) -> Option<String> {
        for address in self.bootstrap.split(',').map(str::trim).take(PROBED) {
            let address = address.rsplit("://").next().unwrap_or(address);
            if self.is_secure() {
                let said = self.tls.refusal(address, PROBE_LIMIT).await;
                if let Some(said) = said {
                    return Some(format!("TLS to {address}: {said}"));
                }
            } else if speaks_tls(address).await {
                return Some(format!(
                    "{address} speaks TLS and we do not: set security.protocol=SSL in the properties, or --kafka-ssl-ca-location"
                ));
            }
        }
        None
    }

    /// A sentence about brokers that are away, with [`Cluster::trouble`] where there is some.
    pub async fn explain(&self, sentence: String) -> String {
        match self.trouble().await {
            Some(trouble) => format!("{sentence} ({trouble})"),
            None => sentence,
        }
    }
}

/// How many of the bootstrap brokers are asked why they do not answer.
const PROBED: usize = 3;
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// Whether a server answers a TLS client's greeting with a certificate, whatever that is worth.
async fn speaks_tls(address: &str) -> bool {
    match Tls::none().refusal(address, PROBE_LIMIT).await {
        None => false,
        Some(said) => said.to_lowercase().contains("certificate"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ONE_PEM: &str = "security.protocol=SSL\nssl.keystore.type = PEM\nssl.keystore.location=DIR/client.pem\nssl.truststore.location=DIR/ca.crt\nssl.truststore.password=itsasecret\nssl.enabled.protocols=TLSv1.2\n";

    /// The properties with `DIR` standing for a folder that has a CA and a client's files.
    fn cluster(text: &str) -> Result<Cluster, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let now_s = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        let day = Duration::from_secs(86_400);
        let made = certs::Folder::open_or_create(folder.path(), now_s, day)
            .unwrap()
            .password("itsasecret");
        made.issue(&certs::Role::new("client").unwrap(), day)
            .unwrap();
        let read = |file: PathBuf| fs::read_to_string(file).unwrap();
        let both = read(made.key("client")) + &read(made.certificate("client"));
        fs::write(folder.path().join("client.pem"), both).unwrap();
        fs::copy(made.ca_certificate(), folder.path().join("ca.crt")).unwrap();
        fs::write(
            folder.path().join("old.jks"),
            [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2],
        )
        .unwrap();
        let text = text.replace("DIR", folder.path().to_str().unwrap());
        let path = folder.path().join("own.properties");
        fs::write(&path, text).unwrap();
        Cluster::new("127.0.0.1:9092", Some(&path))
    }

    #[test]
    fn javas_names_are_understood_whatever_the_files_are_called() {
        let pkcs12 = "# as the original has it\nsecurity.protocol: SSL\nssl.keystore.location=DIR/kafka.client.keystore.jks\nssl.keystore.password=itsasecret\nssl.key.password=itsasecret\nssl.truststore.location=DIR/kafka.client.truststore.jks\nssl.truststore.password=itsasecret\n";
        let librdkafka = "security.protocol ssl\nssl.ca.location=DIR/ca.crt\nssl.certificate.location=DIR/client.certificate.pem\nssl.key.location=DIR/client.key\n";
        for text in [ONE_PEM, pkcs12, librdkafka] {
            let cluster = cluster(text).unwrap();
            assert!(cluster.is_secure());
            let config = cluster.client_config();
            let set = |key| config.get(key).unwrap_or_default();
            assert!(set("ssl.ca.pem").contains("BEGIN CERTIFICATE"), "{text}");
            assert!(set("ssl.certificate.pem").contains("BEGIN CERTIFICATE"));
            assert!(set("ssl.key.pem").contains("PRIVATE KEY"));
            for translated in [
                "ssl.truststore.password",
                "ssl.keystore.type",
                "ssl.enabled.protocols",
            ] {
                assert_eq!(config.get(translated), None, "{translated}");
            }
            let made: Result<rdkafka::consumer::BaseConsumer, _> = config.create();
            assert!(made.is_ok(), "librdkafka takes it: {text}");
        }
    }

    #[test]
    fn certificates_without_a_protocol_mean_tls() {
        assert!(cluster("ssl.ca.location=DIR/ca.crt\n").unwrap().is_secure());
        assert!(!cluster("linger.ms=5\n").unwrap().is_secure());
        let plain =
            "security.protocol=PLAINTEXT\nschema.registry.ssl.truststore.location=DIR/ca.crt\n";
        assert!(!cluster(plain).unwrap().is_secure());
    }

    #[test]
    fn what_can_not_be_used_is_said_with_its_file() {
        for (text, expected) in [
            (
                "ssl.keystore.location=DIR/old.jks\n",
                "keytool -importkeystore",
            ),
            ("ssl.keystore.location=DIR/none.p12\n", "none.p12"),
            (
                "ssl.keystore.location=DIR/kafka.client.keystore.jks\nssl.keystore.password=wrong\n",
                "does not open it",
            ),
            (
                "ssl.keystore.location=DIR/kafka.client.truststore.jks\nssl.keystore.password=itsasecret\n",
                "no private key",
            ),
            (
                "ssl.certificate.location=DIR/client.certificate.pem\nssl.key.location=DIR/zeelos.io-ca.key\n",
                "does not belong",
            ),
            (
                "ssl.key.location=DIR/client.key\n",
                "certificate and its key go together",
            ),
            (
                "ssl.ca.location=DIR/client.key\n",
                "no certificate is in it",
            ),
        ] {
            let error = cluster(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_that_is_no_property_is_named() {
        let error = cluster("a=b\nnonsense\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let cluster = cluster("sasl.password=hunter2").unwrap();
        assert!(!format!("{cluster:?}").contains("hunter2"));
    }
}
