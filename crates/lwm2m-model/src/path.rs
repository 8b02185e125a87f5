use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The highest id of an object, an instance, a resource or a resource instance: 65535 is reserved
/// (LwM2M TS 1.1 core, section 7.1 and table 7.1-1).
pub const MAX_ID: u16 = 65534;

/// A place in a device's tree: `/`, `/3`, `/3/0`, `/3/0/9` or `/3/0/7/1`.
///
/// The order is the tree's: a node sorts before what it contains, siblings sort by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectPath {
    /// `/`: the whole device.
    Root,
    /// `/object`
    Object(u16),
    /// `/object/instance`
    Instance(u16, u16),
    /// `/object/instance/resource`
    Resource(u16, u16, u16),
    /// `/object/instance/resource/resource instance`
    ResourceInstance(u16, u16, u16, u16),
}

impl ObjectPath {
    /// The path with these ids, from the object's id on; `None` with more than four ids.
    ///
    /// Ids are taken as they are: [`MAX_ID`] is checked where text is parsed.
    pub fn from_ids(ids: &[u16]) -> Option<Self> {
        Some(match *ids {
            [] => Self::Root,
            [o] => Self::Object(o),
            [o, i] => Self::Instance(o, i),
            [o, i, r] => Self::Resource(o, i, r),
            [o, i, r, ri] => Self::ResourceInstance(o, i, r, ri),
            _ => return None,
        })
    }

    /// How many ids the path has: 0 (the root) to 4 (a resource instance).
    pub fn depth(&self) -> usize {
        match self {
            Self::Root => 0,
            Self::Object(..) => 1,
            Self::Instance(..) => 2,
            Self::Resource(..) => 3,
            Self::ResourceInstance(..) => 4,
        }
    }

    /// The ids in order, `None` beyond the path's depth.
    pub fn ids(&self) -> [Option<u16>; 4] {
        match *self {
            Self::Root => [None; 4],
            Self::Object(o) => [Some(o), None, None, None],
            Self::Instance(o, i) => [Some(o), Some(i), None, None],
            Self::Resource(o, i, r) => [Some(o), Some(i), Some(r), None],
            Self::ResourceInstance(o, i, r, ri) => [Some(o), Some(i), Some(r), Some(ri)],
        }
    }

    pub fn object_id(&self) -> Option<u16> {
        self.ids()[0]
    }

    pub fn instance_id(&self) -> Option<u16> {
        self.ids()[1]
    }

    pub fn resource_id(&self) -> Option<u16> {
        self.ids()[2]
    }

    pub fn resource_instance_id(&self) -> Option<u16> {
        self.ids()[3]
    }

    /// The path of a child; `None` below a resource instance, which has none.
    pub fn child(&self, id: u16) -> Option<Self> {
        Some(match *self {
            Self::Root => Self::Object(id),
            Self::Object(o) => Self::Instance(o, id),
            Self::Instance(o, i) => Self::Resource(o, i, id),
            Self::Resource(o, i, r) => Self::ResourceInstance(o, i, r, id),
            Self::ResourceInstance(..) => return None,
        })
    }

    /// The path one level up; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        Some(match *self {
            Self::Root => return None,
            Self::Object(_) => Self::Root,
            Self::Instance(o, _) => Self::Object(o),
            Self::Resource(o, i, _) => Self::Instance(o, i),
            Self::ResourceInstance(o, i, r, _) => Self::Resource(o, i, r),
        })
    }

    /// Whether `other` is this path or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.ids(), other.ids());
        self.depth() <= other.depth() && ours[..self.depth()] == theirs[..self.depth()]
    }
}

impl Ord for ObjectPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ids().cmp(&other.ids())
    }
}

impl PartialOrd for ObjectPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::Root {
            return f.write_str("/");
        }
        // From the last digit to the first, and then in one piece: it stands in the record of every notification.
        let mut text = [0; 4 * "/65535".len()];
        let mut start = text.len();
        let mut put = |byte| {
            start -= 1;
            text[start] = byte;
        };
        for id in self.ids().into_iter().rev().flatten() {
            let mut rest = id;
            loop {
                put(b'0' + (rest % 10) as u8);
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
            put(b'/');
        }
        f.write_str(std::str::from_utf8(&text[start..]).map_err(|_| fmt::Error)?)
    }
}

/// Why a text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("the path is empty: write / for the whole device, or ids as in /3/0/9")]
    Empty,
    #[error(
        "the path has more than four ids: write /object/instance/resource/resource-instance at most"
    )]
    TooDeep,
    #[error("part {position} of the path is not an id: ids are whole numbers from 0 to {MAX_ID}")]
    NotAnId {
        /// Counted from 1.
        position: usize,
    },
    #[error("part {position} of the path is {id}: ids go from 0 to {MAX_ID}, 65535 is reserved")]
    IdOutOfRange {
        /// Counted from 1.
        position: usize,
        id: u32,
    },
}

impl FromStr for ObjectPath {
    type Err = PathError;

    /// Takes a path with or without its leading slash, and one trailing slash.
    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text == "/" {
            return Ok(Self::Root);
        }
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut path = Self::Root;
        for (index, part) in text.split('/').enumerate() {
            let position = index + 1;
            path = path.child(id(part, position)?).ok_or(PathError::TooDeep)?;
        }
        Ok(path)
    }
}

fn id(part: &str, position: usize) -> Result<u16, PathError> {
    // `u32::from_str` would take a plus sign.
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PathError::NotAnId { position });
    }
    let id: u32 = part.parse().map_err(|_| PathError::NotAnId { position })?;
    match u16::try_from(id) {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(PathError::IdOutOfRange { position, id }),
    }
}
