//! Wire formats (RFC 7296 section 3): bytes to values and back, and nothing else.
//!
//! Every parser here is total: any bytes give a value or a [`WireError`], never a panic, and never more work or memory
//! than a small multiple of the datagram. All numbers are in network byte order on the wire and plain integers in
//! values. Nothing here decides policy: a value that parses is well-formed, not acceptable.
//!
//! The way of a datagram: [`Outer::parse`] checks the header and the clear payloads and finds the Encrypted payload
//! ([`Protected`]); `crypto` opens that; [`parse_payloads`] reads what was inside. The way out: [`write_clear`], or
//! [`write_payloads`] and [`protect()`].

pub mod auth;
pub mod cert;
pub mod config;
pub mod delete;
pub mod distinguished_name;
pub mod eap;
pub mod error;
pub mod header;
pub mod id;
pub mod ke;
pub mod message;
pub mod nonce;
pub mod notify;
pub mod number;
pub mod payload;
pub mod protect;
pub mod reader;
pub mod sa;
pub mod transform;
pub mod ts;
pub mod vendor;

#[cfg(test)]
mod hostile;

pub use error::{Place, WireError};
pub use header::{Header, Spi};
pub use message::{Fragment, Outer, Protected, write_clear};
pub use number::{
    AuthMethod, CertEncoding, ConfigAttributeType, ConfigType, ExchangeType, HashAlgorithm, IdType,
    NotifyType, PayloadType, ProtocolId,
};
pub use payload::{Payload, parse_payloads, write_payloads};
pub use protect::{intermediate_octets, protect, protect_fragment};
pub use transform::{EncrId, EsnId, IntegId, KeId, PrfId, Transform, TransformId, TransformType};
