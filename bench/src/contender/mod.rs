//! Who is measured: Sekisho, and what a user would pick instead. Each raises its two gateways in a lab, with a tunnel for
//! LAN1 and the server, and says which processes they are.

pub mod program;
pub mod relay;
pub mod sekisho;
pub mod strongswan;
pub mod wireguard;

use anyhow::Result;
/// The IKE proposal of all, for what is measured here is not IKE; and the key of both gateways.
pub use sekisho_tests::initiators::{IKE_PROPOSAL, PSK};
use sekisho_tests::lab::Lab;

use crate::generator::Arriving;
use crate::perf::report::OURS;

/// What the tunnel encrypts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// AES-128 in Galois/Counter mode, ICV of 16 bytes.
    Aes128Gcm,
    /// AES-256 in Galois/Counter mode, ICV of 16 bytes.
    Aes256Gcm,
    /// ChaCha20-Poly1305: the one that WireGuard has.
    ChaCha20Poly1305,
    /// AES-128 in cipher block chaining mode with HMAC-SHA2-256-128.
    Aes128CbcSha256,
}

impl Encryption {
    /// Every one.
    pub const ALL: [Self; 4] =
        [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305, Self::Aes128CbcSha256];

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::Aes128CbcSha256 => "AES-128-CBC with HMAC-SHA2-256",
        }
    }

    /// The ESP proposal, in strongSwan's notation, which is ours too; with perfect forward secrecy.
    pub const fn proposal(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128gcm16-x25519",
            Self::Aes256Gcm => "aes256gcm16-x25519",
            Self::ChaCha20Poly1305 => "chacha20poly1305-x25519",
            Self::Aes128CbcSha256 => "aes128-sha256-x25519",
        }
    }
}

/// What the tunnel is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it encrypts with, where there is a choice.
    pub encryption: Encryption,
    /// ESP in UDP, as behind a NAT, where there is a choice.
    pub in_udp: bool,
}

/// Two gateways at work. Dropping it ends them.
pub trait Tunnel {
    /// Pids of both.
    fn processes(&self) -> Vec<u32>;
}

/// One who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours, on its engine.
    Sekisho,
    /// strongSwan's ESP in user space (kernel-libipsec).
    StrongSwan,
    /// WireGuard's reference in user space.
    WireguardGo,
    /// WireGuard by Mullvad.
    GotaTun,
    /// WireGuard by Cloudflare.
    BoringTun,
    /// None of them: our engine's sockets without ESP, which ours cannot be faster than.
    Relay,
}

impl Contender {
    /// Every one that makes a tunnel: ours first, and then by who is expected to come near.
    pub const ALL: [Self; 5] =
        [Self::Sekisho, Self::GotaTun, Self::WireguardGo, Self::BoringTun, Self::StrongSwan];

    /// As the report has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sekisho => OURS,
            Self::StrongSwan => "strongswan",
            Self::WireguardGo => "wireguard-go",
            Self::GotaTun => "gotatun",
            Self::BoringTun => "boringtun",
            Self::Relay => "bare AF_XDP",
        }
    }

    /// Its version.
    ///
    /// # Errors
    /// When it is not installed: says how it would come.
    pub fn version(self) -> Result<String> {
        match self {
            Self::Sekisho => sekisho::version(),
            Self::StrongSwan => strongswan::version(),
            Self::WireguardGo => wireguard::Implementation::Go.version(),
            Self::GotaTun => wireguard::Implementation::GotaTun.version(),
            Self::BoringTun => wireguard::Implementation::BoringTun.version(),
            Self::Relay => Ok("our engine's sockets, without ESP".into()),
        }
    }

    /// How its last gateway hands over what was decrypted.
    pub const fn arriving(self) -> Arriving {
        match self {
            Self::Sekisho => Arriving::Frames,
            Self::Relay | Self::StrongSwan | Self::WireguardGo | Self::GotaTun | Self::BoringTun => {
                Arriving::Packets
            }
        }
    }

    /// Whether it has that choice at all.
    pub fn can(self, wanted: Wanted) -> bool {
        match self {
            Self::Sekisho => true,
            // libipsec knows ESP only in UDP.
            Self::StrongSwan => wanted.in_udp,
            Self::Relay => false,
            Self::WireguardGo | Self::GotaTun | Self::BoringTun => {
                wanted.in_udp && wanted.encryption == Encryption::ChaCha20Poly1305
            }
        }
    }

    /// Raises it in a lab whose gateways have nothing yet; returns once the tunnel is up.
    ///
    /// # Errors
    /// When a gateway does not start, or the tunnel does not come up.
    pub fn raise(self, lab: &Lab, wanted: Wanted) -> Result<Box<dyn Tunnel>> {
        Ok(match self {
            Self::Sekisho => Box::new(sekisho::Pair::raise(lab, wanted)?),
            Self::StrongSwan => Box::new(strongswan::Pair::raise(lab, wanted)?),
            Self::WireguardGo => Box::new(wireguard::Pair::raise(lab, wireguard::Implementation::Go)?),
            Self::GotaTun => Box::new(wireguard::Pair::raise(lab, wireguard::Implementation::GotaTun)?),
            Self::BoringTun => Box::new(wireguard::Pair::raise(lab, wireguard::Implementation::BoringTun)?),
            Self::Relay => Box::new(relay::Pair::raise(lab)?),
        })
    }
}
