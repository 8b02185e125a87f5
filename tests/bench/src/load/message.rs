//! The few CoAP messages that these devices know (RFC 7252 section 3).

const CONFIRMABLE: u8 = 0b0100_0000;
const ACKNOWLEDGEMENT: u8 = 0b0110_0000;
const POST: u8 = 0x02;
const CONTENT: u8 = 0x45;

const OBSERVE: u16 = 6;
const LOCATION_PATH: u16 = 8;
const URI_PATH: u16 = 11;
const CONTENT_FORMAT: u16 = 12;
const URI_QUERY: u16 = 15;

/// OMA's TLV.
const TLV: u16 = 11_542;

/// What a sensor of this kind lists.
const LINKS: &[u8] = b"</>;rt=\"oma.lwm2m\";ct=11542,</1/0>,</3/0>,</6/0>,</3303/0>,</3303/1>";

struct Writer {
    bytes: Vec<u8>,
    option: u16,
}

impl Writer {
    fn new(kind: u8, code: u8, message_id: u16, token: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(160);
        bytes.push(kind | token.len() as u8);
        bytes.push(code);
        bytes.extend_from_slice(&message_id.to_be_bytes());
        bytes.extend_from_slice(token);
        Self { bytes, option: 0 }
    }

    /// Numbers less than 269 behind one another, values shorter than 269 bytes.
    fn option(mut self, number: u16, value: &[u8]) -> Self {
        let delta = number - self.option;
        self.option = number;
        let short = |n: usize| if n < 13 { n as u8 } else { 13 };
        let (delta, len) = (usize::from(delta), value.len());
        self.bytes.push(short(delta) << 4 | short(len));
        for n in [delta, len] {
            if n >= 13 {
                self.bytes.push((n - 13) as u8);
            }
        }
        self.bytes.extend_from_slice(value);
        self
    }

    fn number(self, number: u16, value: u32) -> Self {
        let bytes = value.to_be_bytes();
        let zeros = value.leading_zeros() as usize / 8;
        self.option(number, &bytes[zeros..])
    }

    fn payload(mut self, payload: &[u8]) -> Vec<u8> {
        self.bytes.push(0xff);
        self.bytes.extend_from_slice(payload);
        self.bytes
    }
}

pub(super) fn register(message_id: u16, endpoint: &str) -> Vec<u8> {
    Writer::new(CONFIRMABLE, POST, message_id, &message_id.to_be_bytes())
        .option(URI_PATH, b"rd")
        .number(CONTENT_FORMAT, 40)
        .option(URI_QUERY, b"b=U")
        .option(URI_QUERY, b"lwm2m=1.1")
        .option(URI_QUERY, b"lt=86400")
        .option(URI_QUERY, format!("ep={endpoint}").as_bytes())
        .payload(LINKS)
}

pub(super) fn update(message_id: u16, location: &[u8]) -> Vec<u8> {
    Writer::new(CONFIRMABLE, POST, message_id, &message_id.to_be_bytes())
        .option(URI_PATH, b"rd")
        .option(URI_PATH, location)
        .bytes
}

pub(super) fn notification(message_id: u16, token: &[u8], sequence: u32, value: f64) -> Vec<u8> {
    Writer::new(CONFIRMABLE, CONTENT, message_id, token)
        .number(OBSERVE, sequence)
        .number(CONTENT_FORMAT, TLV.into())
        .payload(&temperature(value))
}

/// The answer to a read or an observe: the value, in the acknowledgement.
pub(super) fn value(request: &Incoming<'_>, sequence: u32) -> Vec<u8> {
    let mut answer = Writer::new(ACKNOWLEDGEMENT, CONTENT, request.id, request.token);
    if request.observe == Some(0) {
        answer = answer.number(OBSERVE, sequence);
    }
    answer
        .number(CONTENT_FORMAT, TLV.into())
        .payload(&temperature(20.0))
}

/// Resource 5700 as a double: type (a resource, two bytes of id, one of length), id, length, value.
fn temperature(value: f64) -> [u8; 12] {
    let mut tlv = [0; 12];
    tlv[..4].copy_from_slice(&[0xe8, 0x16, 0x44, 8]);
    tlv[4..].copy_from_slice(&value.to_be_bytes());
    tlv
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Answer,
    Reset,
    Other,
}

/// A message from the server.
pub(super) struct Incoming<'a> {
    pub(super) kind: Kind,
    pub(super) code: u8,
    pub(super) id: u16,
    pub(super) token: &'a [u8],
    pub(super) observe: Option<u32>,
    /// The last Location-Path.
    pub(super) location: &'a [u8],
}

impl<'a> Incoming<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let [first, code, high, low, rest @ ..] = datagram else {
            return None;
        };
        let (token, mut rest) = rest.split_at_checked(usize::from(first & 15))?;
        let kind = match (first >> 4 & 3, code >> 5) {
            (0, 0) if *code != 0 => Kind::Request,
            (2, _) => Kind::Answer,
            (3, _) => Kind::Reset,
            _ => Kind::Other,
        };
        let mut message = Self {
            kind,
            code: *code,
            id: u16::from_be_bytes([*high, *low]),
            token,
            observe: None,
            location: &[],
        };
        let mut option = 0;
        while let [head, behind @ ..] = rest {
            if *head == 0xff {
                break;
            }
            let (delta, behind) = extended(head >> 4, behind)?;
            let (len, behind) = extended(head & 15, behind)?;
            let (value, behind) = behind.split_at_checked(usize::from(len))?;
            option += delta;
            match option {
                OBSERVE => {
                    let number = value
                        .iter()
                        .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                    message.observe = Some(number);
                }
                LOCATION_PATH => message.location = value,
                _ => {}
            }
            rest = behind;
        }
        Some(message)
    }
}

fn extended(nibble: u8, rest: &[u8]) -> Option<(u16, &[u8])> {
    match (nibble, rest) {
        (0..13, _) => Some((nibble.into(), rest)),
        (13, [byte, rest @ ..]) => Some((u16::from(*byte) + 13, rest)),
        (14, [high, low, rest @ ..]) => {
            let number = u16::from_be_bytes([*high, *low]).checked_add(269)?;
            Some((number, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = notification(7, &[1, 2, 3], 300, 21.5);
        let message = Incoming::parse(&bytes).expect("well formed");
        assert_eq!((message.id, message.code), (7, CONTENT));
        assert_eq!(
            (message.token, message.observe),
            (&[1, 2, 3][..], Some(300))
        );
        // 2.01 with /rd/abc in an acknowledgement.
        let created = Writer::new(ACKNOWLEDGEMENT, 0x41, 9, &[])
            .option(LOCATION_PATH, b"rd")
            .option(LOCATION_PATH, b"abc")
            .bytes;
        let created = Incoming::parse(&created).expect("well formed");
        assert_eq!(
            (created.kind, created.location),
            (Kind::Answer, &b"abc"[..])
        );
    }
}
