//! What the engine shows of devices' values while they pass: kept as the last ones, without an event for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use lwm2m::{Body, DeviceResponse, Observation, Registration, Values as Moment};
use lwm2m_model::{Node, ObjectPath};

use super::events::Events;
use super::last_values::Values;
use crate::engine::Onlooker;

/// The part of the interface that the engine knows.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(super) values: Arc<Values>,
    pub(super) events: Arc<Events>,
}

impl Shown {
    fn all(&self, endpoint: &str, nodes: &BTreeMap<ObjectPath, Node>, at_unix_ms: i64) {
        for (path, node) in nodes {
            self.values.seen(endpoint, *path, node, at_unix_ms);
        }
    }

    fn moments(&self, endpoint: &str, moments: &[Moment], now_unix_ms: i64) {
        for moment in moments {
            let at_unix_ms = moment.at_unix_ms.unwrap_or(now_unix_ms);
            self.all(endpoint, &moment.nodes, at_unix_ms);
        }
    }
}

impl Onlooker for Shown {
    fn notified(&self, observation: &Observation, response: &DeviceResponse, now_unix_ms: i64) {
        let endpoint = &observation.endpoint;
        match (&response.body, observation.target.path()) {
            (Body::Node(node), Some(path)) => {
                self.values.seen(endpoint, *path, node, now_unix_ms);
            }
            (Body::Nodes(nodes), _) => self.all(endpoint, nodes, now_unix_ms),
            (Body::Timed(moments), _) => self.moments(endpoint, moments, now_unix_ms),
            _ => {}
        }
    }

    fn sent(&self, registration: &Registration, values: &[Moment], now_unix_ms: i64) {
        self.moments(&registration.endpoint, values, now_unix_ms);
    }

    fn gone(&self, endpoint: &str) {
        self.values.forget(endpoint);
    }

    fn wants_values(&self) -> bool {
        self.events.is_watched()
    }
}
