//! The admin listener: `/metrics`, `/livez`, `/readyz`, and what a service adds.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::TextEncoder;
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::tls::{self, Listener, ServerTls};
use crate::{CancellationToken, Health};

/// The most connections of the admin listener at a time.
const CONNECTIONS: usize = 64;

/// Routes that a service adds to its admin listener while it starts.
#[derive(Clone, Default)]
pub struct AdminRoutes(Arc<RwLock<Router>>);

impl AdminRoutes {
    /// Adds a service's own routes.
    pub fn merge(&self, routes: Router) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *all = std::mem::take(&mut *all).merge(routes);
    }

    fn current(&self) -> Router {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Clone)]
struct AdminState {
    health: Health,
    routes: AdminRoutes,
}

/// Binds the admin listener and serves it until `shutdown`; returns the address it got.
pub(crate) async fn serve(
    (listen, tls): (SocketAddr, Option<ServerTls>),
    health: Health,
    routes: AdminRoutes,
    shutdown: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let tcp = bind(listen, "--admin-listen").await?;
    let listener = Listener::new(tcp, tls, CONNECTIONS)?;
    let address = listener.address();
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .fallback(added)
        .with_state(AdminState { health, routes });
    tokio::spawn(async move {
        let stopped = shutdown.cancelled_owned();
        if let Err(error) = axum::serve(listener, app)
            .with_graceful_shutdown(stopped)
            .await
        {
            tracing::error!(%error, "the admin listener stopped");
        }
    });
    Ok(address)
}

/// Binds a TCP listener, with an error that names the option to change.
pub async fn bind(listen: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| {
        format!("can't listen on {listen}; free that port or choose another with {option}")
    })
}

async fn metrics() -> Response {
    match TextEncoder::new().encode_to_string(&prometheus::gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let failing = state.health.failing();
    // Warnings are no reason to be restarted or left out: with the certificates from before all works.
    let warnings = tls::warnings();
    let mut body = json!({ "ready": failing.is_empty() });
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    if failing.is_empty() {
        Json(body).into_response()
    } else {
        body["failing"] = json!(failing);
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}

async fn added(State(state): State<AdminState>, request: Request) -> Response {
    match state.routes.current().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
