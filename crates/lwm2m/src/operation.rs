use bytes::Bytes;
use coap::{Code, Method, Request, Response};
use lwm2m_codec::{
    Attributes, ContentFormat, EncodeError, NewInstance, decode, encode, encode_create,
};
use lwm2m_model::{Node, ObjectPath, Registry, ResourceContent};
use thiserror::Error;

/// The instance id of a [`Operation::Create`] that leaves the choice to the device. 65535 is reserved, so that no
/// instance can have it (TS 1.1 core, section 7.1).
pub const DEVICE_CHOOSES: u16 = u16::MAX;

/// What a server asks of a device (TS 1.1 core, sections 6.3 and 6.4).
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Reads an object, an instance, a resource or a resource instance.
    Read { path: ObjectPath },
    /// Reads it, and asks to be told of changes from then on. A path that is observed is refreshed under its token.
    Observe { path: ObjectPath },
    /// Ends the observation of exactly this path.
    CancelObserve {
        path: ObjectPath,
        /// `true`: the device is told, by a GET with Observe 1 and the same token. `false`: it learns from the reset
        /// its next notification gets.
        active: bool,
    },
    /// Asks which instances and resources there are, and for their attributes.
    Discover { path: ObjectPath },
    /// Writes an instance, a resource or a resource instance.
    Write {
        path: ObjectPath,
        mode: WriteMode,
        node: Node,
    },
    /// Sets notification attributes, given as query parameters such as `pmin=1`; one without a value unsets it.
    WriteAttributes {
        path: ObjectPath,
        attributes: Vec<String>,
    },
    /// Executes a resource; the arguments are passed on as they are.
    Execute { path: ObjectPath, arguments: String },
    /// Creates an instance (or, from a [`Node::Object`], several). `path` is the object's, or the new instance's. The
    /// id [`DEVICE_CHOOSES`] leaves the choice to the device.
    Create { path: ObjectPath, node: Node },
    /// Deletes an instance.
    Delete { path: ObjectPath },
}

/// How a write treats what the payload does not mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteMode {
    /// PUT: the instance or resource becomes what the payload says.
    Replace,
    /// POST: resources that the payload does not mention stay as they are.
    Update,
}

impl Operation {
    /// What the operation is about.
    pub fn path(&self) -> ObjectPath {
        match self {
            Self::Read { path }
            | Self::Observe { path }
            | Self::CancelObserve { path, .. }
            | Self::Discover { path }
            | Self::Write { path, .. }
            | Self::WriteAttributes { path, .. }
            | Self::Execute { path, .. }
            | Self::Create { path, .. }
            | Self::Delete { path } => *path,
        }
    }

