//! As much of DER as a truststore needs to be written (X.690).

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

/// DER wants a set's members in the order of their bytes.
pub(crate) fn set(mut members: Vec<Vec<u8>>) -> Vec<u8> {
    members.sort();
    tagged(0x31, &members.concat())
}

/// `[0] EXPLICIT`
pub(crate) fn explicit(content: &[u8]) -> Vec<u8> {
    tagged(0xa0, content)
}

pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    tagged(0x04, content)
}

pub(crate) fn null() -> Vec<u8> {
    tagged(0x05, &[])
}

pub(crate) fn integer(number: u16) -> Vec<u8> {
    let bytes = u32::from(number).to_be_bytes();
    // The shortest form whose first bit is 0.
    let skip = (0..3)
        .take_while(|&i| bytes[i] == 0 && bytes[i + 1] < 0x80)
        .count();
    tagged(0x02, &bytes[skip..])
}

/// Text as UTF-16, big endian.
pub(crate) fn bmp(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    tagged(0x1e, &units)
}

pub(crate) fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut content = Vec::new();
    // The first two share a number.
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(first).chain(arcs[2..].iter().copied()) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tagged(0x06, &content)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ ..0x80 => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count();
            out.push(0x80 | (bytes.len() - skip) as u8);
            out.extend(&bytes[skip..]);
        }
    }
    out.extend(content);
    out
}
