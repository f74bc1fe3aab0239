//! Payloads and their chain (RFC 7296 section 3.2).
//!
//! ```text
//! | Next Payload  |C|  RESERVED   |         Payload Length        |
//! ```

use crate::wire::auth::Authentication;
use crate::wire::cert::{Certificate, CertificateRequest};
use crate::wire::config::Configuration;
use crate::wire::delete::Delete;
use crate::wire::eap::Eap;
use crate::wire::error::WireError;
use crate::wire::id::IdPayload;
use crate::wire::ke::KeyExchange;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::number::PayloadType;
use crate::wire::reader::{Reader, length_u16};
use crate::wire::sa::SecurityAssociation;
use crate::wire::ts::TrafficSelectors;
use crate::wire::vendor::VendorId;

/// Most payloads of one message: a chain of certificates and all notifies there are need about half of it.
pub const MAX_PAYLOADS: usize = 64;
/// Length of a generic payload header in bytes.
pub const GENERIC_HEADER_LEN: usize = 4;

const FLAG_CRITICAL: u8 = 0x80;
const SECTION: &str = "RFC 7296 section 3.2";

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Security Association.
    Sa(SecurityAssociation),
    /// Key Exchange.
    Ke(KeyExchange),
    /// Identification of the initiator.
    IdI(IdPayload),
    /// Identification of the responder.
    IdR(IdPayload),
    /// Certificate.
    Cert(Certificate),
    /// Certificate Request.
    CertReq(CertificateRequest),
    /// Authentication.
    Auth(Authentication),
    /// Nonce.
    Nonce(Nonce),
    /// Notify.
    Notify(Notify),
    /// Delete.
    Delete(Delete),
    /// Vendor ID.
    Vendor(VendorId),
    /// Traffic selectors of the initiator.
    TsI(TrafficSelectors),
    /// Traffic selectors of the responder.
    TsR(TrafficSelectors),
    /// Configuration.
    Configuration(Configuration),
    /// Extensible Authentication.
    Eap(Eap),
    /// Not known and not critical: to be skipped.
    Unknown {
        /// Its type; always [`PayloadType::Unknown`] when parsed.
        payload_type: PayloadType,
        /// Its body.
        data: Vec<u8>,
    },
}

impl Payload {
    /// Its type.
    pub const fn payload_type(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::Sa,
            Self::Ke(_) => PayloadType::Ke,
            Self::IdI(_) => PayloadType::IdI,
            Self::IdR(_) => PayloadType::IdR,
            Self::Cert(_) => PayloadType::Cert,
            Self::CertReq(_) => PayloadType::CertReq,
            Self::Auth(_) => PayloadType::Auth,
            Self::Nonce(_) => PayloadType::Nonce,
            Self::Notify(_) => PayloadType::Notify,
            Self::Delete(_) => PayloadType::Delete,
            Self::Vendor(_) => PayloadType::Vendor,
            Self::TsI(_) => PayloadType::TsI,
            Self::TsR(_) => PayloadType::TsR,
            Self::Configuration(_) => PayloadType::Configuration,
            Self::Eap(_) => PayloadType::Eap,
            Self::Unknown { payload_type, .. } => *payload_type,
        }
    }

    fn parse(payload_type: PayloadType, mut body: Reader<'_>) -> Result<Self, WireError> {
        Ok(match payload_type {
            PayloadType::Sa => Self::Sa(SecurityAssociation::parse(body)?),
            PayloadType::Ke => Self::Ke(KeyExchange::parse(body)?),
            PayloadType::IdI => Self::IdI(IdPayload::parse(body)?),
            PayloadType::IdR => Self::IdR(IdPayload::parse(body)?),
            PayloadType::Cert => Self::Cert(Certificate::parse(body)?),
            PayloadType::CertReq => Self::CertReq(CertificateRequest::parse(body)?),
            PayloadType::Auth => Self::Auth(Authentication::parse(body)?),
            PayloadType::Nonce => Self::Nonce(Nonce::parse(body)?),
            PayloadType::Notify => Self::Notify(Notify::parse(body)?),
            PayloadType::Delete => Self::Delete(Delete::parse(body)?),
            PayloadType::Vendor => Self::Vendor(VendorId::parse(body)?),
            PayloadType::TsI => Self::TsI(TrafficSelectors::parse(body)?),
            PayloadType::TsR => Self::TsR(TrafficSelectors::parse(body)?),
            PayloadType::Configuration => Self::Configuration(Configuration::parse(body)?),
            PayloadType::Eap => Self::Eap(Eap::parse(body)?),
            // The chain stops before these.
            PayloadType::Sk | PayloadType::Skf | PayloadType::None => {
                return Err(body.malformed("an Encrypted payload inside another", "RFC 7296 section 3.14"));
            }
            PayloadType::Unknown(_) => Self::Unknown { payload_type, data: body.rest().to_vec() },
        })
    }

    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Self::Sa(sa) => sa.write(out),
            Self::Ke(ke) => ke.write(out),
            Self::Cert(cert) => cert.write(out),
            Self::Auth(auth) => auth.write(out),
            Self::Notify(notify) => notify.write(out),
            Self::Delete(delete) => delete.write(out),
            Self::Vendor(vendor) => vendor.write(out),
            Self::TsI(ts) | Self::TsR(ts) => ts.write(out),
            Self::Configuration(configuration) => configuration.write(out),
            Self::IdI(id) | Self::IdR(id) => {
                id.write(out);
                Ok(())
            }
            Self::CertReq(request) => {
                request.write(out);
                Ok(())
            }
            Self::Nonce(nonce) => {
                nonce.write(out);
                Ok(())
            }
            Self::Eap(eap) => {
                eap.write(out);
                Ok(())
            }
            Self::Unknown { payload_type: PayloadType::Unknown(_), data } => {
                out.extend_from_slice(data);
                Ok(())
            }
            Self::Unknown { .. } => {
                Err(WireError::Unwritable { what: "a known payload type as an unknown one", rule: SECTION })
            }
        }
    }
}

