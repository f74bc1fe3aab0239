//! Delete payload (RFC 7296 section 3.11).
//!
//! ```text
//! | Protocol ID   |   SPI Size    |          Num of SPIs          |
//! ~               Security Parameter Index(es) (SPI)              ~
//! ```

use crate::wire::error::WireError;
use crate::wire::number::ProtocolId;
use crate::wire::reader::{Reader, length_u16};

/// Most SPIs of one payload.
pub const MAX_SPIS: usize = 4096;

const SECTION: &str = "RFC 7296 section 3.11";

/// SAs that the sender deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that carries this message, with all its child SAs.
    Ike,
    /// Child SAs, by the SPIs on which the sender receives.
    Child {
        /// [`ProtocolId::Esp`] or [`ProtocolId::Ah`].
        protocol: ProtocolId,
        /// SPIs as the numbers they are in network byte order.
        spis: Vec<u32>,
    },
}

impl Delete {
    /// One ESP SA.
    pub fn esp(spi: u32) -> Self {
        Self::Child { protocol: ProtocolId::Esp, spis: vec![spi] }
    }

    /// Reads the body of a Delete payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let protocol = ProtocolId::from(reader.u8()?);
        let size = reader.u8()?;
        let count = usize::from(reader.u16()?);
        match (protocol, size) {
            (ProtocolId::Ike, 0) => {
                reader.end(SECTION)?;
                Ok(Self::Ike)
            }
            (ProtocolId::Esp | ProtocolId::Ah, 4) => {
                if count > MAX_SPIS {
                    return Err(reader.too_many("SPIs to delete", MAX_SPIS));
                }
                let spis = (0..count).map(|_| reader.u32()).collect::<Result<Vec<_>, _>>()?;
                reader.end(SECTION)?;
                Ok(Self::Child { protocol, spis })
            }
            (ProtocolId::Ike | ProtocolId::Esp | ProtocolId::Ah, _) => {
                Err(reader.malformed("SPI size does not fit the protocol", SECTION))
            }
            _ => Err(reader.malformed("the protocol is neither IKE nor ESP nor AH", SECTION)),
        }
    }

    /// Appends the body of a Delete payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Ike => out.extend_from_slice(&[ProtocolId::Ike.number(), 0, 0, 0]),
            Self::Child { protocol, spis } => {
                if !matches!(protocol, ProtocolId::Esp | ProtocolId::Ah) {
                    return Err(WireError::Unwritable {
                        what: "only ESP and AH have child SAs",
                        rule: SECTION,
                    });
                }
                if spis.len() > MAX_SPIS {
                    return Err(WireError::TooLong {
                        what: "SPIs to delete",
                        actual: spis.len(),
                        limit: MAX_SPIS,
                    });
                }
                out.extend_from_slice(&[protocol.number(), 4]);
                out.extend_from_slice(&length_u16("SPIs to delete", spis.len())?.to_be_bytes());
                for spi in spis {
                    out.extend_from_slice(&spi.to_be_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    fn parse(bytes: &[u8]) -> Result<Delete, WireError> {
        Delete::parse(Reader::new(PayloadType::Delete, 0, bytes))
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(parse(&[1, 0, 0, 0]), Ok(Delete::Ike));
        let two = Delete::Child { protocol: ProtocolId::Esp, spis: vec![0x0102_0304, 5] };
        let bytes = [3, 4, 0, 2, 1, 2, 3, 4, 0, 0, 0, 5];
        assert_eq!(parse(&bytes), Ok(two.clone()));
        let mut out = Vec::new();
        two.write(&mut out).unwrap();
        assert_eq!(out, bytes);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn counts_and_sizes_that_lie_are_errors() {
        assert!(parse(&[3, 4, 0, 1, 1, 2, 3, 4, 5]).is_err());
        assert!(parse(&[3, 4, 0xff, 0xff, 1, 2, 3, 4]).is_err());
        assert!(parse(&[3, 8, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]).is_err());
        assert!(parse(&[3, 0, 0, 1]).is_err());
        assert!(parse(&[1, 8, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]).is_err());
        assert!(parse(&[1, 0, 0, 0, 0]).is_err());
        assert!(parse(&[0, 0, 0, 0]).is_err());
        assert!(parse(&[9, 4, 0, 0]).is_err());
    }
}
