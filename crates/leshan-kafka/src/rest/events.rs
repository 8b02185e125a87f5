//! Server-sent events: what happens to devices, for those who watch.
//!
//! Event names and data are Leshan's: `REGISTRATION`, `UPDATED`, `DEREGISTRATION`, `NOTIFICATION`. `?ep=` narrows them
//! to a device. Ours: `?events=REGISTRATION,UPDATED` narrows them to kinds, and `LAGGED` with `{"missed": n}` tells a
//! watcher that was too slow that it missed some, and had better ask for what it shows.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use futures::stream::{self, Stream};
use lwm2m::{Body, DeviceResponse, Observation};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::{Refused, Web, shape};
use crate::bridge::unix_ms;
use crate::engine::ServerEvent;

/// The most events a watcher may be behind.
const BEHIND: usize = 1_024;
/// The most watchers at one time; a further one gets 503.
const WATCHERS: usize = 256;
/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);
/// How often values of devices that went unnoticed are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// One event, made once for all who watch.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    /// `None`: about no device, so for everybody.
    endpoint: Option<String>,
    data: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Registration,
    Updated,
    Deregistration,
    Notification,
    Lagged,
}

impl Kind {
    const CHOICE: [Self; 4] = [
        Self::Registration,
        Self::Updated,
        Self::Deregistration,
        Self::Notification,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Registration => "REGISTRATION",
            Self::Updated => "UPDATED",
            Self::Deregistration => "DEREGISTRATION",
            Self::Notification => "NOTIFICATION",
            Self::Lagged => "LAGGED",
        }
    }
}

/// The way of events to those who watch.
pub(super) struct Events {
    frames: broadcast::Sender<Arc<Frame>>,
    room: Arc<Semaphore>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            frames: broadcast::channel(BEHIND).0,
            room: Arc::new(Semaphore::new(WATCHERS)),
        }
    }
}

/// Keeps the last values and passes events on; never ends.
pub(super) async fn follow(web: &Web) {
    let mut events = web.engine.watch();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    remember(web, &event);
                    // An error says that nobody watches.
                    if web.events.frames.receiver_count() > 0 && let Some(frame) = frame(&event) {
                        let _ = web.events.frames.send(Arc::new(frame));
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "the REST interface missed events");
                    let _ = web.events.frames.send(Arc::new(lagged(missed)));
                    // Devices may be among those who went.
                    drop_values_of_gone(web).await;
                }
                Err(RecvError::Closed) => std::future::pending().await,
            },
            _ = sweep.tick() => drop_values_of_gone(web).await,
        }
    }
}

/// An answer that arrives after its device has gone is remembered for nobody; so is all after missed events.
async fn drop_values_of_gone(web: &Web) {
    if web.values.is_empty() {
        return;
    }
    let registrations = web.engine.registrations().await;
    let here: HashSet<&str> = registrations
        .iter()
        .map(|registration| registration.endpoint.as_str())
        .collect();
    web.values.retain(|endpoint| here.contains(endpoint));
}

fn remember(web: &Web, event: &ServerEvent) {
    match event {
        ServerEvent::Registered(_) | ServerEvent::Updated { .. } => {}
        ServerEvent::Deregistered(registration) => web.values.forget(&registration.endpoint),
        ServerEvent::Notified {
            observation,
            response,
        } => {
            let Observation { endpoint, path, .. } = observation.as_ref();
            if let Body::Node(node) = &response.body {
                web.values.observed(endpoint, *path);
                web.values.seen(endpoint, *path, node, unix_ms());
            } else {
                // A failure ends the observation (RFC 7641 section 4.2).
                web.values.unobserved(endpoint, *path);
            }
        }
    }
}

fn frame(event: &ServerEvent) -> Option<Frame> {
    let (kind, data) = match event {
        ServerEvent::Registered(registration) => {
            (Kind::Registration, shape::registration(registration))
        }
        ServerEvent::Updated {
            registration,
            update,
        } => (
            Kind::Updated,
            json!({
                "registration": shape::registration(registration),
                "update": shape::update(update),
            }),
        ),
        ServerEvent::Deregistered(registration) => {
            (Kind::Deregistration, shape::registration(registration))
        }
        ServerEvent::Notified {
            observation,
            response:
                DeviceResponse {
                    body: Body::Node(node),
                    ..
                },
        } => (
            Kind::Notification,
            json!({
                "ep": observation.endpoint,
                "kind": "single",
                "res": observation.path.to_string(),
                "val": shape::node(node),
            }),
        ),
        // The end of an observation has no value to show.
        ServerEvent::Notified { .. } => return None,
    };
    Some(Frame {
        kind,
        endpoint: Some(event.endpoint().to_owned()),
        data: data.to_string(),
    })
}

