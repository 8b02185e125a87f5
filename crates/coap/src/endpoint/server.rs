//! Requests of peers: their bodies, our responses, and the notifications of what they observe.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use coap_lite::CoapOption;

use super::Endpoint;
use super::outbox::{Place, What};
use super::timers::{Timer, TimerKey, later};
use crate::block::{Block, Szx};
use crate::message::{self, BadOption, InRequest, Message, Part, Type};
use crate::{Code, Event, ExchangeId, Method, Peer, Response, Token};

/// Max-Age of the 5.03 that says that too many requests wait to be answered.
const RETRY_AFTER_S: u32 = 30;

/// A request that the caller has not answered.
#[derive(Debug)]
pub(super) struct Exchange {
    origin: Origin,
    /// What separates the empty acknowledgement from being forgotten.
    timer: TimerKey,
    key: Arc<[u8]>,
    observe: Option<u32>,
    block1: Option<Block>,
    block2: Option<Block>,
}

/// The message that a response belongs to.
#[derive(Debug, Clone, Copy)]
struct Origin {
    from: Peer,
    token: Token,
    message_id: u16,
    state: OriginState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OriginState {
    /// CON: the response goes into the acknowledgement.
    Unacknowledged,
    /// CON: the response travels separately.
    Acknowledged,
    /// The response is NON as well.
    NonConfirmable,
}

/// Somebody who observes something here.
#[derive(Debug)]
pub(super) struct Observer {
    sequence: u32,
    /// What it asked for, if this endpoint heard it ask: further blocks are asked for with the same options.
    key: Option<Arc<[u8]>>,
    szx: Szx,
}

/// A body that comes in blocks.
#[derive(Debug)]
pub(super) struct Partial(Vec<u8>);

/// A response whose further blocks may be asked for.
#[derive(Debug)]
pub(super) struct Served {
    response: Response,
    etag: Token,
}

impl Endpoint {
    /// Answers a request: in the acknowledgement if that was not sent yet, else in a message of its own. A body larger than
    /// the block size is handed out in blocks. Does nothing for an exchange that is answered, or older than EXCHANGE_LIFETIME.
    ///
    /// With `observe: Some(_)` in a 2.xx response to a request with `observe: Some(0)` the peer becomes an observer under its token.
    pub fn respond(&mut self, now: Instant, exchange: ExchangeId, response: Response) {
        self.latest = Some(now);
        let Some(exchange) = self.exchanges.remove(&exchange) else {
            return;
        };
        self.timers.cancel(exchange.timer);
        let Exchange {
            origin,
            key,
            observe,
            block1,
            block2,
            ..
        } = exchange;
        let response = self.within_limits(response);
        let szx = self.block_size();
        let limit = block2.map_or(szx, |block| block.szx.min(szx));

        let mut observed = None;
        if observe == Some(0) {
            let wanted = response.observe.is_some() && response.code.is_success();
            observed = self.observe(origin.from, origin.token, wanted.then_some((&key, limit)));
        }
        let part = Part {
            observe: observed,
            block1: block1.map(|block| Block {
                more: false,
                szx: block.szx.min(szx),
                ..block
            }),
            ..Part::default()
        };
        let offset = block2.map_or(0, Block::offset);
        let fits = response.payload.len() <= limit.size();
        if fits && (offset == 0 || !response.code.is_success()) {
            let part = Part {
                payload: &response.payload,
                ..part
            };
            return self.answer(now, origin, &response, &part);
        }
        let etag = etag_of(&response.payload);
        self.answer_block(now, origin, &response, etag, offset, limit, part);
        if response.payload.len() > offset + limit.size() {
            self.serve(now, (origin.from, key), response, etag);
        }
    }

