//! Server-sent events: what happens to devices, for those who watch.
//!
//! Event names and data are Leshan's: `REGISTRATION`, `UPDATED`, `DEREGISTRATION`, `NOTIFICATION`, `SEND`, `SLEEPING`,
//! `AWAKE`, `REQUEST_RESPONSE`, and `COAPLOG`, the CoAP messages of the device named by `?ep=`, which narrows the others to
//! it too. Ours: `?events=REGISTRATION,UPDATED` narrows them to kinds, `timestamped` has all values of a notification or
//! a Send that carries several times, and `LAGGED` with `{"missed": n}` tells a watcher that was too slow that it missed
//! some, and had better ask for what it shows.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use futures::stream::{self, Stream};
use lwm2m::server::Presence;
use lwm2m::{Body, Target, Values};
use lwm2m_model::{Node, ObjectPath};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use service::auth::Caller;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Instant, sleep};

use super::{Refused, Web, coap_log, queue, shape};
use crate::bridge::unix_ms;
use crate::engine::{CoapLog, ServerEvent};

/// The most events a watcher may be behind.
const BEHIND: usize = 1_024;
/// The most watchers at one time; a further one gets 503.
const WATCHERS: usize = 256;
/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);
/// How often values of devices that went unnoticed are dropped, and when at the latest what was missed is made up for.
const SWEEP: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);
/// How many devices are asked for at a time.
const ASKED: usize = 256;
/// How often calls that waited too long are answered.
const EXPIRE: Duration = Duration::from_secs(1);
/// How often this looks for events while nobody watches.
const PACE: Duration = Duration::from_millis(50);

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
    Send,
    Sleeping,
    Awake,
    RequestResponse,
    CoapLog,
    Lagged,
}

impl Kind {
    const CHOICE: [Self; 9] = [
        Self::Registration,
        Self::Updated,
        Self::Deregistration,
        Self::Notification,
        Self::Send,
        Self::Sleeping,
        Self::Awake,
        Self::RequestResponse,
        Self::CoapLog,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Registration => "REGISTRATION",
            Self::Updated => "UPDATED",
            Self::Deregistration => "DEREGISTRATION",
            Self::Notification => "NOTIFICATION",
            Self::Send => "SEND",
            Self::Sleeping => "SLEEPING",
            Self::Awake => "AWAKE",
            Self::RequestResponse => "REQUEST_RESPONSE",
            Self::CoapLog => "COAPLOG",
            Self::Lagged => "LAGGED",
        }
    }
}

/// The way of events to those who watch.
pub(super) struct Events {
    frames: broadcast::Sender<Arc<Frame>>,
    room: Arc<Semaphore>,
    /// Who sleeps, as told; a list of all devices can't ask for each.
    sleepers: Mutex<HashSet<String>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            frames: broadcast::channel(BEHIND).0,
            room: Arc::new(Semaphore::new(WATCHERS)),
            sleepers: Mutex::default(),
        }
    }
}

impl Events {
    /// What became of a call that waited for its device.
    pub(super) fn answered(&self, endpoint: &str, answer: &Json) {
        self.send(Frame {
            kind: Kind::RequestResponse,
            endpoint: Some(endpoint.to_owned()),
            data: answer.to_string(),
        });
    }

    /// Who sleeps.
    pub(super) fn sleepers(&self) -> HashSet<String> {
        self.with_sleepers(|sleepers| sleepers.clone())
    }

    /// Whether anybody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.frames.receiver_count() > 0
    }

    fn with_sleepers<T>(&self, of: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        // Nothing panics while it is held.
        of(&mut self.sleepers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, frame: Frame) {
        // An error says that nobody watches.
        let _ = self.frames.send(Arc::new(frame));
    }
}

