//! The IKE header (RFC 7296 section 3.1).
//!
//! ```text
//!                      1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       IKE SA Initiator's SPI                  |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       IKE SA Responder's SPI                  |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Message ID                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                            Length                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::wire::error::WireError;
use crate::wire::number::{ExchangeType, PayloadType};
use crate::wire::reader::Reader;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 28;

const MAJOR_VERSION: u8 = 2;
const FLAG_INITIATOR: u8 = 0x08;
const FLAG_VERSION: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x20;

/// SPI of an IKE SA: eight bytes, as the number they are in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(pub u64);

impl Spi {
    /// The responder's SPI before it has chosen one.
    pub const ZERO: Self = Self(0);

    /// Whether no SPI has been chosen yet.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As on the wire.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl std::fmt::Display for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The header without what the message's layout decides (next payload, length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Initiator's SPI; never zero.
    pub spi_i: Spi,
    /// Responder's SPI; zero in the first request of IKE_SA_INIT and its refusals.
    pub spi_r: Spi,
    /// Which exchange.
    pub exchange: ExchangeType,
    /// Flag I: the sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// Flag R: a response.
    pub response: bool,
    /// Flag V: the sender could speak a higher major version. We never set it, and ignore it.
    pub higher_version: bool,
    /// Message ID (RFC 7296 section 2.2).
    pub message_id: u32,
}

impl Header {
    /// Header of a request.
    pub const fn request(
        spi_i: Spi,
        spi_r: Spi,
        exchange: ExchangeType,
        initiator: bool,
        message_id: u32,
    ) -> Self {
        Self { spi_i, spi_r, exchange, initiator, response: false, higher_version: false, message_id }
    }

    /// Header of the response to this request: same SPIs, exchange and message ID, the other side's flags.
    pub const fn reply(&self) -> Self {
        Self { initiator: !self.initiator, response: true, higher_version: false, ..*self }
    }

    /// Reads the header of a whole datagram. Gives the header and the type of the first payload.
    ///
    /// Checked: the major version is 2 (the minor version is ignored on receipt, section 3.1), the length is the
    /// datagram's, the initiator's SPI is not zero.
    pub fn parse(datagram: &[u8]) -> Result<(Self, PayloadType), WireError> {
        let mut reader = Reader::new(PayloadType::None, 0, datagram);
        let spi_i = Spi(reader.u64()?);
        let spi_r = Spi(reader.u64()?);
        let first = PayloadType::from(reader.u8()?);
        let version = reader.u8()?;
        let exchange = ExchangeType::from(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let claimed = reader.u32()?;
        let header = Self {
            spi_i,
            spi_r,
            exchange,
            initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            higher_version: flags & FLAG_VERSION != 0,
            message_id,
        };
        // The version comes first: the rules after it are those of version 2.
        let major = version >> 4;
        if major != MAJOR_VERSION {
            return Err(WireError::MajorVersion { major, header });
        }
        if usize::try_from(claimed) != Ok(datagram.len()) {
            return Err(WireError::Length { claimed, actual: datagram.len() });
        }
        if spi_i.is_zero() {
            return Err(reader.malformed("the initiator's SPI is zero", "RFC 7296 section 3.1"));
        }
        Ok((header, first))
    }

    /// Appends the header of a message of `length` bytes in all.
    pub fn write(&self, first: PayloadType, length: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
        // An IKE message travels in one UDP datagram, whose length has 16 bits.
        let limit = usize::from(u16::MAX);
        let length = u16::try_from(length).map_err(|_| WireError::TooLong {
            what: "bytes of the message",
            actual: length,
            limit,
        })?;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.extend_from_slice(&self.spi_i.to_bytes());
        out.extend_from_slice(&self.spi_r.to_bytes());
        out.push(first.number());
        out.push(MAJOR_VERSION << 4);
        out.push(self.exchange.number());
        out.push(
            flag(self.initiator, FLAG_INITIATOR)
                | flag(self.response, FLAG_RESPONSE)
                | flag(self.higher_version, FLAG_VERSION),
        );
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&u32::from(length).to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: [u8; HEADER_LEN] = [
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // initiator's SPI
        0, 0, 0, 0, 0, 0, 0, 0, // responder's SPI
        0, 0x20, 34, 0x08, // no payload, version 2.0, IKE_SA_INIT, initiator
        0, 0, 0, 0, // message ID
        0, 0, 0, 28, // length
    ];

    #[test]
    fn golden_bytes() {
        let header = Header::request(Spi(0x1122_3344_5566_7788), Spi::ZERO, ExchangeType::IkeSaInit, true, 0);
        assert_eq!(Header::parse(&REQUEST), Ok((header, PayloadType::None)));
        let mut out = Vec::new();
        header.write(PayloadType::None, HEADER_LEN, &mut out).unwrap();
        assert_eq!(out, REQUEST);
    }

    #[test]
    fn another_major_version_has_its_own_error() {
        for (version, major) in [(0x10, 1), (0x30, 3), (0x00, 0)] {
            let mut bytes = REQUEST;
            bytes[17] = version;
            assert!(
                matches!(Header::parse(&bytes), Err(WireError::MajorVersion { major: m, .. }) if m == major)
            );
        }
        let mut minor = REQUEST;
        minor[17] = 0x2f;
        assert!(Header::parse(&minor).is_ok());
    }

    #[test]
    fn length_must_be_the_datagrams() {
        for length in [0u32, 27, 29, 0x0100_001c, u32::MAX] {
            let mut bytes = REQUEST;
            bytes[24..28].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(&bytes), Err(WireError::Length { claimed: length, actual: 28 }));
        }
        for short in 0..HEADER_LEN {
            assert!(matches!(Header::parse(&REQUEST[..short]), Err(WireError::Truncated { .. })), "{short}");
        }
    }

    #[test]
    fn initiators_spi_must_not_be_zero() {
        let mut bytes = REQUEST;
        bytes[..8].fill(0);
        assert!(matches!(Header::parse(&bytes), Err(WireError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn round_trip(
            spi_i in 1u64.., spi_r: u64, exchange: u8, flags: [bool; 3], message_id: u32, first: u8,
            body in 0usize..2000,
        ) {
            let [initiator, response, higher_version] = flags;
            let exchange = ExchangeType::from(exchange);
            let (spi_i, spi_r) = (Spi(spi_i), Spi(spi_r));
            let header = Header { spi_i, spi_r, exchange, initiator, response, higher_version, message_id };
            let mut out = Vec::new();
            header.write(PayloadType::from(first), HEADER_LEN + body, &mut out).unwrap();
            out.resize(HEADER_LEN + body, 0);
            prop_assert_eq!(Header::parse(&out), Ok((header, PayloadType::from(first))));
        }
    }
}
