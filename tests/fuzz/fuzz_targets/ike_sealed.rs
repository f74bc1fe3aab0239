//! Encrypted payloads under known keys: from a datagram through the Encrypted (Fragment) payload to what is inside.
//!
//! Asserts: what was sealed opens to the same; authentic content with any Pad Length is cut or refused, never more; what
//! was damaged anywhere is refused; what opens is parsed within bounds, and reads the same once written again.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ring::aead;
use sekisho_fuzz::memory::{for_input, within};
use sekisho_ike::crypto::random::SeededRandom;
use sekisho_ike::crypto::sk::{SkCipher, SkError};
use sekisho_ike::crypto::suite::{Additional, AesBits, Encryption, Group, IkeSuite, Integrity, Prf};
use sekisho_ike::wire::{
    ExchangeType, Fragment, Header, Outer, PayloadType, Spi, WireError, parse_payloads, protect,
    protect_fragment, write_payloads,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    suite: u8,
    fragment: Option<(u16, u16)>,
    first: u8,
    /// The content ends with its Pad Length already.
    padded: bool,
    damage: Option<(u16, u8)>,
    content: &'a [u8],
}

#[derive(Debug)]
enum Unsealable {
    Wire,
    Cipher,
}

impl From<WireError> for Unsealable {
    fn from(_: WireError) -> Self {
        Self::Wire
    }
}

fuzz_target!(|input: Input<'_>| {
    // Raw content needs the cipher itself, which the engine offers for whole payloads only.
    let suite = if input.padded { suite(0) } else { suite(input.suite) };
    let sk_e = vec![7; suite.encryption.key_len()];
    let sk_a = vec![9; suite.integrity.map_or(0, Integrity::key_len)];
    let mut cipher = SkCipher::new(&suite, &sk_e, &sk_a).expect("keys that fit");
    let sealed_len =
        if input.padded { 8 + input.content.len() + 16 } else { cipher.sealed_len(input.content.len()) };
    let seal = |prefix: &[u8], content: &[u8]| match input.padded {
        true => Ok(seal_raw(&sk_e, prefix, content)),
        false => cipher.seal(&mut SeededRandom::new(1), prefix, content).map_err(|_| Unsealable::Cipher),
    };
    let header = Header::request(Spi(1), Spi(2), ExchangeType::Informational, true, 3);
    let first = PayloadType::from(input.first);
    let sealed = match input.fragment {
        None => protect(&header, first, input.content, sealed_len, seal),
        Some((number, total)) => {
            let fragment = Fragment { number, total };
            protect_fragment(&header, fragment, first, input.content, sealed_len, seal)
        }
    };
    let mut datagram = match sealed {
        Ok(datagram) => datagram,
        Err(Unsealable::Wire) => return,
        Err(Unsealable::Cipher) => panic!("fresh keys seal whatever fits"),
    };
    let damaged = match input.damage {
        Some((at, change @ 1..)) => {
            let at = usize::from(at) % datagram.len();
            datagram[at] ^= change;
            true
        }
        _ => false,
    };
    let Ok(outer) = Outer::parse(&datagram) else {
        assert!(damaged, "our own message reads");
        return;
    };
    let Some(protected) = outer.protected else {
        assert!(damaged, "our own Encrypted payload is one");
        return;
    };
    let prefix = protected.associated_data(&datagram).expect("within the datagram");
    let body = protected.body(&datagram).expect("within the datagram");
    let opened = cipher.open(prefix, body);
    if damaged {
        assert!(matches!(opened, Err(SkError::Integrity | SkError::Length(_))), "opened what was damaged");
        return;
    }
    let expected = if input.padded { unpadded(input.content) } else { Some(input.content) };
    match (opened, expected) {
        (Ok(content), Some(expected)) => {
            assert_eq!(content.as_slice(), expected);
            inside(protected.first_inner, &content);
        }
        (Err(SkError::Padding | SkError::Length(_)), None) => {}
        (opened, expected) => panic!("{opened:?} in place of {expected:?}"),
    }
});

fn inside(first: PayloadType, chain: &[u8]) {
    if let Ok(payloads) = within(for_input(chain.len()), || parse_payloads(first, chain)) {
        let (first, written) = write_payloads(&payloads).expect("what was read can be written");
        assert_eq!(parse_payloads(first, &written).expect("our own chain"), payloads);
    }
}

/// RFC 7296 section 3.14: the last byte says how many before it are padding.
fn unpadded(content: &[u8]) -> Option<&[u8]> {
    let (&padding, rest) = content.split_last()?;
    rest.get(..rest.len().checked_sub(padding.into())?)
}

/// AES-128-GCM over the content as it is (RFC 5282 section 3).
fn seal_raw(sk_e: &[u8], prefix: &[u8], content: &[u8]) -> Vec<u8> {
    let (key, salt) = sk_e.split_at(16);
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, key).expect("16 bytes"));
    let nonce = [salt, &[0; 8]].concat();
    let nonce = aead::Nonce::try_assume_unique_for_key(&nonce).expect("12 bytes");
    let mut text = content.to_vec();
    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(prefix), &mut text).expect("short");
    [&[0; 8], &text[..], tag.as_ref()].concat()
}

fn suite(number: u8) -> IkeSuite {
    use AesBits::{Aes128, Aes256};
    let (encryption, integrity) = match number % 6 {
        0 => (Encryption::AesGcm16 { bits: Aes128 }, None),
        1 => (Encryption::AesGcm16 { bits: Aes256 }, None),
        2 => (Encryption::ChaCha20Poly1305, None),
        3 => (Encryption::AesCbc { bits: Aes128 }, Some(Integrity::HmacSha256_128)),
        4 => (Encryption::AesCbc { bits: Aes256 }, Some(Integrity::HmacSha384_192)),
        _ => (Encryption::AesCbc { bits: Aes256 }, Some(Integrity::HmacSha512_256)),
    };
    IkeSuite {
        encryption,
        integrity,
        prf: Prf::HmacSha256,
        group: Group::X25519,
        additional: Additional::NONE,
    }
}
