//! Security Association payload (RFC 7296 section 3.3): proposals of transforms.

use crate::wire::error::WireError;
use crate::wire::header::Spi;
use crate::wire::number::ProtocolId;
use crate::wire::reader::{Reader, count_u8, length_u16};
use crate::wire::transform::Transform;

/// Most proposals of one payload.
pub const MAX_PROPOSALS: usize = 64;
/// Most transforms of one proposal.
pub const MAX_TRANSFORMS: usize = 128;

const MORE_PROPOSALS: u8 = 2;

/// An SA payload: proposals, best first; the answer has exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// At least one. Numbers rise by one; an offer starts at 1, an answer has the number of the offer it takes.
    pub proposals: Vec<Proposal>,
}

/// A proposal substructure (RFC 7296 section 3.3.1).
///
/// ```text
/// | Last Substruc |   RESERVED    |         Proposal Length       |
/// | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
/// ~                        SPI (variable)                         ~
/// ~                        <Transforms>                           ~
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Proposal Num; never 0.
    pub number: u8,
    /// What the SA is for.
    pub protocol: ProtocolId,
    /// The sender's inbound SPI.
    pub spi: SaSpi,
    /// The algorithms, the best of each kind first.
    pub transforms: Vec<Transform>,
}

/// An SPI whose size depends on the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaSpi {
    /// None: the first IKE SA has its SPIs in the header.
    None,
    /// Of ESP or AH: four bytes, as the number they are in network byte order.
    Child(u32),
    /// Of an IKE SA: eight bytes.
    Ike(Spi),
    /// Of a protocol that we do not know. Neither empty nor four nor eight bytes.
    Other(Vec<u8>),
}

impl SaSpi {
    /// By size: none, four and eight bytes have their meaning.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        if let Ok(spi) = bytes.try_into() {
            Self::Child(u32::from_be_bytes(spi))
        } else if let Ok(spi) = bytes.try_into() {
            Self::Ike(Spi(u64::from_be_bytes(spi)))
        } else if bytes.is_empty() {
            Self::None
        } else {
            Self::Other(bytes.to_vec())
        }
    }

    /// As on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Child(spi) => spi.to_be_bytes().to_vec(),
            Self::Ike(spi) => spi.to_bytes().to_vec(),
            Self::Other(bytes) => bytes.clone(),
        }
    }

    /// Whether the size is one that `protocol` has: IKE none or eight bytes, AH and ESP four; of protocols that we do
    /// not know we know no size.
    fn fits(&self, protocol: ProtocolId) -> bool {
        match protocol {
            ProtocolId::Ike => matches!(self, Self::None | Self::Ike(_)),
            ProtocolId::Ah | ProtocolId::Esp => matches!(self, Self::Child(_)),
            ProtocolId::None | ProtocolId::Unknown(_) => true,
        }
    }
}

impl SecurityAssociation {
    /// Of proposals as they stand.
    pub const fn new(proposals: Vec<Proposal>) -> Self {
        Self { proposals }
    }

    /// Reads the body of an SA payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let mut proposals: Vec<Proposal> = Vec::new();
        loop {
            let (proposal, last) = Proposal::parse(&mut reader)?;
            if proposals.len() == MAX_PROPOSALS {
                return Err(reader.too_many("proposals", MAX_PROPOSALS));
            }
            if !follows(proposals.last(), &proposal) {
                return Err(reader.malformed("proposals are not numbered one by one", SECTION));
            }
            proposals.push(proposal);
            if last {
                reader.end(SECTION)?;
                return Ok(Self { proposals });
            }
        }
    }

    /// Appends the body of an SA payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let count = self.proposals.len();
        if count == 0 {
            return Err(WireError::Unwritable { what: "an SA payload without a proposal", rule: SECTION });
        }
        if count > MAX_PROPOSALS {
            return Err(WireError::TooLong { what: "proposals", actual: count, limit: MAX_PROPOSALS });
        }
        let mut previous = None;
        for (index, proposal) in self.proposals.iter().enumerate() {
            if !follows(previous, proposal) {
                return Err(WireError::Unwritable {
                    what: "proposals are not numbered one by one",
                    rule: SECTION,
                });
            }
            proposal.write(index.saturating_add(1) == count, out)?;
            previous = Some(proposal);
        }
        Ok(())
    }
}

