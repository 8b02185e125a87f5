//! The bytes of one message (RFC 7252 section 3).
//!
//! ```text
//!  0                   1                   2                   3
//! |Ver| T |  TKL  |      Code     |          Message ID           |
//! |   Token (if any, TKL bytes) ...
//! |   Options (if any) ...
//! |1 1 1 1 1 1 1 1|    Payload (if any) ...
//! ```

use std::sync::Arc;

use coap_lite::CoapOption;

use crate::block::Block;
use crate::scratch::Scratch;
use crate::{Code, Method, Request, Response, Token};

/// Uri-Path, Uri-Query and Location-Path options taken from one message, each; a datagram could hold 65 000 empty ones.
const MAX_SEGMENTS: usize = 64;
/// Bytes of such an option (section 5.10).
pub(crate) const MAX_SEGMENT_LEN: usize = 255;
const PAYLOAD_MARKER: u8 = 0xff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Confirmable,
    NonConfirmable,
    Acknowledgement,
    Reset,
}

impl Type {
    fn bits(self) -> u8 {
        match self {
            Type::Confirmable => 0,
            Type::NonConfirmable => 1,
            Type::Acknowledgement => 2,
            Type::Reset => 3,
        }
    }
}

/// A message whose options are known to be well-formed, not what they mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: Type,
    pub(crate) code: Code,
    pub(crate) id: u16,
    pub(crate) token: Token,
    options: &'a [u8],
    payload: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Too short for a header, or of another version: to be ignored silently (section 3).
    NotCoap,
    /// A message format error of a message with this type and id: a CON is rejected with RST (section 4.2).
    Format(Type, u16),
}

impl<'a> Message<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let [first, code, id_high, id_low, rest @ ..] = data else {
            return Err(Malformed::NotCoap);
        };
        if first >> 6 != 1 {
            return Err(Malformed::NotCoap);
        }
        let kind = match first >> 4 & 3 {
            0 => Type::Confirmable,
            1 => Type::NonConfirmable,
            2 => Type::Acknowledgement,
            _ => Type::Reset,
        };
        let id = u16::from_be_bytes([*id_high, *id_low]);
        let malformed = Malformed::Format(kind, id);
        let code = Code(*code);
        let token_len = usize::from(first & 15);
        let (token, rest) = rest.split_at_checked(token_len).ok_or(malformed)?;
        let token = Token::new(token).map_err(|_| malformed)?;
        if code == Code::EMPTY && (token_len != 0 || !rest.is_empty()) {
            return Err(malformed);
        }
        let mut options = Options::new(rest);
        while options.next_option().map_err(|()| malformed)?.is_some() {}
        let (options, payload) = rest.split_at(rest.len() - options.rest.len());
        let payload = match payload {
            [] => payload,
            // A marker that nothing follows is a message format error.
            [_] => return Err(malformed),
            [_, payload @ ..] => payload,
        };
        Ok(Message {
            kind,
            code,
            id,
            token,
            options,
            payload,
        })
    }

    fn options(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut options = Options::new(self.options);
        // `parse` has walked them once; an error cannot come, and would end the walk.
        std::iter::from_fn(move || options.next_option().ok().flatten())
    }

    /// The request, or the number of the option that makes it a 4.02, or a 4.00.
    pub(crate) fn request(
        &self,
        method: Method,
        scratch: &mut Scratch,
    ) -> Result<InRequest, BadOption> {
        let mut request = Request {
            method,
            path: Vec::new(),
            query: Vec::new(),
            content_format: None,
            accept: None,
            observe: None,
            payload: scratch.copy(self.payload),
        };
        let (mut block1, mut block2, mut size1) = (None, None, None);
        let mut key = vec![method.code().0];
        let mut last = None;
        for (number, value) in self.options() {
            // A second one of an option that is not repeatable counts as unrecognised (section 5.4.5).
            let repeated = last.replace(number) == Some(number);
            let known = match CoapOption::from(number) {
                CoapOption::UriPath => push_text(&mut request.path, value),
                CoapOption::UriQuery => push_text(&mut request.query, value),
                _ if repeated => false,
                CoapOption::ContentFormat => set(&mut request.content_format, uint16(value)),
                CoapOption::Accept => set(&mut request.accept, uint16(value)),
                CoapOption::Observe => set(&mut request.observe, uint(value, 3)),
                CoapOption::Block1 => set(&mut block1, Block::decode(value)),
                CoapOption::Block2 => set(&mut block2, Block::decode(value)),
                CoapOption::Size1 => set(&mut size1, uint(value, 4)),
                // Whatever name the peer knows this server by: it serves one.
                CoapOption::UriHost | CoapOption::UriPort => true,
                _ => false,
            };
            if !known && number & 1 == 1 {
                let is_block = matches!(
                    CoapOption::from(number),
                    CoapOption::Block1 | CoapOption::Block2
                );
                // A repeated one is not even looked at.
                return Err(match is_block && !repeated && Block::is_reserved(value) {
                    true => BadOption::ReservedSize,
                    false => BadOption::NotUnderstood(number),
                });
            }
            if matches!(
                CoapOption::from(number),
                CoapOption::UriPath
                    | CoapOption::UriQuery
                    | CoapOption::ContentFormat
                    | CoapOption::Accept
            ) {
                // Two bytes of number, two of length: a datagram is shorter than 64 KiB.
                key.extend_from_slice(&number.to_be_bytes());
                key.extend_from_slice(&(value.len() as u16).to_be_bytes());
                key.extend_from_slice(value);
            }
        }
        // What a FETCH asks for stands in its body (RFC 8132 section 2): two of them with the same options are two things.
        if method == Method::Fetch && block1.is_none() {
            key.extend_from_slice(self.payload);
        }
        Ok(InRequest {
            request,
            block1,
            block2,
            size1,
            key: key.into(),
        })
    }

    /// The response; `Err` where a critical option is not understood.
    pub(crate) fn response(&self, scratch: &mut Scratch) -> Result<InResponse, u16> {
        let mut response = Response {
            payload: scratch.copy(self.payload),
            ..Response::new(self.code)
        };
        let (mut block1, mut block2, mut etag) = (None, None, None);
        let mut last = None;
        for (number, value) in self.options() {
            let repeated = last.replace(number) == Some(number);
            let known = match CoapOption::from(number) {
                CoapOption::LocationPath => push_text(&mut response.location_path, value),
                // Critical, understood, and of no use to LwM2M: the path names the registration.
                CoapOption::LocationQuery => true,
                _ if repeated => false,
                CoapOption::ETag => set(&mut etag, Token::new(value).ok()),
                CoapOption::Observe => set(&mut response.observe, uint(value, 3)),
                CoapOption::ContentFormat => set(&mut response.content_format, uint16(value)),
                CoapOption::MaxAge => set(&mut response.max_age, uint(value, 4)),
                CoapOption::Block1 => set(&mut block1, Block::decode(value)),
                CoapOption::Block2 => set(&mut block2, Block::decode(value)),
                _ => false,
            };
            if !known && number & 1 == 1 {
                return Err(number);
            }
        }
        Ok(InResponse {
            response,
            block1,
            block2,
            etag,
        })
    }
}

