//! The algorithms: keys, nonces, initialisation vectors and integrity check values.

use aes::cipher::{Array, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes256};
use ring::aead::{self, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::packet::{OpenError, SealError, Sequence};
use crate::sa::{Keys, SALT_BYTES, SaError, Transform};
use crate::wiped::Wiped;

/// AES block.
const BLOCK_BYTES: usize = 16;
/// ICV of AEADs: GCM-16 and Poly1305.
const AEAD_ICV_BYTES: usize = 16;

/// What a transform adds to a packet, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Initialisation vector after the ESP header.
    pub iv: usize,
    /// Payload, padding and trailer together are a multiple of this power of two.
    pub alignment: usize,
    /// Integrity check value at the end.
    pub icv: usize,
}

impl Layout {
    /// The layout of a transform.
    pub const fn of(transform: Transform) -> Self {
        match transform {
            Transform::Aes128Gcm16 | Transform::Aes256Gcm16 | Transform::ChaCha20Poly1305 => {
                Self { iv: 8, alignment: 4, icv: AEAD_ICV_BYTES }
            }
            // RFC 4868 section 2.1.2: half of the hash.
            _ => Self { iv: BLOCK_BYTES, alignment: BLOCK_BYTES, icv: transform.key_bytes().1 / 2 },
        }
    }

    /// Bytes of ESP header and initialisation vector: the room needed before the inner packet.
    pub const fn headroom(self) -> usize {
        super::packet::HEADER_BYTES + self.iv
    }

    /// Bytes of padding, trailer and ICV behind an inner packet of this length.
    pub const fn tailroom(self, inner: usize) -> usize {
        let trailer = super::packet::TRAILER_BYTES;
        // The alignment is a power of two.
        let padding = inner.wrapping_add(trailer).wrapping_neg() & (self.alignment - 1);
        padding + trailer + self.icv
    }
}

/// An outbound SA's key. Overwritten when dropped.
#[derive(Debug)]
pub struct SealingKey {
    layout: Layout,
    cipher: Wiped<Cipher>,
    iv: Wiped<IvGenerator>,
}

/// An inbound SA's key. Overwritten when dropped.
#[derive(Debug)]
pub struct OpeningKey {
    layout: Layout,
    cipher: Wiped<Cipher>,
}

impl SealingKey {
    /// Takes the key; refuses a length that is not the transform's.
    pub fn new(transform: Transform, keys: &Keys) -> Result<Self, SaError> {
        Ok(Self {
            layout: Layout::of(transform),
            cipher: Wiped::new(Cipher::new(transform, keys)?),
            iv: Wiped::new(IvGenerator::random()?),
        })
    }

    /// What sealing adds.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The initialisation vector for this sequence number, into `iv`.
    pub(super) fn write_iv(&self, sequence: u64, iv: &mut [u8]) {
        match &*self.cipher {
            // RFC 4106 section 3.1: unique for the key is enough, so the counter itself serves.
            Cipher::Aead { .. } => copy::<8>(iv, &sequence.to_be_bytes()),
            Cipher::Cbc { .. } => copy::<BLOCK_BYTES>(iv, &self.iv.block(sequence)),
        }
    }

    /// Encrypts `text` and writes the ICV. `header` is what stands before it: ESP header and IV.
    pub(super) fn seal_text(
        &self,
        header: &[u8],
        text: &mut [u8],
        icv: &mut [u8],
        sequence: Sequence,
    ) -> Result<(), SealError> {
        match &*self.cipher {
            Cipher::Aead { key, salt } => {
                let (esp, iv) = header.split_last_chunk::<8>().ok_or(SealError::NoRoom)?;
                let tag = key
                    .seal_in_place_separate_tag(nonce(salt, iv), sequence.additional_data(esp), text)
                    .map_err(|_| SealError::TooLong)?;
                copy::<AEAD_ICV_BYTES>(icv, tag.as_ref());
            }
            Cipher::Cbc { block, mac } => {
                let (_, iv) = header.split_last_chunk::<BLOCK_BYTES>().ok_or(SealError::NoRoom)?;
                block.encrypt(iv, text);
                copy_truncated(icv, authenticate(mac, header, text, sequence).as_ref());
            }
        }
        Ok(())
    }
}

impl OpeningKey {
    /// Takes the key; refuses a length that is not the transform's.
    pub fn new(transform: Transform, keys: &Keys) -> Result<Self, SaError> {
        Ok(Self { layout: Layout::of(transform), cipher: Wiped::new(Cipher::new(transform, keys)?) })
    }

    /// What opening takes away.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Checks the ICV, which ends `text_and_icv`, and decrypts what is before it.
    pub(super) fn open_text(
        &self,
        header: &[u8],
        text_and_icv: &mut [u8],
        sequence: Sequence,
    ) -> Result<(), OpenError> {
        match &*self.cipher {
            Cipher::Aead { key, salt } => {
                let (esp, iv) = header.split_last_chunk::<8>().ok_or(OpenError::Truncated)?;
                key.open_in_place(nonce(salt, iv), sequence.additional_data(esp), text_and_icv)
                    .map_err(|_| OpenError::Integrity)?;
            }
            Cipher::Cbc { block, mac } => {
                let (_, iv) = header.split_last_chunk::<BLOCK_BYTES>().ok_or(OpenError::Truncated)?;
                let text_bytes =
                    text_and_icv.len().checked_sub(self.layout.icv).ok_or(OpenError::Truncated)?;
                let (text, icv) =
                    text_and_icv.split_at_mut_checked(text_bytes).ok_or(OpenError::Truncated)?;
                let tag = authenticate(mac, header, text, sequence);
                let expected = tag.as_ref().get(..icv.len()).ok_or(OpenError::Truncated)?;
                if !bool::from(expected.ct_eq(icv)) {
                    return Err(OpenError::Integrity);
                }
                block.decrypt(iv, text);
            }
        }
        Ok(())
    }
}

