//! OrientDB's REST API. What came from a device is always a parameter, never part of a statement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lwm2m_model::ObjectModel;
use parking_lot::Mutex;
use reqwest::{Client, StatusCode, Url, redirect};
use serde_json::{Map, Value, json};
use service::Secret;
use service::tls::{HttpClient, Tls};

use crate::change::{Change, Key, Link, OPTIONAL, Property};
use crate::graph::{Applied, GraphError, mandatory, multiple};
use crate::sqlite::warn_unknown_object;

/// A client of one database; clones share it.
#[derive(Clone)]
pub(crate) struct OrientDb {
    inner: Arc<Inner>,
}

struct Inner {
    client: HttpClient,
    base: Url,
    database: String,
    user: String,
    password: Secret,
    /// The objects last seen in the graph.
    objects: Mutex<BTreeSet<u16>>,
}

/// A statement and its parameters, in the order of its question marks.
struct Command {
    sql: String,
    parameters: Vec<Value>,
}

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// The most bytes of an answer: the endpoints of a batch with their links.
const MOST_ANSWER: usize = 64 * 1024 * 1024;
const MOST_REASON: usize = 500;
/// How many statements of models go in one transaction.
const MODEL_COMMANDS: usize = 300;

/// Names and types.
type Properties = &'static [(&'static str, &'static str)];

/// Made where they are missing; an index on a class the original has filled already is made over its vertices.
const CLASSES: [(&str, &str, Properties); 7] = [
    ("Servers", "V", &[("name", "STRING")]),
    (
        "Endpoints",
        "V",
        &[
            ("serverId", "STRING"),
            ("name", "STRING"),
            ("regDate", "LONG"),
            ("regId", "STRING"),
            ("regPort", "INTEGER"),
            ("regAddress", "STRING"),
            ("port", "INTEGER"),
            ("address", "STRING"),
            ("lt", "LONG"),
            ("expired", "BOOLEAN"),
            ("ver", "STRING"),
            ("bnd", "STRING"),
            ("regLastUpdate", "LONG"),
            ("online", "BOOLEAN"),
            ("sms", "STRING"),
            ("attributes", "EMBEDDEDMAP"),
        ],
    ),
    ("Objects", "V", &[("id", "INTEGER")]),
    (
        "Resources",
        "V",
        &[("objectId", "INTEGER"), ("id", "INTEGER")],
    ),
    ("hasEndpoint", "E", &[("out", "LINK"), ("in", "LINK")]),
    (
        "hasObject",
        "E",
        &[("out", "LINK"), ("in", "LINK"), ("instance", "INTEGER")],
    ),
    ("hasResource", "E", &[("out", "LINK"), ("in", "LINK")]),
];

const INDEXES: [&str; 8] = [
    "Servers.name IF NOT EXISTS ON Servers (name) UNIQUE",
    // A vertex of the original whose server is not known has no place in it.
    "Endpoints.serverId_name IF NOT EXISTS ON Endpoints (serverId, name) UNIQUE METADATA {ignoreNullValues: true}",
    "Endpoints.name IF NOT EXISTS ON Endpoints (name) NOTUNIQUE",
    "Objects.id IF NOT EXISTS ON Objects (id) UNIQUE",
    "Resources.objectId_id IF NOT EXISTS ON Resources (objectId, id) UNIQUE METADATA {ignoreNullValues: true}",
    "hasEndpoint.out_in IF NOT EXISTS ON hasEndpoint (out, in) UNIQUE",
    "hasObject.out_in_instance IF NOT EXISTS ON hasObject (out, in, instance) UNIQUE",
    "hasResource.out_in IF NOT EXISTS ON hasResource (out, in) UNIQUE",
];

const ENDPOINT: &str = "(SELECT FROM Endpoints WHERE serverId = ? AND name = ?)";

