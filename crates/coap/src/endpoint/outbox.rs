//! Messages of our own: ids, retransmission and NSTART (RFC 7252 sections 4.2 to 4.8).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chacha20::rand_core::Rng;

use super::Endpoint;
use super::timers::{Timer, TimerKey, later};
use crate::message::set_message_id;
use crate::{Event, FailureReason, Peer, RequestId, Token, Transmit};

/// What is kept of a peer that was sent messages: 64 bytes where nothing waits.
#[derive(Debug)]
pub(super) struct PeerState {
    next_id: u16,
    /// Confirmable messages without an acknowledgement.
    in_flight: usize,
    queue: VecDeque<Queued>,
    last_used: Instant,
}

impl PeerState {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.queue.is_empty()
    }
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    what: What,
}

/// What a message of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Request(RequestId),
    /// A response that travels separately; nobody waits for its acknowledgement.
    Response,
    /// Also the first response of an observation: RST to it ends the observation.
    Notification(Token),
}

/// A message that an ACK or RST may still come for.
#[derive(Debug)]
pub(super) struct Outgoing {
    what: What,
    serial: u64,
    confirmable: Option<Retransmission>,
}

#[derive(Debug)]
struct Retransmission {
    bytes: Bytes,
    done: u32,
    timeout: Duration,
    timer: TimerKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    Queue,
    Peers,
}

/// Where a message goes that finds NSTART messages on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Back,
    /// The next step of a transfer that is under way: at most one per transfer, so without a bound of its own.
    Front,
}

/// NON messages that are remembered in case an RST comes.
const MAX_NON_REMEMBERED: usize = 1 << 16;

impl Endpoint {
    pub(super) fn transmit(&mut self, to: Peer, payload: Bytes) {
        self.transmits.push_back(Transmit { to, payload });
    }

    /// Sends a confirmable message, or queues it.
    pub(super) fn send_confirmable(
        &mut self,
        now: Instant,
        to: Peer,
        bytes: Vec<u8>,
        what: What,
        place: Place,
    ) -> Result<(), Overflow> {
        let (nstart, max_queue) = (self.nstart(), self.config.max_queue_per_peer);
        let state = self.peer_state(now, to).ok_or(Overflow::Peers)?;
        if state.in_flight < nstart && (place == Place::Front || state.queue.is_empty()) {
            self.transmit_confirmable(now, to, bytes, what);
            return Ok(());
        }
        let queued = Queued { bytes, what };
        if place == Place::Front {
            state.queue.push_front(queued);
        } else if state.queue.len() < max_queue {
            state.queue.push_back(queued);
        } else if matches!(what, What::Notification(_))
            && let Some(older) = state
                .queue
                .iter_mut()
                .rev()
                .find(|older| older.what == what)
        {
            // A newer state of the same resource takes the place of the one still waiting (RFC 7641 section 4.5.2).
            *older = queued;
            self.stats.overflowed += 1;
        } else {
            return Err(Overflow::Queue);
        }
        Ok(())
    }

    /// Sends a non-confirmable message; `what` if an RST to it means something. Returns its id.
    pub(super) fn send_non_confirmable(
        &mut self,
        now: Instant,
        to: Peer,
        mut bytes: Vec<u8>,
        what: Option<What>,
    ) -> Result<u16, Overflow> {
        self.peer_state(now, to).ok_or(Overflow::Peers)?;
        let id = self.next_message_id(to);
        set_message_id(&mut bytes, id);
        if let Some(what) = what {
            self.outgoing_serial += 1;
            let serial = self.outgoing_serial;
            self.outgoing.insert(
                (to, id),
                Outgoing {
                    what,
                    serial,
                    confirmable: None,
                },
            );
            // A request is forgotten with its answer or its time-out.
            if !matches!(what, What::Request(_)) {
                let deadline = later(now, self.config.non_lifetime());
                self.non_confirmable.push_back((deadline, to, id, serial));
                if self.non_confirmable.len() > MAX_NON_REMEMBERED {
                    self.forget_oldest_non_confirmable();
                }
            }
        }
        self.transmit(to, bytes.into());
        Ok(id)
    }

    /// Ends the retransmission of a message, if there is such a message.
    pub(super) fn take_outgoing(&mut self, peer: Peer, id: u16) -> Option<What> {
        let outgoing = self.outgoing.remove(&(peer, id))?;
        if let Some(retransmission) = outgoing.confirmable {
            self.freed = true;
            self.timers.cancel(retransmission.timer);
            if let Some(state) = self.peers.get_mut(&peer) {
                state.in_flight = state.in_flight.saturating_sub(1);
            }
        }
        Some(outgoing.what)
    }

    pub(super) fn outgoing_what(&self, peer: Peer, id: u16) -> Option<What> {
        self.outgoing.get(&(peer, id)).map(|outgoing| outgoing.what)
    }