#[derive(Debug)]
pub(crate) struct InRequest {
    pub(crate) request: Request,
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    pub(crate) size1: Option<u32>,
    /// Method, path, query and formats: what stays the same from block to block.
    pub(crate) key: Arc<[u8]>,
}

#[derive(Debug)]
pub(crate) struct InResponse {
    pub(crate) response: Response,
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    /// An ETag has 1 to 8 bytes, as a token has.
    pub(crate) etag: Option<Token>,
}

/// Why a request is refused for one of its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadOption {
    /// It is critical, and no option that is known here, or has no value of its kind (RFC 7252 section 5.4).
    NotUnderstood(u16),
    /// A block option with the reserved SZX 7 (RFC 7959 section 2.2).
    ReservedSize,
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let known = value.is_some();
    *place = value;
    known
}

fn push_text(list: &mut Vec<String>, value: &[u8]) -> bool {
    match std::str::from_utf8(value) {
        Ok(text) if list.len() < MAX_SEGMENTS && value.len() <= MAX_SEGMENT_LEN => {
            list.push(text.to_owned());
            true
        }
        _ => false,
    }
}

/// An option value of format uint (section 3.2); `None` if it is longer than the option allows.
pub(crate) fn uint(value: &[u8], max_len: usize) -> Option<u32> {
    (value.len() <= max_len).then(|| {
        value
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    })
}

fn uint16(value: &[u8]) -> Option<u16> {
    uint(value, 2).map(|value| value as u16)
}

struct Options<'a> {
    rest: &'a [u8],
    number: u16,
}

impl<'a> Options<'a> {
    fn new(rest: &'a [u8]) -> Options<'a> {
        Options { rest, number: 0 }
    }

    /// `None` at the end or at the payload marker, which stays in `rest`.
    fn next_option(&mut self) -> Result<Option<(u16, &'a [u8])>, ()> {
        let [head, rest @ ..] = self.rest else {
            return Ok(None);
        };
        if *head == PAYLOAD_MARKER {
            return Ok(None);
        }
        let (delta, rest) = extended(head >> 4, rest)?;
        let (len, rest) = extended(head & 15, rest)?;
        self.number = u32::from(self.number)
            .checked_add(delta)
            .and_then(|number| u16::try_from(number).ok())
            .ok_or(())?;
        let (value, rest) = rest.split_at_checked(len as usize).ok_or(())?;
        self.rest = rest;
        Ok(Some((self.number, value)))
    }
}

/// A delta or length: 0..=12 as it is, 13 and one byte more, 14 and two bytes more, 15 is an error (section 3.1).
fn extended(nibble: u8, rest: &[u8]) -> Result<(u32, &[u8]), ()> {
    match (nibble, rest) {
        (0..=12, _) => Ok((nibble.into(), rest)),
        (13, [byte, rest @ ..]) => Ok((u32::from(*byte) + 13, rest)),
        (14, [high, low, rest @ ..]) => {
            Ok((u32::from(u16::from_be_bytes([*high, *low])) + 269, rest))
        }
        _ => Err(()),
    }
}

/// Writes a message; options in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    number: u16,
}