    /// Sends a notification to an observer, with the next sequence number. An error code ends the observation.
    ///
    /// Confirmable ones wait behind NSTART in order; where the queue is full, a newer one takes the place of the latest that
    /// waits. RFC 7641 section 4.5 wants a confirmable one at least once in 24 hours: that is the caller's to decide.
    /// RST or time-out gives [`Event::NotificationRejected`].
    pub fn notify(
        &mut self,
        now: Instant,
        to: Peer,
        token: Token,
        response: Response,
        confirmable: bool,
    ) {
        self.latest = Some(now);
        let response = self.within_limits(response);
        let szx = self.block_size();
        let mut sequence = None;
        let mut key = None;
        let mut limit = szx;
        if response.code.is_success() {
            let known = self.observers.len();
            match self.observers.get_mut(&(to, token)) {
                Some(observer) => {
                    observer.sequence = next_sequence(observer.sequence);
                    sequence = Some(observer.sequence);
                    key.clone_from(&observer.key);
                    limit = observer.szx.min(szx);
                }
                // The caller knows an observer that this endpoint did not hear ask.
                None if known < self.config.max_observers => {
                    sequence = Some(FIRST_SEQUENCE);
                    self.observers.insert(
                        (to, token),
                        Observer {
                            sequence: FIRST_SEQUENCE,
                            key: None,
                            szx,
                        },
                    );
                }
                None => {
                    self.stats.overflowed += 1;
                    return;
                }
            }
        } else {
            self.observers.remove(&(to, token));
        }
        let kind = if confirmable {
            Type::Confirmable
        } else {
            Type::NonConfirmable
        };
        let total = response.payload.len();
        let part = Part {
            observe: sequence,
            ..Part::default()
        };
        let bytes = if total <= limit.size() {
            message::encode_response(
                kind,
                token,
                &response,
                &Part {
                    payload: &response.payload,
                    ..part
                },
            )
        } else {
            let etag = etag_of(&response.payload);
            let part = block_part(&response.payload, etag, 0, limit, part);
            let bytes = message::encode_response(kind, token, &response, &part);
            if let Some(key) = key {
                self.serve(now, (to, key), response, etag);
            }
            bytes
        };
        let what = What::Notification(token);
        let sent = match confirmable {
            true => self.send_confirmable(now, to, bytes, what, Place::Back),
            false => self
                .send_non_confirmable(now, to, bytes, Some(what))
                .map(drop),
        };
        if sent.is_err() {
            self.stats.overflowed += 1;
        }
    }

    /// Forgets an observer without telling it; the end of what [`Endpoint::notify`] needs to know of it.
    pub fn forget_observer(&mut self, peer: Peer, token: Token) {
        self.observers.remove(&(peer, token));
        self.unqueue(peer, What::Notification(token));
    }

    pub(super) fn handle_request(&mut self, now: Instant, from: Peer, message: &Message<'_>) {
        let confirmable = message.kind == Type::Confirmable;
        let state = if confirmable {
            OriginState::Unacknowledged
        } else {
            OriginState::NonConfirmable
        };
        let origin = Origin {
            from,
            token: message.token,
            message_id: message.id,
            state,
        };
        let Some(method) = Method::from_code(message.code) else {
            return self.answer_code(now, origin, Code::METHOD_NOT_ALLOWED);
        };
        let incoming = match message.request(method, &mut self.scratch) {
            Ok(incoming) => incoming,
            Err(bad) => {
                self.stats.bad_options += 1;
                // A NON request with a critical option we do not know is rejected, that is, ignored (section 5.4.1).
                match bad {
                    _ if !confirmable => {}
                    BadOption::NotUnderstood(option) => {
                        self.answer_bad_option(now, origin, option);
                    }
                    BadOption::ReservedSize => self.answer_code(now, origin, Code::BAD_REQUEST),
                }
                return;
            }
        };
        let InRequest {
            mut request,
            block1,
            block2,
            size1,
            key,
        } = incoming;
        if let Some(block) = block1 {
            let size = size1.unwrap_or(0) as usize;
            match self.take_block(
                now,
                origin,
                (from, key.clone()),
                block,
                size,
                request.payload,
            ) {
                Some(body) => request.payload = body,
                None => return,
            }
        }
        if let Some(block) = block2.filter(|block| block.num > 0)
            && self.answer_served(now, origin, &(from, key.clone()), block, method)
        {
            return;
        }
        if self.exchanges.len() >= self.config.max_exchanges {
            self.stats.exchanges_refused += 1;
            // RFC 7252 section 5.9.3.4: when to try again.
            let busy = Response {
                max_age: Some(RETRY_AFTER_S),
                ..Response::new(Code::SERVICE_UNAVAILABLE)
            };
            return self.answer(now, origin, &busy, &Part::default());
        }
        if request.observe == Some(1) {
            self.observers.remove(&(from, origin.token));
        }
        let id = ExchangeId(self.next_serial());
        let wait = match confirmable {
            true => self.config.separate_after,
            false => self.config.non_lifetime(),
        };
        let timer = self.timers.arm(later(now, wait), Timer::Exchange(id));
        self.exchanges.insert(
            id,
            Exchange {
                origin,
                timer,
                key,
                observe: request.observe,
                block1,
                block2,
            },
        );
        self.events.push_back(Event::Request {
            exchange: id,
            from,
            token: origin.token,
            request,
        });
    }

