//! Which identities a peer may have: one, all below a domain, all with the fixed parts of a name, or any.

use std::fmt;
use std::str::FromStr;

use super::{Identification, IdentityError, MAX_ID_BYTES, split_mailbox};
use crate::wire::distinguished_name::DistinguishedName;
use crate::wire::number::IdType;

/// Identities that a connection takes. A pattern alone proves nothing: whoever claims a fitting identity must still prove
/// that one, with a certificate that carries it or with the connection's pre-shared key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdPattern {
    /// This one only.
    Exact(Identification),
    /// `*.clinics.example`: every domain name below, at any depth; not `clinics.example` itself. The suffix with its dot.
    DomainsBelow(String),
    /// `*@clinics.example`: every mailbox of the domain.
    MailboxesOf(String),
    /// `C=JP, O=Clinics, CN=*`: every distinguished name with the same attributes, whose values are the same but where a
    /// `*` stands.
    Names(Identification),
    /// `%any`: whoever proves any identity at all.
    Any,
}

impl IdPattern {
    /// Whether an identity is one of those meant. ID_NULL never is.
    pub fn matches(&self, id: &Identification) -> bool {
        match self {
            Self::Exact(exact) => exact.matches(id),
            // A name with a `*` in it, as web servers' certificates have, is no host's.
            Self::DomainsBelow(suffix) => id.as_fqdn().is_some_and(|name| {
                let split = name.len().checked_sub(suffix.len()).and_then(|at| name.split_at_checked(at));
                !name.contains('*')
                    && split.is_some_and(|(host, end)| !host.is_empty() && end.eq_ignore_ascii_case(suffix))
            }),
            Self::MailboxesOf(domain) => (id.id_type() == IdType::Rfc822Addr)
                .then(|| split_mailbox(id.data()))
                .flatten()
                .is_some_and(|(_, theirs)| theirs.eq_ignore_ascii_case(domain.as_bytes())),
            Self::Names(pattern) => {
                let parse =
                    |id: &Identification| DistinguishedName::from_der(id.as_distinguished_name()?).ok();
                match (parse(pattern), parse(id)) {
                    (Some(pattern), Some(name)) => name.fits(&pattern),
                    _ => false,
                }
            }
            Self::Any => id.id_type() != IdType::Null,
        }
    }

    /// The identity, if there is but one.
    pub const fn exact(&self) -> Option<&Identification> {
        match self {
            Self::Exact(id) => Some(id),
            _ => None,
        }
    }

    /// How much is left open: 0 for one identity, and more the less a pattern says. Of several connections that fit a
    /// peer, the one with the least is meant.
    pub fn openness(&self) -> usize {
        match self {
            Self::Exact(_) => 0,
            Self::Names(pattern) => {
                let name = pattern.as_distinguished_name().map(DistinguishedName::from_der);
                1 + name.and_then(Result::ok).map_or(0, |name| name.wildcards())
            }
            Self::DomainsBelow(fixed) | Self::MailboxesOf(fixed) => {
                1 + MAX_ID_BYTES.saturating_sub(fixed.len())
            }
            Self::Any => usize::MAX,
        }
    }
}

impl From<Identification> for IdPattern {
    fn from(id: Identification) -> Self {
        Self::Exact(id)
    }
}

impl fmt::Display for IdPattern {
    /// What [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) | Self::Names(id) => id.fmt(f),
            Self::DomainsBelow(suffix) => write!(f, "*{suffix}"),
            Self::MailboxesOf(domain) => write!(f, "*@{domain}"),
            Self::Any => f.write_str("%any"),
        }
    }
}

impl FromStr for IdPattern {
    type Err = IdentityError;

