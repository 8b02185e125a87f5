use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Json, Router};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use service::auth::Role;
use tokio::sync::Mutex;

use crate::config::{named, parse_connector};
use crate::store::{Scope, Store, StoreError, Target};
use crate::worker::{Shown, View, Worker};
use crate::{Config, ConfigError, Sink};

/// What the REST calls work on.
pub(crate) struct App {
    pub(crate) worker: Arc<Worker>,
    pub(crate) store: Store,
    pub(crate) cluster_id: RwLock<Option<String>>,
    /// One change at a time, so that of two creations one is told that the connector exists.
    pub(crate) changes: Mutex<()>,
}

/// A configuration has a few kilobytes.
const MOST_BODY: usize = 1024 * 1024;

pub(crate) fn routes(app: Arc<App>) -> Router {
    let routes: [(&str, MethodRouter<Arc<App>>); 13] = [
        ("/connectors", get(list).post(create)),
        ("/connectors/{name}", get(info).delete(delete)),
        ("/connectors/{name}/config", get(config).put(configure)),
        ("/connectors/{name}/status", get(status)),
        ("/connectors/{name}/tasks", get(tasks)),
        ("/connectors/{name}/tasks/{id}/status", get(task_status)),
        ("/connectors/{name}/tasks/{id}/restart", post(restart_task)),
        ("/connectors/{name}/topics", get(topics)),
        ("/connectors/{name}/pause", put(pause)),
        ("/connectors/{name}/resume", put(resume)),
        ("/connectors/{name}/restart", post(restart)),
        ("/connector-plugins", get(plugins)),
        ("/connector-plugins/{class}/config/validate", put(validate)),
    ];
    let mut router = Router::new().route("/", get(root));
    for (path, method) in routes {
        // Both spellings are in the walkthrough.
        router = router
            .route(&format!("{path}/"), method.clone())
            .route(path, method);
    }
    router
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "HTTP 404 Not Found") })
        .method_not_allowed_fallback(|| async {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTP 405 Method Not Allowed",
            )
        })
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(app)
}

/// What takes which role: who may only read changes no connector.
pub(crate) fn policy(method: &Method, _path: &str) -> Option<Role> {
    Some(Role::to_call(method))
}

/// A refusal of the gate.
pub(crate) fn refuse(status: StatusCode, reason: &str) -> Response {
    Failure::new(status, reason).into_response()
}

/// Connect's form of an error.
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    fn not_found(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Connector {name} not found"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error_code": self.status.as_u16(), "message": self.message });
        (self.status, Json(body)).into_response()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

type Answer = Result<Response, Failure>;

async fn root(State(app): State<Arc<App>>) -> Json<Value> {
    let cluster_id = app.cluster_id.read().clone();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("ZEELOS_COMMIT").unwrap_or("unknown"),
        "kafka_cluster_id": cluster_id,
    }))
}

async fn list(State(app): State<Arc<App>>, uri: axum::http::Uri) -> Answer {
    app.ready()?;
    let expand: Vec<String> = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.strip_prefix("expand="))
        .map(str::to_owned)
        .collect();
    let names = app.worker.names();
    if expand.is_empty() {
        return Ok(Json(names).into_response());
    }
    let mut all = Map::new();
    for name in names {
        let Some(view) = app.worker.view(&name) else {
            continue;
        };
        let mut one = Map::new();
        if expand.iter().any(|e| e == "status") {
            one.insert("status".to_owned(), app.status_json(&name, &view));
        }
        if expand.iter().any(|e| e == "info") {
            one.insert("info".to_owned(), app.info_json(&name, &view));
        }
        all.insert(name, Value::Object(one));
    }
    Ok(Json(Value::Object(all)).into_response())
}

async fn create(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    app.ready()?;
    let (name, config) = parse_connector(&body)?;
    app.check(&config)?;
    let _one_at_a_time = app.changes.lock().await;
    if app.worker.view(&name).is_some() {
        return Err(Failure::new(
            StatusCode::CONFLICT,
            format!("Connector {name} already exists"),
        ));
    }
    app.store.configure(&name, &config).await?;
    let view = app.view(&name)?;
    let location = [(header::LOCATION, format!("/connectors/{}", escaped(&name)))];
    let info = Json(app.info_json(&name, &view));
    Ok((StatusCode::CREATED, location, info).into_response())
}

async fn info(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let view = app.view(&name)?;
    Ok(Json(app.info_json(&name, &view)).into_response())
}

