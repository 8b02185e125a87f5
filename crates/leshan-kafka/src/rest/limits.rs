//! What bodies may cost: each in bytes and time, and all together in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::Refused;
use super::routes::policy;

/// The most bytes of a request's body. Where nobody has to say who they are it is one piece: strangers who send nothing
/// must not take the room of those who are known.
const BODY: usize = 1024 * 1024;
/// The most bytes of all bodies at one time, in pieces of which each body takes what it says it is long.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 1_024;
/// How long a body may take to come in, and to wait for its room.
const COMING_IN: Duration = Duration::from_secs(20);
const WAITING: Duration = Duration::from_secs(5);

/// The room for bodies: 16 MiB.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PIECES)))
    }
}

/// Takes in a request's body, within its bounds.
pub(super) async fn take_in(
    State(bodies): State<Bodies>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let most = match policy(request.method(), request.uri().path()) {
        Some(_) => BODY,
        None => PIECE,
    };
    let length = match request.body().size_hint().exact() {
        Some(length) if length > most as u64 => return too_large(most),
        Some(length) => usize::try_from(length).unwrap_or(most),
        // In chunks: it may be as long as it may.
        None => most,
    };
    let pieces = u32::try_from(length.div_ceil(PIECE)).unwrap_or(u32::MAX);
    let waiting = tokio::time::timeout(WAITING, bodies.0.acquire_many(pieces)).await;
    let Ok(Ok(_room)) = waiting else {
        return refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is being sent here at this moment: try again later",
        );
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = tokio::time::timeout(COMING_IN, to_bytes(body, most)).await else {
        return refused(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in within 20 s",
        );
    };
    match body {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        // Longer than it may be, or cut off; to the latter nobody listens.
        Err(_) => too_large(most),
    }
}

fn too_large(most: usize) -> Response {
    let reason = format!("the body is longer than {} KiB", most / 1024);
    refused(StatusCode::PAYLOAD_TOO_LARGE, &reason)
}

fn refused(status: StatusCode, reason: &str) -> Response {
    Refused::new(status, reason).into_response()
}
