//! A member of a group: what it brought, what it was given, and which of its requests are still to be answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::exchange::{JoinAnswer, SyncAnswer};

/// A member, and the answers it waits for.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) assignment: Bytes,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) last_seen: Instant,
    pub(super) joining: Option<oneshot::Sender<JoinAnswer>>,
    pub(super) syncing: Option<oneshot::Sender<SyncAnswer>>,
    pub(super) synced: bool,
}

impl Member {
    pub(super) fn waits(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    pub(super) fn answer_join(&mut self, answer: JoinAnswer) {
        if let Some(waiting) = self.joining.take() {
            // Nobody listening means its connection went: the session timeout deals with the member.
            let _ = waiting.send(answer);
        }
    }

    pub(super) fn answer_sync(&mut self, answer: SyncAnswer) {
        if let Some(waiting) = self.syncing.take() {
            let _ = waiting.send(answer);
        }
    }

    /// Whether it subscribes to a topic, as far as its metadata can be read (embedded consumer protocol).
    pub(super) fn subscribes_to(&self, topic: &str) -> bool {
        let mut offers = self.protocols.iter();
        offers.any(|(_, metadata)| subscription(metadata).iter().any(|name| name == topic))
    }
}

/// The topics of a ConsumerProtocolSubscription: `version i16, count i32, (length i16, name)*, …`.
fn subscription(metadata: &[u8]) -> Vec<String> {
    let mut topics = Vec::new();
    let Some((count, mut rest)) = metadata
        .get(2..)
        .and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return topics;
    };
    for _ in 0..i32::from_be_bytes(*count) {
        let Some((length, after)) = rest.split_first_chunk::<2>() else {
            break;
        };
        let length = usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0);
        let Some((name, after)) = after.split_at_checked(length) else {
            break;
        };
        topics.push(String::from_utf8_lossy(name).into_owned());
        rest = after;
    }
    topics
}
