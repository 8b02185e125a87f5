//! Requests to devices: one lane each, one request of it on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use chacha20::rand_core::Rng as _;
use coap::{FailureReason, RequestId, Response, Token};
use lwm2m_model::ObjectPath;

use super::registrations::observe_request;
use super::{Event, RequestHandle, RequestOptions, Server};
use crate::operation::{Expected, PreparedRequest, read_response};
use crate::{Body, DeviceResponse, Now, Operation, RequestError, RequestFailure};

/// Something to be done with a device.
pub(super) struct Job {
    pub(super) id: u64,
    deadline: Instant,
    path: ObjectPath,
    task: Task,
}

enum Task {
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

enum Ask {
    Plain,
    Observe {
        context: Option<String>,
    },
    /// GET with Observe 1 (RFC 7641 section 3.6).
    Unobserve,
}

impl Task {
    fn starts_observation(&self) -> bool {
        matches!(
            self,
            Self::Establish
                | Self::Ask {
                    kind: Ask::Observe { .. },
                    ..
                }
        )
    }

    fn is_establish(&self) -> bool {
        matches!(self, Self::Establish)
    }
}

pub(super) fn failure(reason: FailureReason) -> RequestFailure {
    match reason {
        FailureReason::Timeout => RequestFailure::Timeout,
        FailureReason::Reset => RequestFailure::Reset,
        other => RequestFailure::InvalidResponse(other.to_string()),
    }
}

impl Server {
    /// Asks something of a device. The outcome comes as [`Event::Completed`] with the handle returned here; when an
    /// error is returned, nothing comes.
    ///
    /// # Errors
    /// When the device is not registered, too much waits for it already, or the operation makes no sense. A passive
    /// cancel is taken for a device that is gone, too, when an observation of the path is kept for it.
    pub fn request(
        &mut self,
        now: Now,
        endpoint: &str,
        operation: Operation,
        options: RequestOptions,
    ) -> Result<RequestHandle, RequestError> {
        let path = operation.path();
        let passive = matches!(operation, Operation::CancelObserve { active: false, .. });
        let Some((endpoint, device)) =
            self.devices.get_key_value(endpoint).filter(|(_, device)| {
                device.registration.is_some()
                    || (passive && device.observations.contains_key(&path))
            })
        else {
            return Err(RequestError::NotRegistered(endpoint.to_owned()));
        };
        let waiting = device
            .lane
            .iter()
            .filter(|job| !job.task.is_establish())
            .count();
        if waiting >= self.config.max_pending_per_device {
            let limit = self.config.max_pending_per_device;
            return Err(RequestError::TooManyPending {
                endpoint: endpoint.to_string(),
                limit,
            });
        }
        let is_new = !device.observations.contains_key(&path);
        let observations = device.observations.len()
            + device
                .lane
                .iter()
                .filter(|j| j.task.starts_observation())
                .count();
        if matches!(operation, Operation::Observe { .. })
            && is_new
            && observations >= self.config.max_observations_per_device
        {
            let limit = self.config.max_observations_per_device;
            return Err(RequestError::TooManyObservations {
                endpoint: endpoint.to_string(),
                limit,
            });
        }
        let task = if passive {
            Task::Forget
        } else {
            Task::Ask {
                prepared: operation.to_request(options.content_format)?,
                expected: Expected::by(&operation),
                repeatable: operation.is_repeatable(),
                kind: match operation {
                    Operation::Observe { .. } => Ask::Observe {
                        context: options.context,
                    },
                    Operation::CancelObserve { .. } => Ask::Unobserve,
                    _ => Ask::Plain,
                },
            }
        };
        let endpoint = Arc::clone(endpoint);
        let timeout = options.timeout.unwrap_or(self.config.request_timeout);
        let deadline = now
            .instant
            .checked_add(timeout)
            .unwrap_or(now.instant + self.config.request_timeout);
        let id = self.next_serial();
        let job = Job {
            id,
            deadline,
            path,
            task,
        };
        if passive && !self.is_observe_ahead(&endpoint, path) {
            self.forget(&endpoint, job);
        } else {
            self.enqueue(&endpoint, job, false);
            self.pump(now, &endpoint);
        }
        Ok(RequestHandle(id))
    }

    /// Gives up a request: it is not sent (again), and ends with [`RequestFailure::Cancelled`]. Without effect on one
    /// that has its outcome.
    pub fn cancel(&mut self, now: Now, handle: RequestHandle) {
        if let Some(endpoint) = self.queued.get(&handle.0).cloned() {
            if let Some(job) = self.unqueue(&endpoint, handle.0) {
                self.complete(
                    &endpoint,
                    job.id,
                    Err(RequestFailure::Cancelled { sent: false }),
                );
            }
            return;
        }
        let Some(id) = self
            .in_flight
            .iter()
            .find(|(_, (_, job))| job.id == handle.0)
            .map(|(id, _)| *id)
        else {
            return;
        };
        if let Some((endpoint, job)) = self.take_in_flight(id) {
            self.coap.cancel_request(id);
            self.complete(
                &endpoint,
                job.id,
                Err(RequestFailure::Cancelled { sent: true }),
            );
            self.pump(now, &endpoint);
        }
    }

