//! Reading and writing the presentation language of TLS (RFC 5246 section 4).

use crate::Alert;

/// Takes values off the front of what is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Alert> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Alert::DECODE_ERROR)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Alert> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Alert::DECODE_ERROR)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Alert> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Alert> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u24(&mut self) -> Result<usize, Alert> {
        let [high, middle, low] = self.array()?;
        Ok(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
    }

    pub(crate) fn vec8(&mut self) -> Result<&'a [u8], Alert> {
        let len = self.u8()?;
        self.bytes(len.into())
    }

    pub(crate) fn vec16(&mut self) -> Result<&'a [u8], Alert> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    pub(crate) fn vec24(&mut self) -> Result<&'a [u8], Alert> {
        let len = self.u24()?;
        self.bytes(len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left has to be nothing.
    pub(crate) fn end(&self) -> Result<(), Alert> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Alert::DECODE_ERROR)
        }
    }
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u24(out: &mut Vec<u8>, value: usize) {
    debug_assert!(value < 1 << 24);
    out.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
}

/// A vector whose length stands in one byte: what is put has to be shorter than 256 bytes.
pub(crate) fn put_vec8(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() < 1 << 8);
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

/// The same with two bytes, shorter than 64 KiB.
pub(crate) fn put_vec16(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() < 1 << 16);
    put_u16(out, bytes.len() as u16);
    out.extend_from_slice(bytes);
}

/// The same with three.
pub(crate) fn put_vec24(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u24(out, bytes.len());
    out.extend_from_slice(bytes);
}
