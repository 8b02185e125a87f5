//! The REST interface, server-sent events and the page, as today's Leshan tools and those of 2018 expect them.
//!
//! | call | does |
//! |---|---|
//! | GET `/api/clients`, `/api/clients/<ep>` | registrations |
//! | GET `/api/clients/<ep>/<path>` | read |
//! | GET `/api/clients/<ep>/<path>/discover` | discover |
//! | PUT `/api/clients/<ep>/<path>?replace=` | write, the body JSON or text |
//! | PUT `/api/clients/<ep>/<path>/attributes?pmin=…` | write attributes |
//! | POST `/api/clients/<ep>/<o>/<i>/<r>` | execute, the body the arguments |
//! | POST `/api/clients/<ep>/<o>`, `/<o>/<i>` | create |
//! | DELETE `/api/clients/<ep>/<o>/<i>` | delete |
//! | POST, DELETE `/api/clients/<ep>/<path>/observe` | observe, cancel (`?active=true`: by telling the device) |
//! | GET `/api/objectspecs`, `/api/objectspecs/<ep>` | object models, all or a device's |
//! | GET `/api/server/endpoint` | where devices come to |
//! | GET `/api/event`, `/event` (`?ep=`) | server-sent events |
//! | GET `/api/clients/<ep>/values` | ours: the last values seen, and what is observed ([`last_values`]) |
//! | GET `/` | the page |
//!
//! Further parameters: `format` (default TLV) and `timeout` (seconds, default 5, 1 to 600). A device's answer is 200
//! with its code inside, failures too. What never became an answer is text: 400 for what is wrong about the request, 504
//! for a device that did not answer, 500 for an answer that can't be used, 503 where too much waits for the device
//! already, 409 where it has as many observations as it may. Bodies have 1 MiB at most (413).
//!
//! Not as with Leshan, on purpose: an unknown `format` is refused instead of passed over; `active=false` is a passive
//! cancel; an IPv6 address stands in brackets before its port; bodies without a content type of use are taken for what
//! they look like, and types may be left out (that is the dialect of 2018).

mod body;
mod clients;
mod events;
mod last_values;
mod listener;
mod page;
mod shape;
mod specs;
mod value;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use service::CancellationToken;
use tokio::net::TcpListener;

use crate::engine::Engine;
use events::Events;
use last_values::Values;
use listener::Bounded;

/// The most bytes of a request's body.
const BODY_LIMIT: usize = 1024 * 1024;
/// The most connections at one time; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long requests on their way may take to finish once the server is stopping.
const DRAIN: Duration = Duration::from_secs(5);

/// What the handlers share.
struct Web {
    engine: Engine,
    values: Values,
    events: Events,
    coap: Option<SocketAddr>,
    shutdown: CancellationToken,
}

/// Where the interface is served, and where devices come to, if that is known.
pub(crate) struct Listening {
    web: TcpListener,
    coap: Option<SocketAddr>,
}

impl From<TcpListener> for Listening {
    fn from(web: TcpListener) -> Self {
        Self { web, coap: None }
    }
}

impl From<(TcpListener, SocketAddr)> for Listening {
    fn from((web, coap): (TcpListener, SocketAddr)) -> Self {
        let coap = Some(coap);
        Self { web, coap }
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(
    listening: impl Into<Listening>,
    engine: Engine,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Listening { web, coap } = listening.into();
    let listener = Bounded::new(web, CONNECTIONS);
    let web = Arc::new(Web {
        engine,
        values: Values::default(),
        events: Events::default(),
        coap,
        shutdown: shutdown.clone(),
    });
    let serving = axum::serve(listener, routes(Arc::clone(&web)))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served?,
        // Somebody who does not read an answer must not keep the server from stopping.
        () = drained => {}
        () = events::follow(&web) => {}
    }
    Ok(())
}

fn routes(web: Arc<Web>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/api/clients", get(clients::list))
        .route("/api/clients/{endpoint}", get(clients::one))
        .route("/api/clients/{endpoint}/", get(clients::one))
        .route("/api/clients/{endpoint}/values", get(clients::values))
        .route(
            "/api/clients/{endpoint}/{*target}",
            get(clients::get)
                .put(clients::put)
                .post(clients::post)
                .delete(clients::delete),
        )
        .route("/api/objectspecs", get(specs::all))
        .route("/api/objectspecs/{endpoint}", get(specs::of_device))
        .route("/api/server/endpoint", get(server_endpoint))
        .route("/api/event", get(events::watch))
        .route("/event", get(events::watch))
        .fallback(|uri: Uri| async move {
            let path: String = uri.path().chars().take(200).collect();
            Refused::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing at {path}: the interface is below /api, the page at /"),
            )
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(guard))
        .with_state(web)
}

/// GET `/api/server/endpoint`.
async fn server_endpoint(State(web): State<Arc<Web>>) -> Json<Vec<Value>> {
    Json(web.coap.map(coap_endpoint).into_iter().collect())
}

/// The server's own address in the form that Leshan names its endpoints in.
fn coap_endpoint(address: SocketAddr) -> Value {
    let host = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    json!({
        "uri": {
            "full": format!("coap://{address}"),
            "scheme": "coap",
            "host": host,
            "port": address.port(),
        },
        "description": "CoAP over UDP",
    })
}

/// Why there is no answer of a device, as text for whoever asked.
struct Refused {
    status: StatusCode,
    reason: String,
}

impl Refused {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { status, reason }
    }

    /// Leshan's words for a request that makes no sense.
    fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("Invalid request: {reason}"),
        )
    }

    /// Leshan's words for an endpoint that is not registered.
    fn not_registered(endpoint: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("No registered client with id '{endpoint}'"),
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, self.reason).into_response()
    }
}

/// What holds for every answer; and no page of another site may change anything: a browser says where a request comes
/// from, and until there is authentication anybody's page could otherwise reboot the devices of whoever looks at it.
async fn guard(request: Request, next: Next) -> Response {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let mut response = if reads || same_origin(request.headers()) {
        next.run(request).await
    } else {
        Refused::new(
            StatusCode::FORBIDDEN,
            "pages of another origin can't change anything here",
        )
        .into_response()
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Values change; a cached one would be a wrong one.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a request comes from the server's own page, or from no page at all.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_where_devices_come_to() {
        assert_eq!(
            coap_endpoint(SocketAddr::from(([127, 0, 0, 1], 5683))),
            json!({
                "uri": {"full": "coap://127.0.0.1:5683", "scheme": "coap", "host": "127.0.0.1", "port": 5683},
                "description": "CoAP over UDP",
            })
        );
        let any = coap_endpoint("[::]:5683".parse().unwrap());
        assert_eq!(any["uri"]["full"], "coap://[::]:5683");
        assert_eq!(any["uri"]["host"], "[::]");
    }
}