async fn config(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let view = app.view(&name)?;
    Ok(Json(app.masked(&view.config)).into_response())
}

async fn configure(State(app): State<Arc<App>>, Path(name): Path<String>, body: Bytes) -> Answer {
    app.ready()?;
    let sent: Map<String, Value> = serde_json::from_slice(&body).map_err(ConfigError::from)?;
    let mut config = named(&name, Config::from_json(&sent)?)?;
    let _one_at_a_time = app.changes.lock().await;
    let before = app.worker.view(&name);
    if let Some(before) = &before {
        config.unmask(&before.config, &app.worker.secret_keys(&before.config));
    }
    app.check(&config)?;
    app.store.configure(&name, &config).await?;
    let view = app.view(&name)?;
    let status = match before {
        Some(_) => StatusCode::OK,
        None => StatusCode::CREATED,
    };
    Ok((status, Json(app.info_json(&name, &view))).into_response())
}

async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let _one_at_a_time = app.changes.lock().await;
    app.view(&name)?;
    app.store.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn status(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    app.ready()?;
    let view = app.worker.view(&name).ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            format!("No status found for connector {name}"),
        )
    })?;
    Ok(Json(app.status_json(&name, &view)).into_response())
}

async fn tasks(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let view = app.view(&name)?;
    let config = app.masked(&view.config);
    let tasks: Vec<Value> = (0..view.tasks.len())
        .map(|id| json!({ "id": { "connector": name, "task": id }, "config": config }))
        .collect();
    Ok(Json(tasks).into_response())
}

async fn task_status(
    State(app): State<Arc<App>>,
    Path((name, id)): Path<(String, usize)>,
) -> Answer {
    let view = app.view(&name)?;
    let task = view.tasks.get(id).ok_or_else(|| unknown_task(&name, id))?;
    Ok(Json(app.task_json(id, task)).into_response())
}