    /// Whether asking twice is the same as asking once: then a new attempt under another message id does no harm.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::Write { .. } | Self::Execute { .. } | Self::Create { .. } | Self::Delete { .. }
        )
    }

    /// The CoAP request, its path without the device's root before it. `format`: what to ask for or to send, TLV
    /// where it is `None`.
    pub(crate) fn to_request(
        &self,
        format: Option<ContentFormat>,
    ) -> Result<PreparedRequest, RequestError> {
        let prepared = |method, target| PreparedRequest {
            method,
            target,
            query: vec![],
            sent: None,
            accept: None,
        };
        let node_format = format.unwrap_or(ContentFormat::Tlv);
        let needs = |ok: bool, reason: &'static str| {
            if ok {
                Ok(())
            } else {
                Err(RequestError::Invalid {
                    path: self.path(),
                    reason: reason.to_owned(),
                })
            }
        };
        let depth = self.path().depth();
        Ok(match self {
            Self::Read { path } | Self::Observe { path } | Self::CancelObserve { path, .. } => {
                needs(
                    depth >= 1,
                    "name an object, an instance or a resource: the whole device can't be read at once",
                )?;
                if !node_format.carries_nodes() {
                    return Err(RequestError::Encode(EncodeError::Unsupported {
                        format: node_format,
                    }));
                }
                PreparedRequest {
                    accept: Some(node_format.id()),
                    ..prepared(Method::Get, *path)
                }
            }
            Self::Discover { path } => {
                needs(
                    depth >= 1,
                    "name an object, an instance or a resource to discover",
                )?;
                PreparedRequest {
                    accept: Some(ContentFormat::Link.id()),
                    ..prepared(Method::Get, *path)
                }
            }
            Self::Write { path, mode, node } => {
                needs(
                    depth >= 2,
                    "a write needs an instance, a resource or a resource instance",
                )?;
                let method = match (mode, node) {
                    (WriteMode::Replace, _) => Method::Put,
                    (WriteMode::Update, Node::Instance(_)) => Method::Post,
                    // A POST on a resource is an execute. For one value, update and replace mean the same.
                    (WriteMode::Update, Node::Resource(node)) => {
                        let single = matches!(node.content, ResourceContent::Single(_));
                        needs(
                            single,
                            "a resource of several values can't be updated in part: replace it, or write one of its values",
                        )?;
                        Method::Put
                    }
                    (WriteMode::Update, _) => Method::Put,
                };
                let payload = encode(node, path, node_format)?;
                PreparedRequest {
                    sent: Some((node_format.id(), payload.into())),
                    ..prepared(method, *path)
                }
            }
            Self::WriteAttributes { path, attributes } => {
                needs(
                    depth >= 1,
                    "attributes stand at an object, an instance or a resource",
                )?;
                needs(
                    !attributes.is_empty(),
                    "name at least one attribute, such as pmin=1",
                )?;
                Attributes::parse(attributes).map_err(|error| RequestError::Invalid {
                    path: *path,
                    reason: error.to_string(),
                })?;
                PreparedRequest {
                    query: attributes.clone(),
                    ..prepared(Method::Put, *path)
                }
            }
            Self::Execute { path, arguments } => {
                needs(depth == 3, "only a resource can be executed")?;
                let sent = (!arguments.is_empty()).then(|| {
                    (
                        ContentFormat::Text.id(),
                        Bytes::copy_from_slice(arguments.as_bytes()),
                    )
                });
                PreparedRequest {
                    sent,
                    ..prepared(Method::Post, *path)
                }
            }
            Self::Create { path, node } => {
                let Some(object) = path.object_id().filter(|_| depth <= 2) else {
                    return Err(RequestError::Invalid {
                        path: *path,
                        reason: "a create needs an object, or the new instance's path".to_owned(),
                    });
                };
                let payload = match node {
                    Node::Instance(instance) => {
                        let given = (instance.id != DEVICE_CHOOSES).then_some(instance.id);
                        let new = NewInstance {
                            id: path.instance_id().or(given),
                            resources: instance.resources.clone(),
                        };
                        encode_create(&new, object, node_format)?
                    }
                    Node::Object(_) => encode(node, &ObjectPath::Object(object), node_format)?,
                    _ => {
                        return Err(RequestError::Invalid {
                            path: *path,
                            reason: "a create needs an instance with its resources".to_owned(),
                        });
                    }
                };
                PreparedRequest {
                    sent: Some((node_format.id(), payload.into())),
                    ..prepared(Method::Post, ObjectPath::Object(object))
                }
            }
            Self::Delete { path } => {
                needs(depth == 2, "only an instance can be deleted")?;
                prepared(Method::Delete, *path)
            }
        })
    }
}

/// A checked and encoded request that lacks only the device's root path.
#[derive(Clone, Debug)]
pub(crate) struct PreparedRequest {
    method: Method,
    target: ObjectPath,
    query: Vec<String>,
    /// Content format and payload.
    sent: Option<(u16, Bytes)>,
    /// The content format asked for.
    pub(crate) accept: Option<u16>,
}

