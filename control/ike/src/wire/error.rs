//! Why bytes are not IKEv2, or values cannot become bytes.

use crate::wire::header::Header;
use crate::wire::number::{NotifyType, PayloadType};

/// Where in a message: the payload being read, and the byte from the start of what was given to the parser (the
/// datagram, or the decrypted content of an Encrypted payload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The payload; [`PayloadType::None`] stands for the IKE header and the chain of payloads.
    pub payload: PayloadType,
    /// Offset in bytes.
    pub offset: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.payload {
            PayloadType::None => write!(f, "message, byte {}", self.offset),
            payload => write!(f, "payload {payload}, byte {}", self.offset),
        }
    }
}

/// Why bytes are not a message we can read (the peer is at fault), or values do not fit a message (we are).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field or payload claims more bytes than there are.
    #[error(
        "malformed from the peer: {place}: {needed} bytes needed, {left} left (RFC 7296 section {section})"
    )]
    Truncated {
        /// Where.
        place: Place,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
        /// Section of RFC 7296 that defines the layout.
        section: &'static str,
    },
    /// A value the format forbids.
    #[error("malformed from the peer: {place}: {what} ({rule})")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong.
        what: &'static str,
        /// The rule it breaks, as "RFC n section m".
        rule: &'static str,
    },
    /// The length in the header is not the length of the datagram.
    #[error(
        "malformed from the peer: header says {claimed} bytes, the datagram has {actual} (RFC 7296 section 3.1)"
    )]
    Length {
        /// As in the header, in bytes.
        claimed: u32,
        /// As received, in bytes.
        actual: usize,
    },
    /// More than a bound of ours allows. Well-formed, but no honest peer needs it.
    #[error("refused from the peer: {place}: more than {limit} {what}")]
    TooMany {
        /// Where.
        place: Place,
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Another major version. RFC 7296 section 2.5: drop; above 2, tell the peer INVALID_MAJOR_VERSION.
    #[error("the peer speaks IKE version {major}, only version 2 is supported (RFC 7296 section 2.5)")]
    MajorVersion {
        /// As in the header.
        major: u8,
        /// The rest of the header, for the answer.
        header: Header,
    },
    /// A payload we do not know, marked critical. RFC 7296 section 2.5: reject the whole message, tell the peer
    /// UNSUPPORTED_CRITICAL_PAYLOAD with the type.
    #[error("the peer insists on payload type {0}, which is not supported (RFC 7296 section 2.5)")]
    UnsupportedCritical(PayloadType),
    /// Ours: a value does not fit its field, for example a payload past 65535 bytes.
    #[error("cannot be sent: {what}: {actual}, at most {limit}")]
    TooLong {
        /// What does not fit.
        what: &'static str,
        /// Its size or number.
        actual: usize,
        /// The most that fits.
        limit: usize,
    },
    /// Ours: a value that the format forbids was to be written.
    #[error("cannot be sent: {what} ({rule})")]
    Unwritable {
        /// What is wrong.
        what: &'static str,
        /// The rule it breaks, as "RFC n section m".
        rule: &'static str,
    },
}

impl WireError {
    /// The notify that tells the peer (RFC 7296 section 2.21); `None` where the fault is not the peer's.
    ///
    /// Outside an authenticated message only INVALID_MAJOR_VERSION, and during IKE_SA_INIT, is worth an answer.
    pub const fn notify_type(&self) -> Option<NotifyType> {
        match self {
            WireError::Truncated { .. }
            | WireError::Malformed { .. }
            | WireError::Length { .. }
            | WireError::TooMany { .. } => Some(NotifyType::InvalidSyntax),
            WireError::MajorVersion { .. } => Some(NotifyType::InvalidMajorVersion),
            WireError::UnsupportedCritical(_) => Some(NotifyType::UnsupportedCriticalPayload),
            WireError::TooLong { .. } | WireError::Unwritable { .. } => None,
        }
    }
}
