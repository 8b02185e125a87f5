//! Several places in one exchange (TS 1.1 core, sections 6.3.8, 6.3.9, 6.4.4 and 6.4.5), and Send (section 6.4.6).

use std::collections::BTreeMap;
use std::time::Instant;

use coap::{Code, Method, Peer, Request, RequestId, Response, Token};
use lwm2m_codec::{ContentFormat, Timestamped, decode_nodes, decode_paths, encode_nodes};
use lwm2m_model::{Node, ObjectPath, ResourceContent, Value};
use thiserror::Error;

use super::serve::SECURITY;
use super::{Client, Event, ObjectTree, Status};
use crate::Target;
use crate::operation::is_senml;

/// A Send on its way; [`Event::SendAnswered`] or [`Event::SendFailed`] carries the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendHandle(pub(super) RequestId);

/// Why values were not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    #[error("the device is not registered: send when it is")]
    NotRegistered,
    /// Mute Send, `/1/x/23`.
    #[error("the server does not want values that it has not asked for (Mute Send)")]
    Muted,
    #[error("{limit} sends wait for their answers already")]
    TooMany { limit: usize },
    #[error(transparent)]
    Encode(#[from] lwm2m_codec::EncodeError),
    #[error("not sent: {0}")]
    NotSent(String),
}

impl<T: ObjectTree> Client<T> {
    /// Reports values of the device's own accord: groups of nodes by path, each with its time in seconds (since 1970, or
    /// relative to now below 2^28). Several values of one path are told apart by their groups.
    ///
    /// # Errors
    /// When the device is not registered, the server has muted it, too many are on their way
    /// ([`ClientConfig::max_sends`](super::ClientConfig::max_sends)), or a value can't be written in this format.
    pub fn send(
        &mut self,
        now: Instant,
        values: &[Timestamped<BTreeMap<ObjectPath, Node>>],
        format: ContentFormat,
    ) -> Result<SendHandle, SendError> {
        self.latest = Some(now);
        if self.status() != Status::Registered {
            return Err(SendError::NotRegistered);
        }
        if self.is_muted() {
            return Err(SendError::Muted);
        }
        let limit = self.config.max_sends;
        if self.sends.len() >= limit {
            return Err(SendError::TooMany { limit });
        }
        let request = Request {
            content_format: Some(format.id()),
            payload: encode_nodes(values, format)?.into(),
            ..Request::new(Method::Post, ["dp"])
        };
        let id = self.ask_server(now, request).map_err(SendError::NotSent)?;
        self.sends.insert(id);
        Ok(SendHandle(id))
    }

    /// What stands at these paths now, without those where nothing is readable; the root stands for every object. For
    /// [`send`](Self::send).
    pub fn collect(&self, paths: &[ObjectPath]) -> BTreeMap<ObjectPath, Node> {
        let mut paths = paths.to_vec();
        if paths.contains(&ObjectPath::Root) {
            paths = self
                .objects
                .objects()
                .into_keys()
                .map(ObjectPath::Object)
                .collect();
        }
        let readable = |path: &&ObjectPath| path.object_id().is_some_and(|id| id != SECURITY);
        let nodes = paths
            .iter()
            .filter(readable)
            .filter_map(|path| Some((*path, self.objects.read(path).ok()?)));
        nodes.collect()
    }

    fn is_muted(&self) -> bool {
        let Ok(Node::Resource(node)) = self.objects.read(&ObjectPath::Resource(1, 0, 23)) else {
            return false;
        };
        node.content == ResourceContent::Single(Value::Boolean(true))
    }

    /// FETCH: reads a list, and observes it where asked to. Places that are not there or not readable are left out of the
    /// answer.
    pub(super) fn read_composite(
        &mut self,
        now: Instant,
        from: Peer,
        token: Token,
        request: &Request,
    ) -> Result<Response, Code> {
        let format = request
            .content_format
            .and_then(ContentFormat::from_id)
            .filter(|format| format.is_composite())
            .ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        let accept = match request.accept {
            None if is_senml(format) => format,
            None => ContentFormat::SenmlCbor,
            Some(id) => ContentFormat::from_id(id)
                .filter(|format| is_senml(*format))
                .ok_or(Code::NOT_ACCEPTABLE)?,
        };
        let paths = decode_paths(&request.payload, format).map_err(|_| Code::BAD_REQUEST)?;
        if paths.len() > self.config.max_composite_paths {
            return Err(Code::REQUEST_ENTITY_TOO_LARGE);
        }
        if paths.is_empty() {
            return Err(Code::BAD_REQUEST);
        }
        if paths.iter().all(|path| path.object_id() == Some(SECURITY)) {
            return Err(Code::UNAUTHORIZED);
        }
        if request.observe == Some(1) {
            self.end_observation(from, token);
        }
        let target = Target::list(paths);
        let mut response = self.composite_content(&target, accept)?;
        if request.observe == Some(0) && self.observe(now, from, token, target, Some(accept)) {
            response.observe = Some(0);
        }
        Ok(response)
    }

    /// What stands at a list of paths, as the answer to a read.
    pub(super) fn composite_content(
        &self,
        target: &Target,
        format: ContentFormat,
    ) -> Result<Response, Code> {
        let group = Timestamped {
            time_s: None,
            content: self.collect(target.paths()),
        };
        let payload = encode_nodes(&[group], format).map_err(|_| Code::NOT_ACCEPTABLE)?;
        Ok(Response {
            content_format: Some(format.id()),
            payload: payload.into(),
            ..Response::new(Code::CONTENT)
        })
    }

    /// iPATCH: writes all or nothing.
    pub(super) fn write_composite(&mut self, request: &Request) -> Result<Response, Code> {
        let format = request
            .content_format
            .and_then(ContentFormat::from_id)
            .filter(|format| format.is_composite())
            .ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        let groups = decode_nodes(&request.payload, &[], format, self.objects.models())
            .map_err(|_| Code::BAD_REQUEST)?;
        let Ok([Timestamped { content: nodes, .. }]) =
            <[Timestamped<BTreeMap<ObjectPath, Node>>; 1]>::try_from(groups)
        else {
            // Nothing, or two values of one path: which of them would count?
            return Err(Code::BAD_REQUEST);
        };
        if nodes.keys().any(|path| path.object_id() == Some(SECURITY)) {
            return Err(Code::UNAUTHORIZED);
        }
        let paths: Vec<ObjectPath> = nodes.keys().copied().collect();
        self.objects.write_all(nodes)?;
        for path in paths {
            self.note_change(&path);
            self.state_of_server_object_changed(&path);
            self.events.push_back(Event::Written { path });
        }
        Ok(Response::new(Code::CHANGED))
    }
}
