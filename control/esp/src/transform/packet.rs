//! Sealing and opening of one ESP packet in place (RFC 4303 section 2).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ─┐
//! |               Security Parameters Index (SPI)                 |  │
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  │ authenticated
//! |                      Sequence Number                          |  │
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  │
//! |                    IV (8 or 16 bytes)                         |  │
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  │ ─┐
//! |       inner packet, TFC padding (none of ours)                |  │  │ encrypted
//! |               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  │  │
//! |               |  padding 1, 2, 3…   |  Pad Length | Next Hdr  |  │  │
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ─┘ ─┘
//! |                    ICV (16 bytes)                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::ops::Range;

use ring::aead::Aad;

use super::cipher::{OpeningKey, SealingKey};

/// SPI and sequence number.
pub const HEADER_BYTES: usize = 8;
/// Pad Length and Next Header.
pub const TRAILER_BYTES: usize = 2;

/// Next Header of IPv4 in a tunnel.
pub const NEXT_HEADER_IPV4: u8 = 4;
/// Next Header of IPv6 in a tunnel.
pub const NEXT_HEADER_IPV6: u8 = 41;
/// Next Header of a dummy packet (RFC 4303 section 2.6).
pub const NEXT_HEADER_NONE: u8 = 59;

/// The lowest SPI an SA can have: 1 to 255 are reserved by IANA, 0 never stands on a wire (RFC 4303 section 2.1).
pub const SPI_MIN: u32 = 256;

/// Padding is 1, 2, 3… (RFC 4303 section 2.4).
const PADDING: [u8; 255] = {
    let mut bytes = [0; 255];
    let mut i = 0;
    while i < bytes.len() {
        bytes[i] = i as u8 + 1;
        i += 1;
    }
    bytes
};

/// What an ESP packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspHeader {
    /// The SPI as a number.
    pub spi: u32,
    /// The low 32 bits of the sequence number.
    pub sequence_low: u32,
}

impl EspHeader {
    /// Reads the first eight bytes; `None` if there are fewer.
    pub fn parse(esp: &[u8]) -> Option<Self> {
        let (spi, rest) = esp.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        Some(Self { spi: u32::from_be_bytes(*spi), sequence_low: u32::from_be_bytes(*sequence) })
    }
}

/// A packet's sequence number, whole, and whether the SA authenticates the half that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The number; without ESN it is below 2^32.
    pub number: u64,
    /// Extended sequence numbers are in use (RFC 4303 section 2.2.1).
    pub extended: bool,
}

impl Sequence {
    /// The half that is authenticated but not sent.
    pub(super) fn implicit_high(self) -> Option<u32> {
        self.extended.then_some((self.number >> 32) as u32)
    }

    /// RFC 4106 section 5: SPI and sequence number, which is 64 bits long with ESN.
    pub(super) fn additional_data(self, esp: &[u8]) -> Aad<AdditionalData> {
        let mut bytes = [0; 12];
        let length = match (self.extended, esp.first_chunk::<HEADER_BYTES>()) {
            (true, Some([a, b, c, d, ..])) => {
                let [e, f, g, h, i, j, k, l] = self.number.to_be_bytes();
                bytes = [*a, *b, *c, *d, e, f, g, h, i, j, k, l];
                12
            }
            (false, Some([a, b, c, d, e, f, g, h])) => {
                bytes = [*a, *b, *c, *d, *e, *f, *g, *h, 0, 0, 0, 0];
                HEADER_BYTES
            }
            (_, None) => 0,
        };
        Aad::from(AdditionalData { bytes, length })
    }
}

/// Additional authenticated data of an AEAD: 8 bytes, or 12 with ESN.
pub(super) struct AdditionalData {
    bytes: [u8; 12],
    length: usize,
}

impl AsRef<[u8]> for AdditionalData {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Why a packet could not be sealed. Always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The buffer leaves no room for header or trailer.
    #[error("the buffer has no room for the ESP header, trailer and ICV")]
    NoRoom,
    /// Longer than the algorithm can take.
    #[error("the packet is longer than the algorithm allows")]
    TooLong,
}

