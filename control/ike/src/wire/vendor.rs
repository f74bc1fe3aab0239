//! Vendor ID payload (RFC 7296 section 3.12).

use crate::wire::error::WireError;
use crate::wire::reader::Reader;

/// Most bytes of one vendor ID.
pub const MAX_VENDOR_BYTES: usize = 1024;

/// Names an implementation; opaque, often a hash. May be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorId(pub Vec<u8>);

impl VendorId {
    /// Reads the body of a Vendor ID payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        if reader.left() > MAX_VENDOR_BYTES {
            return Err(reader.too_many("bytes of a vendor ID", MAX_VENDOR_BYTES));
        }
        Ok(Self(reader.rest().to_vec()))
    }

    /// Appends the body of a Vendor ID payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        if self.0.len() > MAX_VENDOR_BYTES {
            let (actual, limit) = (self.0.len(), MAX_VENDOR_BYTES);
            return Err(WireError::TooLong { what: "bytes of a vendor ID", actual, limit });
        }
        out.extend_from_slice(&self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    #[test]
    fn bounded_both_ways() {
        for (length, valid) in
            [(0, true), (16, true), (MAX_VENDOR_BYTES, true), (MAX_VENDOR_BYTES + 1, false)]
        {
            let bytes = vec![1; length];
            assert_eq!(
                VendorId::parse(Reader::new(PayloadType::Vendor, 0, &bytes)).is_ok(),
                valid,
                "{length}"
            );
            assert_eq!(VendorId(bytes).write(&mut Vec::new()).is_ok(), valid, "{length}");
        }
    }
}
