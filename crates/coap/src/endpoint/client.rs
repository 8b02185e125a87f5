//! Requests of ours and what comes back.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Endpoint;
use super::outbox::{Overflow, Place, What};
use super::timers::{Timer, TimerKey, later};
use super::watch::template;
use crate::block::{Block, Szx};
use crate::message::{self, InResponse, MAX_SEGMENT_LEN, Message, Part, Type};
use crate::{
    AckId, Code, Event, FailureReason, Method, Peer, Request, RequestId, RequestOptions, Response,
    SendError, Token,
};

/// How often a body is fetched from its beginning because it changed on the way (RFC 7959 section 2.4).
const MAX_RESTARTS: u32 = 3;

/// A request without its final response.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) to: Peer,
    /// The caller's token.
    pub(super) token: Token,
    /// The token of the message that is on the way: each block behind the first response has its own.
    pub(super) wire_token: Token,
    pub(super) request: Request,
    pub(super) confirmable: bool,
    pub(super) timeout: Duration,
    pub(super) answer_timeout: Option<Duration>,
    /// When `timer` is due, as far as it can be represented.
    pub(super) due: Instant,
    pub(super) timer: TimerKey,
    /// The largest block that both sides take.
    pub(super) szx: Szx,
    /// Ask for small blocks in the first request.
    pub(super) ask_szx: bool,
    pub(super) sent: Sent,
    pub(super) transfer: Transfer,
    pub(super) restarts: u32,
    pub(super) purpose: Purpose,
    /// A message of the observation that came before the acknowledgement: a notification, or the response if an
    /// acknowledgement without one follows.
    pub(super) early: Option<Response>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Waiting behind NSTART.
    Queued,
    /// On the way under this message id.
    OnTheWay(u16),
    /// Acknowledged; the response will come separately.
    Acknowledged,
}

#[derive(Debug)]
pub(super) enum Transfer {
    /// The whole body at once.
    Single,
    /// Block1: the block that starts at this offset is on the way.
    Up { offset: usize, szx: Szx },
    /// Block2: what came so far.
    Down(Download),
}

#[derive(Debug)]
pub(super) struct Download {
    pub(super) head: Response,
    pub(super) body: Vec<u8>,
    pub(super) etag: Option<Token>,
    pub(super) szx: Szx,
}

#[derive(Debug)]
pub(super) enum Purpose {
    Caller,
    /// The further blocks of a notification.
    Notification {
        watch: Token,
        ack: Option<AckId>,
    },
}

impl Endpoint {
    /// Sends a request. Its outcome is one [`Event::Response`] or [`Event::RequestFailed`], unless it is cancelled before.
    ///
    /// A body larger than the block size travels in blocks. A 2.xx response with Observe to a request with `observe: Some(0)`
    /// starts watching the token.
    pub fn send_request(
        &mut self,
        now: Instant,
        to: Peer,
        request: Request,
        options: RequestOptions,
    ) -> Result<RequestId, SendError> {
        self.latest = Some(now);
        if let Some(long) = request
            .path
            .iter()
            .chain(&request.query)
            .find(|text| text.len() > MAX_SEGMENT_LEN)
        {
            return Err(SendError::SegmentTooLong(long.len()));
        }
        let szx = options.block_size.map_or(self.block_size(), |size| {
            Szx::fitting(size).min(self.block_size())
        });
        let (size, limit) = (request.payload.len(), self.config.body_limit());
        if size > limit {
            return Err(SendError::BodyTooLarge { size, limit });
        }
        let token = match options.token {
            Some(token) if self.by_token.contains_key(&(to, token)) => {
                return Err(SendError::TokenInUse(token));
            }
            Some(token) => token,
            None => self.fresh_token(to),
        };
        let transfer = match size > szx.size() {
            true => Transfer::Up { offset: 0, szx },
            false => Transfer::Single,
        };
        let id = RequestId(self.next_serial());
        let pending = Pending {
            to,
            token,
            wire_token: token,
            request,
            confirmable: options.confirmable,
            timeout: options.timeout,
            answer_timeout: options.answer_timeout,
            due: later(now, options.timeout),
            timer: self
                .timers
                .arm(later(now, options.timeout), Timer::Request(id)),
            szx,
            ask_szx: options.block_size.is_some(),
            sent: Sent::Queued,
            transfer,
            restarts: 0,
            purpose: Purpose::Caller,
            early: None,
        };
        self.requests.insert(id, pending);
        self.by_token.insert((to, token), id);
        self.send_step(now, id, Place::Back)
            .map(|()| id)
            .map_err(|overflow| {
                self.remove_request(id);
                match overflow {
                    Overflow::Queue => SendError::QueueFull {
                        limit: self.config.max_queue_per_peer,
                    },
                    Overflow::Peers => SendError::TooManyPeers {
                        limit: self.config.max_peers,
                    },
                }
            })
    }

