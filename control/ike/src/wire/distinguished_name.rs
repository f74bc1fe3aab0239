//! Distinguished names (X.501; RFC 5280 section 4.1.2.4): DER, text, and comparison.
//!
//! The text is that of RFC 4514 in its escapes, but in the order of the certificate (`C=JP, O=Clinic, CN=gateway`), as
//! strongSwan and `openssl x509 -subject` write it and administrators copy it.

use der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
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
        self.agrees(other, same_attribute)
    }

    /// Whether it is one of those that a pattern means: as [`Self::matches`], but where a value of the pattern is `*` any
    /// value of that attribute will do.
    pub fn fits(&self, pattern: &Self) -> bool {
        pattern.agrees(self, |pattern, name| {
            same_attribute(pattern, name) || is_wildcard(pattern) && pattern.oid == name.oid
        })
    }

    /// How many values are `*`.
    pub fn wildcards(&self) -> usize {
        self.0.iter().map(|rdn| rdn.iter().filter(|value| is_wildcard(value)).count()).sum()
    }

    fn agrees(
        &self,
        other: &Self,
        same: impl Fn(&AttributeTypeAndValue, &AttributeTypeAndValue) -> bool,
    ) -> bool {
        let (mut ours, mut theirs) = (self.0.iter(), other.0.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if same_rdn(a, b, &same) => {}
                _ => return false,
            }
        }
    }
}

fn is_wildcard(attribute: &AttributeTypeAndValue) -> bool {
    string_value(attribute) == Some("*")
}

/// Within an RDN the values are a set: DER's order depends on the string types.
fn same_rdn(
    a: &RelativeDistinguishedName,
    b: &RelativeDistinguishedName,
    same: &impl Fn(&AttributeTypeAndValue, &AttributeTypeAndValue) -> bool,
) -> bool {
    let mut left: Vec<_> = b.iter().collect();
    a.iter().all(|value| {
        let found = left.iter().position(|other| same(value, other));
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
    if !is_well_escaped(value) {
        return Err(IdentityError::DistinguishedNameText);
    }
    let attribute: AttributeTypeAndValue =
        format!("{name}={value}").parse().map_err(|_| IdentityError::DistinguishedNameText)?;
    let value = &attribute.value;
    let suits_its_type = match value.tag() {
        Tag::PrintableString => PrintableStringRef::try_from(value).is_ok(),
        Tag::Ia5String => Ia5StringRef::try_from(value).is_ok(),
        Tag::Utf8String => Utf8StringRef::try_from(value).is_ok(),
        _ => true,
    };
    if value.value().is_empty() || !suits_its_type {
        return Err(IdentityError::DistinguishedNameText);
    }
    Ok(attribute)
}

/// Whether every backslash is followed by a special character or two hexadecimal digits (RFC 4514 section 3), and a
/// value in hexadecimal has whole bytes; `x509-cert` lets the unfinished pass.
fn is_well_escaped(value: &str) -> bool {
    if let Some(hex) = value.strip_prefix('#') {
        return hex.len().is_multiple_of(2);
    }
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let finished = byte != b'\\'
            || match bytes.next() {
                Some(high) if high.is_ascii_hexdigit() => {
                    bytes.next().is_some_and(|low| low.is_ascii_hexdigit())
                }
                special => special.is_some(),
            };
        if !finished {
            return false;
        }
    }
    true
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
                write_attribute(f, attribute)?;
            }
        }
        Ok(())
    }
}

