//! The token that ties a response to its request (RFC 7252 section 5.3.1).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use thiserror::Error;

/// A token of 0 to 8 bytes. Shown and parsed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Token {
    // Bytes behind `len` are zero, so that the derived comparisons hold.
    len: u8,
    bytes: [u8; Token::MAX_LEN],
}

/// More than eight bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a CoAP token has at most 8 bytes, this one has {0}")]
pub struct TokenTooLong(pub usize);

/// A string that is no token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseTokenError {
    /// More than sixteen digits.
    #[error(transparent)]
    TooLong(#[from] TokenTooLong),
    /// An odd number of digits, or a character that is not one.
    #[error("a CoAP token is written as pairs of hexadecimal digits, for example 4f0a")]
    NotHex,
}

impl Token {
    /// Longest token of RFC 7252.
    pub const MAX_LEN: usize = 8;
    /// The token of no bytes.
    pub const EMPTY: Token = Token {
        len: 0,
        bytes: [0; Token::MAX_LEN],
    };

    /// A token of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Token, TokenTooLong> {
        let mut token = Token::EMPTY;
        token
            .bytes
            .get_mut(..bytes.len())
            .ok_or(TokenTooLong(bytes.len()))?
            .copy_from_slice(bytes);
        token.len = bytes.len() as u8;
        Ok(token)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(crate) fn from_u64(value: u64) -> Token {
        Token {
            len: 8,
            bytes: value.to_be_bytes(),
        }
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from_ne_bytes(self.bytes));
        state.write_u8(self.len);
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: it stands in the record of every notification.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 2 * Token::MAX_LEN];
        for (digits, byte) in text.chunks_exact_mut(2).zip(self.as_bytes()) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        let text = &text[..2 * usize::from(self.len)];
        f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(hex: &str) -> Result<Token, ParseTokenError> {
        let digit = |c: u8| {
            (c as char)
                .to_digit(16)
                .map(|d| d as u8)
                .ok_or(ParseTokenError::NotHex)
        };
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(ParseTokenError::NotHex);
        }
        if pairs.len() > Token::MAX_LEN {
            return Err(TokenTooLong(pairs.len()).into());
        }
        let mut bytes = [0; Token::MAX_LEN];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Token {
            len: pairs.len() as u8,
            bytes,
        })
    }
}
