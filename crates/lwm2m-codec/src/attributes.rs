//! The attributes of write-attributes (TS 1.1 core, section 5.1.2).

use std::time::Duration;

use lwm2m_model::{ObjectPath, ValueType};
use thiserror::Error;

use crate::text::is_decimal;

/// When a device notifies about an observed node (TS 1.1 core, section 5.1.2, the `<NOTIFICATION>` class).
/// An attribute that is not set is inherited from the level above ([`or`](Self::or)).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attributes {
    /// At least this long between two notifications; whole seconds on the wire, 4294967295 at most.
    pub pmin: Option<Duration>,
    /// At most this long between two notifications; whole seconds on the wire, 4294967295 at most.
    pub pmax: Option<Duration>,
    /// Notify when the value crosses this one.
    pub gt: Option<f64>,
    /// Notify when the value crosses this one.
    pub lt: Option<f64>,
    /// Notify when the value has changed by at least this much.
    pub st: Option<f64>,
    /// At least this long between two evaluations; whole seconds on the wire, 4294967295 at most.
    pub epmin: Option<Duration>,
    /// At most this long between two evaluations; whole seconds on the wire, 4294967295 at most.
    pub epmax: Option<Duration>,
}

/// Why attributes were not taken.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum AttributeError {
    #[error(
        "{name:?} is no notification attribute: there are pmin, pmax, gt, lt, st, epmin and epmax"
    )]
    Unknown { name: String },
    #[error("{name} stands twice: write it once")]
    Twice { name: &'static str },
    #[error("{name}={value} is not a whole number of seconds from 0 to 4294967295")]
    NotSeconds { name: &'static str, value: String },
    #[error("{name}={value} is not a decimal number")]
    NotANumber { name: &'static str, value: String },
    #[error("st={st} is not positive: a step is")]
    StepNotPositive { st: f64 },
    #[error("lt={lt} is not below gt={gt}")]
    LtNotBelowGt { lt: f64, gt: f64 },
    #[error("lt={lt}, gt={gt} and st={st} leave no room: lt + 2 * st must be below gt")]
    StepTooLarge { lt: f64, gt: f64, st: f64 },
    #[error("epmin={epmin_s} is not below epmax={epmax_s}")]
    EpminNotBelowEpmax { epmin_s: u64, epmax_s: u64 },
    #[error("gt, lt and st are for resources, and {path} is none")]
    NotAResource { path: ObjectPath },
    #[error("gt, lt and st are for numbers, and {path} has the type {value_type}")]
    NotNumeric {
        path: ObjectPath,
        value_type: ValueType,
    },
    #[error(
        "attributes are set on an object, an instance, a resource or a resource instance, not on the whole device"
    )]
    WholeDevice,
}

impl Attributes {
    /// Reads query parameters such as `pmin=1`, as [`apply`](Self::apply) does.
    pub fn parse<S: AsRef<str>>(
        queries: impl IntoIterator<Item = S>,
    ) -> Result<Self, AttributeError> {
        let mut attributes = Self::default();
        attributes.apply(queries)?;
        Ok(attributes)
    }

    /// Reads what the Kafka record and the REST query carry: parameters with `&` between, such as `pmin=1&pmax=10`.
    pub fn parse_query(query: &str) -> Result<Self, AttributeError> {
        Self::parse(
            query
                .trim_start_matches('?')
                .split('&')
                .filter(|part| !part.is_empty()),
        )
    }

    /// Changes the attributes that the query parameters name; one without a value (`pmin` or `pmin=`) unsets it.
    /// Checks the result ([`check`](Self::check)); on an error nothing changes.
    pub fn apply<S: AsRef<str>>(
        &mut self,
        queries: impl IntoIterator<Item = S>,
    ) -> Result<(), AttributeError> {
        let mut changed = *self;
        let mut seen = [false; 7];
        for query in queries {
            let query = query.as_ref();
            let (name, value) = query.split_once('=').unwrap_or((query, ""));
            let (index, name) = NAMES
                .into_iter()
                .enumerate()
                .find(|(_, known)| *known == name)
                .ok_or_else(|| AttributeError::Unknown { name: shown(name) })?;
            if std::mem::replace(&mut seen[index], true) {
                return Err(AttributeError::Twice { name });
            }
            match name {
                "pmin" => changed.pmin = seconds(name, value)?,
                "pmax" => changed.pmax = seconds(name, value)?,
                "gt" => changed.gt = number(name, value)?,
                "lt" => changed.lt = number(name, value)?,
                "st" => changed.st = number(name, value)?,
                "epmin" => changed.epmin = seconds(name, value)?,
                _ => changed.epmax = seconds(name, value)?,
            }
        }
        changed.check()?;
        *self = changed;
        Ok(())
    }

