use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use connect::{Config, Key, Problem, Retries, Subscription};
use reqwest::Url;
use service::Secret;
use service::tls::Tls;

use crate::kcql::{self, Mapping};

/// What the service was given for connectors that don't say it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) url: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) token: Option<Secret>,
    /// Certificates for `https:` URLs.
    pub(crate) tls: Tls,
}

/// A connector's configuration, understood.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) mappings: Mappings,
    pub(crate) errors: ErrorPolicy,
    /// Whether readings of one series in one millisecond are kept apart.
    pub(crate) disambiguate: bool,
}

/// Where points go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    V1 {
        url: Url,
        database: String,
        retention_policy: Option<String>,
        user: Option<(String, Secret)>,
    },
    V2 {
        url: Url,
        bucket: String,
        organisation: Option<String>,
        token: Option<Secret>,
    },
    Sqlite {
        path: PathBuf,
        bounds: Bounds,
    },
}

/// What the embedded store keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) retention: Duration,
    pub(crate) bytes: u64,
    /// Whether a write is on the disk before its offsets are committed.
    pub(crate) full_sync: bool,
}

/// What is done about a database that fails (`connect.influx.error.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorPolicy {
    /// THROW and RETRY: offer the batch again, then fail the task. Nothing is lost.
    Retry,
    /// NOOP: leave the batch out and go on, as the original does. Values are lost.
    Noop,
}

/// Mappings by topic.
#[derive(Clone, Debug)]
pub(crate) struct Mappings {
    by_topic: BTreeMap<String, Mapping>,
    contract: Mapping,
}

impl Mappings {
    pub(crate) fn of(&self, topic: &str) -> &Mapping {
        self.by_topic.get(topic).unwrap_or(&self.contract)
    }
}

pub(crate) const URL: &str = "connect.influx.url";
const USERNAME: &str = "connect.influx.username";
const PASSWORD: &str = "connect.influx.password";
const DATABASE: &str = "connect.influx.db";
const RETENTION_POLICY: &str = "connect.influx.retention.policy";
const RETRY_INTERVAL: &str = "connect.influx.retry.interval";
const MAX_RETRIES: &str = "connect.influx.max.retries";
const ERROR_POLICY: &str = "connect.influx.error.policy";
const KCQL: &str = "connect.influx.kcql";
const API: &str = "influx.api";
const TOKEN: &str = "influx.token";
const ORGANISATION: &str = "influx.org";
const BUCKET: &str = "influx.bucket";
const DISAMBIGUATE: &str = "timestamp.disambiguate";
const SQLITE_RETENTION: &str = "influx.sqlite.retention.ms";
const SQLITE_BYTES: &str = "influx.sqlite.max.bytes";
const SQLITE_SYNC: &str = "influx.sqlite.synchronous";

const RETENTION: Duration = Duration::from_secs(30 * 86_400);
const MOST_BYTES: u64 = 4 * 1024 * 1024 * 1024;

pub(crate) const KEYS: &[Key] = &[
    Key::optional(
        URL,
        None,
        "http://host:8086, or sqlite:<path> for the embedded store.",
    ),
    Key::optional(USERNAME, None, "The user of the v1 API."),
    Key::secret(PASSWORD, "The user's password."),
    Key::optional(
        DATABASE,
        Some("zeelosdb"),
        "The database of the v1 API, and the bucket of v2 unless influx.bucket says otherwise.",
    ),
    Key::optional(
        RETENTION_POLICY,
        None,
        "The retention policy of the v1 API; the database's default one where it is missing.",
    ),
    Key::optional(
        RETRY_INTERVAL,
        Some("60000"),
        "Milliseconds between the retries of a failed write.",
    ),
    Key::optional(
        MAX_RETRIES,
        Some("20"),
        "Retries of a failed write before the task fails.",
    ),
    Key::optional(
        ERROR_POLICY,
        Some("THROW"),
        "THROW and RETRY retry and then fail the task, nothing is lost; NOOP drops what can't be written.",
    ),
    Key::optional(
        KCQL,
        None,
        "Measurement, fields and tags by topic; the contract's where it is missing.",
    ),
    Key::optional(API, Some("v1"), "v1 (/write) or v2 (/api/v2/write)."),
    Key::secret(TOKEN, "The token of the v2 API."),
    Key::optional(ORGANISATION, None, "The organisation of the v2 API."),
    Key::optional(BUCKET, None, "The bucket of the v2 API."),
    Key::optional(
        DISAMBIGUATE,
        Some("none"),
        "content adds nanoseconds hashed from the value, so that readings of one series in one millisecond don't overwrite each other.",
    ),
    Key::optional(
        SQLITE_RETENTION,
        Some("2592000000"),
        "How long the embedded store keeps points, in milliseconds; 0: for ever.",
    ),
    Key::optional(
        SQLITE_BYTES,
        Some("4294967296"),
        "The most bytes of the embedded store; beyond it the oldest points go.",
    ),
    Key::optional(
        SQLITE_SYNC,
        Some("NORMAL"),
        "FULL syncs every write of the embedded store to the disk.",
    ),
];

