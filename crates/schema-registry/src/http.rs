//! Confluent's REST API.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::metrics;
use crate::plan::SchemaRequest;
use crate::record::{Reference, in_default_context};
use crate::registry::{Against, Operations, VersionId, find};
use crate::state::{AVRO, Version};

mod settings;

/// The largest request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// The longest subject, in bytes (a topic's name has at most 249).
const MAX_SUBJECT: usize = 1024;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// What the routes work on.
pub(crate) struct Api {
    pub(crate) operations: Operations,
    pub(crate) cluster: kafka::Cluster,
    pub(crate) cluster_id: tokio::sync::OnceCell<String>,
}

type Shared = State<Arc<Api>>;

/// The routes of the API.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/", get(async || Answer(json!({}))))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route(
            "/subjects/{subject}/versions/{version}",
            get(version).delete(delete_version),
        )
        .route(
            "/subjects/{subject}/versions/{version}/schema",
            get(version_schema),
        )
        .route(
            "/subjects/{subject}/versions/{version}/referencedby",
            get(referenced_by),
        )
        .route("/schemas", get(schemas))
        .route("/schemas/types", get(async || Answer([AVRO])))
        .route("/schemas/ids/{id}", get(schema_by_id))
        .route("/schemas/ids/{id}/schema", get(schema_text_by_id))
        .route("/schemas/ids/{id}/versions", get(versions_by_id))
        .route("/schemas/ids/{id}/subjects", get(subjects_by_id))
        .route(
            "/compatibility/subjects/{subject}/versions",
            post(check_subject),
        )
        .route(
            "/compatibility/subjects/{subject}/versions/{version}",
            post(check_version),
        )
        .route("/contexts", get(async || Answer(["."])))
        .route("/v1/metadata/id", get(metadata_id))
        .route("/v1/metadata/version", get(metadata_version))
        .merge(settings::routes())
        .fallback(async || ApiError::http(StatusCode::NOT_FOUND, "HTTP 404 Not Found"))
        .method_not_allowed_fallback(async || {
            ApiError::http(
                StatusCode::METHOD_NOT_ALLOWED,
                "HTTP 405 Method Not Allowed",
            )
        })
        .layer(middleware::from_fn(count))
        .with_state(api)
}

async fn count(request: Request, next: Next) -> Response {
    // Only methods that the API knows, so that a client can't make up labels.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    metrics::REQUESTS
        .with_label_values(&[method.as_str(), response.status().as_str()])
        .inc();
    response
}

/// A JSON answer with the API's content type.
struct Answer<T>(T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response(),
            Err(error) => ApiError::store(error).into_response(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error_code": self.code, "message": self.message });
        (
            self.status,
            [(header::CONTENT_TYPE, CONTENT_TYPE)],
            body.to_string(),
        )
            .into_response()
    }
}

/// A body in one of the content types that Confluent's registry takes.
struct Body<T>(T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|value| value.to_str().unwrap_or("").to_owned())
            .unwrap_or_else(|| CONTENT_TYPE.to_owned());
        let essence = content_type.split(';').next().unwrap_or("").trim();
        if ![
            CONTENT_TYPE,
            "application/vnd.schemaregistry+json",
            "application/json",
            "application/octet-stream",
        ]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
        {
            return Err(ApiError::http(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("HTTP 415 Unsupported Media Type: send {CONTENT_TYPE} or application/json"),
            ));
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| {
            ApiError::http(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body is not readable or longer than {MAX_BODY} bytes"),
            )
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let status = if error.is_data() {
                StatusCode::UNPROCESSABLE_ENTITY
            } else {
                StatusCode::BAD_REQUEST
            };
            ApiError::http(status, format!("Unable to process JSON: {error}"))
        })
    }
}

/// What the path names.
struct Target {
    subject: Option<String>,
    version: Option<String>,
    id: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parameters = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::http(StatusCode::BAD_REQUEST, error.to_string()))?;
        let mut target = Self {
            subject: None,
            version: None,
            id: None,
        };
        for (name, value) in &parameters {
            match name {
                "subject" => target.subject = Some(checked_subject(value)?),
                "version" => target.version = Some(value.to_owned()),
                "id" => target.id = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(target)
    }
}

impl Target {
    fn subject(&self) -> Result<String, ApiError> {
        self.subject
            .clone()
            .ok_or_else(|| ApiError::invalid_subject("", "it is empty"))
    }

    fn version(&self) -> Result<VersionId, ApiError> {
        let text = self.version.as_deref().unwrap_or("");
        if text == "latest" || text == "-1" {
            return Ok(VersionId::Latest);
        }
        match text.parse() {
            Ok(number) if number > 0 => Ok(VersionId::Number(number)),
            _ => Err(ApiError::invalid_version(text)),
        }
    }

