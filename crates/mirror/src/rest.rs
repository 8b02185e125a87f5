//! Status, pause and resume of a flow.
//!
//! ```text
//! GET  /status          what is carried, how, how far behind, and what is wrong
//! PUT  /pause /resume   (POST as well) answers as /status does; a pause ends with the process
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use parking_lot::RwLock;
use serde_json::{Value, json};
use service::auth::Role;

use crate::state::{Shared, now_ms};

/// The flow as it runs now; `None` until both clusters first answered.
pub(crate) type Current = Arc<RwLock<Option<Arc<Shared>>>>;

pub(crate) fn routes(current: Current) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/pause", put(pause).post(pause))
        .route("/resume", put(resume).post(resume))
        .with_state(current)
}

/// Who may only look does not pause a flow.
pub(crate) fn policy(method: &Method, _path: &str) -> Option<Role> {
    Some(Role::to_call(method))
}

/// A refusal of the gate.
pub(crate) fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

async fn status(State(current): State<Current>) -> Response {
    with(&current, |_| {})
}

async fn pause(State(current): State<Current>) -> Response {
    with(&current, |shared| {
        shared.switches.pause(true);
        tracing::info!(flow = shared.flow.name, "paused");
    })
}

async fn resume(State(current): State<Current>) -> Response {
    with(&current, |shared| {
        shared.switches.pause(false);
        tracing::info!(flow = shared.flow.name, "resumed");
    })
}

fn with(current: &Current, change: impl FnOnce(&Shared)) -> Response {
    let shared = current.read().clone();
    match shared {
        Some(shared) => {
            change(&shared);
            Json(describe(&shared)).into_response()
        }
        None => {
            let starting = Json(json!({"state": "starting"}));
            (StatusCode::SERVICE_UNAVAILABLE, starting).into_response()
        }
    }
}

fn describe(shared: &Shared) -> Value {
    let (now, now_ms) = (Instant::now(), now_ms());
    let failing: Vec<String> = [&shared.flow_health, &shared.target_health]
        .iter()
        .flat_map(|health| health.all())
        .collect();
    let state = match (shared.switches.paused(), failing.is_empty()) {
        (true, _) => "paused",
        (false, true) => "running",
        (false, false) => "waiting",
    };
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    for ((topic, _), partition) in shared.partitions.lock().iter() {
        use std::sync::atomic::Ordering::Relaxed;
        let sum = topics.entry(topic.clone()).or_default();
        sum.partitions += 1;
        sum.prompt = partition.prompt;
        sum.lag_records += partition.lag_records();
        sum.lag_seconds = sum
            .lag_seconds
            .max(partition.lag(now, now_ms).as_secs_f64());
        sum.copied += partition.copied.load(Relaxed);
        sum.dropped += partition.dropped.load(Relaxed);
        sum.last_timestamp_ms = sum.last_timestamp_ms.max(partition.last_ms());
    }
    let topics: Vec<Value> = topics
        .into_iter()
        .map(|(name, sum)| {
            json!({
                "topic": name,
                "partitions": sum.partitions,
                "priority": sum.prompt,
                "lag_records": sum.lag_records,
                "lag_seconds": sum.lag_seconds,
                "copied": sum.copied,
                "dropped": sum.dropped,
                "last_timestamp_ms": sum.last_timestamp_ms,
            })
        })
        .collect();
    let bandwidth = shared.bandwidth.as_ref().map(|cap| cap.bytes_per_s());
    json!({
        "flow": shared.flow.name,
        "state": state,
        "delivery": shared.delivery().as_str(),
        "source": {"bootstrap": shared.source.bootstrap(), "cluster": shared.source_id},
        "target": {"bootstrap": shared.target.bootstrap(), "cluster": shared.target_id},
        "instance": shared.instance,
        "compression": shared.flow.compression,
        "bandwidth_limit": bandwidth,
        "failing": failing,
        "topics": topics,
    })
}

/// All partitions of a topic together.
#[derive(Default)]
struct Topic {
    partitions: usize,
    prompt: bool,
    lag_records: i64,
    lag_seconds: f64,
    copied: u64,
    dropped: u64,
    last_timestamp_ms: Option<i64>,
}
