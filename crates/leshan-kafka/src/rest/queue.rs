//! Requests that wait for devices in queue mode, and how long such a device listens.
//!
//! A call for a device that sleeps is answered at once, in Leshan's form: `{"ep", "path", "requestId", "delayed": true}`.
//! It goes to the device when that is next heard of, and what became of it is told as the event `REQUEST_RESPONSE`. It
//! waits for `expires` seconds, a day by default and a week at most, over restarts too ([`kept`](super::kept)). At most
//! [`OF_DEVICE`] calls wait for a device, and [`OF_ALL`] or [`BYTES`] for all.
//!
//! Ours: GET `/api/clients/<ep>/queue` shows these and the ones from Kafka with the device's state, PUT sets its awake
//! window, DELETE `/api/clients/<ep>/queue/<id>` takes a request out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use lwm2m::server::Presence;
use lwm2m::{Operation, RequestFailure, Target};
use records::RequestKind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::clients::{registered, sleeps};
use super::device::{Answer, answered, remember};
use super::kept::{KeepError, Kept, Row};
use super::request::{Asked, Request};
use super::{Refused, Web};
use crate::bridge::unix_ms;
use crate::engine::AskError;

/// The most calls that wait for one device.
const OF_DEVICE: usize = 32;
/// The most calls that wait.
const OF_ALL: usize = 10_000;
/// The most bytes of calls that wait.
const BYTES: usize = 32 * 1024 * 1024;
/// What their numbers begin with, other than those of Kafka's requests.
const REST: &str = "rest-";
/// How long a call waits where it does not say, and at most.
const WAITS_S: i64 = 24 * 3_600;
const WAITS_AT_MOST_S: i64 = 7 * 24 * 3_600;
/// The longest awake window that may be set: a day.
const LONGEST_WINDOW_S: u64 = 24 * 3_600;

/// The calls that wait: in memory, and on disk.
pub(super) struct Delayed {
    waiting: Mutex<Waiting>,
    kept: Kept,
}

#[derive(Default)]
struct Waiting {
    /// By endpoint, in the order in which they came.
    devices: HashMap<String, BTreeMap<i64, Row>>,
    count: usize,
    bytes: usize,
}

/// Asks something of a device, now or when it wakes.
pub(super) async fn ask(web: &Arc<Web>, endpoint: &str, request: Request) -> Answer {
    let registration = registered(web, endpoint).await?;
    let Asked { operation, options } = request.read(web, &registration)?;
    if sleeps(web, &registration).await {
        let answer = delay(web, endpoint, request, &operation).await?;
        // It may have come back meanwhile, and nobody would have told.
        if !sleeps(web, &registration).await {
            wake(web, endpoint);
        }
        return Ok(answer);
    }
    let response = web
        .engine
        .request(endpoint, operation.clone(), options)
        .await?;
    remember(web, endpoint, &operation, &response);
    Ok(Json(answered(&response)?).into_response())
}

async fn delay(web: &Web, endpoint: &str, request: Request, operation: &Operation) -> Answer {
    let waits_s = match request.said.get("expires") {
        None => WAITS_S,
        Some(seconds) => match seconds.parse() {
            Ok(seconds @ 1..=WAITS_AT_MOST_S) => seconds,
            _ => {
                return Err(Refused::invalid(format_args!(
                    "expires is a number of seconds from 1 to {WAITS_AT_MOST_S}"
                )));
            }
        },
    };
    let delayed = &web.delayed;
    if !delayed.has_room(endpoint, request.size()) {
        return Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "too much waits for '{endpoint}', or for all devices, already: wait until it is awake, or take some out of its queue"
            ),
        ));
    }
    let now = unix_ms();
    let row = Row {
        id: 0,
        endpoint: endpoint.to_owned(),
        request,
        operation: name(operation).to_owned(),
        target: operation.target(),
        since_unix_ms: now,
        expires_unix_ms: now.saturating_add(waits_s * 1_000),
    };
    let (id, row) = delayed.kept.put(row).await.map_err(|error| {
        tracing::error!(%error, "a call for a sleeping device is refused");
        Refused::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
    })?;
    let row = Row { id, ..row };
    let answer = told_later(&row);
    delayed.put(row);
    Ok(Json(answer).into_response())
}

