use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::ValueType;

/// What an object is: the facts of its definition (LwM2M TS 1.1 core, section 7 and appendix D).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectModel {
    pub id: u16,
    /// `major.minor`; `1.0` where the definition has none (TS 1.1 core, section 7.2.2).
    pub version: String,
    /// The lowest version of LwM2M that has this object; `1.0` where the definition has none.
    pub lwm2m_version: String,
    pub name: String,
    /// Whether a device may have several instances.
    pub multiple: bool,
    /// Whether a device must have it.
    pub mandatory: bool,
    pub resources: BTreeMap<u16, ResourceModel>,
    /// Prose, when the definition came from a DDF file: the built-in table has none.
    pub description: Option<String>,
}

/// What a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceModel {
    pub id: u16,
    pub name: String,
    pub operations: Operations,
    /// Whether the resource may have several resource instances.
    pub multiple: bool,
    pub mandatory: bool,
    /// `None` for resources without a value, as those that are only executed.
    pub value_type: Option<ValueType>,
    /// As in the definition, such as `0..100`; empty when it gives none.
    pub range: String,
    /// As in the definition, such as `s` or `/100`; empty when it gives none.
    pub units: String,
    /// Prose, when the definition came from a DDF file: the built-in table has none.
    pub description: Option<String>,
}

impl ObjectModel {
    /// The object's URN (TS 1.1 core, section 7.2.1), with the version when it is not 1.0:
    /// `urn:oma:lwm2m:oma:3:1.1`. The class follows from the id's range.
    pub fn urn(&self) -> String {
        let class = match self.id {
            0..=1023 => "oma",
            1024..=2047 => "x:reserved",
            2048..=10240 => "ext",
            _ => "x",
        };
        if self.version == "1.0" {
            format!("urn:oma:lwm2m:{class}:{}", self.id)
        } else {
            format!("urn:oma:lwm2m:{class}:{}:{}", self.id, self.version)
        }
    }
}

/// What a server may do with a resource; none of the three for resources only a bootstrap server touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operations {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl Operations {
    pub const NONE: Self = Self {
        read: false,
        write: false,
        execute: false,
    };
    pub const R: Self = Self {
        read: true,
        write: false,
        execute: false,
    };
    pub const W: Self = Self {
        read: false,
        write: true,
        execute: false,
    };
    pub const RW: Self = Self {
        read: true,
        write: true,
        execute: false,
    };
    pub const E: Self = Self {
        read: false,
        write: false,
        execute: true,
    };
}

impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "R"), (self.write, "W"), (self.execute, "E")];
        letters
            .iter()
            .filter(|(on, _)| *on)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl FromStr for Operations {
    type Err = UnknownOperation;

    /// Letters `R`, `W`, `E` in any order and case; empty for none.
    fn from_str(text: &str) -> Result<Self, UnknownOperation> {
        let mut operations = Self::NONE;
        for letter in text.trim().chars() {
            match letter.to_ascii_uppercase() {
                'R' => operations.read = true,
                'W' => operations.write = true,
                'E' => operations.execute = true,
                _ => return Err(UnknownOperation(letter)),
            }
        }
        Ok(operations)
    }
}

/// A letter that names no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no operation: write R, W, E or a combination of them")]
pub struct UnknownOperation(pub char);
