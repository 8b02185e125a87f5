use serde::{Deserialize, Serialize};

/// What a window makes of its records.
pub trait Aggregate: Sized {
    /// What a record contributes.
    type Input;

    /// The aggregate of a window's first record; `None` if the record contributes nothing.
    fn first(input: Self::Input) -> Option<Self>;

    /// Takes in another record and says whether that changed the aggregate.
    fn add(&mut self, input: Self::Input) -> bool;
}

/// How many records came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count(pub u64);

impl Aggregate for Count {
    type Input = ();

    fn first((): ()) -> Option<Self> {
        Some(Self(1))
    }

    fn add(&mut self, (): ()) -> bool {
        self.0 = self.0.saturating_add(1);
        true
    }
}

/// The largest value and the record that brought it: of equal values the first to arrive. NaN is no value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Max<R> {
    /// Kept as its bits where it is serialised: JSON has no infinities.
    #[serde(with = "bits")]
    pub value: f64,
    pub record: R,
}

impl<R> Aggregate for Max<R> {
    type Input = (f64, R);

    fn first((value, record): (f64, R)) -> Option<Self> {
        (!value.is_nan()).then_some(Self { value, record })
    }

    fn add(&mut self, (value, record): (f64, R)) -> bool {
        let larger = value > self.value;
        if larger {
            *self = Self { value, record };
        }
        larger
    }
}

mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_bits().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}