    /// The token of a request that has no outcome yet.
    pub fn token_of(&self, id: RequestId) -> Option<Token> {
        self.requests.get(&id).map(|pending| pending.token)
    }

    /// Forgets a request: it is not sent again, and no event follows. A confirmable response that still comes gets RST.
    pub fn cancel_request(&mut self, id: RequestId) {
        if let Some(pending) = self.remove_request(id)
            && let Some(now) = self.latest
        {
            self.pump(now, pending.to);
        }
    }

    pub(super) fn request_sent(&mut self, id: RequestId, message_id: u16) {
        if let Some(pending) = self.requests.get_mut(&id) {
            pending.sent = Sent::OnTheWay(message_id);
        }
    }

    /// An empty acknowledgement.
    pub(super) fn request_acknowledged(&mut self, now: Instant, id: RequestId) {
        let Some(pending) = self.requests.get_mut(&id) else {
            return;
        };
        pending.sent = Sent::Acknowledged;
        if let Some(response) = pending.early.take() {
            // The response came before its acknowledgement, in the guise of a notification.
            return self.finish_request(now, id, response);
        }
        if let Some(wait) = pending.answer_timeout
            && later(now, wait) < pending.due
        {
            pending.due = later(now, wait);
            self.timers.cancel(pending.timer);
            pending.timer = self.timers.arm(pending.due, Timer::Request(id));
        }
    }

    /// A response in an acknowledgement. It belongs to the message it acknowledges, and must have its token (section 5.3.2).
    pub(super) fn handle_piggybacked(&mut self, now: Instant, from: Peer, message: &Message<'_>) {
        let Some(What::Request(id)) = self.outgoing_what(from, message.id) else {
            self.stats.unmatched += 1;
            return;
        };
        if self
            .requests
            .get(&id)
            .is_none_or(|pending| pending.wire_token != message.token)
        {
            self.stats.unmatched += 1;
            return;
        }
        self.take_outgoing(from, message.id);
        match message.response(&mut self.scratch) {
            Ok(response) => self.handle_answer(now, id, response),
            Err(_) => self.fail_request(id, FailureReason::BadMessage),
        }
    }