    /// Reads what strongSwan reads: `%any`, `*.domain`, `*@domain`, a distinguished name with `*` for values, or an
    /// [`Identification`]. A `*` anywhere else is refused: it would look like a pattern and be none.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        if text == "%any" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix('*') {
            // Checked as what stands for the `*` would be.
            let sample: Identification = format!("x{suffix}").parse()?;
            if suffix.contains('*') {
                return Err(IdentityError::Pattern);
            }
            return match suffix.strip_prefix('@') {
                Some(domain) if sample.id_type() == IdType::Rfc822Addr => {
                    Ok(Self::MailboxesOf(domain.to_owned()))
                }
                None if sample.id_type() == IdType::Fqdn && suffix.starts_with('.') && suffix.len() > 1 => {
                    Ok(Self::DomainsBelow(suffix.to_owned()))
                }
                _ => Err(IdentityError::Pattern),
            };
        }
        let id: Identification = text.parse()?;
        if let Some(der) = id.as_distinguished_name() {
            let open = DistinguishedName::from_der(der)?.wildcards() > 0;
            return Ok(if open { Self::Names(id) } else { Self::Exact(id) });
        }
        if matches!(id.id_type(), IdType::Fqdn | IdType::Rfc822Addr) && id.data().contains(&b'*') {
            return Err(IdentityError::Pattern);
        }
        Ok(Self::Exact(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> IdPattern {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn who_is_meant_and_who_is_not() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            (
                "gw.example",
                &["gw.example", "GW.Example"],
                &["x.gw.example", "gw.example.evil", "CN=gw.example"],
            ),
            (
                "*.clinics.example",
                &["a.clinics.example", "b.a.Clinics.EXAMPLE"],
                &[
                    "clinics.example",
                    ".clinics.example",
                    "aclinics.example",
                    "a.clinics.example.evil",
                    "a@b.clinics.example",
                    "CN=a.clinics.example",
                    "keyid:a.clinics.example",
                    "192.0.2.1",
                ],
            ),
            (
                "*@clinics.example",
                &["a@clinics.example", "a@Clinics.Example"],
                &["a@b.clinics.example", "a@clinics.example.evil", "clinics.example", "a.clinics.example"],
            ),
            (
                "C=JP, O=Clinics, CN=*",
                &["C=JP, O=Clinics, CN=a", "C=jp, O=clinics, CN=any thing"],
                &[
                    "C=JP, O=Clinics",
                    "C=JP, O=Others, CN=a",
                    "C=JP, O=Clinics, OU=a",
                    "C=JP, O=Clinics, CN=a, CN=b",
                    "C=JP, CN=a, O=Clinics",
                    "a.clinics.example",
                ],
            ),
            ("CN=a*", &["CN=a*"], &["CN=ab"]),
            ("%any", &["a.example", "a@b", "CN=a", "192.0.2.1", "2001:db8::1", "keyid:x"], &[]),
            ("192.0.2.1", &["192.0.2.1"], &["192.0.2.2", "fqdn:192.0.2.1"]),
        ];
        for (text, good, bad) in cases {
            let pattern = pattern(text);
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()), "{text}");
            for id in good {
                assert!(pattern.matches(&id.parse().unwrap()), "{text} is meant to be {id}");
            }
            for id in bad {
                let id = id.parse::<Identification>().unwrap();
                assert!(!pattern.matches(&id), "{text} is not meant to be {id}");
            }
        }
        let nobody = Identification::new(IdType::Null, Vec::new()).unwrap();
        assert!(!IdPattern::Any.matches(&nobody));
        let wildcard = Identification::fqdn("*.clinics.example").unwrap();
        assert!(!pattern("*.clinics.example").matches(&wildcard), "a web server's certificate is no host's");
    }

    #[test]
    fn what_only_looks_like_a_pattern_is_refused() {
        for text in
            ["*", "*.", "*example", "gw.*.example", "**.example", "*.*.example", "a*@example", "*@", "%all x"]
        {
            assert!(text.parse::<IdPattern>().is_err(), "{text}");
        }
        assert_eq!("gw.*.example".parse::<IdPattern>(), Err(IdentityError::Pattern));
    }

    #[test]
    fn the_less_is_said_the_more_is_open() {
        let order = ["gw.example", "CN=*", "O=*, CN=*", "*.b.clinics.example", "*.example", "%any"];
        let openness = order.map(|text| pattern(text).openness());
        assert!(openness.is_sorted() && openness.first() == Some(&0), "{openness:?}");
    }
}
