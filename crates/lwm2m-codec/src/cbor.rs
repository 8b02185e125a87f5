//! CBOR (RFC 8949), as much of it as SenML and single values need: a reader over borrowed bytes, a writer.
//!
//! ```text
//!  7 6 5 4 3 2 1 0
//! +-----+---------+------------------------
//! |major|  info   | argument (0, 1, 2, 4 or 8 bytes)
//! +-----+---------+------------------------
//! major: 0 unsigned, 1 negative, 2 bytes, 3 text, 4 array, 5 map, 6 tag, 7 float and simple
//! info:  0-23 the argument itself, 24-27 its length, 31 indefinite length (or the break that ends it)
//! ```
//!
//! Nothing is allocated for a length that is only announced.

/// How deep values that are passed over may nest.
const MAX_DEPTH: usize = 16;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

const BREAK: u8 = 0xff;

const TAG_EPOCH: u64 = 1;
const TAG_BIG: u64 = 2;
const TAG_BIG_NEGATIVE: u64 = 3;
const TAG_DECIMAL: u64 = 4;

/// A number as it was written: whole, or with a fraction or an exponent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Whole(i128),
    /// Finite always.
    Real(f64),
}

impl Number {
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Self::Whole(v) => v as f64,
            Self::Real(v) => v,
        }
    }
}

/// One value that is neither array nor map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Number(Number),
    /// Tag 1: seconds since 1970.
    Epoch(Number),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
}

/// What is wrong and where: the reason of a [`Malformed`](crate::DecodeError::Malformed).
pub(crate) type Fault = String;

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Initial byte and argument; `None` is the indefinite length.
struct Head {
    at: usize,
    major: u8,
    info: u8,
    argument: Option<u64>,
}