impl OrientDb {
    pub(crate) fn new(
        base: &Url,
        database: &str,
        (user, password): (&str, &Secret),
        tls: &Tls,
    ) -> Result<Self, GraphError> {
        let settings = || {
            Client::builder()
                .connect_timeout(CONNECT_LIMIT)
                .timeout(CALL_LIMIT)
                .redirect(redirect::Policy::none())
        };
        let client = HttpClient::new(tls.clone(), settings)
            .map_err(|error| GraphError::Away(error.to_string()))?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                base: base.clone(),
                database: database.to_owned(),
                user: user.to_owned(),
                password: password.clone(),
                objects: Mutex::default(),
            }),
        })
    }

    /// Makes the database, its classes and indexes where they are missing.
    pub(crate) async fn prepare(&self) -> Result<(), GraphError> {
        let known = self.call("listDatabases", None).await?;
        let database = &self.inner.database;
        let listed = known["databases"].as_array();
        if !listed.is_some_and(|all| all.iter().any(|name| name == database.as_str())) {
            tracing::info!(database, "OrientDB does not have the database; making it");
            let path = format!("database/{database}/plocal/document");
            self.call(&path, Some(json!({}))).await?;
        }
        for (class, parent, properties) in CLASSES {
            self.command(
                &format!("CREATE CLASS {class} IF NOT EXISTS EXTENDS {parent}"),
                json!({}),
            )
            .await?;
            for (name, kind) in properties {
                let sql = format!("CREATE PROPERTY {class}.{name} IF NOT EXISTS {kind}");
                self.command(&sql, json!({})).await?;
            }
        }
        // Vertices of the original have no serverId: it is the name of the server they hang on.
        let adopt = "UPDATE Endpoints SET serverId = in('hasEndpoint')[0].name WHERE serverId IS NULL AND in('hasEndpoint').size() > 0";
        self.command(adopt, json!({})).await?;
        for index in INDEXES {
            self.command(&format!("CREATE INDEX {index}"), json!({}))
                .await?;
        }
        Ok(())
    }

    pub(crate) async fn objects(&self) -> Result<BTreeSet<u16>, GraphError> {
        let rows = self.command("SELECT id FROM Objects", json!({})).await?;
        let ids: BTreeSet<u16> = rows.iter().filter_map(|row| id(&row["id"])).collect();
        self.inner.objects.lock().clone_from(&ids);
        Ok(ids)
    }

    pub(crate) async fn put_models(&self, models: &[ObjectModel]) -> Result<(), GraphError> {
        let mut open = Vec::new();
        for model in models {
            open.extend(model_commands(model));
            if open.len() >= MODEL_COMMANDS {
                self.batch(std::mem::take(&mut open)).await?;
            }
        }
        if !open.is_empty() {
            self.batch(open).await?;
        }
        Ok(())
    }

    pub(crate) async fn apply(&self, changes: &[Change]) -> Result<Applied, GraphError> {
        let current = self.current(changes).await?;
        let objects = self.objects_for(changes).await?;
        let mut applied = Applied::default();
        let mut commands = Vec::new();
        for change in changes {
            let known = current.get(&change.key);
            if known.is_none() && !change.replace {
                let Key { server, name } = &change.key;
                tracing::warn!(
                    server,
                    endpoint = name,
                    "an update or de-registration of an endpoint that is not in the graph; skipped"
                );
                applied.unknown_endpoints += 1;
                continue;
            }
            commands.extend(endpoint_commands(change, known.is_some()));
            if let Some(wanted) = &change.links {
                let none = BTreeSet::new();
                let there = known.unwrap_or(&none);
                for link in wanted {
                    if !objects.contains(&link.object) {
                        warn_unknown_object(&change.key, link.object);
                        applied.unknown_objects += 1;
                    } else if !there.contains(link) {
                        commands.push(link_command(&change.key, *link));
                    }
                }
                for stale in there.difference(wanted) {
                    commands.push(unlink_command(&change.key, *stale));
                }
            }
            applied.written += 1;
        }
        if !commands.is_empty() {
            self.batch(commands).await?;
        }
        Ok(applied)
    }

    /// The endpoints of these changes that are in the graph, with their links.
    async fn current(
        &self,
        changes: &[Change],
    ) -> Result<BTreeMap<Key, BTreeSet<Link>>, GraphError> {
        let names: BTreeSet<&str> = changes.iter().map(|c| c.key.name.as_str()).collect();
        let rows = self
            .command(
                "SELECT serverId, name, outE('hasObject'):{instance, in.id AS object} AS links FROM Endpoints WHERE name IN :names",
                json!({ "names": names }),
            )
            .await?;
        let mut current = BTreeMap::new();
        for row in &rows {
            let (Some(server), Some(name)) = (row["serverId"].as_str(), row["name"].as_str())
            else {
                continue;
            };
            let key = Key {
                server: server.to_owned(),
                name: name.to_owned(),
            };
            let link = |value: &Value| {
                Some(Link {
                    object: id(&value["object"])?,
                    instance: id(&value["instance"])?,
                })
            };
            let links = row["links"].as_array();
            current.insert(key, links.into_iter().flatten().filter_map(link).collect());
        }
        Ok(current)
    }

    /// The objects in the graph; asked for anew when a change wants one that was not there.
    async fn objects_for(&self, changes: &[Change]) -> Result<BTreeSet<u16>, GraphError> {
        let known = self.inner.objects.lock().clone();
        let wanted = changes.iter().flat_map(|c| c.links.iter().flatten());
        let mut wanted = wanted.map(|link| link.object);
        if wanted.all(|object| known.contains(&object)) {
            Ok(known)
        } else {
            self.objects().await
        }
    }

    /// Runs one statement with named parameters and returns its rows.
    async fn command(&self, sql: &str, parameters: Value) -> Result<Vec<Value>, GraphError> {
        let path = format!("command/{}/sql", self.inner.database);
        let mut body = json!({ "command": sql });
        if parameters
            .as_object()
            .is_some_and(|given| !given.is_empty())
        {
            body["parameters"] = parameters;
        }
        match self.call(&path, Some(body)).await?["result"].take() {
            Value::Array(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    /// Runs statements in one transaction.
    async fn batch(&self, commands: Vec<Command>) -> Result<(), GraphError> {
        let operations: Vec<Value> = commands
            .into_iter()
            .map(|Command { sql, parameters }| {
                json!({ "type": "cmd", "language": "sql", "command": sql, "parameters": parameters })
            })
            .collect();
        let path = format!("batch/{}", self.inner.database);
        let body = json!({ "transaction": true, "operations": operations });
        self.call(&path, Some(body)).await?;
        Ok(())
    }

    async fn call(&self, path: &str, body: Option<Value>) -> Result<Value, GraphError> {
        let inner = &self.inner;
        let mut url = inner.base.clone();
        url.set_path(path);
        let at = format!("OrientDB at {}", inner.base.authority());
        let request = match body {
            None => inner.client.get().get(url),
            Some(body) => inner.client.get().post(url).json(&body),
        };
        let away = |error: reqwest::Error| {
            let reason = inner.client.explain(error);
            GraphError::Away(format!("{at} does not answer: {reason}"))
        };
        let mut response = request
            .basic_auth(&inner.user, Some(inner.password.expose()))
            .send()
            .await
            .map_err(away)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if bytes.len() + chunk.len() > MOST_ANSWER {
                return Err(GraphError::Away(format!(
                    "{at} answers with more than {MOST_ANSWER} bytes"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).or_else(|error| {
                if bytes.is_empty() {
                    Ok(Value::Null)
                } else {
                    Err(GraphError::Away(format!(
                        "{at} does not answer like OrientDB: {error}"
                    )))
                }
            });
        }
        Err(classify(&at, status, &String::from_utf8_lossy(&bytes)))
    }
}

fn classify(at: &str, status: StatusCode, text: &str) -> GraphError {
    // What no repetition mends, because it is about the content. Everything else may pass: a full disk, a restart.
    const CONTENT: [&str; 5] = [
        "OTooBigIndexKeyException",
        "OValidationException",
        "OSerializationException",
        "NumberFormatException",
        "OCommandSQLParsingException",
    ];
    let content = serde_json::from_str::<Value>(text).ok().and_then(|answer| {
        let content = answer.pointer("/errors/0/content")?.as_str()?;
        Some(content.to_owned())
    });
    let reason = content.as_deref().unwrap_or(text).trim();
    let short: String = reason.chars().take(MOST_REASON).collect();
    let has = |word: &&str| reason.contains(*word);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => GraphError::Away(format!(
            "{at} refuses the login; check tinkerpop3.user and tinkerpop3.password ({status})"
        )),
        _ if [
            "OConcurrentModificationException",
            "ORecordDuplicatedException",
        ]
        .iter()
        .any(has) =>
        {
            GraphError::Conflict(short)
        }
        _ if CONTENT.iter().any(has) => GraphError::Refused(short),
        _ => GraphError::Away(format!("{at} can't work now ({status}: {short})")),
    }
}

fn endpoint_commands(change: &Change, known: bool) -> Vec<Command> {
    let Key { server, name } = &change.key;
    let mut commands = Vec::new();
    if !known {
        commands.push(Command {
            sql: "UPDATE Servers SET name = ? UPSERT WHERE name = ?".to_owned(),
            parameters: vec![json!(server), json!(server)],
        });
    }
    let mut columns = vec!["serverId = ?".to_owned(), "name = ?".to_owned()];
    let mut parameters = vec![json!(server), json!(name)];
    for (property, value) in &change.set {
        columns.push(format!("{property} = ?"));
        parameters.push(match value {
            Property::Text(text) => json!(text),
            Property::Number(number) => json!(number),
            Property::Flag(yes) => json!(yes),
            Property::Map(map) => attributes(map),
        });
    }
    parameters.extend([json!(server), json!(name)]);
    commands.push(Command {
        sql: format!(
            "UPDATE Endpoints SET {} UPSERT WHERE serverId = ? AND name = ?",
            columns.join(", ")
        ),
        parameters,
    });
    let gone: Vec<&str> = OPTIONAL
        .into_iter()
        .filter(|name| !change.set.contains_key(name))
        .collect();
    if known && change.replace && !gone.is_empty() {
        commands.push(Command {
            sql: format!(
                "UPDATE Endpoints REMOVE {} WHERE serverId = ? AND name = ?",
                gone.join(", ")
            ),
            parameters: vec![json!(server), json!(name)],
        });
    }
    if !known {
        commands.push(Command {
            sql: format!(
                "CREATE EDGE hasEndpoint UPSERT FROM (SELECT FROM Servers WHERE name = ?) TO {ENDPOINT}"
            ),
            parameters: vec![json!(server), json!(server), json!(name)],
        });
    }
    commands
}

/// OrientDB's JSON reads keys that start with `@` as its own (`@class`), and a document can't have an empty one.
fn attributes(map: &BTreeMap<String, String>) -> Value {
    let key = |key: &String| {
        if key.is_empty() || key.starts_with('@') {
            format!("_{key}")
        } else {
            key.clone()
        }
    };
    let pairs = map.iter().map(|(k, value)| (key(k), json!(value)));
    Value::Object(pairs.collect::<Map<String, Value>>())
}

fn link_command(key: &Key, link: Link) -> Command {
    Command {
        sql: format!(
            "CREATE EDGE hasObject FROM {ENDPOINT} TO (SELECT FROM Objects WHERE id = ?) SET instance = ?"
        ),
        parameters: vec![
            json!(key.server),
            json!(key.name),
            json!(link.object),
            json!(link.instance),
        ],
    }
}

fn unlink_command(key: &Key, link: Link) -> Command {
    Command {
        sql: format!(
            "DELETE EDGE hasObject FROM {ENDPOINT} TO (SELECT FROM Objects WHERE id = ?) WHERE instance = ?"
        ),
        parameters: vec![
            json!(key.server),
            json!(key.name),
            json!(link.object),
            json!(link.instance),
        ],
    }
}

fn model_commands(model: &ObjectModel) -> Vec<Command> {
    let mut commands = vec![Command {
        sql: "UPDATE Objects SET id = ?, name = ?, description = ?, multiple = ?, mandatory = ? UPSERT WHERE id = ?"
            .to_owned(),
        parameters: vec![
            json!(model.id),
            json!(model.name),
            json!(model.description.as_deref().unwrap_or_default()),
            json!(multiple(model.multiple)),
            json!(mandatory(model.mandatory)),
            json!(model.id),
        ],
    }];
    for resource in model.resources.values() {
        commands.push(Command {
            sql: "UPDATE Resources SET objectId = ?, id = ?, name = ?, description = ?, multiple = ?, mandatory = ?, operations = ?, type = ?, range = ?, units = ? UPSERT WHERE objectId = ? AND id = ?".to_owned(),
            parameters: vec![
                json!(model.id),
                json!(resource.id),
                json!(resource.name),
                json!(resource.description.as_deref().unwrap_or_default()),
                json!(multiple(resource.multiple)),
                json!(mandatory(resource.mandatory)),
                json!(resource.operations.to_string()),
                json!(resource.value_type.map_or("", |kind| kind.oma_name())),
                json!(resource.range),
                json!(resource.units),
                json!(model.id),
                json!(resource.id),
            ],
        });
    }
    commands.push(Command {
        sql: "CREATE EDGE hasResource UPSERT FROM (SELECT FROM Objects WHERE id = ?) TO (SELECT FROM Resources WHERE objectId = ?)".to_owned(),
        parameters: vec![json!(model.id), json!(model.id)],
    });
    if model.resources.is_empty() {
        commands.pop();
    }
    commands
}

/// An id as OrientDB's JSON has it.
fn id(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|id| u16::try_from(id).ok())
}
