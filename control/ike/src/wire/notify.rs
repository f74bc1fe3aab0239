//! Notify payload (RFC 7296 section 3.10).
//!
//! ```text
//! |  Protocol ID  |   SPI Size    |      Notify Message Type      |
//! ~                Security Parameter Index (SPI)                 ~
//! ~                       Notification Data                       ~
//! ```

use std::time::Duration;

use crate::wire::error::WireError;
use crate::wire::number::{HashAlgorithm, NotifyType, PayloadType, ProtocolId};
use crate::wire::reader::{Reader, count_u8};
use crate::wire::sa::SaSpi;
use crate::wire::transform::KeId;

/// Most bytes of a cookie (RFC 7296 section 2.6).
pub const MAX_COOKIE_BYTES: usize = 64;
/// Bytes of the hash of NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP (RFC 7296 section 2.23).
pub const NAT_DETECTION_LEN: usize = 20;

/// An error or a status.
///
/// Parsing accepts types we do not know. The typed readers ([`Self::cookie`] and the rest) check the data; call one
/// only after looking at the type, and treat its error as a malformed message (offsets in it count from the start of
/// the notification data).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA that `spi` names; [`ProtocolId::None`] where none is meant.
    pub protocol: ProtocolId,
    /// The SA it is about; never [`SaSpi::Other`].
    pub spi: SaSpi,
    /// What it says.
    pub notify_type: NotifyType,
    /// What belongs to it.
    pub data: Vec<u8>,
}

impl Notify {
    /// About no SA, without data.
    pub const fn new(notify_type: NotifyType) -> Self {
        Self::with_data(notify_type, Vec::new())
    }

    /// About no SA.
    pub const fn with_data(notify_type: NotifyType, data: Vec<u8>) -> Self {
        Self { protocol: ProtocolId::None, spi: SaSpi::None, notify_type, data }
    }

    /// About an ESP SA without data: REKEY_SA with the sender's inbound SPI (RFC 7296 section 1.3.3),
    /// CHILD_SA_NOT_FOUND with the SPI of the request that was not found.
    pub const fn about_esp(notify_type: NotifyType, spi: u32) -> Self {
        Self { protocol: ProtocolId::Esp, spi: SaSpi::Child(spi), notify_type, data: Vec::new() }
    }

    /// INVALID_KE_PAYLOAD with the method the sender wants (RFC 7296 section 1.3).
    pub fn invalid_ke(group: KeId) -> Self {
        Self::with_data(NotifyType::InvalidKePayload, group.number().to_be_bytes().to_vec())
    }

    /// UNSUPPORTED_CRITICAL_PAYLOAD with the payload's type.
    pub fn unsupported_critical(payload: PayloadType) -> Self {
        Self::with_data(NotifyType::UnsupportedCriticalPayload, vec![payload.number()])
    }

    /// INVALID_MAJOR_VERSION with the highest major version we speak.
    pub fn invalid_major_version() -> Self {
        Self::with_data(NotifyType::InvalidMajorVersion, vec![2])
    }

    /// SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 4).
    pub fn from_signature_hashes(hashes: &[HashAlgorithm]) -> Self {
        let data = hashes.iter().flat_map(|hash| hash.number().to_be_bytes()).collect();
        Self::with_data(NotifyType::SignatureHashAlgorithms, data)
    }

    /// AUTH_LIFETIME (RFC 4478 section 3): whole seconds, as many as 32 bits hold at most.
    pub fn auth_lifetime(lifetime: Duration) -> Self {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        Self::with_data(NotifyType::AuthLifetime, seconds.to_be_bytes().to_vec())
    }

    /// SA_RESOURCE_INFO (RFC 9611 section 5.1). `resource`: the sender's number for what the SA is bound to, which tells
    /// the peer nothing but what to show; none: it is bound to nothing.
    pub fn resource_info(resource: Option<u16>) -> Self {
        let data = resource.map(|number| u32::from(number).to_be_bytes().to_vec());
        Self::with_data(NotifyType::SaResourceInfo, data.unwrap_or_default())
    }

    /// The time of AUTH_LIFETIME.
    pub fn lifetime(&self) -> Result<Duration, WireError> {
        let mut reader = self.reader();
        let seconds = reader.u32()?;
        reader.end("RFC 4478 section 3")?;
        Ok(Duration::from_secs(seconds.into()))
    }

    /// The method of INVALID_KE_PAYLOAD.
    pub fn invalid_ke_group(&self) -> Result<KeId, WireError> {
        let mut reader = self.reader();
        let group = KeId::from(reader.u16()?);
        reader.end("RFC 7296 section 3.10.1")?;
        Ok(group)
    }

    /// The cookie of COOKIE: 1 to 64 bytes.
    pub fn cookie(&self) -> Result<&[u8], WireError> {
        if (1..=MAX_COOKIE_BYTES).contains(&self.data.len()) {
            Ok(&self.data)
        } else {
            Err(self.reader().malformed("a cookie must have 1 to 64 bytes", "RFC 7296 section 2.6"))
        }
    }

    /// The algorithms of SIGNATURE_HASH_ALGORITHMS.
    pub fn signature_hashes(&self) -> Result<Vec<HashAlgorithm>, WireError> {
        let mut reader = self.reader();
        let mut hashes = Vec::new();
        while !reader.is_empty() {
            hashes.push(HashAlgorithm::from(reader.u16()?));
        }
        Ok(hashes)
    }

    /// The SHA-1 hash of NAT_DETECTION_SOURCE_IP or NAT_DETECTION_DESTINATION_IP.
    pub fn nat_detection(&self) -> Result<[u8; NAT_DETECTION_LEN], WireError> {
        let mut reader = self.reader();
        let hash = reader.array()?;
        reader.end("RFC 7296 section 2.23")?;
        Ok(hash)
    }

