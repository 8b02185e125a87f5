//! What becomes of a record that came in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Closing, Event, SWEEP, Server, Session, Transmit};
use crate::alert::{self, Level};
use crate::handshake::{Handshake, Refusal, Step};
use crate::hello::ClientHello;
use crate::message::{self, Fragment, kind};
use crate::record::{ContentType, Record, put_plain};
use crate::resume::Resumable;
use crate::wire::Reader;
use crate::{Alert, Identity};

/// A handshake that takes longer may have to make room for another, when there are as many as there may be.
const SLOW: Duration = Duration::from_secs(8);

impl Server {
    pub(super) fn plain_record(&mut self, now: Instant, from: SocketAddr, record: &Record<'_>) {
        if record.kind == ContentType::Handshake {
            let fragment = Fragment::take(&mut Reader(record.fragment));
            if let Ok(fragment) = fragment
                && fragment.kind == kind::CLIENT_HELLO
            {
                // One in pieces would have to be kept before its sender has shown where it is.
                if fragment.is_whole() {
                    self.hello(now, from, record, &fragment);
                } else {
                    self.stats.stray += 1;
                }
                return;
            }
        }
        if self.handshakes.contains_key(&from) {
            self.continue_handshake(now, from, record);
        } else if self.sessions.contains_key(&from) {
            if record.kind == ContentType::Handshake {
                self.repeat_last_flight(now, from);
            }
        } else {
            self.stats.stray += 1;
        }
    }

    fn hello(
        &mut self,
        now: Instant,
        from: SocketAddr,
        record: &Record<'_>,
        fragment: &Fragment<'_>,
    ) {
        let Ok(hello) = ClientHello::parse(fragment.bytes) else {
            self.stats.stray += 1;
            return;
        };
        self.cookies.rotate(now, &mut self.rng);
        if !self.cookies.is_ours(from, &hello) {
            self.stats.bad_cookies += u64::from(!hello.cookie.is_empty());
            self.stats.cookies += 1;
            let cookie = self.cookies.make(from, &hello);
            let body = message::hello_verify_request(&cookie);
            let mut content = Vec::with_capacity(message::HEADER + body.len());
            let kind = kind::HELLO_VERIFY_REQUEST;
            message::put_header(&mut content, kind, body.len(), 0, 0, body.len());
            content.extend_from_slice(&body);
            // The record's number and version are the hello's: there is no state to have others from.
            let mut payload = Vec::with_capacity(64);
            let sequence = record.sequence;
            put_plain(
                &mut payload,
                ContentType::Handshake,
                record.version,
                sequence,
                &content,
            );
            self.transmits.push_back(Transmit { to: from, payload });
            return;
        }
        if let Some(mut handshake) = self.take(from) {
            if handshake.began_with(&hello) {
                let step = handshake.repeat_for_peer(&mut self.tools(), now);
                self.step(now, from, handshake, Ok(step));
                return;
            }
            // One that began otherwise is over: the client has begun again, perhaps since its key is another.
            let why = handshake.gave_up();
            if why != Refusal::Timeout {
                self.refused(from, handshake.identity().cloned(), why);
            }
        }
        if !hello.speaks_1_2() {
            self.refuse(from, None, Refusal::Version, record.sequence);
            return;
        }
        let full = self.handshakes.len() >= self.config.max_handshakes;
        if !self.has_room_for(now, from) || full && !self.drop_slow_handshake(now, |_| true) {
            // It tries again by itself, when some of these are done.
            self.stats.refused_full += 1;
            return;
        }
        let resumable = self.resumables.get(now, hello.session_id);
        let begun = Handshake::begin(
            &mut self.tools(),
            now,
            &hello,
            fragment,
            record.sequence,
            resumable,
        );
        match begun {
            Ok((handshake, datagrams)) => {
                self.transmit(from, datagrams);
                self.keep(from, Box::new(handshake));
            }
            Err(refusal) => self.refuse(from, None, refusal, record.sequence),
        }
    }

    /// Whether a source may begin another handshake: one that begins them without end has the room of its own only.
    fn has_room_for(&mut self, now: Instant, from: SocketAddr) -> bool {
        let most = self.config.max_handshakes_per_source;
        // Mostly there are not even so many in all.
        if self.handshakes.len() < most {
            return true;
        }
        let source = source(from);
        let is_its = |peer: SocketAddr| self::source(peer) == source;
        let its = self.handshakes.keys().filter(|peer| is_its(**peer));
        its.count() < most || self.drop_slow_handshake(now, is_its)
    }

    /// Makes room in place of the oldest of these handshakes, if that one has not come far in its time.
    fn drop_slow_handshake(&mut self, now: Instant, of: impl Fn(SocketAddr) -> bool) -> bool {
        let these = self.handshakes.iter().filter(|(peer, _)| of(**peer));
        let oldest = these.min_by_key(|(_, one)| one.started);
        let slow = oldest.filter(|(_, one)| now.saturating_duration_since(one.started) >= SLOW);
        let Some(peer) = slow.map(|(peer, _)| *peer) else {
            return false;
        };
        if let Some(handshake) = self.take(peer) {
            let why = handshake.gave_up();
            self.end(peer, &handshake, why);
        }
        true
    }

