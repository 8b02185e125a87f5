//! What members ask of their group, and what they are answered.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;

/// The error a request is answered with.
pub(crate) type Code = ResponseError;

/// A request to join.
#[derive(Debug)]
pub(crate) struct Join {
    /// Empty for a member that has no id yet.
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    /// An id to give to a member that has none.
    pub(crate) new_member_id: String,
    /// KIP-394: a new member is first told its id, and joins with it in a second request.
    pub(crate) id_required_first: bool,
    /// KIP-814: a static leader that comes back may be told to leave the assignment as it is.
    pub(crate) may_skip_assignment: bool,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout: Duration,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) protocol_type: String,
    /// Name and metadata, the member's favourite first.
    pub(crate) protocols: Vec<(String, Bytes)>,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    pub(crate) member_id: String,
    pub(crate) skip_assignment: bool,
    /// Id, instance id, metadata; only the leader gets them.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

/// A refused join, with the member id the answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinError {
    pub(crate) code: Code,
    pub(crate) member_id: String,
}

/// The answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

pub(crate) type JoinAnswer = Result<Joined, JoinError>;
pub(crate) type SyncAnswer = Result<Synced, Code>;

/// An answer now, or one to wait for.
#[derive(Debug)]
pub(crate) enum Reply<T> {
    Now(T),
    Later(oneshot::Receiver<T>),
}

/// Who sends a request, as far as it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    pub(crate) generation: i32,
}
