use std::path::PathBuf;
use std::time::Duration;

use connect::{Config, Key, Problem, Retries};
use reqwest::Url;
use service::Secret;
use service::tls::Tls;

/// What the service was given for connectors that don't say it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) url: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// Certificates for `https:` URLs.
    pub(crate) tls: Tls,
}

/// Where the graph is.
#[derive(Clone, Debug)]
pub enum Target {
    /// OrientDB's REST API.
    Orient {
        /// Its base, such as `http://orientdb:2480`.
        url: Url,
        /// The database.
        database: String,
        /// The user.
        user: String,
        /// The user's password.
        password: Secret,
        /// Certificates for an `https:` base.
        tls: Tls,
    },
    /// The embedded graph.
    Sqlite {
        /// Its file.
        path: PathBuf,
    },
}

/// Why a URL names no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(String);

/// OrientDB's HTTP port; `remote:` URLs name the binary one, 2424, or none.
const HTTP_PORT: u16 = 2480;
const BINARY_PORT: u16 = 2424;

impl Target {
    /// The graph at `remote:host[:port]/database`, `http(s)://host[:port]/database` or `sqlite:<path>`.
    ///
    /// # Errors
    /// When the URL has none of these forms.
    pub fn parse(url: &str, user: &str, password: Secret) -> Result<Self, TargetError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(TargetError(
                    "sqlite: has to be followed by a file's path".to_owned(),
                ));
            }
            return Ok(Self::Sqlite {
                path: PathBuf::from(path),
            });
        }
        let form = || {
            TargetError(format!(
                "'{url}' is none of remote:host/database, http://host:{HTTP_PORT}/database, sqlite:<path>"
            ))
        };
        let (parsed, database) = if let Some(rest) = url.strip_prefix("remote:") {
            let rest = rest.trim_start_matches('/');
            let (hosts, database) = rest.split_once('/').ok_or_else(form)?;
            // Of a cluster's hosts the first one; HTTP has no way to hand over to another.
            let host = hosts.split([';', ',']).next().unwrap_or(hosts);
            let mut parsed = Url::parse(&format!("http://{host}")).map_err(|_| form())?;
            if matches!(parsed.port(), None | Some(BINARY_PORT)) {
                parsed.set_port(Some(HTTP_PORT)).map_err(|()| form())?;
            }
            (parsed, database.to_owned())
        } else {
            let parsed = Url::parse(url).map_err(|_| form())?;
            let database = parsed.path().trim_matches('/').to_owned();
            (parsed, database)
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let usable = matches!(parsed.scheme(), "http" | "https")
            && parsed.has_host()
            && !database.is_empty()
            && database.chars().all(named);
        if !usable {
            return Err(form());
        }
        let mut base = parsed;
        base.set_path("/");
        base.set_query(None);
        Ok(Self::Orient {
            url: base,
            database,
            user: user.to_owned(),
            password,
            tls: Tls::none(),
        })
    }

    /// The same with certificates, where it is reached over TLS.
    #[must_use]
    pub fn with_tls(mut self, given: Tls) -> Self {
        if let Self::Orient { tls, .. } = &mut self {
            *tls = given;
        }
        self
    }

    pub(crate) fn from_config(config: &Config, defaults: &Defaults) -> Result<Self, Problem> {
        let url = config.get(URL).or(defaults.url.as_deref()).ok_or_else(|| {
            Problem::new(
                URL,
                "is missing; set remote:host/database, http://host:2480/database or sqlite:<path>",
            )
        })?;
        let user = config.get(USER).or(defaults.user.as_deref());
        let password = config
            .get(PASSWORD)
            .map(Secret::new)
            .or_else(|| defaults.password.clone())
            .unwrap_or_default();
        Self::parse(url, user.unwrap_or("root"), password)
            .map(|target| target.with_tls(defaults.tls.clone()))
            .map_err(|error| Problem::new(URL, error.to_string()))
    }
}

const URL: &str = "tinkerpop3.url";
const USER: &str = "tinkerpop3.user";
const PASSWORD: &str = "tinkerpop3.password";
const RETRY_INTERVAL: &str = "tinkerpop3.retry.interval";
const MAX_RETRIES: &str = "tinkerpop3.max.retries";

pub(crate) const KEYS: &[Key] = &[
    Key::optional(
        URL,
        None,
        "remote:host/database, http://host:2480/database, or sqlite:<path> for the embedded graph.",
    ),
    Key::optional(USER, Some("root"), "OrientDB's user."),
    Key::secret(PASSWORD, "The user's password."),
    Key::optional(
        RETRY_INTERVAL,
        Some("60000"),
        "The longest wait between retries of a failed write, in milliseconds; they begin with a second.",
    ),
    Key::optional(
        MAX_RETRIES,
        None,
        "Retries of a failed write before the task fails; without end where it is missing.",
    ),
];

pub(crate) fn retries(config: &Config) -> Result<Retries, Problem> {
    let longest = config.millis(RETRY_INTERVAL, Duration::from_secs(60))?;
    let most = match config.get(MAX_RETRIES) {
        None => None,
        Some(_) => Some(config.parsed(MAX_RETRIES, 0, "a number of retries")?),
    };
    Ok(Retries {
        most,
        first: longest.min(Duration::from_secs(1)),
        longest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_url_means_orientdbs_http_port() {
        for (text, base, name) in [
            (
                "remote:orientdb/zeelosdb",
                "http://orientdb:2480/",
                "zeelosdb",
            ),
            (
                "remote:orientdb:2424/zeelosdb",
                "http://orientdb:2480/",
                "zeelosdb",
            ),
            ("remote:a:2424;b:2424/z", "http://a:2480/", "z"),
            ("http://127.0.0.1:9000/z/", "http://127.0.0.1:9000/", "z"),
            ("https://db/z", "https://db/", "z"),
        ] {
            match Target::parse(text, "root", Secret::new("secret")).unwrap() {
                Target::Orient { url, database, .. } => {
                    assert_eq!((url.as_str(), database.as_str()), (base, name), "{text}");
                }
                Target::Sqlite { .. } => panic!("{text}"),
            }
        }
        for text in [
            "remote:orientdb",
            "plocal:/data/db",
            "http://h",
            "sqlite:",
            "memory:x",
            "http://h/a b",
            "",
        ] {
            assert!(
                Target::parse(text, "root", Secret::default()).is_err(),
                "{text}"
            );
        }
    }
}
