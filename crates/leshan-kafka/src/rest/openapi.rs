//! The interface's description in OpenAPI 3.1. It is written by hand; tests hold it against the routes, what is answered
//! over HTTP, and Leshan's recorded answers.

use axum::http::header;
use axum::response::IntoResponse;

pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// GET `/api/openapi.json`.
pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