/// A device was heard of: what waits for it goes its way, one after the other.
pub(super) fn wake(web: &Arc<Web>, endpoint: &str) {
    let Some(calls) = web.delayed.take(endpoint) else {
        return;
    };
    let web = Arc::clone(web);
    tokio::spawn(async move {
        let mut calls = calls.into_values();
        while let Some(call) = calls.next() {
            let Some(outcome) = send(&web, &call).await else {
                // It fell asleep before it had this one, or left: it waits for the next time, with those behind it.
                for call in std::iter::once(call).chain(calls) {
                    web.delayed.put(call);
                }
                return;
            };
            let mut json = told_later(&call);
            match outcome {
                Ok(response) => json["response"] = response,
                Err(refused) => json["error"] = json!(refused.reason()),
            }
            web.events.answered(&call.endpoint, &json);
        }
    });
}

/// Sends a call that waited; `None` where the device did not get it.
async fn send(web: &Web, call: &Row) -> Option<Result<Value, Refused>> {
    let (kept, endpoint, id) = (&web.delayed.kept, call.endpoint.as_str(), call.id);
    let registration = web.engine.registration(endpoint).await?;
    let Asked { operation, options } = match call.request.read(web, &registration) {
        Ok(asked) => asked,
        Err(refused) => {
            kept.delete(id).await;
            return Some(Err(refused));
        }
    };
    // After a crash nobody knows whether the device had it: what must not be done twice is forgotten before it is sent.
    let repeatable = operation.is_repeatable();
    if !repeatable {
        kept.delete(id).await;
    }
    let asked = web
        .engine
        .request(endpoint, operation.clone(), options)
        .await;
    if let Err(AskError::Failed(RequestFailure::Expired | RequestFailure::NotSent(_))) = &asked {
        if !repeatable && let Err(error) = kept.put(call.clone()).await {
            tracing::error!(%error, id, "a call that waits for its device is in memory only");
        }
        return None;
    }
    if repeatable {
        kept.delete(id).await;
    }
    Some(match asked {
        Ok(response) => {
            remember(web, endpoint, &operation, &response);
            answered(&response)
        }
        Err(error) => Err(error.into()),
    })
}

/// Answers what waited too long.
pub(super) async fn expire(web: &Web, now_unix_ms: i64) {
    for call in web.delayed.expired(now_unix_ms) {
        web.delayed.kept.delete(call.id).await;
        let mut json = told_later(&call);
        json["error"] = json!("Request timeout: the device was not heard of in time");
        web.events.answered(&call.endpoint, &json);
    }
}

/// Leshan's form of what is answered later.
fn told_later(call: &Row) -> Value {
    let Row {
        endpoint,
        target,
        id,
        ..
    } = call;
    let mut json = json!({ "ep": endpoint, "requestId": format!("{REST}{id}"), "delayed": true });
    json[if target.is_composite() {
        "paths"
    } else {
        "path"
    }] = shown(target);
    json
}

fn shown(target: &Target) -> Value {
    match target.path() {
        Some(path) => json!(path.to_string()),
        None => target.paths().iter().map(ToString::to_string).collect(),
    }
}

