//! The one loop that owns the LwM2M server, its socket and its store.
//!
//! ```text
//! datagrams ──┐                         ┌─ 1 events → changes to the store, records for Kafka
//! commands ───┼─► state machine, then ──┼─ 2 commit (synced where somebody is told of it)
//! deliveries ─┘                         └─ 3 hand records to the producer, send datagrams
//! ```
//!
//! Notifications that Kafka takes never touch the disk: they go to the producer at once, and their device has its
//! acknowledgement when the delivery comes back.

mod doors;
mod journal;
mod outbox;
mod owed;
mod run;
#[cfg(test)]
mod steady;
mod told;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lwm2m::server::{Presence, RequestOptions, TooManyWindows};
use lwm2m::{
    DeviceResponse, Observation, Operation, Registration, RegistrationUpdate, RequestError,
    RequestFailure, Values,
};
use lwm2m_model::Registry;
use records::RequestKind;
use tokio::sync::{broadcast, mpsc, oneshot};

pub(crate) use doors::{Doors, SecureDoor, Sessions};
pub(crate) use journal::JournalSettings;
pub(crate) use outbox::{LaneSetup, ProducerMaker, TopicIds};
pub(crate) use run::{EngineLoop, Parts};
pub(crate) use watch::CoapLog;
use watch::WatchCoap;

use crate::store::Accepted;

/// Something that happened to a device, for those who watch.
#[derive(Clone, Debug)]
pub(crate) enum ServerEvent {
    Registered(Arc<Registration>),
    Updated {
        registration: Arc<Registration>,
        update: RegistrationUpdate,
    },
    Deregistered(Arc<Registration>),
    Notified {
        observation: Arc<Observation>,
        response: DeviceResponse,
    },
    /// A device in queue mode listens no more.
    Sleeping(Arc<Registration>),
    /// It listens again.
    Awake(Arc<Registration>),
    /// A device sent values of its own accord.
    Sent {
        registration: Arc<Registration>,
        values: Vec<Values>,
    },
    /// A device confirmed an observation.
    ObservationStarted(Arc<Observation>),
    /// An observation is forgotten.
    ObservationEnded(Arc<Observation>),
    /// A CoAP message of a device whose traffic is watched ([`Engine::log_coap`]).
    CoapLog {
        endpoint: Arc<str>,
        /// From the device.
        incoming: bool,
        at_unix_ms: i64,
        datagram: Bytes,
    },
}

impl ServerEvent {
    /// The endpoint it is about.
    pub(crate) fn endpoint(&self) -> &str {
        match self {
            Self::Registered(registration)
            | Self::Updated { registration, .. }
            | Self::Deregistered(registration)
            | Self::Sleeping(registration)
            | Self::Awake(registration)
            | Self::Sent { registration, .. } => &registration.endpoint,
            Self::Notified { observation, .. }
            | Self::ObservationStarted(observation)
            | Self::ObservationEnded(observation) => &observation.endpoint,
            Self::CoapLog { endpoint, .. } => endpoint,
        }
    }
}

/// Who is shown the values that devices send, in the loop itself: it must neither wait nor take long.
pub(crate) trait Onlooker: Send + Sync {
    /// A notification came.
    fn notified(&self, observation: &Observation, response: &DeviceResponse, now_unix_ms: i64);

    /// A Send came.
    fn sent(&self, registration: &Registration, values: &[Values], now_unix_ms: i64);

    /// A registration has ended.
    fn gone(&self, endpoint: &str);

    /// Whether values are wanted as events too ([`ServerEvent::Notified`], [`ServerEvent::Sent`]).
    fn wants_values(&self) -> bool;
}

/// Why a request over REST has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] RequestError),
    /// It was taken and came to nothing.
    #[error(transparent)]
    Failed(#[from] RequestFailure),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// A request from Kafka that has no reply yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueuedRequest {
    /// Its number in the journal.
    pub(crate) id: i64,
    pub(crate) ticket: String,
    pub(crate) kind: RequestKind,
    /// As it was asked for.
    pub(crate) path: String,
    /// When it was accepted.
    pub(crate) since_unix_ms: i64,
    /// When it is answered though it could not be sent.
    pub(crate) expires_unix_ms: i64,
    /// Whether the device may have it.
    pub(crate) sent: bool,
}

/// Whether a device listens, and for how long it does after it was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listens {
    /// `None`: it is not registered.
    pub(crate) presence: Option<Presence>,
    /// Of its own; `None`: the usual one.
    pub(crate) own_window: Option<Duration>,
    /// The usual one.
    pub(crate) usual_window: Duration,
}

type Answer = oneshot::Sender<Result<DeviceResponse, AskError>>;

enum Command {
    Accept {
        requests: Vec<Accepted>,
        done: oneshot::Sender<()>,
    },
    Request {
        endpoint: String,
        operation: Operation,
        options: RequestOptions,
        answer: Answer,
    },
    Queue {
        endpoint: String,
        answer: oneshot::Sender<Vec<QueuedRequest>>,
    },
    CancelQueued {
        endpoint: String,
        id: i64,
        answer: oneshot::Sender<bool>,
    },
    Listens {
        endpoint: String,
        answer: oneshot::Sender<Listens>,
    },
    SetAwakeWindow {
        endpoint: String,
        window: Option<Duration>,
        answer: oneshot::Sender<Result<(), TooManyWindows>>,
    },
    WatchCoap {
        watch: WatchCoap,
    },
    Observations {
        endpoint: String,
        answer: oneshot::Sender<Vec<Arc<Observation>>>,
    },
    Registrations {
        answer: oneshot::Sender<Vec<Arc<Registration>>>,
    },
    Registration {
        endpoint: String,
        answer: oneshot::Sender<Option<Arc<Registration>>>,
    },
}

