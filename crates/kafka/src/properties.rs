//! Files of Kafka client properties, by Java's names and librdkafka's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, mem};

use service::Secret;
use service::tls::TlsFiles;

use crate::SettingsError;

/// What a file of properties comes to.
#[derive(Clone, Default)]
pub(crate) struct Properties {
    /// For librdkafka, TLS files left out.
    pub(crate) client: BTreeMap<String, String>,
    /// TLS to the brokers.
    pub(crate) files: TlsFiles,
    /// TLS to the registry, where it is another.
    pub(crate) registry_files: Option<TlsFiles>,
}

const PROTOCOL: &str = "security.protocol";
const REGISTRY: &str = "schema.registry.";

/// What Java's clients need and librdkafka would refuse to know.
const JAVA_ONLY: [&str; 17] = [
    "ssl.enabled.protocols",
    "ssl.protocol",
    "ssl.provider",
    "ssl.keymanager.algorithm",
    "ssl.trustmanager.algorithm",
    "ssl.secure.random.implementation",
    "ssl.engine.factory.class",
    "key.serializer",
    "value.serializer",
    "key.deserializer",
    "value.deserializer",
    "interceptor.classes",
    "metric.reporters",
    "exclude.internal.topics",
    "buffer.memory",
    "max.poll.records",
    "basic.auth.credentials.source",
];

impl Properties {
    pub(crate) fn is_secure(&self) -> bool {
        let protocol = self.client.get(PROTOCOL);
        protocol.is_some_and(|name| name.to_ascii_uppercase().ends_with("SSL"))
    }

    /// Puts files named elsewhere above those of the properties.
    pub(crate) fn name_files(&mut self, given: TlsFiles) {
        if given.ca.is_some() {
            self.files.ca = given.ca;
            self.files.ca_password = given.ca_password;
        }
        if given.certificate.is_some() || given.keystore.is_some() || given.key.is_some() {
            self.files.certificate = given.certificate;
            self.files.key = given.key;
            self.files.keystore = given.keystore;
            self.files.password = given.password;
        } else if given.password.is_some() {
            self.files.password = given.password;
        }
        // Who names certificates means to use them; Java's default would leave them unused without a word.
        if !self.files.is_empty() && !self.client.contains_key(PROTOCOL) {
            self.client.insert(PROTOCOL.to_owned(), "SSL".to_owned());
        }
    }
}

/// Reads a file: `key=value`, `key: value` or `key value` a line, `#` and `!` begin comments, a backslash at the end
/// goes on in the next line.
pub(crate) fn read(path: &Path) -> Result<Properties, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut given = BTreeMap::new();
    let mut whole = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if whole.is_empty() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        if let Some(begun) = line.strip_suffix('\\') {
            whole.push_str(begun);
            continue;
        }
        whole.push_str(line);
        let line = mem::take(&mut whole);
        let bad = || SettingsError::Line {
            path: path.to_owned(),
            line: index + 1,
        };
        let at = line
            .find(|c: char| matches!(c, '=' | ':') || c.is_whitespace())
            .ok_or_else(bad)?;
        let (key, rest) = line.split_at(at);
        let rest = rest.trim_start();
        let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
        if key.is_empty() {
            return Err(bad());
        }
        given.insert(key.to_owned(), value.trim().to_owned());
    }
    Ok(understand(given))
}

fn understand(mut given: BTreeMap<String, String>) -> Properties {
    let registry: BTreeMap<String, String> = given
        .iter()
        .filter_map(|(key, value)| {
            let key = key.strip_prefix(REGISTRY)?;
            Some((key.to_owned(), value.clone()))
        })
        .collect();
    given.retain(|key, _| !key.starts_with(REGISTRY) && !JAVA_ONLY.contains(&key.as_str()));
    let files = take_files(&mut given);
    let mut registry = registry;
    let registry_files = Some(take_files(&mut registry)).filter(|files| !files.is_empty());
    let mut client = BTreeMap::new();
    for (key, value) in given {
        match key.as_str() {
            // Java's way to say that a certificate's names do not count.
            "ssl.endpoint.identification.algorithm" if value.is_empty() => {
                client.insert(key, "none".to_owned());
            }
            "ssl.endpoint.identification.algorithm" => {
                client.insert(key, value.to_ascii_lowercase());
            }
            // PEM in place of a file's name.
            "ssl.truststore.certificates" => {
                client.insert("ssl.ca.pem".to_owned(), value);
            }
            "ssl.keystore.certificate.chain" => {
                client.insert("ssl.certificate.pem".to_owned(), value);
            }
            "ssl.keystore.key" => {
                client.insert("ssl.key.pem".to_owned(), value);
            }
            _ => {
                client.insert(key, value);
            }
        }
    }
    Properties {
        client,
        files,
        registry_files,
    }
}

/// Takes out what names TLS files. What a file holds decides how it is read, so the types are not needed.
fn take_files(given: &mut BTreeMap<String, String>) -> TlsFiles {
    let mut take = |key: &str| given.remove(key).filter(|value| !value.is_empty());
    let truststore = take("ssl.truststore.location");
    let ca = take("ssl.ca.location");
    let ca_password = take("ssl.truststore.password");
    let certificate = take("ssl.certificate.location");
    let key = take("ssl.key.location");
    let keystore = take("ssl.keystore.location");
    let key_password = take("ssl.key.password");
    let keystore_password = take("ssl.keystore.password");
    for unneeded in ["ssl.keystore.type", "ssl.truststore.type"] {
        take(unneeded);
    }
    // A PKCS#12 file is opened by the keystore's password, a PEM key by the key's.
    let password = if keystore.is_some() {
        keystore_password.or(key_password)
    } else {
        key_password.or(keystore_password)
    };
    TlsFiles {
        ca: ca.or(truststore).map(PathBuf::from),
        ca_password: ca_password.map(Secret::new),
        certificate: certificate.map(PathBuf::from),
        key: key.map(PathBuf::from),
        keystore: keystore.map(PathBuf::from),
        password: password.map(Secret::new),
    }
}
