//! Which path and method is which handler, and who may.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::{Value, json};
use service::auth::{Gate, Protection, Role};

use super::{
    DeviceEndpoint, Refused, Web, clients, composite, device, events, limits, openapi, page, queue,
    security, specs,
};

/// Every path but those of a device's tree, with its handlers. They are the paths of the OpenAPI document.
fn fixed() -> Vec<(&'static str, MethodRouter<Arc<Web>>)> {
    vec![
        ("/api/clients", get(clients::list)),
        ("/api/clients/{endpoint}", get(clients::one)),
        ("/api/clients/{endpoint}/values", get(clients::values)),
        (
            "/api/clients/{endpoint}/composite",
            get(composite::call).put(composite::call),
        ),
        (
            "/api/clients/{endpoint}/composite/observe",
            post(composite::observe).delete(composite::cancel),
        ),
        (
            "/api/clients/{endpoint}/queue",
            get(queue::show).put(queue::set),
        ),
        (
            "/api/clients/{endpoint}/queue/{request}",
            delete(queue::cancel),
        ),
        ("/api/objectspecs", get(specs::all)),
        ("/api/objectspecs/{endpoint}", get(specs::of_device)),
        (
            "/api/security/clients",
            get(security::list).put(security::put),
        ),
        ("/api/security/clients/{endpoint}", delete(security::delete)),
        ("/api/security/server", get(security::server)),
        ("/api/server/endpoint", get(server_endpoint)),
        ("/api/server/security", get(security::server)),
        ("/api/event", get(events::watch)),
        ("/event", get(events::watch)),
        ("/api/openapi.json", get(openapi::document)),
    ]
}

/// The interface with its gate.
pub(super) fn app(web: &Arc<Web>, gate: &Gate, protection: Protection) -> Router {
    let routes = fixed()
        .into_iter()
        .fold(Router::new(), |router, (path, handlers)| {
            router.route(path, handlers)
        })
        .route("/", get(page::page))
        // With the slash at the end that Leshan's own page writes.
        .route("/api/clients/", get(clients::list))
        .route("/api/clients/{endpoint}/", get(clients::one))
        .route(
            "/api/security/clients/",
            get(security::list).put(security::put),
        )
        // A device's tree: `device` has its calls.
        .route(
            "/api/clients/{endpoint}/{*target}",
            get(device::call)
                .put(device::call)
                .post(device::call)
                .delete(device::call),
        )
        .fallback(nothing)
        .method_not_allowed_fallback(no_such_method)
        .with_state(Arc::clone(web))
        .merge(gate.session_routes(protection));
    // A body is taken in only of those who may come in. It has its bound there, so axum's own is off.
    let routes = routes
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(
            limits::Bodies::default(),
            limits::take_in,
        ));
    gate.protect(routes, protection)
}

/// What takes which role. The page and the document have nothing of this server's devices in them.
pub(super) fn policy(method: &Method, path: &str) -> Option<Role> {
    match path {
        "/" | "/api/openapi.json" | "/api/session" => None,
        _ if path.starts_with("/api/security") => Some(Role::Admin),
        _ => Some(Role::to_call(method)),
    }
}

/// A refusal of the gate.
pub(super) fn refuse(status: StatusCode, reason: &str) -> Response {
    Refused::new(status, reason).into_response()
}

async fn nothing(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(200).collect();
    Refused::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is nothing at {path}: the interface is below /api (see /api/openapi.json), the page at /"
        ),
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(200).collect();
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path} does not take {method} (see /api/openapi.json)"),
    )
}

/// GET `/api/server/endpoint`.
async fn server_endpoint(State(web): State<Arc<Web>>) -> Json<Vec<Value>> {
    Json(web.endpoints.iter().map(endpoint).collect())
}

/// One of the server's own addresses in the form that Leshan names its endpoints in.
fn endpoint(endpoint: &DeviceEndpoint) -> Value {
    let DeviceEndpoint {
        scheme,
        address,
        description,
    } = endpoint;
    let host = match address {
        std::net::SocketAddr::V4(v4) => v4.ip().to_string(),
        std::net::SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    json!({
        "uri": {
            "full": format!("{scheme}://{address}"),
            "scheme": scheme,
            "host": host,
            "port": address.port(),
        },
        "description": description,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_server_says_where_devices_come_to() {
        let at = |scheme, address: &str| {
            endpoint(&DeviceEndpoint {
                scheme,
                address: address.parse().unwrap(),
                description: "CoAP over UDP",
            })
        };
        assert_eq!(
            at("coap", "127.0.0.1:5683"),
            json!({
                "uri": {"full": "coap://127.0.0.1:5683", "scheme": "coap", "host": "127.0.0.1", "port": 5683},
                "description": "CoAP over UDP",
            })
        );
        let any = at("coaps", "[::]:5684");
        assert_eq!(any["uri"]["full"], "coaps://[::]:5684");
        assert_eq!(any["uri"]["host"], "[::]");
    }

    #[test]
    fn the_document_has_every_path_and_no_other() {
        let served: BTreeSet<String> = fixed()
            .into_iter()
            .map(|(path, _)| path.to_owned())
            .chain(device::CALLS.iter().map(|call| call.template()))
            .chain(["/api/session".to_owned()])
            .collect();
        let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
        let said: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(served, said);
        for call in device::CALLS {
            let said = document["paths"][call.template()].as_object().unwrap();
            let said: BTreeSet<&str> = said
                .keys()
                .map(String::as_str)
                .filter(|name| *name != "parameters")
                .collect();
            let methods: BTreeSet<&str> = call.methods.iter().copied().collect();
            assert_eq!(said, methods, "{}", call.template());
        }
    }

    #[test]
    fn credentials_are_for_admins_and_devices_for_operators() {
        let role = |method, path| policy(&method, path);
        assert_eq!(role(Method::GET, "/"), None);
        assert_eq!(role(Method::GET, "/api/clients"), Some(Role::Read));
        assert_eq!(role(Method::GET, "/api/clients/d/3/0/0"), Some(Role::Read));
        assert_eq!(role(Method::HEAD, "/event"), Some(Role::Read));
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
            let here = role(method, "/api/clients/d/3/0/0");
            assert_eq!(here, Some(Role::Operate));
        }
        for path in [
            "/api/security/clients",
            "/api/security/server",
            "/api/security/clients/",
        ] {
            assert_eq!(role(Method::GET, path), Some(Role::Admin));
        }
    }
}