    /// The payload type of UNSUPPORTED_CRITICAL_PAYLOAD.
    pub fn unsupported_payload(&self) -> Result<PayloadType, WireError> {
        let mut reader = self.reader();
        let payload = PayloadType::from(reader.u8()?);
        reader.end("RFC 7296 section 3.10.1")?;
        Ok(payload)
    }

    /// The SPI of the ESP SA it is about (REKEY_SA, CHILD_SA_NOT_FOUND).
    pub fn esp_spi(&self) -> Result<u32, WireError> {
        match (self.protocol, &self.spi) {
            (ProtocolId::Esp, SaSpi::Child(spi)) => Ok(*spi),
            _ => Err(self.reader().malformed("names no ESP SA", "RFC 7296 section 3.10")),
        }
    }

    /// Reads the body of a Notify payload.
    ///
    /// The SPI's size is held to 0, 4 or 8 and not to the protocol: implementations differ in the protocol they name
    /// when no SA is meant.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let protocol = ProtocolId::from(reader.u8()?);
        let spi_size = usize::from(reader.u8()?);
        let notify_type = NotifyType::from(reader.u16()?);
        let spi = SaSpi::from_bytes(reader.take(spi_size)?);
        if let SaSpi::Other(_) = spi {
            return Err(reader.malformed("SPI size is neither 0 nor 4 nor 8", "RFC 7296 section 3.10"));
        }
        Ok(Self { protocol, spi, notify_type, data: reader.rest().to_vec() })
    }

    /// Appends the body of a Notify payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let spi = self.spi.to_bytes();
        if let SaSpi::Other(_) = self.spi {
            return Err(WireError::Unwritable {
                what: "SPI size of a notify is neither 0 nor 4 nor 8",
                rule: "RFC 7296 section 3.10",
            });
        }
        out.extend_from_slice(&[self.protocol.number(), count_u8("bytes of an SPI", spi.len())?]);
        out.extend_from_slice(&self.notify_type.number().to_be_bytes());
        out.extend_from_slice(&spi);
        out.extend_from_slice(&self.data);
        Ok(())
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(PayloadType::Notify, 0, &self.data)
    }
}

impl std::fmt::Display for Notify {
    /// Type, and the SPI if there is one; never the data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.spi {
            SaSpi::Child(spi) => write!(f, "{} ({} SPI {spi:08x})", self.notify_type, self.protocol),
            SaSpi::Ike(spi) => write!(f, "{} ({} SPI {spi})", self.notify_type, self.protocol),
            SaSpi::None | SaSpi::Other(_) => self.notify_type.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Notify, WireError> {
        Notify::parse(Reader::new(PayloadType::Notify, 0, bytes))
    }

    #[test]
    fn golden_rekey_sa() {
        let bytes = [3, 4, 0x40, 0x09, 0xde, 0xad, 0xbe, 0xef];
        let rekey = Notify::about_esp(NotifyType::RekeySa, 0xdead_beef);
        assert_eq!(parse(&bytes), Ok(rekey.clone()));
        assert_eq!(rekey.esp_spi(), Ok(0xdead_beef));
        assert_eq!(rekey.to_string(), "REKEY_SA (ESP SPI deadbeef)");
        let mut out = Vec::new();
        rekey.write(&mut out).unwrap();
        assert_eq!(out, bytes);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn spi_sizes_other_than_0_4_8_are_errors() {
        for size in (0..=u8::MAX).filter(|size| ![0, 4, 8].contains(size)) {
            let mut bytes = vec![3, size, 0, 14];
            bytes.resize(300, 0);
            assert!(parse(&bytes).is_err(), "{size}");
        }
    }

    #[test]
    fn typed_data_is_checked() {
        assert_eq!(Notify::invalid_ke(KeId::Ecp256).invalid_ke_group(), Ok(KeId::Ecp256));
        for wrong in [vec![], vec![0], vec![0, 19, 0]] {
            let notify = Notify::with_data(NotifyType::InvalidKePayload, wrong);
            assert!(notify.invalid_ke_group().is_err());
        }
        for (length, valid) in [(0, false), (1, true), (64, true), (65, false)] {
            let cookie = Notify::with_data(NotifyType::Cookie, vec![1; length]);
            assert_eq!(cookie.cookie().is_ok(), valid, "{length}");
        }
        let hashes = [HashAlgorithm::Sha2_256, HashAlgorithm::Identity, HashAlgorithm::Unknown(99)];
        let notify = Notify::from_signature_hashes(&hashes);
        assert_eq!(notify.data, [0, 2, 0, 5, 0, 99]);
        assert_eq!(notify.signature_hashes(), Ok(hashes.to_vec()));
        assert!(
            Notify::with_data(NotifyType::SignatureHashAlgorithms, vec![0, 2, 0]).signature_hashes().is_err()
        );
        for (length, valid) in [(19, false), (20, true), (21, false)] {
            let nat = Notify::with_data(NotifyType::NatDetectionSourceIp, vec![1; length]);
            assert_eq!(nat.nat_detection().is_ok(), valid, "{length}");
        }
        assert_eq!(Notify::resource_info(Some(3)).data, [0, 0, 0, 3]);
        assert!(Notify::resource_info(None).data.is_empty());
        let critical = Notify::unsupported_critical(PayloadType::Unknown(200));
        assert_eq!(critical.unsupported_payload(), Ok(PayloadType::Unknown(200)));
        assert!(Notify::new(NotifyType::RekeySa).esp_spi().is_err());
    }
}
