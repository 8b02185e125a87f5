//! Where a record of values comes from.

use std::sync::Arc;

use lwm2m::{Observation, Registration};

use crate::bridge::Cause;

/// What a device sent values under; what a record needs beside its datum is there already.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A notification.
    Observation(Arc<Observation>),
    /// A Send.
    Registration(Arc<Registration>),
}

impl Source {
    /// The device, which is the record's key.
    pub(super) fn endpoint(&self) -> &str {
        match self {
            Self::Observation(observation) => &observation.endpoint,
            Self::Registration(registration) => &registration.endpoint,
        }
    }

    /// The `traceparent` of what started the observation.
    pub(super) fn trace(&self) -> Option<&str> {
        match self {
            Self::Observation(observation) => Cause::of(observation).traceparent,
            Self::Registration(_) => None,
        }
    }
}
