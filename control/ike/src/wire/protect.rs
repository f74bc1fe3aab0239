//! Writing messages with an Encrypted payload.
//!
//! An AEAD needs the final lengths before it seals, as they are associated data (RFC 5282 section 5.1); so the caller
//! says how long the sealed body will be, and hands in the sealing.

use crate::wire::error::WireError;
use crate::wire::header::{HEADER_LEN, Header};
use crate::wire::message::Fragment;
use crate::wire::number::PayloadType;
use crate::wire::payload::{GENERIC_HEADER_LEN, write_generic};

/// The bytes of a message that is one SK payload.
///
/// `inner` is a chain of payloads that begins with `first_inner` ([`write_payloads`](crate::wire::write_payloads)).
/// `seal` gets the associated data and `inner`, and gives IV, ciphertext (padding and Pad Length are its business) and
/// ICV: exactly `sealed_len` bytes.
pub fn protect<E: From<WireError>>(
    header: &Header,
    first_inner: PayloadType,
    inner: &[u8],
    sealed_len: usize,
    seal: impl FnOnce(&[u8], &[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let mut out = Vec::new();
    let body_at = HEADER_LEN.saturating_add(GENERIC_HEADER_LEN);
    header.write(PayloadType::Sk, body_at.saturating_add(sealed_len), &mut out)?;
    write_generic(first_inner, sealed_len, &mut out)?;
    append_sealed(out, inner, sealed_len, seal)
}

/// The bytes of a message that is one SKF payload (RFC 7383 section 2.5): as [`protect`], for one part of the chain.
/// `first_inner` is written in the first fragment; the others have none.
pub fn protect_fragment<E: From<WireError>>(
    header: &Header,
    fragment: Fragment,
    first_inner: PayloadType,
    part: &[u8],
    sealed_len: usize,
    seal: impl FnOnce(&[u8], &[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    if !fragment.is_valid() {
        return Err(WireError::Unwritable {
            what: "fragment number out of range",
            rule: "RFC 7383 section 2.5",
        }
        .into());
    }
    let next = if fragment.number == 1 { first_inner } else { PayloadType::None };
    let body_len = sealed_len.saturating_add(4);
    let mut out = Vec::new();
    let body_at = HEADER_LEN.saturating_add(GENERIC_HEADER_LEN);
    header.write(PayloadType::Skf, body_at.saturating_add(body_len), &mut out)?;
    write_generic(next, body_len, &mut out)?;
    out.extend_from_slice(&fragment.number.to_be_bytes());
    out.extend_from_slice(&fragment.total.to_be_bytes());
    append_sealed(out, part, sealed_len, seal)
}

/// What AUTH payloads prove of a message of IKE_INTERMEDIATE (RFC 9242 section 3.3.2): the header and the generic header
/// of the Encrypted payload as if it were not encrypted nor cut in fragments, and its content. `header` begins with the
/// message's header; `flags` is the octet after Next Payload of the generic header.
pub fn intermediate_octets(header: &[u8], flags: u8, first_inner: PayloadType, inner: &[u8]) -> Vec<u8> {
    let payload = inner.len().saturating_add(GENERIC_HEADER_LEN);
    let whole = u32::try_from(payload.saturating_add(HEADER_LEN)).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(payload.saturating_add(HEADER_LEN));
    out.extend(header.iter().take(HEADER_LEN));
    if let Some(next) = out.get_mut(NEXT_PAYLOAD_AT) {
        *next = PayloadType::Sk.number();
    }
    if let Some(length) = out.last_chunk_mut::<4>() {
        *length = whole.to_be_bytes();
    }
    out.extend_from_slice(&[first_inner.number(), flags]);
    out.extend_from_slice(&u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(inner);
    out
}

/// Offset of Next Payload in the header.
const NEXT_PAYLOAD_AT: usize = 16;

fn append_sealed<E: From<WireError>>(
    mut out: Vec<u8>,
    inner: &[u8],
    sealed_len: usize,
    seal: impl FnOnce(&[u8], &[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let sealed = seal(&out, inner)?;
    if sealed.is_empty() || sealed.len() != sealed_len {
        return Err(WireError::Unwritable {
            what: "the sealed body does not have the length that was announced",
            rule: "RFC 7296 section 3.14",
        }
        .into());
    }
    out.extend_from_slice(&sealed);
    Ok(out)
}
