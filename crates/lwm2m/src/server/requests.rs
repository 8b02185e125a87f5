//! What the host asks of devices: it begins, is listed, and is cancelled here; `lanes` does it.

use std::sync::Arc;
use std::time::Instant;

use super::lanes::{Ask, Job, Task};
use super::{Event, RequestHandle, RequestOptions, Server};
use crate::answer::Expected;
use crate::{Now, Operation, RequestError, RequestFailure, Target};

/// A request that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRequest {
    pub handle: RequestHandle,
    /// What it is about.
    pub target: Target,
    /// When it is given up.
    pub deadline: Instant,
    /// Whether the device may have seen it; otherwise it waits for its turn, or for the device to listen.
    pub sent: bool,
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
        let target = operation.target();
        let passive = matches!(
            operation,
            Operation::CancelObserve { active: false, .. }
                | Operation::CancelObserveComposite { active: false, .. }
        );
        let Some((endpoint, device)) =
            self.devices.get_key_value(endpoint).filter(|(_, device)| {
                device.registration.is_some()
                    || (passive && device.observations.contains_key(&target))
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
        let is_new = !device.observations.contains_key(&target);
        let observations = device.observations.len()
            + device
                .lane
                .iter()
                .filter(|j| j.task.starts_observation())
                .count();
        let observes = matches!(
            operation,
            Operation::Observe { .. } | Operation::ObserveComposite { .. }
        );
        if observes && is_new && observations >= self.config.max_observations_per_device {
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
                prepared: operation.to_request(
                    device.registration.as_deref(),
                    options.content_format,
                    options.list_format,
                )?,
                expected: Expected::by(&operation),
                repeatable: operation.is_repeatable(),
                kind: match operation {
                    Operation::Observe { .. } | Operation::ObserveComposite { .. } => {
                        Ask::Observe {
                            context: options.context,
                        }
                    }
                    Operation::CancelObserve { .. } | Operation::CancelObserveComposite { .. } => {
                        Ask::Unobserve
                    }
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
            target,
            task,
        };
        if passive && !self.is_observe_ahead(&endpoint, &job.target) {
            self.forget(&endpoint, job);
        } else {
            self.enqueue(&endpoint, job, false);
            self.pump(now, &endpoint);
            if self.is_asleep(&endpoint) && self.queued.contains_key(&id) {
                let handle = RequestHandle(id);
                self.events.push_back(Event::Deferred { handle, endpoint });
            }
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
            self.may_sleep(now, &endpoint);
            self.pump(now, &endpoint);
        }
    }

    /// How many requests wait for a device, the one on the way included.
    pub fn pending(&self, endpoint: &str) -> usize {
        self.devices.get(endpoint).map_or(0, |device| {
            device.lane.len() + usize::from(device.in_flight.is_some())
        })
    }

    /// The requests for a device that have no outcome yet, in the order in which they are sent.
    pub fn pending_requests(&self, endpoint: &str) -> impl Iterator<Item = PendingRequest> {
        let device = self.devices.get(endpoint);
        let sent = device
            .and_then(|device| self.in_flight.get(&device.in_flight?))
            .map(|(_, job)| (job, true));
        let waiting = device
            .into_iter()
            .flat_map(|device| &device.lane)
            .map(|job| (job, false));
        sent.into_iter()
            .chain(waiting)
            .filter(|(job, _)| !job.task.is_establish())
            .map(|(job, sent)| PendingRequest {
                handle: RequestHandle(job.id),
                target: job.target.clone(),
                deadline: job.deadline,
                sent,
            })
    }
}
