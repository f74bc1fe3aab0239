//! A checked view of bytes: every read says where it failed.

use crate::wire::error::{Place, WireError};
use crate::wire::number::PayloadType;

/// Reads integers and byte strings in order, never past the end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    payload: PayloadType,
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which begin at `offset` of the message, as part of `payload`.
    pub fn new(payload: PayloadType, offset: usize, bytes: &'a [u8]) -> Self {
        Self { payload, offset, bytes }
    }

    /// The same bytes as part of another payload.
    pub(crate) fn of(self, payload: PayloadType) -> Self {
        Self { payload, ..self }
    }

    /// Where the next byte stands.
    pub fn place(&self) -> Place {
        Place { payload: self.payload, offset: self.offset }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or_else(|| self.truncated(count))?;
        self.advance(count, tail);
        Ok(head)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let all = self.bytes;
        self.advance(all.len(), &[]);
        all
    }

    /// The next `count` bytes as a reader of their own.
    pub fn sub(&mut self, count: usize) -> Result<Reader<'a>, WireError> {
        let (payload, offset) = (self.payload, self.offset);
        Ok(Self { payload, offset, bytes: self.take(count)? })
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or_else(|| self.truncated(N))?;
        self.advance(N, tail);
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    /// Two bytes, network byte order.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, network byte order.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, network byte order.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes must not follow: what was counted is all there is.
    pub fn end(&self, rule: &'static str) -> Result<(), WireError> {
        if self.is_empty() { Ok(()) } else { Err(self.malformed("bytes follow the last field", rule)) }
    }

    /// The value before the next byte is forbidden by `rule`.
    pub fn malformed(&self, what: &'static str, rule: &'static str) -> WireError {
        WireError::Malformed { place: self.place(), what, rule }
    }

    /// A bound of ours is passed.
    pub fn too_many(&self, what: &'static str, limit: usize) -> WireError {
        WireError::TooMany { place: self.place(), what, limit }
    }

    fn truncated(&self, needed: usize) -> WireError {
        let (place, left) = (self.place(), self.left());
        WireError::Truncated { place, needed, left, section: self.payload.section() }
    }

    fn advance(&mut self, count: usize, tail: &'a [u8]) {
        // A slice is at most isize::MAX long, and offsets only sum up slices of one message.
        self.offset = self.offset.saturating_add(count);
        self.bytes = tail;
    }
}

/// `count` as the 16-bit number of a length field.
pub(crate) fn length_u16(what: &'static str, count: usize) -> Result<u16, WireError> {
    u16::try_from(count).map_err(|_| WireError::TooLong { what, actual: count, limit: usize::from(u16::MAX) })
}

/// `count` as an 8-bit number of a count field.
pub(crate) fn count_u8(what: &'static str, count: usize) -> Result<u8, WireError> {
    u8::try_from(count).map_err(|_| WireError::TooLong { what, actual: count, limit: usize::from(u8::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_stops_at_the_end() {
        let mut reader = Reader::new(PayloadType::Nonce, 100, &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.place().offset, 103);
        let mut sub = reader.sub(2).unwrap();
        assert_eq!((sub.place().offset, sub.rest()), (103, &[4, 5][..]));
        assert_eq!(
            reader.u32(),
            Err(WireError::Truncated {
                place: Place { payload: PayloadType::Nonce, offset: 105 },
                needed: 4,
                left: 2,
                section: "3.9"
            })
        );
        assert_eq!(reader.rest(), &[6, 7]);
        assert!(reader.end("RFC 7296 section 3.9").is_ok());
        assert!(reader.take(1).is_err());
        assert_eq!(reader.take(0), Ok(&[][..]));
    }

    #[test]
    fn lengths_past_their_field_are_errors() {
        assert_eq!(length_u16("payload", 65_535), Ok(65_535));
        assert!(length_u16("payload", 65_536).is_err());
        assert!(count_u8("selectors", 256).is_err());
    }
}
