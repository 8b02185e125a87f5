use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use coap::Peer;
use lwm2m_codec::{ContentFormat, Link};
use lwm2m_model::ObjectPath;
use serde::{Deserialize, Serialize};

/// The lifetime of a registration that names none (LwM2M TS 1.1 core, section 6.2.1): one day.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);

/// The versions of LwM2M understood here.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Version {
    /// 1.0, also what a device that names no version speaks.
    #[default]
    #[serde(rename = "1.0")]
    V1_0,
    #[serde(rename = "1.1")]
    V1_1,
}

impl Version {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
        }
    }

    /// `None` for versions not understood here.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V1_0, Self::V1_1]
            .into_iter()
            .find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a device can be reached: `U`, `UQ`, `SQ` … in LwM2M 1.0 (TS 1.0, table 8), any of `U M H T S N` in 1.1, which
/// says queue mode with a parameter of its own (TS 1.1 core, table 6.2.1-1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binding {
    /// As the device wrote it.
    pub raw: String,
    /// Whether the device sleeps and is reached only just after it was heard of.
    pub queue: bool,
}

/// A binding with unknown letters, a letter twice, or none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the binding {0:?} is not one: write letters of U, M, H, T, S, N, Q, each once, such as U or UQ"
)]
pub struct InvalidBinding(String);

impl Binding {
    /// Parses the parameter `b`; `queue_parameter` says whether the parameter `Q` stands beside it.
    ///
    /// # Errors
    /// When it is empty or has letters that are no transport, or one twice.
    pub fn parse(text: &str, queue_parameter: bool) -> Result<Self, InvalidBinding> {
        let letters: BTreeSet<char> = text.chars().collect();
        let known = letters.iter().all(|letter| "UMHTSNQ".contains(*letter));
        let transport = letters.iter().any(|letter| *letter != 'Q');
        if !known || !transport || letters.len() != text.len() {
            // What a device sent is quoted, so keep it short.
            return Err(InvalidBinding(text.chars().take(16).collect()));
        }
        Ok(Self {
            raw: text.to_owned(),
            queue: queue_parameter || letters.contains(&'Q'),
        })
    }
}

impl Binding {
    /// The parameters of a registration: `b=UQ` in LwM2M 1.0, `b=U` and `Q` in 1.1.
    pub(crate) fn to_queries(&self, version: Version) -> Vec<String> {
        let letters: String = self.raw.chars().filter(|letter| *letter != 'Q').collect();
        match (version, self.queue) {
            (_, false) => vec![format!("b={letters}")],
            (Version::V1_0, true) => vec![format!("b={letters}Q")],
            (Version::V1_1, true) => vec![format!("b={letters}"), "Q".to_owned()],
        }
    }
}

impl Default for Binding {
    fn default() -> Self {
        Self {
            raw: "U".to_owned(),
            queue: false,
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.raw)
    }
}

impl FromStr for Binding {
    type Err = InvalidBinding;

    fn from_str(text: &str) -> Result<Self, InvalidBinding> {
        Self::parse(text, false)
    }
}

/// A device's registration (TS 1.1 core, section 6.2.1). Plain data that a store can keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The endpoint client name, unique among the server's devices.
    pub endpoint: String,
    /// The last part of the registration's location, `/rd/<id>`; unpredictable.
    pub registration_id: String,
    /// Where the device was last heard from.
    #[serde(with = "crate::serde_forms::peer")]
    pub peer: Peer,
    /// When it registered, Unix milliseconds.
    pub registered_at_unix_ms: i64,
    /// When it registered or last updated, Unix milliseconds; its lifetime counts from here.
    pub last_update_unix_ms: i64,
    /// How long it stands without an update: 1 s to 2^32 − 1 s, or 0 where it has no end (LwM2M 1.1 only).
    pub lifetime: Duration,
    pub version: Version,
    pub binding: Binding,
    /// The number to reach it by SMS.
    pub sms: Option<String>,
    /// The device's objects and instances as it listed them; devices with the same list share it.
    #[serde(with = "crate::serde_forms::links")]
    pub links: Arc<[Link]>,
    /// Where the object tree stands on the device: `/`, or what the link with `rt="oma.lwm2m"` says, such as `/lwm2m`.
    pub root_path: String,
    /// Parameters of the registration that LwM2M does not define.
    pub attributes: BTreeMap<String, String>,
}

