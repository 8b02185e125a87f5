use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::stack::Stack;
use openssl::x509::X509;

use crate::authority::unix_s;
use crate::files::{self, Readers};
use crate::truststore::truststore;
use crate::{Authority, CertsError, Pair, Request, Role, Validity};

/// A folder with an authority and its roles' files.
pub struct Folder {
    path: PathBuf,
    authority: Authority,
    /// Unix seconds.
    now_s: i64,
    password: String,
    /// Where the files will be found by who uses them.
    secrets: PathBuf,
}

/// What [`Folder::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Created,
    /// There was one that ends soon, has other names, or another CA.
    Renewed,
    /// There is a good one.
    Kept,
}

/// A certificate in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The role; the authority's file is called `CA`.
    pub role: String,
    /// The file.
    pub file: PathBuf,
    /// Names and addresses, in the certificate's order.
    pub names: Vec<String>,
    /// From when it counts, Unix seconds.
    pub from_s: i64,
    /// Until when, Unix seconds.
    pub until_s: i64,
    /// Whether this folder's authority signed it.
    pub trusted: bool,
}

const CA_CERTIFICATE: &str = "zeelos.io-ca.crt";
const CA_KEY: &str = "zeelos.io-ca.key";
const CA_NAME: &str = "zeelos.io-ca";
const CERTIFICATE: &str = ".certificate.pem";

