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
//! |                    ICV (16 to 32 bytes)                       |
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
static PADDING: [u8; 255] = {
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
        let (text, icv) = rest
            .len()
            .checked_sub(layout.icv)
            .and_then(|at| rest.split_at_mut_checked(at))
            .ok_or(SealError::NoRoom)?;

        let (esp, iv) = header.split_first_chunk_mut::<HEADER_BYTES>().ok_or(SealError::NoRoom)?;
        let [a, b, c, d] = spi.to_be_bytes();
        let [.., e, f, g, h] = sequence.number.to_be_bytes();
        *esp = [a, b, c, d, e, f, g, h];
        self.write_iv(sequence.number, iv);

        let (_, trailer) = text.split_at_mut_checked(length).ok_or(SealError::NoRoom)?;
        let (padding, last) = trailer.split_last_chunk_mut::<TRAILER_BYTES>().ok_or(SealError::NoRoom)?;
        padding.iter_mut().zip(&PADDING).for_each(|(byte, value)| *byte = *value);
        // At most one block less one byte.
        *last = [padding.len() as u8, next_header];

        self.seal_text(header, text, icv, sequence)?;
        Ok(start..end)
    }
}

impl OpeningKey {
    /// Opens the ESP packet that lies at `esp` in `buffer`. `sequence` carries the whole number, as the replay window
    /// inferred it. When it fails, the bytes of the packet are to be thrown away.
    pub fn open(
        &self,
        buffer: &mut [u8],
        esp: Range<usize>,
        sequence: Sequence,
    ) -> Result<Opened, OpenError> {
        let layout = self.layout();
        let start = esp.start;
        let packet = buffer.get_mut(esp).ok_or(OpenError::Truncated)?;
        let (header, rest) = packet.split_at_mut_checked(layout.headroom()).ok_or(OpenError::Truncated)?;
        let text_bytes = rest.len().checked_sub(layout.icv).ok_or(OpenError::Truncated)?;
        if text_bytes < TRAILER_BYTES || text_bytes & (layout.alignment - 1) != 0 {
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

#[cfg(test)]
mod tests {
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::sa::{Keys, Transform};
    use crate::transform::Layout;

    const HEADROOM: usize = 32;
    const PLAIN: Sequence = Sequence { number: 7, extended: false };

    fn keys(transform: Transform) -> Keys {
        let (encryption, integrity) = transform.key_bytes();
        let bytes = |n, from: u8| Zeroizing::new((0..n).map(|i| (i as u8).wrapping_mul(31) ^ from).collect());
        Keys { encryption: bytes(encryption, 0x5a), integrity: bytes(integrity, 0xc3) }
    }

    fn pair(transform: Transform) -> (SealingKey, OpeningKey) {
        let keys = keys(transform);
        (SealingKey::new(transform, &keys).unwrap(), OpeningKey::new(transform, &keys).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// Seals `inner` in a buffer with room, and returns the ESP packet alone.
    fn sealed(key: &SealingKey, inner: &[u8], sequence: Sequence) -> Vec<u8> {
        let mut buffer = vec![0xee; HEADROOM + inner.len() + 64];
        buffer[HEADROOM..HEADROOM + inner.len()].copy_from_slice(inner);
        let esp = key
            .seal(&mut buffer, HEADROOM..HEADROOM + inner.len(), 0x1234_5678, sequence, NEXT_HEADER_IPV4)
            .unwrap();
        assert!(buffer[..esp.start].iter().chain(&buffer[esp.end..]).all(|b| *b == 0xee), "wrote outside");
        buffer[esp].to_vec()
    }

    #[test]
    fn every_size_and_algorithm_round_trips() {
        for transform in Transform::ALL {
            let (seal, open) = pair(transform);
            let layout = Layout::of(transform);
            for size in 20..=1500 {
                let inner: Vec<u8> = (0..size).map(|i| i as u8).collect();
                let extended = size % 2 == 0;
                let sequence =
                    Sequence { number: if extended { 5 << 32 | size as u64 } else { size as u64 }, extended };
                let mut esp = sealed(&seal, &inner, sequence);
                assert_eq!(esp.len(), layout.headroom() + size + layout.tailroom(size));
                assert_eq!((esp.len() - HEADER_BYTES - layout.iv - layout.icv) % layout.alignment, 0);
                let header = EspHeader::parse(&esp).unwrap();
                assert_eq!(header, EspHeader { spi: 0x1234_5678, sequence_low: size as u32 });
                let whole = 0..esp.len();
                let opened = open.open(&mut esp, whole, sequence).unwrap();
                assert_eq!(opened.next_header, NEXT_HEADER_IPV4);
                assert_eq!(esp[opened.payload], inner);
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        for transform in Transform::ALL {
            let (seal, open) = pair(transform);
            let good = sealed(&seal, &[0x45; 61], PLAIN);
            for bit in 0..good.len() * 8 {
                let mut esp = good.clone();
                esp[bit / 8] ^= 1 << (bit % 8);
                let whole = 0..esp.len();
                assert_eq!(open.open(&mut esp, whole, PLAIN), Err(OpenError::Integrity), "bit {bit}");
            }
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for transform in Transform::ALL {
            let (seal, open) = pair(transform);
            let good = sealed(&seal, &[0x45; 61], PLAIN);
            for length in 0..good.len() {
                let mut esp = good[..length].to_vec();
                assert!(open.open(&mut esp, 0..length, PLAIN).is_err(), "length {length}");
            }
            assert_eq!(open.open(&mut [], 0..1, PLAIN), Err(OpenError::Truncated));
        }
    }

    #[test]
    fn the_unsent_half_of_the_sequence_number_is_authenticated() {
        for transform in Transform::ALL {
            let (seal, open) = pair(transform);
            let sent = Sequence { number: 3 << 32 | 9, extended: true };
            let mut esp = sealed(&seal, &[0x45; 40], sent);
            let mut copy = esp.clone();
            let whole = 0..esp.len();
            let wrong = Sequence { number: 4 << 32 | 9, extended: true };
            assert_eq!(open.open(&mut copy, whole.clone(), wrong), Err(OpenError::Integrity));
            assert!(open.open(&mut esp, whole, sent).is_ok());
        }
    }

    #[test]
    fn no_room_is_an_error_not_a_panic() {
        for transform in Transform::ALL {
            let (seal, _) = pair(transform);
            let layout = Layout::of(transform);
            let mut buffer = [0; 128];
            let start = layout.headroom();
            let end = 128 - layout.tailroom(64);
            for place in [
                start - 1..100,
                start..128,
                Range { start: 100, end: 90 },
                0..0,
                200..300,
                end - 64..usize::MAX,
            ] {
                assert!(seal.seal(&mut buffer, place, 256, PLAIN, 4).is_err());
            }
        }
    }

    #[test]
    fn wrong_key_lengths_are_refused() {
        for transform in Transform::ALL {
            for change in [-1i32, 1] {
                let mut wrong = keys(transform);
                let length = (wrong.encryption.len() as i32 + change) as usize;
                wrong.encryption.resize(length, 0);
                assert!(OpeningKey::new(transform, &wrong).is_err());
                let mut wrong = keys(transform);
                wrong.integrity.push(0);
                assert!(SealingKey::new(transform, &wrong).is_err());
            }
        }
    }

    /// Padding that is authentic but wrong: made by sealing a payload that ends in what will be read as trailer.
    #[test]
    fn wrong_padding_is_refused_even_if_authentic() {
        let (seal, open) = pair(Transform::Aes128Gcm16);
        let check = |text: &[u8]| {
            let mut packet = vec![0; 16];
            packet.extend_from_slice(text);
            packet.extend_from_slice(&[0; 16]);
            let (header, rest) = packet.split_at_mut(16);
            header[..8].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 7]);
            let (text, icv) = rest.split_at_mut(text.len());
            seal.seal_text(header, text, icv, PLAIN).unwrap();
            let whole = 0..packet.len();
            open.open(&mut packet, whole, PLAIN).map(|opened| opened.payload.len())
        };
        assert_eq!(check(&[0x45, 0x45, 1, 2, 3, 4, 4, 4]), Ok(2));
        assert_eq!(check(&[0x45, 0x45, 1, 2, 3, 5, 4, 4]), Err(OpenError::Padding));
        assert_eq!(check(&[0x45, 0x45, 0, 0, 0, 0, 4, 4]), Err(OpenError::Padding));
        assert_eq!(check(&[1, 2, 3, 4, 5, 6, 7, 4]), Err(OpenError::Padding));
        assert_eq!(check(&[1, 2, 3, 4, 5, 6, 6, 4]), Ok(0));
        assert_eq!(check(&[1, 0, 4]), Err(OpenError::Truncated));
    }

    #[test]
    fn cbc_vectors_never_repeat_and_do_not_show_the_counter() {
        let (seal, _) = pair(Transform::Aes128CbcHmacSha256);
        let vectors: std::collections::HashSet<Vec<u8>> = (1..=200)
            .map(|number| sealed(&seal, &[0x45; 20], Sequence { number, extended: false })[8..24].to_vec())
            .collect();
        assert_eq!(vectors.len(), 200);
        let (other, _) = pair(Transform::Aes128CbcHmacSha256);
        assert!(
            !vectors.contains(&sealed(&other, &[0x45; 20], PLAIN)[8..24]),
            "the IV depends on the key alone"
        );
    }

    /// RFC 7634 appendix A: a ping in a tunnel, with an IV that is no sequence number.
    #[test]
    fn chacha20_poly1305_opens_the_packet_of_rfc_7634() {
        let keys = Keys {
            encryption: Zeroizing::new(hex(
                "808182838485868788898a8b8c8d8e8f 909192939495969798999a9b9c9d9e9f a0a1a2a3",
            )),
            integrity: Zeroizing::default(),
        };
        let key = OpeningKey::new(Transform::ChaCha20Poly1305, &keys).unwrap();
        let mut esp = hex("0102030400000005 1011121314151617
             24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
             14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
             cbec163fac469b502773f6fb94e664da9165b82829f641e0
             76aaa8266b7fb0f7b11b369907e1ad43");
        let whole = 0..esp.len();
        let opened = key.open(&mut esp, whole, Sequence { number: 5, extended: false }).unwrap();
        assert_eq!(opened.next_header, NEXT_HEADER_IPV4);
        let ping = hex("45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
             0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
             2425262728292a2b2c2d2e2f3031323334353637");
        assert_eq!(esp[opened.payload], ping);
    }

    /// RFC 3602 section 4, case 5: the ciphertext of a ping. The ICV is added as RFC 2104 defines it.
    #[test]
    fn aes_cbc_opens_the_packet_of_rfc_3602_and_makes_it_again() {
        let integrity: Vec<u8> = (100..132).collect();
        let keys = Keys {
            encryption: Zeroizing::new(hex("90d382b410eeba7ad938c46cec1a82bf")),
            integrity: Zeroizing::new(integrity.clone()),
        };
        let mut esp = hex("0000432100000001 e96e8c08ab465763fd098d45dd3ff893
             f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856
             a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a
             a269add047ad2d5913ac19b7cfbad4a6");
        let icv = hmac_sha256(&integrity, &esp)[..16].to_vec();
        esp.extend_from_slice(&icv);
        let (encrypted, whole) = (esp.clone(), 0..esp.len());
        let sequence = Sequence { number: 1, extended: false };
        let key = OpeningKey::new(Transform::Aes128CbcHmacSha256, &keys).unwrap();
        let opened = key.open(&mut esp, whole, sequence).unwrap();
        assert_eq!(opened.next_header, 1);
        let ping = hex("08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617
             18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637");
        assert_eq!(esp[opened.payload], ping);

        let seal = SealingKey::new(Transform::Aes128CbcHmacSha256, &keys).unwrap();
        let (header, rest) = esp.split_at_mut(24);
        let (text, icv) = rest.split_at_mut(80);
        seal.seal_text(header, text, icv, sequence).unwrap();
        assert_eq!(esp, encrypted);
    }

    fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
        let pad = |value: u8| -> Vec<u8> { (0..64).map(|i| key.get(i).unwrap_or(&0) ^ value).collect() };
        let hash = |parts: [&[u8]; 2]| ring::digest::digest(&ring::digest::SHA256, &parts.concat());
        hash([&pad(0x5c), hash([&pad(0x36), message]).as_ref()]).as_ref().to_vec()
    }

    /// GCM (NIST SP 800-38D) and the ESP layout of RFC 4106 written a second time, bit by bit.
    #[test]
    fn aes_gcm_agrees_with_an_independent_computation() {
        for (extended, number) in [(false, 0x0102_0304u64), (true, 0x0a0b_0c0d_0102_0304)] {
            let keys = keys(Transform::Aes128Gcm16);
            let seal = SealingKey::new(Transform::Aes128Gcm16, &keys).unwrap();
            let inner: Vec<u8> = (0..61).collect();
            let esp = sealed(&seal, &inner, Sequence { number, extended });

            let aes = aes::Aes128::new_from_slice(&keys.encryption[..16]).unwrap();
            let block = |input: u128| {
                let mut block = input.to_be_bytes().into();
                aes.encrypt_block(&mut block);
                u128::from_be_bytes(block.into())
            };
            let mut text = inner.clone();
            text.extend_from_slice(&[1, 1, 4]);
            text[61..].copy_from_slice(&[1, 1, 4]);
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&keys.encryption[16..]);
            nonce[4..12].copy_from_slice(&number.to_be_bytes());
            let counter = u128::from_be_bytes(nonce) + 1;
            for (i, chunk) in text.chunks_mut(16).enumerate() {
                let stream = block(counter + 1 + i as u128).to_be_bytes();
                chunk.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
            }
            let mut aad = hex("12345678");
            aad.extend_from_slice(&number.to_be_bytes()[if extended { 0 } else { 4 }..]);

            let subkey = block(0);
            let mut hash = 0u128;
            let lengths = ((aad.len() as u128 * 8) << 64 | (text.len() as u128 * 8)).to_be_bytes();
            for part in [&aad[..], &text[..], &lengths[..]] {
                for chunk in part.chunks(16) {
                    let mut bytes = [0; 16];
                    bytes[..chunk.len()].copy_from_slice(chunk);
                    hash = gf_multiply(hash ^ u128::from_be_bytes(bytes), subkey);
                }
            }
            let icv = (hash ^ block(counter)).to_be_bytes();
            assert_eq!(esp[8..16], number.to_be_bytes());
            assert_eq!(esp[16..16 + text.len()], text);
            assert_eq!(esp[16 + text.len()..], icv);
        }
    }

    /// Multiplication in GF(2^128) as SP 800-38D algorithm 1 has it.
    fn gf_multiply(x: u128, y: u128) -> u128 {
        let (mut product, mut factor) = (0, y);
        for bit in (0..128).rev() {
            if x >> bit & 1 == 1 {
                product ^= factor;
            }
            let carry = factor & 1;
            factor >>= 1;
            if carry == 1 {
                factor ^= 0xe1 << 120;
            }
        }
        product
    }

    proptest! {
        #[test]
        fn no_bytes_make_open_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            start in 0usize..220,
            end in 0usize..220,
            number: u64,
            extended: bool,
        ) {
            for transform in Transform::ALL {
                let (_, open) = pair(transform);
                let result = open.open(&mut bytes, start..end, Sequence { number, extended });
                prop_assert!(result.is_err());
            }
        }
    }
}