impl Registration {
    /// The objects and instances the device listed, below its root path. Links that are neither are left out.
    pub fn object_paths(&self) -> impl Iterator<Item = (ObjectPath, &Link)> {
        self.links.iter().filter_map(|link| {
            let path = below_root(&self.root_path, &link.url)?;
            matches!(path, ObjectPath::Object(_) | ObjectPath::Instance(..)).then_some((path, link))
        })
    }

    /// The instances the device listed, by object; an object without instances has an empty set.
    pub fn available_instances(&self) -> BTreeMap<u16, BTreeSet<u16>> {
        let mut objects = BTreeMap::<u16, BTreeSet<u16>>::new();
        for (path, _) in self.object_paths() {
            if let Some(object) = path.object_id() {
                objects
                    .entry(object)
                    .or_default()
                    .extend(path.instance_id());
            }
        }
        objects
    }

    /// The version of an object that the device says it has (`ver`, TS 1.1 core, section 7.2.2).
    pub fn object_version(&self, object: u16) -> Option<&str> {
        self.object_paths()
            .filter(|(path, _)| *path == ObjectPath::Object(object))
            .find_map(|(_, link)| {
                let (_, version) = link.attributes.iter().find(|(name, _)| name == "ver")?;
                version.as_deref()
            })
    }

    /// The content formats that the device says it has (`ct` at its root, TS 1.1 core, section 6.2.1), by CoAP's numbers.
    pub fn content_formats(&self) -> impl Iterator<Item = u16> {
        let is_root = |link: &&Link| {
            link.url == self.root_path || (link.url.is_empty() && self.root_path == "/")
        };
        let formats = self
            .links
            .iter()
            .filter(is_root)
            .filter_map(|link| link.attribute("ct"));
        formats
            .flat_map(|ct| ct.split(' '))
            .filter_map(|number| number.parse().ok())
    }

    /// What to speak with the device, when it listed what it understands and does not list the usual (TLV, and SenML
    /// CBOR for composite operations).
    pub(crate) fn preferred_format(&self, composite: bool) -> Option<ContentFormat> {
        // A device of LwM2M 1.0 has TLV, and lists what it has besides.
        if self.version == Version::V1_0 {
            return None;
        }
        const NODES: [ContentFormat; 5] = [
            ContentFormat::Tlv,
            ContentFormat::OldTlv,
            ContentFormat::SenmlCbor,
            ContentFormat::SenmlJson,
            ContentFormat::Json,
        ];
        let formats: BTreeSet<u16> = self.content_formats().collect();
        NODES
            .into_iter()
            .filter(|format| !composite || format.is_composite())
            .find(|format| formats.contains(&format.id()))
    }

    /// The path of a request to the device: the root path's segments, then the ids.
    pub(crate) fn uri_path(&self, path: &ObjectPath) -> Vec<String> {
        let root = self
            .root_path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(str::to_owned);
        root.chain(path.ids().into_iter().flatten().map(|id| id.to_string()))
            .collect()
    }
}

/// The path of a link's url without the root before it; `None` for links that are no path of the tree.
fn below_root(root: &str, url: &str) -> Option<ObjectPath> {
    let root = root.trim_end_matches('/');
    let rest = url.strip_prefix(root)?;
    if !rest.starts_with('/') {
        return None;
    }
    rest.parse().ok()
}

/// What the device's list of links says about where its tree stands (TS 1.1 core, section 6.2.1, "alternate path").
pub(crate) fn root_path(links: &[Link]) -> String {
    links
        .iter()
        .find(|link| {
            link.attributes.iter().any(|(name, value)| {
                name == "rt"
                    && value
                        .as_deref()
                        .is_some_and(|rt| rt.split(' ').any(|rt| rt == "oma.lwm2m"))
            })
        })
        .map_or_else(
            || "/".to_owned(),
            |link| {
                if link.url.is_empty() {
                    "/".to_owned()
                } else {
                    link.url.clone()
                }
            },
        )
}

/// What an update said: only what it carried is set (TS 1.1 core, section 6.2.2).
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrationUpdate {
    pub registration_id: String,
    pub endpoint: String,
    /// Where it came from.
    pub peer: Peer,
    /// When, Unix milliseconds.
    pub at_unix_ms: i64,
    pub lifetime: Option<Duration>,
    pub sms: Option<String>,
    pub binding: Option<Binding>,
    pub links: Option<Arc<[Link]>>,
    /// Parameters that LwM2M does not define, when there were any.
    pub attributes: BTreeMap<String, String>,
}
