use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lwm2m_model::{ObjectPath, PathError};
use thiserror::Error;

/// What a request or an observation is about: one place in a device's tree, or the list of a composite operation
/// (TS 1.1 core, sections 6.3.8, 6.3.9 and 6.4.4).
///
/// Written as `/3/0/9`, and a list as `[/3/0/9,/3303/0/5700]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One place.
    Path(ObjectPath),
    /// A list, in the tree's order and without repetitions, so that equal lists are equal however they were written.
    Paths(Arc<[ObjectPath]>),
}

impl Target {
    /// The target of a composite operation.
    pub fn list(paths: impl IntoIterator<Item = ObjectPath>) -> Self {
        let mut paths: Vec<ObjectPath> = paths.into_iter().collect();
        paths.sort_unstable();
        paths.dedup();
        Self::Paths(paths.into())
    }

    /// The one path; `None` of a list, even one of a single path.
    pub fn path(&self) -> Option<&ObjectPath> {
        match self {
            Self::Path(path) => Some(path),
            Self::Paths(_) => None,
        }
    }

    /// The paths, one or several.
    pub fn paths(&self) -> &[ObjectPath] {
        match self {
            Self::Path(path) => std::slice::from_ref(path),
            Self::Paths(paths) => paths,
        }
    }

    /// Whether it is the target of a composite operation.
    pub fn is_composite(&self) -> bool {
        matches!(self, Self::Paths(_))
    }
}

impl From<ObjectPath> for Target {
    fn from(path: ObjectPath) -> Self {
        Self::Path(path)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Paths(paths) => {
                f.write_str("[")?;
                for (position, path) in paths.iter().enumerate() {
                    let comma = if position == 0 { "" } else { "," };
                    write!(f, "{comma}{path}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A text that is neither a path nor a list of paths.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write a path such as /3/0/9, or a list such as [/3/0/9,/3303/0/5700]: {0}")]
pub struct InvalidTarget(#[from] PathError);

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let Some(list) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) else {
            return Ok(Self::Path(text.parse()?));
        };
        let paths: Result<Vec<ObjectPath>, PathError> = list.split(',').map(str::parse).collect();
        Ok(Self::list(paths?))
    }
}
