//! Distinguished names (X.501; RFC 5280 section 4.1.2.4): DER, text, and comparison.
//!
//! The text is that of RFC 4514 in its escapes, but in the order of the certificate (`C=JP, O=Clinic, CN=gateway`), as
//! strongSwan and `openssl x509 -subject` write it and administrators copy it.

use der::asn1::Utf8StringRef;
use der::{Decode, Encode, Tag, Tagged};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

use crate::wire::id::{IdentityError, is_invisible};

/// A parsed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistinguishedName(RdnSequence);

impl DistinguishedName {
    /// Reads DER. An empty sequence is no name, and neither is one with an empty RDN.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let name = RdnSequence::from_der(der).map_err(|_| IdentityError::DistinguishedName)?;
        if name.is_empty() || name.iter().any(RelativeDistinguishedName::is_empty) {
            return Err(IdentityError::DistinguishedName);
        }
        Ok(Self(name))
    }

    /// Reads the text, RDNs separated by commas, values of a multi-valued RDN by `+`. Spaces around separators are
    /// not part of values unless escaped.
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let parse = |rdn: &str| {
            let values =
                split_unescaped(rdn, '+').into_iter().map(parse_attribute).collect::<Result<Vec<_>, _>>()?;
            RelativeDistinguishedName::try_from(values).map_err(|_| IdentityError::DistinguishedNameText)
        };
        let rdns =
            split_unescaped(text, ',').into_iter().map(parse).collect::<Result<Vec<_>, IdentityError>>()?;
        Ok(Self(RdnSequence::from(rdns)))
    }

    /// The DER.
    pub fn to_der(&self) -> Result<Vec<u8>, IdentityError> {
        self.0.to_der().map_err(|_| IdentityError::DistinguishedName)
    }

    /// Whether both name the same by RFC 5280 section 7.1: the same attributes in the same order, their strings
    /// without regard to type, case and runs of spaces; values that are no strings byte by byte.
    pub fn matches(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.0.iter(), other.0.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if same_rdn(a, b) => {}
                _ => return false,
            }
        }
    }
}

/// Within an RDN the values are a set: DER's order depends on the string types.
fn same_rdn(a: &RelativeDistinguishedName, b: &RelativeDistinguishedName) -> bool {
    let mut left: Vec<_> = b.iter().collect();
    a.iter().all(|value| {
        let found = left.iter().position(|other| same_attribute(value, other));
        found.map(|at| left.swap_remove(at)).is_some()
    }) && left.is_empty()
}

fn same_attribute(a: &AttributeTypeAndValue, b: &AttributeTypeAndValue) -> bool {
    a.oid == b.oid
        && match (string_value(a), string_value(b)) {
            (Some(a), Some(b)) => folded(a) == folded(b),
            (None, None) => a.value == b.value,
            _ => false,
        }
}

/// The text of a value of one of the string types in use (RFC 5280 section 4.1.2.4: PrintableString and UTF8String;
/// IA5String for e-mail addresses and domain components).
fn string_value(attribute: &AttributeTypeAndValue) -> Option<&str> {
    match attribute.value.tag() {
        Tag::PrintableString | Tag::Utf8String | Tag::Ia5String => {
            std::str::from_utf8(attribute.value.value()).ok()
        }
        _ => None,
    }
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Parts between separators that no backslash precedes.
fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c: char| {
        let separates = !escaped && c == separator;
        escaped = !escaped && c == '\\';
        separates
    })
    .collect()
}

fn parse_attribute(text: &str) -> Result<AttributeTypeAndValue, IdentityError> {
    let (name, value) = text.split_once('=').ok_or(IdentityError::DistinguishedNameText)?;
    let (name, value) = (name.trim(), trim_unescaped(value));
    // What OpenSSL calls this attribute.
    let name = if name.eq_ignore_ascii_case("E") { "emailAddress" } else { name };
    let attribute: AttributeTypeAndValue =
        format!("{name}={value}").parse().map_err(|_| IdentityError::DistinguishedNameText)?;
    let empty = attribute.value.value().is_empty();
    let text_type = matches!(attribute.value.tag(), Tag::PrintableString | Tag::Utf8String | Tag::Ia5String);
    if empty || (text_type && Utf8StringRef::new(attribute.value.value()).is_err()) {
        return Err(IdentityError::DistinguishedNameText);
    }
    Ok(attribute)
}

/// Without the spaces around, but with one that a backslash protects at the end.
fn trim_unescaped(value: &str) -> &str {
    let value = value.trim_start();
    let trimmed = value.trim_end();
    let backslashes = trimmed.len().saturating_sub(trimmed.trim_end_matches('\\').len());
    let protected = trimmed.len().saturating_add(1);
    if backslashes % 2 == 1 { value.get(..protected).unwrap_or(trimmed) } else { trimmed }
}

impl std::fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, rdn) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            for (index, attribute) in rdn.iter().enumerate() {
                if index > 0 {
                    f.write_str("+")?;
                }
                write_visible(f, &attribute.to_string())?;
            }
        }
        Ok(())
    }
}

/// Escapes, as RFC 4514 section 2.4 permits, every character that a terminal or a log viewer would act on.
fn write_visible(f: &mut std::fmt::Formatter<'_>, text: &str) -> std::fmt::Result {
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                write!(f, "\\{byte:02x}")?;
            }
        } else {
            std::fmt::Write::write_char(f, c)?;
        }
    }
    Ok(())
}