impl Writer {
    /// The message id is zero until [`set_message_id`].
    pub(crate) fn new(kind: Type, code: Code, token: Token, capacity: usize) -> Writer {
        let mut bytes = Vec::with_capacity(4 + Token::MAX_LEN + capacity);
        bytes.push(1 << 6 | kind.bits() << 4 | token.as_bytes().len() as u8);
        bytes.extend_from_slice(&[code.0, 0, 0]);
        bytes.extend_from_slice(token.as_bytes());
        Writer { bytes, number: 0 }
    }

    pub(crate) fn option(&mut self, option: CoapOption, value: &[u8]) {
        let number = u16::from(option);
        debug_assert!(
            number >= self.number,
            "options are written in the order of their numbers"
        );
        let nibble = |value: usize| match value {
            0..13 => value as u8,
            13..269 => 13,
            _ => 14,
        };
        let delta = usize::from(number - self.number);
        self.number = number;
        self.bytes.push(nibble(delta) << 4 | nibble(value.len()));
        for extended in [delta, value.len()] {
            match extended {
                0..13 => {}
                13..269 => self.bytes.push((extended - 13) as u8),
                _ => self
                    .bytes
                    .extend_from_slice(&((extended - 269) as u16).to_be_bytes()),
            }
        }
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn uint(&mut self, option: CoapOption, value: impl Into<u32>) {
        let value = value.into();
        let bytes = value.to_be_bytes();
        self.option(option, &bytes[value.leading_zeros() as usize / 8..]);
    }

    fn maybe(&mut self, option: CoapOption, value: Option<impl Into<u32>>) {
        if let Some(value) = value {
            self.uint(option, value);
        }
    }

    pub(crate) fn finish(mut self, payload: &[u8]) -> Vec<u8> {
        if !payload.is_empty() {
            self.bytes.push(PAYLOAD_MARKER);
            self.bytes.extend_from_slice(payload);
        }
        self.bytes
    }
}

/// The block options of a message, and its part of the body.
#[derive(Debug, Default)]
pub(crate) struct Part<'a> {
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    pub(crate) size1: Option<u32>,
    pub(crate) size2: Option<u32>,
    pub(crate) etag: Option<Token>,
    pub(crate) observe: Option<u32>,
    pub(crate) payload: &'a [u8],
}

pub(crate) fn encode_request(
    kind: Type,
    token: Token,
    request: &Request,
    part: &Part<'_>,
) -> Vec<u8> {
    let segments = request
        .path
        .iter()
        .chain(&request.query)
        .map(|text| text.len() + 3)
        .sum::<usize>();
    let mut writer = Writer::new(
        kind,
        request.method.code(),
        token,
        segments + 32 + part.payload.len(),
    );
    writer.maybe(CoapOption::Observe, part.observe);
    for segment in &request.path {
        writer.option(CoapOption::UriPath, segment.as_bytes());
    }
    writer.maybe(CoapOption::ContentFormat, request.content_format);
    for argument in &request.query {
        writer.option(CoapOption::UriQuery, argument.as_bytes());
    }
    writer.maybe(CoapOption::Accept, request.accept);
    writer.maybe(CoapOption::Block2, part.block2.map(Block::encode));
    writer.maybe(CoapOption::Block1, part.block1.map(Block::encode));
    writer.maybe(CoapOption::Size1, part.size1);
    writer.finish(part.payload)
}

pub(crate) fn encode_response(
    kind: Type,
    token: Token,
    response: &Response,
    part: &Part<'_>,
) -> Vec<u8> {
    let segments = response
        .location_path
        .iter()
        .map(|text| text.len() + 3)
        .sum::<usize>();
    let mut writer = Writer::new(
        kind,
        response.code,
        token,
        segments + 48 + part.payload.len(),
    );
    if let Some(etag) = part.etag {
        writer.option(CoapOption::ETag, etag.as_bytes());
    }
    writer.maybe(CoapOption::Observe, part.observe);
    for segment in &response.location_path {
        writer.option(CoapOption::LocationPath, segment.as_bytes());
    }
    writer.maybe(CoapOption::ContentFormat, response.content_format);
    writer.maybe(CoapOption::MaxAge, response.max_age);
    writer.maybe(CoapOption::Block2, part.block2.map(Block::encode));
    writer.maybe(CoapOption::Block1, part.block1.map(Block::encode));
    writer.maybe(CoapOption::Size2, part.size2);
    writer.maybe(CoapOption::Size1, part.size1);
    writer.finish(part.payload)
}

/// An empty message: ACK or RST (section 4.1).
pub(crate) fn encode_empty(kind: Type, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [1 << 6 | kind.bits() << 4, Code::EMPTY.0, high, low]
}

pub(crate) fn set_message_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}