pub(crate) fn retries(config: &Config) -> Result<Retries, Problem> {
    let interval = config.millis(RETRY_INTERVAL, Duration::from_secs(60))?;
    let most = config.parsed(MAX_RETRIES, 20, "a number of retries")?;
    Ok(Retries {
        most: Some(most),
        first: interval,
        longest: interval,
    })
}

impl Settings {
    pub(crate) fn parse(config: &Config, defaults: &Defaults) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let target = kept(target(config, defaults), &mut problems);
        let mappings = kept(mappings(config), &mut problems);
        let errors = kept(errors(config), &mut problems);
        let disambiguate = kept(disambiguate(config), &mut problems);
        problems.extend(retries(config).err());
        let (Some(target), Some(mappings), Some(errors), Some(disambiguate)) =
            (target, mappings, errors, disambiguate)
        else {
            return Err(problems);
        };
        if matches!(target, Target::Sqlite { .. })
            && mappings.by_topic.values().any(|m| !m.fits_contract())
        {
            problems.push(Problem::new(
                KCQL,
                "the embedded store has columns for the contract's measurement, tags and fields only; use an InfluxDB for others",
            ));
        }
        if problems.is_empty() {
            Ok(Self {
                target,
                mappings,
                errors,
                disambiguate,
            })
        } else {
            Err(problems)
        }
    }
}

fn kept<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

fn target(config: &Config, defaults: &Defaults) -> Result<Target, Problem> {
    let url = config
        .get(URL)
        .or(defaults.url.as_deref())
        .ok_or_else(|| Problem::new(URL, "is missing; set http://host:8086 or sqlite:<path>"))?;
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(Problem::new(
                URL,
                "sqlite: has to be followed by a file's path",
            ));
        }
        return Ok(Target::Sqlite {
            path: PathBuf::from(path),
            bounds: bounds(config)?,
        });
    }
    let url = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            Problem::new(
                URL,
                "is neither http://host:port, https://host:port nor sqlite:<path>",
            )
        })?;
    let database = config.get(DATABASE).unwrap_or("zeelosdb").to_owned();
    let secret = |key: &str, default: &Option<Secret>| {
        config.get(key).map(Secret::new).or_else(|| default.clone())
    };
    match config.get(API).unwrap_or("v1") {
        "v1" | "1" => {
            let username = config.get(USERNAME).or(defaults.username.as_deref());
            let password = secret(PASSWORD, &defaults.password).unwrap_or_default();
            Ok(Target::V1 {
                url,
                database,
                retention_policy: config.get(RETENTION_POLICY).map(str::to_owned),
                user: username.map(|name| (name.to_owned(), password)),
            })
        }
        "v2" | "2" => Ok(Target::V2 {
            url,
            bucket: config.get(BUCKET).map_or(database, str::to_owned),
            organisation: config.get(ORGANISATION).map(str::to_owned),
            token: secret(TOKEN, &defaults.token),
        }),
        other => Err(Problem::new(API, format!("'{other}' is neither v1 nor v2"))),
    }
}

fn bounds(config: &Config) -> Result<Bounds, Problem> {
    let default = u64::try_from(RETENTION.as_millis()).unwrap_or(u64::MAX);
    let retention = config.parsed(SQLITE_RETENTION, default, "a number of milliseconds")?;
    let bytes = config.parsed(SQLITE_BYTES, MOST_BYTES, "a number of bytes")?;
    if bytes < 1024 * 1024 {
        return Err(Problem::new(SQLITE_BYTES, "has to be at least 1048576"));
    }
    let full_sync = match config.get(SQLITE_SYNC).unwrap_or("NORMAL") {
        "NORMAL" => false,
        "FULL" => true,
        other => {
            return Err(Problem::new(
                SQLITE_SYNC,
                format!("'{other}' is neither NORMAL nor FULL"),
            ));
        }
    };
    Ok(Bounds {
        retention: Duration::from_millis(retention),
        bytes,
        full_sync,
    })
}

