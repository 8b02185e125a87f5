//! CoAP messages as the event `COAPLOG` shows them, in Leshan's form.
//!
//! ```text
//!  0                   1                   2                   3
//! |Ver| T |  TKL  |      Code     |          Message ID           |
//! |   Token (if any, TKL bytes) … |   Options (if any) …
//! |1 1 1 1 1 1 1 1|    Payload (if any) …                           RFC 7252 section 3
//! ```

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::shape::hex;

/// The most bytes of a payload that are shown.
const SHOWN: usize = 1_024;

/// A datagram as JSON; what is no CoAP message has only its bytes.
pub(super) fn message(endpoint: &str, incoming: bool, at_unix_ms: i64, datagram: &[u8]) -> Value {
    let mut json = json!({ "timestamp": at_unix_ms, "incoming": incoming, "ep": endpoint });
    let Some(parts) = parse(datagram) else {
        json["type"] = json!("?");
        json["payload"] = json!(payload(datagram));
        return json;
    };
    json["type"] = json!(["CON", "NON", "ACK", "RST"][usize::from(parts.kind)]);
    json["mId"] = json!(parts.id);
    json["token"] = json!(hex(parts.token));
    if let Some(code) = code(parts.code) {
        json["code"] = json!(code);
    }
    let mut options: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (number, value) in &parts.options {
        options
            .entry(*number)
            .or_default()
            .push(option(*number, value));
    }
    if !options.is_empty() {
        let all = options
            .iter()
            .map(|(number, values)| format!("{}: {}", name(*number), values.join(", ")));
        json["options"] = json!(all.collect::<Vec<_>>().join(" - "));
    }
    if !parts.payload.is_empty() {
        json["payload"] = json!(payload(parts.payload));
    }
    json
}

struct Parts<'a> {
    kind: u8,
    code: u8,
    id: u16,
    token: &'a [u8],
    options: Vec<(u32, &'a [u8])>,
    payload: &'a [u8],
}

fn parse(datagram: &[u8]) -> Option<Parts<'_>> {
    let ([first, code, high, low], rest) = datagram.split_first_chunk::<4>()?;
    if first >> 6 != 1 {
        return None;
    }
    let (token, mut rest) = rest.split_at_checked(usize::from(first & 15).min(9))?;
    if token.len() > 8 {
        return None;
    }
    let (mut number, mut options) = (0_u32, Vec::new());
    while let Some((head, after)) = rest.split_first() {
        if *head == 0xff {
            rest = after;
            break;
        }
        let (delta, after) = extended(head >> 4, after)?;
        let (length, after) = extended(head & 15, after)?;
        let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        number = number.checked_add(delta)?;
        options.push((number, value));
        rest = after;
    }
    Some(Parts {
        kind: first >> 4 & 3,
        code: *code,
        id: u16::from_be_bytes([*high, *low]),
        token,
        options,
        payload: rest,
    })
}

/// A delta or a length: 13 and 14 mean that one or two bytes follow (RFC 7252 section 3.1).
fn extended(nibble: u8, rest: &[u8]) -> Option<(u32, &[u8])> {
    match nibble {
        13 => {
            let (byte, rest) = rest.split_first()?;
            Some((u32::from(*byte) + 13, rest))
        }
        14 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            Some((u32::from(u16::from_be_bytes(*bytes)) + 269, rest))
        }
        15 => None,
        small => Some((u32::from(small), rest)),
    }
}

/// A method by its name, a response by its number, an empty message not at all.
fn code(code: u8) -> Option<String> {
    let method = match code {
        0 => return None,
        1 => "GET",
        2 => "POST",
        3 => "PUT",
        4 => "DELETE",
        5 => "FETCH",
        6 => "PATCH",
        7 => "IPATCH",
        _ => return Some(format!("{}.{:02}", code >> 5, code & 31)),
    };
    Some(method.to_owned())
}