    /// The caller takes its time: acknowledge; or has forgotten: forget.
    pub(super) fn exchange_due(&mut self, now: Instant, id: ExchangeId) {
        let lifetime = self.config.exchange_lifetime();
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        if exchange.origin.state != OriginState::Unacknowledged {
            self.exchanges.remove(&id);
            self.stats.exchanges_expired += 1;
            return;
        }
        exchange.origin.state = OriginState::Acknowledged;
        exchange.timer = self.timers.arm(later(now, lifetime), Timer::Exchange(id));
        let Origin {
            from, message_id, ..
        } = exchange.origin;
        self.reply_empty(from, message_id, Type::Acknowledgement);
    }

    /// Takes in a block of a request's body (RFC 7959 section 2.5); the body, when this was the last one.
    fn take_block(
        &mut self,
        now: Instant,
        origin: Origin,
        key: (Peer, Arc<[u8]>),
        block: Block,
        announced: usize,
        payload: Bytes,
    ) -> Option<Bytes> {
        let offset = block.offset();
        let so_far = match block.num {
            0 => {
                self.partial.remove(&key);
                Vec::new()
            }
            _ => self
                .partial
                .remove(&key)
                .map(|partial| partial.0)
                .unwrap_or_default(),
        };
        if so_far.len() != offset {
            self.answer_code(now, origin, Code::REQUEST_ENTITY_INCOMPLETE);
            return None;
        }
        if block.more && payload.len() != block.szx.size() || payload.len() > block.szx.size() {
            self.answer_code(now, origin, Code::BAD_REQUEST);
            return None;
        }
        let limit = self.config.body_limit();
        if announced > limit || offset + payload.len() > limit {
            let part = Part {
                size1: Some(limit.min(u32::MAX as usize) as u32),
                ..Part::default()
            };
            self.answer(
                now,
                origin,
                &Response::new(Code::REQUEST_ENTITY_TOO_LARGE),
                &part,
            );
            return None;
        }
        if !block.more && offset == 0 {
            return Some(payload);
        }
        let mut body = so_far;
        body.extend_from_slice(&payload);
        if !block.more {
            return Some(body.into());
        }
        let bytes = body.len();
        self.stats.bodies_evicted += self.partial.insert(now, key, Partial(body), bytes);
        self.arm_sweep(now);
        let block1 = Some(Block {
            szx: block.szx.min(self.block_size()),
            ..block
        });
        self.answer(
            now,
            origin,
            &Response::new(Code::CONTINUE),
            &Part {
                block1,
                ..Part::default()
            },
        );
        None
    }

