//! Changed registrations that could not be told because the spool was full: told when there is room, as they are then.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lwm2m::{Now, Registration, RegistrationUpdate};
use prometheus::{IntGauge, register_int_gauge};

use super::run::EngineLoop;
use crate::store::Change;

static OWED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "zeelos_updates_owed",
        "Devices whose changed registration has no record yet, because Kafka is away and twice the spool's bytes are used."
    )
    .expect("registered once, with a valid name")
});

/// Their devices: as many as are registered.
pub(super) struct OwedUpdates(BTreeSet<String>);

/// How many are told in one turn.
const PER_TURN: usize = 100;

impl OwedUpdates {
    pub(super) fn new(kept: BTreeSet<String>) -> Self {
        OWED.set(i64::try_from(kept.len()).unwrap_or(i64::MAX));
        Self(kept)
    }

    fn count(&self) {
        OWED.set(i64::try_from(self.0.len()).unwrap_or(i64::MAX));
    }
}

impl EngineLoop {
    pub(super) fn owe_update(&mut self, endpoint: &str) {
        if self.owed_updates.0.insert(endpoint.to_owned()) {
            let endpoint = endpoint.to_owned();
            self.changes.push(Change::OweUpdate { endpoint });
            self.owed_updates.count();
        }
    }

    /// A device is registered anew, or not any more: there is nothing left to tell.
    pub(super) fn owe_no_update(&mut self, endpoint: &str) {
        if !self.owed_updates.0.is_empty() && self.owed_updates.0.remove(endpoint) {
            let endpoint = endpoint.to_owned();
            self.changes.push(Change::OweNoUpdate { endpoint });
            self.owed_updates.count();
        }
    }

    /// Tells them, once there is room again.
    pub(super) fn tell_owed_updates(&mut self, now: Now) {
        if self.owed_updates.0.is_empty() || !self.outbox.has_room_again() {
            return;
        }
        for _ in 0..PER_TURN {
            let Some(endpoint) = self.owed_updates.0.pop_first() else {
                break;
            };
            if let Some(registration) = self.server.registration(&endpoint).cloned() {
                self.registration_updated(now, &registration, &whole(&registration));
            }
            self.changes.push(Change::OweNoUpdate { endpoint });
        }
        self.owed_updates.count();
    }
}

/// Whether an update changed what is known of a device, or only said that it is still there.
pub(super) fn is_changed(before: &Registration, now: &Registration) -> bool {
    let as_before = Registration {
        last_update_unix_ms: before.last_update_unix_ms,
        ..now.clone()
    };
    as_before != *before
}

/// All that is known of a device, as if it had just said so.
fn whole(registration: &Registration) -> RegistrationUpdate {
    RegistrationUpdate {
        registration_id: registration.registration_id.clone(),
        endpoint: registration.endpoint.clone(),
        peer: registration.peer,
        at_unix_ms: registration.last_update_unix_ms,
        lifetime: Some(registration.lifetime),
        sms: registration.sms.clone(),
        binding: Some(registration.binding.clone()),
        links: Some(registration.links.clone()),
        attributes: registration.attributes.clone(),
    }
}
