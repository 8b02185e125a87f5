//! The layout of each request, walked before it is decoded.
//!
//! The codec reserves room for as many array elements as a request claims to hold: twelve bytes could ask for hundreds
//! of gigabytes. So each request is first walked by its layout, which allocates nothing, and refused unless every
//! element is there. The layouts restate Kafka's message definitions; a test builds random requests from them and has
//! the codec read each to the last byte.

use kafka_protocol::messages::ApiKey;
use thiserror::Error;

/// One field, present in versions `from..=to`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) from: i16,
    pub(crate) to: i16,
    pub(crate) kind: Kind,
}

/// How a field is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A number, boolean or UUID of this many bytes.
    Fixed(usize),
    /// Length i16, or in flexible versions length + 1 as a varint.
    Text,
    /// Length i32, or in flexible versions length + 1 as a varint.
    Bytes,
    /// An array of plain values.
    Plain(Scalar),
    /// An array of structures.
    Structs(&'static [Field]),
}

/// An array's plain element.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar {
    Int32,
    Text,
}

/// A request: its fields, and the version from which it is flexible (KIP-482: compact lengths, tagged fields).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) flexible_from: i16,
    pub(crate) fields: &'static [Field],
    /// Tags below this have a meaning to the codec, which reads them by type and not by their length. They belong to
    /// replicas, of which there are none: a request that has one is refused.
    pub(crate) reserved_tags: u32,
}

const MAX: i16 = i16::MAX;

const fn f(kind: Kind) -> Field {
    Field {
        from: 0,
        to: MAX,
        kind,
    }
}
const fn since(from: i16, kind: Kind) -> Field {
    Field {
        from,
        to: MAX,
        kind,
    }
}
const fn until(to: i16, kind: Kind) -> Field {
    Field { from: 0, to, kind }
}

const I8: Kind = Kind::Fixed(1);
const BOOL: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const TEXT: Kind = Kind::Text;
const BYTES: Kind = Kind::Bytes;
const INTS: Kind = Kind::Plain(Scalar::Int32);
const TEXTS: Kind = Kind::Plain(Scalar::Text);
const fn of(fields: &'static [Field]) -> Kind {
    Kind::Structs(fields)
}
/// "No version is flexible."
const NEVER: i16 = MAX;

/// The layout of a request this broker understands.
pub(crate) fn layout(api: ApiKey) -> Option<Layout> {
    let (flexible_from, fields): (i16, &'static [Field]) = match api {
        ApiKey::Produce => (9, PRODUCE),
        ApiKey::Fetch => (12, FETCH),
        ApiKey::ListOffsets => (6, LIST_OFFSETS),
        ApiKey::Metadata => (9, METADATA),
        ApiKey::OffsetCommit => (8, OFFSET_COMMIT),
        ApiKey::OffsetFetch => (6, OFFSET_FETCH),
        ApiKey::FindCoordinator => (3, FIND_COORDINATOR),
        ApiKey::JoinGroup => (6, JOIN_GROUP),
        ApiKey::Heartbeat => (4, HEARTBEAT),
        ApiKey::LeaveGroup => (4, LEAVE_GROUP),
        ApiKey::SyncGroup => (4, SYNC_GROUP),
        ApiKey::DescribeGroups => (5, DESCRIBE_GROUPS),
        ApiKey::ListGroups => (3, LIST_GROUPS),
        ApiKey::ApiVersions => (3, API_VERSIONS),
        ApiKey::CreateTopics => (5, CREATE_TOPICS),
        ApiKey::DeleteTopics => (4, DELETE_TOPICS),
        ApiKey::DeleteRecords => (2, DELETE_RECORDS),
        ApiKey::InitProducerId => (2, INIT_PRODUCER_ID),
        ApiKey::OffsetForLeaderEpoch => (4, OFFSET_FOR_LEADER_EPOCH),
        ApiKey::DescribeConfigs => (4, DESCRIBE_CONFIGS),
        ApiKey::AlterConfigs => (2, ALTER_CONFIGS),
        ApiKey::DescribeLogDirs => (2, DESCRIBE_LOG_DIRS),
        ApiKey::CreatePartitions => (2, CREATE_PARTITIONS),
        ApiKey::DeleteGroups => (2, DELETE_GROUPS),
        ApiKey::IncrementalAlterConfigs => (1, INCREMENTAL_ALTER_CONFIGS),
        ApiKey::OffsetDelete => (NEVER, OFFSET_DELETE),
        ApiKey::DescribeCluster => (0, DESCRIBE_CLUSTER),
        _ => return None,
    };
    let reserved_tags = if api == ApiKey::Fetch { 2 } else { 0 };
    Some(Layout {
        flexible_from,
        fields,
        reserved_tags,
    })
}

