//! Observations: their begin, their values, their return after a device was away, their end.

use std::sync::Arc;

use coap::{AckId, Peer, Response, Token};
use lwm2m_model::ObjectPath;

use super::registrations::watch_afresh;
use super::{Event, Kept, ObservationEnd, ObservationLoss, Server};
use crate::operation::{Expected, read_response};
use crate::{DeviceResponse, Now, Observation, ObservationState, RequestFailure};

/// Whether an answer promises notifications (RFC 7641 section 2).
fn accepts(response: &Response) -> bool {
    response.code.is_success() && response.observe.is_some()
}

impl Server {
    /// The answer to an observe that somebody asked for.
    pub(super) fn observe_answered(
        &mut self,
        endpoint: &Arc<str>,
        path: ObjectPath,
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
        let standing = device.observations.get_mut(&path);
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
            path,
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
        device.observations.insert(path, kept);
        self.by_token.insert(token, (Arc::clone(endpoint), path));
        self.events.push_back(Event::ObservationStarted {
            observation,
            replaced,
        });
    }

    /// A device that registered anew answered about an observation that it had.
    pub(super) fn established(
        &mut self,
        endpoint: &Arc<str>,
        path: ObjectPath,
        response: &Response,
    ) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        let Some(registration) = &device.registration else {
            return;
        };
        // Cancelled meanwhile: the device learns it from the reset its next notification gets.
        let Some(kept) = device.observations.get_mut(&path) else {
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
        self.show(observation, response, None);
    }

    pub(super) fn establish_failed(
        &mut self,
        endpoint: &Arc<str>,
        path: ObjectPath,
        failure: RequestFailure,
    ) {
        let Some(kept) = self
            .devices
            .get_mut(endpoint)
            .and_then(|device| device.observations.get_mut(&path))
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
        let kept = self.by_token.get(&token).and_then(|(endpoint, path)| {
            self.devices
                .get_mut(endpoint)
                .and_then(|device| device.observations.get_mut(path))
        });
        let Some(kept) = kept else {
            // Forgotten here, but not below: this one is taken, the next one gets a reset.
            self.stats.notifications_unknown += 1;
            self.coap.unwatch(from, token);
            if let Some(ack) = ack {
                self.coap.acknowledge(now.instant, ack);
            }
            return;
        };
        let observation = Arc::clone(&kept.observation);
        if response.code.is_success() {
            // Also one that was thought lost: the device has it after all.
            kept.state = ObservationState::Active;
            kept.refused = false;
            self.show(observation, response, ack);
        } else {
            // RFC 7641 section 4.2: an error is the last notification.
            kept.state = ObservationState::Dormant;
            kept.refused = true;
            self.show(Arc::clone(&observation), response, ack);
            let why = ObservationLoss::Refused(response.code);
            self.events
                .push_back(Event::ObservationLost { observation, why });
        }
    }

    fn show(&mut self, observation: Arc<Observation>, response: &Response, ack: Option<AckId>) {
        let asked = observation.content_format;
        let read: Result<DeviceResponse, RequestFailure> = read_response(
            response,
            &observation.path,
            Expected::Node,
            asked,
            &self.models,
        );
        match read {
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

    /// Forgets the observation of a path; `false` where there was none.
    pub(super) fn end_observation(&mut self, endpoint: &Arc<str>, path: ObjectPath) -> bool {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return false;
        };
        let Some(kept) = device.observations.remove(&path) else {
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
        self.by_token
            .insert(observation.token, (Arc::clone(&endpoint), observation.path));
        let device = self.devices.entry(endpoint).or_default();
        let kept = Kept {
            observation: Arc::new(observation),
            state: ObservationState::Dormant,
            refused: false,
        };
        device.observations.insert(kept.observation.path, kept);
    }
}