    /// A separate response (CON with `ack`, or NON), or a notification.
    pub(super) fn handle_response(
        &mut self,
        now: Instant,
        from: Peer,
        message: &Message<'_>,
        ack: Option<AckId>,
    ) {
        let key = (from, message.token);
        let pending = self.by_token.get(&key).copied();
        let is_watched = self.watches.contains_key(&key);
        if pending.is_none() && !is_watched {
            self.stats.unmatched += 1;
            // Also a NON notification: RST is how its sender learns that nobody listens (RFC 7641 section 3.6).
            if ack.is_some()
                || message
                    .response(&mut self.scratch)
                    .is_ok_and(|it| it.response.observe.is_some())
            {
                self.reply_empty(from, message.id, Type::Reset);
            }
            return;
        }
        let response = match message.response(&mut self.scratch) {
            Ok(response) => response,
            Err(_) => {
                if ack.is_some() {
                    self.reply_empty(from, message.id, Type::Reset);
                }
                if let Some(id) = pending {
                    self.fail_request(id, FailureReason::BadMessage);
                }
                return;
            }
        };
        if let Some(id) = pending
            && !(is_watched && self.is_rather_a_notification(id, &response))
        {
            if ack.is_some() {
                self.reply_empty(from, message.id, Type::Acknowledgement);
            }
            // The response implies the acknowledgement of the request (section 5.2.2).
            self.stop_sending(id);
            if let Some(pending) = self.requests.get_mut(&id)
                && matches!(pending.transfer, Transfer::Down(_))
                && pending.wire_token != message.token
            {
                // The resource changed while the first state was fetched in blocks: this is the state that counts.
                let wire_token = std::mem::replace(&mut pending.wire_token, pending.token);
                pending.transfer = Transfer::Single;
                self.by_token.remove(&(from, wire_token));
            }
            self.handle_answer(now, id, response);
        } else {
            if let Some(pending) = pending.and_then(|id| self.requests.get_mut(&id))
                && matches!(pending.sent, Sent::OnTheWay(_))
                && !matches!(pending.transfer, Transfer::Down(_))
                && response.block2.is_none_or(|block| !block.more)
            {
                pending.early = Some(response.response.clone());
            }
            self.handle_notification(now, from, message, response, ack);
        }
    }

    /// An observation is asked for again under its own token, and a message with Observe comes that is no acknowledgement: as
    /// long as the request is not acknowledged without a response, it is a notification that crossed it.
    fn is_rather_a_notification(&self, id: RequestId, response: &InResponse) -> bool {
        response.response.observe.is_some()
            && self.requests.get(&id).is_some_and(|pending| {
                pending.confirmable
                    && (pending.sent != Sent::Acknowledged
                        || matches!(pending.transfer, Transfer::Down(_)))
            })
    }

    /// A response to the message of this request that was on the way.
    fn handle_answer(&mut self, now: Instant, id: RequestId, answer: InResponse) {
        let max_body = self.config.body_limit();
        let Some(pending) = self.requests.get_mut(&id) else {
            return;
        };
        let code = answer.response.code;
        if let Transfer::Up { offset, szx } = pending.transfer {
            let hint = answer.block1.map(|block| block.szx);
            let total = pending.request.payload.len();
            if code == Code::REQUEST_ENTITY_TOO_LARGE
                && let Some(smaller) = hint.filter(|hint| *hint < szx)
            {
                // Refused for the size of the block: once more from the beginning (RFC 7959 section 2.9.3).
                pending.transfer = Transfer::Up {
                    offset: 0,
                    szx: smaller,
                };
                pending.szx = smaller;
                return self.next_step(now, id);
            }
            let next = offset + szx.size();
            if next < total && (code == Code::CONTINUE || code.is_success() && hint.is_some()) {
                // The peer may ask for smaller blocks from the next one on (section 2.3); their size divides this one's.
                let szx = hint.map_or(szx, |hint| hint.min(szx));
                pending.szx = pending.szx.min(szx);
                pending.transfer = Transfer::Up { offset: next, szx };
                return self.next_step(now, id);
            }
        } else if matches!(pending.transfer, Transfer::Single)
            && code == Code::REQUEST_ENTITY_TOO_LARGE
            && let Some(block) = answer.block1
            && block.szx.size() < pending.request.payload.len()
            && block.szx < pending.szx
        {
            pending.szx = block.szx;
            pending.transfer = Transfer::Up {
                offset: 0,
                szx: block.szx,
            };
            return self.next_step(now, id);
        }
        if code == Code::CONTINUE {
            return self.fail_request(id, FailureReason::BadMessage);
        }
        let Some(block) = answer.block2 else {
            return match &pending.transfer {
                // Asked for a block of a body: the whole of something is no answer to that.
                Transfer::Down(_) if code.is_success() => {
                    self.fail_request(id, FailureReason::BadMessage)
                }
                _ => self.finish_request(now, id, answer.response),
            };
        };
        let InResponse { response, etag, .. } = answer;
        if block.more && response.payload.len() != block.szx.size() {
            return self.fail_request(id, FailureReason::BadMessage);
        }
        let szx = block.szx.min(pending.szx);
        match &mut pending.transfer {
            Transfer::Down(down) => {
                if down.etag != etag || down.head.code != code {
                    // The body changed on the way: its first block is fetched again.
                    pending.restarts += 1;
                    if pending.restarts > MAX_RESTARTS {
                        return self.fail_request(id, FailureReason::BadMessage);
                    }
                    if block.num != 0 {
                        down.body.clear();
                        down.etag = etag;
                        return self.next_step(now, id);
                    }
                    down.body.clear();
                    down.etag = etag;
                }
                if block.num == 0 && down.body.is_empty() {
                    down.head = Response {
                        observe: down.head.observe,
                        payload: Bytes::new(),
                        ..response.clone()
                    };
                } else if block.offset() != down.body.len() {
                    return self.fail_request(id, FailureReason::BadMessage);
                }
                if down.body.len() + response.payload.len() > max_body {
                    return self.fail_request(id, FailureReason::BodyTooLarge);
                }
                down.body.extend_from_slice(&response.payload);
                down.szx = szx;
                if block.more {
                    return self.next_step(now, id);
                }
                let payload = std::mem::take(&mut down.body).into();
                let response = Response {
                    payload,
                    ..down.head.clone()
                };
                self.finish_request(now, id, response);
            }
            _ if block.num != 0 => self.fail_request(id, FailureReason::BadMessage),
            _ if !block.more => self.finish_request(now, id, response),
            transfer => {
                let body = response.payload.to_vec();
                if body.len() > max_body {
                    return self.fail_request(id, FailureReason::BodyTooLarge);
                }
                let head = Response {
                    payload: Bytes::new(),
                    ..response
                };
                *transfer = Transfer::Down(Download {
                    head,
                    body,
                    etag,
                    szx,
                });
                self.next_step(now, id);
            }
        }
    }

