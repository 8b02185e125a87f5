//! Dead letters as an operator sees them, and their way back.

use std::collections::HashSet;

use anyhow::{Context as _, ensure};

use crate::dead_letters::{
    HEADER_MESSAGE, HEADER_OFFSET, HEADER_PARTITION, HEADER_REASON, HEADER_TOPIC,
};
use crate::{
    Cluster, LookAt, ORIGIN_HEADER, Origin, OutRecord, Producer, ProducerSettings, Record,
    TransactionError, TransactionalProducer, ensure_topic, fetch_cluster_id, read_to_end,
};

/// How the topic of another's dead letters ends.
pub const SUFFIX: &str = ".dlq";
/// On a record that was a dead letter: where it was one.
pub const HEADER_RETRY: &str = "zeelos-dlq-retry";
/// The compacted topic that says which letters were sent back.
pub const RETRIED_TOPIC: &str = "zeelos.dlq.retried";
/// The transactional id that letters are sent back with, so that two operators can't send the same one.
pub const TRANSACTIONAL_ID: &str = "zeelos-dlq-retry";

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The record on the dead-letter topic.
    pub record: Record,
    /// Why it could not be processed: a short fixed word.
    pub reason: String,
    /// What exactly was wrong.
    pub message: String,
    /// The topic it was read from.
    pub topic: String,
    /// The partition it was read from, where the header says so.
    pub partition: Option<i32>,
    /// Its offset there, where the header says so.
    pub offset: Option<i64>,
}

impl Letter {
    /// A record of a dead-letter topic. One that somebody else put there, without our headers, has the reason `unknown`.
    pub fn of(record: Record) -> Self {
        let text = |name| {
            let value = record.header(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let usual = record.topic.strip_suffix(SUFFIX).unwrap_or(&record.topic);
        Self {
            reason: text(HEADER_REASON).unwrap_or_else(|| "unknown".to_owned()),
            message: text(HEADER_MESSAGE).unwrap_or_default(),
            topic: text(HEADER_TOPIC).unwrap_or_else(|| usual.to_owned()),
            partition: text(HEADER_PARTITION).and_then(|text| text.parse().ok()),
            offset: text(HEADER_OFFSET).and_then(|text| text.parse().ok()),
            record,
        }
    }

    /// Its place on the dead-letter topic, as `topic/partition/offset`.
    pub fn place(&self) -> String {
        let Record {
            topic,
            partition,
            offset,
            ..
        } = &self.record;
        format!("{topic}/{partition}/{offset}")
    }

    /// The headers it goes back with: those it came with, our reasons left out. It keeps its origin; one that had none
    /// is known by its place here from now on, so that whoever gets it twice can tell.
    fn headers_back(&self, cluster_id: &str) -> Vec<(String, Option<Vec<u8>>)> {
        let kept = self.record.headers.iter();
        let mut headers: Vec<_> = kept
            .filter(|(name, _)| !name.starts_with("zeelos-dlq-"))
            .cloned()
            .collect();
        if self.record.header(ORIGIN_HEADER).is_none() {
            let origin = Origin {
                cluster: cluster_id.to_owned(),
                topic: self.record.topic.to_string(),
                partition: self.record.partition,
                offset: self.record.offset,
            };
            headers.push((
                ORIGIN_HEADER.to_owned(),
                Some(origin.to_string().into_bytes()),
            ));
        }
        headers.push((HEADER_RETRY.to_owned(), Some(self.place().into_bytes())));
        headers
    }
}

/// The places of all letters that were sent back.
///
/// # Errors
/// When the brokers do not answer.
pub async fn retried_letters(cluster: &Cluster) -> anyhow::Result<HashSet<String>> {
    #[derive(Clone, Default)]
    struct Places(HashSet<String>);
    impl LookAt for Places {
        fn look(&mut self, record: &Record) {
            if let Some(key) = &record.key {
                self.0.insert(String::from_utf8_lossy(key).into_owned());
            }
        }
    }
    let read = read_to_end(
        cluster,
        RETRIED_TOPIC,
        &Default::default(),
        Places::default(),
    )
    .await;
    read.map(|places| places.0).map_err(|(_, error)| error)
}

/// What became of letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Sent back to their topics.
    pub sent: usize,
    /// Had been sent back before.
    pub before: usize,
    /// Have no value: what Kafka did not take as a whole, and tombstones.
    pub empty: usize,
    /// Whether each went with its mark in one transaction: then it is there once, whatever breaks.
    pub transactional: bool,
}

/// Sends letters back to the topics they were read from, in their order, each once: where the cluster has transactions
/// with its mark on [`RETRIED_TOPIC`] in one; else the mark follows the acknowledgement, and a break between the two
/// sends the letter a second time, which its origin shows.
///
/// # Errors
/// When the cluster refuses or does not answer. What was sent until then is marked.
pub async fn retry_letters(cluster: &Cluster, letters: &[Letter]) -> anyhow::Result<Retried> {
    let cluster_id = fetch_cluster_id(cluster).await?;
    ensure_topic(cluster, RETRIED_TOPIC, 1, &[("cleanup.policy", "compact")]).await?;
    // Before the marks are read: from here on no other retry is under way.
    let sender = Sender::open(cluster).await?;
    let before = retried_letters(cluster).await?;
    let mut retried = Retried {
        transactional: matches!(sender, Sender::Transactions(_)),
        ..Retried::default()
    };
    for letter in letters {
        let place = letter.place();
        if before.contains(&place) {
            retried.before += 1;
            continue;
        }
        let Some(value) = &letter.record.value else {
            retried.empty += 1;
            continue;
        };
        ensure!(
            *letter.topic != *letter.record.topic,
            "letter {place} says it came from its own topic"
        );
        let headers = letter.headers_back(&cluster_id);
        let back = OutRecord {
            topic: &letter.topic,
            key: letter.record.key.as_deref(),
            value: Some(value),
            headers: &headers,
            ..OutRecord::default()
        };
        let mark = format!(
            "{{\"to\":{:?},\"at_ms\":{}}}",
            letter.topic,
            service::now_ms()
        );
        let mark = OutRecord {
            topic: RETRIED_TOPIC,
            key: Some(place.as_bytes()),
            value: Some(mark.as_bytes()),
            ..OutRecord::default()
        };
        sender
            .send(back, mark)
            .await
            .with_context(|| format!("letter {place}, after {} were sent", retried.sent))?;
        retried.sent += 1;
    }
    Ok(retried)
}

enum Sender {
    Transactions(Box<TransactionalProducer>),
    Plain(Box<Producer>),
}

impl Sender {
    async fn open(cluster: &Cluster) -> anyhow::Result<Self> {
        let settings = ProducerSettings {
            linger: std::time::Duration::ZERO,
            ..ProducerSettings::default()
        };
        match TransactionalProducer::open(cluster, TRANSACTIONAL_ID, &settings).await {
            Ok(producer) => Ok(Self::Transactions(Box::new(producer))),
            Err(TransactionError::Unsupported(_) | TransactionError::Forbidden(_)) => {
                Ok(Self::Plain(Box::new(Producer::new(cluster, &settings)?)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn send(&self, back: OutRecord<'_>, mark: OutRecord<'_>) -> anyhow::Result<()> {
        match self {
            Self::Transactions(producer) => {
                producer.produce(&[back, mark]).await?;
            }
            Self::Plain(producer) => {
                producer.send(back).await?.await?;
                producer.send(mark).await?.await?;
            }
        }
        Ok(())
    }
}