/// What is left of an array or a map.
pub(crate) struct Count(Option<u64>);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Says so when bytes are left.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(format!(
                "{left} bytes are left over from byte {} on",
                self.at
            )),
        }
    }

    pub(crate) fn array(&mut self) -> Result<Count, Fault> {
        self.container(ARRAY, "an array")
    }

    pub(crate) fn map(&mut self) -> Result<Count, Fault> {
        self.container(MAP, "a map")
    }

    fn container(&mut self, major: u8, name: &str) -> Result<Count, Fault> {
        let head = self.head()?;
        if head.major != major {
            return Err(format!("byte {} should start {name}", head.at));
        }
        Ok(Count(head.argument))
    }

    /// Whether there is another element (of a map: another pair), which is then to be read.
    pub(crate) fn another(&mut self, count: &mut Count) -> Result<bool, Fault> {
        match &mut count.0 {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.bytes.get(self.at) == Some(&BREAK) => {
                self.at += 1;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    pub(crate) fn item(&mut self) -> Result<Item, Fault> {
        let head = self.head()?;
        Ok(match head.major {
            UNSIGNED | NEGATIVE => Item::Number(Number::Whole(whole(&head)?)),
            BYTES => Item::Bytes(self.string(&head)?),
            TEXT => Item::Text(self.text(&head)?),
            TAG => match head.argument {
                Some(TAG_EPOCH) => match self.item_below_tag()? {
                    Item::Number(number) => Item::Epoch(number),
                    _ => return Err(format!("the time at byte {} is no number", head.at)),
                },
                Some(TAG_DECIMAL) => Item::Number(self.decimal(head.at)?),
                Some(TAG_BIG | TAG_BIG_NEGATIVE) => {
                    Item::Number(Number::Whole(self.big_after(&head)?))
                }
                // What a tag adds (a MIME type, a language …) LwM2M has no use for.
                _ => self.item_below_tag()?,
            },
            SIMPLE => match (head.info, head.argument) {
                (20, _) => Item::Bool(false),
                (21, _) => Item::Bool(true),
                (25..=27, Some(bits)) => Item::Number(real(head.info, bits, head.at)?),
                _ => {
                    return Err(format!(
                        "byte {} is neither a number, a boolean, text nor bytes",
                        head.at
                    ));
                }
            },
            _ => {
                return Err(format!(
                    "byte {} starts an array or a map where one value should be",
                    head.at
                ));
            }
        })
    }

    /// One tag may follow another once (a decimal fraction as a time), so nothing recurses without end.
    fn item_below_tag(&mut self) -> Result<Item, Fault> {
        if self.peek_major() != Some(TAG) {
            return self.item();
        }
        let head = self.head()?;
        match head.argument {
            Some(TAG_DECIMAL) => Ok(Item::Number(self.decimal(head.at)?)),
            Some(TAG_BIG | TAG_BIG_NEGATIVE) => {
                Ok(Item::Number(Number::Whole(self.big_after(&head)?)))
            }
            _ if self.peek_major() == Some(TAG) => {
                Err(format!("too many tags stand before byte {}", self.at))
            }
            _ => self.item(),
        }
    }

    /// RFC 8949, section 3.4.4: an array of exponent and mantissa.
    fn decimal(&mut self, at: usize) -> Result<Number, Fault> {
        let fault = || format!("the decimal fraction at byte {at} is not [exponent, mantissa]");
        let mut count = self.array()?;
        let mut part = |reader: &mut Self| {
            if !reader.another(&mut count)? {
                return Err(fault());
            }
            let head = reader.head()?;
            match head.major {
                UNSIGNED | NEGATIVE => whole(&head),
                TAG => reader.big_after(&head),
                _ => Err(fault()),
            }
        };
        let exponent = part(self)?;
        let mantissa = part(self)?;
        if self.another(&mut count)? {
            return Err(fault());
        }
        // Kept exact where it is whole and fits in 64 bits.
        if (0..=19).contains(&exponent)
            && let Some(v) = mantissa.checked_mul(10_i128.pow(exponent as u32))
        {
            return Ok(Number::Whole(v));
        }
        // The standard library rounds decimal text correctly.
        match format!("{mantissa}e{exponent}").parse::<f64>() {
            Ok(v) if v.is_finite() => Ok(Number::Real(v)),
            _ => Err(format!("the decimal fraction at byte {at} is too large")),
        }
    }

    /// RFC 8949, section 3.4.3: what follows the tag is the number's bytes.
    fn big_after(&mut self, tag: &Head) -> Result<i128, Fault> {
        let fault = || format!("byte {} should start a number of at most 64 bits", tag.at);
        let head = self.head()?;
        let bytes = match (tag.argument, head.major) {
            (Some(TAG_BIG | TAG_BIG_NEGATIVE), BYTES) => self.string(&head)?,
            _ => return Err(fault()),
        };
        let digits = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len())..];
        if digits.len() > 8 {
            return Err(fault());
        }
        let v = digits.iter().fold(0_i128, |n, b| (n << 8) | i128::from(*b));
        Ok(if tag.argument == Some(TAG_BIG) {
            v
        } else {
            -1 - v
        })
    }

    /// Passes over one value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        self.skip_at(0)
    }

    fn skip_at(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels at byte {}", self.at));
        }
        let head = self.head()?;
        match head.major {
            BYTES | TEXT => {
                self.string(&head)?;
            }
            TAG => self.skip_at(depth + 1)?,
            ARRAY | MAP => {
                let mut count = Count(head.argument);
                while self.another(&mut count)? {
                    self.skip_at(depth + 1)?;
                    if head.major == MAP {
                        self.skip_at(depth + 1)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, head: &Head) -> Result<String, Fault> {
        String::from_utf8(self.string(head)?)
            .map_err(|_| format!("the text at byte {} is not UTF-8", head.at))
    }

    /// A string in one piece, or in pieces up to a break.
    fn string(&mut self, head: &Head) -> Result<Vec<u8>, Fault> {
        let Some(length) = head.argument else {
            let mut whole = Vec::new();
            let mut count = Count(None);
            while self.another(&mut count)? {
                let piece = self.head()?;
                match piece.argument {
                    Some(length) if piece.major == head.major => {
                        whole.extend_from_slice(self.take(length, piece.at)?);
                    }
                    _ => return Err(format!("byte {} is no piece of its string", piece.at)),
                }
            }
            return Ok(whole);
        };
        Ok(self.take(length, head.at)?.to_vec())
    }

    fn peek_major(&self) -> Option<u8> {
        self.bytes.get(self.at).map(|b| b >> 5)
    }

    fn head(&mut self) -> Result<Head, Fault> {
        let at = self.at;
        let first = self.take(1, at)?[0];
        let (major, info) = (first >> 5, first & 0b1_1111);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let bytes = self.take(1 << (info - 24), at)?;
                Some(bytes.iter().fold(0, |n, b| (n << 8) | u64::from(*b)))
            }
            31 if (BYTES..=MAP).contains(&major) => None,
            _ => return Err(format!("byte {at} is {first:#04x}, which starts nothing")),
        };
        Ok(Head {
            at,
            major,
            info,
            argument,
        })
    }

    fn take(&mut self, length: u64, from: usize) -> Result<&'a [u8], Fault> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| left.get(..length))
            .ok_or_else(|| {
                format!(
                    "what starts at byte {from} needs {length} bytes, and {} are left",
                    left.len()
                )
            })?;
        self.at += taken.len();
        Ok(taken)
    }
}

