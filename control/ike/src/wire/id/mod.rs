//! Identification payloads (RFC 7296 section 3.5).
//!
//! ```text
//! |   ID Type     |                 RESERVED                      |
//! ~                   Identification Data                         ~
//! ```

mod pattern;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::distinguished_name::DistinguishedName;
use crate::wire::error::WireError;
use crate::wire::number::IdType;
use crate::wire::reader::Reader;

pub use pattern::IdPattern;
pub(crate) use text::is_invisible;

/// Most bytes of an identity.
pub const MAX_ID_BYTES: usize = 4096;

const SECTION: &str = "RFC 7296 section 3.5";

/// Who somebody says to be. The data always suits the type, so that nothing hidden can stand in a name: see
/// [`IdentityError`] for the rules.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identification {
    id_type: IdType,
    data: Vec<u8>,
}

/// Why bytes or a text are no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Wrong length for an address.
    #[error("an address identity has 4 bytes for IPv4 and 16 for IPv6")]
    AddressLength,
    /// Empty.
    #[error("an identity must not be empty")]
    Empty,
    /// Too long.
    #[error("an identity must not be longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// A domain name with other than printable ASCII, or with an `@`.
    #[error(
        "a domain name consists of printable ASCII without spaces and without @ (write other letters as xn--…)"
    )]
    Fqdn,
    /// An e-mail address without `@` or with control characters.
    #[error(
        "an e-mail address is UTF-8 without spaces and control characters, with text on both sides of an @"
    )]
    Rfc822,
    /// No DER-encoded distinguished name.
    #[error("not a distinguished name in DER")]
    DistinguishedName,
    /// No distinguished name's notation.
    #[error(
        "not a distinguished name: expected NAME=value, separated by commas, as in C=JP, O=Clinic, CN=gateway"
    )]
    DistinguishedNameText,
    /// Text behind `@#` is not hexadecimal.
    #[error("behind @# an identity is written in hexadecimal, two digits a byte")]
    Hexadecimal,
    /// A `*` where it stands for nothing.
    #[error("a * stands for names in *.domain, *@domain and as a whole value of a distinguished name only")]
    Pattern,
}

impl Identification {
    /// Of a type and its data, checked against each other.
    pub fn new(id_type: IdType, data: Vec<u8>) -> Result<Self, IdentityError> {
        if data.len() > MAX_ID_BYTES {
            return Err(IdentityError::TooLong);
        }
        match id_type {
            IdType::Ipv4Addr if data.len() != 4 => return Err(IdentityError::AddressLength),
            IdType::Ipv6Addr if data.len() != 16 => return Err(IdentityError::AddressLength),
            // The only type that names nobody (RFC 7619 section 2.2).
            IdType::Null if data.is_empty() => {}
            _ if data.is_empty() => return Err(IdentityError::Empty),
            // A NUL or a line break inside a name has fooled comparisons and logs before.
            IdType::Fqdn if !data.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'@') => {
                return Err(IdentityError::Fqdn);
            }
            IdType::Rfc822Addr if !is_mailbox(&data) => return Err(IdentityError::Rfc822),
            IdType::DerAsn1Dn => {
                DistinguishedName::from_der(&data)?;
            }
            _ => {}
        }
        Ok(Self { id_type, data })
    }

    /// An IPv4 or IPv6 address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self { id_type: IdType::Ipv4Addr, data: address.octets().to_vec() },
            IpAddr::V6(address) => Self { id_type: IdType::Ipv6Addr, data: address.octets().to_vec() },
        }
    }

    /// A domain name.
    pub fn fqdn(name: &str) -> Result<Self, IdentityError> {
        Self::new(IdType::Fqdn, name.as_bytes().to_vec())
    }

    /// An e-mail address.
    pub fn rfc822(mailbox: &str) -> Result<Self, IdentityError> {
        Self::new(IdType::Rfc822Addr, mailbox.as_bytes().to_vec())
    }

    /// A distinguished name in DER, as a certificate's subject.
    pub fn distinguished_name(der: &[u8]) -> Result<Self, IdentityError> {
        Self::new(IdType::DerAsn1Dn, der.to_vec())
    }

    /// An opaque identifier.
    pub fn key_id(bytes: &[u8]) -> Result<Self, IdentityError> {
        Self::new(IdType::KeyId, bytes.to_vec())
    }

    /// Its type.
    pub const fn id_type(&self) -> IdType {
        self.id_type
    }

    /// Its data, as on the wire.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The address, if it is one.
    pub fn as_address(&self) -> Option<IpAddr> {
        match self.id_type {
            IdType::Ipv4Addr => <[u8; 4]>::try_from(self.data()).ok().map(|a| Ipv4Addr::from(a).into()),
            IdType::Ipv6Addr => <[u8; 16]>::try_from(self.data()).ok().map(|a| Ipv6Addr::from(a).into()),
            _ => None,
        }
    }

    /// The domain name, if it is one.
    pub fn as_fqdn(&self) -> Option<&str> {
        (self.id_type == IdType::Fqdn).then(|| std::str::from_utf8(&self.data).ok()).flatten()
    }

    /// The e-mail address, if it is one.
    pub fn as_rfc822(&self) -> Option<&str> {
        (self.id_type == IdType::Rfc822Addr).then(|| std::str::from_utf8(&self.data).ok()).flatten()
    }

    /// The DER of the distinguished name, if it is one.
    pub fn as_distinguished_name(&self) -> Option<&[u8]> {
        (self.id_type == IdType::DerAsn1Dn).then_some(self.data())
    }

    /// Whether both name the same: of one type, domain names and domains of e-mail addresses without regard to case,
    /// distinguished names without regard to case, runs of spaces and string type (RFC 5280 section 7.1), the rest
    /// byte by byte. ID_NULL names nobody and matches nothing.
    pub fn matches(&self, other: &Self) -> bool {
        if self.id_type != other.id_type {
            return false;
        }
        match self.id_type {
            IdType::Null => false,
            IdType::Fqdn => self.data.eq_ignore_ascii_case(&other.data),
            IdType::Rfc822Addr => match (split_mailbox(&self.data), split_mailbox(&other.data)) {
                (Some((local, domain)), Some((other_local, other_domain))) => {
                    local == other_local && domain.eq_ignore_ascii_case(other_domain)
                }
                _ => false,
            },
            IdType::DerAsn1Dn => {
                let parse = |der| DistinguishedName::from_der(der).ok();
                match (parse(&self.data), parse(&other.data)) {
                    (Some(name), Some(other)) => name.matches(&other),
                    _ => false,
                }
            }
            _ => self.data == other.data,
        }
    }

    /// Appends the body of an identification payload, with RESERVED zero.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.id_type.number(), 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

