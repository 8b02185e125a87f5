use std::fmt;
use std::str::FromStr;

use rand::Rng as _;

/// The header that carries a [`TraceParent`] (W3C Trace Context, level 1, section 3.2).
pub const TRACE_HEADER: &str = "traceparent";

/// Which trace something belongs to, and which step of it caused it.
///
/// ```text
/// 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
/// version  trace id                   parent id      flags
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a traceparent is written 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, neither id all zeros"
)]
pub struct TraceParentError;

impl TraceParent {
    /// The beginning of a trace, sampled.
    pub fn start() -> Self {
        let mut random = rand::rng();
        Self {
            // All zeros is no id.
            trace: random.next_u64() as u128 | (u128::from(random.next_u64()) << 64) | 1,
            parent: random.next_u64() | 1,
            flags: 1,
        }
    }

    /// The next step of the same trace.
    #[must_use]
    pub fn step(self) -> Self {
        Self {
            parent: rand::rng().next_u64() | 1,
            ..self
        }
    }

    /// What a record carries, and the next step of it; without one, or with one that can't be read, a new trace.
    pub fn of(record: &crate::Record) -> Self {
        record
            .header(TRACE_HEADER)
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| text.parse::<Self>().ok())
            .map_or_else(Self::start, Self::step)
    }

    /// The trace's id, 32 hex digits, the same at every step.
    pub fn trace_id(self) -> impl fmt::Display {
        struct Id(u128);
        impl fmt::Display for Id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        Id(self.trace)
    }

    /// The header for a record.
    pub fn header(self) -> (String, Option<Vec<u8>>) {
        (TRACE_HEADER.to_owned(), Some(self.to_string().into_bytes()))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.parent, self.flags
        )
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let mut parts = text.split('-');
        let version: u8 = hex(parts.next(), 2)?;
        let found = Self {
            trace: hex(parts.next(), 32)?,
            parent: hex(parts.next(), 16)?,
            flags: hex(parts.next(), 2)?,
        };
        // A later version may have more behind it (section 3.2.2, "versioning of traceparent"), this one may not.
        let whole = version != 0 || parts.next().is_none();
        if version == u8::MAX || found.trace == 0 || found.parent == 0 || !whole {
            return Err(TraceParentError);
        }
        Ok(found)
    }
}

/// Lower-case hex digits, exactly so many.
fn hex<T: TryFrom<u128>>(text: Option<&str>, digits: usize) -> Result<T, TraceParentError> {
    let text = text
        .filter(|text| text.len() == digits)
        .ok_or(TraceParentError)?;
    if !text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(TraceParentError);
    }
    let value = u128::from_str_radix(text, 16).map_err(|_| TraceParentError)?;
    T::try_from(value).map_err(|_| TraceParentError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_example_reads_back_and_its_next_step_is_of_the_same_trace() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceParent = text.parse().unwrap();
        assert_eq!(trace.to_string(), text);
        let next = trace.step();
        assert_ne!(next, trace);
        assert_eq!(next.trace_id().to_string(), trace.trace_id().to_string());
        assert_eq!(next.to_string().parse(), Ok(next));
        assert_ne!(TraceParent::start(), TraceParent::start());
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(TraceParentError), "{bad}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(later.parse::<TraceParent>().is_ok());
    }
}