/// What a device waits for.
type Ack = lwm2m::server::Ack;

/// The most commands that wait for the loop.
const COMMANDS: usize = 1_024;
/// The most events a watcher may be behind; a slower one misses some and is told so.
const EVENTS: usize = 1_024;

/// A handle on the loop; cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Arc<ServerEvent>>,
    models: Arc<Registry>,
}

impl Engine {
    /// The handle, and what the loop needs to serve it.
    pub(crate) fn channel(models: Arc<Registry>) -> (Self, Inbox) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let engine = Self {
            commands,
            events: events.clone(),
            models,
        };
        let inbox = Inbox {
            commands: inbox,
            events,
        };
        (engine, inbox)
    }

    /// Hands requests to the journal; `true` when it has them, `false` when the server is stopping.
    pub(crate) async fn accept(&self, requests: Vec<Accepted>) -> bool {
        let (done, is_done) = oneshot::channel();
        let command = Command::Accept { requests, done };
        self.commands.send(command).await.is_ok() && is_done.await.is_ok()
    }

    /// Asks something of a device, outside the journal.
    pub(crate) async fn request(
        &self,
        endpoint: &str,
        operation: Operation,
        options: RequestOptions,
    ) -> Result<DeviceResponse, AskError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Request {
            endpoint: endpoint.to_owned(),
            operation,
            options,
            answer,
        };
        if self.commands.send(command).await.is_err() {
            return Err(AskError::Stopping);
        }
        answered.await.unwrap_or(Err(AskError::Stopping))
    }

    /// Every registration, by endpoint name; empty when the server is stopping.
    pub(crate) async fn registrations(&self) -> Vec<Arc<Registration>> {
        let (answer, answered) = oneshot::channel();
        if self
            .commands
            .send(Command::Registrations { answer })
            .await
            .is_err()
        {
            return Vec::new();
        }
        let mut all: Vec<Arc<Registration>> = answered.await.unwrap_or_default();
        // Here, and not in the loop, which has other things to do.
        all.sort_unstable_by(|a, b| a.endpoint.cmp(&b.endpoint));
        all
    }

    /// The requests from Kafka that wait for a device, in the order in which they are sent.
    pub(crate) async fn queue(&self, endpoint: &str) -> Vec<QueuedRequest> {
        let endpoint = endpoint.to_owned();
        let asked = self.ask(|answer| Command::Queue { endpoint, answer });
        asked.await.unwrap_or_default()
    }

    /// Takes a request out of a device's queue; it is answered so. `false` where it is not there, or the device has it.
    pub(crate) async fn cancel_queued(&self, endpoint: &str, id: i64) -> bool {
        let endpoint = endpoint.to_owned();
        let asked = self.ask(|answer| Command::CancelQueued {
            endpoint,
            id,
            answer,
        });
        asked.await.unwrap_or_default()
    }

    /// Whether a device listens; `None` when the server is stopping.
    pub(crate) async fn listens(&self, endpoint: &str) -> Option<Listens> {
        let endpoint = endpoint.to_owned();
        self.ask(|answer| Command::Listens { endpoint, answer })
            .await
    }

    /// Sets how long a device in queue mode listens after it was heard of, whether or not it is registered now; kept
    /// over restarts. `None`: the usual time.
    ///
    /// # Errors
    /// When as many devices as may have one of their own; `Ok` when the server is stopping.
    pub(crate) async fn set_awake_window(
        &self,
        endpoint: &str,
        window: Option<Duration>,
    ) -> Result<(), TooManyWindows> {
        let endpoint = endpoint.to_owned();
        let asked = self.ask(|answer| Command::SetAwakeWindow {
            endpoint,
            window,
            answer,
        });
        asked.await.unwrap_or(Ok(()))
    }

    /// The observations kept for an endpoint name.
    pub(crate) async fn observations(&self, endpoint: &str) -> Vec<Arc<Observation>> {
        let endpoint = endpoint.to_owned();
        let asked = self.ask(|answer| Command::Observations { endpoint, answer });
        asked.await.unwrap_or_default()
    }

    /// Has [`ServerEvent::CoapLog`] told of a device, as long as the answer is kept.
    pub(crate) async fn log_coap(&self, endpoint: &str) -> CoapLog {
        CoapLog::begin(self.commands.clone(), endpoint).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }

    /// One registration.
    pub(crate) async fn registration(&self, endpoint: &str) -> Option<Arc<Registration>> {
        let (answer, answered) = oneshot::channel();
        let endpoint = endpoint.to_owned();
        let command = Command::Registration { endpoint, answer };
        self.commands.send(command).await.ok()?;
        answered.await.ok().flatten()
    }

    /// What happens from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<ServerEvent>> {
        self.events.subscribe()
    }

    /// The object models in use.
    pub(crate) fn models(&self) -> &Arc<Registry> {
        &self.models
    }
}

/// The loop's ends of the handle's channels.
pub(crate) struct Inbox {
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Arc<ServerEvent>>,
}
