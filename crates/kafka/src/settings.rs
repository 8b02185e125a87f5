use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use rdkafka::ClientConfig;

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
    /// A Java keystore.
    #[error(
        "{key}={value}: Java's JKS format is not supported; use the PKCS#12 file (.p12) or the PEM files that `certs-create.sh` makes beside it"
    )]
    Jks {
        /// The property.
        key: String,
        /// The file it names.
        value: String,
    },
    /// librdkafka does not take the settings.
    #[error("the Kafka client refuses its settings: {0}")]
    Client(#[from] rdkafka::error::KafkaError),
}

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
    /// A file of Kafka client properties (`key=value`), for TLS and whatever else librdkafka takes
    #[arg(
        long,
        aliases = ["consumer-config", "consumer.config", "producer-config", "producer.config", "command-config"],
        env = "KAFKA_SSL_PROPERTIES_LOCATION",
        value_name = "FILE"
    )]
    pub kafka_ssl_properties_location: Option<PathBuf>,
}

impl KafkaArgs {
    /// The cluster these options name.
    ///
    /// # Errors
    /// When the properties file can't be used.
    pub fn cluster(&self) -> Result<Cluster, SettingsError> {
        Cluster::new(
            &self.kafka_bootstrap_server,
            self.kafka_ssl_properties_location.as_deref(),
        )
    }

    /// The registry these options name.
    ///
    /// # Errors
    /// When its client can't be made.
    pub fn registry(&self) -> Result<SchemaRegistry, RegistryError> {
        SchemaRegistry::new(&self.kafka_schema_registry_url)
    }
}

/// How to reach one Kafka cluster.
#[derive(Clone)]
pub struct Cluster {
    bootstrap: String,
    properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for Cluster {
    // The properties hold passwords: only their names may show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Cluster {
    /// A cluster by its bootstrap brokers and, where it needs more, a file of properties.
    ///
    /// # Errors
    /// When the file can't be read, has a line that is not a property, or names a JKS keystore.
    pub fn new(bootstrap: &str, properties: Option<&Path>) -> Result<Self, SettingsError> {
        let properties = match properties {
            None => BTreeMap::new(),
            Some(path) => read_properties(path)?,
        };
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            properties,
        })
    }

    /// The bootstrap brokers as given.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A librdkafka configuration with what every client of ours has.
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
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }
}

fn read_properties(path: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut given = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with('!') {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| SettingsError::Line {
            path: path.to_owned(),
            line: index + 1,
        })?;
        given.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    translate(given)
}

/// Java clients' names for the same settings, so that the original's properties files can be used.
fn translate(given: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut properties = BTreeMap::new();
    let pem_keystore = given
        .get("ssl.keystore.type")
        .is_some_and(|kind| kind.eq_ignore_ascii_case("PEM"));
    for (key, value) in given {
        let jks = value.to_ascii_lowercase().ends_with(".jks");
        match key.as_str() {
            "ssl.keystore.location" | "ssl.truststore.location" if jks => {
                return Err(SettingsError::Jks { key, value });
            }
            "ssl.truststore.location" => {
                properties.insert("ssl.ca.location".to_owned(), value);
            }
            // One PEM file holds the certificate and its key.
            "ssl.keystore.location" if pem_keystore => {
                properties.insert("ssl.certificate.location".to_owned(), value.clone());
                properties.insert("ssl.key.location".to_owned(), value);
            }
            "ssl.keystore.type" | "ssl.truststore.type" | "ssl.truststore.password" => {}
            _ => {
                properties.insert(key, value);
            }
        }
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Result<Cluster, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.properties");
        fs::write(&path, text).unwrap();
        Cluster::new("127.0.0.1:9092", Some(&path))
    }

    #[test]
    fn java_names_become_librdkafka_names() {
        let cluster = cluster(
            "# comment\nsecurity.protocol=SSL\nssl.keystore.type = PEM\nssl.keystore.location=/run/secrets/client.pem\nssl.truststore.location=/run/secrets/ca.crt\nssl.truststore.password=itsasecret\n",
        )
        .unwrap();
        let config = cluster.client_config();
        assert_eq!(config.get("security.protocol"), Some("SSL"));
        assert_eq!(config.get("ssl.ca.location"), Some("/run/secrets/ca.crt"));
        assert_eq!(
            config.get("ssl.key.location"),
            Some("/run/secrets/client.pem")
        );
        assert_eq!(config.get("ssl.truststore.password"), None);
    }

    #[test]
    fn a_java_keystore_is_refused_with_what_to_use_instead() {
        let error =
            cluster("ssl.keystore.location=/run/secrets/kafka.client.keystore.jks").unwrap_err();
        assert!(error.to_string().contains("PKCS#12"), "{error}");
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
