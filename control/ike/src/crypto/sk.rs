//! The Encrypted payload and Encrypted Fragment payload (RFC 7296 section 3.14, RFC 7383, RFC 5282, RFC 7634).

use zeroize::Zeroizing;

use super::random::Random;
use super::suite::IkeSuite;

/// Why a message could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkError {
    /// The body is too short for its IV, padding and integrity check value, or (CBC) no whole number of blocks.
    #[error("the encrypted payload has {0} bytes, which cannot be: it is cut off, or of another suite")]
    Length(usize),
    /// The integrity check failed. Someone on the path at fault, a peer with other keys, or a forger.
    #[error("the integrity check of an encrypted payload failed: forged, damaged, or under other keys")]
    Integrity,
    /// Authentic, but its Pad Length is more than there is: the peer is at fault.
    #[error("the peer padded an encrypted payload wrongly")]
    Padding,
    /// A key of the wrong length, or no integrity algorithm where the suite needs one: our own fault.
    #[error("keys do not fit the suite {0}")]
    Keys(IkeSuite),
    /// This direction's IVs are used up: rekey the IKE SA.
    #[error("the IVs of this IKE SA are used up; it must be rekeyed")]
    Exhausted,
}

/// One direction of an IKE SA: seals what we send, or opens what the peer sends.
pub struct SkCipher {
    suite: IkeSuite,
}

impl SkCipher {
    /// `sk_e` with the salt at its end for AEADs; `sk_a` empty for them.
    pub fn new(suite: &IkeSuite, sk_e: &[u8], sk_a: &[u8]) -> Result<Self, SkError> {
        Err(SkError::Keys(*suite))
    }

    /// Bytes that `seal` makes of so many bytes of payloads: IV, ciphertext with padding, integrity check value. The
    /// payload's length field has to be filled in with it before sealing, as it is authenticated.
    pub fn sealed_len(&self, plaintext_len: usize) -> usize {
        plaintext_len
    }

    /// The body after the payload's header (and for SKF after fragment numbers). `aad_prefix` is the message from the IKE
    /// header to there, with final lengths.
    pub fn seal(
        &mut self,
        random: &mut dyn Random,
        aad_prefix: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, SkError> {
        Err(SkError::Keys(self.suite))
    }

    /// The payloads inside `body`, which is everything after `aad_prefix`.
    pub fn open(&self, aad_prefix: &[u8], body: &[u8]) -> Result<Zeroizing<Vec<u8>>, SkError> {
        Err(SkError::Keys(self.suite))
    }
}

impl std::fmt::Debug for SkCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SkCipher({}, …)", self.suite)
    }
}
