//! Devices as they are registered.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use lwm2m::Registration;
use lwm2m::server::Presence;

use super::{Refused, Web, shape};

/// Registrations written at a time.
const CHUNK: usize = 256;

type Answer = Result<Response, Refused>;

/// GET `/api/clients`. Written bit by bit: with a hundred thousand devices the whole is some 60 MB.
pub(super) async fn list(State(web): State<Arc<Web>>) -> Response {
    let registrations = web.engine.registrations().await;
    let sleepers = web.events.sleepers();
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
            let sleeps = sleepers.contains(&registration.endpoint);
            text.push_str(&shape::registration(registration, sleeps).to_string());
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
    let sleeps = sleeps(&web, &registration).await;
    Ok(Json(shape::registration(&registration, sleeps)).into_response())
}

/// GET `/api/clients/<ep>/values`.
pub(super) async fn values(State(web): State<Arc<Web>>, Path(endpoint): Path<String>) -> Answer {
    registered(&web, &endpoint).await?;
    let observations = web.engine.observations(&endpoint).await;
    let targets = observations.iter().map(|observation| &observation.target);
    Ok(Json(web.values.of(&endpoint, targets)).into_response())
}

pub(super) async fn registered(web: &Web, endpoint: &str) -> Result<Arc<Registration>, Refused> {
    web.engine
        .registration(endpoint)
        .await
        .ok_or_else(|| Refused::not_registered(endpoint))
}

/// Whether a device sleeps at this moment; asked only of those that do at all.
pub(super) async fn sleeps(web: &Web, registration: &Registration) -> bool {
    if !registration.binding.queue {
        return false;
    }
    let listens = web.engine.listens(&registration.endpoint).await;
    listens.is_some_and(|listens| listens.presence == Some(Presence::Asleep))
}
