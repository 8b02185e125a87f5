use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use certs::{Authority, Pair, Request, Validity};
use testkit::RunDir;

/// An authority, the server's certificate and those of devices, as files.
pub struct Certificates {
    authority: Authority,
    dir: RunDir,
}

impl Certificates {
    /// A new authority, and a server's certificate for this name.
    pub fn new(server: &str) -> anyhow::Result<Self> {
        let certificates = Self {
            authority: Authority::create("interop", validity())?,
            dir: RunDir::new("certificates")?,
        };
        let pair = certificates.authority.pair();
        std::fs::write(certificates.file("ca.pem"), pair.certificate_pem()?)?;
        certificates.issue(server)?;
        Ok(certificates)
    }

    /// `<name>.pem`, `<name>.key` and both in DER, signed by the authority.
    pub fn issue(&self, name: &str) -> anyhow::Result<()> {
        let pair: Pair = self.authority.issue(&Request {
            common_name: name.to_owned(),
            names: vec![name.to_owned()],
            addresses: Vec::new(),
            validity: validity(),
        })?;
        for (ending, bytes) in [
            ("pem", pair.certificate_pem()?),
            ("key", pair.key_pem()?),
            ("der", pair.certificate.to_der()?),
            ("key.der", pair.key.private_key_to_pkcs8()?),
        ] {
            std::fs::write(self.file(&format!("{name}.{ending}")), bytes)?;
        }
        Ok(())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text, for a command line.
    pub fn path(&self, name: &str) -> String {
        let file: &Path = &self.file(name);
        file.to_str().unwrap().to_owned()
    }
}

fn validity() -> Validity {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    Validity::from_now(i64::try_from(now).unwrap(), Duration::from_secs(24 * 3_600))
}
