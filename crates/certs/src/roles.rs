use std::net::IpAddr;

use crate::CertsError;

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    name: String,
    /// The names it is reached by.
    pub names: Vec<String>,
    /// The addresses it is reached by.
    pub addresses: Vec<IpAddr>,
}

impl Role {
    /// A role that is reached by its own name.
    ///
    /// # Errors
    /// When the name has other than letters, digits, `.`, `_` and `-`.
    pub fn new(name: &str) -> Result<Self, CertsError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        // A common name has at most 64 characters (RFC 5280, appendix A).
        if !begins || name.len() > 64 || !name.chars().all(allowed) {
            return Err(CertsError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            names: vec![name.to_owned()],
            addresses: Vec::new(),
        })
    }

    /// The same, also reached by this name.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        self
    }

    /// The same, also reached by this address.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
        self
    }

    /// Its name: the certificate's common name, Kafka's principal, and a part of its files' names.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The cloud's roles: the original's, and those of services it did not have.
pub fn cloud_roles() -> Vec<Role> {
    let names = [
        "kafka-cloud",
        "schema-registry-cloud",
        "rest-cloud",
        "connect-cloud",
        "client-cloud",
        "kafka-exporter-cloud",
    ];
    named(&names)
}

/// The original's roles of gateways, one key for all of them. [`gateway_roles`] are better: what one gateway loses is
/// no other's key.
pub fn shared_gateway_roles() -> Vec<Role> {
    let names = [
        "kafka-gateway",
        "schema-registry-gateway",
        "rest-gateway",
        "client-gateway",
    ];
    named(&names)
}

/// One gateway's own roles. Its servers are reached by the names all gateways have.
///
/// # Errors
/// When the id makes no name.
pub fn gateway_roles(gateway: &str) -> Result<Vec<Role>, CertsError> {
    // (role, the name of its service in the gateway's network)
    let roles = [
        ("kafka-gateway", "kafka-gateway"),
        ("schema-registry-gateway", "schema-registry-gateway"),
        ("rest-gateway", "rest-gateway"),
        ("client-gateway", "client-gateway"),
        ("leshan-server-kafka", "leshan-server-kafka-gateway"),
        ("mirror", "mirror"),
        ("analytics", "analytics"),
        ("kafka-exporter-gateway", "kafka-exporter-gateway"),
    ];
    roles
        .iter()
        .map(|(role, service)| Ok(Role::new(&format!("{role}-{gateway}"))?.called(service)))
        .collect()
}

fn named(names: &[&str]) -> Vec<Role> {
    names
        .iter()
        .map(|name| Role {
            name: (*name).to_owned(),
            names: vec![(*name).to_owned()],
            addresses: Vec::new(),
        })
        .collect()
}
