//! Producing in transactions: a read_committed reader sees all of a batch, once, or nothing of it.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::producer::{classify, lossless};
use crate::ticketed::headers;
use crate::{Cluster, OutRecord, ProduceError, ProducerSettings, SettingsError};

/// Why a transaction can't be made.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The cluster has none.
    #[error("no transactions here: {0}")]
    Unsupported(KafkaError),
    /// The cluster does not allow them to this client, as long as its access rules are what they are.
    #[error(
        "Kafka does not allow transactions to this service: {0} (give its principal the operations WRITE and DESCRIBE on \
         its transactional id: zeelos acls shows all rules; the embedded broker has none)"
    )]
    Forbidden(KafkaError),
    /// Another producer with the same transactional id has begun: it is the one that counts.
    #[error("another producer with the same transactional id took over: {0}")]
    Fenced(KafkaError),
    /// It may work later, with a producer made anew. Whether the transaction was committed is not known.
    #[error("{0}")]
    Failed(#[from] ProduceError),
    /// librdkafka does not take the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// A producer of transactions under one transactional id.
pub struct TransactionalProducer {
    inner: FutureProducer,
}

const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long the broker lets a transaction stand that nobody ends: as long, readers of committed records may have to wait
/// for a producer that was killed.
const TRANSACTION_LIMIT_MS: &str = "30000";

impl TransactionalProducer {
    /// Makes the producer and begins its epoch: from here on a predecessor with the same id can write nothing, and what
    /// it had not committed is aborted.
    ///
    /// # Errors
    /// [`TransactionError`]. When the cluster does not answer within 10 s, [`TransactionError::Failed`].
    pub async fn open(
        cluster: &Cluster,
        id: &str,
        settings: &ProducerSettings,
    ) -> Result<Self, TransactionError> {
        let inner: FutureProducer = lossless(cluster, settings)
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION_LIMIT_MS)
            // Bounded by the transaction's: what is not committed by then is made anew.
            .set("message.timeout.ms", TRANSACTION_LIMIT_MS)
            .create()
            .map_err(SettingsError::from)?;
        let producer = Self { inner };
        producer
            .blocking(|inner| inner.init_transactions(CALL_LIMIT))
            .await?;
        Ok(producer)
    }

    /// Produces records in one transaction; says where each is.
    ///
    /// # Errors
    /// [`TransactionError`]: then make a new producer. The outcome may be open: read back what is there.
    pub async fn produce(
        &self,
        records: &[OutRecord<'_>],
    ) -> Result<Vec<(i32, i64)>, TransactionError> {
        self.blocking(FutureProducer::begin_transaction).await?;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let mut pending = FutureRecord::<[u8], [u8]>::to(record.topic);
            pending.partition = record.partition;
            pending.key = record.key;
            pending.payload = record.value;
            pending.timestamp = record.timestamp_ms;
            pending.headers = headers(record.headers);
            let handed = self.inner.send_result(pending);
            let delivery = handed.map_err(|(error, _)| failed(classify(record.topic, error)))?;
            deliveries.push((record.topic, delivery));
        }
        let mut places = Vec::with_capacity(records.len());
        for (topic, delivery) in deliveries {
            places.push(match delivery.await {
                Ok(Ok(delivered)) => (delivered.partition, delivered.offset),
                Ok(Err((error, _))) => return Err(failed(classify(topic, error))),
                Err(_) => return Err(ProduceError::Fatal(KafkaError::Canceled).into()),
            });
        }
        self.blocking(|inner| inner.commit_transaction(CALL_LIMIT))
            .await?;
        Ok(places)
    }

    async fn blocking(
        &self,
        call: impl FnOnce(&FutureProducer) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), TransactionError> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || call(&inner)).await;
        done.unwrap_or(Err(KafkaError::Canceled))
            .map_err(|error| failed(ProduceError::Fatal(error)))
    }
}

fn failed(error: ProduceError) -> TransactionError {
    use RDKafkaErrorCode as Code;
    let (ProduceError::Refused { reason, .. } | ProduceError::Fatal(reason)) = &error;
    let code = match reason {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    };
    match code {
        Some(Code::TransactionalIdAuthorizationFailed) => {
            TransactionError::Forbidden(reason.clone())
        }
        Some(
            Code::UnsupportedFeature | Code::UnsupportedVersion | Code::UnsupportedForMessageFormat,
        ) => TransactionError::Unsupported(reason.clone()),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
            TransactionError::Fenced(reason.clone())
        }
        _ => TransactionError::Failed(error),
    }
}
