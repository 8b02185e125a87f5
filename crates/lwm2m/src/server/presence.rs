//! Queue mode: which devices listen, and until when (TS 1.1 transport, section 6.5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::{Event, Server};
use crate::{Now, ObservationState};

/// Whether a device listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It is not in queue mode: it always listens.
    Reachable,
    /// In queue mode, and heard of not long ago.
    Awake,
    /// In queue mode: it listens again when it is heard of.
    Asleep,
}

/// The same, with when that ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Reachable,
    Awake {
        until: Instant,
    },
    Asleep,
}

/// As many devices have an awake window of their own as
/// [`ServerConfig::max_awake_windows`](super::ServerConfig::max_awake_windows) allows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{limit} devices have an awake window of their own already: raise the limit or remove some"
)]
pub struct TooManyWindows {
    pub limit: usize,
}

impl Server {
    /// Whether a device listens; `None` where none is registered under this endpoint name.
    pub fn presence(&self, endpoint: &str) -> Option<Presence> {
        let device = self.devices.get(endpoint)?;
        device.registration.as_ref()?;
        Some(match device.presence {
            State::Reachable => Presence::Reachable,
            State::Awake { .. } => Presence::Awake,
            State::Asleep => Presence::Asleep,
        })
    }

    /// How long a device in queue mode listens after it was heard of.
    pub fn awake_window(&self, endpoint: &str) -> Duration {
        self.awake_windows
            .get(endpoint)
            .copied()
            .unwrap_or(self.config.awake_window)
    }

    /// Sets how long a device listens after it was heard of, from its next message on, whether or not it is registered
    /// now; `None` makes it the usual time again.
    ///
    /// # Errors
    /// When [`ServerConfig::max_awake_windows`](super::ServerConfig::max_awake_windows) devices have one already.
    pub fn set_awake_window(
        &mut self,
        endpoint: &str,
        window: Option<Duration>,
    ) -> Result<(), TooManyWindows> {
        let Some(window) = window else {
            self.awake_windows.remove(endpoint);
            return Ok(());
        };
        if let Some(known) = self.awake_windows.get_mut(endpoint) {
            *known = window;
            return Ok(());
        }
        let limit = self.config.max_awake_windows;
        if self.awake_windows.len() >= limit {
            return Err(TooManyWindows { limit });
        }
        self.awake_windows.insert(endpoint.into(), window);
        Ok(())
    }

    /// A device was heard of: if it is in queue mode it listens from now on, for its window. The caller then calls
    /// [`pump`](Self::pump).
    pub(super) fn heard(&mut self, now: Now, endpoint: &Arc<str>) {
        let Some(device) = self.devices.get(endpoint) else {
            return;
        };
        let Some(registration) = &device.registration else {
            return;
        };
        let before = device.presence;
        if !registration.binding.queue {
            if before != State::Reachable {
                self.set_presence(endpoint, State::Reachable);
            }
            return;
        }
        let window = self.awake_window(endpoint);
        // A window without end is one that no timer ends.
        let until = now
            .instant
            .checked_add(window)
            .unwrap_or(now.instant + YEAR);
        let registration = Arc::clone(registration);
        self.set_presence(endpoint, State::Awake { until });
        if !matches!(before, State::Awake { .. }) {
            self.events.push_back(Event::Awake { registration });
            // What was lost while it slept is asked for again.
            self.establish_all(now, endpoint, |kept| {
                kept.state == ObservationState::Dormant && !kept.refused
            });
        }
    }

    /// A device did not answer: it sleeps, if it may.
    pub(super) fn silent(&mut self, endpoint: &Arc<str>) {
        let awake = self
            .devices
            .get(endpoint)
            .is_some_and(|device| matches!(device.presence, State::Awake { .. }));
        if awake {
            self.sleep(endpoint);
        }
    }

    /// Puts to sleep whose window is over and who has nothing to answer any more.
    pub(super) fn fall_asleep(&mut self, now: Now) {
        while let Some((at, endpoint)) = self.sleeps.first().cloned() {
            if at > now.instant {
                return;
            }
            self.sleeps.pop_first();
            self.may_sleep(now, &endpoint);
        }
    }

    /// Something that kept a device awake is over.
    pub(super) fn may_sleep(&mut self, now: Now, endpoint: &Arc<str>) {
        let over = self.devices.get(endpoint).is_some_and(|device| {
            let over = matches!(device.presence, State::Awake { until } if until <= now.instant);
            over && device.in_flight.is_none()
        });
        if over {
            self.sleep(endpoint);
        }
    }

    pub(super) fn is_asleep(&self, endpoint: &str) -> bool {
        self.devices
            .get(endpoint)
            .is_some_and(|device| device.presence == State::Asleep)
    }

    /// A registration that was taken up from a store: when its device was last heard of is known, but not what of.
    pub(super) fn restore_presence(&mut self, now: Now, endpoint: &Arc<str>) {
        let Some(registration) = self.registration(endpoint) else {
            return;
        };
        if !registration.binding.queue {
            return;
        }
        let silent_ms = now.unix_ms.saturating_sub(registration.last_update_unix_ms);
        let silent = Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0));
        let window = self.awake_window(endpoint);
        let left = window.saturating_sub(silent);
        let state = match now.instant.checked_add(left) {
            Some(until) if !left.is_zero() => State::Awake { until },
            _ => State::Asleep,
        };
        self.set_presence(endpoint, state);
    }

    /// Its registration ended.
    pub(super) fn forget_presence(&mut self, endpoint: &Arc<str>) {
        self.set_presence(endpoint, State::Reachable);
    }

    fn sleep(&mut self, endpoint: &Arc<str>) {
        self.set_presence(endpoint, State::Asleep);
        if let Some(registration) = self.registration(endpoint).cloned() {
            self.events.push_back(Event::Sleeping { registration });
        }
    }

    fn set_presence(&mut self, endpoint: &Arc<str>, state: State) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        if let State::Awake { until } = std::mem::replace(&mut device.presence, state) {
            self.sleeps.remove(&(until, Arc::clone(endpoint)));
        }
        if let State::Awake { until } = state {
            self.sleeps.insert((until, Arc::clone(endpoint)));
        }
    }
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);
