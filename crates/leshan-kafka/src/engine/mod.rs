//! The one loop that owns the LwM2M server, its socket and its store.
//!
//! ```text
//! datagrams ─┐                         ┌─ 1 events → changes to the store, records for Kafka
//! commands ──┼─► state machine, then ──┼─ 2 commit (synced)
//! published ─┘                         └─ 3 hand over to the publisher, send datagrams
//! ```

mod journal;
mod outbox;
mod run;

use std::sync::Arc;

use lwm2m::server::RequestOptions;
use lwm2m::{
    DeviceResponse, Observation, Operation, Registration, RegistrationUpdate, RequestError,
    RequestFailure,
};
use lwm2m_model::Registry;
use tokio::sync::{broadcast, mpsc, oneshot};

pub(crate) use run::{EngineLoop, Parts};

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
}

impl ServerEvent {
    /// The endpoint it is about.
    pub(crate) fn endpoint(&self) -> &str {
        match self {
            Self::Registered(registration)
            | Self::Updated { registration, .. }
            | Self::Deregistered(registration) => &registration.endpoint,
            Self::Notified { observation, .. } => &observation.endpoint,
        }
    }
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
    Registrations {
        answer: oneshot::Sender<Vec<Arc<Registration>>>,
    },
    Registration {
        endpoint: String,
        answer: oneshot::Sender<Option<Arc<Registration>>>,
    },
}

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
        answered.await.unwrap_or_default()
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
