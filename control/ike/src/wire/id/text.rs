//! Identities as text: what an administrator writes, and what a log shows.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::wire::distinguished_name::DistinguishedName;
use crate::wire::id::{Identification, IdentityError};
use crate::wire::number::IdType;

/// Characters that change how the text around them looks without being seen: zero width and directional ones.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl std::fmt::Display for Identification {
    /// What [`FromStr`](std::str::FromStr) reads. Never a control or invisible character, whatever the peer sent.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id_type() {
            IdType::Ipv4Addr | IdType::Ipv6Addr => match self.as_address() {
                Some(address) => address.fmt(f),
                None => write_hex(f, self.data()),
            },
            IdType::Fqdn => {
                let name = self.as_fqdn().unwrap_or_default();
                // A name that would read back as another kind says what it is.
                let plain = !name.contains(['=', ':']) && name.parse::<IpAddr>().is_err();
                if plain { f.write_str(name) } else { write!(f, "fqdn:{name}") }
            }
            IdType::Rfc822Addr => {
                let mailbox = self.as_rfc822().unwrap_or_default();
                let plain = !mailbox.contains(['=', ':']) && !mailbox.starts_with('@');
                if plain { f.write_str(mailbox) } else { write!(f, "email:{mailbox}") }
            }
            IdType::DerAsn1Dn => match DistinguishedName::from_der(self.data()) {
                Ok(name) => name.fmt(f),
                Err(_) => write_hex(f, self.data()),
            },
            IdType::KeyId if self.data().iter().all(u8::is_ascii_graphic) => {
                f.write_str("keyid:")?;
                self.data().iter().try_for_each(|byte| f.write_char(char::from(*byte)))
            }
            IdType::KeyId => {
                f.write_str("@#")?;
                write_hex(f, self.data())
            }
            id_type => {
                write!(f, "{id_type}:")?;
                write_hex(f, self.data())
            }
        }
    }
}

fn write_hex(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl std::fmt::Debug for Identification {
    /// Type and the shown form, so that a log of values is as safe as a log of texts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({self})", self.id_type())
    }
}

impl std::str::FromStr for Identification {
    type Err = IdentityError;

    /// Reads an identity of the configuration, by the rules that strongSwan has:
    ///
    /// | text | identity |
    /// |---|---|
    /// | `192.0.2.1`, `2001:db8::1` | ID_IPV4_ADDR, ID_IPV6_ADDR |
    /// | `fqdn:`, `email:`, `keyid:`, `dn:` before a text | that kind |
    /// | `@#0a1b` | ID_KEY_ID, in hexadecimal |
    /// | `@@user@example` | ID_RFC822_ADDR |
    /// | `@gw.example` | ID_FQDN |
    /// | `C=JP, O=Clinic, CN=gateway` (anything with `=`) | ID_DER_ASN1_DN, in the order of the certificate |
    /// | `user@example` | ID_RFC822_ADDR |
    /// | all else | ID_FQDN |
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let untrimmed = text.trim_start();
        let text = untrimmed.trim_end();
        // Its last space may be part of it.
        let distinguished_name = |text: &str| {
            let der = DistinguishedName::from_text(text)?.to_der()?;
            Self::new(IdType::DerAsn1Dn, der)
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::address(address));
        }
        match text.split_once(':') {
            Some(("fqdn", name)) => return Self::fqdn(name),
            Some(("email", mailbox)) => return Self::rfc822(mailbox),
            Some(("keyid", id)) => return Self::key_id(id.as_bytes()),
            Some(("dn", _)) => {
                return distinguished_name(untrimmed.strip_prefix("dn:").unwrap_or(untrimmed));
            }
            _ => {}
        }
        if let Some(hex) = text.strip_prefix("@#") {
            Self::key_id(&from_hex(hex).ok_or(IdentityError::Hexadecimal)?)
        } else if let Some(mailbox) = text.strip_prefix("@@") {
            Self::rfc822(mailbox)
        } else if let Some(name) = text.strip_prefix('@') {
            Self::fqdn(name)
        } else if text.contains('=') {
            distinguished_name(untrimmed)
        } else if text.contains('@') {
            Self::rfc822(text)
        } else {
            Self::fqdn(text)
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::id::tests::any_id;

    #[test]
    fn kinds_by_notation() {
        for (text, id_type, shown) in [
            ("192.0.2.1", IdType::Ipv4Addr, "192.0.2.1"),
            ("2001:db8::1", IdType::Ipv6Addr, "2001:db8::1"),
            ("gw.example", IdType::Fqdn, "gw.example"),
            ("@gw.example", IdType::Fqdn, "gw.example"),
            (" gw.example ", IdType::Fqdn, "gw.example"),
            ("fqdn:192.0.2.1", IdType::Fqdn, "fqdn:192.0.2.1"),
            ("user@example", IdType::Rfc822Addr, "user@example"),
            ("@@user@example", IdType::Rfc822Addr, "user@example"),
            ("email:a=b@example", IdType::Rfc822Addr, "email:a=b@example"),
            ("keyid:clinic-7", IdType::KeyId, "keyid:clinic-7"),
            ("@#636c", IdType::KeyId, "keyid:cl"),
            ("@#00Ff", IdType::KeyId, "@#00ff"),
            ("C=JP, O=Clinic, CN=gw", IdType::DerAsn1Dn, "C=JP, O=Clinic, CN=gw"),
            ("dn:CN=gw", IdType::DerAsn1Dn, "CN=gw"),
            // A space that a backslash protects belongs to the name.
            (" CN=gw\\  ", IdType::DerAsn1Dn, "CN=gw\\ "),
            ("dn:CN=gw\\ ", IdType::DerAsn1Dn, "CN=gw\\ "),
        ] {
            let id: Identification = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((id.id_type(), id.to_string().as_str()), (id_type, shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_identity_is_refused_with_its_reason() {
        for (text, error) in [
            ("", IdentityError::Empty),
            ("gw example", IdentityError::Fqdn),
            ("\u{30b2}\u{30fc}\u{30c8}.example", IdentityError::Fqdn),
            ("a b@example", IdentityError::Rfc822),
            ("user@exam\u{202e}ple", IdentityError::Rfc822),
            ("keyid:", IdentityError::Empty),
            ("@#0", IdentityError::Hexadecimal),
            ("@#zz", IdentityError::Hexadecimal),
            ("@#", IdentityError::Empty),
            ("CN=", IdentityError::DistinguishedNameText),
            ("CN=gw,", IdentityError::DistinguishedNameText),
            ("=gw", IdentityError::DistinguishedNameText),
            ("NOSUCHNAME=gw", IdentityError::DistinguishedNameText),
        ] {
            assert_eq!(text.parse::<Identification>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trip(id in any_id()) {
            let shown = id.to_string();
            prop_assert_eq!(shown.parse(), Ok(id), "{}", shown);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|(CN|C|dn:O|@#|2\\.5\\.4\\.3)=[ -~]{0,30}") {
            if let Ok(id) = text.parse::<Identification>() {
                prop_assert!(id.matches(&id));
                prop_assert_eq!(id.to_string().parse(), Ok(id));
            }
        }
    }
}
