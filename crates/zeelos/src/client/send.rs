use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use kafka::{KafkaArgs, RecordDecoder, StartAt, TopicReader, TraceParent, ensure_topic};
use lwm2m_model::{ObjectPath, Registry, ValueType};
use records::{
    AvroContentFormat, AvroInstanceResource, AvroRecord as _, AvroResource, GatewayId, Request,
    RequestBody, RequestKind, RequestPayload, ResourceKind, ResourceType, ResourceValue, Response,
    TopicKind, WriteMode, WriteNode, WriteRequest,
};

use super::{Requester, print};

/// Sends one request and waits for its reply. The trace it begins (`traceparent`) is shown, and stands in the logs of
/// every service on the way.
#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// The gateway the device is registered at
    gateway: GatewayId,
    /// The device's endpoint name
    endpoint: String,
    #[command(subcommand)]
    operation: Operation,
    /// The request's ticket, which comes back in the reply (default: a random one)
    #[arg(long, global = true)]
    ticket: Option<String>,
    /// How long to wait for the reply, in seconds; the request expires then
    #[arg(long, default_value_t = 60, global = true, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
    /// The content format asked for
    #[arg(long, value_enum, default_value = "tlv", global = true)]
    format: Format,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum Operation {
    /// Read an object, an instance or a resource
    Read { path: ObjectPath },
    /// Observe a path: its first value is the reply, the next ones come on the observations topic
    Observe { path: ObjectPath },
    /// Forget the observations of a path
    Cancel { path: ObjectPath },
    /// Ask which resources and attributes there are
    Discover { path: ObjectPath },
    /// Write one resource
    Write {
        path: ObjectPath,
        /// The new value; Opaque as base64, Time as Unix milliseconds, Objlnk as object:instance
        value: String,
        /// The value's type, where the object's model is not known
        #[arg(long = "type", value_enum)]
        kind: Option<Kind>,
        /// Update an instance's resource instead of replacing it
        #[arg(long)]
        update: bool,
    },
    /// Execute a resource
    Execute {
        path: ObjectPath,
        /// What is passed on, such as 0='a',1
        #[arg(default_value = "")]
        arguments: String,
    },
    /// Create an instance with these resources
    Create {
        /// The object, or the instance to be
        path: ObjectPath,
        /// Resources as id=value
        resources: Vec<String>,
    },
    /// Delete an instance
    Delete { path: ObjectPath },
    /// Write attributes such as pmin=1 pmax=10 gt=25.5
    Attributes {
        path: ObjectPath,
        #[arg(required = true)]
        attributes: Vec<String>,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Kind {
    String,
    Integer,
    Float,
    Boolean,
    Opaque,
    Time,
    Objlnk,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Format {
    Tlv,
    Json,
    Text,
    Opaque,
    Link,
}

impl SendArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let cluster = self.kafka.cluster()?;
        let registry = self.kafka.registry()?;
        let ticket = self.ticket.clone().unwrap_or_else(random_ticket);
        let request = self.request(ticket.clone())?;

        let replies = TopicKind::ManagementRep.topic(&self.gateway);
        // The reply must not be missed: its topic is there and read before the request is sent.
        ensure_topic(&cluster, &replies, 1, &[]).await?;
        let mut reader = TopicReader::open(&cluster, &replies, StartAt::End).await?;
        let limit = Duration::from_secs(self.timeout);
        let trace = TraceParent::start();
        // Beside the reply, which alone is on standard output.
        eprintln!("traceparent {trace}");
        let headers = [
            ("expires-at".to_owned(), Some(expires_at(limit))),
            trace.header(),
        ];
        let requester = Requester::new(&cluster, registry.clone())?;
        let sent = requester.request(&self.gateway, &request, &headers);
        tokio::time::timeout(limit, sent).await.map_err(|_| {
            anyhow!(
                "Kafka at {} did not acknowledge the request within {} s; it may still arrive",
                cluster.bootstrap(),
                self.timeout
            )
        })??;

        let mut decoder = RecordDecoder::<Response>::new(registry);
        let wait = async {
            loop {
                let record = reader.next().await;
                let Some(value) = record.value else { continue };
                match decoder.decode(&value).await {
                    Ok(reply) if reply.ticket == ticket && reply.ep == self.endpoint => {
                        return reply;
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("a reply could not be read: {error}"),
                }
            }
        };
        let reply = tokio::time::timeout(limit, wait).await.map_err(|_| {
            anyhow!(
                "no reply with ticket '{ticket}' within {} s: is gateway '{}' running and its mirror connected?",
                self.timeout, self.gateway
            )
        })?;
        let schema = Response::schema();
        let text = format!("{:#}\n", records::to_avro_json(&reply.to_datum(), schema)?);
        print(text.as_bytes())?;
        Ok(if reply.rep.code.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        })
    }

    fn request(&self, ticket: String) -> anyhow::Result<Request> {
        let (kind, path, body) = self.operation.parts()?;
        Ok(Request {
            server_id: self.gateway.to_string(),
            ep: self.endpoint.clone(),
            ticket,
            payload: RequestPayload {
                kind,
                path: path.to_string(),
                content_format: match self.format {
                    Format::Tlv => AvroContentFormat::Tlv,
                    Format::Json => AvroContentFormat::Json,
                    Format::Text => AvroContentFormat::Text,
                    Format::Opaque => AvroContentFormat::Opaque,
                    Format::Link => AvroContentFormat::Link,
                },
                body,
            },
        })
    }
}

impl Operation {
    fn parts(&self) -> anyhow::Result<(RequestKind, ObjectPath, Option<RequestBody>)> {
        Ok(match self {
            Self::Read { path } => (RequestKind::Read, *path, None),
            Self::Observe { path } => (RequestKind::Observe, *path, None),
            Self::Cancel { path } => (RequestKind::ObserveCancel, *path, None),
            Self::Discover { path } => (RequestKind::Discover, *path, None),
            Self::Delete { path } => (RequestKind::Delete, *path, None),
            Self::Write {
                path,
                value,
                kind,
                update,
            } => {
                let write = WriteRequest {
                    mode: if *update {
                        WriteMode::Update
                    } else {
                        WriteMode::Replace
                    },
                    node: WriteNode::Resource(resource(*path, value, *kind)?),
                };
                (RequestKind::Write, *path, Some(RequestBody::Write(write)))
            }
            Self::Execute { path, arguments } => {
                let body = RequestBody::Execute(arguments.clone());
                (RequestKind::Execute, *path, Some(body))
            }
            Self::Create { path, resources } => {
                let body = RequestBody::Create(instance(*path, resources)?);
                (RequestKind::Create, *path, Some(body))
            }
            Self::Attributes { path, attributes } => {
                let body = RequestBody::WriteAttributes(attributes.join("&"));
                (RequestKind::WriteAttributes, *path, Some(body))
            }
        })
    }
}

fn instance(path: ObjectPath, resources: &[String]) -> anyhow::Result<AvroInstanceResource> {
    let (object, id) = match path {
        ObjectPath::Object(object) => (object, 0),
        ObjectPath::Instance(object, id) => (object, id),
        _ => bail!("{path}: create takes an object or an instance"),
    };
    let mut all = Vec::new();
    for given in resources {
        let (resource_id, value) = given
            .split_once('=')
            .with_context(|| format!("'{given}': expected id=value"))?;
        let resource_id: u16 = resource_id
            .parse()
            .with_context(|| format!("'{given}': '{resource_id}' is no resource id"))?;
        let path = ObjectPath::Resource(object, id, resource_id);
        all.push(resource(path, value, None)?);
    }
    Ok(AvroInstanceResource {
        id: i32::from(id),
        kind: ResourceKind::Instance,
        resources: all,
        multiple_resources: None,
    })
}

/// A value in the record's form, by the type given or the model's.
fn resource(path: ObjectPath, text: &str, kind: Option<Kind>) -> anyhow::Result<AvroResource> {
    let ObjectPath::Resource(_, _, id) = path else {
        bail!("{path}: a value is written to a resource, such as /3/0/15");
    };
    let kind = match kind {
        Some(kind) => kind,
        None => modelled(path)?,
    };
    let no = |what: &str| format!("'{text}' is no {what}, which {path} takes");
    let (r#type, value) = match kind {
        Kind::String => (ResourceType::String, ResourceValue::String(text.to_owned())),
        Kind::Opaque => (ResourceType::Opaque, ResourceValue::String(text.to_owned())),
        Kind::Objlnk => (
            ResourceType::ObjectLink,
            ResourceValue::String(text.to_owned()),
        ),
        Kind::Integer => {
            let value = text.parse().with_context(|| no("integer"))?;
            (ResourceType::Integer, ResourceValue::Long(value))
        }
        Kind::Time => {
            let value = text
                .parse()
                .with_context(|| no("time in Unix milliseconds"))?;
            (ResourceType::Time, ResourceValue::Long(value))
        }
        Kind::Float => {
            let value = text.parse().with_context(|| no("number"))?;
            (ResourceType::Float, ResourceValue::Double(value))
        }
        Kind::Boolean => {
            let value = text
                .parse()
                .with_context(|| no("boolean (true or false)"))?;
            (ResourceType::Boolean, ResourceValue::Boolean(value))
        }
    };
    Ok(AvroResource {
        id: i32::from(id),
        path: path.to_string(),
        kind: ResourceKind::SingleResource,
        r#type,
        value,
    })
}

fn modelled(path: ObjectPath) -> anyhow::Result<Kind> {
    let registry = Registry::oma();
    let kind = registry
        .resource(&path)
        .and_then(|resource| resource.value_type)
        .with_context(|| {
            format!("{path} is in no object model we know: say its type with --type")
        })?;
    Ok(match kind {
        ValueType::String | ValueType::CoreLink => Kind::String,
        ValueType::Integer | ValueType::Unsigned => Kind::Integer,
        ValueType::Float => Kind::Float,
        ValueType::Boolean => Kind::Boolean,
        ValueType::Opaque => Kind::Opaque,
        ValueType::Time => Kind::Time,
        ValueType::ObjectLink => Kind::Objlnk,
    })
}

fn random_ticket() -> String {
    format!("zeelos-{:016x}", rand::random::<u64>())
}

/// The request's deadline in Unix milliseconds, as the header `expires-at` has it.
fn expires_at(limit: Duration) -> Vec<u8> {
    let at = SystemTime::now() + limit;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().to_string().into_bytes()
}
