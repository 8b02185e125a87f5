use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

/// A connector's configuration: keys and values as text, as Kafka Connect has it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config(BTreeMap<String, String>);

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key it is about.
    pub key: String,
    /// What to change.
    pub message: String,
}

impl Problem {
    /// A problem with the value of `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Why a connector file or body is not a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not the form Connect has.
    #[error("{0}")]
    Shape(String),
}

/// What a connector reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Topics by name.
    Topics(Vec<String>),
    /// Every topic whose whole name matches.
    Pattern(String),
}

/// The most tasks of one connector on one worker: each has threads and buffers (up to 16 MiB) of its own.
const MOST_TASKS: u32 = 64;
/// Kafka's own limit for a topic name; a connector's name goes into a group id.
const LONGEST_NAME: usize = 200;
/// What stands in an answer in a secret's place.
pub(crate) const MASK: &str = "***";

impl Config {
    /// The value of a key; `None` where it is missing or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// The first of these keys that has a value.
    pub fn first(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.get(key))
    }

    /// Sets a key.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Keys and values in the order of the keys, secrets included: for the task, never for an answer.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// A key's value parsed, or the default where the key is missing.
    ///
    /// # Errors
    /// A [`Problem`] that says what was expected.
    pub fn parsed<T: FromStr>(&self, key: &str, default: T, expected: &str) -> Result<T, Problem> {
        match self.get(key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Problem::new(key, format!("'{text}' is not {expected}"))),
        }
    }

    /// A duration in milliseconds, or the default; at most a day.
    ///
    /// # Errors
    /// A [`Problem`] that says what was expected.
    pub fn millis(&self, key: &str, default: Duration) -> Result<Duration, Problem> {
        let expected = "a number of milliseconds";
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        let millis = self.parsed(key, default, expected)?;
        if millis > 86_400_000 {
            return Err(Problem::new(key, "more than a day (86400000)"));
        }
        Ok(Duration::from_millis(millis))
    }

    /// `connector.class`.
    pub fn class(&self) -> Option<&str> {
        self.get("connector.class")
    }

    /// `tasks.max`, 1 by default, at most 64 on one worker.
    ///
    /// # Errors
    /// A [`Problem`] when it is not such a number.
    pub fn tasks_max(&self) -> Result<u32, Problem> {
        let tasks = self.parsed("tasks.max", 1, "a number of tasks")?;
        if (1..=MOST_TASKS).contains(&tasks) {
            Ok(tasks)
        } else {
            Err(Problem::new(
                "tasks.max",
                format!("{tasks} is not between 1 and {MOST_TASKS}; add replicas to go further"),
            ))
        }
    }

    /// `topics` or `topics.regex`.
    ///
    /// # Errors
    /// A [`Problem`] when neither or both are there, or a name is none.
    pub fn subscription(&self) -> Result<Subscription, Problem> {
        match (self.get("topics"), self.get("topics.regex")) {
            (Some(topics), None) => {
                let topics: Vec<String> = topics
                    .split(',')
                    .map(|topic| topic.trim().to_owned())
                    .filter(|topic| !topic.is_empty())
                    .collect();
                if topics.is_empty() {
                    return Err(Problem::new("topics", "names no topic"));
                }
                match topics.iter().find(|topic| !is_topic_name(topic)) {
                    None => Ok(Subscription::Topics(topics)),
                    Some(bad) => Err(Problem::new(
                        "topics",
                        format!("'{bad}' is not a topic's name (letters, digits, '.', '_', '-')"),
                    )),
                }
            }
            (None, Some(pattern)) => Ok(Subscription::Pattern(pattern.to_owned())),
            (Some(_), Some(_)) => Err(Problem::new(
                "topics",
                "topics and topics.regex are mutually exclusive; set one of them",
            )),
            (None, None) => Err(Problem::new(
                "topics",
                "a sink needs topics (names with commas) or topics.regex",
            )),
        }
    }

    /// What is wrong with the keys that every sink has.
    pub(crate) fn common_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.tasks_max().err());
        problems.extend(self.subscription().err());
        problems.extend(self.consumer_properties().err());
        if let Some(converter) = self.get("value.converter")
            && !converter.ends_with("AvroConverter")
        {
            problems.push(Problem::new(
                "value.converter",
                format!("'{converter}' is not supported: values are Avro records of a schema registry (io.confluent.connect.avro.AvroConverter)"),
            ));
        }
        if let Some(url) = self.get("value.converter.schema.registry.url")
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            problems.push(Problem::new(
                "value.converter.schema.registry.url",
                "has to start with http:// or https://",
            ));
        }
        problems
    }

    /// `consumer.override.…` as librdkafka has it. Only settings that change how records are fetched: others could
    /// move the group, its commits or even load code.
    pub(crate) fn consumer_properties(&self) -> Result<Vec<(String, String)>, Problem> {
        const ALLOWED: [(&str, &str); 7] = [
            ("auto.offset.reset", "auto.offset.reset"),
            ("fetch.min.bytes", "fetch.min.bytes"),
            ("fetch.max.bytes", "fetch.max.bytes"),
            ("fetch.max.wait.ms", "fetch.wait.max.ms"),
            ("heartbeat.interval.ms", "heartbeat.interval.ms"),
            ("session.timeout.ms", "session.timeout.ms"),
            ("max.poll.interval.ms", "max.poll.interval.ms"),
        ];
        let mut properties = Vec::new();
        for (key, value) in &self.0 {
            let Some(name) = key.strip_prefix("consumer.override.") else {
                continue;
            };
            match ALLOWED.iter().find(|(java, _)| *java == name) {
                Some((_, ours)) => properties.push(((*ours).to_owned(), value.trim().to_owned())),
                None => {
                    let names: Vec<&str> = ALLOWED.iter().map(|(java, _)| *java).collect();
                    return Err(Problem::new(
                        key,
                        format!("can't be overridden; these can: {}", names.join(", ")),
                    ));
                }
            }
        }
        Ok(properties)
    }

    pub(crate) fn from_json(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut config = BTreeMap::new();
        for (key, value) in object {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(yes) => yes.to_string(),
                Value::Null => continue,
                Value::Array(_) | Value::Object(_) => {
                    return Err(ConfigError::Shape(format!(
                        "the value of '{key}' has to be text, a number or a boolean"
                    )));
                }
            };
            config.insert(key.clone(), text);
        }
        Ok(Self(config))
    }

    pub(crate) fn to_json(&self) -> Value {
        Value::Object(
            self.0
                .iter()
                .map(|(key, value)| (key.clone(), Value::String(value.clone())))
                .collect(),
        )
    }

    /// The configuration as an answer shows it.
    pub(crate) fn to_masked_json(&self, secret_keys: &[&str]) -> Value {
        let masked = |key: &String, value: &String| {
            if is_secret(key, secret_keys) {
                MASK.to_owned()
            } else {
                without_user_info(value)
            }
        };
        Value::Object(
            self.0
                .iter()
                .map(|(key, value)| (key.clone(), Value::String(masked(key, value))))
                .collect(),
        )
    }

    /// Puts the stored value where a client sent back the mask it had been shown.
    pub(crate) fn unmask(&mut self, stored: &Self, secret_keys: &[&str]) {
        for (key, value) in &mut self.0 {
            if let Some(known) = stored.0.get(key) {
                let was_masked = (is_secret(key, secret_keys) && value == MASK)
                    || (value != known && *value == without_user_info(known));
                if was_masked {
                    value.clone_from(known);
                }
            }
        }
    }
}

