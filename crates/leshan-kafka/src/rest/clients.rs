//! Devices: their registrations, and what is asked of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use lwm2m::server::RequestOptions;
use lwm2m::{
    Body, DeviceResponse, Operation, Registration, RequestError, RequestFailure, WriteMode,
};
use lwm2m_codec::ContentFormat;
use lwm2m_model::{ObjectPath, Registry};

use super::{Refused, Web, body, shape, specs};
use crate::bridge::unix_ms;
use crate::engine::AskError;

/// How long a device has to answer where `timeout` does not say: Leshan's five seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest `timeout`, in seconds: each request holds a connection and a place in its device's queue.
const LONGEST_TIMEOUT_S: i64 = 600;
/// Registrations written at a time.
const CHUNK: usize = 256;

type Parameters = Query<Vec<(String, String)>>;
type Answer = Result<Response, Refused>;

/// GET `/api/clients`. Written bit by bit: with a hundred thousand devices the whole is some 60 MB.
pub(super) async fn list(State(web): State<Arc<Web>>) -> Response {
    let registrations = web.engine.registrations().await;
    let chunks = registrations.len().div_ceil(CHUNK).max(1);
    let written = (0..chunks).map(move |chunk| {
        let mut text = String::new();
        for (index, registration) in registrations
            .iter()
            .enumerate()
            .skip(chunk * CHUNK)
            .take(CHUNK)
        {
            text.push(if index == 0 { '[' } else { ',' });
            text.push_str(&shape::registration(registration).to_string());
        }
        if registrations.is_empty() {
            text.push('[');
        }
        if chunk + 1 == chunks {
            text.push(']');
        }
        Ok::<_, Infallible>(text)
    });
    let body = HttpBody::from_stream(futures::stream::iter(written));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// GET `/api/clients/<ep>`.
pub(super) async fn one(State(web): State<Arc<Web>>, Path(endpoint): Path<String>) -> Answer {
    let registration = registered(&web, &endpoint).await?;
    Ok(Json(shape::registration(&registration)).into_response())
}

/// GET `/api/clients/<ep>/values`.
pub(super) async fn values(State(web): State<Arc<Web>>, Path(endpoint): Path<String>) -> Answer {
    registered(&web, &endpoint).await?;
    Ok(Json(web.values.of(&endpoint)).into_response())
}

/// GET: read, discover.
pub(super) async fn get(
    State(web): State<Arc<Web>>,
    Path((endpoint, target)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer {
    let call = Call::new(&web, endpoint, &target, parameters).await?;
    let path = call.path;
    let operation = match call.action {
        Action::Node => Operation::Read { path },
        Action::Discover => Operation::Discover { path },
        Action::Attributes | Action::Observe => return Err(call.wrong_method("GET")),
    };
    call.ask(operation).await
}

/// PUT: write, write attributes.
pub(super) async fn put(
    State(web): State<Arc<Web>>,
    Path((endpoint, target)): Path<(String, String)>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    payload: Bytes,
) -> Answer {
    let call = Call::new(&web, endpoint, &target, parameters).await?;
    let path = call.path;
    let operation = match call.action {
        Action::Node => {
            let text = call.options()?.content_format == Some(ContentFormat::Text);
            let node = body::to_write(
                &payload,
                content_type(&headers),
                text,
                path,
                &call.models(&web),
            )
            .map_err(Refused::invalid)?;
            // As Leshan reads it: anything but "true" is false.
            let replace = call
                .parameter("replace")
                .is_none_or(|replace| replace.eq_ignore_ascii_case("true"));
            let mode = if replace {
                WriteMode::Replace
            } else {
                WriteMode::Update
            };
            Operation::Write { path, mode, node }
        }
        Action::Attributes => Operation::WriteAttributes {
            path,
            attributes: call.attributes(),
        },
        Action::Discover | Action::Observe => return Err(call.wrong_method("PUT")),
    };
    call.ask(operation).await
}

/// POST: execute, create, observe.
pub(super) async fn post(
    State(web): State<Arc<Web>>,
    Path((endpoint, target)): Path<(String, String)>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    payload: Bytes,
) -> Answer {
    let call = Call::new(&web, endpoint, &target, parameters).await?;
    let path = call.path;
    let operation = match (&call.action, path) {
        (Action::Observe, _) => Operation::Observe { path },
        (Action::Node, ObjectPath::Resource(..)) => {
            let arguments = String::from_utf8(payload.into())
                .map_err(|_| Refused::invalid("the arguments are not UTF-8 text"))?;
            Operation::Execute { path, arguments }
        }
        (Action::Node, ObjectPath::Object(_) | ObjectPath::Instance(..)) => {
            let models = call.models(&web);
            let node = body::to_create(&payload, content_type(&headers), path, &models)
                .map_err(Refused::invalid)?;
            Operation::Create { path, node }
        }
        (Action::Node, _) => {
            return Err(Refused::invalid(
                "POST executes a resource, or creates an instance of an object",
            ));
        }
        (Action::Discover | Action::Attributes, _) => return Err(call.wrong_method("POST")),
    };
    call.ask(operation).await
}

/// DELETE: delete, cancel an observation.
pub(super) async fn delete(
    State(web): State<Arc<Web>>,
    Path((endpoint, target)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer {
    let call = Call::new(&web, endpoint, &target, parameters).await?;
    let path = call.path;
    match call.action {
        Action::Node => call.ask(Operation::Delete { path }).await,
        Action::Observe => {
            let active = call
                .parameter("active")
                .is_some_and(|active| !active.eq_ignore_ascii_case("false"));
            call.cancel(active).await
        }
        Action::Discover | Action::Attributes => Err(call.wrong_method("DELETE")),
    }
}

/// What the last part of a target says; a path alone names a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Node,
    Discover,
    Attributes,
    Observe,
}

/// A request about a device's path.
struct Call {
    web: Arc<Web>,
    endpoint: String,
    registration: Arc<Registration>,
    path: ObjectPath,
    action: Action,
    parameters: Vec<(String, String)>,
}

impl Call {
    async fn new(
        web: &Arc<Web>,
        endpoint: String,
        target: &str,
        parameters: Vec<(String, String)>,
    ) -> Result<Self, Refused> {
        let registration = registered(web, &endpoint).await?;
        let target = target.strip_suffix('/').unwrap_or(target);
        let (before, last) = target.rsplit_once('/').unwrap_or(("", target));
        let (path, action) = match last {
            "discover" => (before, Action::Discover),
            "attributes" => (before, Action::Attributes),
            "observe" => (before, Action::Observe),
            _ => (target, Action::Node),
        };
        if path.split('/').next() == Some("composite") {
            return Err(Refused::new(
                StatusCode::NOT_FOUND,
                "composite operations are not served here",
            ));
        }
        let path = path.parse().map_err(Refused::invalid)?;
        Ok(Self {
            web: Arc::clone(web),
            endpoint,
            registration,
            path,
            action,
            parameters,
        })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(of, _)| of == name)
            .map(|(_, value)| value.as_str())
    }

    /// The notification attributes among the parameters; one without a value is to be unset.
    fn attributes(&self) -> Vec<String> {
        const OURS: [&str; 7] = [
            "format",
            "timeout",
            "replace",
            "active",
            "paths",
            "pathformat",
            "nodeformat",
        ];
        self.parameters
            .iter()
            .filter(|(name, _)| !OURS.contains(&name.as_str()))
            .map(|(name, value)| match value.as_str() {
                "" => name.clone(),
                value => format!("{name}={value}"),
            })
            .collect()
    }

    fn options(&self) -> Result<RequestOptions, Refused> {
        let content_format = self
            .parameter("format")
            .filter(|format| !format.is_empty())
            .map(str::parse)
            .transpose()
            .map_err(Refused::invalid)?;
        // Leshan takes its default where the parameter is no number.
        let timeout = self
            .parameter("timeout")
            .and_then(|seconds| seconds.parse::<i64>().ok())
            .map(|seconds| seconds.clamp(1, LONGEST_TIMEOUT_S).unsigned_abs())
            .map_or(TIMEOUT, Duration::from_secs);
        Ok(RequestOptions {
            timeout: Some(timeout),
            content_format,
            context: None,
        })
    }

    fn models(&self, web: &Web) -> Registry {
        specs::of(web.engine.models(), &self.registration)
    }

    fn wrong_method(&self, method: &str) -> Refused {
        let takes = match self.action {
            Action::Node => "GET, PUT, POST and DELETE",
            Action::Discover => "GET",
            Action::Attributes => "PUT",
            Action::Observe => "POST and DELETE",
        };
        Refused::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("this takes {takes}, not {method}"),
        )
    }

    async fn ask(&self, operation: Operation) -> Answer {
        let response = self.answer(operation.clone()).await?;
        if response.is_success() {
            self.remember(&operation, &response);
        }
        let json = shape::response(&response).map_err(|error| {
            failed(RequestFailure::InvalidResponse(format!(
                "its links: {error}"
            )))
        })?;
        Ok(Json(json).into_response())
    }

    /// Ends an observation. A passive cancel has no answer of the device to show.
    async fn cancel(&self, active: bool) -> Answer {
        let path = self.path;
        let response = self
            .answer(Operation::CancelObserve { path, active })
            .await?;
        self.web.values.unobserved(&self.endpoint, path);
        match (&response.body, active) {
            (Body::Cancelled(_), false) => Ok(StatusCode::OK.into_response()),
            (Body::Cancelled(_), true) => Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!(
                    "no observation for path {path} for client '{}'",
                    self.endpoint
                ),
            )),
            _ => match shape::response(&response) {
                Ok(json) => Ok(Json(json).into_response()),
                Err(error) => Err(failed(RequestFailure::InvalidResponse(error.to_string()))),
            },
        }
    }

    async fn answer(&self, operation: Operation) -> Result<DeviceResponse, Refused> {
        let options = self.options()?;
        self.web
            .engine
            .request(&self.endpoint, operation, options)
            .await
            .map_err(|error| match error {
                AskError::Refused(error) => refused(error),
                AskError::Failed(failure) => failed(failure),
                AskError::Stopping => {
                    Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
                }
            })
    }

    fn remember(&self, operation: &Operation, response: &DeviceResponse) {
        let values = &self.web.values;
        match (operation, &response.body) {
            (Operation::Read { path }, Body::Node(node)) => {
                values.seen(&self.endpoint, *path, node, unix_ms());
            }
            (Operation::Observe { path }, Body::Node(node)) => {
                values.seen(&self.endpoint, *path, node, unix_ms());
                values.observed(&self.endpoint, *path);
            }
            (Operation::Delete { path }, _) => values.deleted(&self.endpoint, *path),
            _ => {}
        }
    }
}