fn whole(head: &Head) -> Result<i128, Fault> {
    let argument = head
        .argument
        .map(i128::from)
        .ok_or_else(|| format!("the number at byte {} has no value", head.at))?;
    Ok(if head.major == NEGATIVE {
        -1 - argument
    } else {
        argument
    })
}

/// A float of 16, 32 or 64 bits. Neither LwM2M's text nor SenML (RFC 8428, section 4.3) knows infinity and NaN.
fn real(info: u8, bits: u64, at: usize) -> Result<Number, Fault> {
    let v = match info {
        25 => half(bits as u16),
        26 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    if v.is_finite() {
        Ok(Number::Real(v))
    } else {
        Err(format!("the float at byte {at} is not finite"))
    }
}

/// IEEE 754's half precision: 1 bit of sign, 5 of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match (bits >> 10) & 0x1f {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2_f64.powi(i32::from(exponent) - 25),
    };
    if bits & 0x8000 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Writes definite lengths and the shortest heads.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn array(&mut self, length: usize) {
        self.head(ARRAY, length as u64);
    }

    pub(crate) fn map(&mut self, pairs: usize) {
        self.head(MAP, pairs as u64);
    }

    pub(crate) fn signed(&mut self, v: i64) {
        match u64::try_from(v) {
            Ok(v) => self.head(UNSIGNED, v),
            // -1 - v, which is the complement.
            Err(_) => self.head(NEGATIVE, !(v as u64)),
        }
    }

    pub(crate) fn unsigned(&mut self, v: u64) {
        self.head(UNSIGNED, v);
    }

    /// Single precision where it is exact, double otherwise: half precision would be shorter, but not every
    /// device reads it.
    pub(crate) fn float(&mut self, v: f64) {
        let single = v as f32;
        if f64::from(single) == v {
            self.0.push((SIMPLE << 5) | 26);
            self.0.extend_from_slice(&single.to_be_bytes());
        } else {
            self.0.push((SIMPLE << 5) | 27);
            self.0.extend_from_slice(&v.to_be_bytes());
        }
    }

    pub(crate) fn bool(&mut self, v: bool) {
        self.0.push((SIMPLE << 5) | if v { 21 } else { 20 });
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A time of the type `Time`, under tag 1.
    pub(crate) fn epoch(&mut self, v: i64) {
        self.head(TAG, TAG_EPOCH);
        self.signed(v);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, argument: u64) {
        let major = major << 5;
        if let Ok(v) = u8::try_from(argument) {
            if v < 24 {
                self.0.push(major | v);
            } else {
                self.0.extend_from_slice(&[major | 24, v]);
            }
        } else if let Ok(v) = u16::try_from(argument) {
            self.0.push(major | 25);
            self.0.extend_from_slice(&v.to_be_bytes());
        } else if let Ok(v) = u32::try_from(argument) {
            self.0.push(major | 26);
            self.0.extend_from_slice(&v.to_be_bytes());
        } else {
            self.0.push(major | 27);
            self.0.extend_from_slice(&argument.to_be_bytes());
        }
    }
}