    /// Answers a request for a further block from what is kept; `false` if the caller is to be asked.
    fn answer_served(
        &mut self,
        now: Instant,
        origin: Origin,
        key: &(Peer, Arc<[u8]>),
        block: Block,
        method: Method,
    ) -> bool {
        let limit = block.szx.min(self.block_size());
        match self.served.get(key) {
            Some(served) => {
                let (response, etag) = (served.response.clone(), served.etag);
                self.answer_block(
                    now,
                    origin,
                    &response,
                    etag,
                    block.offset(),
                    limit,
                    Part::default(),
                );
                true
            }
            // What has no effect can be asked for again, and cut at the place wanted.
            None if matches!(method, Method::Get | Method::Fetch) => false,
            None => {
                self.answer_code(now, origin, Code::REQUEST_ENTITY_INCOMPLETE);
                true
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the block, and what it is an answer to"
    )]
    fn answer_block(
        &mut self,
        now: Instant,
        origin: Origin,
        response: &Response,
        etag: Token,
        offset: usize,
        limit: Szx,
        part: Part<'_>,
    ) {
        if offset > 0 && offset >= response.payload.len() {
            return self.answer_code(now, origin, Code::BAD_REQUEST);
        }
        let part = block_part(&response.payload, etag, offset, limit, part);
        self.answer(now, origin, response, &part);
    }

    fn answer_bad_option(&mut self, now: Instant, origin: Origin, option: u16) {
        if matches!(
            CoapOption::from(option),
            CoapOption::ProxyUri | CoapOption::ProxyScheme
        ) {
            return self.answer_code(now, origin, Code::PROXYING_NOT_SUPPORTED);
        }
        // A diagnostic payload for the human at the other end (section 5.5.2).
        let text = format!("option {option} is not understood here");
        let part = Part {
            payload: text.as_bytes(),
            ..Part::default()
        };
        self.answer(now, origin, &Response::new(Code::BAD_OPTION), &part);
    }

    fn answer_code(&mut self, now: Instant, origin: Origin, code: Code) {
        self.answer(now, origin, &Response::new(code), &Part::default());
    }

    fn answer(&mut self, now: Instant, origin: Origin, response: &Response, part: &Part<'_>) {
        let Origin {
            from,
            token,
            message_id,
            state,
        } = origin;
        let sent = match state {
            OriginState::Unacknowledged => {
                let mut bytes =
                    message::encode_response(Type::Acknowledgement, token, response, part);
                message::set_message_id(&mut bytes, message_id);
                self.reply(from, message_id, bytes);
                return;
            }
            OriginState::Acknowledged => {
                let bytes = message::encode_response(Type::Confirmable, token, response, part);
                let what = if part.observe.is_some() {
                    What::Notification(token)
                } else {
                    What::Response
                };
                self.send_confirmable(now, from, bytes, what, Place::Back)
            }
            OriginState::NonConfirmable => {
                let bytes = message::encode_response(Type::NonConfirmable, token, response, part);
                let what = part.observe.map(|_| What::Notification(token));
                self.send_non_confirmable(now, from, bytes, what).map(drop)
            }
        };
        if sent.is_err() {
            self.stats.overflowed += 1;
        }
    }

    /// Enters or strikes out an observer; the sequence number of its first response.
    fn observe(
        &mut self,
        from: Peer,
        token: Token,
        wanted: Option<(&Arc<[u8]>, Szx)>,
    ) -> Option<u32> {
        let Some((key, szx)) = wanted else {
            self.observers.remove(&(from, token));
            return None;
        };
        let known = self.observers.get(&(from, token));
        if known.is_none() && self.observers.len() >= self.config.max_observers {
            self.stats.overflowed += 1;
            return None;
        }
        // An observation that is asked for again goes on counting (RFC 7641 section 4.1).
        let sequence = known.map_or(FIRST_SEQUENCE, |observer| next_sequence(observer.sequence));
        self.observers.insert(
            (from, token),
            Observer {
                sequence,
                key: Some(key.clone()),
                szx,
            },
        );
        Some(sequence)
    }

    fn serve(&mut self, now: Instant, key: (Peer, Arc<[u8]>), response: Response, etag: Token) {
        let bytes = response.payload.len();
        let response = Response {
            observe: None,
            ..response
        };
        self.stats.bodies_evicted += self
            .served
            .insert(now, key, Served { response, etag }, bytes);
        self.arm_sweep(now);
    }

    /// A body that is too large to be handed out becomes 5.00: the mistake is on this side.
    fn within_limits(&self, response: Response) -> Response {
        let limit = self.config.body_limit();
        if response.payload.len() <= limit {
            return response;
        }
        let text = format!(
            "the body of {} bytes is larger than the limit of {limit}",
            response.payload.len()
        );
        Response {
            payload: text.into(),
            ..Response::new(Code::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The first number of an observation: 0 and 1 mean something else in a request, and confuse those who read traces.
const FIRST_SEQUENCE: u32 = 2;

fn next_sequence(sequence: u32) -> u32 {
    (sequence + 1) & 0xff_ffff
}

fn block_part<'a>(
    body: &'a [u8],
    etag: Token,
    offset: usize,
    szx: Szx,
    part: Part<'a>,
) -> Part<'a> {
    let block = Block::at(offset, body.len(), szx);
    Part {
        block2: Some(block),
        size2: (block.num == 0).then_some(body.len() as u32),
        etag: Some(etag),
        payload: &body[block.range(body.len())],
        ..part
    }
}

/// Tells two states of a resource apart while one is fetched in blocks; no secret.
fn etag_of(body: &[u8]) -> Token {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    Token::from_u64(hasher.finish())
}
