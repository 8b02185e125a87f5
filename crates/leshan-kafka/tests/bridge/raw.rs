//! A device that speaks CoAP by hand: says what it is told to, and nothing more.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// CON POST (RFC 7252, section 3).
const POST: [u8; 2] = [0x40, 0x02];
const URI_PATH: u16 = 11;
const LOCATION_PATH: u16 = 8;
const CONTENT_FORMAT: u16 = 12;
const LINK_FORMAT: u8 = 40;
const URI_QUERY: u16 = 15;
const CREATED: u8 = 0x41;
/// 5.03: there is no room now.
const COME_AGAIN: u8 = 0xa3;
pub(crate) const CHANGED: u8 = 0x44;

pub(crate) struct Raw {
    socket: UdpSocket,
    message_id: u16,
    location: Vec<Vec<u8>>,
}

impl Raw {
    /// Registers with a list of links, and what else stands in the query.
    pub(crate) fn register(server: SocketAddr, query: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut device = Self {
            socket,
            message_id: 0,
            location: vec![b"rd".to_vec()],
        };
        for _ in 0..50 {
            let (code, location) = device.post(query, b"</1/0>,</3/0>");
            if code == CREATED {
                device.location = location;
                return device;
            }
            assert_eq!(code, COME_AGAIN);
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("never taken");
    }

    /// Updates its registration; the answer's code.
    pub(crate) fn update(&mut self, query: &str) -> u8 {
        self.post(query, b"").0
    }

    /// The answer's code and location.
    fn post(&mut self, query: &str, payload: &[u8]) -> (u8, Vec<Vec<u8>>) {
        self.message_id += 1;
        let id = self.message_id.to_be_bytes();
        let mut message = [&POST[..], &id].concat();
        let mut last = 0;
        for segment in &self.location {
            option(&mut message, &mut last, URI_PATH, segment);
        }
        if !payload.is_empty() {
            option(&mut message, &mut last, CONTENT_FORMAT, &[LINK_FORMAT]);
        }
        for part in query.split('&').filter(|part| !part.is_empty()) {
            option(&mut message, &mut last, URI_QUERY, part.as_bytes());
        }
        if !payload.is_empty() {
            message.push(0xff);
            message.extend_from_slice(payload);
        }
        let mut answer = [0; 1_500];
        for _ in 0..20 {
            self.socket.send(&message).unwrap();
            while let Ok(length) = self.socket.recv(&mut answer) {
                // The one to this message; whatever else comes is not for it.
                if length >= 4 && answer[0] == 0x60 && answer[2..4] == id {
                    return (answer[1], locations(&answer[4..length]));
                }
            }
        }
        panic!("no answer");
    }
}

/// ```text
/// delta:4 length:4 [delta - 13] [length - 13] value
/// ```
fn option(message: &mut Vec<u8>, last: &mut u16, number: u16, value: &[u8]) {
    let nibble = |n: usize| {
        if n < 13 {
            (n as u8, None)
        } else {
            (13, Some((n - 13) as u8))
        }
    };
    let (delta, more_delta) = nibble(usize::from(number - *last));
    let (length, more_length) = nibble(value.len());
    message.push(delta << 4 | length);
    message.extend(more_delta);
    message.extend(more_length);
    message.extend_from_slice(value);
    *last = number;
}

fn locations(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut number) = (Vec::new(), 0_u16);
    while let [head, tail @ ..] = rest
        && *head != 0xff
    {
        rest = tail;
        let mut part = |nibble: u8| match nibble {
            13 => {
                let more = rest[0];
                rest = &rest[1..];
                usize::from(more) + 13
            }
            other => usize::from(other),
        };
        let (delta, length) = (part(head >> 4), part(head & 15));
        number += delta as u16;
        if number == LOCATION_PATH {
            found.push(rest[..length].to_vec());
        }
        rest = &rest[length..];
    }
    found
}
