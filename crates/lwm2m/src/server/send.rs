//! Send: values that a device reports of its own accord (TS 1.1 core, section 6.4.6).

use std::sync::Arc;

use coap::{Code, ExchangeId, Peer, Request};
use lwm2m_codec::{Below, ContentFormat};

use super::event::{Ack, Waits};
use super::register::{Refusal, busy};
use super::registrations::Answer;
use super::{Event, Server};
use crate::operation::is_senml;
use crate::{Now, Registration, Values};

impl Server {
    /// Takes a Send; its answer waits until the host has the values safe.
    pub(super) fn send(
        &mut self,
        now: Now,
        from: Peer,
        exchange: ExchangeId,
        request: &Request,
    ) -> Answer {
        let registered = self.by_peer.get(&from).cloned();
        let device = registered.and_then(|endpoint| {
            let registration = self.registration(&endpoint).cloned()?;
            Some((endpoint, registration))
        });
        let Some((endpoint, registration)) = device else {
            self.stats.sends_refused += 1;
            let reason = "no device is registered from this address: register anew";
            return Refusal::new(Code::NOT_FOUND, reason).into();
        };
        if !self.is_admitted(from, &endpoint) {
            return Refusal::new(Code::FORBIDDEN, NOT_ADMITTED).into();
        }
        self.heard(now, &endpoint);
        let response = if let Some(retry_after) = self.overloaded {
            self.stats.registrations_over_limit += 1;
            Some(busy(retry_after))
        } else {
            match self.read_values(now, &registration.root_path, request) {
                Ok(values) if !lists_all(&registration, &values) => {
                    self.stats.sends_refused += 1;
                    let reason = "there are values of objects that the device has not registered";
                    Some(Refusal::new(Code::NOT_FOUND, reason).into_response())
                }
                Ok(values) => {
                    let ack = Ack(Waits::Send(exchange));
                    self.events.push_back(Event::Sent {
                        registration: Arc::clone(&registration),
                        values,
                        ack,
                    });
                    None
                }
                Err(refusal) => {
                    self.stats.sends_refused += 1;
                    Some(refusal.into_response())
                }
            }
        };
        Answer {
            response,
            then_serve: Some(endpoint),
        }
    }

    fn read_values(&self, now: Now, root: &str, request: &Request) -> Result<Vec<Values>, Refusal> {
        let format = request
            .content_format
            .and_then(ContentFormat::from_id)
            .filter(|format| is_senml(*format))
            .ok_or_else(|| {
                Refusal::new(
                    Code::UNSUPPORTED_CONTENT_FORMAT,
                    "the values have to be SenML JSON (110) or SenML CBOR (112)",
                )
            })?;
        let groups = Below(root)
            .decode_nodes(&request.payload, &[], format, &self.models)
            .map_err(|error| Refusal::new(Code::BAD_REQUEST, error.to_string()))?;
        if groups.is_empty() {
            return Err(Refusal::new(Code::BAD_REQUEST, "there are no values in it"));
        }
        Ok(Values::read_at(now.unix_ms, groups))
    }
}

/// Whether the device has registered the objects of these values (TS 1.1 core, section 6.4.6; transport, table 6.7-4).
fn lists_all(registration: &Registration, values: &[Values]) -> bool {
    let listed = registration.available_instances();
    values
        .iter()
        .flat_map(|values| values.nodes.keys())
        .all(|path| path.object_id().is_some_and(|id| listed.contains_key(&id)))
}

/// What a peer is told that may not speak for an endpoint.
pub(super) const NOT_ADMITTED: &str = "this session may not speak for this endpoint";
