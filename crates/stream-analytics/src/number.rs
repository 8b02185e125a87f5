use std::cmp::Ordering;

use rusqlite::types::{Value, ValueRef};
use windows::{Aggregate, Count};

/// A reading's number, as exact as its record: an integer is never rounded to a float to be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Long(i64),
    /// Finite.
    Double(f64),
}

impl Number {
    fn exceeds(self, other: Self) -> bool {
        match (self, other) {
            (Self::Long(a), Self::Long(b)) => a > b,
            (Self::Double(a), Self::Double(b)) => a > b,
            (Self::Long(a), Self::Double(b)) => compare(a, b).is_gt(),
            (Self::Double(a), Self::Long(b)) => compare(b, a).is_lt(),
        }
    }
}

fn compare(long: i64, double: f64) -> Ordering {
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    if double >= TWO_TO_63 {
        return Ordering::Less;
    }
    if double < -TWO_TO_63 {
        return Ordering::Greater;
    }
    // In range, so the cast is exact; what it cuts off decides between equals.
    let whole = double.trunc() as i64;
    let rest = 0.0_f64.partial_cmp(&double.fract());
    long.cmp(&whole).then(rest.unwrap_or(Ordering::Equal))
}

/// The largest number of a window; of equal ones the first to arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Highest(pub(crate) Number);

impl Aggregate for Highest {
    type Input = Number;

    fn first(number: Number) -> Option<Self> {
        Some(Self(number))
    }

    fn add(&mut self, number: Number) -> bool {
        let larger = number.exceeds(self.0);
        if larger {
            self.0 = number;
        }
        larger
    }
}

/// An aggregate as it stands in the store.
pub(crate) trait Column: Sized {
    fn to_column(&self) -> Value;
    /// `None` for what [`Column::to_column`] never makes.
    fn from_column(column: ValueRef<'_>) -> Option<Self>;
}

impl Column for Highest {
    fn to_column(&self) -> Value {
        match self.0 {
            Number::Long(long) => Value::Integer(long),
            Number::Double(double) => Value::Real(double),
        }
    }

    fn from_column(column: ValueRef<'_>) -> Option<Self> {
        match column {
            ValueRef::Integer(long) => Some(Self(Number::Long(long))),
            ValueRef::Real(double) => Some(Self(Number::Double(double))),
            _ => None,
        }
    }
}

impl Column for Count {
    fn to_column(&self) -> Value {
        Value::Integer(i64::try_from(self.0).unwrap_or(i64::MAX))
    }

    fn from_column(column: ValueRef<'_>) -> Option<Self> {
        match column {
            ValueRef::Integer(count) => u64::try_from(count).ok().map(Self),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_exactly() {
        use Number::{Double, Long};
        // Ascending; each exceeds all before it, though as floats several of them would be equal.
        let ascending = [
            Double(-1e300),
            Long(i64::MIN),
            Long(i64::MIN + 1),
            Double(-2.5),
            Long(-2),
            Double(-0.5),
            Long(0),
            Double(f64::MIN_POSITIVE),
            Long(1),
            Double(1.5),
            Long(2),
            Long(9_007_199_254_740_992),
            Long(9_007_199_254_740_993),
            Double(9_007_199_254_740_994.0),
            Long(i64::MAX - 1),
            Long(i64::MAX),
            Double(9_223_372_036_854_775_808.0),
            Double(1e300),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.exceeds(*b), i > j, "{a:?} > {b:?}");
            }
        }
        assert!(!Double(2.0).exceeds(Long(2)) && !Long(2).exceeds(Double(2.0)));
        assert!(!Double(-3.0).exceeds(Long(-3)) && !Long(-3).exceeds(Double(-3.0)));
        assert!(!Double(0.0).exceeds(Double(-0.0)) && !Long(0).exceeds(Double(-0.0)));
        assert!(!Long(i64::MIN).exceeds(Double(-9_223_372_036_854_775_808.0)));
    }

    #[test]
    fn what_the_store_gives_back_is_what_it_was_given() {
        for number in [
            Number::Long(i64::MIN),
            Number::Long(9_007_199_254_740_993),
            Number::Double(2.0),
            Number::Double(-0.1),
        ] {
            let column = Highest(number).to_column();
            assert_eq!(
                Highest::from_column(ValueRef::from(&column)),
                Some(Highest(number))
            );
        }
        assert_eq!(Highest::from_column(ValueRef::Text(b"21.5")), None);
        assert_eq!(Count::from_column(ValueRef::Integer(-1)), None);
        let column = Count(7).to_column();
        assert_eq!(Count::from_column(ValueRef::from(&column)), Some(Count(7)));
    }
}