/// A generic payload header and the bytes behind it.
pub(crate) struct Generic<'a> {
    /// Type of the payload after this one; of SK and SKF: of the first inside.
    pub(crate) next: PayloadType,
    /// Behind the generic header.
    pub(crate) body: Reader<'a>,
}

/// Takes the payload of a known type off a chain; `reader` stands at its generic header.
pub(crate) fn take_payload<'a>(
    payload_type: PayloadType,
    reader: &mut Reader<'a>,
) -> Result<Generic<'a>, WireError> {
    let next = PayloadType::from(reader.u8()?);
    let flags = reader.u8()?;
    let length = usize::from(reader.u16()?);
    let Some(length) = length.checked_sub(GENERIC_HEADER_LEN) else {
        return Err(reader.malformed("payload length is less than its header", SECTION));
    };
    // Critical is ignored for types that we know (RFC 7296 section 2.5).
    if flags & FLAG_CRITICAL != 0 && matches!(payload_type, PayloadType::Unknown(_)) {
        return Err(WireError::UnsupportedCritical(payload_type));
    }
    let body = reader.sub(length)?;
    Ok(Generic { next, body: body.of(payload_type) })
}

/// Reads a chain of payloads up to its end or to an Encrypted payload, whose type is then given back with the reader
/// standing at its generic header; [`PayloadType::None`] stands for the end.
pub(crate) fn parse_chain(
    first: PayloadType,
    reader: &mut Reader<'_>,
) -> Result<(Vec<Payload>, PayloadType), WireError> {
    let mut payloads = Vec::new();
    let mut payload_type = first;
    loop {
        match payload_type {
            PayloadType::None => {
                reader.end(SECTION)?;
                return Ok((payloads, payload_type));
            }
            PayloadType::Sk | PayloadType::Skf => return Ok((payloads, payload_type)),
            _ => {}
        }
        if payloads.len() == MAX_PAYLOADS {
            return Err(reader.too_many("payloads", MAX_PAYLOADS));
        }
        let generic = take_payload(payload_type, reader)?;
        payloads.push(Payload::parse(payload_type, generic.body)?);
        payload_type = generic.next;
    }
}

/// Reads the decrypted content of an Encrypted payload (of fragments: all of them joined), without its padding.
/// `first` is the Next Payload of the Encrypted payload's own header ([`Protected::first_inner`]).
///
/// [`Protected::first_inner`]: crate::wire::Protected::first_inner
pub fn parse_payloads(first: PayloadType, bytes: &[u8]) -> Result<Vec<Payload>, WireError> {
    let mut reader = Reader::new(PayloadType::None, 0, bytes);
    let (payloads, end) = parse_chain(first, &mut reader)?;
    if end == PayloadType::None {
        Ok(payloads)
    } else {
        Err(reader.malformed("an Encrypted payload inside another", "RFC 7296 section 3.14"))
    }
}

/// The bytes of a chain of payloads, and the type of the first, for [`protect`](crate::wire::protect()).
pub fn write_payloads(payloads: &[Payload]) -> Result<(PayloadType, Vec<u8>), WireError> {
    if payloads.len() > MAX_PAYLOADS {
        return Err(WireError::TooLong { what: "payloads", actual: payloads.len(), limit: MAX_PAYLOADS });
    }
    let types = payloads.iter().map(Payload::payload_type);
    let following = types.clone().skip(1).chain([PayloadType::None]);
    let mut out = Vec::new();
    for (payload, next) in payloads.iter().zip(following) {
        let mut body = Vec::new();
        payload.write_body(&mut body)?;
        write_generic(next, body.len(), &mut out)?;
        out.extend_from_slice(&body);
    }
    Ok((types.clone().next().unwrap_or(PayloadType::None), out))
}

/// Appends the generic header of a payload whose body has `length` bytes. The critical bit is never set: RFC 7296
/// section 3.2 wants it clear on every type it defines.
pub(crate) fn write_generic(next: PayloadType, length: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    let length = length_u16("bytes of a payload", length.saturating_add(GENERIC_HEADER_LEN))?;
    out.extend_from_slice(&[next.number(), 0]);
    out.extend_from_slice(&length.to_be_bytes());
    Ok(())
}
