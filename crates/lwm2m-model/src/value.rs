use std::fmt;

/// The data types of LwM2M (TS 1.1 core, appendix C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueType {
    String,
    Integer,
    Unsigned,
    Float,
    Boolean,
    Opaque,
    Time,
    ObjectLink,
    CoreLink,
}

impl ValueType {
    pub const ALL: [Self; 9] = [
        Self::String,
        Self::Integer,
        Self::Unsigned,
        Self::Float,
        Self::Boolean,
        Self::Opaque,
        Self::Time,
        Self::ObjectLink,
        Self::CoreLink,
    ];

    /// The type's name in OMA's object definitions, such as `Unsigned Integer` or `Objlnk`.
    pub fn oma_name(self) -> &'static str {
        match self {
            Self::String => "String",
            Self::Integer => "Integer",
            Self::Unsigned => "Unsigned Integer",
            Self::Float => "Float",
            Self::Boolean => "Boolean",
            Self::Opaque => "Opaque",
            Self::Time => "Time",
            Self::ObjectLink => "Objlnk",
            Self::CoreLink => "Corelnk",
        }
    }

    /// The type with this name in OMA's object definitions, in any case; `None` when there is none.
    pub fn from_oma_name(name: &str) -> Option<Self> {
        let name = name.trim();
        Self::ALL
            .into_iter()
            .find(|t| t.oma_name().eq_ignore_ascii_case(name))
    }

    /// Whether values of this type can be compared, so that `gt`, `lt` and `st` apply (TS 1.1 core, table 5.1.2-2).
    pub fn is_numeric(self) -> bool {
        matches!(
            self,
            Self::Integer | Self::Unsigned | Self::Float | Self::Time
        )
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.oma_name())
    }
}

/// One value of a resource or of a resource instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    String(String),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Boolean(bool),
    Opaque(Vec<u8>),
    /// Seconds since 1970-01-01 00:00 UTC, as on the LwM2M wire.
    Time(i64),
    /// Object id and instance id; 65535:65535 is the link to nothing.
    ObjectLink(u16, u16),
    /// Links in RFC 6690's format.
    CoreLink(String),
}

impl Value {
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::String(_) => ValueType::String,
            Self::Integer(_) => ValueType::Integer,
            Self::Unsigned(_) => ValueType::Unsigned,
            Self::Float(_) => ValueType::Float,
            Self::Boolean(_) => ValueType::Boolean,
            Self::Opaque(_) => ValueType::Opaque,
            Self::Time(_) => ValueType::Time,
            Self::ObjectLink(..) => ValueType::ObjectLink,
            Self::CoreLink(_) => ValueType::CoreLink,
        }
    }

    /// The value as a number, for thresholds and averages; `None` when its type is not numeric.
    /// Integers beyond 2^53 lose their last digits.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Integer(v) | Self::Time(v) => Some(v as f64),
            Self::Unsigned(v) => Some(v as f64),
            Self::Float(v) => Some(v),
            _ => None,
        }
    }
}