const SECTION: &str = "RFC 7296 section 3.3.1";

fn follows(previous: Option<&Proposal>, proposal: &Proposal) -> bool {
    match previous {
        None => proposal.number != 0,
        Some(previous) => previous.number.checked_add(1) == Some(proposal.number),
    }
}

impl Proposal {
    /// Reads one substructure, and whether it is the last.
    fn parse(reader: &mut Reader<'_>) -> Result<(Self, bool), WireError> {
        let last = match reader.u8()? {
            0 => true,
            MORE_PROPOSALS => false,
            _ => return Err(reader.malformed("Last Substruc of a proposal is neither 0 nor 2", SECTION)),
        };
        reader.u8()?;
        let length = usize::from(reader.u16()?);
        let Some(length) = length.checked_sub(4) else {
            return Err(reader.malformed("proposal length is less than its header", SECTION));
        };
        let mut body = reader.sub(length)?;
        let number = body.u8()?;
        let protocol = ProtocolId::from(body.u8()?);
        let spi_size = usize::from(body.u8()?);
        let count = usize::from(body.u8()?);
        let spi = SaSpi::from_bytes(body.take(spi_size)?);
        if !spi.fits(protocol) {
            return Err(body.malformed("SPI size does not fit the protocol", SECTION));
        }
        if count > MAX_TRANSFORMS {
            return Err(body.too_many("transforms of a proposal", MAX_TRANSFORMS));
        }
        let transforms = (1..=count)
            .map(|ordinal| Transform::parse(&mut body, ordinal == count))
            .collect::<Result<Vec<_>, _>>()?;
        body.end(SECTION)?;
        Ok((Self { number, protocol, spi, transforms }, last))
    }