/// Local part and domain: the last `@` separates them, a quoted local part may hold others.
fn split_mailbox(mailbox: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = mailbox.iter().rposition(|byte| *byte == b'@')?;
    let (local, domain) = mailbox.split_at_checked(at)?;
    Some((local, domain.split_first()?.1))
}

fn is_mailbox(data: &[u8]) -> bool {
    let clean = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace() || is_invisible(c));
    std::str::from_utf8(data).is_ok_and(clean)
        && split_mailbox(data).is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

/// An IDi or IDr payload: the identity, and the RESERVED bytes, which AUTH covers as they were sent (RFC 7296
/// section 2.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPayload {
    /// Who.
    pub id: Identification,
    reserved: [u8; 3],
}

impl IdPayload {
    /// To send.
    pub const fn new(id: Identification) -> Self {
        Self { id, reserved: [0; 3] }
    }

    /// The payload without its generic header: RestOfInitIDPayload and RestOfRespIDPayload of RFC 7296 section 2.15.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads the body of an IDi or IDr payload.
    pub fn parse(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let id_type = IdType::from(reader.u8()?);
        let reserved = reader.array()?;
        let place = reader.clone();
        let id = Identification::new(id_type, reader.rest().to_vec()).map_err(|error| match error {
            IdentityError::TooLong => place.too_many("bytes of an identity", MAX_ID_BYTES),
            IdentityError::AddressLength => place.malformed("an address of a wrong length", SECTION),
            IdentityError::Fqdn => place.malformed("a domain name that is not printable ASCII", SECTION),
            IdentityError::Rfc822 => place.malformed("an e-mail address that is none", SECTION),
            IdentityError::DistinguishedName | IdentityError::DistinguishedNameText => {
                place.malformed("a distinguished name that is not DER", SECTION)
            }
            IdentityError::Empty | IdentityError::Hexadecimal | IdentityError::Pattern => {
                place.malformed("an empty identity", SECTION)
            }
        })?;
        Ok(Self { id, reserved })
    }

    /// Appends the body of an IDi or IDr payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.id.id_type.number());
        out.extend_from_slice(&self.reserved);
        out.extend_from_slice(&self.id.data);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::number::PayloadType;

    fn parse(bytes: &[u8]) -> Result<IdPayload, WireError> {
        IdPayload::parse(Reader::new(PayloadType::IdI, 0, bytes))
    }