    /// Takes what waits for this purpose out of a peer's queue.
    pub(super) fn unqueue(&mut self, peer: Peer, what: What) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.queue.retain(|queued| queued.what != what);
        }
    }

    /// Sends what NSTART lets go by now.
    pub(super) fn pump(&mut self, now: Instant, peer: Peer) {
        let nstart = self.nstart();
        while let Some(state) = self.peers.get_mut(&peer)
            && state.in_flight < nstart
            && let Some(queued) = state.queue.pop_front()
        {
            self.transmit_confirmable(now, peer, queued.bytes, queued.what);
        }
    }

    pub(super) fn retransmit(&mut self, now: Instant, peer: Peer, id: u16) {
        let limit = self.config.retransmissions();
        let Some(outgoing) = self.outgoing.get_mut(&(peer, id)) else {
            return;
        };
        let Some(retransmission) = &mut outgoing.confirmable else {
            return;
        };
        if retransmission.done < limit {
            retransmission.done += 1;
            retransmission.timeout *= 2;
            let at = later(now, retransmission.timeout);
            retransmission.timer = self.timers.arm(at, Timer::Retransmit(peer, id));
            let payload = retransmission.bytes.clone();
            self.stats.retransmissions += 1;
            self.transmit(peer, payload);
            return;
        }
        self.stats.transmit_timeouts += 1;
        match self.take_outgoing(peer, id) {
            Some(What::Request(request)) => self.fail_request(request, FailureReason::Timeout),
            Some(What::Notification(token)) => self.reject_notification(peer, token),
            Some(What::Response) | None => {}
        }
        self.pump(now, peer);
    }

    /// RST or time-out of a notification.
    pub(super) fn reject_notification(&mut self, to: Peer, token: Token) {
        self.observers.remove(&(to, token));
        self.unqueue(to, What::Notification(token));
        self.events
            .push_back(Event::NotificationRejected { to, token });
    }

    /// Forgets what is on the way to a peer; its message ids go on where they are.
    pub(super) fn forget_outgoing(&mut self, peer: Peer) {
        let ids: Vec<u16> = self
            .outgoing
            .range((peer, 0)..=(peer, u16::MAX))
            .map(|((_, id), _)| *id)
            .collect();
        for id in ids {
            self.take_outgoing(peer, id);
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.queue = VecDeque::new();
        }
    }

    pub(super) fn sweep_outbox(&mut self, now: Instant) {
        while self
            .non_confirmable
            .front()
            .is_some_and(|(deadline, ..)| *deadline <= now)
        {
            self.forget_oldest_non_confirmable();
        }
        // One look at each that is due: what is put back is due after now.
        let lifetime = self.config.exchange_lifetime();
        while let Some(&(deadline, peer)) = self.peer_order.front()
            && deadline <= now
        {
            self.peer_order.pop_front();
            let Some(state) = self.peers.get(&peer) else {
                continue;
            };
            let until = later(state.last_used, lifetime);
            match state.is_idle() {
                true if until <= now => drop(self.peers.remove(&peer)),
                true => self.peer_order.push_back((until, peer)),
                false => self.peer_order.push_back((later(now, lifetime), peer)),
            }
        }
    }

    fn transmit_confirmable(&mut self, now: Instant, to: Peer, mut bytes: Vec<u8>, what: What) {
        let id = self.next_message_id(to);
        set_message_id(&mut bytes, id);
        let bytes = Bytes::from(bytes);
        // Between ACK_TIMEOUT and ACK_TIMEOUT * ACK_RANDOM_FACTOR (section 4.2).
        let spread = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let factor = 1.0 + (self.config.random_factor() - 1.0) * spread;
        let timeout = self.config.first_timeout().mul_f64(factor);
        let timer = self
            .timers
            .arm(later(now, timeout), Timer::Retransmit(to, id));
        self.outgoing_serial += 1;
        let confirmable = Some(Retransmission {
            bytes: bytes.clone(),
            done: 0,
            timeout,
            timer,
        });
        self.outgoing.insert(
            (to, id),
            Outgoing {
                what,
                serial: self.outgoing_serial,
                confirmable,
            },
        );
        if let Some(state) = self.peers.get_mut(&to) {
            state.in_flight += 1;
            state.last_used = now;
        }
        if let What::Request(request) = what {
            self.request_sent(request, id);
        }
        self.transmit(to, bytes);
    }

    fn nstart(&self) -> usize {
        // Far fewer than there are message ids.
        self.config.nstart.clamp(1, 1024)
    }

    /// The peer's state, made where there is none; `None` where there are too many.
    fn peer_state(&mut self, now: Instant, peer: Peer) -> Option<&mut PeerState> {
        if !self.peers.contains_key(&peer) {
            // A few looks for one that is idle; its next message id is random, as a new peer's is.
            for _ in 0..8 {
                if self.peers.len() < self.config.max_peers {
                    break;
                }
                let (deadline, oldest) = self.peer_order.pop_front()?;
                match self.peers.get(&oldest) {
                    Some(state) if !state.is_idle() => {
                        self.peer_order.push_back((deadline, oldest))
                    }
                    _ => drop(self.peers.remove(&oldest)),
                }
            }
            if self.peers.len() >= self.config.max_peers {
                return None;
            }
            let next_id = self.rng.next_u32() as u16;
            let state = PeerState {
                next_id,
                in_flight: 0,
                queue: VecDeque::new(),
                last_used: now,
            };
            self.peers.insert(peer, state);
            self.peer_order
                .push_back((later(now, self.config.exchange_lifetime()), peer));
            self.arm_sweep(now);
        }
        let state = self.peers.get_mut(&peer)?;
        state.last_used = now;
        Some(state)
    }

    /// The next id towards this peer that no message waiting for its acknowledgement has.
    fn next_message_id(&mut self, peer: Peer) -> u16 {
        let Some(state) = self.peers.get_mut(&peer) else {
            return self.rng.next_u32() as u16;
        };
        while self
            .outgoing
            .get(&(peer, state.next_id))
            .is_some_and(|outgoing| outgoing.confirmable.is_some())
        {
            state.next_id = state.next_id.wrapping_add(1);
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        id
    }

    fn forget_oldest_non_confirmable(&mut self) {
        if let Some((_, peer, id, serial)) = self.non_confirmable.pop_front()
            && self
                .outgoing
                .get(&(peer, id))
                .is_some_and(|outgoing| outgoing.serial == serial)
        {
            self.outgoing.remove(&(peer, id));
        }
    }
}
