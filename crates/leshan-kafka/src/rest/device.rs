//! What is asked of a device about one path: the calls of its tree.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use lwm2m::server::RequestOptions;
use lwm2m::{Body, DeviceResponse, Operation, RequestFailure, WriteMode};
use lwm2m_codec::ContentFormat;
use lwm2m_model::{ObjectPath, Registry};

use super::clients::registered;
use super::request::{Asked, Request, Verb};
use super::{Refused, Web, body, queue, shape};
use crate::bridge::unix_ms;

pub(super) type Parameters = Query<Vec<(String, String)>>;
pub(super) type Answer = Result<Response, Refused>;

/// One kind of call: on how deep a path, and by which methods.
pub(super) struct Ways {
    /// How many ids the path has, from 1 to 4.
    pub(super) ids: usize,
    pub(super) action: Action,
    /// In lower case, as OpenAPI has them.
    pub(super) methods: &'static [&'static str],
}

/// The calls of a device's tree, as the OpenAPI document has them. What is not here is refused.
pub(super) const CALLS: &[Ways] = &[
    Ways::new(1, Action::Node, &["get", "post"]),
    Ways::new(2, Action::Node, &["get", "put", "post", "delete"]),
    Ways::new(3, Action::Node, &["get", "put", "post"]),
    Ways::new(4, Action::Node, &["get", "put", "delete"]),
    Ways::new(1, Action::Discover, &["get"]),
    Ways::new(2, Action::Discover, &["get"]),
    Ways::new(3, Action::Discover, &["get"]),
    Ways::new(1, Action::Attributes, &["put"]),
    Ways::new(2, Action::Attributes, &["put"]),
    Ways::new(3, Action::Attributes, &["put"]),
    Ways::new(4, Action::Attributes, &["put"]),
    Ways::new(1, Action::Observe, &["post", "delete"]),
    Ways::new(2, Action::Observe, &["post", "delete"]),
    Ways::new(3, Action::Observe, &["post", "delete"]),
    Ways::new(4, Action::Observe, &["post", "delete"]),
];

impl Ways {
    const fn new(ids: usize, action: Action, methods: &'static [&'static str]) -> Self {
        Self {
            ids,
            action,
            methods,
        }
    }

    /// The path with its parameters, as OpenAPI writes it.
    #[cfg(test)]
    pub(super) fn template(&self) -> String {
        const IDS: [&str; 4] = ["object", "instance", "resource", "resourceInstance"];
        let mut path = "/api/clients/{endpoint}".to_owned();
        for id in &IDS[..self.ids] {
            path.push_str(&format!("/{{{id}}}"));
        }
        if self.action != Action::Node {
            path.push('/');
            path.push_str(self.action.word());
        }
        path
    }
}

/// GET: read, discover. PUT: write, write attributes. POST: execute, create, observe. DELETE: delete, cancel an
/// observation.
pub(super) async fn call(
    State(web): State<Arc<Web>>,
    Path((endpoint, target)): Path<(String, String)>,
    method: Method,
    Query(parameters): Parameters,
    headers: HeaderMap,
    payload: Bytes,
) -> Answer {
    let request = Request::new(Verb::of(&method), &target, parameters);
    match (request.verb, Place::of(&request.target)) {
        (Verb::Delete, Ok(place)) if place.action == Action::Observe => {
            cancel(&web, &endpoint, place.path, &request).await
        }
        _ => queue::ask(&web, &endpoint, request.with_body(&headers, payload)).await,
    }
}

/// What the last part of a target says; a path alone names a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Node,
    Discover,
    Attributes,
    Observe,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Node => "",
            Self::Discover => "discover",
            Self::Attributes => "attributes",
            Self::Observe => "observe",
        }
    }
}

/// What a target names.
struct Place {
    path: ObjectPath,
    action: Action,
}

impl Place {
    fn of(target: &str) -> Result<Self, Refused> {
        let (before, last) = target.rsplit_once('/').unwrap_or(("", target));
        let action = [Action::Discover, Action::Attributes, Action::Observe]
            .into_iter()
            .find(|action| action.word() == last);
        let (path, action) = match action {
            Some(action) => (before, action),
            None => (target, Action::Node),
        };
        let path = path.parse().map_err(Refused::invalid)?;
        Ok(Self { path, action })
    }
}

