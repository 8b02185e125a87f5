//! What the engine says as the contract's records, and requests as operations (contract, sections 3 and 4).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use coap::Code;
use lwm2m::{
    Body, DEVICE_CHOOSES, DeviceResponse, Observation, Operation, Registration, RegistrationUpdate,
    RequestError, RequestFailure, Values, Version, WriteMode,
};
use lwm2m_codec::{ContentFormat, Link};
use lwm2m_model::{InstanceNode, Node, ObjectPath, Registry};
use records::{
    AvroLink, Bnd, ConvertError, ObserveHead, RegistrationDelete, RegistrationNew,
    RegistrationResponse, Request, RequestBody, RequestKind, Response, ResponseBody, ResponseCode,
    ResponseObserve, ResponsePayload, UNSET_TICKET, content_from_node, new_instance,
    node_from_write,
};

/// A request that can't become an operation; the text says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

/// The event of a new registration. `server`: the address devices come to.
pub(crate) fn registration_new(
    server_id: &str,
    server: SocketAddr,
    registration: &Registration,
) -> RegistrationResponse {
    let binding = &registration.binding;
    let mut attributes = registration.attributes.clone();
    // LwM2M 1.1's bindings don't fit the enum: the raw one stands beside it.
    if registration.version > Version::V1_0 {
        attributes.insert("b".to_owned(), binding.raw.clone());
    }
    RegistrationResponse::New(RegistrationNew {
        ep: registration.endpoint.clone(),
        server_id: server_id.to_owned(),
        reg_date: registration.registered_at_unix_ms,
        address: registration.peer.addr.ip().to_canonical().to_string(),
        port: i32::from(registration.peer.addr.port()),
        reg_addr: server.ip().to_canonical().to_string(),
        reg_port: i32::from(server.port()),
        lt: seconds(registration.lifetime),
        sms: registration.sms.clone(),
        ver: registration.version.to_string(),
        bnd: Bnd::from_binding(&binding.raw, binding.queue),
        reg_id: registration.registration_id.clone(),
        links: links(&registration.links),
        attributes: Some(attributes),
        root: registration.root_path.clone(),
        last_up: registration.last_update_unix_ms,
    })
}

/// The event of an update: only what the device sent is set.
pub(crate) fn registration_updated(
    server_id: &str,
    registration: &Registration,
    update: &RegistrationUpdate,
) -> RegistrationResponse {
    let mut attributes = update.attributes.clone();
    if let Some(binding) = &update.binding
        && registration.version > Version::V1_0
    {
        attributes.insert("b".to_owned(), binding.raw.clone());
    }
    RegistrationResponse::Update(records::RegistrationUpdate {
        ep: registration.endpoint.clone(),
        server_id: server_id.to_owned(),
        reg_id: update.registration_id.clone(),
        address: update.peer.addr.ip().to_canonical().to_string(),
        port: i32::from(update.peer.addr.port()),
        lt: update.lifetime.map(seconds),
        sms: update.sms.clone(),
        bnd: update
            .binding
            .as_ref()
            .map(|binding| Bnd::from_binding(&binding.raw, binding.queue)),
        links: update.links.as_deref().map(links),
        attributes: (!attributes.is_empty()).then_some(attributes),
        last_up: update.at_unix_ms,
    })
}

/// The event of a registration's end.
pub(crate) fn registration_deleted(
    server_id: &str,
    registration: &Registration,
    expired: bool,
) -> RegistrationResponse {
    RegistrationResponse::Delete(RegistrationDelete {
        ep: registration.endpoint.clone(),
        server_id: server_id.to_owned(),
        expired,
        last_up: registration.last_update_unix_ms,
    })
}

/// What started an observation, as it stands in the observation's context.
///
/// ```text
/// ticket                 or   ticket U+001F traceparent
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cause<'a> {
    pub(crate) ticket: &'a str,
    pub(crate) traceparent: Option<&'a str>,
}

impl<'a> Cause<'a> {
    const BETWEEN: char = '\u{1f}';

    pub(crate) fn of(observation: &'a Observation) -> Self {
        let context = observation.context.as_deref();
        match context.map(|context| context.rsplit_once(Self::BETWEEN)) {
            None => Self {
                ticket: UNSET_TICKET,
                traceparent: None,
            },
            Some(None) => Self {
                ticket: context.unwrap_or(UNSET_TICKET),
                traceparent: None,
            },
            Some(Some((ticket, traceparent))) => Self {
                ticket,
                traceparent: Some(traceparent).filter(|text| !text.is_empty()),
            },
        }
    }

