//! Requests to devices: one lane each, one request of it on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use chacha20::rand_core::Rng as _;
use coap::{FailureReason, RequestId, Response, Token};

use super::presence::State;
use super::registrations::observe_request;
use super::{Event, RequestHandle, Server};
use crate::answer::{Expected, read_response};
use crate::operation::PreparedRequest;
use crate::{Body, DeviceResponse, Now, RequestFailure, Target};

/// Something to be done with a device.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) target: Target,
    pub(super) task: Task,
}

pub(super) enum Task {
    /// A request that somebody waits for.
    Ask {
        prepared: PreparedRequest,
        expected: Expected,
        kind: Ask,
        repeatable: bool,
    },
    /// Forget an observation, in its turn behind an observe that is waiting.
    Forget,
    /// Ask a device that registered anew for an observation that it had.
    Establish,
}

pub(super) enum Ask {
    Plain,
    Observe {
        context: Option<String>,
    },
    /// GET with Observe 1 (RFC 7641 section 3.6).
    Unobserve,
}

impl Task {
    pub(super) fn starts_observation(&self) -> bool {
        matches!(
            self,
            Self::Establish
                | Self::Ask {
                    kind: Ask::Observe { .. },
                    ..
                }
        )
    }

    pub(super) fn is_establish(&self) -> bool {
        matches!(self, Self::Establish)
    }

    /// Whether it may be sent under another message id than before, somebody waiting for it.
    fn is_repeatable(&self) -> bool {
        matches!(
            self,
            Self::Ask {
                repeatable: true,
                kind: Ask::Plain | Ask::Observe { .. },
                ..
            }
        )
    }
}

fn failure(reason: FailureReason) -> RequestFailure {
    match reason {
        FailureReason::Timeout | FailureReason::Unanswered => RequestFailure::Timeout,
        FailureReason::Reset => RequestFailure::Reset,
        other => RequestFailure::InvalidResponse(other.to_string()),
    }
}

impl Server {
    pub(super) fn is_observe_ahead(&self, endpoint: &Arc<str>, target: &Target) -> bool {
        let Some(device) = self.devices.get(endpoint) else {
            return false;
        };
        let on_the_way = device
            .in_flight
            .and_then(|id| self.in_flight.get(&id))
            .map(|(_, job)| job);
        device
            .lane
            .iter()
            .chain(on_the_way)
            .any(|job| job.target == *target && job.task.starts_observation())
    }