fn mappings(config: &Config) -> Result<Mappings, Problem> {
    let contract = Mapping::contract();
    let by_topic = match config.get(KCQL) {
        None => BTreeMap::new(),
        Some(text) => kcql::parse(text).map_err(|error| Problem::new(KCQL, error.to_string()))?,
    };
    if !by_topic.is_empty()
        && let Ok(Subscription::Topics(topics)) = config.subscription()
        && let Some(missing) = topics.iter().find(|topic| !by_topic.contains_key(*topic))
    {
        return Err(Problem::new(
            KCQL,
            format!("has no statement for topic '{missing}'"),
        ));
    }
    Ok(Mappings { by_topic, contract })
}

fn errors(config: &Config) -> Result<ErrorPolicy, Problem> {
    match config.get(ERROR_POLICY).unwrap_or("THROW") {
        "THROW" | "RETRY" => Ok(ErrorPolicy::Retry),
        "NOOP" => Ok(ErrorPolicy::Noop),
        other => Err(Problem::new(
            ERROR_POLICY,
            format!("'{other}' is none of THROW, RETRY, NOOP"),
        )),
    }
}

fn disambiguate(config: &Config) -> Result<bool, Problem> {
    match config.get(DISAMBIGUATE).unwrap_or("none") {
        "none" => Ok(false),
        "content" => Ok(true),
        other => Err(Problem::new(
            DISAMBIGUATE,
            format!("'{other}' is neither none nor content"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let mut config: Config = pairs.iter().copied().collect();
        config.set("topics", "iot.a.observations");
        Settings::parse(&config, &Defaults::default())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_url_names_the_store_and_the_api() {
        let v1 = parse(&[
            (URL, "http://influxdb:8086"),
            (USERNAME, "root"),
            (PASSWORD, "secret"),
        ]);
        let v1 = v1.unwrap();
        assert!(
            matches!(&v1.target, Target::V1 { database, user: Some(_), .. } if database == "zeelosdb")
        );
        assert!(!format!("{v1:?}").contains("secret"));
        let v2 = parse(&[(URL, "https://influxdb:8086"), (API, "v2"), (BUCKET, "b")]).unwrap();
        assert!(matches!(v2.target, Target::V2 { bucket, .. } if bucket == "b"));
        let own = parse(&[(URL, "sqlite:/data/series.db")]).unwrap();
        assert!(
            matches!(own.target, Target::Sqlite { path, .. } if path == Path::new("/data/series.db"))
        );
    }

    #[test]
    fn what_can_not_be_used_is_named_by_its_key() {
        let kcql =
            "INSERT INTO other SELECT svalue FROM iot.a.observations WITHTIMESTAMP timestamp";
        let elsewhere =
            "INSERT INTO resources SELECT svalue FROM iot.b.observations WITHTIMESTAMP timestamp";
        for (pairs, expected) in [
            (vec![], "connect.influx.url: is missing"),
            (
                vec![(URL, "influxdb:8086")],
                "connect.influx.url: is neither",
            ),
            (vec![(URL, "sqlite:")], "has to be followed"),
            (vec![(URL, "http://i"), (API, "v3")], "influx.api: 'v3'"),
            (
                vec![(URL, "http://i"), (MAX_RETRIES, "-1")],
                "connect.influx.max.retries: '-1'",
            ),
            (
                vec![(URL, "http://i"), (ERROR_POLICY, "HOPE")],
                "connect.influx.error.policy: 'HOPE'",
            ),
            (
                vec![(URL, "http://i"), (DISAMBIGUATE, "yes")],
                "timestamp.disambiguate: 'yes'",
            ),
            (
                vec![(URL, "sqlite:x"), (KCQL, kcql)],
                "the embedded store has columns",
            ),
            (
                vec![(URL, "http://i"), (KCQL, elsewhere)],
                "no statement for topic 'iot.a.observations'",
            ),
        ] {
            let error = parse(&pairs).unwrap_err();
            assert!(error.contains(expected), "{pairs:?}: {error}");
        }
    }
}