/// As text, if that would read back as the same; else in hexadecimal (RFC 4514 section 2.4). The string type is lost in
/// a text, and some types and values that certificates have cannot be said by one.
fn write_attribute(f: &mut std::fmt::Formatter<'_>, attribute: &AttributeTypeAndValue) -> std::fmt::Result {
    let text = visible(&attribute.to_string());
    if parse_attribute(&text).is_ok_and(|again| same_attribute(&again, attribute)) {
        return f.write_str(&text);
    }
    write!(f, "{}=#", attribute.oid)?;
    let der = attribute.value.to_der().map_err(|_| std::fmt::Error)?;
    der.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Escapes, as RFC 4514 section 2.4 permits, every character that a terminal or a log viewer would act on.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            let mut buffer = [0; 4];
            visible.extend(c.encode_utf8(&mut buffer).bytes().map(|byte| format!("\\{byte:02x}")));
        } else {
            visible.push(c);
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DistinguishedName {
        DistinguishedName::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// SEQUENCE { SET { SEQUENCE { OID 2.5.4.3, `tag` `value` } } }
    fn common_name(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = |extra: usize| u8::try_from(value.len() + extra).unwrap();
        let mut der =
            vec![0x30, length(11), 0x31, length(9), 0x30, length(7), 6, 3, 0x55, 4, 3, tag, length(0)];
        der.extend_from_slice(value);
        der
    }

    #[test]
    fn der_is_in_the_order_of_the_text() {
        let der = name("C=JP, CN=gw").to_der().unwrap();
        assert_eq!(
            der,
            b"\x30\x1a\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02JP\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02gw"
        );
        assert_eq!(DistinguishedName::from_der(&der).unwrap().to_string(), "C=JP, CN=gw");
    }

    #[test]
    fn separators_in_values_are_escaped_both_ways() {
        for text in [
            "O=Clinic\\, Ltd., CN=gw",
            "CN=a\\+b+OU=c",
            "CN=a\\\\",
            "CN=\\ spaced\\ ",
            "CN=\\#1",
            "2.5.4.97=#0c0161",
            "CN=\u{8a3a}\u{7642}\u{6240}",
        ] {
            let parsed = name(text);
            let again = name(&parsed.to_string());
            assert_eq!(again, parsed, "{text} as {parsed}");
        }
        assert_eq!(name("O=Clinic\\, Ltd.,CN=gw").to_string(), "O=Clinic\\, Ltd., CN=gw");
        assert_eq!(name(" CN = gw , C = JP ").to_string(), "CN=gw, C=JP");
        assert_eq!(name("E=a@example"), name("emailAddress=a@example"));
    }

    #[test]
    fn unfinished_or_unsuitable_values_are_refused() {
        for text in [
            "CN=a \\",
            "CN=a\\4",
            "CN=a\\4x",
            "CN=#0c016",
            "CN=\\ff",
            "C=\u{65e5}",
            "E=\u{e9}@example",
            "CN=a,,O=b",
        ] {
            assert_eq!(
                DistinguishedName::from_text(text),
                Err(IdentityError::DistinguishedNameText),
                "{text}"
            );
        }
    }

    #[test]
    fn comparison_is_of_text_and_not_of_encoding() {
        let of = |tag, value: &[u8]| DistinguishedName::from_der(&common_name(tag, value)).unwrap();
        let (utf8, printable, teletex) = (0x0c, 0x13, 0x14);
        assert!(of(utf8, b"Gate Way").matches(&of(printable, b"gate  way ")));
        assert!(!of(utf8, b"gate").matches(&of(utf8, b"gates")));
        assert!(!of(utf8, b"gate").matches(&of(teletex, b"gate")));
        assert!(of(teletex, b"gate").matches(&of(teletex, b"gate")));
        assert!(!of(teletex, b"gate").matches(&of(teletex, b"Gate")));
        assert!(!name("C=JP, CN=gw").matches(&name("CN=gw, C=JP")));
        assert!(!name("C=JP, CN=gw").matches(&name("CN=gw")));
        assert!(!name("CN=gw").matches(&name("O=gw")));
        assert!(name("CN=gw+OU=x").matches(&name("OU=x+CN=gw")));
        assert!(!name("CN=gw+OU=x").matches(&name("CN=gw+OU=y")));
        assert!(!name("CN=gw").matches(&name("CN=gw+OU=x")));
        assert!(!name("CN=gw+OU=x").matches(&name("CN=gw")));
        // A prefix before a NUL must not match.
        assert!(!of(utf8, b"gate\0.evil").matches(&of(utf8, b"gate")));
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        let shown = |value: &str| {
            DistinguishedName::from_der(&common_name(0x0c, value.as_bytes())).unwrap().to_string()
        };
        assert_eq!(shown("a\x1b[2Jb"), "CN=a\\1b[2Jb");
        assert_eq!(shown("a\u{9b}b"), "CN=a\\c2\\9bb");
        assert_eq!(shown("a\u{202e}b"), "CN=a\\e2\\80\\aeb");
        assert_eq!(shown("a\r\nb"), "CN=a\\0d\\0ab");
    }

    /// What is shown gets copied into configurations.
    #[test]
    fn a_value_that_its_text_would_not_bring_back_is_shown_in_hexadecimal() {
        // A serial number is a PrintableString as text, which has no @; and text never becomes a TeletexString.
        for (shown, text) in [
            ("2.5.4.5=#0c0140", "2.5.4.5=#0c0140"),
            ("CN=gw, 2.5.4.3=#14026777", "CN=gw, 2.5.4.3=#14026777"),
            ("SERIALNUMBER=A", "2.5.4.5=#0c0141"),
        ] {
            assert_eq!(name(text).to_string(), shown);
            assert!(name(shown).matches(&name(text)), "{shown}");
        }
    }

    #[test]
    fn what_is_no_name_in_der_is_refused() {
        let good = common_name(0x0c, b"gw");
        for end in 0..good.len() {
            assert!(DistinguishedName::from_der(&good[..end]).is_err(), "{end}");
        }
        let longer = [&good[..], &[0]].concat();
        for bad in [&longer[..], b"\x30\x00", b"\x30\x02\x31\x00", b"\x31\x00", b"\x30\x80\x00\x00"] {
            assert!(DistinguishedName::from_der(bad).is_err(), "{bad:?}");
        }
    }
}
