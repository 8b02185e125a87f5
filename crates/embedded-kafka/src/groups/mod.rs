//! The group coordinator: all consumer groups, the clock that moves them, and their committed offsets.

mod exchange;
mod group;
mod member;
pub(crate) mod offsets;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use self::exchange::{Code, Join, Sender};
use self::{
    exchange::{JoinAnswer, JoinError, Reply, SyncAnswer},
    group::{Group, State},
    offsets::{Committed, Offsets, Place},
};
use crate::config::GroupSettings;
use crate::disk::Disk;

/// Longest group id taken.
const MAX_GROUP_ID: usize = 1_024;
/// Bytes of metadata one member may bring, all protocols together, and of the assignment it may be given.
const MAX_MEMBER_BYTES: usize = 1 << 20;
/// Longest metadata of a committed offset (`offset.metadata.max.bytes`).
const MAX_OFFSET_METADATA: usize = 4_096;

/// A group as lists and descriptions show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) group: String,
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<MemberDescription>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

/// All groups of the broker.
#[derive(Debug)]
pub(crate) struct Coordinator {
    settings: GroupSettings,
    groups: Mutex<HashMap<String, Group>>,
    offsets: Offsets,
    /// Told when a deadline may have moved closer.
    earlier: Notify,
    stop: CancellationToken,
    disk: Arc<Disk>,
}

impl Coordinator {
    pub(crate) fn open(
        dir: &Path,
        settings: GroupSettings,
        stop: CancellationToken,
        disk: Arc<Disk>,
    ) -> io::Result<Self> {
        let offsets = Offsets::open(dir.join("offsets.log"), settings.max_offsets)?;
        Ok(Self {
            settings,
            groups: Mutex::default(),
            offsets,
            earlier: Notify::new(),
            stop,
            disk,
        })
    }