async fn registered(web: &Web, endpoint: &str) -> Result<Arc<Registration>, Refused> {
    web.engine
        .registration(endpoint)
        .await
        .ok_or_else(|| Refused::not_registered(endpoint))
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// A request that was not taken.
fn refused(error: RequestError) -> Refused {
    match error {
        RequestError::NotRegistered(endpoint) => Refused::not_registered(&endpoint),
        RequestError::TooManyPending { .. } => {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        RequestError::TooManyObservations { .. } => {
            Refused::new(StatusCode::CONFLICT, error.to_string())
        }
        RequestError::Invalid { .. } | RequestError::Encode(_) => Refused::invalid(error),
    }
}

/// A request that came to nothing, in Leshan's statuses and first words.
fn failed(failure: RequestFailure) -> Refused {
    let (status, word) = match &failure {
        RequestFailure::Timeout => {
            return Refused::new(StatusCode::GATEWAY_TIMEOUT, "Request timeout");
        }
        RequestFailure::NotSent(_) => (StatusCode::GATEWAY_TIMEOUT, "Request timeout"),
        RequestFailure::Reset => (StatusCode::INTERNAL_SERVER_ERROR, "Request rejected"),
        RequestFailure::Gone { .. } | RequestFailure::Cancelled { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "Request cancelled")
        }
        RequestFailure::InvalidResponse(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "Invalid Response")
        }
    };
    Refused::new(status, format!("{word}: {failure}"))
}
