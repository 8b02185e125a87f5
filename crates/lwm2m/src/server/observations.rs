//! Observations: their begin, their values, their return after a device was away, their end.

use std::sync::Arc;

use coap::{AckId, Peer, Response, Token};

use super::event::{Ack, Waits};
use super::presence::State;
use super::registrations::watch_afresh;
use super::{Event, Kept, ObservationEnd, ObservationLoss, Server};
use crate::answer::read_notification;
use crate::{Now, Observation, ObservationState, RequestFailure, Target};

/// Whether an answer promises notifications (RFC 7641 section 2).
fn accepts(response: &Response) -> bool {
    response.code.is_success() && response.observe.is_some()
}

impl Server {
    /// The answer to an observe that somebody asked for.
    pub(super) fn observe_answered(
        &mut self,
        endpoint: &Arc<str>,
        target: Target,
        token: Token,
        context: Option<String>,
        content_format: Option<u16>,
        response: &Response,
    ) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        let Some(registration) = &device.registration else {
            return;
        };
        let standing = device.observations.get_mut(&target);
        if !accepts(response) {
            // RFC 7641 section 4.1: an answer without Observe ends what stood under the token.
            if let Some(kept) = standing {
                kept.state = ObservationState::Dormant;
                kept.refused = true;
                let (observation, why) = (
                    kept.observation.clone(),
                    ObservationLoss::Refused(response.code),
                );
                self.events
                    .push_back(Event::ObservationLost { observation, why });
            }
            return;
        }
        let replaced = standing.map(|kept| Arc::clone(&kept.observation));
        let observation = Arc::new(Observation {
            endpoint: endpoint.to_string(),
            registration_id: registration.registration_id.clone(),
            target: target.clone(),
            token,
            context: context.or_else(|| {
                replaced
                    .as_ref()
                    .and_then(|replaced| replaced.context.clone())
            }),
            content_format,
        });
        let kept = Kept {
            observation: Arc::clone(&observation),
            state: ObservationState::Active,
            refused: false,
        };
        device.observations.insert(target.clone(), kept);
        self.by_token.insert(token, (Arc::clone(endpoint), target));
        self.events.push_back(Event::ObservationStarted {
            observation,
            replaced,
        });
    }

    /// A device that registered anew answered about an observation that it had.
    pub(super) fn established(
        &mut self,
        now: Now,
        endpoint: &Arc<str>,
        target: &Target,
        response: &Response,
    ) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        let Some(registration) = &device.registration else {
            return;
        };
        // Cancelled meanwhile: the device learns it from the reset its next notification gets.
        let Some(kept) = device.observations.get_mut(target) else {
            return;
        };
        if !accepts(response) {
            kept.state = ObservationState::Dormant;
            kept.refused = true;
            let (observation, why) = (
                kept.observation.clone(),
                ObservationLoss::Refused(response.code),
            );
            self.events
                .push_back(Event::ObservationLost { observation, why });
            return;
        }
        kept.state = ObservationState::Active;
        kept.refused = false;
        watch_afresh(
            &mut self.coap,
            registration.peer,
            registration,
            &kept.observation,
        );
        let replaced = Arc::clone(&kept.observation);
        if replaced.registration_id != registration.registration_id {
            let mut observation = Observation::clone(&replaced);
            observation
                .registration_id
                .clone_from(&registration.registration_id);
            kept.observation = Arc::new(observation);
            let observation = Arc::clone(&kept.observation);
            self.events.push_back(Event::ObservationStarted {
                observation,
                replaced: Some(replaced),
            });
        }
        let observation = Arc::clone(&kept.observation);
        self.show(now, observation, response, None);
    }

    /// Asks a device again for an observation that is kept, under its token: its current value comes as
    /// [`Event::Notified`]. For a host that had no room for a notification and has some now. Without effect on what is not
    /// kept, or where the device is not registered: then it is asked for when it registers.
    pub fn reestablish(&mut self, now: Now, endpoint: &str, target: &Target) {
        let known = self.devices.get_key_value(endpoint);
        let Some(endpoint) = known
            .filter(|(_, device)| device.registration.is_some())
            .map(|(endpoint, _)| Arc::clone(endpoint))
        else {
            return;
        };
        self.establish_all(now, &endpoint, |kept| kept.observation.target == *target);
        self.pump(now, &endpoint);
    }

    pub(super) fn establish_failed(
        &mut self,
        endpoint: &Arc<str>,
        target: &Target,
        failure: RequestFailure,
    ) {
        let Some(kept) = self
            .devices
            .get_mut(endpoint)
            .and_then(|device| device.observations.get_mut(target))
        else {
            return;
        };
        kept.state = ObservationState::Dormant;
        // A reset is a "no" as well: the device understood that it was asked.
        kept.refused = matches!(failure, RequestFailure::Reset);
        let (observation, why) = (kept.observation.clone(), ObservationLoss::Failed(failure));
        self.events
            .push_back(Event::ObservationLost { observation, why });
    }

    pub(super) fn notified(
        &mut self,
        now: Now,
        from: Peer,
        token: Token,
        response: &Response,
        ack: Option<AckId>,
    ) {
        let kept = self.by_token.get(&token).and_then(|(endpoint, target)| {
            let device = self.devices.get_mut(endpoint)?;
            let known = device.registration.as_ref();
            if from.session == 0 && known.is_some_and(|known| known.peer.session != 0) {
                // The device is who it has shown to be; here somebody has shown nothing.
                return None;
            }
            let sleeps = device.presence != State::Reachable;
            let kept = device.observations.get_mut(target)?;
            Some((sleeps.then(|| Arc::clone(endpoint)), kept))
        });
        let Some((heard, kept)) = kept else {
            // Forgotten here, but not below: this one is taken, the next one gets a reset.
            self.stats.notifications_unknown += 1;
            self.coap.unwatch(from, token);
            if let Some(ack) = ack {
                self.coap.acknowledge(now.instant, ack);
            }
            return;
        };
        let ack = ack.map(|ack| Ack(Waits::Notification(ack)));
        let observation = Arc::clone(&kept.observation);
        if response.code.is_success() {
            // Also one that was thought lost: the device has it after all.
            kept.state = ObservationState::Active;
            kept.refused = false;
            self.show(now, observation, response, ack);
        } else {
            // RFC 7641 section 4.2: an error is the last notification.
            kept.state = ObservationState::Dormant;
            kept.refused = true;
            self.show(now, Arc::clone(&observation), response, ack);
            let why = ObservationLoss::Refused(response.code);
            self.events
                .push_back(Event::ObservationLost { observation, why });
        }
        // It listens now: what waited for it can go.
        if let Some(endpoint) = heard {
            self.heard(now, &endpoint);
            self.pump(now, &endpoint);
        }
    }

    fn show(
        &mut self,
        now: Now,
        observation: Arc<Observation>,
        response: &Response,
        ack: Option<Ack>,
    ) {
        let asked = observation.content_format;
        let target = &observation.target;
        let root = self.root(&observation.endpoint);
        match read_notification(response, root, target, asked, &self.models, now.unix_ms) {
            Ok(response) => self.events.push_back(Event::Notified {
                observation,
                response,
                ack,
            }),
            Err(reason) => {
                self.stats.notifications_unreadable += 1;
                self.events.push_back(Event::NotificationUnreadable {
                    observation,
                    reason,
                    ack,
                });
            }
        }
    }

    /// Forgets the observation of a path, or of a list; `false` where there was none.
    pub(super) fn end_observation(&mut self, endpoint: &Arc<str>, target: &Target) -> bool {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return false;
        };
        let Some(kept) = device.observations.remove(target) else {
            return false;
        };
        let peers = [
            device
                .registration
                .as_ref()
                .map(|registration| registration.peer),
            device.other_peer,
        ];
        for peer in peers.into_iter().flatten() {
            self.coap.unwatch(peer, kept.observation.token);
        }
        self.by_token.remove(&kept.observation.token);
        let why = ObservationEnd::Cancelled;
        self.events.push_back(Event::ObservationEnded {
            observation: kept.observation,
            why,
        });
        true
    }

    /// Forgets a device that is gone, with its observations.
    pub(super) fn evict(&mut self, endpoint: &Arc<str>) {
        let Some(device) = self.devices.remove(endpoint) else {
            return;
        };
        for kept in device.observations.into_values() {
            self.by_token.remove(&kept.observation.token);
            let why = ObservationEnd::Evicted;
            self.events.push_back(Event::ObservationEnded {
                observation: kept.observation,
                why,
            });
        }
    }

    /// Keeps an observation that a store kept; its device's registration, if any, comes after it.
    pub(super) fn keep_restored(&mut self, observation: Observation) {
        let endpoint: Arc<str> = observation.endpoint.as_str().into();
        let place = (Arc::clone(&endpoint), observation.target.clone());
        self.by_token.insert(observation.token, place);
        let device = self.devices.entry(endpoint).or_default();
        let kept = Kept {
            observation: Arc::new(observation),
            state: ObservationState::Dormant,
            refused: false,
        };
        let target = kept.observation.target.clone();
        device.observations.insert(target, kept);
    }
}
