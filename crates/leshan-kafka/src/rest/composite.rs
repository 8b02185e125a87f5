//! Composite operations of LwM2M 1.1: several paths in one exchange.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method};
use lwm2m::Operation;
use lwm2m::server::RequestOptions;
use lwm2m_model::{Node, ObjectPath, Registry};
use serde_json::Value as Json;

use super::clients::registered;
use super::device::{Answer, Parameters, cancelled};
use super::request::{Asked, Request, Said, Verb};
use super::{Refused, Web, body, queue};

/// The most paths of a call; devices take far fewer (Zephyr six).
const PATHS: usize = 256;

/// What stands in the place of a path.
const TARGET: &str = "composite";
const OBSERVED: &str = "composite/observe";

/// Whether a target is that of a composite operation.
pub(super) fn is(target: &str) -> bool {
    matches!(target, TARGET | OBSERVED)
}

/// GET `/api/clients/<ep>/composite?paths=`, and PUT, whose body has a node by each path.
pub(super) async fn call(
    State(web): State<Arc<Web>>,
    Path(endpoint): Path<String>,
    method: Method,
    Query(parameters): Parameters,
    headers: HeaderMap,
    payload: Bytes,
) -> Answer {
    let request = Request::new(Verb::of(&method), TARGET, parameters);
    queue::ask(&web, &endpoint, request.with_body(&headers, payload)).await
}

/// POST `/api/clients/<ep>/composite/observe?paths=`.
pub(super) async fn observe(
    State(web): State<Arc<Web>>,
    Path(endpoint): Path<String>,
    Query(parameters): Parameters,
) -> Answer {
    let request = Request::new(Verb::Post, OBSERVED, parameters);
    queue::ask(&web, &endpoint, request).await
}

/// What a composite call asks for.
pub(super) fn read_request(
    request: &Request,
    models: &dyn Fn() -> Registry,
) -> Result<Asked, Refused> {
    let operation = match request.verb {
        Verb::Get => Operation::ReadComposite {
            paths: apart(paths(&request.said)?)?,
        },
        Verb::Post => Operation::ObserveComposite {
            paths: apart(paths(&request.said)?)?,
        },
        Verb::Put | Verb::Delete => Operation::WriteComposite {
            nodes: nodes(&request.body, &models())?,
        },
    };
    let options = options(&request.said)?;
    Ok(Asked { operation, options })
}

fn nodes(body: &[u8], models: &Registry) -> Result<BTreeMap<ObjectPath, Node>, Refused> {
    let json: Json = serde_json::from_slice(body)
        .map_err(|error| Refused::invalid(format_args!("the body is not JSON: {error}")))?;
    let Json::Object(members) = &json else {
        return Err(Refused::invalid(
            "a composite write needs an object of nodes by their paths, such as {\"/3/0/15\":{\"id\":15,\"value\":\"UTC\"}}",
        ));
    };
    let mut nodes: BTreeMap<ObjectPath, Node> = BTreeMap::new();
    for (path, json) in members {
        let path = parse(path)?;
        let node = body::json_to_write(json, path, models).map_err(Refused::invalid)?;
        if nodes.insert(path, node).is_some() {
            return Err(Refused::invalid(format_args!(
                "{path} stands in the body twice"
            )));
        }
    }
    within(nodes.len())?;
    apart(nodes.keys().copied().collect())?;
    Ok(nodes)
}

/// DELETE `/api/clients/<ep>/composite/observe?paths=`: exactly this list, in any order.
pub(super) async fn cancel(
    State(web): State<Arc<Web>>,
    Path(endpoint): Path<String>,
    Query(parameters): Parameters,
) -> Answer {
    let said = Said(parameters);
    let registration = registered(&web, &endpoint).await?;
    let (paths, active) = (paths(&said)?, said.active());
    let named: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let operation = Operation::CancelObserveComposite { paths, active };
    let response = web
        .engine
        .request(&registration.endpoint, operation, options(&said)?)
        .await?;
    cancelled(&response, active, || {
        format!(
            "no composite observation for paths [{}] for client '{endpoint}'",
            named.join(", ")
        )
    })
}

fn options(said: &Said) -> Result<RequestOptions, Refused> {
    Ok(RequestOptions {
        content_format: said.format("nodeformat")?,
        list_format: said.format("pathformat")?,
        ..said.options()
    })
}

/// `paths=/3/0/0,/3303/0/5700`.
fn paths(said: &Said) -> Result<Vec<ObjectPath>, Refused> {
    let Some(list) = said.get("paths").filter(|list| !list.is_empty()) else {
        return Err(Refused::invalid(
            "the parameter paths is missing, such as paths=/3/0/0,/3303/0/5700",
        ));
    };
    let paths: Vec<ObjectPath> = list.split(',').map(parse).collect::<Result<_, _>>()?;
    within(paths.len())?;
    Ok(paths)
}

/// The same paths, where none is part of another: whose value of the answer's would it be?
fn apart(paths: Vec<ObjectPath>) -> Result<Vec<ObjectPath>, Refused> {
    // Whatever is below a path comes right behind it.
    let mut in_order: Vec<&ObjectPath> = paths.iter().collect();
    in_order.sort_unstable();
    let overlap = in_order.windows(2).find(|two| two[0].contains(two[1]));
    match overlap {
        None => Ok(paths),
        Some(two) => Err(Refused::invalid(format_args!(
            "Invalid path list : {} and {} are overlapped paths",
            two[0], two[1]
        ))),
    }
}

fn parse(path: &str) -> Result<ObjectPath, Refused> {
    path.trim()
        .parse()
        .map_err(|error| Refused::invalid(format_args!("{path:?}: {error}")))
}

fn within(paths: usize) -> Result<(), Refused> {
    match paths {
        1..=PATHS => Ok(()),
        _ => Err(Refused::invalid(format_args!("name 1 to {PATHS} paths"))),
    }
}