    pub(crate) fn to_context(self) -> String {
        format!(
            "{}{}{}",
            self.ticket,
            Self::BETWEEN,
            self.traceparent.unwrap_or_default()
        )
    }
}

/// The datums of one message of a device, one behind the other, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Datums {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Datums {
    /// What is kept of the memory that a long message took.
    const KEPT: usize = 64 * 1024;

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(Self::KEPT);
        self.ends.shrink_to(Self::KEPT / size_of::<usize>());
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }
}

/// Writes a notification's records as datums: one per path and time stamp. `now`: of values without a time of their own.
///
/// # Errors
/// When a value does not stand where it should; what was written until then is of no use.
pub(crate) fn notification_records(
    server_id: &str,
    observation: &Observation,
    response: &DeviceResponse,
    now: i64,
    datums: &mut Datums,
) -> Result<(), ConvertError> {
    datums.clear();
    let ticket = Cause::of(observation).ticket;
    let mut nodes = |nodes: &mut dyn Iterator<Item = (&ObjectPath, &Node)>, timestamp| {
        for (path, node) in nodes {
            let head = ObserveHead {
                ticket,
                observation_id: &observation.token,
                server_id,
                ep: &observation.endpoint,
                path,
                timestamp,
            };
            ResponseObserve::write_shown(head, path, node, &mut datums.bytes)?;
            datums.end();
        }
        Ok(())
    };
    match (&response.body, observation.target.path()) {
        (Body::Node(node), Some(path)) if response.code == Code::CONTENT => {
            nodes(&mut std::iter::once((path, node)), now)?;
        }
        (Body::Nodes(shown), _) => nodes(&mut shown.iter(), now)?,
        (Body::Timed(moments), _) => {
            for moment in moments {
                nodes(&mut moment.nodes.iter(), moment.at_unix_ms.unwrap_or(now))?;
            }
        }
        _ => {
            let path = observation.target.paths().first().copied();
            let path = path.unwrap_or(ObjectPath::Root);
            let rep = payload(RequestKind::Observe, &path, response)?;
            let head = ObserveHead {
                ticket,
                observation_id: &observation.token,
                server_id,
                ep: &observation.endpoint,
                path: &observation.target,
                timestamp: now,
            };
            ResponseObserve::write_datum(head, &rep, &mut datums.bytes);
            datums.end();
        }
    }
    Ok(())
}

/// Writes the records of a Send as datums: one per path and time stamp.
///
/// # Errors
/// As [`notification_records`].
pub(crate) fn sent_records(
    server_id: &str,
    registration: &Registration,
    values: &[Values],
    now: i64,
    datums: &mut Datums,
) -> Result<(), ConvertError> {
    datums.clear();
    for moment in values {
        for (path, node) in &moment.nodes {
            let head = ObserveHead {
                ticket: UNSET_TICKET,
                observation_id: &UNSET_TICKET,
                server_id,
                ep: &registration.endpoint,
                path,
                timestamp: moment.at_unix_ms.unwrap_or(now),
            };
            ResponseObserve::write_shown(head, path, node, &mut datums.bytes)?;
            datums.end();
        }
    }
    Ok(())
}

/// The operation a request asks for.
pub(crate) fn operation_of(
    request: &Request,
    models: &Registry,
) -> Result<(Operation, Option<ContentFormat>), Refusal> {
    let payload = &request.payload;
    let path: ObjectPath = payload
        .path
        .parse()
        .map_err(|error| Refusal(format!("the path '{}': {error}", payload.path)))?;
    let format = ContentFormat::from_id(payload.content_format.coap_id());
    let wrong_body = || {
        let kind = payload.kind;
        Refusal(format!("the body does not fit a request of kind {kind:?}"))
    };
    if let Some(body) = &payload.body
        && body.kind() != payload.kind
    {
        return Err(wrong_body());
    }
    let refused = |error: ConvertError| Refusal(error.to_string());
    Ok(match (payload.kind, &payload.body) {
        (RequestKind::Read, _) => (Operation::Read { path }, format),
        (RequestKind::Observe, _) => (Operation::Observe { path }, format),
        (RequestKind::ObserveCancel, _) => {
            let active = false;
            (Operation::CancelObserve { path, active }, format)
        }
        (RequestKind::Discover, _) => (Operation::Discover { path }, None),
        (RequestKind::Delete, _) => (Operation::Delete { path }, None),
        (RequestKind::Execute, body) => {
            let arguments = match body {
                Some(RequestBody::Execute(arguments)) => arguments.clone(),
                _ => String::new(),
            };
            (Operation::Execute { path, arguments }, None)
        }
        (RequestKind::WriteAttributes, Some(RequestBody::WriteAttributes(text))) => {
            let attributes = text
                .split('&')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect();
            (Operation::WriteAttributes { path, attributes }, None)
        }
        (RequestKind::Write, Some(RequestBody::Write(write))) => {
            let mode = match write.mode {
                records::WriteMode::Replace => WriteMode::Replace,
                records::WriteMode::Update => WriteMode::Update,
            };
            let node = node_from_write(&write.node, &path, models).map_err(refused)?;
            (Operation::Write { path, mode, node }, format)
        }
        (RequestKind::Create, Some(RequestBody::Create(instance))) => {
            let new = new_instance(instance, &path, models).map_err(refused)?;
            let node = Node::Instance(InstanceNode {
                id: new.id.unwrap_or(DEVICE_CHOOSES),
                resources: new.resources,
            });
            (Operation::Create { path, node }, format)
        }
        (RequestKind::Write | RequestKind::Create | RequestKind::WriteAttributes, _) => {
            return Err(wrong_body());
        }
    })
}