    /// The next message of a transfer that is under way.
    fn next_step(&mut self, now: Instant, id: RequestId) {
        let Some(pending) = self.requests.get(&id) else {
            return;
        };
        let (to, token, old, was, timeout) = (
            pending.to,
            pending.token,
            pending.wire_token,
            pending.timer,
            pending.timeout,
        );
        let is_down = matches!(pending.transfer, Transfer::Down(_));
        // The caller's token stays with an observe request: a notification may come at any time.
        let keeps_token = pending.request.observe == Some(0) && old == token;
        let wire_token = if is_down { self.fresh_token(to) } else { old };
        if is_down && !keeps_token {
            self.by_token.remove(&(to, old));
        }
        self.by_token.insert((to, wire_token), id);
        self.timers.cancel(was);
        let due = later(now, timeout);
        let timer = self.timers.arm(due, Timer::Request(id));
        if let Some(pending) = self.requests.get_mut(&id) {
            pending.wire_token = wire_token;
            pending.due = due;
            pending.timer = timer;
            pending.sent = Sent::Queued;
            pending.early = None;
        }
        if self.send_step(now, id, Place::Front).is_err() {
            self.fail_request(id, FailureReason::Timeout);
        }
    }

    pub(super) fn send_step(
        &mut self,
        now: Instant,
        id: RequestId,
        place: Place,
    ) -> Result<(), Overflow> {
        let Some(pending) = self.requests.get(&id) else {
            return Ok(());
        };
        let request = &pending.request;
        let kind = if pending.confirmable {
            Type::Confirmable
        } else {
            Type::NonConfirmable
        };
        let ask = Block {
            num: 0,
            more: false,
            szx: pending.szx,
        };
        let part = match &pending.transfer {
            Transfer::Single => Part {
                observe: request.observe,
                block2: pending.ask_szx.then_some(ask),
                payload: &request.payload,
                ..Part::default()
            },
            Transfer::Up { offset, szx } => {
                let total = request.payload.len();
                let block = Block::at(*offset, total, *szx);
                Part {
                    observe: request.observe,
                    block1: Some(block),
                    size1: (*offset == 0).then_some(total as u32),
                    block2: (pending.ask_szx && !block.more).then_some(ask),
                    payload: &request.payload[block.range(total)],
                    ..Part::default()
                }
            }
            Transfer::Down(down) => {
                let num = (down.body.len() / down.szx.size()) as u32;
                // A FETCH's body says what is asked for, so it belongs to each block's request (RFC 8132 section 2),
                // unless it came in blocks itself: then the peer has it (RFC 7959 section 3.3).
                let is_whole = request.payload.len() <= pending.szx.size();
                let repeats = request.method == Method::Fetch && is_whole;
                Part {
                    block2: Some(Block {
                        num,
                        more: false,
                        szx: down.szx,
                    }),
                    payload: if repeats { &request.payload } else { &[] },
                    ..Part::default()
                }
            }
        };
        let bytes = message::encode_request(kind, pending.wire_token, request, &part);
        let (to, confirmable) = (pending.to, pending.confirmable);
        if confirmable {
            return self.send_confirmable(now, to, bytes, What::Request(id), place);
        }
        let message_id = self.send_non_confirmable(now, to, bytes, Some(What::Request(id)))?;
        self.request_sent(id, message_id);
        Ok(())
    }

