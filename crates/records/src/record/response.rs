use std::fmt::Display;

use lwm2m_model::{Node, ObjectPath, ResourceContent};

use super::request::RequestKind;
use super::resource::{
    AvroInstanceResource, AvroMultipleResource, AvroObjectResource, AvroResource,
};
use crate::convert::{ConvertError, content_from_node};
use crate::wire::{Datum as _, avro_enum, avro_record, avro_union, put_bytes, put_long, put_text};

avro_enum! {
    /// `AvroResponseCode`
    pub enum ResponseCode {
        Created = "CREATED",
        Deleted = "DELETED",
        Changed = "CHANGED",
        Content = "CONTENT",
        BadRequest = "BAD_REQUEST",
        Unauthorized = "UNAUTHORIZED",
        MethodNotAllowed = "METHOD_NOT_ALLOWED",
        Forbidden = "FORBIDDEN",
        NotFound = "NOT_FOUND",
        NotAcceptable = "NOT_ACCEPTABLE",
        RequestEntityIncomplete = "REQUEST_ENTITY_INCOMPLETE",
        PreconditionFailed = "PRECONDITION_FAILED",
        RequestEntityTooLarge = "REQUEST_ENTITY_TOO_LARGE",
        UnsupportedContentFormat = "UNSUPPORTED_CONTENT_FORMAT",
        InternalServerError = "INTERNAL_SERVER_ERROR",
        /// Any code the others don't name.
        Unknown = "UNKNOWN",
    }
}

impl ResponseCode {
    /// The code for a CoAP response's class and detail: `(2, 5)` is 2.05 (RFC 7252, section 12.1.2).
    pub fn from_coap(class: u8, detail: u8) -> Self {
        match (class, detail) {
            (2, 1) => Self::Created,
            (2, 2) => Self::Deleted,
            (2, 4) => Self::Changed,
            (2, 5) => Self::Content,
            (4, 0) => Self::BadRequest,
            (4, 1) => Self::Unauthorized,
            (4, 3) => Self::Forbidden,
            (4, 4) => Self::NotFound,
            (4, 5) => Self::MethodNotAllowed,
            (4, 6) => Self::NotAcceptable,
            (4, 8) => Self::RequestEntityIncomplete,
            (4, 12) => Self::PreconditionFailed,
            (4, 13) => Self::RequestEntityTooLarge,
            (4, 15) => Self::UnsupportedContentFormat,
            (5, 0) => Self::InternalServerError,
            _ => Self::Unknown,
        }
    }

    /// The code for a CoAP message's code byte: three bits of class, five of detail (RFC 7252, section 3).
    pub fn from_coap_byte(code: u8) -> Self {
        Self::from_coap(code >> 5, code & 0x1f)
    }

    /// The CoAP class and detail; `None` for [`ResponseCode::Unknown`].
    pub fn to_coap(self) -> Option<(u8, u8)> {
        Some(match self {
            Self::Created => (2, 1),
            Self::Deleted => (2, 2),
            Self::Changed => (2, 4),
            Self::Content => (2, 5),
            Self::BadRequest => (4, 0),
            Self::Unauthorized => (4, 1),
            Self::Forbidden => (4, 3),
            Self::NotFound => (4, 4),
            Self::MethodNotAllowed => (4, 5),
            Self::NotAcceptable => (4, 6),
            Self::RequestEntityIncomplete => (4, 8),
            Self::PreconditionFailed => (4, 12),
            Self::RequestEntityTooLarge => (4, 13),
            Self::UnsupportedContentFormat => (4, 15),
            Self::InternalServerError => (5, 0),
            Self::Unknown => return None,
        })
    }

    /// Whether the device did what was asked.
    pub fn is_success(self) -> bool {
        matches!(
            self,
            Self::Created | Self::Deleted | Self::Changed | Self::Content
        )
    }
}

avro_union! {
    /// `AvroReadResponseBody`: the values a device sent.
    pub enum ReadContent {
        Object(AvroObjectResource) = 0,
        Instance(AvroInstanceResource) = 1,
        Resource(AvroResource) = 2,
        Multiple(AvroMultipleResource) = 3,
    }
}