async fn restart_task(
    State(app): State<Arc<App>>,
    Path((name, id)): Path<(String, u32)>,
) -> Answer {
    let view = app.view(&name)?;
    let index = usize::try_from(id).unwrap_or(usize::MAX);
    if view.tasks.get(index).is_none() {
        return Err(unknown_task(&name, index));
    }
    app.store.restart(&name, Scope::Task(id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn unknown_task(name: &str, id: usize) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("Unknown task: {name}-{id}"))
}

async fn topics(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let view = app.view(&name)?;
    let topics = match view.config.subscription() {
        Ok(crate::Subscription::Topics(topics)) => topics,
        Ok(crate::Subscription::Pattern(pattern)) => vec![pattern],
        Err(_) => Vec::new(),
    };
    Ok(Json(json!({ name: { "topics": topics } })).into_response())
}

async fn pause(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    app.target(&name, Target::Paused).await
}

async fn resume(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    app.target(&name, Target::Started).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestartOptions {
    #[serde(default)]
    include_tasks: bool,
    #[serde(default)]
    only_failed: bool,
}

/// Connect restarts the connector alone unless asked for its tasks; ours is nothing without them, so they restart too.
async fn restart(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(options): Query<RestartOptions>,
) -> Answer {
    app.view(&name)?;
    let scope = if options.only_failed {
        Scope::Failed
    } else {
        Scope::All
    };
    app.store.restart(&name, scope).await?;
    if options.include_tasks {
        let view = app.view(&name)?;
        let status = Json(app.status_json(&name, &view));
        Ok((StatusCode::ACCEPTED, status).into_response())
    } else {
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

async fn plugins(State(app): State<Arc<App>>) -> Json<Value> {
    let plugins = app.worker.sinks().iter().map(|sink| {
        json!({ "class": sink.class(), "type": "sink", "version": env!("CARGO_PKG_VERSION") })
    });
    Json(plugins.collect())
}

async fn validate(State(app): State<Arc<App>>, Path(class): Path<String>, body: Bytes) -> Answer {
    let sent: Map<String, Value> = serde_json::from_slice(&body).map_err(ConfigError::from)?;
    let config = Config::from_json(&sent)?;
    let sink = app.sink(&class)?;
    Ok(Json(validation(sink.as_ref(), &config, &app.masked(&config))).into_response())
}

fn validation(sink: &dyn Sink, config: &Config, shown: &Value) -> Value {
    let problems = Worker::problems(sink, config);
    let one = |name: &str, default: Option<&str>, required: bool, secret: bool, text: &str| {
        let errors: Vec<&str> = problems
            .iter()
            .filter(|problem| problem.key == name)
            .map(|problem| problem.message.as_str())
            .collect();
        let value = shown.get(name).cloned().unwrap_or_else(|| json!(default));
        json!({
            "definition": {
                "name": name, "type": if secret { "PASSWORD" } else { "STRING" }, "required": required,
                "default_value": default, "importance": if required { "HIGH" } else { "MEDIUM" },
                "documentation": text, "group": "Common", "width": "MEDIUM", "display_name": name,
                "dependents": [], "order": 0,
            },
            "value": {
                "name": name, "value": value, "recommended_values": [], "errors": errors, "visible": true,
            },
        })
    };
    let common: [(&str, Option<&str>, &str); 7] = [
        ("name", None, "The connector's name."),
        ("connector.class", None, "What kind of connector it is."),
        ("tasks.max", Some("1"), "Consumers on each worker."),
        ("topics", None, "The topics to read, with commas."),
        ("topics.regex", None, "A pattern of topics to read."),
        ("value.converter", None, "Avro with a schema registry."),
        (
            "value.converter.schema.registry.url",
            None,
            "The registry of the values' schemas; the worker's own by default.",
        ),
    ];
    let mut configs: Vec<Value> = common
        .into_iter()
        .map(|(name, default, text)| one(name, default, name == "connector.class", false, text))
        .collect();
    configs.extend(sink.keys().iter().map(|key| {
        one(
            key.name,
            key.default,
            key.required,
            key.secret,
            key.documentation,
        )
    }));
    json!({ "name": sink.class(), "error_count": problems.len(), "groups": ["Common"], "configs": configs })
}

impl App {
    fn ready(&self) -> Result<(), Failure> {
        if self.worker.is_loaded() {
            Ok(())
        } else {
            Err(Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "This worker has not read its connectors from Kafka yet; /readyz says why",
            ))
        }
    }

    fn view(&self, name: &str) -> Result<View, Failure> {
        self.ready()?;
        self.worker
            .view(name)
            .ok_or_else(|| Failure::not_found(name))
    }

    fn sink(&self, class: &str) -> Result<&Arc<dyn Sink>, Failure> {
        self.worker.sink(class).ok_or_else(|| {
            let available: Vec<&str> = self.worker.sinks().iter().map(|s| s.class()).collect();
            Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!(
                    "Failed to find any class that implements Connector and which name matches {class}, available connectors are: {}",
                    available.join(", ")
                ),
            )
        })
    }

    fn check(&self, config: &Config) -> Result<(), Failure> {
        let class = config.class().ok_or_else(|| {
            Failure::new(
                StatusCode::BAD_REQUEST,
                "Connector config contains no connector type: 'connector.class' is missing",
            )
        })?;
        let problems = Worker::problems(self.sink(class)?.as_ref(), config);
        if problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Err(Failure::new(
            StatusCode::BAD_REQUEST,
            format!(
                "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
                lines.len(),
                lines.join("\n")
            ),
        ))
    }

    async fn target(&self, name: &str, target: Target) -> Answer {
        self.view(name)?;
        self.store.target(name, target).await?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    fn masked(&self, config: &Config) -> Value {
        config.to_masked_json(&self.worker.secret_keys(config))
    }

    fn info_json(&self, name: &str, view: &View) -> Value {
        let tasks: Vec<Value> = (0..view.tasks.len())
            .map(|id| json!({ "connector": name, "task": id }))
            .collect();
        json!({ "name": name, "config": self.masked(&view.config), "tasks": tasks, "type": "sink" })
    }

    fn status_json(&self, name: &str, view: &View) -> Value {
        let mut connector = json!({ "state": view.connector.state, "worker_id": self.worker.id });
        if let Some(trace) = &view.connector.trace {
            connector["trace"] = json!(trace);
        }
        let tasks: Vec<Value> = view
            .tasks
            .iter()
            .enumerate()
            .map(|(id, task)| self.task_json(id, task))
            .collect();
        json!({ "name": name, "connector": connector, "tasks": tasks, "type": "sink" })
    }

    fn task_json(&self, id: usize, task: &Shown) -> Value {
        let mut shown = json!({ "id": id, "state": task.state, "worker_id": self.worker.id });
        if let Some(trace) = &task.trace {
            shown["trace"] = json!(trace);
        }
        shown
    }
}

/// A name as part of a URL's path.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