impl PreparedRequest {
    pub(crate) fn into_request(
        self,
        registration: &crate::Registration,
        observe: Option<u32>,
    ) -> Request {
        let (content_format, payload) =
            self.sent.map_or((None, Bytes::new()), |(format, payload)| {
                (Some(format), payload)
            });
        Request {
            method: self.method,
            path: registration.uri_path(&self.target),
            query: self.query,
            content_format,
            accept: self.accept,
            observe,
            payload,
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No device with this endpoint name is registered.
    #[error("No registration for this endpoint '{0}'")]
    NotRegistered(String),
    #[error("{limit} requests wait for '{endpoint}' already: wait until some are answered")]
    TooManyPending { endpoint: String, limit: usize },
    #[error("'{endpoint}' has {limit} observations already: cancel some")]
    TooManyObservations { endpoint: String, limit: usize },
    #[error("{path}: {reason}")]
    Invalid { path: ObjectPath, reason: String },
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why a request that was taken has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestFailure {
    /// It was sent, and no answer came in time: the device may have acted on it.
    #[error("the device did not answer in time")]
    Timeout,
    /// It was not sent, for example because its time was over before those ahead of it were done.
    #[error("not sent to the device: {0}")]
    NotSent(String),
    #[error("the device rejected the request with a reset")]
    Reset,
    /// The device de-registered, its registration expired, or it registered anew, meanwhile.
    #[error("the device's registration ended before it answered")]
    Gone {
        /// Whether the device may have seen the request.
        sent: bool,
    },
    /// An answer that can't be understood.
    #[error("the device's answer can't be read: {0}")]
    InvalidResponse(String),
    #[error("the request was cancelled")]
    Cancelled {
        /// Whether the device may have seen the request.
        sent: bool,
    },
}

impl RequestFailure {
    /// Whether the device may have seen the request, so that the outcome is unknown.
    pub fn may_have_acted(&self) -> bool {
        match self {
            Self::Timeout | Self::InvalidResponse(_) => true,
            Self::NotSent(_) | Self::Reset => false,
            Self::Gone { sent } | Self::Cancelled { sent } => *sent,
        }
    }
}

/// A device's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceResponse {
    pub code: Code,
    pub body: Body,
}

/// What a device's answer carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    None,
    /// What a read, an observe or a notification shows.
    Node(Node),
    /// What a discover shows: links in RFC 6690's format, as the device wrote them.
    Links(String),
    /// Where a create put the new instance, such as `/3303/7`.
    Location(String),
    /// What a failure says.
    Message(String),
    /// How many observations a passive cancel ended. This is the server's own answer: the device was not asked.
    Cancelled(usize),
}

impl DeviceResponse {
    pub fn is_success(&self) -> bool {
        self.code.is_success()
    }
}

/// What kind of answer an operation expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Node,
    Links,
    Location,
    Nothing,
}

impl Expected {
    pub(crate) fn by(operation: &Operation) -> Self {
        match operation {
            Operation::Read { .. }
            | Operation::Observe { .. }
            | Operation::CancelObserve { .. } => Self::Node,
            Operation::Discover { .. } => Self::Links,
            Operation::Create { .. } => Self::Location,
            _ => Self::Nothing,
        }
    }
}

/// Reads a device's answer about `path`. `asked`: the content format asked for, which stands in where the answer
/// names none.
pub(crate) fn read_response(
    response: &Response,
    path: &ObjectPath,
    expected: Expected,
    asked: Option<u16>,
    models: &Registry,
) -> Result<DeviceResponse, RequestFailure> {
    let code = response.code;
    let body = if !code.is_success() {
        // RFC 7252 section 5.5.2: the payload is a diagnostic text. Bytes that are none are shown as far as they go.
        match String::from_utf8_lossy(&response.payload) {
            text if text.is_empty() => Body::None,
            text => Body::Message(text.into_owned()),
        }
    } else {
        match expected {
            Expected::Node if code != Code::CONTENT => {
                return Err(RequestFailure::InvalidResponse(format!(
                    "a read was answered with {code} instead of 2.05"
                )));
            }
            Expected::Node => Body::Node(read_node(response, path, asked, models)?),
            Expected::Links => match std::str::from_utf8(&response.payload) {
                Ok(links) => Body::Links(links.to_owned()),
                Err(error) => {
                    return Err(RequestFailure::InvalidResponse(format!(
                        "the links are not UTF-8: {error}"
                    )));
                }
            },
            Expected::Location if response.location_path.is_empty() => Body::None,
            Expected::Location => Body::Location(format!("/{}", response.location_path.join("/"))),
            Expected::Nothing => Body::None,
        }
    };
    Ok(DeviceResponse { code, body })
}

fn read_node(
    response: &Response,
    path: &ObjectPath,
    asked: Option<u16>,
    models: &Registry,
) -> Result<Node, RequestFailure> {
    let number = response
        .content_format
        .or(asked)
        .unwrap_or(ContentFormat::Tlv.id());
    let format = ContentFormat::from_id(number).ok_or_else(|| {
        RequestFailure::InvalidResponse(format!("its content format {number} is unknown"))
    })?;
    decode(&response.payload, path, format, models)
        .map_err(|error| RequestFailure::InvalidResponse(error.to_string()))
}
