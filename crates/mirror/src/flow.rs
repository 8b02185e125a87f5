use std::time::Duration;

use kafka::ConsumeSettings;
use records::{GatewayId, TopicKind};

use crate::{Direction, metrics};

/// What one direction reads and how.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The consumer's settings: group, topics, batches.
    pub consume: ConsumeSettings,
    /// The compression at the target.
    pub compression: String,
    /// Whether records get their origin written in a header: what makes a request the same request after a copy.
    pub stamps_origin: bool,
}

/// Contract, section 1.
const COMMIT_INTERVAL: Duration = Duration::from_secs(10);
/// A mirror's batch is what it has in flight: large enough that a long link's latency does not cap it.
const BATCH_RECORDS: usize = 10_000;

impl Flow {
    /// The flow of a gateway in one direction.
    pub fn new(direction: Direction, gateway: &GatewayId, compression: Option<&str>) -> Self {
        let requests = TopicKind::ManagementReq.topic(gateway);
        let (mut consume, usual_compression) = match direction {
            Direction::CloudToEdge => {
                let group = format!("mirrormaker_edge_{gateway}");
                (ConsumeSettings::new(group, vec![requests]), "none")
            }
            Direction::EdgeToCloud => {
                let group = format!("mirrormaker_cloud_{gateway}");
                // A gateway id has no character that means something in a regular expression but itself.
                let topics = vec![format!(r"^iot\.{gateway}\..+")];
                let mut consume = ConsumeSettings::new(group, topics);
                // Exactly the request topic is left out: as if the source did not have it.
                let left_out = format!(r"^iot\.{gateway}\.management\.req$");
                consume
                    .properties
                    .push(("topic.blacklist".to_owned(), left_out));
                (consume, "snappy")
            }
        };
        consume.batch_records = BATCH_RECORDS;
        consume.commit_interval = COMMIT_INTERVAL;
        consume.lag = Some(metrics::LAG.clone());
        Self {
            consume,
            compression: compression.unwrap_or(usual_compression).to_owned(),
            stamps_origin: direction == Direction::CloudToEdge,
        }
    }
}