    fn id(text: &str) -> Identification {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn golden_bytes_of_each_type() {
        for (text, bytes) in [
            ("192.0.2.1", &b"\x01\0\0\0\xc0\0\x02\x01"[..]),
            ("2001:db8::1", b"\x05\0\0\0\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"),
            ("gw.example", b"\x02\0\0\0gw.example"),
            ("user@example", b"\x03\0\0\0user@example"),
            ("@#00ff", b"\x0b\0\0\0\0\xff"),
            ("CN=gw", b"\x09\0\0\0\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02gw"),
        ] {
            let payload = IdPayload::new(id(text));
            assert_eq!(payload.body(), bytes, "{text}");
            assert_eq!(parse(bytes), Ok(payload), "{text}");
        }
    }

    #[test]
    fn reserved_bytes_are_kept_for_auth() {
        let bytes = b"\x02\x01\x02\x03gw";
        assert_eq!(parse(bytes).unwrap().body(), bytes);
    }

    #[test]
    fn data_must_suit_the_type() {
        for bytes in [
            &b""[..],
            b"\x02\0\0",
            b"\x02\0\0\0",
            b"\x01\0\0\0\x01\x02\x03",
            b"\x01\0\0\0\x01\x02\x03\x04\x05",
            b"\x05\0\0\0\x01\x02\x03\x04",
            b"\x02\0\0\0gw.example\0.evil.example",
            b"\x02\0\0\0gw\n",
            b"\x02\0\0\0user@example",
            b"\x03\0\0\0user",
            b"\x03\0\0\0@example",
            b"\x03\0\0\0user@",
            b"\x03\0\0\0us\xffer@example",
            b"\x03\0\0\0us\x1ber@example",
            b"\x09\0\0\0\x30\x00",
            b"\x09\0\0\0\x30\x05\x31\x03",
            b"\x09\0\0\0garbage",
            b"\x0b\0\0\0",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(matches!(parse(&[11; 4 + MAX_ID_BYTES + 1]), Err(WireError::TooMany { .. })));
        assert!(parse(b"\x0d\0\0\0").is_ok());
        assert!(parse(b"\xc8\0\0\0\0").is_ok());
    }

    #[test]
    fn matching_ignores_case_only_where_names_do() {
        assert!(id("gw.example").matches(&id("GW.Example")));
        assert!(id("user@example").matches(&id("user@EXAMPLE")));
        assert!(!id("user@example").matches(&id("User@example")));
        assert!(!id("user@example").matches(&id("other@example")));
        assert!(!id("gw.example").matches(&id("gw2.example")));
        assert!(!id("fqdn:192.0.2.1").matches(&id("192.0.2.1")));
        assert!(!id("keyid:abc").matches(&id("keyid:ABC")));
        assert!(id("C=JP, CN=Gate").matches(&id("C=jp,CN=gate")));
        let nobody = Identification::new(IdType::Null, Vec::new()).unwrap();
        assert!(!nobody.matches(&nobody));
    }

    pub(crate) fn any_id() -> impl Strategy<Value = Identification> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Identification::address(Ipv4Addr::from(bits).into())),
            any::<u128>().prop_map(|bits| Identification::address(Ipv6Addr::from(bits).into())),
            "[!-?A-~]{1,40}".prop_map(|name| Identification::fqdn(&name).unwrap()),
            "[!-~]{1,20}@[!-?A-~]{1,20}".prop_map(|mailbox| Identification::rfc822(&mailbox).unwrap()),
            prop::collection::vec(any::<u8>(), 1..40)
                .prop_map(|bytes| Identification::key_id(&bytes).unwrap()),
            ("[A-Z]{2}", "[a-zA-Z ,+\\\\\"<>;=#\u{e9}\u{3042}]{1,20}").prop_map(|(country, name)| {
                let escaped: String =
                    name.chars().flat_map(|c| escape(c).chars().collect::<Vec<_>>()).collect();
                id(&format!("C={country}, CN=x{escaped}x"))
            }),
        ]
    }

    fn escape(c: char) -> String {
        if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() }
    }

    proptest! {
        #[test]
        fn round_trip(id in any_id(), reserved: [u8; 3]) {
            let payload = IdPayload { id, reserved };
            prop_assert_eq!(parse(&payload.body()), Ok(payload));
        }

        #[test]
        fn what_parses_is_shown_safely_and_matches_itself(
            id_type: u8, data in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(id) = Identification::new(IdType::from(id_type), data) {
                let shown = format!("{id} {id:?}");
                prop_assert!(!shown.chars().any(|c| c.is_control() || is_invisible(c)), "{shown:?}");
                prop_assert!(id.matches(&id) || id.id_type() == IdType::Null);
            }
        }
    }
}