/// Why a packet was not opened. The sender, or someone on the way, is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than header, IV, trailer and ICV, or not a whole number of blocks.
    #[error("the ESP packet is truncated or not a whole number of blocks")]
    Truncated,
    /// The integrity check failed.
    #[error("the integrity check failed")]
    Integrity,
    /// Authentic, but the padding is longer than the packet or not 1, 2, 3….
    #[error("the padding does not follow RFC 4303 section 2.4")]
    Padding,
}

/// An opened packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where the payload lies in the buffer, TFC padding included.
    pub payload: Range<usize>,
    /// Protocol of the payload.
    pub next_header: u8,
}

impl SealingKey {
    /// Seals the inner packet that lies at `inner` in `buffer`, writing header and IV before it and trailer and ICV
    /// behind it, and returns where the ESP packet lies. A sequence number must never be used twice with one key.
    pub fn seal(
        &self,
        buffer: &mut [u8],
        inner: Range<usize>,
        spi: u32,
        sequence: Sequence,
        next_header: u8,
    ) -> Result<Range<usize>, SealError> {
        let layout = self.layout();
        let length = inner.end.checked_sub(inner.start).ok_or(SealError::NoRoom)?;
        let start = inner.start.checked_sub(layout.headroom()).ok_or(SealError::NoRoom)?;
        let end = inner.end.checked_add(layout.tailroom(length)).ok_or(SealError::NoRoom)?;

        let packet = buffer.get_mut(start..end).ok_or(SealError::NoRoom)?;
        let (header, rest) = packet.split_at_mut_checked(layout.headroom()).ok_or(SealError::NoRoom)?;
        let (text, icv) =
            rest.len().checked_sub(layout.icv).and_then(|at| rest.split_at_mut_checked(at)).ok_or(SealError::NoRoom)?;

        let (esp, iv) = header.split_first_chunk_mut::<HEADER_BYTES>().ok_or(SealError::NoRoom)?;
        let [a, b, c, d] = spi.to_be_bytes();
        let [.., e, f, g, h] = sequence.number.to_be_bytes();
        *esp = [a, b, c, d, e, f, g, h];
        self.write_iv(sequence.number, iv);

        let (_, trailer) = text.split_at_mut_checked(length).ok_or(SealError::NoRoom)?;
        let (padding, last) = trailer.split_last_chunk_mut::<TRAILER_BYTES>().ok_or(SealError::NoRoom)?;
        padding.iter_mut().zip(PADDING).for_each(|(byte, value)| *byte = value);
        // At most one block less one byte.
        *last = [padding.len() as u8, next_header];

        self.seal_text(header, text, icv, sequence)?;
        Ok(start..end)
    }
}

impl OpeningKey {
    /// Opens the ESP packet that lies at `esp` in `buffer`. `sequence` carries the whole number, as the replay window
    /// inferred it. When it fails, the bytes of the packet are to be thrown away.
    pub fn open(&self, buffer: &mut [u8], esp: Range<usize>, sequence: Sequence) -> Result<Opened, OpenError> {
        let layout = self.layout();
        let start = esp.start;
        let packet = buffer.get_mut(esp).ok_or(OpenError::Truncated)?;
        let (header, rest) = packet.split_at_mut_checked(layout.headroom()).ok_or(OpenError::Truncated)?;
        let text_bytes = rest.len().checked_sub(layout.icv).ok_or(OpenError::Truncated)?;
        if text_bytes < TRAILER_BYTES || text_bytes % layout.alignment != 0 {
            return Err(OpenError::Truncated);
        }

        self.open_text(header, rest, sequence)?;

        let text = rest.get(..text_bytes).ok_or(OpenError::Truncated)?;
        let (text, &[pad_length, next_header]) = text.split_last_chunk().ok_or(OpenError::Truncated)?;
        let payload_bytes = text.len().checked_sub(usize::from(pad_length)).ok_or(OpenError::Padding)?;
        let padding = text.get(payload_bytes..).ok_or(OpenError::Padding)?;
        if !padding.iter().eq(PADDING.iter().take(padding.len())) {
            return Err(OpenError::Padding);
        }
        let payload_start = start.saturating_add(layout.headroom());
        Ok(Opened { payload: payload_start..payload_start.saturating_add(payload_bytes), next_header })
    }
}