impl Folder {
    /// Opens a folder, making it and its authority where they are missing.
    ///
    /// # Errors
    /// When files can't be read or written, or hold something else.
    pub fn open_or_create(
        path: &Path,
        now_s: i64,
        ca_length: Duration,
    ) -> Result<Self, CertsError> {
        fs::create_dir_all(path).map_err(|source| CertsError::File {
            what: "make",
            path: path.to_owned(),
            source,
        })?;
        let (certificate, key) = (path.join(CA_CERTIFICATE), path.join(CA_KEY));
        let there = (certificate.exists(), key.exists());
        let authority = match there {
            (false, false) => {
                let made = Authority::create(CA_NAME, Validity::from_now(now_s, ca_length))?;
                files::write(&key, &made.pair().key_pem()?, Readers::Owner)?;
                files::write(&certificate, &made.pair().certificate_pem()?, Readers::All)?;
                made
            }
            (true, true) => Authority::of(read_pair(&certificate, &key)?),
            (has_certificate, _) => {
                let missing = if has_certificate { &key } else { &certificate };
                return Err(CertsError::Content {
                    path: path.to_owned(),
                    reason: format!(
                        "half of its CA is there, {} is missing: put it back, or remove all with `zeelos certs clean`",
                        missing.display()
                    ),
                });
            }
        };
        let secrets = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self {
            path: path.to_owned(),
            authority,
            now_s,
            password: String::new(),
            secrets,
        })
    }

    /// The password of keystores and truststores.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// The folder that the properties files shall name, where it is another than this one (`/etc/kafka/secrets`).
    #[must_use]
    pub fn secrets(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.secrets);
        self
    }

    /// What signs here.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Sees to it that a role has a certificate with these names that counts for longer than `margin`; a new one
    /// counts for `length`, but not beyond its CA. A good one is left as it is.
    ///
    /// # Errors
    /// When files can't be read or written.
    pub fn ensure(
        &self,
        role: &Role,
        length: Duration,
        margin: Duration,
    ) -> Result<Outcome, CertsError> {
        let file = self.certificate(role.name());
        if !file.exists() {
            self.issue(role, length)?;
            return Ok(Outcome::Created);
        }
        let good = self.is_good(role, margin).unwrap_or(false);
        if good {
            // The other forms of the same, where the folder was made by an older version or by hand.
            self.complete(role.name())?;
            return Ok(Outcome::Kept);
        }
        self.issue(role, length)?;
        Ok(Outcome::Renewed)
    }

    /// Makes a new key and certificate for a role, whatever is there.
    ///
    /// # Errors
    /// When files can't be written.
    pub fn issue(&self, role: &Role, length: Duration) -> Result<(), CertsError> {
        let wanted = Validity::from_now(self.now_s, length);
        let ca_ends = unix_s(self.authority.pair().certificate.not_after())?;
        let pair = self.authority.issue(&Request {
            common_name: role.name().to_owned(),
            names: role.names.clone(),
            addresses: role.addresses.clone(),
            validity: Validity {
                until_s: wanted.until_s.min(ca_ends),
                ..wanted
            },
        })?;
        self.write(role.name(), &pair)
    }

    /// Writes a role's files for this pair.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&self, role: &str, pair: &Pair) -> Result<(), CertsError> {
        // The key first: who waits for the certificate finds both.
        files::write(&self.key(role), &pair.key_pem()?, Readers::Owner)?;
        files::write(
            &self.certificate(role),
            &pair.certificate_pem()?,
            Readers::All,
        )?;
        self.write_stores(role, pair)
    }

    /// All certificates of the folder, the authority's first, then by role.
    ///
    /// # Errors
    /// When the folder can't be read, or a certificate's file holds something else.
    pub fn list(&self) -> Result<Vec<Entry>, CertsError> {
        let ca = self.path.join(CA_CERTIFICATE);
        let mut entries = vec![self.entry("CA", &ca)?];
        for role in self.roles()? {
            entries.push(self.entry(&role, &self.certificate(&role))?);
        }
        Ok(entries)
    }

    /// The roles that have a certificate here.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn roles(&self) -> Result<Vec<String>, CertsError> {
        roles_in(&self.path)
    }

    /// The role as its certificate here describes it.
    ///
    /// # Errors
    /// When there is none.
    pub fn role(&self, name: &str) -> Result<Role, CertsError> {
        let mut role = Role::new(name)?;
        let certificate = read_certificate(&self.certificate(name))?;
        role.names.clear();
        for alternative in certificate.subject_alt_names().iter().flatten() {
            if let Some(name) = alternative.dnsname() {
                role = role.called(name);
            } else if let Some(address) = alternative.ipaddress().and_then(ip) {
                role = role.at(address);
            }
        }
        Ok(role)
    }

    /// Removes the authority, its roles' files and nothing else; answers how many files went.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn clean(path: &Path) -> Result<usize, CertsError> {
        let mut removed = 0;
        let roles = match roles_in(path) {
            Ok(roles) => roles,
            Err(_) if !path.exists() => return Ok(0),
            Err(error) => return Err(error),
        };
        let of_roles = roles.iter().flat_map(|role| {
            [
                format!("{role}{CERTIFICATE}"),
                format!("{role}.key"),
                format!("{role}.properties"),
                format!("kafka.{role}.keystore.jks"),
                format!("kafka.{role}.truststore.jks"),
            ]
        });
        for name in of_roles.chain([CA_CERTIFICATE.to_owned(), CA_KEY.to_owned()]) {
            let file = path.join(name);
            match fs::remove_file(&file) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(CertsError::File {
                        what: "remove",
                        path: file,
                        source,
                    });
                }
            }
        }
        Ok(removed)
    }

    /// A role's certificate (PEM).
    pub fn certificate(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}{CERTIFICATE}"))
    }

    /// A role's key (PEM).
    pub fn key(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}.key"))
    }

    /// A role's certificate and key (PKCS#12, whatever its name says: the original's scripts call it so).
    pub fn keystore(&self, role: &str) -> PathBuf {
        self.path.join(format!("kafka.{role}.keystore.jks"))
    }

    /// The CA as a role's truststore (PKCS#12).
    pub fn truststore(&self, role: &str) -> PathBuf {
        self.path.join(format!("kafka.{role}.truststore.jks"))
    }

    /// A role's client properties, for Java's tools and ours.
    pub fn properties(&self, role: &str) -> PathBuf {
        self.path.join(format!("{role}.properties"))
    }

    /// The CA's certificate (PEM).
    pub fn ca_certificate(&self) -> PathBuf {
        self.path.join(CA_CERTIFICATE)
    }

    fn is_good(&self, role: &Role, margin: Duration) -> Result<bool, CertsError> {
        let pair = read_pair(&self.certificate(role.name()), &self.key(role.name()))?;
        let until = unix_s(pair.certificate.not_after())?;
        let margin = i64::try_from(margin.as_secs()).unwrap_or(i64::MAX);
        let had = self.role(role.name())?;
        let same = had.names == role.names && had.addresses == role.addresses;
        Ok(same && self.authority.signed(&pair.certificate) && until - self.now_s > margin)
    }

    fn complete(&self, role: &str) -> Result<(), CertsError> {
        let all = [
            self.keystore(role),
            self.truststore(role),
            self.properties(role),
        ];
        if all.iter().all(|file| file.exists()) {
            return Ok(());
        }
        let pair = read_pair(&self.certificate(role), &self.key(role))?;
        self.write_stores(role, &pair)
    }

    fn write_stores(&self, role: &str, pair: &Pair) -> Result<(), CertsError> {
        let ca = &self.authority.pair().certificate;
        let mut chain = Stack::new()?;
        chain.push(ca.clone())?;
        let keystore = Pkcs12::builder()
            .name(role)
            .pkey(&pair.key)
            .cert(&pair.certificate)
            .ca(chain)
            .build2(&self.password)?;
        files::write(&self.keystore(role), &keystore.to_der()?, Readers::Owner)?;
        let trusted = truststore("zeelos.io-ca", ca, &self.password)?;
        files::write(&self.truststore(role), &trusted, Readers::All)?;
        let place = |file: PathBuf| {
            let name = file.file_name().unwrap_or_default().to_owned();
            self.secrets.join(name).display().to_string()
        };
        let (keystore, truststore) = (place(self.keystore(role)), place(self.truststore(role)));
        let password = &self.password;
        let properties = format!(
            "security.protocol=SSL\n\
             ssl.truststore.type=PKCS12\n\
             ssl.truststore.location={truststore}\n\
             ssl.truststore.password={password}\n\
             ssl.keystore.type=PKCS12\n\
             ssl.keystore.location={keystore}\n\
             ssl.keystore.password={password}\n\
             ssl.key.password={password}\n\
             schema.registry.ssl.truststore.type=PKCS12\n\
             schema.registry.ssl.truststore.location={truststore}\n\
             schema.registry.ssl.truststore.password={password}\n\
             schema.registry.ssl.keystore.type=PKCS12\n\
             schema.registry.ssl.keystore.location={keystore}\n\
             schema.registry.ssl.keystore.password={password}\n\
             schema.registry.ssl.key.password={password}\n"
        );
        files::write(
            &self.properties(role),
            properties.as_bytes(),
            Readers::Owner,
        )
    }

    fn entry(&self, role: &str, file: &Path) -> Result<Entry, CertsError> {
        let certificate = read_certificate(file)?;
        let names = certificate
            .subject_alt_names()
            .iter()
            .flatten()
            .filter_map(|name| {
                let dns = name.dnsname().map(str::to_owned);
                dns.or_else(|| name.ipaddress().and_then(ip).map(|ip| ip.to_string()))
            })
            .collect();
        Ok(Entry {
            role: role.to_owned(),
            file: file.to_owned(),
            names,
            from_s: unix_s(certificate.not_before())?,
            until_s: unix_s(certificate.not_after())?,
            trusted: self.authority.signed(&certificate),
        })
    }
}