    pub(super) fn protected_record(&mut self, now: Instant, from: SocketAddr, record: &Record<'_>) {
        // What belongs to a handshake that has keys can't belong to the session that it follows.
        if self.handshakes.contains_key(&from)
            && matches!(record.kind, ContentType::Handshake | ContentType::Alert)
        {
            self.continue_handshake(now, from, record);
            return;
        }
        let Some(session) = self.sessions.get_mut(&from) else {
            self.stats.stray += 1;
            return;
        };
        if !session.window.may_be_new(record.sequence) {
            self.stats.replayed += 1;
            // A Finished that comes again, since ours was lost.
            if record.kind == ContentType::Handshake {
                self.repeat_last_flight(now, from);
            }
            return;
        }
        let Ok(content) = self.protector.open(&session.read, record) else {
            self.stats.forged += 1;
            return;
        };
        session.window.mark(record.sequence);
        session.heard = now;
        let number = session.number;
        match record.kind {
            ContentType::ApplicationData => {
                session.last_flight = None;
                self.events.push_back(Event::Data {
                    peer: from,
                    session: number,
                    content,
                });
            }
            ContentType::Alert => match alert::parse(&content) {
                Some((Level::Fatal, alert)) => {
                    // Who ends a session so may not resume it (RFC 5246 section 7.2.2).
                    self.resumables.forget(number);
                    self.remove(from, Closing::ByPeer(alert));
                }
                Some((_, Alert::CLOSE_NOTIFY)) => {
                    self.say_close(from);
                    self.remove(from, Closing::ByPeer(Alert::CLOSE_NOTIFY));
                }
                _ => {}
            },
            ContentType::Handshake => {
                let again = Fragment::take(&mut Reader(&content));
                if matches!(again, Ok(fragment) if fragment.kind == kind::FINISHED) {
                    self.repeat_last_flight(now, from);
                } else {
                    // A new handshake begins in epoch 0 here.
                    self.say(from, Level::Warning, Alert::NO_RENEGOTIATION);
                }
            }
            ContentType::ChangeCipherSpec => {}
        }
    }

    fn continue_handshake(&mut self, now: Instant, from: SocketAddr, record: &Record<'_>) {
        if let Some(mut handshake) = self.take(from) {
            let step = handshake.record(&mut self.tools(), now, record);
            self.step(now, from, handshake, step);
        }
    }

    fn step(
        &mut self,
        now: Instant,
        from: SocketAddr,
        handshake: Box<Handshake>,
        step: Result<Step, Refusal>,
    ) {
        match step {
            Ok(Step::Wait) => self.keep(from, handshake),
            Ok(Step::Send(datagrams)) => {
                self.transmit(from, datagrams);
                self.keep(from, handshake);
            }
            // Only now it is known who it is: whose session it would replace has a place.
            Ok(Step::Done(_)) if !self.has_place_for(from, &handshake) => {
                self.end(from, &handshake, Refusal::Full);
            }
            Ok(Step::Done(datagrams)) => {
                self.transmit(from, datagrams);
                self.establish(now, from, *handshake);
            }
            Err(refusal) => self.end(from, &handshake, refusal),
        }
    }

    fn has_place_for(&self, from: SocketAddr, handshake: &Handshake) -> bool {
        let replaces = |identity: &Arc<Identity>| self.places.contains_key(&identity.number());
        self.sessions.len() < self.config.max_sessions
            || self.sessions.contains_key(&from)
            || handshake.identity().is_some_and(replaces)
    }

    fn establish(&mut self, now: Instant, peer: SocketAddr, handshake: Handshake) {
        let (suite, resumed) = (handshake.suite, handshake.resumed);
        let (id, extended_master_secret) = (handshake.session_id, handshake.extended_master_secret);
        let Some(mut done) = handshake.finish() else {
            return;
        };
        if !self.authority.still_knows(&done.identity) {
            // Its credential went while it was about to show it.
            self.refused(peer, Some(done.identity), Refusal::UnknownIdentity);
            return;
        }
        let number = done.identity.number();
        if self.sessions.contains_key(&peer) {
            self.remove(peer, Closing::Replaced);
        }
        if let Some(before) = self.places.get(&number).copied() {
            self.remove(before, Closing::Replaced);
        }
        if let Some(id) = id
            && !resumed
        {
            let resumable = Resumable {
                master: done.master,
                suite,
                extended_master_secret,
                identity: Arc::clone(&done.identity),
            };
            self.resumables.put(now, id, resumable);
        }
        done.exchange.settle();
        let (read, write) = done.keys;
        let session = Session {
            number,
            identity: Arc::clone(&done.identity),
            read,
            write,
            window: done.window,
            sequence: done.exchange.sequences[1],
            heard: now,
            last_flight: (!resumed).then(|| Box::new(done.exchange)),
        };
        self.sessions.insert(peer, session);
        self.places.insert(number, peer);
        self.next_sweep.get_or_insert(now + SWEEP);
        self.stats.established += 1;
        self.stats.resumed += u64::from(resumed);
        self.events.push_back(Event::Established {
            peer,
            session: number,
            identity: done.identity,
            suite,
            resumed,
        });
    }

    fn repeat_last_flight(&mut self, now: Instant, peer: SocketAddr) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let Some(exchange) = &mut session.last_flight else {
            return;
        };
        if !exchange.may_repeat(now) {
            return;
        }
        exchange.sequences[1] = session.sequence;
        let keys = Some(&session.write);
        let sent = exchange.send(now, false, &mut self.protector, &mut self.rng, keys);
        session.sequence = exchange.sequences[1];
        if let Ok(datagrams) = sent {
            self.transmit(peer, datagrams);
        }
    }
}

/// Who is behind an address, as far as it can be told: of IPv6 the network, in which a host takes what addresses it likes.
fn source(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}
