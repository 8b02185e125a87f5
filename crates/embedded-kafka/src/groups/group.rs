//! One consumer group as a state machine: who is in it, which generation it is, and who waits for whom.
//!
//! ```text
//! Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance ──leader's sync──▶ Stable
//!   ▲                 ▲   │ nobody left                                   │ join, leave, expiry              │
//!   └─────────────────┼───┘                                               │                                  │
//!                     └───────────────────────────────────────────────────┴──────────────────────────────────┘
//! ```
//! It takes the time as an argument; [`Group::next_deadline`] says when to call [`Group::on_time`].

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    exchange::{Code, Join, JoinAnswer, JoinError, Joined, Reply, Sender, SyncAnswer, Synced},
    member::Member,
};

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// The name Kafka gives it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    state: State,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Instance id → member id.
    statics: HashMap<String, String>,
    /// Ids given out whose owners have not joined yet, and until when they may.
    pending: HashMap<String, Instant>,
    /// When the phase of a rebalance ends whoever is missing.
    phase_ends: Option<Instant>,
    /// A new group waits until then for more members.
    not_before: Option<Instant>,
    initial_delay: Duration,
    max_members: usize,
}

impl Group {
    pub(crate) fn new(initial_delay: Duration, max_members: usize) -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: HashMap::new(),
            pending: HashMap::new(),
            phase_ends: None,
            not_before: None,
            initial_delay,
            max_members,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    /// The protocol chosen, or "" during a rebalance.
    pub(crate) fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or_default()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&String, &Member)> {
        self.members.iter()
    }

    /// Nobody is in it and nobody was told an id.
    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Empty && self.members.is_empty() && self.pending.is_empty()
    }

    pub(crate) fn join(&mut self, join: Join, now: Instant) -> Reply<JoinAnswer> {
        match self.try_join(join, now) {
            Ok(reply) => reply,
            Err(error) => Reply::Now(Err(error)),
        }
    }

    fn try_join(&mut self, join: Join, now: Instant) -> Result<Reply<JoinAnswer>, JoinError> {
        let refuse = |code| JoinError {
            code,
            member_id: join.member_id.clone(),
        };
        if join.protocol_type.is_empty() || join.protocols.is_empty() || !self.accepts(&join) {
            return Err(refuse(Code::InconsistentGroupProtocol));
        }
        if join.member_id.is_empty() {
            if self.members.len() + self.pending.len() >= self.max_members {
                return Err(refuse(Code::GroupMaxSizeReached));
            }
            let known = join
                .instance_id
                .as_ref()
                .and_then(|instance| self.statics.get(instance))
                .cloned();
            if let Some(old) = known {
                return Ok(self.replace_static(&old, join, now));
            }
            if join.instance_id.is_none() && join.id_required_first {
                self.pending
                    .insert(join.new_member_id.clone(), now + join.session_timeout);
                return Err(JoinError {
                    code: Code::MemberIdRequired,
                    member_id: join.new_member_id,
                });
            }
            let id = join.new_member_id.clone();
            return Ok(self.add(id, join, now));
        }
        if let Some(instance) = &join.instance_id {
            match self.statics.get(instance) {
                None => return Err(refuse(Code::UnknownMemberId)),
                Some(id) if *id != join.member_id => return Err(refuse(Code::FencedInstanceId)),
                Some(_) => {}
            }
        }
        if self.pending.remove(&join.member_id).is_some() {
            let id = join.member_id.clone();
            return Ok(self.add(id, join, now));
        }
        let Some(member) = self.members.get(&join.member_id) else {
            return Err(refuse(Code::UnknownMemberId));
        };
        let same = member.protocols == join.protocols;
        let leads = self.leader.as_ref() == Some(&join.member_id);
        let id = join.member_id.clone();
        // A member whose answer was lost asks again: it gets it again, without disturbing the others. A stable group's
        // leader that joins wants a new assignment.
        let settled = match self.state {
            State::CompletingRebalance => same,
            State::Stable => same && !leads,
            State::Empty | State::PreparingRebalance => false,
        };
        if settled {
            if let Some(member) = self.members.get_mut(&id) {
                member.last_seen = now;
            }
            return Ok(Reply::Now(Ok(self.joined(&id))));
        }
        Ok(self.wait_for_join(id, join, now))
    }

    /// Whether the group and the newcomer have the protocol type and a protocol in common.
    fn accepts(&self, join: &Join) -> bool {
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id);
        if others().next().is_none() {
            return true;
        }
        let supported =
            |name: &String| others().all(|(_, m)| m.protocols.iter().any(|(have, _)| have == name));
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|(name, _)| supported(name))
    }

    fn add(&mut self, id: String, join: Join, now: Instant) -> Reply<JoinAnswer> {
        if let Some(instance) = &join.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.protocol_type = Some(join.protocol_type.clone());
        let member = Member {
            instance_id: join.instance_id.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            assignment: Bytes::new(),
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: Vec::new(),
            last_seen: now,
            joining: None,
            syncing: None,
            synced: false,
        };
        self.members.insert(id.clone(), member);
        self.wait_for_join(id, join, now)
    }

    /// A static member came back under its instance id: it takes its predecessor's place.
    fn replace_static(&mut self, old: &str, join: Join, now: Instant) -> Reply<JoinAnswer> {
        let id = join.new_member_id.clone();
        let Some(mut member) = self.members.remove(old) else {
            return self.add(id, join, now);
        };
        member.answer_join(Err(JoinError {
            code: Code::FencedInstanceId,
            member_id: old.to_owned(),
        }));
        member.answer_sync(Err(Code::FencedInstanceId));
        let same = member.protocols == join.protocols;
        member.protocols.clone_from(&join.protocols);
        member.session_timeout = join.session_timeout;
        member.rebalance_timeout = join.rebalance_timeout;
        member.client_id.clone_from(&join.client_id);
        member.client_host.clone_from(&join.client_host);
        member.last_seen = now;
        self.members.insert(id.clone(), member);
        if let Some(instance) = &join.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        let led = self.leader.as_deref() == Some(old);
        if led {
            self.leader = Some(id.clone());
        }
        if self.state != State::Stable || !same {
            return self.wait_for_join(id, join, now);
        }
        let mut joined = self.joined(&id);
        if led && join.may_skip_assignment {
            joined.skip_assignment = true;
        } else if led {
            // An older client that is told it leads would compute an assignment nobody asked for.
            joined.leader = old.to_owned();
            joined.members.clear();
        }
        Reply::Now(Ok(joined))
    }

    fn wait_for_join(&mut self, id: String, join: Join, now: Instant) -> Reply<JoinAnswer> {
        let (answer, later) = oneshot::channel();
        if let Some(member) = self.members.get_mut(&id) {
            member.protocols = join.protocols;
            member.session_timeout = join.session_timeout;
            member.rebalance_timeout = join.rebalance_timeout;
            member.last_seen = now;
            member.joining = Some(answer);
        }
        if self.state != State::PreparingRebalance {
            self.prepare(now);
        }
        self.complete_if_all_joined(now);
        Reply::Later(later)
    }

    fn prepare(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.answer_sync(Err(Code::RebalanceInProgress));
        }
        if self.state == State::Empty {
            self.not_before = Some(now + self.initial_delay);
        }
        self.state = State::PreparingRebalance;
        self.phase_ends = Some(now + self.longest_rebalance());
    }

    fn longest_rebalance(&self) -> Duration {
        self.members
            .values()
            .map(|member| member.rebalance_timeout)
            .max()
            .unwrap_or_default()
    }

    fn complete_if_all_joined(&mut self, now: Instant) {
        let waited = self.not_before.is_none_or(|until| now >= until);
        let all =
            self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some());
        if self.state == State::PreparingRebalance && waited && all {
            self.complete_join(now);
        }
    }

    /// Ends the join phase: those who did not come are out, except static members, who have until their session ends.
    fn complete_join(&mut self, now: Instant) {
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.members.remove(&id);
        }
        self.not_before = None;
        if self.members.is_empty() {
            self.generation = self.generation.wrapping_add(1).max(1);
            self.become_empty();
            return;
        }
        let present = |id: &String| {
            self.members
                .get(id)
                .is_some_and(|member| member.joining.is_some())
        };
        if !self.leader.as_ref().is_some_and(present) {
            self.leader = self.members.keys().find(|id| present(id)).cloned();
        }
        if self.leader.is_none() {
            // Only static members that have not come back: give them another round.
            self.phase_ends = Some(now + self.longest_rebalance().max(Duration::from_secs(1)));
            return;
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        self.protocol = self.choose_protocol();
        self.state = State::CompletingRebalance;
        self.phase_ends = Some(now + self.longest_rebalance());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.synced = false;
                if member.joining.is_some() {
                    member.last_seen = now;
                }
                member.answer_join(Ok(joined));
            }
        }
    }

    fn become_empty(&mut self) {
        self.state = State::Empty;
        self.protocol = None;
        self.leader = None;
        self.phase_ends = None;
        self.not_before = None;
    }

    /// Among the protocols all support, the one most members like best.
    fn choose_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let common = |name: &String| {
                self.members
                    .values()
                    .all(|m| m.protocols.iter().any(|(have, _)| have == name))
            };
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| common(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(name, _)| name.to_owned())
    }

    fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let members = if leader == id {
            let metadata = |member: &Member| member.metadata(self.protocol());
            self.members
                .iter()
                .map(|(id, m)| (id.clone(), m.instance_id.clone(), metadata(m)))
                .collect()
        } else {
            Vec::new()
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member_id: id.to_owned(),
            skip_assignment: false,
            members,
        }
    }

    /// Checks that a request comes from a member of this generation.
    fn check(&self, sender: Sender<'_>) -> Result<(), Code> {
        self.check_identity(sender.member_id, sender.instance_id)?;
        if sender.generation == self.generation {
            Ok(())
        } else {
            Err(Code::IllegalGeneration)
        }
    }

    fn check_identity(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), Code> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(Code::UnknownMemberId),
                Some(id) if id != member_id => return Err(Code::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(Code::UnknownMemberId)
        }
    }

    /// A member asks for its share; the leader brings everyone's.
    pub(crate) fn sync(
        &mut self,
        sender: Sender<'_>,
        protocol_type: Option<&str>,
        protocol: Option<&str>,
        assignments: Vec<(String, Bytes)>,
        now: Instant,
    ) -> Reply<SyncAnswer> {
        if let Err(code) = self.check(sender) {
            return Reply::Now(Err(code));
        }
        let differs = |said: Option<&str>, is: &Option<String>| {
            said.is_some_and(|said| Some(said) != is.as_deref())
        };
        if differs(protocol_type, &self.protocol_type) || differs(protocol, &self.protocol) {
            return Reply::Now(Err(Code::InconsistentGroupProtocol));
        }
        let leads = self.leader.as_deref() == Some(sender.member_id);
        let Some(member) = self.members.get_mut(sender.member_id) else {
            return Reply::Now(Err(Code::UnknownMemberId));
        };
        member.last_seen = now;
        match self.state {
            State::Empty => Reply::Now(Err(Code::UnknownMemberId)),
            State::PreparingRebalance => Reply::Now(Err(Code::RebalanceInProgress)),
            State::Stable => Reply::Now(Ok(self.synced(sender.member_id))),
            State::CompletingRebalance => {
                let (answer, later) = oneshot::channel();
                member.syncing = Some(answer);
                member.synced = true;
                if leads {
                    self.assign(assignments, now);
                }
                Reply::Later(later)
            }
        }
    }

    fn assign(&mut self, assignments: Vec<(String, Bytes)>, now: Instant) {
        let mut shares: HashMap<String, Bytes> = assignments.into_iter().collect();
        self.state = State::Stable;
        for (id, member) in &mut self.members {
            member.assignment = shares.remove(id).unwrap_or_default();
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            if let Some(member) = self.members.get_mut(&id) {
                if member.syncing.is_some() {
                    member.last_seen = now;
                }
                member.answer_sync(Ok(synced));
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self
                .members
                .get(id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    pub(crate) fn heartbeat(&mut self, sender: Sender<'_>, now: Instant) -> Result<(), Code> {
        self.check(sender)?;
        self.touch(sender.member_id, now);
        match self.state {
            State::PreparingRebalance => Err(Code::RebalanceInProgress),
            State::Empty => Err(Code::UnknownMemberId),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// Whether a commit is from someone who may: a member of this generation, or, in a group without members, anyone
    /// who claims no membership.
    pub(crate) fn check_commit(&mut self, sender: Sender<'_>, now: Instant) -> Result<(), Code> {
        if sender.generation < 0 && sender.member_id.is_empty() {
            return if self.members.is_empty() {
                Ok(())
            } else {
                Err(Code::UnknownMemberId)
            };
        }
        self.check(sender)?;
        self.touch(sender.member_id, now);
        match self.state {
            State::CompletingRebalance => Err(Code::RebalanceInProgress),
            State::Empty | State::PreparingRebalance | State::Stable => Ok(()),
        }
    }

    fn touch(&mut self, id: &str, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            member.last_seen = now;
        }
    }

    /// A member goes, named by its id, its instance id, or both. Gives the id it had.
    pub(crate) fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        now: Instant,
    ) -> Result<(), Code> {
        if self.pending.remove(member_id).is_some() {
            self.complete_if_all_joined(now);
            return Ok(());
        }
        let id = match instance_id {
            Some(instance) => {
                let id = self
                    .statics
                    .get(instance)
                    .cloned()
                    .ok_or(Code::UnknownMemberId)?;
                if !member_id.is_empty() && member_id != id {
                    return Err(Code::FencedInstanceId);
                }
                id
            }
            None => member_id.to_owned(),
        };
        self.check_identity(&id, None)?;
        self.remove(&id, now);
        Ok(())
    }

    fn remove(&mut self, id: &str, now: Instant) {
        let Some(mut member) = self.members.remove(id) else {
            return;
        };
        member.answer_join(Err(JoinError {
            code: Code::UnknownMemberId,
            member_id: id.to_owned(),
        }));
        member.answer_sync(Err(Code::UnknownMemberId));
        if let Some(instance) = &member.instance_id {
            self.statics.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
        if matches!(self.state, State::Stable | State::CompletingRebalance) {
            self.prepare(now);
        }
        self.complete_if_all_joined(now);
    }

    /// When something happens by itself.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let sessions = self
            .members
            .values()
            .filter(|m| !m.waits())
            .map(|m| m.last_seen + m.session_timeout);
        let waiting = self
            .not_before
            .filter(|_| self.state == State::PreparingRebalance);
        let phase = self.phase_ends.filter(|_| self.is_rebalancing());
        sessions
            .chain(self.pending.values().copied())
            .chain(waiting)
            .chain(phase)
            .min()
    }

    fn is_rebalancing(&self) -> bool {
        matches!(
            self.state,
            State::PreparingRebalance | State::CompletingRebalance
        )
    }

    /// Lets happen what was due by `now`.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.pending.retain(|_, until| *until > now);
        let silent = |m: &Member| !m.waits() && m.last_seen + m.session_timeout <= now;
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| silent(m))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            tracing::info!(
                member = id,
                "a group member was silent for its session timeout"
            );
            self.remove(&id, now);
        }
        if self.not_before.is_some_and(|until| until <= now) {
            self.not_before = None;
        }
        self.complete_if_all_joined(now);
        if !self.is_rebalancing() || self.phase_ends.is_none_or(|ends| ends > now) {
            return;
        }
        if self.state == State::PreparingRebalance {
            self.pending.clear();
            self.complete_join(now);
        } else {
            let late: Vec<String> = self
                .members
                .iter()
                .filter(|(_, member)| !member.synced)
                .map(|(id, _)| id.clone())
                .collect();
            self.phase_ends = Some(now + self.longest_rebalance());
            for id in late {
                self.remove(&id, now);
            }
        }
    }

    /// Whether a member subscribes to a topic, as far as its metadata can be read (embedded consumer protocol).
    pub(crate) fn subscribes_to(&self, topic: &str) -> bool {
        self.protocol_type() == "consumer"
            && self
                .members
                .values()
                .any(|member| member.subscribes_to(topic))
    }
}