    /// How many requests wait for a device, the one on the way included.
    pub fn pending(&self, endpoint: &str) -> usize {
        self.devices.get(endpoint).map_or(0, |device| {
            device.lane.len() + usize::from(device.in_flight.is_some())
        })
    }

    fn is_observe_ahead(&self, endpoint: &Arc<str>, path: ObjectPath) -> bool {
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
            .any(|job| job.path == path && job.task.starts_observation())
    }

    fn enqueue(&mut self, endpoint: &Arc<str>, job: Job, first: bool) {
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
        let mut paths = Vec::new();
        for (path, kept) in &mut device.observations {
            if wanted(kept) {
                kept.state = crate::ObservationState::Establishing;
                kept.refused = false;
                paths.push(*path);
            }
        }
        let waiting: Vec<u64> = device
            .lane
            .iter()
            .filter(|job| job.task.is_establish() && paths.contains(&job.path))
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.unqueue(endpoint, id);
        }
        for (position, path) in paths.iter().enumerate().rev() {
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
                    path: *path,
                    task: Task::Establish,
                },
                true,
            );
        }
    }

    /// Sends the next request of a lane, if none is on the way.
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
                .get(&job.path)
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
                    let format = observation.content_format;
                    let request = observe_request(&registration, job.path, format);
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
                    self.end_observation(endpoint, job.path);
                    (
                        prepared.into_request(&registration, Some(1)),
                        Some(observation.token),
                    )
                }
            };
            let timeout = job.deadline.duration_since(now.instant);
            let options = coap::RequestOptions {
                token,
                timeout,
                ..coap::RequestOptions::default()
            };
            match self
                .coap
                .send_request(now.instant, registration.peer, request, options)
            {
                Ok(id) => {
                    if let Some(device) = self.devices.get_mut(endpoint) {
                        device.in_flight = Some(id);
                    }
                    self.in_flight.insert(id, (Arc::clone(endpoint), job));
                    return;
                }
                Err(error) => {
                    let failure = RequestFailure::NotSent(error.to_string());
                    if job.task.is_establish() {
                        self.establish_failed(endpoint, job.path, failure);
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
        outcome: Result<Response, RequestFailure>,
    ) {
        let Some((endpoint, job)) = self.take_in_flight(id) else {
            return;
        };
        match (job.task, outcome) {
            (Task::Establish, Ok(response)) => self.established(&endpoint, job.path, &response),
            (Task::Establish, Err(failure)) => self.establish_failed(&endpoint, job.path, failure),
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
                        job.path,
                        token,
                        context,
                        prepared.accept,
                        &response,
                    );
                }
                let result = read_response(
                    &response,
                    &job.path,
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
    fn forget(&mut self, endpoint: &Arc<str>, job: Job) {
        let response = if self.end_observation(endpoint, job.path) {
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
        let failure = RequestFailure::NotSent(
            "its time was over before earlier requests were answered".to_owned(),
        );
        if job.task.is_establish() {
            self.establish_failed(endpoint, job.path, failure);
        } else {
            self.complete(endpoint, job.id, Err(failure));
        }
    }

    /// The device registered anew while something was on the way. What may be repeated goes on, to the same address;
    /// the rest is given up: retransmitted into a device that has restarted, it might be carried out twice.
    pub(super) fn drop_in_flight_of_replaced(&mut self, endpoint: &Arc<str>, same_peer: bool) {
        let Some(id) = self
            .devices
            .get(endpoint)
            .and_then(|device| device.in_flight)
        else {
            return;
        };
        let goes_on = self.in_flight.get(&id).is_some_and(|(_, job)| {
            same_peer
                && matches!(
                    job.task,
                    Task::Ask {
                        repeatable: true,
                        ..
                    }
                )
        });
        if goes_on {
            return;
        }
        self.coap.cancel_request(id);
        if let Some((_, job)) = self.take_in_flight(id)
            && !job.task.is_establish()
        {
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
                Task::Forget => self.forget_without_retiring(endpoint, job.id, job.path),
                Task::Ask { .. } => self.complete(endpoint, job.id, Err(why(false))),
            }
        }
    }

    fn forget_without_retiring(&mut self, endpoint: &Arc<str>, id: u64, path: ObjectPath) {
        let ended = self.end_observation(endpoint, path);
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

    fn take_in_flight(&mut self, id: RequestId) -> Option<(Arc<str>, Job)> {
        let (endpoint, job) = self.in_flight.remove(&id)?;
        if let Some(device) = self.devices.get_mut(&endpoint)
            && device.in_flight == Some(id)
        {
            device.in_flight = None;
        }
        Some((endpoint, job))
    }

    fn unqueue(&mut self, endpoint: &Arc<str>, id: u64) -> Option<Job> {
        self.queued.remove(&id);
        let lane: &mut VecDeque<Job> = &mut self.devices.get_mut(endpoint)?.lane;
        let position = lane.iter().position(|job| job.id == id)?;
        let job = lane.remove(position)?;
        self.queue_deadlines.remove(&(job.deadline, job.id));
        Some(job)
    }

    fn complete(
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