/// GET `/api/clients/<ep>/queue`.
pub(super) async fn show(State(web): State<Arc<Web>>, Path(endpoint): Path<String>) -> Answer {
    let listens = web.engine.listens(&endpoint).await;
    let Some(listens) = listens else {
        return Err(AskError::Stopping.into());
    };
    let mut requests: Vec<Value> = web
        .engine
        .queue(&endpoint)
        .await
        .into_iter()
        .map(|queued| {
            json!({
                "id": queued.id.to_string(),
                "origin": "kafka",
                "ticket": queued.ticket,
                "operation": kind(queued.kind),
                "path": queued.path,
                "since": queued.since_unix_ms,
                "expires": queued.expires_unix_ms,
                "sent": queued.sent,
            })
        })
        .collect();
    requests.extend(web.delayed.of(&endpoint));
    if listens.presence.is_none() && requests.is_empty() {
        return Err(Refused::not_registered(&endpoint));
    }
    let presence = match listens.presence {
        None => "gone",
        Some(Presence::Reachable) => "reachable",
        Some(Presence::Awake) => "awake",
        Some(Presence::Asleep) => "asleep",
    };
    let answer = json!({
        "presence": presence,
        "awakeWindow": listens.own_window.unwrap_or(listens.usual_window).as_secs(),
        "usualAwakeWindow": listens.usual_window.as_secs(),
        "requests": requests,
    });
    Ok(Json(answer).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    #[serde(rename = "awakeWindow")]
    awake_window_s: Option<u64>,
}

/// PUT `/api/clients/<ep>/queue`.
pub(super) async fn set(
    State(web): State<Arc<Web>>,
    Path(endpoint): Path<String>,
    body: Bytes,
) -> Answer {
    let window = match serde_json::from_slice(&body) {
        Ok(Setting {
            awake_window_s: Some(seconds @ 1..=LONGEST_WINDOW_S),
        }) => Some(Duration::from_secs(seconds)),
        Ok(Setting {
            awake_window_s: None,
        }) => None,
        _ => {
            return Err(Refused::invalid(format_args!(
                "the body is {{\"awakeWindow\": seconds}}, from 1 to {LONGEST_WINDOW_S}, or null for the usual one"
            )));
        }
    };
    web.engine
        .set_awake_window(&endpoint, window)
        .await
        .map_err(|error| Refused::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
    Ok(StatusCode::OK.into_response())
}

/// DELETE `/api/clients/<ep>/queue/<id>`.
pub(super) async fn cancel(
    State(web): State<Arc<Web>>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let ours = id.strip_prefix(REST).and_then(|id| id.parse().ok());
    let cancelled = match (ours, id.parse()) {
        (Some(id), _) => match web.delayed.cancel(&endpoint, id) {
            Some(call) => {
                web.delayed.kept.delete(id).await;
                let mut json = told_later(&call);
                json["error"] = json!("Request cancelled");
                web.events.answered(&endpoint, &json);
                true
            }
            None => false,
        },
        (None, Ok(id)) => web.engine.cancel_queued(&endpoint, id).await,
        (None, Err(_)) => false,
    };
    if cancelled {
        return Ok(StatusCode::OK.into_response());
    }
    let id: String = id.chars().take(32).collect();
    Err(Refused::new(
        StatusCode::NOT_FOUND,
        format!("no request {id:?} waits for '{endpoint}', or the device has it already"),
    ))
}

fn kind(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Read => "read",
        RequestKind::Write => "write",
        RequestKind::WriteAttributes => "writeAttributes",
        RequestKind::Discover => "discover",
        RequestKind::Execute => "execute",
        RequestKind::Create => "create",
        RequestKind::Delete => "delete",
        RequestKind::Observe => "observe",
        RequestKind::ObserveCancel => "observeCancel",
    }
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Read { .. } => "read",
        Operation::Observe { .. } => "observe",
        Operation::CancelObserve { .. } => "observeCancel",
        Operation::Discover { .. } => "discover",
        Operation::Write { .. } => "write",
        Operation::WriteAttributes { .. } => "writeAttributes",
        Operation::Execute { .. } => "execute",
        Operation::Create { .. } => "create",
        Operation::Delete { .. } => "delete",
        Operation::ReadComposite { .. } => "readComposite",
        Operation::ObserveComposite { .. } => "observeComposite",
        Operation::CancelObserveComposite { .. } => "observeCancelComposite",
        Operation::WriteComposite { .. } => "writeComposite",
    }
}

