//! Takes requests from Kafka into the journal: an offset is committed when the journal has the request.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka::{
    Cluster, DeadLetters, ORIGIN_HEADER, Origin, Process, ProcessError, ProduceError, Producer,
    ProducerSettings, ReadError, Record, RecordDecoder, SchemaRegistry, TraceParent,
};
use prometheus::IntCounter;
use records::{AvroContentFormat, Request, RequestKind, RequestPayload};
use service::metrics::{Stage, records as passed};

use crate::engine::Engine;
use crate::store::Accepted;

/// The header with a request's deadline in Unix milliseconds.
const EXPIRES_AT: &str = "expires-at";

/// What is done with a batch of request records.
pub(crate) struct RequestIntake {
    engine: Engine,
    decoder: RecordDecoder<Request>,
    /// Made when there is the first of them.
    dead_letters: Option<DeadLetters>,
    producing: (Cluster, ProducerSettings),
    cluster_id: String,
    accepted: IntCounter,
}

impl RequestIntake {
    pub(crate) fn new(
        engine: Engine,
        registry: SchemaRegistry,
        producing: (Cluster, ProducerSettings),
        cluster_id: String,
    ) -> Self {
        Self {
            engine,
            decoder: RecordDecoder::new(registry),
            dead_letters: None,
            producing,
            cluster_id,
            accepted: passed(Stage::Request),
        }
    }

    async fn read(&mut self, record: &Record) -> Result<Option<Accepted>, ProcessError> {
        let (reason, message) = match &record.value {
            None => ("tombstone", "a request needs a value".to_owned()),
            Some(value) => match self.decoder.decode(value).await {
                Ok(request) => match too_long(&request) {
                    None => return Ok(Some(self.accepted(record, request, None))),
                    Some(message) => ("too_long", message),
                },
                Err(ReadError::Away(error)) => return Err(ProcessError::Retry(error.to_string())),
                Err(ReadError::Bad { reason, message }) => {
                    // Cut off or broken behind its ticket: whoever waits for the reply gets one.
                    if let Some(request) = self.salvaged(reason, value) {
                        let why = Some(format!("the request can't be read: {message}"));
                        return Ok(Some(self.accepted(record, request, why)));
                    }
                    (reason, message)
                }
            },
        };
        self.put_aside(record, reason, &message).await?;
        Ok(None)
    }

    async fn put_aside(
        &mut self,
        record: &Record,
        reason: &'static str,
        message: &str,
    ) -> Result<(), ProcessError> {
        let dead_letters = match &self.dead_letters {
            Some(dead_letters) => dead_letters,
            None => {
                let (cluster, settings) = &self.producing;
                let producer = Producer::new(cluster, settings)
                    .map_err(|error| ProcessError::Fatal(error.into()))?;
                self.dead_letters.insert(DeadLetters::new(producer))
            }
        };
        let Err(error) = dead_letters.put(record, reason, message).await else {
            return Ok(());
        };
        if matches!(error, ProduceError::Fatal(_)) {
            self.dead_letters = None;
        }
        Err(ProcessError::Retry(match error.remedy() {
            Some(remedy) => format!("{error}: {remedy}"),
            None => error.to_string(),
        }))
    }

    /// What can be read of a request that is broken: whom it is for, and its ticket.
    fn salvaged(&self, reason: &str, value: &[u8]) -> Option<Request> {
        if reason != "not_avro" {
            return None;
        }
        let datum = self.decoder.as_written(value)?;
        let (server_id, ep, ticket) = Request::read_addressee(datum)?;
        let payload = RequestPayload {
            kind: RequestKind::Read,
            path: String::new(),
            content_format: AvroContentFormat::Tlv,
            body: None,
        };
        Some(Request {
            server_id,
            ep,
            ticket,
            payload,
        })
    }

    fn accepted(&self, record: &Record, request: Request, malformed: Option<String>) -> Accepted {
        let now = unix_ms();
        Accepted {
            origin: Origin::of(record, &self.cluster_id).to_string(),
            request,
            accepted_ms: now,
            written_ms: record.timestamp_ms.unwrap_or(now),
            created_ms: created_ms(record),
            expires_ms: record
                .header(EXPIRES_AT)
                .and_then(|value| std::str::from_utf8(value).ok())
                .and_then(|text| text.parse().ok()),
            trace: TraceParent::of(record).to_string(),
            malformed,
        }
    }
}

/// When the record was written, where no other record can stand in its place with another time: it says so itself, not the
/// broker, and it is no copy, which somebody may have stamped anew.
fn created_ms(record: &Record) -> Option<i64> {
    let is_copy = record.appended || record.header(ORIGIN_HEADER).is_some();
    record.timestamp_ms.filter(|_| !is_copy)
}

/// The most bytes of an endpoint's name and of a ticket, which come back in the reply, and of a path.
const LONGEST_NAME: usize = 1_024;
const LONGEST_PATH: usize = 4_096;

/// What is too long in a request to be answered: no device has such a name (it comes in a CoAP option, 255 bytes at most).
fn too_long(request: &Request) -> Option<String> {
    let parts = [
        ("ep", request.ep.len(), LONGEST_NAME),
        ("ticket", request.ticket.len(), LONGEST_NAME),
        ("path", request.payload.path.len(), LONGEST_PATH),
    ];
    let (name, len, most) = parts.into_iter().find(|(_, len, most)| len > most)?;
    Some(format!(
        "'{name}' has {len} bytes, at most {most} are taken"
    ))
}

impl Process for RequestIntake {
    async fn process(&mut self, batch: &[Record]) -> Result<(), ProcessError> {
        let mut accepted = Vec::with_capacity(batch.len());
        for record in batch {
            accepted.extend(self.read(record).await?);
        }
        let count = accepted.len();
        if !self.engine.accept(accepted).await {
            return Err(ProcessError::Fatal(anyhow::anyhow!(
                "the server is stopping"
            )));
        }
        self.accepted.inc_by(count as u64);
        Ok(())
    }
}

pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