avro_union! {
    /// What a reply carries besides its code.
    pub enum ResponseBody {
        Read(ReadContent) = 0,
        /// `AvroDiscoverResponse`: the links, in RFC 6690's format.
        Discover(String) = 1,
        /// `AvroCreateResponse`: the new instance's path.
        Create(String) = 2,
        /// `AvroGenericResponse`: a message.
        Generic(String) = 3,
    }
}

avro_record! {
    /// `AvroResponsePayload`
    pub struct ResponsePayload {
        pub code: ResponseCode,
        pub kind: RequestKind,
        pub body: Option<ResponseBody>,
    }
}

avro_record! {
    /// `AvroResponse`: the reply to a request.
    pub struct Response {
        /// The request's.
        pub ticket: String,
        pub server_id: String,
        pub ep: String,
        /// With the leading slash.
        pub path: String,
        /// Unix milliseconds.
        pub timestamp: i64,
        pub rep: ResponsePayload,
    }
}

avro_record! {
    /// `AvroResponseObserve`: a notification.
    pub struct ResponseObserve {
        /// That of the request which started the observation; `unset` where none did.
        pub ticket: String,
        /// The observation's CoAP token, in lower-case hex.
        pub observation_id: String,
        pub server_id: String,
        pub ep: String,
        /// With the leading slash.
        pub path: String,
        /// Unix milliseconds.
        pub timestamp: i64,
        pub rep: ResponsePayload,
    }
}

/// A notification's fields before its payload, borrowed: see [`ResponseObserve::write_datum`].
#[derive(Clone, Copy)]
pub struct ObserveHead<'a> {
    pub ticket: &'a str,
    /// A text, or what is shown as it.
    pub observation_id: &'a dyn Display,
    pub server_id: &'a str,
    pub ep: &'a str,
    /// A text, or what is shown as it.
    pub path: &'a dyn Display,
    /// Unix milliseconds.
    pub timestamp: i64,
}

impl ObserveHead<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.ticket.as_bytes());
        put_text(out, self.observation_id);
        put_bytes(out, self.server_id.as_bytes());
        put_bytes(out, self.ep.as_bytes());
        put_text(out, self.path);
        put_long(out, self.timestamp);
    }
}

impl ResponseObserve {
    /// Writes the datum of a notification behind what is there: the same as that of a record with these fields, without
    /// owning them.
    pub fn write_datum(head: ObserveHead<'_>, rep: &ResponsePayload, out: &mut Vec<u8>) {
        head.write(out);
        rep.write(out);
    }

    /// Writes the datum of a notification that shows a node at a path: the same as with [`content_from_node`], and where
    /// it is a resource with one value, which is what most devices send, nothing is taken from the heap for it.
    ///
    /// # Errors
    /// Those of [`content_from_node`]; then nothing is written.
    pub fn write_shown(
        head: ObserveHead<'_>,
        path: &ObjectPath,
        node: &Node,
        out: &mut Vec<u8>,
    ) -> Result<(), ConvertError> {
        if let (Node::Resource(resource), ObjectPath::Resource(_, _, id)) = (node, *path)
            && let ResourceContent::Single(value) = &resource.content
            && resource.id == id
        {
            head.write(out);
            ResponseCode::Content.write(out);
            RequestKind::Observe.write(out);
            put_long(out, 1 + ResponseBody::READ);
            put_long(out, ReadContent::RESOURCE);
            AvroResource::write_single(id, path, value, out);
            return Ok(());
        }
        let rep = ResponsePayload {
            code: ResponseCode::Content,
            kind: RequestKind::Observe,
            body: Some(ResponseBody::Read(content_from_node(node, path)?)),
        };
        Self::write_datum(head, &rep, out);
        Ok(())
    }
}

impl ReadContent {
    /// The branch of [`ReadContent::Resource`].
    const RESOURCE: i64 = 2;
}

impl ResponseBody {
    /// The branch of [`ResponseBody::Read`]; the null of an optional body stands before it.
    const READ: i64 = 0;
}
