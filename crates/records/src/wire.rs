//! Avro's binary encoding (Avro specification, "Binary Encoding"): the few primitives everything else is made of.
//!
//! ```text
//! int, long   zigzag, then 7 bits a byte, least significant first     -1 → 01   64 → 80 01
//! string      length as long, UTF-8                                   "ab" → 04 61 62
//! array, map  blocks: count as long, items; count 0 ends              a negative count is followed by the block's size in bytes
//! union       branch as long, value                                   enum: position as int
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;

use thiserror::Error;

/// How deep a datum may nest: a recursive schema could otherwise be driven into the stack's end.
pub const MAX_DEPTH: usize = 64;

/// Why bytes are not the datum they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error(
        "the datum ends too early, at byte {at}: it is cut off or was written with another schema"
    )]
    Truncated { at: usize },
    #[error("{left} bytes are left behind the datum: it was written with another schema")]
    TrailingBytes { left: usize },
    #[error("no integer of {bits} bits at byte {at}: the datum was written with another schema")]
    BadInteger { at: usize, bits: u32 },
    #[error("the text at byte {at} is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("{found} at byte {at} is no boolean: 0 or 1 was expected")]
    BadBoolean { at: usize, found: u8 },
    #[error("union branch {found} at byte {at} does not exist: the union has {branches} branches")]
    UnknownBranch {
        at: usize,
        found: i64,
        branches: usize,
    },
    #[error("symbol {found} at byte {at} does not exist: the enum has {symbols} symbols")]
    UnknownSymbol {
        at: usize,
        found: i64,
        symbols: usize,
    },
    #[error("a length of {found} at byte {at} is more than what is left of the datum")]
    BadLength { at: usize, found: i64 },
    #[error("the datum has more items than its size allows")]
    TooManyItems,
    #[error("the datum nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the record says it is {kind} and carries the body of another kind")]
    KindMismatch { kind: &'static str },
    #[error("the writer's schema does not fit here: {0}")]
    Unresolvable(String),
}

/// Reads a datum from front to back.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values that may still be read; see [`Cursor::spend`].
    budget: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            budget: bytes.len().saturating_mul(4).saturating_add(65_536),
        }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Counts a value. A null or an empty record takes no byte, so that an array of 2^60 of them fits in ten
    /// bytes: what keeps such a datum from running for ever is this count, 65,536 + 4 for each byte.
    pub(crate) fn spend(&mut self) -> Result<(), DecodeError> {
        self.budget = self
            .budget
            .checked_sub(1)
            .ok_or(DecodeError::TooManyItems)?;
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { left }),
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.left() {
            return Err(DecodeError::Truncated {
                at: self.bytes.len(),
            });
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self
            .bytes
            .get(self.at)
            .ok_or(DecodeError::Truncated { at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        let at = self.at;
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::BadBoolean { at, found }),
        }
    }

    pub(crate) fn long(&mut self) -> Result<i64, DecodeError> {
        let at = self.at;
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(unzigzag(u64::from(first)));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte holds the 64th bit alone.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(unzigzag(value));
            }
        }
        Err(DecodeError::BadInteger { at, bits: 64 })
    }

    pub(crate) fn int(&mut self) -> Result<i32, DecodeError> {
        let at = self.at;
        i32::try_from(self.long()?).map_err(|_| DecodeError::BadInteger { at, bits: 32 })
    }

    pub(crate) fn double(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    pub(crate) fn float(&mut self) -> Result<f32, DecodeError> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    /// A length-prefixed run of bytes: `bytes`, or a string's UTF-8.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let found = self.long()?;
        let len = usize::try_from(found).map_err(|_| DecodeError::BadLength { at, found })?;
        if len > self.left() {
            return Err(DecodeError::BadLength { at, found });
        }
        self.take(len)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::NotUtf8 { at })
    }

    pub(crate) fn branch(&mut self, branches: usize) -> Result<usize, DecodeError> {
        let at = self.at;
        let found = self.long()?;
        usize::try_from(found)
            .ok()
            .filter(|b| *b < branches)
            .ok_or(DecodeError::UnknownBranch {
                at,
                found,
                branches,
            })
    }

    pub(crate) fn symbol(&mut self, symbols: usize) -> Result<usize, DecodeError> {
        let at = self.at;
        let found = i64::from(self.int()?);
        usize::try_from(found)
            .ok()
            .filter(|s| *s < symbols)
            .ok_or(DecodeError::UnknownSymbol { at, found, symbols })
    }

    /// The number of items in the next block of an array or map; 0 at its end. A negative count is followed by the
    /// block's size, which a reader that reads every item has no use for.
    pub(crate) fn block(&mut self) -> Result<u64, DecodeError> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A text that is shown, without making it first.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &(impl Display + ?Sized)) {
    let start = out.len();
    // Room for the length of a text shorter than 64 bytes.
    out.push(0);
    write!(out, "{text}").expect("a vector takes all that is written to it");
    let len = out.len() - start - 1;
    if len < 64 {
        out[start] = (len as u8) << 1;
    } else {
        let long = out.split_off(start + 1);
        out.truncate(start);
        put_bytes(out, &long);
    }
}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_long(
        out,
        i64::try_from(len).expect("no slice is longer than isize::MAX"),
    );
}