/// What a call of the tree asks for.
pub(super) fn read_request(
    request: &Request,
    models: &dyn Fn() -> Registry,
) -> Result<Asked, Refused> {
    let Place { path, action } = Place::of(&request.target)?;
    check(path, action, request.verb.as_str())?;
    let options = RequestOptions {
        content_format: request.said.format("format")?,
        ..request.said.options()
    };
    let kind = request.content_type.as_deref();
    let operation = match (action, request.verb) {
        (Action::Discover, _) => Operation::Discover { path },
        (Action::Observe, _) => Operation::Observe { path },
        (Action::Attributes, _) => Operation::WriteAttributes {
            path,
            attributes: request.said.attributes(),
        },
        (Action::Node, Verb::Get) => Operation::Read { path },
        (Action::Node, Verb::Delete) => Operation::Delete { path },
        (Action::Node, Verb::Put) => {
            let text = options.content_format == Some(ContentFormat::Text);
            let node = body::to_write(&request.body, kind, text, path, &models())
                .map_err(Refused::invalid)?;
            // As Leshan reads it: anything but "true" is false.
            let replace = request.said.get("replace");
            let replace = replace.is_none_or(|replace| replace.eq_ignore_ascii_case("true"));
            let mode = if replace {
                WriteMode::Replace
            } else {
                WriteMode::Update
            };
            Operation::Write { path, mode, node }
        }
        (Action::Node, Verb::Post) if path.depth() == 3 => {
            let arguments = String::from_utf8(request.body.clone())
                .map_err(|_| Refused::invalid("the arguments are not UTF-8 text"))?;
            Operation::Execute { path, arguments }
        }
        (Action::Node, Verb::Post) => {
            let node =
                body::to_create(&request.body, kind, path, &models()).map_err(Refused::invalid)?;
            Operation::Create { path, node }
        }
    };
    Ok(Asked { operation, options })
}

/// Ends an observation. A passive cancel has no answer of the device to show.
async fn cancel(web: &Web, endpoint: &str, path: ObjectPath, request: &Request) -> Answer {
    registered(web, endpoint).await?;
    check(path, Action::Observe, request.verb.as_str())?;
    let (said, active) = (&request.said, request.said.active());
    let options = RequestOptions {
        content_format: said.format("format")?,
        ..said.options()
    };
    let operation = Operation::CancelObserve { path, active };
    let response = web.engine.request(endpoint, operation, options).await?;
    cancelled(&response, active, || {
        format!("no observation for path {path} for client '{endpoint}'")
    })
}

/// Whether there is such a call.
fn check(path: ObjectPath, action: Action, method: &'static str) -> Result<(), Refused> {
    let of_action = || CALLS.iter().filter(|call| call.action == action);
    if of_action().any(|call| call.ids == path.depth() && call.methods.contains(&method)) {
        return Ok(());
    }
    if of_action().any(|call| call.methods.contains(&method)) {
        let what = match (action, method) {
            (Action::Node, "get") => "name an object, an instance or a resource to read",
            (Action::Node, "put") => "a write needs an instance, a resource or a resource instance",
            (Action::Node, "post") => {
                "POST executes a resource, or creates an instance of an object"
            }
            (Action::Node, _) => "only an instance or a resource instance can be deleted",
            (Action::Discover, _) => "name an object, an instance or a resource to discover",
            (Action::Attributes, _) => "attributes stand at an object, an instance or a resource",
            (Action::Observe, _) => "name an object, an instance or a resource to observe",
        };
        return Err(Refused::invalid(format_args!("{path}: {what}")));
    }
    let mut takes: Vec<String> = of_action()
        .flat_map(|call| call.methods)
        .map(|method| method.to_ascii_uppercase())
        .collect();
    takes.sort();
    takes.dedup();
    Err(Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this takes {}", takes.join(", ")),
    ))
}

/// The answer to the end of an observation.
pub(super) fn cancelled(
    response: &DeviceResponse,
    active: bool,
    none: impl Fn() -> String,
) -> Answer {
    match (&response.body, active) {
        (Body::Cancelled(_), false) => Ok(StatusCode::OK.into_response()),
        (Body::Cancelled(_), true) => Err(Refused::new(StatusCode::NOT_FOUND, none())),
        _ => Ok(Json(answered(response)?).into_response()),
    }
}

/// A device's answer as JSON.
pub(super) fn answered(response: &DeviceResponse) -> Result<serde_json::Value, Refused> {
    shape::response(response)
        .map_err(|error| RequestFailure::InvalidResponse(format!("its links: {error}")).into())
}

/// What an answer shows is remembered for those who look later.
pub(super) fn remember(
    web: &Web,
    endpoint: &str,
    operation: &Operation,
    response: &DeviceResponse,
) {
    if !response.is_success() {
        return;
    }
    let values = &web.values;
    match (operation, &response.body) {
        (Operation::Read { path } | Operation::Observe { path }, Body::Node(node)) => {
            values.seen(endpoint, *path, node, unix_ms());
        }
        (_, Body::Nodes(nodes)) => {
            for (path, node) in nodes {
                values.seen(endpoint, *path, node, unix_ms());
            }
        }
        (Operation::Delete { path }, _) => values.deleted(endpoint, *path),
        _ => {}
    }
}
