use records::{ReadContent, ResourceValue, ResponseBody, ResponseObserve};

use crate::number::Number;

/// The longest endpoint name or path that is taken, in bytes: names are keys of the state, whose rows must not grow
/// without bound.
const MAX_NAME_BYTES: usize = 1_024;

/// A single resource's number at a time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) ep: String,
    /// With the leading slash, as the record has it.
    pub(crate) path: String,
    /// Unix milliseconds, not negative.
    pub(crate) timestamp_ms: i64,
    pub(crate) number: Number,
}

/// Why a record does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Skip {
    /// A tombstone.
    NoValue,
    /// An object, an instance, a multiple resource, or no value at all.
    NotSingle,
    /// Text or a boolean.
    NotANumber,
    /// NaN or an infinity.
    NotFinite,
    /// A time before 1970.
    BadTime,
    /// A time too far ahead of the clocks here and at the record's producer.
    Ahead,
    /// An endpoint or path that is empty or longer than 1,024 bytes.
    BadName,
    /// Its result is larger than the brokers take.
    TooLarge,
}

impl Skip {
    pub(crate) const ALL: [Self; 8] = [
        Self::NoValue,
        Self::NotSingle,
        Self::NotANumber,
        Self::NotFinite,
        Self::BadTime,
        Self::Ahead,
        Self::BadName,
        Self::TooLarge,
    ];

    /// The metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoValue => "no_value",
            Self::NotSingle => "not_single",
            Self::NotANumber => "not_a_number",
            Self::NotFinite => "not_finite",
            Self::BadTime => "bad_time",
            Self::Ahead => "ahead",
            Self::BadName => "bad_name",
            Self::TooLarge => "too_large",
        }
    }
}

impl Reading {
    /// The reading a notification carries. `latest_ms` is the latest time that is believed: one bogus time far in the
    /// future would otherwise close every window up to it.
    pub(crate) fn parse(observe: &ResponseObserve, latest_ms: i64) -> Result<Self, Skip> {
        let Some(ResponseBody::Read(ReadContent::Resource(resource))) = &observe.rep.body else {
            return Err(Skip::NotSingle);
        };
        let number = match resource.value {
            ResourceValue::Long(long) => Number::Long(long),
            ResourceValue::Double(double) if double.is_finite() => Number::Double(double),
            ResourceValue::Double(_) => return Err(Skip::NotFinite),
            ResourceValue::String(_) | ResourceValue::Boolean(_) => return Err(Skip::NotANumber),
        };
        if [&observe.ep, &observe.path]
            .iter()
            .any(|name| name.is_empty() || name.len() > MAX_NAME_BYTES)
        {
            return Err(Skip::BadName);
        }
        match observe.timestamp {
            ..0 => Err(Skip::BadTime),
            ahead if ahead > latest_ms => Err(Skip::Ahead),
            timestamp_ms => Ok(Self {
                ep: observe.ep.clone(),
                path: observe.path.clone(),
                timestamp_ms,
                number,
            }),
        }
    }
}