/// The reply to what a device answered.
pub(crate) fn reply_of(
    server_id: &str,
    request: &Request,
    response: &DeviceResponse,
    timestamp: i64,
) -> Response {
    let path = request.payload.path.parse().unwrap_or(ObjectPath::Root);
    match payload(request.payload.kind, &path, response) {
        Ok(rep) => reply(server_id, request, timestamp, rep),
        Err(error) => reply_failed_with(
            server_id,
            request,
            ResponseCode::InternalServerError,
            format!("the device's answer does not fit a reply: {error}"),
            timestamp,
        ),
    }
}

/// The reply where nothing came of it.
pub(crate) fn reply_failed(
    server_id: &str,
    request: &Request,
    failure: &RequestFailure,
    timestamp: i64,
) -> Response {
    let changes = crate::store::must_not_repeat(request);
    let message = if changes && failure.may_have_acted() {
        format!("outcome unknown: {failure}")
    } else {
        failure.to_string()
    };
    reply_failed_with(
        server_id,
        request,
        ResponseCode::InternalServerError,
        message,
        timestamp,
    )
}

/// The reply to a request that the server did not take.
pub(crate) fn reply_refused(
    server_id: &str,
    request: &Request,
    error: &RequestError,
    timestamp: i64,
) -> Response {
    let code = match error {
        RequestError::NotRegistered(_) => ResponseCode::NotFound,
        RequestError::TooManyPending { .. } | RequestError::TooManyObservations { .. } => {
            ResponseCode::InternalServerError
        }
        RequestError::Invalid { .. } | RequestError::Encode(_) => ResponseCode::BadRequest,
    };
    reply_failed_with(server_id, request, code, error.to_string(), timestamp)
}

/// The reply to a request that was never sent, for a reason of ours.
pub(crate) fn reply_unsent(
    server_id: &str,
    request: &Request,
    code: ResponseCode,
    reason: impl Into<String>,
    timestamp: i64,
) -> Response {
    reply_failed_with(server_id, request, code, reason.into(), timestamp)
}

fn reply_failed_with(
    server_id: &str,
    request: &Request,
    code: ResponseCode,
    message: String,
    timestamp: i64,
) -> Response {
    let rep = ResponsePayload {
        code,
        kind: request.payload.kind,
        body: Some(ResponseBody::Generic(message)),
    };
    reply(server_id, request, timestamp, rep)
}

fn reply(server_id: &str, request: &Request, timestamp: i64, rep: ResponsePayload) -> Response {
    // Written with the leading slash, however it was asked for; what is no path is shown as it came.
    let path = match request.payload.path.parse::<ObjectPath>() {
        Ok(path) => path.to_string(),
        Err(_) => request.payload.path.clone(),
    };
    Response {
        ticket: request.ticket.clone(),
        server_id: server_id.to_owned(),
        ep: request.ep.clone(),
        path,
        timestamp,
        rep,
    }
}

