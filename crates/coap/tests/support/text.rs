//! Messages as lines of text, by way of `coap-lite`: a codec that is not the one under test.
//!
//! ```text
//! CON GET m0 t0 Observe:0 Uri-Path:temperature Block2:0/0/64 = payload
//! type code message-id token options in the order of their numbers = payload
//! ```
//!
//! `m0`, `m1` .. are the endpoint's own message ids in their order, `t0`, `t1` .. its own tokens. Others are hexadecimal, `-` is no token.

use coap_lite::{CoapOption, MessageType, Packet};

#[derive(Default)]
pub(crate) struct Names {
    first_id: Option<u16>,
    tokens: Vec<Vec<u8>>,
}

const OPTIONS: &[(&str, u16)] = &[
    ("If-Match", 1),
    ("ETag", 4),
    ("Observe", 6),
    ("Location-Path", 8),
    ("Uri-Path", 11),
    ("Content-Format", 12),
    ("Max-Age", 14),
    ("Uri-Query", 15),
    ("Accept", 17),
    ("Block2", 23),
    ("Block1", 27),
    ("Size2", 28),
    ("Proxy-Uri", 35),
    ("Size1", 60),
];
const METHODS: &[&str] = &[
    "EMPTY", "GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "iPATCH",
];

fn uint(value: &[u8]) -> u32 {
    value
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

impl Names {
    /// What the endpoint sent.
    pub(crate) fn show(&mut self, bytes: &[u8]) -> String {
        let packet = Packet::from_bytes(bytes).expect("the endpoint sends what coap-lite reads");
        let kind = match packet.header.get_type() {
            MessageType::Confirmable => "CON",
            MessageType::NonConfirmable => "NON",
            MessageType::Acknowledgement => "ACK",
            MessageType::Reset => "RST",
        };
        let own = matches!(kind, "CON" | "NON");
        let code = u8::from(packet.header.code);
        let method = METHODS.get(usize::from(code)).map(ToString::to_string);
        let mut line = format!(
            "{kind} {}",
            method.unwrap_or_else(|| format!("{}.{:02}", code >> 5, code & 31))
        );
        let id = packet.header.message_id;
        if own {
            line += &format!(" m{}", id.wrapping_sub(*self.first_id.get_or_insert(id)));
        } else {
            line += &format!(" {id:04x}");
        }
        let token = packet.get_token().to_vec();
        if token.len() == 8 {
            let known = self.tokens.iter().position(|known| *known == token);
            let index = known.unwrap_or_else(|| {
                self.tokens.push(token);
                self.tokens.len() - 1
            });
            line += &format!(" t{index}");
        } else if !token.is_empty() {
            line += " ";
            line.extend(token.iter().map(|byte| format!("{byte:02x}")));
        } else if code != 0 {
            line += " -";
        }
        for (number, values) in packet.options() {
            let name = OPTIONS
                .iter()
                .find(|(_, it)| it == number)
                .map(|(name, _)| *name);
            for value in values {
                let value = match number {
                    4 => "*".to_owned(),
                    8 | 11 | 15 => String::from_utf8(value.clone()).expect("text"),
                    23 | 27 => {
                        let value = uint(value);
                        format!("{}/{}/{}", value >> 4, value >> 3 & 1, 16 << (value & 7))
                    }
                    _ => uint(value).to_string(),
                };
                line += &format!(" {}:{value}", name.unwrap_or("?"));
            }
        }
        match std::str::from_utf8(&packet.payload) {
            Ok("") => {}
            Ok(text) if text.len() <= 64 => line += &format!(" = {text}"),
            _ => line += &format!(" = {} bytes", packet.payload.len()),
        }
        line
    }

    /// What a peer sends.
    pub(crate) fn read(&self, line: &str) -> Vec<u8> {
        let (head, payload) = line.split_once(" = ").unwrap_or((line, ""));
        let mut words = head.split(' ');
        let mut packet = Packet::new();
        let mut word = || words.next().unwrap_or("-");
        packet.header.set_type(match word() {
            "CON" => MessageType::Confirmable,
            "NON" => MessageType::NonConfirmable,
            "ACK" => MessageType::Acknowledgement,
            "RST" => MessageType::Reset,
            other => panic!("no type: {other}"),
        });
        let code = word();
        let code = match METHODS.iter().position(|method| *method == code) {
            Some(code) => code as u8,
            None => {
                let (class, detail) = code.split_once('.').expect("a code");
                class.parse::<u8>().expect("a class") << 5 | detail.parse::<u8>().expect("a detail")
            }
        };
        packet.header.code = code.into();
        let id = word();
        packet.header.message_id = match id.strip_prefix('m') {
            Some(number) => {
                let first = self.first_id.expect("it sent a message");
                first.wrapping_add(number.parse().expect("a number"))
            }
            None => u16::from_str_radix(id, 16).expect("a message id"),
        };
        let token = word();
        packet.set_token(match token.strip_prefix('t') {
            Some(number) => self.tokens[number.parse::<usize>().expect("a number")].clone(),
            None => token
                .trim_matches('-')
                .as_bytes()
                .chunks(2)
                .map(hex)
                .collect(),
        });
        for option in words {
            let (name, value) = option.split_once(':').expect("name:value");
            let number = OPTIONS
                .iter()
                .find(|(it, _)| *it == name)
                .map_or_else(|| name.parse().expect("a number"), |it| it.1);
            let value = match number {
                4 => value.as_bytes().chunks(2).map(hex).collect(),
                6 | 12 | 14 | 17 | 28 | 60 => minimal(value.parse().expect("a number")),
                23 | 27 if value.contains('/') => {
                    let parts: Vec<u32> = value
                        .split('/')
                        .map(|part| part.parse().expect("a number"))
                        .collect();
                    minimal(parts[0] << 4 | parts[1] << 3 | (parts[2] / 16).trailing_zeros())
                }
                _ => value.as_bytes().to_vec(),
            };
            packet.add_option(CoapOption::from(number), value);
        }
        packet.payload = match payload.strip_suffix(" bytes") {
            Some(len) => vec![b'.'; len.parse().expect("a length")],
            None => payload.as_bytes().to_vec(),
        };
        packet.to_bytes_unlimited().expect("a message")
    }
}

fn hex(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).expect("ASCII"), 16).expect("hexadecimal")
}

fn minimal(value: u32) -> Vec<u8> {
    value.to_be_bytes()[value.leading_zeros() as usize / 8..].to_vec()
}