/// Knows who sleeps, and passes events on; never ends.
pub(super) async fn follow(web: &Arc<Web>) {
    let mut events = web.engine.watch();
    look_at_all(web).await;
    let mut sweep = tokio::time::interval_at(Instant::now() + SWEEP, SWEEP);
    let mut minute = tokio::time::interval(MINUTE);
    let mut expire = tokio::time::interval(EXPIRE);
    let mut missed_some = false;
    loop {
        tokio::select! {
            event = events.recv() => {
                let mut next = event;
                loop {
                    match next {
                        Ok(event) => {
                            remember(web, &event);
                            if web.events.is_watched() && let Some(frame) = frame(web, &event) {
                                web.events.send(frame);
                            }
                        }
                        Err(RecvError::Lagged(missed)) => {
                            tracing::debug!(missed, "the REST interface missed events");
                            web.events.send(lagged(missed));
                            missed_some = true;
                        }
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                    next = match events.try_recv() {
                        Ok(event) => Ok(event),
                        Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                        // Whether it is empty or closed, the next `recv` tells.
                        Err(_) => break,
                    };
                }
                // While nobody watches, the engine need not wake this task for each of thousands of updates a second.
                if !web.events.is_watched() {
                    sleep(PACE).await;
                }
            },
            // Not at once: events that come thick and fast would be missed again meanwhile.
            _ = minute.tick(), if missed_some => {
                missed_some = false;
                look_at_all(web).await;
            }
            // An answer that arrives after its device has gone is remembered for nobody.
            _ = sweep.tick(), if !web.values.is_empty() => look_at_all(web).await,
            _ = expire.tick() => queue::expire(web, unix_ms()).await,
        }
    }
}

/// Who is there and who sleeps: at the start, and when events were missed.
async fn look_at_all(web: &Arc<Web>) {
    let registrations = web.engine.registrations().await;
    let queued = registrations.iter().filter(|one| one.binding.queue);
    let endpoints: Vec<String> = queued.map(|one| one.endpoint.clone()).collect();
    let asked = endpoints.into_iter().map(|endpoint| {
        let engine = web.engine.clone();
        async move {
            let listens = engine.listens(&endpoint).await;
            let sleeps = listens.is_some_and(|listens| listens.presence == Some(Presence::Asleep));
            (endpoint, sleeps)
        }
    });
    let mut asked = std::pin::pin!(stream::iter(asked).buffer_unordered(ASKED));
    let mut sleepers = HashSet::new();
    while let Some((endpoint, sleeps)) = asked.next().await {
        if sleeps {
            sleepers.insert(endpoint);
        } else {
            queue::wake(web, &endpoint);
        }
    }
    let here: HashSet<&str> = registrations
        .iter()
        .map(|registration| registration.endpoint.as_str())
        .collect();
    web.values.retain(|endpoint| here.contains(endpoint));
    web.events.with_sleepers(|known| *known = sleepers);
}

fn remember(web: &Arc<Web>, event: &ServerEvent) {
    let endpoint = event.endpoint();
    match event {
        ServerEvent::Sleeping(_) => {
            web.events
                .with_sleepers(|sleepers| sleepers.insert(endpoint.to_owned()));
        }
        ServerEvent::Registered(_) | ServerEvent::Updated { .. } | ServerEvent::Awake(_) => {
            web.events
                .with_sleepers(|sleepers| sleepers.remove(endpoint));
            queue::wake(web, endpoint);
        }
        ServerEvent::Deregistered(_) => {
            web.events
                .with_sleepers(|sleepers| sleepers.remove(endpoint));
        }
        // The engine shows their values before it says so (`onlook`).
        ServerEvent::Notified { .. }
        | ServerEvent::Sent { .. }
        | ServerEvent::ObservationStarted(_)
        | ServerEvent::ObservationEnded(_)
        | ServerEvent::CoapLog { .. } => {}
    }
}

fn frame(web: &Web, event: &ServerEvent) -> Option<Frame> {
    let endpoint = event.endpoint();
    let registered = |registration| {
        let sleeps = web
            .events
            .with_sleepers(|sleepers| sleepers.contains(endpoint));
        shape::registration(registration, sleeps)
    };
    let (kind, data) = match event {
        ServerEvent::Registered(registration) => (Kind::Registration, registered(registration)),
        ServerEvent::Updated {
            registration,
            update,
        } => (
            Kind::Updated,
            json!({ "registration": registered(registration), "update": shape::update(update) }),
        ),
        ServerEvent::Deregistered(registration) => (Kind::Deregistration, registered(registration)),
        ServerEvent::Notified {
            observation,
            response,
        } => (
            Kind::Notification,
            notification(endpoint, &observation.target, &response.body)?,
        ),
        ServerEvent::Sent { values, .. } => (Kind::Send, sent(endpoint, values)),
        ServerEvent::Sleeping(_) => (Kind::Sleeping, json!({ "ep": endpoint })),
        ServerEvent::Awake(_) => (Kind::Awake, json!({ "ep": endpoint })),
        ServerEvent::CoapLog {
            incoming,
            at_unix_ms,
            datagram,
            ..
        } => (
            Kind::CoapLog,
            coap_log::message(endpoint, *incoming, *at_unix_ms, datagram),
        ),
        ServerEvent::ObservationStarted(_) | ServerEvent::ObservationEnded(_) => return None,
    };
    Some(Frame {
        kind,
        endpoint: Some(endpoint.to_owned()),
        data: data.to_string(),
    })
}

/// `None` for the end of an observation, which has no value to show.
fn notification(endpoint: &str, target: &Target, body: &Body) -> Option<Json> {
    let timed = match body {
        Body::Timed(values) => values.as_slice(),
        _ => &[],
    };
    let mut json = match target.path() {
        Some(path) => {
            let value = match body {
                Body::Node(node) => shape::node(node),
                Body::Timed(_) => shape::node(latest(timed).get(path)?),
                _ => return None,
            };
            json!({ "ep": endpoint, "kind": "single", "res": path.to_string(), "val": value })
        }
        None => {
            let values = match body {
                Body::Nodes(nodes) => shape::nodes(nodes),
                Body::Timed(_) => shape::nodes(latest(timed)),
                _ => return None,
            };
            let paths: Json = target.paths().iter().map(ToString::to_string).collect();
            json!({ "ep": endpoint, "kind": "composite", "val": values, "paths": paths })
        }
    };
    if !timed.is_empty() {
        json["timestamped"] = timestamped(timed);
    }
    Some(json)
}

fn sent(endpoint: &str, values: &[Values]) -> Json {
    let mut json = json!({ "ep": endpoint, "val": shape::nodes(latest(values)) });
    if values.iter().any(|values| values.at_unix_ms.is_some()) {
        json["timestamped"] = timestamped(values);
    }
    json
}

/// The newest value of each path; of those without a time, the last.
fn latest(values: &[Values]) -> BTreeMap<&ObjectPath, &Node> {
    let mut in_time: Vec<&Values> = values.iter().collect();
    // What has no time is from now.
    in_time.sort_by_key(|values| values.at_unix_ms.unwrap_or(i64::MAX));
    in_time
        .into_iter()
        .flat_map(|values| &values.nodes)
        .collect()
}

fn timestamped(values: &[Values]) -> Json {
    values
        .iter()
        .map(|values| {
            let mut json = Map::new();
            json.insert("timestamp".to_owned(), json!(values.at_unix_ms));
            json.insert("val".to_owned(), shape::nodes(&values.nodes));
            Json::Object(json)
        })
        .collect()
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
    Extension(caller): Extension<Caller>,
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
    // As with Leshan only one device's messages can be watched at a time.
    let coap = match &wanted.ep {
        Some(endpoint) if kinds.contains(&Kind::CoapLog) => {
            Some(web.engine.log_coap(endpoint).await)
        }
        _ => None,
    };
    let watcher = Watcher {
        frames: web.events.frames.subscribe(),
        endpoint: wanted.ep,
        kinds,
        coap,
        _room: room,
    };
    let hello = Event::default().comment("watching").retry(RETRY);
    // A stream must neither hold up the server's end nor outlast the right to it: a browser comes again by itself.
    let stop = async move {
        tokio::select! {
            () = web.shutdown.cancelled() => {}
            () = web.gate.shut_out(&caller) => {}
        }
    };
    let events = stream::once(async { Ok(hello) })
        .chain(watcher.events())
        .take_until(Box::pin(stop));
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
                let all: Vec<&str> = Kind::CHOICE.iter().map(|kind| kind.name()).collect();
                Refused::invalid(format_args!(
                    "events is a list with commas between, of {}",
                    all.join(", ")
                ))
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
    /// While it is there, CoAP messages are told.
    coap: Option<CoapLog>,
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
        match frame.kind {
            Kind::Lagged => of_device,
            // Somebody else may watch that device's messages.
            Kind::CoapLog => of_device && self.coap.is_some(),
            kind => of_device && self.kinds.contains(&kind),
        }
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
            coap: None,
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
        assert_eq!(names(None).ok().unwrap().len(), 9);
        assert_eq!(
            names(Some("updated, NOTIFICATION,UPDATED")).ok().unwrap(),
            ["UPDATED", "NOTIFICATION"]
        );
        assert!(names(Some("LAGGED")).is_err());
        assert!(names(Some("")).is_err());
    }
}