const PRODUCE: &[Field] = &[
    f(TEXT), // transactional id
    f(I16),  // acks
    f(I32),  // timeout
    f(of(&[
        until(12, TEXT),
        since(13, UUID),
        f(of(&[f(I32), f(BYTES)])),
    ])),
];
const FETCH: &[Field] = &[
    until(14, I32), // replica
    f(I32),         // max wait
    f(I32),         // min bytes
    f(I32),         // max bytes
    f(I8),          // isolation
    since(7, I32),  // session
    since(7, I32),  // session epoch
    f(of(&[
        until(12, TEXT),
        since(13, UUID),
        f(of(&[
            f(I32),
            since(9, I32),
            f(I64),
            since(12, I32),
            since(5, I64),
            f(I32),
        ])),
    ])),
    since(7, of(&[until(12, TEXT), since(13, UUID), f(INTS)])),
    since(11, TEXT), // rack
];
const LIST_OFFSETS: &[Field] = &[
    f(I32),
    since(2, I8),
    f(of(&[f(TEXT), f(of(&[f(I32), since(4, I32), f(I64)]))])),
    since(10, I32),
];
const METADATA: &[Field] = &[
    f(of(&[since(10, UUID), f(TEXT)])),
    since(4, BOOL),
    Field {
        from: 8,
        to: 10,
        kind: BOOL,
    },
    since(8, BOOL),
];
const OFFSET_COMMIT: &[Field] = &[
    f(TEXT),
    f(I32),
    f(TEXT),
    since(7, TEXT),
    until(4, I64),
    f(of(&[
        f(TEXT),
        f(of(&[f(I32), f(I64), since(6, I32), f(TEXT)])),
    ])),
];
const OFFSET_FETCH: &[Field] = &[
    until(7, TEXT),
    until(7, of(&[f(TEXT), f(INTS)])),
    since(
        8,
        of(&[
            f(TEXT),
            since(9, TEXT),
            since(9, I32),
            f(of(&[f(TEXT), f(INTS)])),
        ]),
    ),
    since(7, BOOL),
];
const FIND_COORDINATOR: &[Field] = &[until(3, TEXT), since(1, I8), since(4, TEXTS)];
const JOIN_GROUP: &[Field] = &[
    f(TEXT),
    f(I32),
    since(1, I32),
    f(TEXT),
    since(5, TEXT),
    f(TEXT),
    f(of(&[f(TEXT), f(BYTES)])),
    since(8, TEXT),
];
const HEARTBEAT: &[Field] = &[f(TEXT), f(I32), f(TEXT), since(3, TEXT)];
const LEAVE_GROUP: &[Field] = &[
    f(TEXT),
    until(2, TEXT),
    since(3, of(&[f(TEXT), f(TEXT), since(5, TEXT)])),
];
const SYNC_GROUP: &[Field] = &[
    f(TEXT),
    f(I32),
    f(TEXT),
    since(3, TEXT),
    since(5, TEXT),
    since(5, TEXT),
    f(of(&[f(TEXT), f(BYTES)])),
];
const DESCRIBE_GROUPS: &[Field] = &[f(TEXTS), since(3, BOOL)];
const LIST_GROUPS: &[Field] = &[since(4, TEXTS), since(5, TEXTS)];
const API_VERSIONS: &[Field] = &[since(3, TEXT), since(3, TEXT)];
const CREATE_TOPICS: &[Field] = &[
    f(of(&[
        f(TEXT),
        f(I32),
        f(I16),
        f(of(&[f(I32), f(INTS)])),
        f(of(&[f(TEXT), f(TEXT)])),
    ])),
    f(I32),
    f(BOOL),
];
const DELETE_TOPICS: &[Field] = &[since(6, of(&[f(TEXT), f(UUID)])), until(5, TEXTS), f(I32)];
const DELETE_RECORDS: &[Field] = &[f(of(&[f(TEXT), f(of(&[f(I32), f(I64)]))])), f(I32)];
const INIT_PRODUCER_ID: &[Field] = &[f(TEXT), f(I32), since(3, I64), since(3, I16)];
const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, I32),
    f(of(&[f(TEXT), f(of(&[f(I32), f(I32), f(I32)]))])),
];
const DESCRIBE_CONFIGS: &[Field] = &[f(of(&[f(I8), f(TEXT), f(TEXTS)])), f(BOOL), since(3, BOOL)];
const ALTER_CONFIGS: &[Field] = &[
    f(of(&[f(I8), f(TEXT), f(of(&[f(TEXT), f(TEXT)]))])),
    f(BOOL),
];
const DESCRIBE_LOG_DIRS: &[Field] = &[f(of(&[f(TEXT), f(INTS)]))];
const CREATE_PARTITIONS: &[Field] = &[
    f(of(&[f(TEXT), f(I32), f(of(&[f(INTS)]))])),
    f(I32),
    f(BOOL),
];
const DELETE_GROUPS: &[Field] = &[f(TEXTS)];
const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    f(of(&[f(I8), f(TEXT), f(of(&[f(TEXT), f(I8), f(TEXT)]))])),
    f(BOOL),
];
const OFFSET_DELETE: &[Field] = &[f(TEXT), f(of(&[f(TEXT), f(of(&[f(I32)]))]))];
const DESCRIBE_CLUSTER: &[Field] = &[f(BOOL), since(1, I8), since(2, BOOL)];

