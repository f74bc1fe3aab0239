//! Why certificates are refused, in an operator's words.

use std::time::Duration;

use der::DateTime;
use rustls_pki_types::UnixTime;

/// Why a certificate, or a file of them, is refused. Subjects and issuers come from the peer, but never hold control or
/// invisible characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate, or not a CRL.
    #[error("{what} is unreadable: {why}")]
    Unreadable {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// A file without a certificate.
    #[error("no \"CERTIFICATE\" section in this PEM file")]
    NoCertificate,
    /// A file without a CRL.
    #[error("neither DER nor an \"X509 CRL\" section in this file of CRLs")]
    NoCrl,
    /// A trust anchor that must not issue certificates. The configuration is at fault.
    #[error(
        "the certificate of \"{subject}\" is none of a CA; name the CA that issued the peer's certificate instead"
    )]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// Past its end.
    #[error("the certificate of \"{subject}\" expired at {}; it must be renewed (or a clock is wrong)", show(*.not_after))]
    Expired {
        /// Which of the chain.
        subject: String,
        /// When.
        not_after: UnixTime,
    },
    /// Before its begin.
    #[error("the certificate of \"{subject}\" is valid only from {}; a clock is wrong", show(*.not_before))]
    NotYetValid {
        /// Which of the chain.
        subject: String,
        /// When.
        not_before: UnixTime,
    },
    /// No path to an anchor.
    #[error(
        "the certificate of \"{subject}\", issued by \"{issuer}\", leads to none of the configured CAs; configure its \
         CA, or let the peer send the intermediate certificates"
    )]
    UnknownIssuer {
        /// The end entity's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// A signature in the chain does not hold: forged, or a CA renewed under the same name with another key.
    #[error(
        "a signature in the chain of \"{subject}\" does not hold; it is forged, or a configured CA has another key \
         under the same name"
    )]
    BadSignature {
        /// The end entity's subject.
        subject: String,
    },
    /// It, or one above it, may not be used so.
    #[error("the chain of \"{subject}\" is not suitable: {why}")]
    NotSuitable {
        /// The end entity's subject.
        subject: String,
        /// Why.
        why: String,
    },
    /// Its CA has revoked it, or one above it.
    #[error(
        "the chain of \"{subject}\" is revoked: a CRL lists the certificate of \"{revoked}\"; issue a new one"
    )]
    Revoked {
        /// The end entity's subject.
        subject: String,
        /// The subject of the one that is listed.
        revoked: String,
    },
    /// CRLs are required, and there is none for it.
    #[error("no CRL tells whether the certificate of \"{subject}\" has been revoked; load one of its CA")]
    RevocationUnknown {
        /// The end entity's subject.
        subject: String,
    },
    /// CRLs are required, and the one for it is old.
    #[error("the CRL for the certificate of \"{subject}\" should have been renewed by {}; load a newer one", show(*.next_update))]
    CrlExpired {
        /// The end entity's subject.
        subject: String,
        /// Its nextUpdate.
        next_update: UnixTime,
    },
}

/// `2026-11-22T05:00:00Z`.
fn show(time: UnixTime) -> String {
    DateTime::from_unix_duration(Duration::from_secs(time.as_secs()))
        .map_or_else(|_| format!("second {} of Unix time", time.as_secs()), |time| time.to_string())
}