    fn write(&self, last: bool, out: &mut Vec<u8>) -> Result<(), WireError> {
        if !self.spi.fits(self.protocol) {
            return Err(WireError::Unwritable { what: "SPI size does not fit the protocol", rule: SECTION });
        }
        let spi = self.spi.to_bytes();
        let count = self.transforms.len();
        if count > MAX_TRANSFORMS {
            return Err(WireError::TooLong {
                what: "transforms of a proposal",
                actual: count,
                limit: MAX_TRANSFORMS,
            });
        }
        let mut transforms = Vec::new();
        for (index, transform) in self.transforms.iter().enumerate() {
            transform.write(index.saturating_add(1) == count, &mut transforms)?;
        }
        let length = transforms.len().saturating_add(spi.len()).saturating_add(8);
        out.extend_from_slice(&[if last { 0 } else { MORE_PROPOSALS }, 0]);
        out.extend_from_slice(&length_u16("bytes of a proposal", length)?.to_be_bytes());
        out.extend_from_slice(&[self.number, self.protocol.number()]);
        out.push(count_u8("bytes of an SPI", spi.len())?);
        out.push(count_u8("transforms of a proposal", count)?);
        out.extend_from_slice(&spi);
        out.extend_from_slice(&transforms);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::number::PayloadType;
    use crate::wire::transform::{Attribute, AttributeValue, EncrId, TransformId};

    fn parse(bytes: &[u8]) -> Result<SecurityAssociation, WireError> {
        SecurityAssociation::parse(Reader::new(PayloadType::Sa, 0, bytes))
    }

    /// One ESP proposal: AES-GCM-16 with 128 bits, no ESN.
    const ESP: [u8; 32] = [
        0, 0, 0, 32, 1, 3, 4, 2, // last proposal, 32 bytes, number 1, ESP, SPI of 4, two transforms
        0xc0, 0xff, 0xee, 0x01, // SPI
        3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0, 128, // ENCR_AES_GCM_16, 128 bits
        0, 0, 0, 8, 5, 0, 0, 0, // no ESN
    ];

    #[test]
    fn golden_esp_proposal() {
        let sa = SecurityAssociation::new(vec![Proposal {
            number: 1,
            protocol: ProtocolId::Esp,
            spi: SaSpi::Child(0xc0ff_ee01),
            transforms: vec![
                Transform::encr(EncrId::AesGcm16, 128),
                Transform::new(TransformId::new(crate::wire::TransformType::Esn, 0)),
            ],
        }]);
        assert_eq!(parse(&ESP), Ok(sa.clone()));
        let mut out = Vec::new();
        sa.write(&mut out).unwrap();
        assert_eq!(out, ESP);
    }

    #[test]
    fn every_truncation_and_every_wrong_length_is_an_error() {
        for end in 0..ESP.len() {
            assert!(parse(&ESP[..end]).is_err(), "{end}");
        }
        let mut longer = ESP.to_vec();
        longer.push(0);
        assert!(parse(&longer).is_err());
        // Offsets of: proposal length, SPI size, transforms, first and second transform's length.
        for (at, right) in [(3usize, 32u8), (6, 4), (7, 2), (15, 12), (27, 8)] {
            for wrong in (0..=u8::MAX).filter(|&wrong| wrong != right) {
                let mut bytes = ESP;
                bytes[at] = wrong;
                assert!(parse(&bytes).is_err(), "byte {at} as {wrong}");
            }
        }
    }

    #[test]
    fn numbering_and_spi_sizes_are_enforced() {
        let proposal = |number, protocol, spi| Proposal { number, protocol, spi, transforms: Vec::new() };
        let write = |proposals| SecurityAssociation::new(proposals).write(&mut Vec::new());
        let esp = |number| proposal(number, ProtocolId::Esp, SaSpi::Child(1));
        assert!(write(vec![esp(1), esp(2)]).is_ok());
        assert!(write(vec![esp(7)]).is_ok());
        assert!(write(vec![esp(0)]).is_err());
        assert!(write(vec![esp(1), esp(3)]).is_err());
        assert!(write(vec![esp(1), esp(1)]).is_err());
        assert!(write(Vec::new()).is_err());
        assert!(write(vec![proposal(1, ProtocolId::Esp, SaSpi::None)]).is_err());
        assert!(write(vec![proposal(1, ProtocolId::Ike, SaSpi::Child(1))]).is_err());
        assert!(write(vec![proposal(1, ProtocolId::Ike, SaSpi::Ike(Spi(1)))]).is_ok());
        let bytes = [2, 0, 0, 8, 1, 1, 0, 0, 0, 0, 0, 8, 3, 1, 0, 0];
        assert!(matches!(parse(&bytes), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn proposals_are_bounded() {
        let mut bytes = Vec::new();
        for number in 1..=200u8 {
            bytes.extend_from_slice(&[2, 0, 0, 8, number, 1, 0, 0]);
        }
        assert!(matches!(parse(&bytes), Err(WireError::TooMany { limit: MAX_PROPOSALS, .. })));
    }

    pub(crate) fn any_transform() -> impl Strategy<Value = Transform> {
        let value = prop_oneof![
            any::<u16>().prop_map(AttributeValue::Short),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(AttributeValue::Long),
        ];
        let attribute =
            (15u16..0x8000, value).prop_map(|(attribute_type, value)| Attribute { attribute_type, value });
        (any::<u8>(), any::<u16>(), any::<Option<u16>>(), prop::collection::vec(attribute, 0..3)).prop_map(
            |(kind, id, key_length, other_attributes)| Transform {
                id: TransformId::new(kind.into(), id),
                key_length,
                other_attributes,
            },
        )
    }

    pub(crate) fn any_sa() -> impl Strategy<Value = SecurityAssociation> {
        let spi = prop_oneof![
            any::<u32>().prop_map(|spi| (ProtocolId::Esp, SaSpi::Child(spi))),
            any::<u64>().prop_map(|spi| (ProtocolId::Ike, SaSpi::Ike(Spi(spi)))),
            Just((ProtocolId::Ike, SaSpi::None)),
            prop::collection::vec(any::<u8>(), 0..30)
                .prop_map(|spi| (ProtocolId::Unknown(200), SaSpi::from_bytes(&spi))),
        ];
        let proposal = (spi, prop::collection::vec(any_transform(), 0..8));
        (1u8..100, prop::collection::vec(proposal, 1..6)).prop_map(|(first, proposals)| {
            let proposals = (first..).zip(proposals);
            SecurityAssociation::new(
                proposals
                    .map(|(number, ((protocol, spi), transforms))| Proposal {
                        number,
                        protocol,
                        spi,
                        transforms,
                    })
                    .collect(),
            )
        })
    }

    proptest! {
        #[test]
        fn round_trip(sa in any_sa()) {
            let mut out = Vec::new();
            sa.write(&mut out).unwrap();
            prop_assert_eq!(parse(&out), Ok(sa));
        }
    }
}