fn name(number: u32) -> String {
    let name = match number {
        1 => "If-Match",
        3 => "Uri-Host",
        4 => "ETag",
        5 => "If-None-Match",
        6 => "Observe",
        7 => "Uri-Port",
        8 => "Location-Path",
        11 => "Uri-Path",
        12 => "Content-Format",
        14 => "Max-Age",
        15 => "Uri-Query",
        17 => "Accept",
        20 => "Location-Query",
        23 => "Block2",
        27 => "Block1",
        28 => "Size2",
        60 => "Size1",
        number => return format!("Unknown ({number})"),
    };
    name.to_owned()
}

/// An option's value: text in quotes, numbers as such, blocks as number/more/size, others in hex.
fn option(number: u32, value: &[u8]) -> String {
    let uint = || {
        (value.len() <= 4).then(|| {
            value
                .iter()
                .fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
        })
    };
    match (number, uint()) {
        (3 | 8 | 11 | 15 | 20, _) => format!("{:?}", String::from_utf8_lossy(value)),
        (6 | 7 | 12 | 14 | 17 | 28 | 60, Some(value)) => value.to_string(),
        // RFC 7959 section 2.2.
        (23 | 27, Some(block)) => {
            let more = if block & 8 == 0 { "last" } else { "more" };
            format!("{}/{more}/{}", block >> 4, 16_u32 << (block & 7))
        }
        _ => format!("0x{}", hex(value)),
    }
}

fn payload(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let printable = shown.iter().all(|byte| (b' '..=b'~').contains(byte));
    let mut text = if printable {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        format!("Hex:{}", hex(shown))
    };
    if shown.len() < bytes.len() {
        text.push_str(&format!(" … ({} bytes)", bytes.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_and_its_answer() {
        // A GET of /3/0 with Accept 11542, as RFC 7252 section 3 draws it.
        let request = [
            0x44, 0x01, 0x7d, 0x34, 1, 2, 3, 4, 0xb1, b'3', 0x01, b'0', 0x62, 0x2d, 0x16,
        ];
        assert_eq!(
            message("dev", false, 7, &request),
            json!({"timestamp": 7, "incoming": false, "ep": "dev", "type": "CON", "code": "GET", "mId": 32052,
                "token": "01020304", "options": "Uri-Path: \"3\", \"0\" - Accept: 11542"})
        );
        let answer = [0x64, 0x45, 0x7d, 0x34, 1, 2, 3, 4, 0xc0, 0xff, b'2', b'2'];
        assert_eq!(
            message("dev", true, 8, &answer),
            json!({"timestamp": 8, "incoming": true, "ep": "dev", "type": "ACK", "code": "2.05", "mId": 32052,
                "token": "01020304", "options": "Content-Format: 0", "payload": "22"})
        );
        let empty = [0x70, 0, 0, 9];
        assert_eq!(
            message("dev", true, 9, &empty),
            json!({"timestamp": 9, "incoming": true, "ep": "dev", "type": "RST", "mId": 9, "token": ""})
        );
    }

    #[test]
    fn what_is_no_coap_and_what_is_not_text_is_in_hex() {
        assert_eq!(message("dev", true, 1, &[0xc0])["payload"], "Hex:c0");
        assert_eq!(message("dev", true, 1, &[0x4f, 1, 0, 0])["type"], "?");
        let long = message(
            "dev",
            true,
            1,
            &[[0x50, 0x45, 0, 1, 0xff].as_slice(), &[0; 2_000]].concat(),
        );
        let payload = long["payload"].as_str().unwrap();
        assert!(payload.starts_with("Hex:0000") && payload.ends_with("(2000 bytes)"));
        let block = [0x60, 0x45, 0, 1, 0xd1, 10, 0x1e];
        assert_eq!(
            message("dev", true, 1, &block)["options"],
            "Block2: 1/more/1024"
        );
    }

    proptest! {
        #[test]
        fn no_datagram_does_harm(datagram in any::<Vec<u8>>(), first in 0x40_u8..0x80) {
            let _ = message("dev", true, 0, &datagram);
            let mut close = datagram;
            if let Some(byte) = close.first_mut() {
                *byte = first;
            }
            let _ = message("dev", true, 0, &close);
        }
    }
}