fn lagged(missed: u64) -> Frame {
    Frame {
        kind: Kind::Lagged,
        endpoint: None,
        data: json!({ "missed": missed }).to_string(),
    }
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    ep: Option<String>,
    events: Option<String>,
}

/// GET `/api/event` and `/event`.
pub(super) async fn watch(
    State(web): State<Arc<Web>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let accepts = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|accept| accept.to_str().ok())
        .flat_map(|accept| accept.split(','))
        .filter_map(|accept| accept.split(';').next())
        .any(|accept| accept.trim().eq_ignore_ascii_case("text/event-stream"));
    if !accepts {
        return Err(Refused::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "these are server-sent events: ask with the header Accept: text/event-stream",
        ));
    }
    let kinds = kinds(wanted.events.as_deref())?;
    let Ok(room) = Arc::clone(&web.events.room).try_acquire_owned() else {
        return Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{WATCHERS} watch already: try again later"),
        ));
    };
    let watcher = Watcher {
        frames: web.events.frames.subscribe(),
        endpoint: wanted.ep,
        kinds,
        _room: room,
    };
    let hello = Event::default().comment("watching").retry(RETRY);
    // Else a stream would hold up the server's end.
    let stopping = web.shutdown.clone().cancelled_owned();
    let events = stream::once(async { Ok(hello) })
        .chain(watcher.events())
        .take_until(stopping);
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that buffer would hold events back.
    Ok(([("x-accel-buffering", "no")], sse).into_response())
}

fn kinds(names: Option<&str>) -> Result<Vec<Kind>, Refused> {
    let Some(names) = names else {
        return Ok(Kind::CHOICE.to_vec());
    };
    let kind = |name: &str| {
        Kind::CHOICE
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name.trim()))
            .ok_or_else(|| {
                Refused::invalid(
                    "events is a list of REGISTRATION, UPDATED, DEREGISTRATION and NOTIFICATION, with commas between",
                )
            })
    };
    // A name may stand there twice, but not a million times.
    let mut kinds: Vec<Kind> = Vec::new();
    for name in names.split(',') {
        let kind = kind(name)?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// Somebody who watches.
struct Watcher {
    frames: broadcast::Receiver<Arc<Frame>>,
    endpoint: Option<String>,
    kinds: Vec<Kind>,
    _room: OwnedSemaphorePermit,
}

impl Watcher {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let frame = watcher.next().await?;
            let event = Event::default().event(frame.kind.name()).data(&frame.data);
            Some((Ok(event), watcher))
        })
    }

    /// The next event it wants; `None` when there will be none any more.
    async fn next(&mut self) -> Option<Arc<Frame>> {
        loop {
            match self.frames.recv().await {
                Ok(frame) if self.wants(&frame) => return Some(frame),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Arc::new(lagged(missed))),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, frame: &Frame) -> bool {
        let about = frame.endpoint.as_deref();
        let of_device = match (&self.endpoint, about) {
            (Some(wanted), Some(about)) => wanted == about,
            (None, _) | (_, None) => true,
        };
        of_device && (frame.kind == Kind::Lagged || self.kinds.contains(&frame.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_watcher_is_told_that_it_missed_something_and_goes_on() {
        let events = Events::default();
        let mut watcher = Watcher {
            frames: events.frames.subscribe(),
            endpoint: Some("dev".to_owned()),
            kinds: vec![Kind::Updated],
            _room: events.room.try_acquire_owned().unwrap(),
        };
        let send = |endpoint: &str, kind, data: usize| {
            let frame = Frame {
                kind,
                endpoint: Some(endpoint.to_owned()),
                data: data.to_string(),
            };
            assert_eq!(events.frames.send(Arc::new(frame)).unwrap(), 1);
        };
        for number in 0..BEHIND + 10 {
            send("dev", Kind::Updated, number);
        }
        let told = watcher.next().await.unwrap();
        assert_eq!(told.kind.name(), "LAGGED");
        assert_eq!(told.data, r#"{"missed":10}"#);
        for number in 10..BEHIND + 10 {
            assert_eq!(watcher.next().await.unwrap().data, number.to_string());
        }
        // What it did not ask for passes by.
        send("other", Kind::Updated, 1);
        send("dev", Kind::Notification, 2);
        send("dev", Kind::Updated, 3);
        assert_eq!(watcher.next().await.unwrap().data, "3");
        drop(events.frames);
        assert!(watcher.next().await.is_none());
    }

    #[test]
    fn kinds_are_asked_for_by_their_names() {
        let names = |text| {
            kinds(text).map(|kinds| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>())
        };
        assert_eq!(names(None).ok().unwrap().len(), 4);
        assert_eq!(
            names(Some("updated, NOTIFICATION,UPDATED")).ok().unwrap(),
            ["UPDATED", "NOTIFICATION"]
        );
        assert!(names(Some("LAGGED")).is_err());
        assert!(names(Some("")).is_err());
    }
}