    /// Lets sessions and rebalances time out, until the broker stops.
    pub(crate) async fn keep_time(&self) {
        loop {
            let next = {
                let now = Instant::now();
                let mut groups = self.groups.lock();
                for group in groups.values_mut() {
                    if group
                        .next_deadline()
                        .is_some_and(|deadline| deadline <= now)
                    {
                        group.on_time(now);
                    }
                }
                groups.retain(|_, group| !group.is_idle());
                groups.values().filter_map(Group::next_deadline).min()
            };
            let sleep = async {
                match next {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.earlier.notified() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    pub(crate) async fn join(&self, group_id: &str, join: Join) -> JoinAnswer {
        let refuse = |code| {
            Err(JoinError {
                code,
                member_id: join.member_id.clone(),
            })
        };
        if !is_valid_group(group_id) {
            return refuse(Code::InvalidGroupId);
        }
        if !(self.settings.min_session..=self.settings.max_session).contains(&join.session_timeout)
        {
            return refuse(Code::InvalidSessionTimeout);
        }
        if join
            .protocols
            .iter()
            .map(|(_, metadata)| metadata.len())
            .sum::<usize>()
            > MAX_MEMBER_BYTES
        {
            return refuse(Code::InvalidRequest);
        }
        let member_id = join.member_id.clone();
        let reply = {
            let mut groups = self.groups.lock();
            if !groups.contains_key(group_id) {
                if !join.member_id.is_empty() {
                    return refuse(Code::UnknownMemberId);
                }
                if groups.len() >= self.settings.max_groups {
                    return refuse(Code::CoordinatorNotAvailable);
                }
            }
            let settings = &self.settings;
            let new = || Group::new(settings.initial_rebalance_delay, settings.max_members);
            groups
                .entry(group_id.to_owned())
                .or_insert_with(new)
                .join(join, Instant::now())
        };
        self.earlier.notify_one();
        let stopped = Err(JoinError {
            code: Code::CoordinatorNotAvailable,
            member_id,
        });
        self.answer(reply, stopped).await
    }

    pub(crate) async fn sync(
        &self,
        group_id: &str,
        sender: Sender<'_>,
        protocol_type: Option<&str>,
        protocol: Option<&str>,
        assignments: Vec<(String, Bytes)>,
    ) -> SyncAnswer {
        if assignments
            .iter()
            .any(|(_, assignment)| assignment.len() > MAX_MEMBER_BYTES)
        {
            return Err(Code::InvalidRequest);
        }
        let reply = {
            let mut groups = self.groups.lock();
            let group = groups.get_mut(group_id).ok_or(Code::UnknownMemberId)?;
            group.sync(sender, protocol_type, protocol, assignments, Instant::now())
        };
        self.earlier.notify_one();
        self.answer(reply, Err(Code::CoordinatorNotAvailable)).await
    }

    /// Waits for an answer; `stopped` is given when the broker stops, or the same member asked again meanwhile.
    async fn answer<T>(&self, reply: Reply<T>, stopped: T) -> T {
        match reply {
            Reply::Now(answer) => answer,
            Reply::Later(later) => tokio::select! {
                answer = later => answer.unwrap_or(stopped),
                () = self.stop.cancelled() => stopped,
            },
        }
    }

    pub(crate) fn heartbeat(&self, group_id: &str, sender: Sender<'_>) -> Result<(), Code> {
        let mut groups = self.groups.lock();
        groups
            .get_mut(group_id)
            .ok_or(Code::UnknownMemberId)?
            .heartbeat(sender, Instant::now())
    }

    pub(crate) fn leave(
        &self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), Code> {
        let left = {
            let mut groups = self.groups.lock();
            let group = groups.get_mut(group_id).ok_or(Code::UnknownMemberId)?;
            group.leave(member_id, instance_id, Instant::now())
        };
        self.earlier.notify_one();
        left
    }

    /// Whether a commit may be made, before its offsets are looked at.
    pub(crate) fn check_commit(&self, group_id: &str, sender: Sender<'_>) -> Result<(), Code> {
        if !is_valid_group(group_id) {
            return Err(Code::InvalidGroupId);
        }
        let mut groups = self.groups.lock();
        match groups.get_mut(group_id) {
            Some(group) => group.check_commit(sender, Instant::now()),
            None if sender.generation < 0 && sender.member_id.is_empty() => Ok(()),
            None => Err(Code::UnknownMemberId),
        }
    }

    pub(crate) fn check_metadata(metadata: &str) -> Result<(), Code> {
        if metadata.len() > MAX_OFFSET_METADATA {
            Err(Code::OffsetMetadataTooLarge)
        } else {
            Ok(())
        }
    }

    /// Keeps committed offsets: in the kernel's page cache when it returns, with `sync` on the disk.
    pub(crate) fn commit(
        &self,
        group_id: &str,
        offsets: Vec<(Place, Committed)>,
        now_ms: i64,
        sync: bool,
    ) -> Result<(), Code> {
        let kept = self.offsets.commit(group_id, offsets, now_ms);
        self.disk.note(OFFSETS, &kept);
        match kept {
            Ok(true) if sync => {
                let flushed = self.offsets.flush();
                self.disk.note(OFFSETS_FLUSHED, &flushed);
                flushed.map_err(|error| storage(&error))
            }
            Ok(true) => Ok(()),
            Ok(false) => {
                warn!(
                    group = group_id,
                    max = self.settings.max_offsets,
                    "no room for more committed offsets"
                );
                Err(Code::PolicyViolation)
            }
            Err(error) => Err(storage(&error)),
        }
    }

    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// All groups: those with members and those that only have offsets.
    pub(crate) fn list(&self) -> Vec<Description> {
        let groups = self.groups.lock();
        let mut names: BTreeSet<String> = groups.keys().cloned().collect();
        names.extend(self.offsets.groups());
        names
            .into_iter()
            .map(|name| describe(groups.get(&name), name, false))
            .collect()
    }

    /// One group with its members; `None` if there is none of that name.
    pub(crate) fn describe(&self, group_id: &str) -> Option<Description> {
        let groups = self.groups.lock();
        let found = groups.get(group_id);
        (found.is_some() || self.offsets.has_group(group_id))
            .then(|| describe(found, group_id.to_owned(), true))
    }

    pub(crate) fn delete(&self, group_id: &str) -> Result<(), Code> {
        let mut groups = self.groups.lock();
        match groups.get(group_id) {
            Some(group) if !group.is_idle() => return Err(Code::NonEmptyGroup),
            None if !self.offsets.has_group(group_id) => return Err(Code::GroupIdNotFound),
            _ => {}
        }
        groups.remove(group_id);
        self.offsets
            .drop_group(group_id)
            .map_err(|error| storage(&error))
    }

    /// Whether a group exists whose members subscribe to a topic; `None` without such a group.
    pub(crate) fn is_subscribed(&self, group_id: &str, topic: &str) -> Option<bool> {
        let groups = self.groups.lock();
        match groups.get(group_id) {
            Some(group) => Some(group.subscribes_to(topic)),
            None => self.offsets.has_group(group_id).then_some(false),
        }
    }

    /// Forgets offsets of groups nobody has been in for long.
    pub(crate) fn apply_retention(&self, now_ms: i64) {
        let age = i64::try_from(self.settings.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        for group in self.offsets.idle_since(now_ms.saturating_sub(age)) {
            let members = self.groups.lock().contains_key(&group);
            if !members {
                info!(
                    group,
                    "forgetting the offsets of a group that has been gone for long"
                );
                if let Err(error) = self.offsets.drop_group(&group) {
                    storage(&error);
                }
            }
        }
    }
}

fn describe(group: Option<&Group>, name: String, with_members: bool) -> Description {
    let protocol = group.map(Group::protocol).unwrap_or_default();
    let members = group
        .filter(|_| with_members)
        .map_or_else(Vec::new, |group| {
            let members = group.members().map(|(id, member)| MemberDescription {
                member_id: id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: member.metadata(protocol),
                assignment: member.assignment.clone(),
            });
            members.collect()
        });
    Description {
        state: group.map_or(State::Empty, Group::state).name(),
        protocol_type: group
            .map(Group::protocol_type)
            .unwrap_or_default()
            .to_owned(),
        protocol: protocol.to_owned(),
        members,
        group: name,
    }
}

fn is_valid_group(group_id: &str) -> bool {
    (1..=MAX_GROUP_ID).contains(&group_id.len())
}

/// As what can't be written they are called so.
const OFFSETS: &str = "committed offsets";
pub(crate) const OFFSETS_FLUSHED: &str = "committed offsets, flushed,";

/// The commit can be tried again: the disk may have room by then.
fn storage(error: &io::Error) -> Code {
    tracing::error!(%error, "committed offsets could not be written: check the disk of the data directory");
    Code::CoordinatorNotAvailable
}

/// A timeout as it came over the wire; negative ones are none.
pub(crate) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
