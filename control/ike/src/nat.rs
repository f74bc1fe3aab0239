//! NAT traversal (RFC 7296 section 2.23): who is behind a NAT, and when to move to port 4500.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ring::digest;
use subtle::ConstantTimeEq;

use crate::context::Context;
use crate::event::Path;
use crate::wire::notify::Notify;
use crate::wire::{NotifyType, Payload};

/// Port of IKE in the clear of any NAT.
pub const IKE_PORT: u16 = 500;
/// Port that IKE and ESP in UDP share (RFC 3948).
pub const NAT_PORT: u16 = 4500;
/// The keepalive (RFC 3948 section 2.3) is this one byte.
pub const KEEPALIVE: [u8; 1] = [0xff];
/// RFC 3948 section 4: the default interval of keepalives.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Where NATs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatStatus {
    /// On our side: we keep its mapping alive.
    pub(crate) local: bool,
    /// On the peer's side: its address and port may change.
    pub(crate) remote: bool,
}

impl NatStatus {
    /// Whether IKE moves to 4500 and ESP goes in UDP.
    pub(crate) fn floats(self) -> bool {
        self.local || self.remote
    }
}

/// Data of NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP: SHA-1 over SPIs, address and port. It hides
/// addresses from nobody and proves nothing; SHA-1 is what the RFC has.
pub(crate) fn detection_hash(spi_i: u64, spi_r: u64, address: SocketAddr) -> [u8; 20] {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(&spi_i.to_be_bytes());
    hash.update(&spi_r.to_be_bytes());
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => hash.update(&v4.octets()),
        IpAddr::V6(v6) => hash.update(&v6.octets()),
    }
    hash.update(&address.port().to_be_bytes());
    let mut out = [0; 20];
    for (to, from) in out.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    out
}

/// How we see a path, for the peer to compare. `forced`: the source hash matches nothing, so that the peer sees a NAT.
pub(crate) fn announcements(
    ctx: &mut Context<'_>,
    spi_i: u64,
    spi_r: u64,
    path: Path,
    forced: bool,
) -> [Payload; 2] {
    let source = match forced {
        true => ctx.random.next_bytes(20),
        false => detection_hash(spi_i, spi_r, path.local).to_vec(),
    };
    let destination = detection_hash(spi_i, spi_r, path.remote).to_vec();
    [(NotifyType::NatDetectionSourceIp, source), (NotifyType::NatDetectionDestinationIp, destination)]
        .map(|(notify_type, hash)| Payload::Notify(Notify::with_data(notify_type, hash)))
}

/// Compares the peer's hashes with what we see on `path`. A peer may send several source hashes, one per address it
/// has; a peer that sent none knows no NAT traversal, and is taken to be without NAT.
pub(crate) fn detect(
    spi_i: u64,
    spi_r: u64,
    path: Path,
    sources: &[&[u8]],
    destination: Option<&[u8]>,
) -> NatStatus {
    let matches = |hash: &[u8], address| bool::from(hash.ct_eq(&detection_hash(spi_i, spi_r, address)));
    NatStatus {
        remote: !sources.is_empty() && !sources.iter().any(|hash| matches(hash, path.remote)),
        local: destination.is_some_and(|hash| !matches(hash, path.local)),
    }
}

/// The path after the move.
pub(crate) fn floated(path: Path) -> Path {
    // A responder on another port than 500 is taken to expect everything there, as a configured port says.
    let float = |address: SocketAddr| match address.port() {
        IKE_PORT => SocketAddr::new(address.ip(), NAT_PORT),
        _ => address,
    };
    Path { local: float(path.local), remote: float(path.remote) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(local: &str, remote: &str) -> Path {
        Path { local: local.parse().expect("address"), remote: remote.parse().expect("address") }
    }

    #[test]
    fn a_nat_shows_on_the_side_where_it_is() {
        let gateway: SocketAddr = "192.168.1.2:500".parse().expect("address");
        let server: SocketAddr = "203.0.113.2:500".parse().expect("address");
        let sent = (detection_hash(1, 0, gateway), detection_hash(1, 0, server));
        let behind = detect(1, 0, path("203.0.113.2:500", "198.51.100.2:1024"), &[&sent.0], Some(&sent.1));
        assert_eq!(behind, NatStatus { local: false, remote: true });
        let forwarded = detect(1, 0, path("10.0.0.2:500", "192.168.1.2:500"), &[&sent.0], Some(&sent.1));
        assert_eq!(forwarded, NatStatus { local: true, remote: false });
        let open =
            detect(1, 0, path("203.0.113.2:500", "192.168.1.2:500"), &[&[0; 20], &sent.0], Some(&sent.1));
        assert_eq!(open, NatStatus::default());
        assert_eq!(detect(1, 0, path("203.0.113.2:500", "192.168.1.2:500"), &[], None), NatStatus::default());
    }

    #[test]
    fn mapped_addresses_hash_like_ipv4() {
        let v4 = "192.0.2.1:500".parse().expect("address");
        let mapped = "[::ffff:192.0.2.1]:500".parse().expect("address");
        assert_eq!(detection_hash(1, 2, v4), detection_hash(1, 2, mapped));
    }

    #[test]
    fn only_port_500_floats() {
        assert_eq!(floated(path("192.0.2.1:500", "192.0.2.2:500")), path("192.0.2.1:4500", "192.0.2.2:4500"));
        assert_eq!(
            floated(path("192.0.2.1:4500", "192.0.2.2:9000")),
            path("192.0.2.1:4500", "192.0.2.2:9000")
        );
    }
}
