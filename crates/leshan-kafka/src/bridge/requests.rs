//! Takes requests from Kafka into the journal: an offset is committed when the journal has the request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka::{
    DeadLetters, Origin, Process, ProcessError, ProduceError, ReadError, Record, RecordDecoder,
    SchemaRegistry,
};
use prometheus::IntCounter;
use records::Request;
use service::metrics::{Stage, records as passed};

use crate::engine::Engine;
use crate::store::Accepted;

/// The header with a request's deadline in Unix milliseconds.
const EXPIRES_AT: &str = "expires-at";

/// What is done with a batch of request records.
pub(crate) struct RequestIntake {
    engine: Engine,
    decoder: RecordDecoder<Request>,
    dead_letters: DeadLetters,
    cluster_id: String,
    timeout: Duration,
    accepted: IntCounter,
}

impl RequestIntake {
    pub(crate) fn new(
        engine: Engine,
        registry: SchemaRegistry,
        dead_letters: DeadLetters,
        cluster_id: String,
        timeout: Duration,
    ) -> Self {
        Self {
            engine,
            decoder: RecordDecoder::new(registry),
            dead_letters,
            cluster_id,
            timeout,
            accepted: passed(Stage::Request),
        }
    }

    async fn read(&mut self, record: &Record) -> Result<Option<Accepted>, ProcessError> {
        let (reason, message) = match &record.value {
            None => ("tombstone", "a request needs a value".to_owned()),
            Some(value) => match self.decoder.decode(value).await {
                Ok(request) => return Ok(Some(self.accepted(record, request))),
                Err(ReadError::Away(error)) => return Err(ProcessError::Retry(error.to_string())),
                Err(ReadError::Bad { reason, message }) => (reason, message),
            },
        };
        match self.dead_letters.put(record, reason, &message).await {
            Ok(()) => Ok(None),
            Err(ProduceError::Fatal(error)) => Err(ProcessError::Fatal(error.into())),
            Err(error) => Err(ProcessError::Retry(error.to_string())),
        }
    }

    fn accepted(&self, record: &Record, request: Request) -> Accepted {
        let now = unix_ms();
        let written = record.timestamp_ms.unwrap_or(now);
        let timeout = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = record
            .header(EXPIRES_AT)
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| written.saturating_add(timeout));
        Accepted {
            origin: Origin::of(record, &self.cluster_id).to_string(),
            request,
            accepted_ms: now,
            deadline_ms,
        }
    }
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
