//! Which of a topic's partitions Kafka keeps waiting, as one does whose leader is away.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka::{TicketProducer, partition_of};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

/// The partitions by number. As long as nobody said how many there are they count as one.
#[derive(Default)]
pub(super) struct Partitions {
    /// How many there are, and since when that is known.
    count: Option<(u32, Instant)>,
    asked: Option<(Instant, Receiver<u32>)>,
    stuck: BTreeSet<u32>,
}

/// What is known of how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// An answer may come soon.
    NotYet,
    /// As before.
    Same,
    /// What was said before of single partitions was of others.
    Anew,
}

/// How long an answer is waited for: it comes from a broker that answers, or hardly at all.
const PATIENCE: Duration = Duration::from_millis(500);
/// Partitions may be added to a topic.
const COUNT_AGAIN: Duration = Duration::from_secs(60);

impl Partitions {
    /// Finds out how many there are, unless that is known.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        producer: Option<&TicketProducer>,
        topic: &str,
    ) -> Known {
        let counted = self.count.is_some_and(|(_, at)| {
            !self.stuck.is_empty() || now.saturating_duration_since(at) < COUNT_AGAIN
        });
        if counted {
            return Known::Same;
        }
        let Some((at, told)) = &mut self.asked else {
            let Some(producer) = producer else {
                return Known::Same;
            };
            self.asked = Some((now, producer.ask_partitions(topic)));
            return Known::NotYet;
        };
        match told.try_recv() {
            Ok(count) => {
                self.asked = None;
                self.count = Some((count, now));
                self.stuck.clear();
                Known::Anew
            }
            Err(TryRecvError::Empty) if now.saturating_duration_since(*at) < PATIENCE => {
                Known::NotYet
            }
            Err(TryRecvError::Empty) => Known::Same,
            Err(TryRecvError::Closed) => {
                self.asked = None;
                Known::Same
            }
        }
    }

    /// The partition of a key with this hash.
    pub(super) fn of(&self, hash: u32) -> u32 {
        partition_of(hash, self.count.map_or(1, |(count, _)| count))
    }

    /// `false` where it was known.
    pub(super) fn hold(&mut self, hash: u32) -> bool {
        let partition = self.of(hash);
        self.stuck.insert(partition)
    }

    /// Kafka has answered for a record of this hash; `true` where its partition was stuck.
    pub(super) fn answers(&mut self, hash: u32) -> bool {
        let partition = self.of(hash);
        self.stuck.remove(&partition)
    }

    pub(super) fn is_stuck(&self, hash: u32) -> bool {
        !self.stuck.is_empty() && self.stuck.contains(&self.of(hash))
    }

    pub(super) fn any_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    pub(super) fn all_stuck(&self) -> bool {
        let count = self.count.map_or(1, |(count, _)| count as usize);
        self.stuck.len() >= count
    }

    pub(super) fn none_stuck(&mut self) {
        self.stuck.clear();
    }

    /// The stuck ones for a person; nothing where it is all of them.
    pub(super) fn said(&self) -> String {
        if self.all_stuck() {
            return String::new();
        }
        let numbers: Vec<String> = self.stuck.iter().take(10).map(u32::to_string).collect();
        let more = self.stuck.len() - numbers.len();
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(" in partition {}{more}", numbers.join(", "))
    }
}