fn roles_in(path: &Path) -> Result<Vec<String>, CertsError> {
    let unreadable = |source| CertsError::File {
        what: "read",
        path: path.to_owned(),
        source,
    };
    let mut roles = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let role = name
            .to_str()
            .and_then(|name| name.strip_suffix(CERTIFICATE));
        roles.extend(role.map(str::to_owned));
    }
    roles.sort();
    Ok(roles)
}

fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
        _ => None,
    }
}

fn read_certificate(path: &Path) -> Result<X509, CertsError> {
    X509::from_pem(&files::read(path)?).map_err(|error| CertsError::Content {
        path: path.to_owned(),
        reason: format!("no certificate: {error}"),
    })
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Pair, CertsError> {
    let content = |reason: String| CertsError::Content {
        path: key.to_owned(),
        reason,
    };
    let pem = files::read(key)?;
    // An empty password: OpenSSL would ask at the terminal for that of an encrypted key.
    let private = PKey::private_key_from_pem_passphrase(&pem, b"")
        .map_err(|error| content(format!("no private key: {error}")))?;
    let certificate = read_certificate(certificate)?;
    if !certificate.public_key()?.public_eq(&private) {
        return Err(content("it does not belong to the certificate".to_owned()));
    }
    Ok(Pair {
        certificate,
        key: private,
    })
}
