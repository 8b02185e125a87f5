use std::time::Duration;

use kafka::{Cluster, OutRecord, Producer, ProducerSettings, RecordEncoder, SchemaRegistry};
use records::{GatewayId, Request, TopicKind};

/// Produces management requests at the cloud, as an operator does.
pub(crate) struct Requester {
    producer: Producer,
    encoder: RecordEncoder,
}

impl Requester {
    pub(crate) fn new(cluster: &Cluster, registry: SchemaRegistry) -> anyhow::Result<Self> {
        let settings = ProducerSettings {
            linger: Duration::ZERO,
            ..ProducerSettings::default()
        };
        Ok(Self {
            producer: Producer::new(cluster, &settings)?,
            encoder: RecordEncoder::new(registry),
        })
    }

    /// Produces one request, keyed by its endpoint, and waits for the acknowledgement.
    pub(crate) async fn request(
        &self,
        gateway: &GatewayId,
        request: &Request,
        headers: &[(String, Option<Vec<u8>>)],
    ) -> anyhow::Result<()> {
        let topic = TopicKind::ManagementReq.topic(gateway);
        let key = self.encoder.key(&topic, &request.ep).await?;
        let value = self.encoder.value(&topic, request).await?;
        let record = OutRecord {
            topic: &topic,
            key: Some(&key),
            value: Some(&value),
            headers,
            ..OutRecord::default()
        };
        self.producer.send(record).await?.await?;
        Ok(())
    }
}