/// Key material of one direction, expanded.
enum Cipher {
    /// Encryption and integrity in one (RFC 4106, RFC 7634).
    Aead { key: LessSafeKey, salt: [u8; SALT_BYTES] },
    /// Encrypt, then authenticate (RFC 3602, RFC 4868).
    Cbc { block: BlockCipher, mac: hmac::Key },
}

impl Cipher {
    fn new(transform: Transform, keys: &Keys) -> Result<Self, SaError> {
        let (encryption_bytes, integrity_bytes) = transform.key_bytes();
        for (key, wanted) in [(&keys.encryption, encryption_bytes), (&keys.integrity, integrity_bytes)] {
            if key.len() != wanted {
                return Err(SaError::KeyLength(transform, wanted, key.len()));
            }
        }
        let length_error = || SaError::KeyLength(transform, encryption_bytes, keys.encryption.len());
        let cbc = |hash| {
            let block = BlockCipher::new(&keys.encryption).ok_or_else(length_error)?;
            Ok(Self::Cbc { block, mac: hmac::Key::new(hash, &keys.integrity) })
        };
        let algorithm = match transform {
            Transform::Aes128Gcm16 => &aead::AES_128_GCM,
            Transform::Aes256Gcm16 => &aead::AES_256_GCM,
            Transform::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            Transform::Aes128CbcHmacSha256 | Transform::Aes256CbcHmacSha256 => return cbc(hmac::HMAC_SHA256),
            Transform::Aes128CbcHmacSha384 | Transform::Aes256CbcHmacSha384 => return cbc(hmac::HMAC_SHA384),
            Transform::Aes128CbcHmacSha512 | Transform::Aes256CbcHmacSha512 => return cbc(hmac::HMAC_SHA512),
        };
        let (key, salt) = keys.encryption.split_last_chunk::<SALT_BYTES>().ok_or_else(length_error)?;
        let key = UnboundKey::new(algorithm, key).map_err(|_| length_error())?;
        Ok(Self::Aead { key: LessSafeKey::new(key), salt: *salt })
    }
}

/// RFC 4106 section 4, RFC 7634 section 2: salt, then the IV of the packet.
fn nonce(&[s0, s1, s2, s3]: &[u8; SALT_BYTES], &[i0, i1, i2, i3, i4, i5, i6, i7]: &[u8; 8]) -> Nonce {
    Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
}

/// RFC 4303 section 2.8: the ICV, before it is truncated, covers the ESP header, the IV and the ciphertext, and the high half of an extended
/// sequence number as if it followed them.
fn authenticate(mac: &hmac::Key, header: &[u8], text: &[u8], sequence: Sequence) -> hmac::Tag {
    let mut context = hmac::Context::with_key(mac);
    context.update(header);
    context.update(text);
    if let Some(high) = sequence.implicit_high() {
        context.update(&high.to_be_bytes());
    }
    context.sign()
}

/// AES in CBC mode with either key length.
enum BlockCipher {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl BlockCipher {
    fn new(key: &[u8]) -> Option<Self> {
        Aes128::new_from_slice(key)
            .map(Self::Aes128)
            .or_else(|_| Aes256::new_from_slice(key).map(Self::Aes256))
            .ok()
    }

    /// Encrypts whole blocks; the caller has padded.
    fn encrypt(&self, iv: &[u8; BLOCK_BYTES], text: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(text);
        match self {
            Self::Aes128(aes) => cbc::Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks),
            Self::Aes256(aes) => cbc::Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks),
        }
    }

    /// Decrypts whole blocks.
    fn decrypt(&self, iv: &[u8; BLOCK_BYTES], text: &mut [u8]) {
        let (blocks, _) = Array::slice_as_chunks_mut(text);
        match self {
            Self::Aes128(aes) => cbc::Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks),
            Self::Aes256(aes) => cbc::Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks),
        }
    }
}

/// Unpredictable IVs for CBC (RFC 3602 section 3) without a system call for each packet: the sequence number,
/// encrypted under a key that is drawn at random for this SA and used for nothing else (NIST SP 800-38A appendix C).
struct IvGenerator(Aes128);

impl IvGenerator {
    fn random() -> Result<Self, SaError> {
        let mut key = Zeroizing::new([0; 16]);
        SystemRandom::new().fill(&mut *key).map_err(|_| SaError::Io {
            context: "random bytes from the kernel".into(),
            source: std::io::Error::other("getrandom failed"),
        })?;
        Ok(Self(Aes128::new(&(*key).into())))
    }

    fn block(&self, sequence: u64) -> [u8; BLOCK_BYTES] {
        let mut block = Array::from(u128::from(sequence).to_be_bytes());
        self.0.encrypt_block(&mut block);
        block.into()
    }
}

/// Copies as much of a tag as its place has: one of the lengths of RFC 4868.
fn copy_truncated(to: &mut [u8], tag: &[u8]) {
    match to.len() {
        16 => copy::<16>(to, tag),
        24 => copy::<24>(to, tag),
        _ => copy::<32>(to, tag),
    }
}

/// Copies the first `N` bytes where both sides have them, as the layout makes sure; a fixed length is one or two
/// moves, and nothing here can panic.
fn copy<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
}
