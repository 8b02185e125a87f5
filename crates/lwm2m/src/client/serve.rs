//! What a server may ask of a device (TS 1.1 core, sections 6.3 and 6.4).

use std::time::{Duration, Instant};

use coap::{Code, Method, Peer, Request, Response, Token};
use lwm2m_codec::{Attributes, ContentFormat, Link, decode, decode_create, format_links};
use lwm2m_model::{Node, ObjectPath, ResourceContent, ResourceNode, Value};

use super::{Client, Event, ObjectTree, content};
use crate::{Target, WriteMode};

/// The security object holds keys: no server may touch it (TS 1.1 core, section E.1).
pub(super) const SECURITY: u16 = 0;
/// The Server object's default for its resource 5.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(86_400);

impl<T: ObjectTree> Client<T> {
    pub(super) fn serve(
        &mut self,
        now: Instant,
        from: Peer,
        token: Token,
        request: &Request,
    ) -> Response {
        if self.server != Some(from) {
            return Response::new(Code::UNAUTHORIZED);
        }
        self.answer(now, from, token, request)
            .unwrap_or_else(Response::new)
    }

    fn answer(
        &mut self,
        now: Instant,
        from: Peer,
        token: Token,
        request: &Request,
    ) -> Result<Response, Code> {
        let path = if request.path.iter().all(String::is_empty) {
            ObjectPath::Root
        } else {
            request
                .path
                .join("/")
                .parse()
                .map_err(|_| Code::NOT_FOUND)?
        };
        if path.object_id() == Some(SECURITY) {
            return Err(Code::UNAUTHORIZED);
        }
        let link_format = Some(ContentFormat::Link.id());
        match request.method {
            Method::Get if request.accept == link_format => self.discover(&path),
            Method::Get => self.read(now, from, token, request, path),
            Method::Put if is_write_attributes(request) => {
                self.write_attributes(&path, &request.query)
            }
            Method::Put => self.write(request, path, WriteMode::Replace),
            Method::Post => match path {
                ObjectPath::Root => Err(Code::METHOD_NOT_ALLOWED),
                ObjectPath::Object(object) => self.create(request, object),
                ObjectPath::Instance(..) => self.write(request, path, WriteMode::Update),
                ObjectPath::Resource(..) => self.execute(request, path),
                ObjectPath::ResourceInstance(..) => Err(Code::METHOD_NOT_ALLOWED),
            },
            Method::Delete => {
                self.objects.delete(&path)?;
                self.attributes.retain(|at, _| !path.contains(at));
                self.note_change(&path);
                if path.depth() == 2 {
                    self.state.objects_changed();
                }
                self.events.push_back(Event::Deleted { path });
                Ok(Response::new(Code::DELETED))
            }
            Method::Fetch if path == ObjectPath::Root => {
                self.read_composite(now, from, token, request)
            }
            Method::IPatch if path == ObjectPath::Root => self.write_composite(request),
            Method::Fetch | Method::Patch | Method::IPatch => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    fn read(
        &mut self,
        now: Instant,
        from: Peer,
        token: Token,
        request: &Request,
        path: ObjectPath,
    ) -> Result<Response, Code> {
        // The whole device at once is only for composite reads.
        if path == ObjectPath::Root {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        let accept = match request.accept {
            None => None,
            Some(id) => Some(ContentFormat::from_id(id).ok_or(Code::NOT_ACCEPTABLE)?),
        };
        if request.observe == Some(1) {
            self.end_observation(from, token);
        }
        let node = match self.objects.read(&path) {
            Ok(node) => node,
            Err(code) => {
                self.end_observation(from, token);
                return Err(code);
            }
        };
        let mut response = content(&node, &path, accept)?;
        if request.observe == Some(0) && self.observe(now, from, token, Target::Path(path), accept)
        {
            response.observe = Some(0);
        }
        Ok(response)
    }

    fn discover(&self, path: &ObjectPath) -> Result<Response, Code> {
        let objects = self.objects.objects();
        let mut links = Vec::new();
        match *path {
            // For a bootstrap server only.
            ObjectPath::Root => return Err(Code::METHOD_NOT_ALLOWED),
            ObjectPath::Object(object) => {
                let instances = objects.get(&object).ok_or(Code::NOT_FOUND)?;
                links.push(self.link(path, None, &self.own(path)));
                for instance in instances {
                    self.discover_instance(object, *instance, &mut links);
                }
            }
            ObjectPath::Instance(object, instance) => {
                if !self.objects.exists(path) {
                    return Err(Code::NOT_FOUND);
                }
                self.discover_instance(object, instance, &mut links);
            }
            ObjectPath::Resource(object, instance, resource) => {
                let resources = self.objects.resources(object, instance);
                let values = resources.get(&resource).ok_or(Code::NOT_FOUND)?;
                // At a resource the attributes from above are shown as well (TS 1.1 core, section 6.3.2).
                links.push(self.link(path, *values, &self.effective_written(path)));
                // The instances with what was written at each of them.
                if values.is_some()
                    && let Ok(Node::Resource(ResourceNode {
                        content: ResourceContent::Multiple { instances, .. },
                        ..
                    })) = self.objects.read(path)
                {
                    for id in instances.into_keys() {
                        let path = ObjectPath::ResourceInstance(object, instance, resource, id);
                        links.push(self.link(&path, None, &self.own(&path)));
                    }
                }
            }
            ObjectPath::ResourceInstance(..) => return Err(Code::METHOD_NOT_ALLOWED),
        }
        let payload = format_links(&links).into_bytes().into();
        Ok(Response {
            content_format: Some(ContentFormat::Link.id()),
            payload,
            ..Response::new(Code::CONTENT)
        })
    }

    fn discover_instance(&self, object: u16, instance: u16, links: &mut Vec<Link>) {
        let path = ObjectPath::Instance(object, instance);
        links.push(self.link(&path, None, &self.own(&path)));
        for (resource, values) in self.objects.resources(object, instance) {
            let path = ObjectPath::Resource(object, instance, resource);
            links.push(self.link(&path, values, &self.own(&path)));
        }
    }

    fn link(&self, path: &ObjectPath, values: Option<usize>, attributes: &Attributes) -> Link {
        let mut link = Link::new(path.to_string());
        if let ObjectPath::Object(object) = *path
            && let Some(version) = self.object_version(object)
        {
            link = link.with("ver", version);
        }
        if let Some(values) = values {
            link = link.with("dim", values.to_string());
        }
        for query in attributes.to_queries() {
            if let Some((name, value)) = query.split_once('=') {
                link = link.with(name, value);
            }
        }
        link
    }

    /// The version of an object to tell the server, where it is not 1.0, the one that goes without saying.
    pub(super) fn object_version(&self, object: u16) -> Option<&str> {
        self.objects
            .models()
            .object(object)
            .map(|model| model.version.as_str())
            .filter(|version| *version != "1.0")
    }

    fn own(&self, path: &ObjectPath) -> Attributes {
        self.attributes.get(path).copied().unwrap_or_default()
    }

    /// What was written at a path and above it, without the server object's defaults.
    fn effective_written(&self, path: &ObjectPath) -> Attributes {
        let mut merged = self.own(path);
        let mut at = path.parent();
        while let Some(path) = at {
            merged = merged.or(&self.own(&path));
            at = path.parent();
        }
        merged
    }

    fn write_attributes(
        &mut self,
        path: &ObjectPath,
        queries: &[String],
    ) -> Result<Response, Code> {
        if *path == ObjectPath::Root {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        if !self.objects.exists(path) {
            return Err(Code::NOT_FOUND);
        }
        let mut attributes = self.own(path);
        attributes.apply(queries).map_err(|_| Code::BAD_REQUEST)?;
        let kind = self
            .objects
            .models()
            .resource(path)
            .and_then(|model| model.value_type);
        attributes
            .check_for(path, kind)
            .map_err(|_| Code::BAD_REQUEST)?;
        if attributes == Attributes::default() {
            self.attributes.remove(path);
        } else {
            self.attributes.insert(*path, attributes);
        }
        Ok(Response::new(Code::CHANGED))
    }

    fn write(
        &mut self,
        request: &Request,
        path: ObjectPath,
        mode: WriteMode,
    ) -> Result<Response, Code> {
        if path.depth() < 2 {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        // Say what is missing before finding fault with the payload.
        if !self.objects.exists(&path) && path.depth() < 4 {
            return Err(Code::NOT_FOUND);
        }
        let format = match request.content_format {
            Some(id) => ContentFormat::from_id(id)
                .filter(|f| f.carries_nodes())
                .ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?,
            // One value without a format is text; anything else can't be guessed.
            None if path.depth() >= 3 => ContentFormat::Text,
            None => return Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        };
        let node = decode(&request.payload, &path, format, self.objects.models())
            .map_err(|_| Code::BAD_REQUEST)?;
        self.objects.write(&path, node, mode)?;
        self.note_change(&path);
        self.state_of_server_object_changed(&path);
        self.events.push_back(Event::Written { path });
        Ok(Response::new(Code::CHANGED))
    }

    fn execute(&mut self, request: &Request, path: ObjectPath) -> Result<Response, Code> {
        let arguments = std::str::from_utf8(&request.payload).map_err(|_| Code::BAD_REQUEST)?;
        self.objects.execute(&path, arguments)?;
        match path {
            // Disable.
            ObjectPath::Resource(1, server, 4) => {
                let time = self.disable_timeout(server);
                self.state.disabled(time);
            }
            // Registration Update Trigger.
            ObjectPath::Resource(1, _, 8) => self.state.update_wanted(),
            _ => {}
        }
        self.events.push_back(Event::Executed {
            path,
            arguments: arguments.to_owned(),
        });
        Ok(Response::new(Code::CHANGED))
    }

    /// How long a server is not wanted that disables itself: its resource 5, or a day (TS 1.1 core, section E.2).
    fn disable_timeout(&self, server: u16) -> Duration {
        let at = ObjectPath::Resource(1, server, 5);
        let seconds = match self.objects.read(&at) {
            Ok(Node::Resource(ResourceNode {
                content: ResourceContent::Single(Value::Integer(seconds)),
                ..
            })) => u64::try_from(seconds).ok(),
            _ => None,
        };
        seconds.map_or(DISABLE_TIMEOUT, Duration::from_secs)
    }

    fn create(&mut self, request: &Request, object: u16) -> Result<Response, Code> {
        let id = request.content_format.unwrap_or(ContentFormat::Tlv.id());
        let format = ContentFormat::from_id(id)
            .filter(|f| f.carries_nodes())
            .ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        let chosen = decode_create(&request.payload, object, format, self.objects.models());
        let chosen = chosen.map_err(|_| Code::BAD_REQUEST)?;
        let id = self.objects.create(object, chosen)?;
        let path = ObjectPath::Instance(object, id);
        self.note_change(&path);
        self.state.objects_changed();
        self.events.push_back(Event::Created { path });
        let location_path = vec![object.to_string(), id.to_string()];
        Ok(Response {
            location_path,
            ..Response::new(Code::CREATED)
        })
    }
}

/// Attributes travel as the query of a PUT without a payload (TS 1.1 core, table 6.3-1).
fn is_write_attributes(request: &Request) -> bool {
    !request.query.is_empty() && request.payload.is_empty() && request.content_format.is_none()
}
