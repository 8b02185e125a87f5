use super::resource::{AvroInstanceResource, AvroObjectResource, AvroResource};
use crate::wire::{Cursor, avro_enum, avro_record, avro_union};

avro_enum! {
    /// `AvroRequestKind`: what a request asks for, and a reply answers.
    pub enum RequestKind {
        Read = "read",
        Write = "write",
        WriteAttributes = "writeAttributes",
        Execute = "execute",
        Observe = "observe",
        ObserveCancel = "observeCancel",
        Delete = "delete",
        Discover = "discover",
        Create = "create",
    }
}

avro_enum! {
    /// `AvroContentFormat`: the form in which the device is asked to send, or is sent, the value.
    pub enum AvroContentFormat {
        Tlv = "TLV",
        Json = "JSON_CODE",
        Text = "TEXT_CODE",
        Opaque = "OPAQUE_CODE",
        Link = "LINK_CODE",
    }
}

avro_enum! {
    /// `AvroWriteRequestMode`
    pub enum WriteMode {
        /// What is there and not in the request goes.
        Replace = "REPLACE",
        /// What is not in the request stays.
        Update = "UPDATE",
    }
}

avro_union! {
    /// What a write request carries.
    pub enum WriteNode {
        Object(AvroObjectResource) = 0,
        Instance(AvroInstanceResource) = 1,
        Resource(AvroResource) = 2,
    }
}

avro_record! {
    /// `AvroWriteRequest`
    pub struct WriteRequest {
        pub mode: WriteMode,
        pub node: WriteNode,
    }
}

avro_union! {
    /// What a request carries besides its path. Nothing here ties it to the request's kind: whoever executes it answers
    /// a body that does not fit.
    pub enum RequestBody {
        /// `AvroCreateRequest`: the instance to create.
        Create(AvroInstanceResource) = 0,
        /// `AvroExecuteRequest`: the parameters, as they are passed on to the device.
        Execute(String) = 1,
        /// `AvroWriteAttributesRequest`: the attributes as a query, such as `pmin=10&pmax=60`.
        WriteAttributes(String) = 2,
        /// `AvroWriteRequest`
        Write(WriteRequest) = 3,
    }
}

impl RequestBody {
    /// The only kind of request this body belongs to.
    pub fn kind(&self) -> RequestKind {
        match self {
            Self::Create(_) => RequestKind::Create,
            Self::Execute(_) => RequestKind::Execute,
            Self::WriteAttributes(_) => RequestKind::WriteAttributes,
            Self::Write(_) => RequestKind::Write,
        }
    }
}

avro_record! {
    /// `AvroRequestPayload`
    pub struct RequestPayload {
        pub kind: RequestKind,
        /// With or without the leading slash.
        pub path: String,
        pub content_format: AvroContentFormat,
        pub body: Option<RequestBody>,
    }
}

avro_record! {
    /// `AvroRequest`: what an operator asks of a device.
    pub struct Request {
        pub server_id: String,
        pub ep: String,
        /// The operator's mark, which the reply bears.
        pub ticket: String,
        pub payload: RequestPayload,
    }
}

/// The longest of the three that [`Request::read_addressee`] takes for real.
const LONGEST_NAME: usize = 1_024;

impl Request {
    /// Reads the server's id, the endpoint and the ticket from the start of a datum, whatever stands behind them. `None`
    /// where they can't be read, or the ticket is empty.
    pub fn read_addressee(datum: &[u8]) -> Option<(String, String, String)> {
        let mut cursor = Cursor::new(datum);
        let mut next = || {
            let text = cursor.str().ok()?;
            (text.len() <= LONGEST_NAME).then(|| text.to_owned())
        };
        let (server_id, ep, ticket) = (next()?, next()?, next()?);
        (!ticket.is_empty()).then_some((server_id, ep, ticket))
    }
}