fn payload(
    kind: RequestKind,
    path: &ObjectPath,
    response: &DeviceResponse,
) -> Result<ResponsePayload, ConvertError> {
    let code = ResponseCode::from_coap_byte(response.code.0);
    let name = || ResponseBody::Generic(code.name().to_owned());
    let body = match &response.body {
        Body::Node(node) => ResponseBody::Read(content_from_node(node, path)?),
        Body::Links(links) => ResponseBody::Discover(links.clone()),
        Body::Location(location) => ResponseBody::Create(location.clone()),
        Body::Message(message) => ResponseBody::Generic(message.clone()),
        Body::Cancelled(number) => ResponseBody::Generic(number.to_string()),
        // A device that created the instance where it was told to need not say so again.
        Body::None if kind == RequestKind::Create && response.is_success() => {
            ResponseBody::Create(path.to_string())
        }
        // Composites and histories are one record per path and time.
        Body::None | Body::Nodes(_) | Body::Timed(_) => name(),
    };
    Ok(ResponsePayload {
        code,
        kind,
        body: Some(body),
    })
}

fn links(links: &[Link]) -> Vec<AvroLink> {
    links
        .iter()
        .map(|link| AvroLink {
            url: link.url.clone(),
            at: link
                .attributes
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))
                .collect::<BTreeMap<_, _>>(),
        })
        .collect()
}

fn seconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use coap::Token;
    use lwm2m::Target;
    use lwm2m_model::Value;
    use records::AvroRecord as _;

    use super::*;

    fn observation(target: Target, context: Option<&str>) -> Observation {
        Observation {
            endpoint: "dev1".to_owned(),
            registration_id: "id".to_owned(),
            target,
            token: Token::new(&[0xab, 0xcd]).unwrap(),
            context: context.map(str::to_owned),
            content_format: None,
        }
    }

    fn path(text: &str) -> ObjectPath {
        text.parse().unwrap()
    }

    fn nodes(values: &[(&str, Node)]) -> BTreeMap<ObjectPath, Node> {
        let nodes = values.iter().map(|(at, node)| (path(at), node.clone()));
        nodes.collect()
    }

    fn read(
        observation: &Observation,
        response: &DeviceResponse,
        now: i64,
    ) -> Vec<ResponseObserve> {
        let mut datums = Datums::default();
        notification_records("gw", observation, response, now, &mut datums).unwrap();
        let read = datums
            .iter()
            .map(|datum| ResponseObserve::from_datum(datum).unwrap());
        read.collect()
    }

    #[test]
    fn a_composite_notification_is_a_record_for_each_path_and_time() {
        let target = Target::list([path("/3/0/9"), path("/3303/0/5700")]);
        let observation = observation(target, Some("t1\u{1f}00-trace"));
        assert_eq!(Cause::of(&observation).traceparent, Some("00-trace"));
        let level = Node::single(9, Value::Integer(80));
        let warm = Node::single(5700, Value::Float(21.5));
        let now = DeviceResponse {
            code: Code::CONTENT,
            body: Body::Nodes(nodes(&[("/3/0/9", level.clone()), ("/3303/0/5700", warm)])),
        };
        let records = read(&observation, &now, 1_000);
        let seen: Vec<_> = records
            .iter()
            .map(|record| {
                (
                    record.path.as_str(),
                    record.ticket.as_str(),
                    record.timestamp,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [("/3/0/9", "t1", 1_000), ("/3303/0/5700", "t1", 1_000)]
        );
        assert_eq!(records[0].observation_id, "abcd");

        let moment = |at_unix_ms, node: &Node| Values {
            at_unix_ms,
            nodes: nodes(&[("/3/0/9", node.clone())]),
        };
        let history = DeviceResponse {
            code: Code::CONTENT,
            body: Body::Timed(vec![moment(Some(500), &level), moment(None, &level)]),
        };
        let records = read(&observation, &history, 1_000);
        let times: Vec<_> = records.iter().map(|record| record.timestamp).collect();
        assert_eq!(times, [500, 1_000]);
    }

    #[test]
    fn a_resource_instance_is_its_resources_record_of_several_values() {
        let one = path("/3/0/11/2");
        let observation = observation(Target::Path(one), None);
        let response = DeviceResponse {
            code: Code::CONTENT,
            body: Body::Node(Node::ResourceInstance {
                id: 2,
                value: Value::Integer(7),
            }),
        };
        let records = read(&observation, &response, 1);
        assert_eq!(records[0].ticket, "unset");
        let Some(ResponseBody::Read(records::ReadContent::Multiple(multiple))) =
            &records[0].rep.body
        else {
            panic!("{records:?}");
        };
        assert_eq!((multiple.id, multiple.path.as_str()), (11, "/3/0/11"));
        assert_eq!(multiple.resources.len(), 1);
        assert!(multiple.resources.contains_key("2"));
    }
}
