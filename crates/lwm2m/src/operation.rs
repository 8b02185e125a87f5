use std::collections::BTreeMap;

use bytes::Bytes;
use coap::{Method, Request};
use lwm2m_codec::{Attributes, Below, ContentFormat, EncodeError, NewInstance, Timestamped};
use lwm2m_model::{Node, ObjectPath, ResourceContent};

use crate::{Registration, RequestError, Target};

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
    /// Deletes an instance, or (from LwM2M 1.2 on) a resource instance.
    Delete { path: ObjectPath },
    /// Reads several places in one exchange (FETCH; TS 1.1 core, section 6.3.8). With the root in the list the answer has
    /// every resource by its own path. Some devices take lists of no more than six paths.
    ReadComposite { paths: Vec<ObjectPath> },
    /// Reads them, and asks to be told of changes from then on (section 6.4.4). The same list in another order is the
    /// same observation.
    ObserveComposite { paths: Vec<ObjectPath> },
    /// Ends the observation of exactly this list (section 6.4.5).
    CancelObserveComposite {
        paths: Vec<ObjectPath>,
        /// As in [`Operation::CancelObserve`], with a FETCH.
        active: bool,
    },
    /// Writes values in several places at once (iPATCH; TS 1.1 core, section 6.3.9): resources, resource instances, or the
    /// resources of instances. What the payload does not mention stays as it is.
    WriteComposite { nodes: BTreeMap<ObjectPath, Node> },
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
    pub fn target(&self) -> Target {
        match self {
            Self::Read { path }
            | Self::Observe { path }
            | Self::CancelObserve { path, .. }
            | Self::Discover { path }
            | Self::Write { path, .. }
            | Self::WriteAttributes { path, .. }
            | Self::Execute { path, .. }
            | Self::Create { path, .. }
            | Self::Delete { path } => Target::Path(*path),
            Self::ReadComposite { paths }
            | Self::ObserveComposite { paths }
            | Self::CancelObserveComposite { paths, .. } => Target::list(paths.iter().copied()),
            Self::WriteComposite { nodes } => Target::list(nodes.keys().copied()),
        }
    }

    /// Whether asking twice is the same as asking once: then a new attempt under another message id does no harm.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::Write { .. }
                | Self::Execute { .. }
                | Self::Create { .. }
                | Self::Delete { .. }
                | Self::WriteComposite { .. }
        )
    }

    /// The CoAP request, its path without the device's root before it. `format`: what to ask for or to send; where it is
    /// `None`, what the device lists, TLV before others, and SenML CBOR for composites. `list_format`: what a composite's
    /// list of paths is written in, where not in `format`.
    pub(crate) fn to_request(
        &self,
        registration: Option<&Registration>,
        format: Option<ContentFormat>,
        list_format: Option<ContentFormat>,
    ) -> Result<PreparedRequest, RequestError> {
        let prepared = |method, target| PreparedRequest {
            method,
            target,
            query: vec![],
            sent: None,
            accept: None,
        };
        let target = self.target();
        let root = Below(registration.map_or("/", |it| &it.root_path));
        let node_format = format.unwrap_or_else(|| {
            let is_create = matches!(self, Self::Create { .. });
            let listed = registration.filter(|_| !is_create);
            let wanted = listed.and_then(|it| it.preferred_format(target.is_composite()));
            wanted.unwrap_or(if target.is_composite() {
                ContentFormat::SenmlCbor
            } else {
                ContentFormat::Tlv
            })
        });
        let first = target.paths().first().copied().unwrap_or(ObjectPath::Root);
        let needs = |ok: bool, reason: &'static str| {
            if ok {
                Ok(())
            } else {
                Err(RequestError::Invalid {
                    path: first,
                    reason: reason.to_owned(),
                })
            }
        };
        let depth = first.depth();
        Ok(match self {
            Self::ReadComposite { .. }
            | Self::ObserveComposite { .. }
            | Self::CancelObserveComposite { .. } => {
                needs(!target.paths().is_empty(), NAME_A_PATH)?;
                if !is_senml(node_format) {
                    return Err(EncodeError::NotComposite {
                        format: node_format,
                    }
                    .into());
                }
                let list_format = list_format.unwrap_or(node_format);
                let list = root.encode_paths(target.paths(), list_format)?;
                PreparedRequest {
                    sent: Some((list_format.id(), list.into())),
                    accept: Some(node_format.id()),
                    ..prepared(Method::Fetch, ObjectPath::Root)
                }
            }
            Self::WriteComposite { nodes } => {
                needs(!nodes.is_empty(), NAME_A_PATH)?;
                if let Some(path) = nodes.keys().find(|path| path.depth() < 2) {
                    return Err(RequestError::Invalid {
                        path: *path,
                        reason: "a write needs an instance, a resource or a resource instance"
                            .to_owned(),
                    });
                }
                let group = Timestamped {
                    time_s: None,
                    content: nodes.clone(),
                };
                let payload = root.encode_nodes(&[group], node_format)?;
                PreparedRequest {
                    sent: Some((node_format.id(), payload.into())),
                    ..prepared(Method::IPatch, ObjectPath::Root)
                }
            }
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
                let payload = root.encode(node, path, node_format)?;
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
                        root.encode_create(&new, object, node_format)?
                    }
                    Node::Object(_) => {
                        root.encode(node, &ObjectPath::Object(object), node_format)?
                    }
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
                needs(
                    depth == 2 || depth == 4,
                    "only an instance or a resource instance can be deleted",
                )?;
                prepared(Method::Delete, *path)
            }
        })
    }
}

const NAME_A_PATH: &str = "name at least one path";

/// The formats of composite operations in LwM2M 1.1 (TS 1.1 core, section 7.4.4 and table 7.4-1).
pub(crate) fn is_senml(format: ContentFormat) -> bool {
    matches!(format, ContentFormat::SenmlJson | ContentFormat::SenmlCbor)
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
    pub(crate) fn into_request(self, registration: &Registration, observe: Option<u32>) -> Request {
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