impl fmt::Debug for Config {
    // Values may be secrets: only the keys may show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Config {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

/// `{"name": …, "config": {…}}` as it is posted and as `--connector` files hold it.
pub(crate) fn parse_connector(text: &[u8]) -> Result<(String, Config), ConfigError> {
    let value: Value = serde_json::from_slice(text)?;
    let shape = |message: &str| ConfigError::Shape(message.to_owned());
    let object = value
        .as_object()
        .ok_or_else(|| shape("expected {\"name\": …, \"config\": {…}}"))?;
    let config = object
        .get("config")
        .and_then(Value::as_object)
        .ok_or_else(|| shape("'config' is missing or not an object"))?;
    let config = Config::from_json(config)?;
    let name = match object.get("name").and_then(Value::as_str) {
        Some(name) => name.to_owned(),
        None => config
            .get("name")
            .ok_or_else(|| shape("'name' is missing"))?
            .to_owned(),
    };
    Ok((name.clone(), named(&name, config)?))
}

/// The configuration with its connector's name in it, as Connect keeps it.
pub(crate) fn named(name: &str, mut config: Config) -> Result<Config, ConfigError> {
    let printable = !name.chars().any(|c| c.is_control() || c == '/');
    if name.trim().is_empty() || name.len() > LONGEST_NAME || !printable {
        return Err(ConfigError::Shape(format!(
            "a connector's name has 1 to {LONGEST_NAME} bytes and neither '/' nor control characters"
        )));
    }
    match config.get("name") {
        Some(other) if other != name => Err(ConfigError::Shape(format!(
            "Connector name configuration ({other}) doesn't match connector name in the URL ({name})"
        ))),
        _ => {
            config.set("name", name);
            Ok(config)
        }
    }
}

fn is_topic_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 249 && name.chars().all(allowed)
}

