//! What the engine says as the contract's records, and requests as operations (contract, sections 3 and 4).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lwm2m::{
    Body, DEVICE_CHOOSES, DeviceResponse, Observation, Operation, Registration, RegistrationUpdate,
    RequestError, RequestFailure, Version, WriteMode,
};
use lwm2m_codec::{ContentFormat, Link};
use lwm2m_model::{InstanceNode, Node, ObjectPath, Registry};
use records::{
    AvroLink, Bnd, ConvertError, RegistrationDelete, RegistrationNew, RegistrationResponse,
    Request, RequestBody, RequestKind, Response, ResponseBody, ResponseCode, ResponseObserve,
    ResponsePayload, UNSET_TICKET, content_from_node, new_instance, node_from_write,
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

/// A notification's record.
pub(crate) fn observation_record(
    server_id: &str,
    observation: &Observation,
    response: &DeviceResponse,
    timestamp: i64,
) -> Result<ResponseObserve, ConvertError> {
    Ok(ResponseObserve {
        ticket: observation
            .context
            .clone()
            .unwrap_or_else(|| UNSET_TICKET.to_owned()),
        observation_id: observation.token.to_string(),
        server_id: server_id.to_owned(),
        ep: observation.endpoint.clone(),
        path: observation.path.to_string(),
        timestamp,
        rep: payload(RequestKind::Observe, &observation.path, response)?,
    })
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
        Body::None => name(),
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
