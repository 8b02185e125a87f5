use kafka::{Delivery, OutRecord, ProcessError, ProduceError, Producer, SchemaRegistry};
use prometheus::IntCounter;
use records::{
    AvroKey, AvroRecord as _, ReadContent, ResponseBody, ResponseObserve, SchemaId, topics,
    windowed,
};
use service::metrics::{Stage, records};

use crate::fold::{Change, Item, SeriesKey};
use crate::number::{Highest, Number};
use crate::worker::{Analytic, Emitted, Observed};

/// The maximum per endpoint and path, produced whenever there is a new one.
pub(crate) struct Temperature {
    topic: String,
    producer: Producer,
    registry: SchemaRegistry,
    passed: IntCounter,
}

impl Temperature {
    pub(crate) fn new(topic: String, producer: Producer, registry: SchemaRegistry) -> Self {
        Self {
            topic,
            producer,
            registry,
            passed: records(Stage::Analytics),
        }
    }

    async fn schema_id(&self, subject: String, schema: &str) -> Result<SchemaId, ProcessError> {
        // The registry's client keeps the answer. A schema that is refused is an operator's to put right; the records
        // wait for that.
        let id = self.registry.register(&subject, schema).await;
        id.map(SchemaId)
            .map_err(|error| ProcessError::Retry(error.to_string()))
    }
}

impl Analytic for Temperature {
    type Aggregate = Highest;

    fn items(&self, reading: usize, observed: &Observed, items: &mut Vec<Item<Number>>) {
        items.push(Item {
            reading,
            key: SeriesKey {
                ep: observed.reading.ep.clone(),
                path: observed.reading.path.clone(),
            },
            timestamp_ms: observed.reading.timestamp_ms,
            input: observed.reading.number,
        });
    }

    /// Returns when the brokers have acknowledged every maximum.
    async fn emit(
        &mut self,
        observed: &[Observed],
        changes: &[Change<Highest>],
    ) -> Result<Emitted, ProcessError> {
        if changes.is_empty() {
            return Ok(Emitted::default());
        }
        let key_id = self
            .schema_id(topics::key_subject(&self.topic), AvroKey::schema().text())
            .await?;
        let value_id = self
            .schema_id(
                topics::value_subject(&self.topic),
                ResponseObserve::schema().text(),
            )
            .await?;
        let mut deliveries: Vec<Result<Delivery, ProduceError>> = Vec::with_capacity(changes.len());
        for change in changes {
            let SeriesKey { ep, path } = &change.key;
            let key = AvroKey::new(format!("{ep}.{path}")).to_framed(key_id);
            let key = windowed::encode(&key, change.window.start_ms);
            let observed = &observed[change.reading];
            let value = maximum(&observed.record).to_framed(value_id);
            let record = OutRecord {
                topic: &self.topic,
                key: Some(&key),
                value: Some(&value),
                timestamp_ms: Some(observed.result_timestamp_ms),
                ..OutRecord::default()
            };
            deliveries.push(self.producer.send(record).await);
        }
        let mut emitted = Emitted::default();
        for delivery in deliveries {
            let outcome = match delivery {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => self.passed.inc(),
                // It never will be taken; waiting for it would stop everything behind it.
                Err(error) if error.is_too_large() => emitted.too_large += 1,
                Err(error @ ProduceError::Refused { .. }) => {
                    return Err(ProcessError::Retry(error.to_string()));
                }
                Err(error @ ProduceError::Fatal(_)) => {
                    return Err(ProcessError::Fatal(error.into()));
                }
            }
        }
        Ok(emitted)
    }
}

/// The notification that brought the maximum, its path marked as one (contract, section 8).
fn maximum(observed: &ResponseObserve) -> ResponseObserve {
    let mut maximum = observed.clone();
    maximum.path.push_str("-max");
    if let Some(ResponseBody::Read(ReadContent::Resource(resource))) = &mut maximum.rep.body {
        resource.path.clone_from(&maximum.path);
    }
    maximum
}