/// Why a body does not have the layout of its request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ShapeError {
    #[error("it ends early")]
    Truncated,
    #[error("a length is negative")]
    Negative,
    #[error("it has more than {0} array elements and tagged fields")]
    TooMany(usize),
    #[error("tagged field {0} is for replicas")]
    Reserved(u32),
    #[error("no layout is known")]
    Unknown,
}

/// Walks a body by its layout; gives the bytes after its last field, which Kafka ignores.
pub(crate) fn check(
    api: ApiKey,
    version: i16,
    body: &[u8],
    max_elements: usize,
) -> Result<usize, ShapeError> {
    let layout = layout(api).ok_or(ShapeError::Unknown)?;
    let mut walk = Walk {
        rest: body,
        version,
        flexible: version >= layout.flexible_from,
        reserved_tags: layout.reserved_tags,
        elements_left: max_elements,
        max_elements,
    };
    walk.fields(layout.fields)?;
    Ok(walk.rest.len())
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    reserved_tags: u32,
    elements_left: usize,
    max_elements: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        for field in fields {
            if (field.from..=field.to).contains(&self.version) {
                self.field(field.kind)?;
            }
        }
        if self.flexible {
            for _ in 0..self.varint()? {
                let tag = self.varint()?;
                if tag < self.reserved_tags {
                    return Err(ShapeError::Reserved(tag));
                }
                let length = self.varint()? as usize;
                self.skip(length)?;
                self.count()?;
            }
        }
        Ok(())
    }

    fn field(&mut self, kind: Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(bytes) => self.skip(bytes),
            Kind::Text => self.text(),
            Kind::Bytes => {
                let length = if self.flexible {
                    self.compact()?
                } else {
                    self.wide()?
                };
                self.skip(length.unwrap_or(0))
            }
            Kind::Plain(scalar) => {
                for _ in 0..self.array()? {
                    self.count()?;
                    match scalar {
                        Scalar::Int32 => self.skip(4)?,
                        Scalar::Text => self.text()?,
                    }
                }
                Ok(())
            }
            Kind::Structs(fields) => {
                for _ in 0..self.array()? {
                    self.count()?;
                    self.fields(fields)?;
                }
                Ok(())
            }
        }
    }

    fn text(&mut self) -> Result<(), ShapeError> {
        let length = if self.flexible {
            self.compact()?
        } else {
            let [high, low] = self.take::<2>()?;
            match i16::from_be_bytes([high, low]) {
                -1 => None,
                length => Some(usize::try_from(length).map_err(|_| ShapeError::Negative)?),
            }
        };
        self.skip(length.unwrap_or(0))
    }

    fn array(&mut self) -> Result<usize, ShapeError> {
        let length = if self.flexible {
            self.compact()?
        } else {
            self.wide()?
        };
        Ok(length.unwrap_or(0))
    }

    fn wide(&mut self) -> Result<Option<usize>, ShapeError> {
        match i32::from_be_bytes(self.take::<4>()?) {
            -1 => Ok(None),
            length => Ok(Some(
                usize::try_from(length).map_err(|_| ShapeError::Negative)?,
            )),
        }
    }

    fn compact(&mut self) -> Result<Option<usize>, ShapeError> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    /// As the codec reads it: at most five bytes, surplus bits dropped.
    fn varint(&mut self) -> Result<u32, ShapeError> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take::<1>()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn count(&mut self) -> Result<(), ShapeError> {
        self.elements_left = self
            .elements_left
            .checked_sub(1)
            .ok_or(ShapeError::TooMany(self.max_elements))?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(ShapeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.rest = self.rest.get(bytes..).ok_or(ShapeError::Truncated)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};
    use proptest::{prelude::*, test_runner::TestRng};

    use super::*;
    use crate::protocol::{APIS, Header, decode_any};

    /// Writes a random request by its layout.
    struct Maker {
        rng: TestRng,
        version: i16,
        flexible: bool,
        elements: usize,
        out: BytesMut,
    }

    impl Maker {
        fn below(&mut self, limit: u32) -> u32 {
            self.rng.next_u32() % limit
        }

        fn fields(&mut self, fields: &[Field]) {
            for field in fields {
                if (field.from..=field.to).contains(&self.version) {
                    self.field(field.kind);
                }
            }
            if self.flexible {
                let tags = self.below(2);
                self.varint(tags);
                for _ in 0..tags {
                    self.elements += 1;
                    self.varint(100);
                    self.varint(3);
                    self.out.put_slice(b"tag");
                }
            }
        }

        fn field(&mut self, kind: Kind) {
            match kind {
                Kind::Fixed(bytes) => {
                    for _ in 0..bytes {
                        self.out.put_u8(1);
                    }
                }
                Kind::Text => self.text(),
                Kind::Bytes => {
                    let length = self.below(200);
                    self.length(length, false);
                    self.out.put_bytes(7, length as usize);
                }
                Kind::Plain(scalar) => {
                    let length = self.below(4);
                    self.length(length, false);
                    for _ in 0..length {
                        self.elements += 1;
                        match scalar {
                            Scalar::Int32 => self.out.put_i32(9),
                            Scalar::Text => self.text(),
                        }
                    }
                }
                Kind::Structs(fields) => {
                    let length = self.below(3);
                    self.length(length, false);
                    for _ in 0..length {
                        self.elements += 1;
                        self.fields(fields);
                    }
                }
            }
        }

        fn text(&mut self) {
            let length = self.below(140);
            self.length(length, true);
            self.out.put_bytes(b'x', length as usize);
        }

        fn length(&mut self, length: u32, short: bool) {
            match (self.flexible, short) {
                (true, _) => self.varint(length + 1),
                (false, true) => self.out.put_i16(length as i16),
                (false, false) => self.out.put_i32(length as i32),
            }
        }

        fn varint(&mut self, mut value: u32) {
            while value >= 0x80 {
                self.out.put_u8(value as u8 | 0x80);
                value >>= 7;
            }
            self.out.put_u8(value as u8);
        }
    }

    fn make(api: ApiKey, version: i16, seed: u64) -> (Bytes, usize) {
        let layout = layout(api).unwrap();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut maker = Maker {
            rng: TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &bytes),
            version,
            flexible: version >= layout.flexible_from,
            elements: 0,
            out: BytesMut::new(),
        };
        maker.fields(layout.fields);
        (maker.out.freeze(), maker.elements)
    }

    fn every_version() -> impl Iterator<Item = Header> {
        APIS.iter().flat_map(|(api, low, high)| {
            let low = if *api == ApiKey::Produce { 3 } else { *low };
            (low..=*high).map(|version| Header {
                api: *api,
                version,
                correlation_id: 1,
                client_id: String::new(),
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The layouts are the codec's: what is made by them it reads, and one byte less it does not.
        #[test]
        fn the_codec_reads_what_the_layouts_describe(seed in any::<u64>()) {
            for header in every_version() {
                let (body, elements) = make(header.api, header.version, seed);
                let (api, version) = (header.api, header.version);
                prop_assert_eq!(check(api, version, &body, elements), Ok(0), "{:?} {}", api, version);
                let read = decode_any(&header, body.clone(), elements);
                prop_assert!(read.is_ok(), "{:?} {}: {:?}", api, version, read);
                if let Some(less) = body.len().checked_sub(1) {
                    let cut = body.slice(..less);
                    prop_assert_eq!(check(api, version, &cut, elements), Err(ShapeError::Truncated));
                }
                if let Some(fewer) = elements.checked_sub(1) {
                    prop_assert_eq!(check(api, version, &body, fewer), Err(ShapeError::TooMany(fewer)));
                }
            }
        }

        /// Bytes changed at random neither panic nor are read past what the layout covers.
        #[test]
        fn changed_requests_do_no_harm(seed in any::<u64>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            for header in every_version() {
                let (body, _) = make(header.api, header.version, seed);
                if body.is_empty() {
                    continue;
                }
                let mut changed = body.to_vec();
                let place = at.index(changed.len());
                changed[place] = byte;
                let _ = decode_any(&header, changed.into(), 10_000);
            }
        }
    }
}