impl Delayed {
    /// Takes up what was kept; to be called where blocking is allowed.
    pub(super) fn open(path: &FilePath) -> Result<Self, KeepError> {
        let (kept, rows) = Kept::open(path)?;
        let delayed = Self {
            waiting: Mutex::default(),
            kept,
        };
        for row in rows {
            delayed.put(row);
        }
        Ok(delayed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more call may wait. Those on their way to the disk are not counted: as many as come in at one moment
    /// may be too much, and no more.
    fn has_room(&self, endpoint: &str, bytes: usize) -> bool {
        let waiting = self.lock();
        let of_device = waiting.devices.get(endpoint).map_or(0, BTreeMap::len);
        of_device < OF_DEVICE && waiting.count < OF_ALL && waiting.bytes + bytes <= BYTES
    }

    fn put(&self, call: Row) {
        let mut waiting = self.lock();
        waiting.count += 1;
        waiting.bytes += call.request.size();
        let calls = waiting.devices.entry(call.endpoint.clone()).or_default();
        calls.insert(call.id, call);
    }

    fn take(&self, endpoint: &str) -> Option<BTreeMap<i64, Row>> {
        let mut waiting = self.lock();
        let calls = waiting.devices.remove(endpoint)?;
        for call in calls.values() {
            waiting.gone(call);
        }
        Some(calls)
    }

    fn cancel(&self, endpoint: &str, id: i64) -> Option<Row> {
        let mut waiting = self.lock();
        let calls = waiting.devices.get_mut(endpoint)?;
        let call = calls.remove(&id)?;
        if calls.is_empty() {
            waiting.devices.remove(endpoint);
        }
        waiting.gone(&call);
        Some(call)
    }

    fn expired(&self, now_unix_ms: i64) -> Vec<Row> {
        let mut waiting = self.lock();
        let mut expired = Vec::new();
        for calls in waiting.devices.values_mut() {
            let (over, stay): (BTreeMap<_, _>, _) = std::mem::take(calls)
                .into_iter()
                .partition(|(_, call)| call.expires_unix_ms <= now_unix_ms);
            *calls = stay;
            expired.extend(over.into_values());
        }
        waiting.devices.retain(|_, calls| !calls.is_empty());
        for call in &expired {
            waiting.gone(call);
        }
        expired
    }

    fn of(&self, endpoint: &str) -> Vec<Value> {
        let waiting = self.lock();
        let calls = waiting.devices.get(endpoint).into_iter().flatten();
        let calls = calls.map(|(_, call)| call);
        let one = |call: &Row| {
            let mut json = json!({
                "id": format!("{REST}{}", call.id),
                "origin": "rest",
                "operation": call.operation,
                "since": call.since_unix_ms,
                "expires": call.expires_unix_ms,
                "sent": false,
            });
            let composite = call.target.is_composite();
            json[if composite { "paths" } else { "path" }] = shown(&call.target);
            json
        };
        calls.map(one).collect()
    }
}

impl Waiting {
    fn gone(&mut self, call: &Row) {
        self.count -= 1;
        self.bytes -= call.request.size();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::request::Verb;
    use super::*;

    fn call(id: i64, expires_unix_ms: i64) -> Row {
        Row {
            id,
            endpoint: "dev".to_owned(),
            request: Request::new(Verb::Get, "3/0/0", Vec::new()),
            operation: "read".to_owned(),
            target: "/3/0/0".parse().unwrap(),
            since_unix_ms: 0,
            expires_unix_ms,
        }
    }

    fn ids(delayed: &Delayed) -> Vec<Value> {
        let of = |call: &Value| call["id"].clone();
        delayed.of("dev").iter().map(of).collect()
    }

    #[tokio::test]
    async fn what_waits_is_there_after_a_crash_and_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rest-queue.db");
        let delayed = Delayed::open(&file).unwrap();
        for expires in [20, 10, 20] {
            let (id, row) = delayed.kept.put(call(0, expires)).await.unwrap();
            delayed.put(Row { id, ..row });
        }
        drop(delayed);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "what is written may be secret");

        let delayed = Delayed::open(&file).unwrap();
        assert_eq!(ids(&delayed), ["rest-1", "rest-2", "rest-3"]);
        assert_eq!(delayed.expired(10).len(), 1);
        assert!(delayed.cancel("dev", 7).is_none());
        assert!(delayed.cancel("other", 1).is_none());
        // What could not be sent comes before what came later.
        let mut taken = delayed.take("dev").unwrap();
        let (_, last) = taken.pop_last().unwrap();
        delayed.put(last);
        taken.into_values().for_each(|call| delayed.put(call));
        assert_eq!(ids(&delayed), ["rest-1", "rest-3"]);
        assert!(delayed.cancel("dev", 1).is_some());
        assert!(delayed.cancel("dev", 3).is_some());
        let waiting = delayed.lock();
        assert_eq!((waiting.count, waiting.bytes), (0, 0));
        drop(waiting);
        assert!(delayed.take("dev").is_none());
    }
}
