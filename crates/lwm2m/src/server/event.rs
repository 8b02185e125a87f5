use std::sync::Arc;

use coap::{AckId, Code};

use crate::{DeviceResponse, Observation, Registration, RegistrationUpdate, RequestFailure};

/// A request that was taken; its [`Event::Completed`] carries the same handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestHandle(pub(super) u64);

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
        ack: Option<AckId>,
    },
    /// A notification whose value can't be read. To be acknowledged all the same, else the device sends it again.
    NotificationUnreadable {
        observation: Arc<Observation>,
        reason: RequestFailure,
        ack: Option<AckId>,
    },
    /// A device confirmed an observation: to be stored. `replaced` is what stood for the path before, with the same
    /// token.
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
    /// Registrations refused because of a bound (5.03).
    pub registrations_over_limit: u64,
    /// Requests of devices for anything but registration.
    pub unknown_requests: u64,
    /// Notifications whose value could not be read.
    pub notifications_unreadable: u64,
    /// Notifications of an observation that is not kept any more.
    pub notifications_unknown: u64,
}
