use std::sync::Arc;

use coap::{AckId, Code, ExchangeId};

use crate::{
    DeviceResponse, Observation, Registration, RegistrationUpdate, RequestFailure, Values,
};

/// A request that was taken; its [`Event::Completed`] carries the same handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestHandle(pub(super) u64);

/// A confirmable notification, or a Send, whose device waits to hear that the values are safe: for
/// [`Server::acknowledge`](super::Server::acknowledge) or [`Server::refuse`](super::Server::refuse).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ack(pub(super) Waits);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Waits {
    Notification(AckId),
    Send(ExchangeId),
}

/// Something that happened, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A device registered; `replaced` is what stood under its endpoint name before.
    Registered {
        registration: Arc<Registration>,
        replaced: Option<Arc<Registration>>,
    },
    /// A device updated its registration, which now is `registration`.
    Updated {
        registration: Arc<Registration>,
        previous: Arc<Registration>,
        update: RegistrationUpdate,
    },
    /// A registration ended: by the device, or because its lifetime was over.
    Deregistered {
        registration: Arc<Registration>,
        expired: bool,
    },
    /// A device in queue mode listens: it was heard of. Requests that waited for it are on their way.
    Awake { registration: Arc<Registration> },
    /// A device in queue mode sleeps: its awake window is over, or it did not answer. Requests wait until it is heard of.
    Sleeping { registration: Arc<Registration> },
    /// A request leaves with what [`Server::poll_transmit`](super::Server::poll_transmit) gives next: until now the device
    /// can't have seen it. One that may be repeated can leave more than once.
    Dispatched {
        handle: RequestHandle,
        endpoint: Arc<str>,
    },
    /// A request waits for a device that sleeps: it was made meanwhile, or was sent and, as it may be repeated, waits again.
    Deferred {
        handle: RequestHandle,
        endpoint: Arc<str>,
    },
    /// A device sent values of its own accord (TS 1.1 core, section 6.4.6). It waits for its answer until
    /// [`Server::acknowledge`](super::Server::acknowledge). Several values of one path are kept apart.
    Sent {
        registration: Arc<Registration>,
        values: Vec<Values>,
        ack: Ack,
    },
    /// A request has its outcome. The last event of this handle; there is exactly one for each.
    Completed {
        handle: RequestHandle,
        endpoint: String,
        result: Result<DeviceResponse, RequestFailure>,
    },
    /// A value of an observed path. With `ack`, the notification is confirmable and the device waits until
    /// [`Server::acknowledge`](super::Server::acknowledge). With a failure's code the device ended the observation; it
    /// is asked again when it registers anew.
    Notified {
        observation: Arc<Observation>,
        response: DeviceResponse,
        ack: Option<Ack>,
    },
    /// A notification whose value can't be read. To be acknowledged all the same, else the device sends it again.
    NotificationUnreadable {
        observation: Arc<Observation>,
        reason: RequestFailure,
        ack: Option<Ack>,
    },
    /// A device confirmed an observation: to be stored. `replaced` is what stood for the path, or the list of paths,
    /// before, with the same token.
    ObservationStarted {
        observation: Arc<Observation>,
        replaced: Option<Arc<Observation>>,
    },
    /// An observation is forgotten: to be removed from the store.
    ObservationEnded {
        observation: Arc<Observation>,
        why: ObservationEnd,
    },
    /// A device that registered anew, or updated, did not take an observation again. It is kept; see
    /// [`ObservationState::Dormant`](crate::ObservationState::Dormant).
    ObservationLost {
        observation: Arc<Observation>,
        why: ObservationLoss,
    },
}

/// Why an observation is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObservationEnd {
    /// It was cancelled.
    Cancelled,
    /// Its device is gone, and
    /// [`ServerConfig::max_dormant_devices`](super::ServerConfig::max_dormant_devices) others went after it.
    Evicted,
}

/// Why a device does not report an observed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservationLoss {
    /// It answered with this code: a failure, or the value without the promise to report it.
    Refused(Code),
    /// It did not answer.
    Failed(RequestFailure),
}

/// What was counted since the server was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Registrations and updates that were refused with 4.xx.
    pub registrations_refused: u64,
    /// Registrations and Sends refused because of a bound, or of [`Server::set_overloaded`](super::Server::set_overloaded)
    /// (5.03).
    pub registrations_over_limit: u64,
    /// Sends that could not be read, or whose device is not registered.
    pub sends_refused: u64,
    /// Requests of sessions that may not speak for the endpoint ([`Server::set_admission`](super::Server::set_admission)).
    pub not_admitted: u64,
    /// Requests of devices for anything but registration.
    pub unknown_requests: u64,
    /// Notifications whose value could not be read.
    pub notifications_unreadable: u64,
    /// Notifications of an observation that is not kept any more.
    pub notifications_unknown: u64,
}
