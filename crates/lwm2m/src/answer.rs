//! What comes back: why a request was not taken, why it has no answer, and the answer.

use std::collections::BTreeMap;

use coap::{Code, Response};
use lwm2m_codec::{Below, ContentFormat, EncodeError, Timestamped, resolve_time};
use lwm2m_model::{Node, ObjectPath, Registry};
use thiserror::Error;

use crate::{Operation, Target};

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
    /// Its time was over before it could be sent: the device sleeps, or those ahead of it were not done.
    #[error("expired before it could be sent to the device")]
    Expired,
    /// It was not sent.
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
            Self::Expired | Self::NotSent(_) | Self::Reset => false,
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
    /// What a composite read or observe, or its notification, shows: a node for each path asked for that the device
    /// has, without those that it has not.
    Nodes(BTreeMap<ObjectPath, Node>),
    /// What a notification shows that carries times: a history, for example of the time the device was out of reach
    /// (TS 1.1 core, section 6.4.2). In the order in which the times first come.
    Timed(Vec<Values>),
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

/// Values of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Unix milliseconds, as the device says; `None` where it says nothing.
    pub at_unix_ms: Option<i64>,
    /// By path: of a Send each resource, of a notification each path that is observed.
    pub nodes: BTreeMap<ObjectPath, Node>,
}

impl Values {
    /// Takes what a payload carried, read at `now_unix_ms`. Times that no clock shows are cut to what fits.
    pub(crate) fn read_at(
        now_unix_ms: i64,
        groups: Vec<Timestamped<BTreeMap<ObjectPath, Node>>>,
    ) -> Vec<Self> {
        let unix_ms =
            |time_s| (resolve_time(time_s, now_unix_ms as f64 / 1e3) * 1e3).round() as i64;
        let values = groups.into_iter().map(|group| Self {
            at_unix_ms: group.time_s.map(unix_ms),
            nodes: group.content,
        });
        values.collect()
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
            | Operation::CancelObserve { .. }
            | Operation::ReadComposite { .. }
            | Operation::ObserveComposite { .. }
            | Operation::CancelObserveComposite { .. } => Self::Node,
            Operation::Discover { .. } => Self::Links,
            Operation::Create { .. } => Self::Location,
            _ => Self::Nothing,
        }
    }
}

/// Reads a device's answer about `target`. `asked`: the content format asked for, which stands in where the answer
/// names none. `root`: where the device's tree hangs.
pub(crate) fn read_response(
    response: &Response,
    root: Below<'_>,
    target: &Target,
    expected: Expected,
    asked: Option<u16>,
    models: &Registry,
) -> Result<DeviceResponse, RequestFailure> {
    let code = response.code;
    let body = if !code.is_success() {
        refusal(response)
    } else {
        match expected {
            Expected::Node if code != Code::CONTENT => {
                return Err(RequestFailure::InvalidResponse(format!(
                    "a read was answered with {code} instead of 2.05"
                )));
            }
            Expected::Node => read_content(response, root, target, asked, models)?,
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

/// Reads a notification about `target`: as an answer, but with the times it carries.
pub(crate) fn read_notification(
    response: &Response,
    root: Below<'_>,
    target: &Target,
    asked: Option<u16>,
    models: &Registry,
    now_unix_ms: i64,
) -> Result<DeviceResponse, RequestFailure> {
    let code = response.code;
    let format = content_format(response, asked)?;
    let has_times = matches!(
        format,
        ContentFormat::SenmlJson
            | ContentFormat::SenmlCbor
            | ContentFormat::Json
            | ContentFormat::OldJson
    );
    if !code.is_success() || !has_times {
        return read_response(response, root, target, Expected::Node, asked, models);
    }
    let groups = match target {
        Target::Path(path) => root
            .decode_timestamped(&response.payload, path, format, models)
            .map(|all| {
                let one = |node: Timestamped<Node>| Timestamped {
                    time_s: node.time_s,
                    content: BTreeMap::from([(*path, node.content)]),
                };
                all.into_iter().map(one).collect()
            }),
        Target::Paths(paths) => root.decode_nodes(&response.payload, wanted(paths), format, models),
    };
    let groups: Vec<_> =
        groups.map_err(|error| RequestFailure::InvalidResponse(error.to_string()))?;
    let body = if groups.iter().any(|group| group.time_s.is_some()) {
        Body::Timed(Values::read_at(now_unix_ms, groups))
    } else {
        let mut nodes = newest(groups);
        match target {
            Target::Path(path) => nodes.remove(path).map_or(Body::None, Body::Node),
            Target::Paths(_) => Body::Nodes(nodes),
        }
    };
    Ok(DeviceResponse { code, body })
}

/// RFC 7252 section 5.5.2: the payload of a failure is a diagnostic text. Bytes that are none are shown as far as they
/// go.
fn refusal(response: &Response) -> Body {
    match String::from_utf8_lossy(&response.payload) {
        text if text.is_empty() => Body::None,
        text => Body::Message(text.into_owned()),
    }
}

fn read_content(
    response: &Response,
    root: Below<'_>,
    target: &Target,
    asked: Option<u16>,
    models: &Registry,
) -> Result<Body, RequestFailure> {
    let format = content_format(response, asked)?;
    let body = match target {
        Target::Path(path) => root
            .decode(&response.payload, path, format, models)
            .map(Body::Node),
        Target::Paths(paths) => root
            .decode_nodes(&response.payload, wanted(paths), format, models)
            .map(|groups| Body::Nodes(newest(groups))),
    };
    body.map_err(|error| RequestFailure::InvalidResponse(error.to_string()))
}

/// What a list's answer is read as: a node for each path, or, where the whole device was asked for, each resource.
fn wanted(paths: &[ObjectPath]) -> &[ObjectPath] {
    if paths.contains(&ObjectPath::Root) {
        &[]
    } else {
        paths
    }
}

/// The newest node of each path; of several of one time the last.
fn newest(mut groups: Vec<Timestamped<BTreeMap<ObjectPath, Node>>>) -> BTreeMap<ObjectPath, Node> {
    groups.sort_by(|a, b| {
        let time = |group: &Timestamped<_>| group.time_s.unwrap_or(f64::NEG_INFINITY);
        time(a).total_cmp(&time(b))
    });
    groups.into_iter().flat_map(|group| group.content).collect()
}

fn content_format(
    response: &Response,
    asked: Option<u16>,
) -> Result<ContentFormat, RequestFailure> {
    let number = response
        .content_format
        .or(asked)
        .unwrap_or(ContentFormat::Tlv.id());
    ContentFormat::from_id(number).ok_or_else(|| {
        RequestFailure::InvalidResponse(format!("its content format {number} is unknown"))
    })
}