/// A Rust type with one Avro encoding.
pub(crate) trait Datum: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError>;

    /// How many branches the union `[null, …]` around this type has: 2, but where the type is itself a union, whose
    /// branches then follow the null.
    const BRANCHES_WITH_NULL: usize = 2;

    fn write_after_null(&self, out: &mut Vec<u8>) {
        put_long(out, 1);
        self.write(out);
    }

    fn read_after_null(_branch: usize, from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        Self::read(from)
    }
}

impl Datum for String {
    fn write(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        from.str().map(str::to_owned)
    }
}

impl Datum for i32 {
    fn write(&self, out: &mut Vec<u8>) {
        put_long(out, i64::from(*self));
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        from.int()
    }
}

impl Datum for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        put_long(out, *self);
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        from.long()
    }
}

impl Datum for f64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        from.double()
    }
}

impl Datum for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        from.boolean()
    }
}

impl<T: Datum> Datum for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => value.write_after_null(out),
        }
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        match from.branch(T::BRANCHES_WITH_NULL)? {
            0 => Ok(None),
            branch => T::read_after_null(branch, from).map(Some),
        }
    }
}

impl<T: Datum> Datum for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_len(out, self.len());
            self.iter().for_each(|item| item.write(out));
        }
        out.push(0);
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let mut items = Vec::new();
        loop {
            let count = from.block()?;
            if count == 0 {
                return Ok(items);
            }
            // Nothing is reserved on a count's word; every item of ours takes at least a byte.
            for _ in 0..count {
                items.push(T::read(from)?);
            }
        }
    }
}

impl<T: Datum> Datum for BTreeMap<String, T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_len(out, self.len());
            for (key, value) in self {
                key.write(out);
                value.write(out);
            }
        }
        out.push(0);
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let mut items = BTreeMap::new();
        loop {
            let count = from.block()?;
            if count == 0 {
                return Ok(items);
            }
            for _ in 0..count {
                let key = String::read(from)?;
                items.insert(key, T::read(from)?);
            }
        }
    }
}

/// Declares a struct as an Avro record of the same field order.
macro_rules! avro_record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)+ }

        impl crate::wire::Datum for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)+
            }

            fn read(from: &mut crate::wire::Cursor<'_>) -> Result<Self, crate::wire::DecodeError> {
                // Struct expressions evaluate their fields in the order written: the schema's.
                Ok(Self { $($field: crate::wire::Datum::read(from)?,)+ })
            }
        }
    };
}

/// Declares a fieldless enum as an Avro enum of the same symbol order.
macro_rules! avro_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $symbol:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every symbol, in the schema's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The symbol's name in the schema.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $symbol,)+ }
            }

            /// The symbol with exactly this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($symbol => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl crate::wire::Datum for $name {
            fn write(&self, out: &mut Vec<u8>) {
                crate::wire::put_long(out, *self as i64);
            }

            fn read(from: &mut crate::wire::Cursor<'_>) -> Result<Self, crate::wire::DecodeError> {
                Ok(Self::ALL[from.symbol(Self::ALL.len())?])
            }
        }
    };
}

/// Declares an enum of one-value variants as an Avro union of the same branch order. A branch whose record has one field
/// only is that field here: Avro's bytes are the same.
macro_rules! avro_union {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident($ty:ty) = $branch:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $($(#[$vmeta])* $variant($ty),)+ }

        impl $name {
            const BRANCHES: usize = [$($branch,)+].len();

            fn write_branch(&self, first: i64, out: &mut Vec<u8>) {
                match self { $(Self::$variant(value) => {
                    crate::wire::put_long(out, first + $branch);
                    crate::wire::Datum::write(value, out);
                })+ }
            }

            fn read_branch(
                branch: usize,
                from: &mut crate::wire::Cursor<'_>,
            ) -> Result<Self, crate::wire::DecodeError> {
                match branch {
                    $($branch => <$ty as crate::wire::Datum>::read(from).map(Self::$variant),)+
                    _ => unreachable!("the cursor checks the branch against their number"),
                }
            }
        }

        impl crate::wire::Datum for $name {
            const BRANCHES_WITH_NULL: usize = Self::BRANCHES + 1;

            fn write(&self, out: &mut Vec<u8>) {
                self.write_branch(0, out);
            }

            fn read(from: &mut crate::wire::Cursor<'_>) -> Result<Self, crate::wire::DecodeError> {
                let branch = from.branch(Self::BRANCHES)?;
                Self::read_branch(branch, from)
            }

            fn write_after_null(&self, out: &mut Vec<u8>) {
                self.write_branch(1, out);
            }

            fn read_after_null(
                branch: usize,
                from: &mut crate::wire::Cursor<'_>,
            ) -> Result<Self, crate::wire::DecodeError> {
                Self::read_branch(branch - 1, from)
            }
        }
    };
}

pub(crate) use {avro_enum, avro_record, avro_union};