    fn id(&self) -> Result<i32, ApiError> {
        self.id
            .as_deref()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| ApiError::http(StatusCode::NOT_FOUND, "HTTP 404 Not Found"))
    }
}

fn checked_subject(subject: &str) -> Result<String, ApiError> {
    let name = in_default_context(subject).ok_or_else(|| {
        ApiError::invalid_subject(subject, "this registry has no contexts but the default one")
    })?;
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_SUBJECT {
        "it is too long"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else if ["__GLOBAL", "__EMPTY"].contains(&name) {
        "it is reserved"
    } else {
        return Ok(name.to_owned());
    };
    Err(ApiError::invalid_subject(subject, why))
}

/// The query's parameters.
struct Parameters(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| ApiError::http(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

impl Parameters {
    /// Python's clients send `True` and `False`.
    fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.0.get(name).and_then(|value| value.parse().ok())
    }

    /// The prefix of subjects to list; `:*:` stands for all contexts.
    fn subject_prefix(&self) -> &str {
        let given = self.0.get("subjectPrefix").map_or("", String::as_str);
        let given = given.strip_prefix(":*:").unwrap_or(given);
        given.strip_prefix(":.:").unwrap_or(given)
    }

    /// The part of a list that `offset` and `limit` ask for.
    fn page<T>(&self, items: impl Iterator<Item = T>) -> Vec<T> {
        let limit = self.number("limit").filter(|limit| *limit > 0);
        items
            .skip(self.number("offset").unwrap_or(0))
            .take(limit.unwrap_or(usize::MAX))
            .collect()
    }

    /// Whether a version is to be shown, by `deleted` and `deletedOnly`.
    fn shows(&self, version: &Version) -> bool {
        if self.flag("deletedOnly") {
            version.value.deleted
        } else {
            self.flag("deleted") || !version.value.deleted
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    subject: &'a str,
    version: i32,
    id: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    references: &'a [Reference],
    schema: &'a str,
}

fn described(version: &Version) -> Value {
    let value = &version.value;
    json!(Described {
        subject: &value.subject,
        version: value.version,
        id: value.id,
        schema_type: value.schema_type.as_deref(),
        references: &value.references,
        schema: &value.schema,
    })
}

type Answered = Result<Answer<Value>, ApiError>;

async fn subjects(State(api): Shared, parameters: Parameters) -> Answered {
    api.operations.view(|state| {
        let prefix = parameters.subject_prefix();
        let names = state
            .subject_names()
            .filter(|name| name.starts_with(prefix))
            .filter(|name| {
                if parameters.flag("deletedOnly") {
                    state.live_versions(name).next().is_none()
                } else {
                    parameters.flag("deleted") || state.live_versions(name).next().is_some()
                }
            });
        Ok(Answer(json!(parameters.page(names))))
    })
}

async fn look_up(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
    Body(request): Body<SchemaRequest>,
) -> Answered {
    let found = api
        .operations
        .look_up(
            target.subject()?,
            request,
            parameters.flag("normalize"),
            parameters.flag("deleted"),
        )
        .await?;
    Ok(Answer(described(&found)))
}

async fn delete_subject(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let versions = api
        .operations
        .delete_subject(target.subject()?, parameters.flag("permanent"))
        .await?;
    Ok(Answer(json!(versions)))
}

async fn versions(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let subject = target.subject()?;
    api.operations.view(|state| {
        let versions: Vec<i32> = state
            .versions(&subject)
            .filter(|version| parameters.shows(version))
            .map(|version| version.value.version)
            .collect();
        if versions.is_empty() {
            return Err(ApiError::subject_not_found(&subject));
        }
        Ok(Answer(json!(parameters.page(versions.into_iter()))))
    })
}

async fn register(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
    Body(request): Body<SchemaRequest>,
) -> Answered {
    let id = api
        .operations
        .register(target.subject()?, request, parameters.flag("normalize"))
        .await?;
    Ok(Answer(json!({ "id": id })))
}

async fn version(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let (subject, version) = (target.subject()?, target.version()?);
    api.operations.view(|state| {
        let found = find(state, &subject, version, parameters.flag("deleted"))?;
        Ok(Answer(described(found)))
    })
}

async fn version_schema(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let (subject, version) = (target.subject()?, target.version()?);
    api.operations.view(|state| {
        let found = find(state, &subject, version, parameters.flag("deleted"))?;
        Ok(schema_text(found))
    })
}

fn schema_text(version: &Version) -> Response {
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        version.value.schema.clone(),
    )
        .into_response()
}

async fn delete_version(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let version = api
        .operations
        .delete_version(
            target.subject()?,
            target.version()?,
            parameters.flag("permanent"),
        )
        .await?;
    Ok(Answer(json!(version)))
}

async fn referenced_by(State(api): Shared, target: Target) -> Answered {
    let (subject, version) = (target.subject()?, target.version()?);
    api.operations.view(|state| {
        let found = find(state, &subject, version, true)?;
        let ids: BTreeSet<i32> = state.referenced_by(&subject, found.value.version);
        Ok(Answer(json!(ids)))
    })
}

async fn schemas(State(api): Shared, parameters: Parameters) -> Answered {
    api.operations.view(|state| {
        let latest_only = parameters.flag("latestOnly");
        let prefix = parameters.subject_prefix();
        let found = state
            .all_versions()
            .filter(|version| version.value.subject.starts_with(prefix))
            .filter(|version| parameters.shows(version))
            .filter(|version| {
                !latest_only
                    || state
                        .versions(&version.value.subject)
                        .rev()
                        .find(|other| parameters.shows(other))
                        .is_some_and(|last| last.value.version == version.value.version)
            });
        let page: Vec<Value> = parameters.page(found).into_iter().map(described).collect();
        Ok(Answer(json!(page)))
    })
}

async fn schema_by_id(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let id = target.id()?;
    api.operations.view(|state| {
        let found = state.by_id(id).ok_or_else(|| ApiError::id_not_found(id))?;
        let mut answer = json!({ "schema": found.value.schema });
        if let Some(schema_type) = &found.value.schema_type {
            answer["schemaType"] = json!(schema_type);
        }
        if !found.value.references.is_empty() {
            answer["references"] = json!(found.value.references);
        }
        if parameters.flag("fetchMaxId") {
            answer["maxId"] = json!(state.max_id());
        }
        Ok(Answer(answer))
    })
}

async fn schema_text_by_id(State(api): Shared, target: Target) -> Result<Response, ApiError> {
    let id = target.id()?;
    api.operations.view(|state| {
        let found = state.by_id(id).ok_or_else(|| ApiError::id_not_found(id))?;
        Ok(schema_text(found))
    })
}

async fn versions_by_id(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let id = target.id()?;
    api.operations.view(|state| {
        state.by_id(id).ok_or_else(|| ApiError::id_not_found(id))?;
        let versions: Vec<Value> = state
            .holders(id)
            .filter(|version| parameters.shows(version))
            .map(|version| {
                json!({ "subject": version.value.subject, "version": version.value.version })
            })
            .collect();
        Ok(Answer(json!(versions)))
    })
}

async fn subjects_by_id(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    let id = target.id()?;
    api.operations.view(|state| {
        state.by_id(id).ok_or_else(|| ApiError::id_not_found(id))?;
        let subjects: BTreeSet<&str> = state
            .holders(id)
            .filter(|version| parameters.shows(version))
            .map(|version| version.value.subject.as_str())
            .collect();
        Ok(Answer(json!(subjects)))
    })
}

async fn check_subject(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
    Body(request): Body<SchemaRequest>,
) -> Answered {
    check(&api, &target, Against::Subject, &parameters, request).await
}

async fn check_version(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
    Body(request): Body<SchemaRequest>,
) -> Answered {
    let against = Against::Version(target.version()?);
    check(&api, &target, against, &parameters, request).await
}

async fn check(
    api: &Api,
    target: &Target,
    against: Against,
    parameters: &Parameters,
    request: SchemaRequest,
) -> Answered {
    let reasons = api
        .operations
        .check(
            target.subject()?,
            against,
            request,
            parameters.flag("normalize"),
        )
        .await?;
    let mut answer = json!({ "is_compatible": reasons.is_empty() });
    if parameters.flag("verbose") {
        answer["messages"] = json!(reasons);
    }
    Ok(Answer(answer))
}

async fn metadata_id(State(api): Shared) -> Answered {
    let id = api
        .cluster_id
        .get_or_try_init(|| kafka::fetch_cluster_id(&api.cluster))
        .await
        .map_err(|error| ApiError::store(format_args!("{error:#}")))?;
    Ok(Answer(json!({
        "scope": {
            "path": [],
            "clusters": { "kafka-cluster": id, "schema-registry-cluster": "schema-registry" },
        },
        "id": "",
    })))
}

async fn metadata_version() -> Answer<Value> {
    Answer(json!({ "version": env!("CARGO_PKG_VERSION"), "commitId": "" }))
}
