//! Key exchange: our half of a Diffie-Hellman exchange, and the secret both halves make.

mod modp;

use ring::agreement;
use zeroize::Zeroizing;

use super::random::Random;
use super::suite::Group;

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhError {
    /// The peer's Key Exchange Data has the wrong length: the peer is at fault.
    #[error("the peer's public value for {group} has {found} bytes, not {}", group.public_len())]
    Length {
        /// The group.
        group: Group,
        /// Bytes received.
        found: usize,
    },
    /// The peer's public value is none: out of range, not on the curve, or of small order (RFC 7296 section 2.12,
    /// RFC 6989). A broken or hostile peer is at fault.
    #[error("the peer's public value for {group} is not a valid one; its implementation is broken, or it attacks")]
    InvalidPublic {
        /// The group.
        group: Group,
    },
    /// We could not make a key: the kernel's random numbers failed.
    #[error("could not make a key for {group}: the kernel gave no random numbers")]
    Generate {
        /// The group.
        group: Group,
    },
}

/// What both sides of a key exchange know and nobody else: g^ir. Zeroised when dropped, never shown.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// The octets that key derivation takes (RFC 7296 section 2.14: big-endian, of the modulus' length; ECP: the x
    /// coordinate, RFC 5903 section 7; X25519: as RFC 7748 has them).
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// Our half of one exchange. Used once: [`agree`](KeyShare::agree) takes it.
pub struct KeyShare {
    group: Group,
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Ring(agreement::EphemeralPrivateKey),
    Modp(modp::PrivateExponent),
}

impl KeyShare {
    /// Makes a fresh key. *ring* takes its own randomness from the kernel for X25519 and ECP; MODP exponents come from
    /// `random`.
    pub fn generate(group: Group, random: &mut dyn Random) -> Result<Self, DhError> {
        Err(DhError::Generate { group })
    }

    /// The group.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Key Exchange Data to send: MODP left-padded to the modulus' length, ECP x | y (RFC 5903 section 7), X25519 as
    /// it is.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The secret shared with the peer that sent `peer_public` as Key Exchange Data.
    pub fn agree(self, peer_public: &[u8]) -> Result<SharedSecret, DhError> {
        Err(DhError::InvalidPublic { group: self.group })
    }
}

impl std::fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyShare").field("group", &self.group).finish_non_exhaustive()
    }
}