/// Whether a key's value is a secret: the sink says so, or its name does.
fn is_secret(key: &str, secret_keys: &[&str]) -> bool {
    const WORDS: [&str; 6] = [
        "password",
        "secret",
        "token",
        "credential",
        "jaas.config",
        "user.info",
    ];
    let lower = key.to_ascii_lowercase();
    secret_keys.contains(&key)
        || WORDS.iter().any(|word| lower.contains(word))
        || lower.ends_with(".ssl.key")
}

/// `scheme://user:password@host` without what stands before the `@`.
fn without_user_info(value: &str) -> String {
    if let Some((scheme, rest)) = value.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        if let Some((user_info, host)) = authority.rsplit_once('@') {
            let tail = &rest[authority.len()..];
            debug_assert!(user_info.len() < authority.len());
            return format!("{scheme}://{MASK}@{host}{tail}");
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().copied().collect()
    }

    #[test]
    fn secrets_are_masked_and_come_back_when_the_mask_is_sent() {
        let stored = config(&[
            ("connect.influx.password", "hunter2"),
            ("connect.influx.url", "http://root:hunter2@influxdb:8086"),
            (
                "key.converter",
                "org.apache.kafka.connect.storage.StringConverter",
            ),
        ]);
        let shown = stored.to_masked_json(&[]);
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(
            shown["key.converter"],
            "org.apache.kafka.connect.storage.StringConverter"
        );
        assert_eq!(shown["connect.influx.url"], "http://***@influxdb:8086");
        let mut sent = Config::from_json(shown.as_object().unwrap()).unwrap();
        sent.unmask(&stored, &[]);
        assert_eq!(sent, stored);
        assert!(!format!("{stored:?}").contains("hunter2"));
    }

    #[test]
    fn topics_are_a_list_or_a_pattern_but_not_both() {
        let topics = |pairs: &[(&str, &str)]| config(pairs).subscription();
        assert_eq!(
            topics(&[("topics", "iot.a.observations, iot.a.management.rep,")]),
            Ok(Subscription::Topics(vec![
                "iot.a.observations".to_owned(),
                "iot.a.management.rep".to_owned()
            ]))
        );
        assert!(topics(&[]).is_err());
        assert!(topics(&[("topics", "a"), ("topics.regex", "b")]).is_err());
        // A pattern by the back door: librdkafka takes names that start with '^' as such.
        assert!(topics(&[("topics", "^.*")]).is_err());
    }

    #[test]
    fn a_consumer_override_can_not_move_the_group_or_load_code() {
        for key in [
            "group.id",
            "plugin.library.paths",
            "enable.auto.offset.store",
        ] {
            let config = config(&[(&format!("consumer.override.{key}"), "x")]);
            assert!(config.consumer_properties().is_err(), "{key}");
        }
        let config = config(&[("consumer.override.fetch.max.wait.ms", "100")]);
        assert_eq!(
            config.consumer_properties().unwrap(),
            [("fetch.wait.max.ms".to_owned(), "100".to_owned())]
        );
    }

    #[test]
    fn a_connector_file_names_its_connector_once() {
        let parsed = parse_connector(br#"{"name":"a","config":{"tasks.max":2}}"#).unwrap();
        assert_eq!(parsed.0, "a");
        assert_eq!(parsed.1.get("tasks.max"), Some("2"));
        assert_eq!(parsed.1.get("name"), Some("a"));
        for bad in [
            r#"{"name":"a"}"#,
            r#"{"config":{}}"#,
            r#"{"name":"a/b","config":{}}"#,
            r#"{"name":"a","config":{"name":"b"}}"#,
            r#"{"name":"a","config":{"x":[]}}"#,
            "[]",
            "{",
        ] {
            assert!(parse_connector(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