    fn finish_request(&mut self, now: Instant, id: RequestId, response: Response) {
        let Some(pending) = self.remove_request(id) else {
            return;
        };
        let Pending {
            to: from,
            token,
            request,
            purpose,
            ..
        } = pending;
        match purpose {
            Purpose::Notification { watch: token, ack } => {
                match self.watches.get_mut(&(from, token)) {
                    Some(watch) => watch.fetch = None,
                    None => return,
                }
                if !response.code.is_success() {
                    // The rest could not be had; the observation itself stands.
                    self.stats.incomplete_notifications += 1;
                    return;
                }
                self.events.push_back(Event::Notification {
                    from,
                    token,
                    response,
                    ack,
                });
            }
            Purpose::Caller => {
                match (request.observe, response.observe) {
                    (Some(0), Some(sequence)) if response.code.is_success() => {
                        let watch = self.watches.entry((from, token)).or_default();
                        // Also where a notification had a larger number: a device that was restarted counts anew.
                        watch.last = Some((sequence, now));
                        watch.request = Some(template(&request));
                    }
                    // Not observed, or not any more.
                    (Some(_), _) => self.unwatch(from, token),
                    (None, _) => {}
                }
                self.events.push_back(Event::Response {
                    id,
                    from,
                    token,
                    response,
                });
            }
        }
    }

    pub(super) fn fail_request(&mut self, id: RequestId, reason: FailureReason) {
        let Some(pending) = self.remove_request(id) else {
            return;
        };
        let Pending {
            to, token, purpose, ..
        } = pending;
        match purpose {
            Purpose::Caller => self.events.push_back(Event::RequestFailed {
                id,
                to,
                token,
                reason,
            }),
            Purpose::Notification { watch, .. } => {
                self.stats.incomplete_notifications += 1;
                if let Some(watch) = self.watches.get_mut(&(to, watch)) {
                    watch.fetch = None;
                }
            }
        }
    }

    /// Takes a request out of every place it is known in.
    pub(super) fn remove_request(&mut self, id: RequestId) -> Option<Pending> {
        self.stop_sending(id);
        let pending = self.requests.remove(&id)?;
        self.timers.cancel(pending.timer);
        for token in [pending.token, pending.wire_token] {
            if self.by_token.get(&(pending.to, token)) == Some(&id) {
                self.by_token.remove(&(pending.to, token));
            }
        }
        Some(pending)
    }

    fn stop_sending(&mut self, id: RequestId) {
        let Some((to, sent)) = self
            .requests
            .get(&id)
            .map(|pending| (pending.to, pending.sent))
        else {
            return;
        };
        match sent {
            Sent::Queued => self.unqueue(to, What::Request(id)),
            Sent::OnTheWay(message_id)
                if self.outgoing_what(to, message_id) == Some(What::Request(id)) =>
            {
                self.take_outgoing(to, message_id);
            }
            Sent::OnTheWay(_) | Sent::Acknowledged => {}
        }
    }
}
