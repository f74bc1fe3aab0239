//! Configuration payload (RFC 7296 section 3.15).
//!
//! ```text
//! |   CFG Type    |                    RESERVED                   |
//! ~                   Configuration Attributes                    ~
//! |R|         Attribute Type      |            Length             |
//! ~                             Value                             ~
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::error::WireError;
use crate::wire::number::{ConfigAttributeType, ConfigType};
use crate::wire::reader::{Reader, length_u16};

/// Most attributes of one payload.
pub const MAX_CONFIG_ATTRIBUTES: usize = 128;

const SECTION: &str = "RFC 7296 section 3.15.1";
const RESERVED_BIT: u16 = 0x8000;

/// A CP payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Request or answer.
    pub config_type: ConfigType,
    /// What is asked or given; those we do not know included.
    pub attributes: Vec<ConfigAttribute>,
}

/// One attribute. An empty value in a request asks for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigAttribute {
    /// Its type, 15 bits.
    pub attribute_type: ConfigAttributeType,
    /// Its value, of a length its type has.
    pub value: Vec<u8>,
}

impl ConfigAttribute {
    /// An IPv4 address of an attribute that holds exactly one.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.value.as_slice()).ok().map(Ipv4Addr::from)
    }

    /// An IPv6 address of an attribute that holds one, alone or with a prefix length.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        match self.value.len() {
            16 | 17 => self.value.first_chunk::<16>().copied().map(Ipv6Addr::from),
            _ => None,
        }
    }

    /// Whether the value has a length that RFC 7296 section 3.15.1 gives its type; types we do not know have any.
    fn fits(&self) -> bool {
        use ConfigAttributeType::*;
        let length = self.value.len();
        match self.attribute_type {
            InternalIp4Address | InternalIp4Netmask | InternalIp4Dns | InternalIp4Nbns | InternalIp4Dhcp => {
                matches!(length, 0 | 4)
            }
            InternalIp6Dns | InternalIp6Dhcp => matches!(length, 0 | 16),
            // Some leave the prefix length out.
            InternalIp6Address => matches!(length, 0 | 16 | 17),
            InternalIp4Subnet => matches!(length, 0 | 8),
            InternalIp6Subnet => matches!(length, 0 | 17),
            SupportedAttributes => length.is_multiple_of(2),
            ApplicationVersion | Unknown(_) => true,
        }
    }
}

impl Configuration {
    /// Reads the body of a CP payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let config_type = ConfigType::from(reader.u8()?);
        reader.array::<3>()?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            let attribute_type = ConfigAttributeType::from(reader.u16()? & !RESERVED_BIT);
            let length = usize::from(reader.u16()?);
            let attribute = ConfigAttribute { attribute_type, value: reader.take(length)?.to_vec() };
            if !attribute.fits() {
                return Err(
                    reader.malformed("length of a configuration attribute does not fit its type", SECTION)
                );
            }
            if attributes.len() == MAX_CONFIG_ATTRIBUTES {
                return Err(reader.too_many("configuration attributes", MAX_CONFIG_ATTRIBUTES));
            }
            attributes.push(attribute);
        }
        Ok(Self { config_type, attributes })
    }

    /// Appends the body of a CP payload.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let actual = self.attributes.len();
        if actual > MAX_CONFIG_ATTRIBUTES {
            let limit = MAX_CONFIG_ATTRIBUTES;
            return Err(WireError::TooLong { what: "configuration attributes", actual, limit });
        }
        out.extend_from_slice(&[self.config_type.number(), 0, 0, 0]);
        for attribute in &self.attributes {
            let number = attribute.attribute_type.number();
            if number & RESERVED_BIT != 0 || !attribute.fits() {
                return Err(WireError::Unwritable {
                    what: "a configuration attribute has a type past 15 bits or a length its type does not have",
                    rule: SECTION,
                });
            }
            out.extend_from_slice(&number.to_be_bytes());
            let length = length_u16("bytes of a configuration attribute", attribute.value.len())?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&attribute.value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number::PayloadType;

    fn parse(bytes: &[u8]) -> Result<Configuration, WireError> {
        Configuration::parse(Reader::new(PayloadType::Configuration, 0, bytes))
    }

    /// CFG_REQUEST for an address, a name server 192.0.2.1, and an attribute without a name.
    const REQUEST: [u8; 21] = [1, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 4, 192, 0, 2, 1, 0x7f, 0xff, 0, 1, 9];

    #[test]
    fn golden_request() {
        let request = parse(&REQUEST).unwrap();
        assert_eq!(request.config_type, ConfigType::Request);
        let [address, dns, unknown] = request.attributes.as_slice() else { panic!("{request:?}") };
        assert_eq!(address.attribute_type, ConfigAttributeType::InternalIp4Address);
        assert_eq!(address.ipv4(), None);
        assert_eq!(dns.ipv4(), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(unknown.attribute_type, ConfigAttributeType::Unknown(0x7fff));
        let mut out = Vec::new();
        request.write(&mut out).unwrap();
        assert_eq!(out, REQUEST);
    }

    #[test]
    fn truncations_and_wrong_lengths_are_errors() {
        let whole = [4, 8, 16];
        for end in (0..REQUEST.len()).filter(|end| !whole.contains(end)) {
            assert!(parse(&REQUEST[..end]).is_err(), "{end}");
        }
        assert!(parse(&[1, 0, 0, 0, 0, 1, 0, 3, 1, 2, 3]).is_err());
        let ip6 = |length: u8| parse(&[&[1, 0, 0, 0, 0, 8, 0, length][..], &vec![9; length.into()]].concat());
        for length in (0..20).filter(|length| ![0, 16, 17].contains(length)) {
            assert!(ip6(length).is_err(), "{length}");
        }
        for length in [16, 17] {
            let address = ip6(length).unwrap().attributes.first().and_then(ConfigAttribute::ipv6);
            assert_eq!(address, Some(Ipv6Addr::from([9; 16])), "with the prefix length and without");
        }
    }

    #[test]
    fn attributes_are_bounded() {
        let mut bytes = vec![1, 0, 0, 0];
        for _ in 0..=MAX_CONFIG_ATTRIBUTES {
            bytes.extend_from_slice(&[0, 1, 0, 0]);
        }
        assert!(matches!(parse(&bytes), Err(WireError::TooMany { .. })));
    }
}