    /// The attributes that are set, as query parameters such as `pmin=1`. Parts of a second are cut off.
    pub fn to_queries(&self) -> Vec<String> {
        self.set()
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    /// The attributes that are set, by name, as a discover's links have them.
    pub fn set(&self) -> Vec<(&'static str, String)> {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs().to_string());
        let number = |v: Option<f64>| v.map(|v| v.to_string());
        let values = [
            seconds(self.pmin),
            seconds(self.pmax),
            number(self.gt),
            number(self.lt),
            number(self.st),
            seconds(self.epmin),
            seconds(self.epmax),
        ];
        NAMES
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These attributes, and those of the level above where they are not set: a resource's before its
    /// instance's, an instance's before its object's.
    #[must_use]
    pub fn or(&self, above: &Self) -> Self {
        Self {
            pmin: self.pmin.or(above.pmin),
            pmax: self.pmax.or(above.pmax),
            gt: self.gt.or(above.gt),
            lt: self.lt.or(above.lt),
            st: self.st.or(above.st),
            epmin: self.epmin.or(above.epmin),
            epmax: self.epmax.or(above.epmax),
        }
    }

    /// Checks that the attributes make sense together: `lt` below `gt`, `lt + 2 * st` below `gt`, `st` positive,
    /// `epmin` below `epmax`. A `pmax` below `pmin` is no error: it is ignored ([`effective_pmax`](Self::effective_pmax)).
    pub fn check(&self) -> Result<(), AttributeError> {
        if let Some(st) = self.st.filter(|st| *st <= 0.0) {
            return Err(AttributeError::StepNotPositive { st });
        }
        if let (Some(lt), Some(gt)) = (self.lt, self.gt) {
            if lt >= gt {
                return Err(AttributeError::LtNotBelowGt { lt, gt });
            }
            if let Some(st) = self.st.filter(|st| lt + 2.0 * st >= gt) {
                return Err(AttributeError::StepTooLarge { lt, gt, st });
            }
        }
        if let (Some(epmin), Some(epmax)) = (self.epmin, self.epmax)
            && epmin >= epmax
        {
            let (epmin_s, epmax_s) = (epmin.as_secs(), epmax.as_secs());
            return Err(AttributeError::EpminNotBelowEpmax { epmin_s, epmax_s });
        }
        Ok(())
    }

    /// Checks besides that they may stand at this path, whose resource has this type (`None`: not known): `gt`, `lt`
    /// and `st` are for numeric resources.
    pub fn check_for(
        &self,
        path: &ObjectPath,
        value_type: Option<ValueType>,
    ) -> Result<(), AttributeError> {
        self.check()?;
        if *path == ObjectPath::Root {
            return Err(AttributeError::WholeDevice);
        }
        if self.gt.is_none() && self.lt.is_none() && self.st.is_none() {
            return Ok(());
        }
        match value_type {
            _ if path.resource_id().is_none() => Err(AttributeError::NotAResource { path: *path }),
            Some(value_type) if !value_type.is_numeric() => Err(AttributeError::NotNumeric {
                path: *path,
                value_type,
            }),
            _ => Ok(()),
        }
    }

    /// `pmax` as it counts: zero, or less than `pmin`, is ignored (TS 1.1 core, table 5.1.2-2).
    pub fn effective_pmax(&self) -> Option<Duration> {
        self.pmax
            .filter(|pmax| !pmax.is_zero() && self.pmin.is_none_or(|pmin| *pmax >= pmin))
    }
}

const NAMES: [&str; 7] = ["pmin", "pmax", "gt", "lt", "st", "epmin", "epmax"];

fn seconds(name: &'static str, value: &str) -> Result<Option<Duration>, AttributeError> {
    if value.is_empty() {
        return Ok(None);
    }
    let seconds = value
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| value.parse::<u32>().ok())
        .flatten();
    match seconds {
        Some(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
        None => Err(AttributeError::NotSeconds {
            name,
            value: shown(value),
        }),
    }
}

fn number(name: &'static str, value: &str) -> Result<Option<f64>, AttributeError> {
    if value.is_empty() {
        return Ok(None);
    }
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() && is_decimal(value) => Ok(Some(number)),
        _ => Err(AttributeError::NotANumber {
            name,
            value: shown(value),
        }),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}
