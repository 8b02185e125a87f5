//! Observations of ours (RFC 7641 section 3): which tokens are watched, and what their notifications bring.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Endpoint;
use super::client::{Download, Pending, Purpose, Sent, Transfer};
use super::outbox::Place;
use super::timers::{Timer, later};
use crate::block::Block;
use crate::message::{InResponse, Message, Type};
use crate::{AckId, Event, FailureReason, Method, Peer, Request, RequestId, Response, Token};

/// Behind this time any sequence number is newer (RFC 7641 section 3.4).
const OBSERVE_HORIZON: Duration = Duration::from_secs(128);

/// An observation that stands.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) last: Option<(u32, Instant)>,
    /// What to ask the further blocks of a notification with.
    pub(super) request: Option<Box<Request>>,
    pub(super) fetch: Option<RequestId>,
}

impl Endpoint {
    /// Acknowledges a confirmable notification. Until then its retransmissions are absorbed; from then on they are
    /// acknowledged again. Does nothing the second time, or when EXCHANGE_LIFETIME is over.
    pub fn acknowledge(&mut self, now: Instant, ack: AckId) {
        self.latest = Some(now);
        if self.dedup.acknowledge(ack.serial) {
            self.transmit_empty(ack.peer, ack.message_id, Type::Acknowledgement);
        }
    }

    /// Watches a token: an observation that stands, from a store or moved to a new address. Without the request that
    /// started it a notification that comes in blocks cannot be completed; see [`Endpoint::watch_request`].
    pub fn watch(&mut self, peer: Peer, token: Token) {
        self.watches.entry((peer, token)).or_default();
    }

    /// Watches a token, with the request that started the observation: the further blocks of a block-wise notification
    /// are asked for with its method, path, query and formats (RFC 7959 section 2.6).
    pub fn watch_request(&mut self, peer: Peer, token: Token, request: Request) {
        self.watches.entry((peer, token)).or_default().request = Some(template(&request));
    }

    /// Stops watching a token (passive cancellation, RFC 7641 section 3.6): its next notification gets RST.
    pub fn unwatch(&mut self, peer: Peer, token: Token) {
        if let Some(watch) = self.watches.remove(&(peer, token))
            && let Some(fetch) = watch.fetch
        {
            self.cancel_request(fetch);
        }
    }

    /// Is this token watched?
    pub fn is_watched(&self, peer: Peer, token: Token) -> bool {
        self.watches.contains_key(&(peer, token))
    }

    pub(super) fn handle_notification(
        &mut self,
        now: Instant,
        from: Peer,
        message: &Message<'_>,
        answer: InResponse,
        ack: Option<AckId>,
    ) {
        let token = message.token;
        let Some(watch) = self.watches.get_mut(&(from, token)) else {
            return;
        };
        let sequence = answer.response.observe;
        if let (Some(new), Some((last, at))) = (sequence, watch.last)
            && !is_newer(last, at, new, now)
        {
            self.stats.stale_notifications += 1;
            // Its value is of no use to anyone: nothing to wait for.
            if ack.is_some() {
                self.reply_empty(from, message.id, Type::Acknowledgement);
            }
            return;
        }
        if let Some(sequence) = sequence {
            watch.last = Some((sequence, now));
        }
        let overtaken = watch.fetch.take();
        if let Some(overtaken) = overtaken
            && let Some(pending) = self.remove_request(overtaken)
            && let Purpose::Notification { ack: Some(ack), .. } = pending.purpose
        {
            self.stats.stale_notifications += 1;
            self.acknowledge(now, ack);
        }
        match answer.block2 {
            Some(block) if block.more => self.fetch_rest(now, from, token, block, answer, ack),
            _ => {
                if !answer.response.code.is_success() {
                    // An error ends the observation (RFC 7641 section 3.2).
                    self.watches.remove(&(from, token));
                }
                self.events.push_back(Event::Notification {
                    from,
                    token,
                    response: answer.response,
                    ack,
                });
            }
        }
    }

    /// Asks for the further blocks of a notification, without Observe and under a token of its own (RFC 7959 section 2.6).
    fn fetch_rest(
        &mut self,
        now: Instant,
        from: Peer,
        watch: Token,
        block: Block,
        answer: InResponse,
        ack: Option<AckId>,
    ) {
        let request = self
            .watches
            .get(&(from, watch))
            .and_then(|it| it.request.as_deref().cloned());
        let whole = answer.response.payload.len() == block.szx.size() && block.num == 0;
        let Some(request) = request.filter(|_| whole) else {
            self.stats.incomplete_notifications += 1;
            return;
        };
        let szx = block.szx.min(self.block_size());
        let timeout = self.config.max_transmit_wait();
        let wire_token = self.fresh_token(from);
        let id = RequestId(self.next_serial());
        let body = answer.response.payload.to_vec();
        let head = Response {
            payload: Bytes::new(),
            ..answer.response
        };
        let pending = Pending {
            to: from,
            token: wire_token,
            wire_token,
            request,
            confirmable: true,
            timeout,
            answer_timeout: None,
            due: later(now, timeout),
            timer: self.timers.arm(later(now, timeout), Timer::Request(id)),
            szx,
            ask_szx: true,
            sent: Sent::Queued,
            transfer: Transfer::Down(Download {
                head,
                body,
                etag: answer.etag,
                szx,
            }),
            restarts: 0,
            purpose: Purpose::Notification { watch, ack },
            early: None,
        };
        self.requests.insert(id, pending);
        self.by_token.insert((from, wire_token), id);
        if let Some(watch) = self.watches.get_mut(&(from, watch)) {
            watch.fetch = Some(id);
        }
        if self.send_step(now, id, Place::Front).is_err() {
            self.fail_request(id, FailureReason::Timeout);
        }
    }
}

/// What the further blocks are asked for with: the request without Observe, and without its body unless that says what is
/// asked for.
pub(super) fn template(request: &Request) -> Box<Request> {
    let payload = match request.method {
        Method::Fetch => request.payload.clone(),
        _ => Bytes::new(),
    };
    Box::new(Request {
        observe: None,
        payload,
        ..request.clone()
    })
}

/// RFC 7641 section 3.4: serial number arithmetic over 24 bits, or enough time in between.
fn is_newer(last: u32, last_at: Instant, new: u32, now: Instant) -> bool {
    const HALF: u32 = 1 << 23;
    (last < new && new - last < HALF)
        || (last > new && last - new > HALF)
        || now.saturating_duration_since(last_at) > OBSERVE_HORIZON
}