    pub(super) fn enqueue(&mut self, endpoint: &Arc<str>, job: Job, first: bool) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        self.queue_deadlines.insert((job.deadline, job.id));
        self.queued.insert(job.id, Arc::clone(endpoint));
        if first {
            device.lane.push_front(job);
        } else {
            device.lane.push_back(job);
        }
    }

    /// Puts asking again for the observations that `wanted` picks at the head of the lane. The caller then calls
    /// [`pump`](Self::pump).
    pub(super) fn establish_all(
        &mut self,
        now: Now,
        endpoint: &Arc<str>,
        wanted: impl Fn(&super::Kept) -> bool,
    ) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        let mut targets = Vec::new();
        for (target, kept) in &mut device.observations {
            if wanted(kept) {
                kept.state = crate::ObservationState::Establishing;
                kept.refused = false;
                targets.push(target.clone());
            }
        }
        let waiting: Vec<u64> = device
            .lane
            .iter()
            .filter(|job| job.task.is_establish() && targets.contains(&job.target))
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.unqueue(endpoint, id);
        }
        for (position, target) in targets.into_iter().enumerate().rev() {
            // Each has its own time, as they go one after the other.
            let turns = u32::try_from(position + 1).unwrap_or(u32::MAX);
            let wait = self.config.request_timeout.saturating_mul(turns);
            let deadline = now.instant.checked_add(wait).unwrap_or(now.instant);
            let id = self.next_serial();
            self.enqueue(
                endpoint,
                Job {
                    id,
                    deadline,
                    target,
                    task: Task::Establish,
                },
                true,
            );
        }
    }

    /// Sends the next request of a lane, if none is on the way and the device listens.
    pub(super) fn pump(&mut self, now: Now, endpoint: &Arc<str>) {
        loop {
            let Some(device) = self.devices.get_mut(endpoint) else {
                return;
            };
            let Some(registration) = device.registration.clone() else {
                return;
            };
            if device.in_flight.is_some() {
                return;
            }
            let asleep = device.presence == State::Asleep;
            // What is forgotten is no business of the device.
            let may_go = |job: &&Job| !asleep || matches!(job.task, Task::Forget);
            if device.lane.front().filter(may_go).is_none() {
                return;
            }
            let Some(job) = device.lane.pop_front() else {
                return;
            };
            self.queue_deadlines.remove(&(job.deadline, job.id));
            self.queued.remove(&job.id);
            if job.deadline <= now.instant {
                self.overdue(endpoint, job);
                continue;
            }
            let observation = device
                .observations
                .get(&job.target)
                .map(|kept| kept.observation.clone());
            let (request, token) = match &job.task {
                Task::Forget => {
                    self.forget(endpoint, job);
                    continue;
                }
                Task::Establish => {
                    // Cancelled while it waited: nothing is left to ask for.
                    let Some(observation) = observation else {
                        continue;
                    };
                    let request = observe_request(&registration, &observation);
                    (request, Some(observation.token))
                }
                Task::Ask {
                    prepared,
                    kind: Ask::Plain,
                    ..
                } => (prepared.clone().into_request(&registration, None), None),
                Task::Ask {
                    prepared,
                    kind: Ask::Observe { .. },
                    ..
                } => {
                    let token = observation
                        .map_or_else(|| self.new_token(), |observation| observation.token);
                    (
                        prepared.clone().into_request(&registration, Some(0)),
                        Some(token),
                    )
                }
                Task::Ask {
                    prepared,
                    kind: Ask::Unobserve,
                    ..
                } => {
                    let prepared = prepared.clone();
                    let Some(observation) = observation else {
                        self.complete(endpoint, job.id, Ok(nothing_to_cancel()));
                        continue;
                    };
                    self.end_observation(endpoint, &job.target);
                    (
                        prepared.into_request(&registration, Some(1)),
                        Some(observation.token),
                    )
                }
            };
            let to = self
                .devices
                .get(endpoint)
                .and_then(|device| device.moved_to)
                .unwrap_or(registration.peer);
            let timeout = job.deadline.duration_since(now.instant);
            let options = coap::RequestOptions {
                token,
                timeout,
                answer_timeout: Some(self.config.answer_timeout),
                ..coap::RequestOptions::default()
            };
            match self.coap.send_request(now.instant, to, request, options) {
                Ok(id) => {
                    if let Some(device) = self.devices.get_mut(endpoint) {
                        device.in_flight = Some(id);
                    }
                    if !job.task.is_establish() {
                        self.events.push_back(Event::Dispatched {
                            handle: RequestHandle(job.id),
                            endpoint: Arc::clone(endpoint),
                        });
                    }
                    self.in_flight.insert(id, (Arc::clone(endpoint), job));
                    return;
                }
                Err(error) => {
                    let failure = RequestFailure::NotSent(error.to_string());
                    if job.task.is_establish() {
                        self.establish_failed(endpoint, &job.target, failure);
                    } else {
                        self.complete(endpoint, job.id, Err(failure));
                    }
                }
            }
        }
    }

    /// A request on the way has its outcome.
    pub(super) fn finish(
        &mut self,
        now: Now,
        id: RequestId,
        token: Token,
        outcome: Result<Response, FailureReason>,
    ) {
        let Some((endpoint, job)) = self.take_in_flight(id) else {
            return;
        };
        let mut lost = false;
        match &outcome {
            // Nothing of a whole series of retransmissions came through.
            Err(FailureReason::Timeout) if job.deadline > now.instant => {
                lost = true;
                self.silent(&endpoint);
            }
            Err(FailureReason::Timeout | FailureReason::Unanswered) => {
                self.may_sleep(now, &endpoint);
            }
            // Whatever it says, it listens.
            Ok(_) | Err(_) => self.heard(now, &endpoint),
        }
        if lost && job.task.is_repeatable() && self.is_asleep(&endpoint) {
            let handle = RequestHandle(job.id);
            self.enqueue(&endpoint, job, true);
            self.events.push_back(Event::Deferred { handle, endpoint });
            return;
        }
        match (job.task, outcome.map_err(failure)) {
            (Task::Establish, Ok(response)) => {
                self.established(now, &endpoint, &job.target, &response);
            }
            (Task::Establish, Err(failure)) => {
                self.establish_failed(&endpoint, &job.target, failure);
            }
            // Never on the way: it is done when its turn comes.
            (Task::Forget, _) => {}
            (Task::Ask { .. }, Err(failure)) => self.complete(&endpoint, job.id, Err(failure)),
            (
                Task::Ask {
                    prepared,
                    expected,
                    kind,
                    ..
                },
                Ok(response),
            ) => {
                if let Ask::Observe { context } = kind {
                    self.observe_answered(
                        &endpoint,
                        job.target.clone(),
                        token,
                        context,
                        prepared.accept,
                        &response,
                    );
                }
                let result = read_response(
                    &response,
                    self.root(&endpoint),
                    &job.target,
                    expected,
                    prepared.accept,
                    &self.models,
                );
                self.complete(&endpoint, job.id, result);
            }
        }
        self.pump(now, &endpoint);
    }

    /// A passive cancel: no word to the device, whose next notification gets a reset.
    pub(super) fn forget(&mut self, endpoint: &Arc<str>, job: Job) {
        let response = if self.end_observation(endpoint, &job.target) {
            DeviceResponse {
                code: coap::Code::DELETED,
                body: Body::Cancelled(1),
            }
        } else {
            nothing_to_cancel()
        };
        self.complete(endpoint, job.id, Ok(response));
        self.retire(endpoint);
    }

    pub(super) fn give_up_overdue(&mut self, now: Now) {
        while let Some((at, id)) = self.queue_deadlines.first().copied() {
            if at > now.instant {
                break;
            }
            match self
                .queued
                .get(&id)
                .cloned()
                .and_then(|endpoint| Some((self.unqueue(&endpoint, id)?, endpoint)))
            {
                Some((job, endpoint)) => self.overdue(&endpoint, job),
                None => {
                    self.queue_deadlines.remove(&(at, id));
                }
            }
        }
    }

    fn overdue(&mut self, endpoint: &Arc<str>, job: Job) {
        if job.task.is_establish() {
            self.establish_failed(endpoint, &job.target, RequestFailure::Expired);
        } else {
            self.complete(endpoint, job.id, Err(RequestFailure::Expired));
        }
    }

    /// The device registered anew while something was on the way. What may be repeated goes on, or is sent anew where the
    /// device has another address; the rest is given up: retransmitted into a device that has restarted, it might be
    /// carried out twice.
    pub(super) fn drop_in_flight_of_replaced(&mut self, endpoint: &Arc<str>, same_peer: bool) {
        let Some(id) = self
            .devices
            .get(endpoint)
            .and_then(|device| device.in_flight)
        else {
            return;
        };
        let repeatable = self
            .in_flight
            .get(&id)
            .is_some_and(|(_, job)| job.task.is_repeatable());
        if repeatable && same_peer {
            return;
        }
        self.coap.cancel_request(id);
        let Some((_, job)) = self.take_in_flight(id) else {
            return;
        };
        if repeatable {
            self.enqueue(endpoint, job, true);
        } else if !job.task.is_establish() {
            self.complete(endpoint, job.id, Err(RequestFailure::Gone { sent: true }));
        }
    }

    /// Ends everything that waits for a device.
    pub(super) fn clear_lane(
        &mut self,
        endpoint: &Arc<str>,
        why: impl Fn(/* sent */ bool) -> RequestFailure,
    ) {
        let Some(device) = self.devices.get_mut(endpoint) else {
            return;
        };
        let lane = std::mem::take(&mut device.lane);
        if let Some(id) = device.in_flight {
            self.coap.cancel_request(id);
            if let Some((_, job)) = self.take_in_flight(id)
                && !job.task.is_establish()
            {
                self.complete(endpoint, job.id, Err(why(true)));
            }
        }
        for job in lane {
            self.queue_deadlines.remove(&(job.deadline, job.id));
            self.queued.remove(&job.id);
            match job.task {
                Task::Establish => {}
                Task::Forget => self.forget_without_retiring(endpoint, job.id, &job.target),
                Task::Ask { .. } => self.complete(endpoint, job.id, Err(why(false))),
            }
        }
    }

    fn forget_without_retiring(&mut self, endpoint: &Arc<str>, id: u64, target: &Target) {
        let ended = self.end_observation(endpoint, target);
        let response = DeviceResponse {
            code: coap::Code::DELETED,
            body: Body::Cancelled(1),
        };
        self.complete(
            endpoint,
            id,
            Ok(if ended { response } else { nothing_to_cancel() }),
        );
    }

    pub(super) fn take_in_flight(&mut self, id: RequestId) -> Option<(Arc<str>, Job)> {
        let (endpoint, job) = self.in_flight.remove(&id)?;
        if let Some(device) = self.devices.get_mut(&endpoint)
            && device.in_flight == Some(id)
        {
            device.in_flight = None;
        }
        Some((endpoint, job))
    }

    pub(super) fn unqueue(&mut self, endpoint: &Arc<str>, id: u64) -> Option<Job> {
        self.queued.remove(&id);
        let lane: &mut VecDeque<Job> = &mut self.devices.get_mut(endpoint)?.lane;
        let position = lane.iter().position(|job| job.id == id)?;
        let job = lane.remove(position)?;
        self.queue_deadlines.remove(&(job.deadline, job.id));
        Some(job)
    }

    pub(super) fn complete(
        &mut self,
        endpoint: &Arc<str>,
        id: u64,
        result: Result<DeviceResponse, RequestFailure>,
    ) {
        let handle = RequestHandle(id);
        self.events.push_back(Event::Completed {
            handle,
            endpoint: endpoint.to_string(),
            result,
        });
    }

    /// Eight random bytes: nobody who does not see the traffic can make a notification up.
    fn new_token(&mut self) -> Token {
        loop {
            let bytes = self.rng.next_u64().to_be_bytes();
            if let Ok(token) = Token::new(&bytes)
                && !self.by_token.contains_key(&token)
            {
                return token;
            }
        }
    }
}

fn nothing_to_cancel() -> DeviceResponse {
    DeviceResponse {
        code: coap::Code::NOT_FOUND,
        body: Body::Cancelled(0),
    }
}
