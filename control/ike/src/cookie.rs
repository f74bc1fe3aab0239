//! Cookies (RFC 7296 section 2.6): under load a stranger must show that it receives at the address it sends from,
//! before we spend a key exchange and memory on it. Stateless: the secret alone recognises our cookies.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ring::hmac;

use crate::crypto::random::Random;

/// A secret makes cookies for this long, and is recognised for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// Makes and recognises cookies.
pub(crate) struct CookieJar {
    current: Secret,
    previous: Option<Secret>,
}

struct Secret {
    version: u8,
    key: hmac::Key,
    made: Instant,
}

impl Secret {
    fn new(version: u8, random: &mut dyn Random, now: Instant) -> Self {
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        Self { version, key: hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref()), made: now }
    }
}

impl CookieJar {
    pub(crate) fn new(random: &mut dyn Random, now: Instant) -> Self {
        Self { current: Secret::new(0, random, now), previous: None }
    }

    /// The cookie for this stranger: version | HMAC(Ni | IPi | port | SPIi).
    pub(crate) fn make(
        &mut self,
        random: &mut dyn Random,
        now: Instant,
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: u64,
    ) -> Vec<u8> {
        self.rotate(random, now);
        let mut cookie = vec![self.current.version];
        cookie.extend_from_slice(hmac::sign(&self.current.key, &bound(nonce, remote, spi_i)).as_ref());
        cookie
    }

    /// Whether `cookie` is one of ours, made for this very stranger and request, and not too old.
    pub(crate) fn recognises(
        &mut self,
        random: &mut dyn Random,
        now: Instant,
        cookie: &[u8],
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: u64,
    ) -> bool {
        self.rotate(random, now);
        let Some((version, tag)) = cookie.split_first() else { return false };
        let bound = bound(nonce, remote, spi_i);
        std::iter::once(&self.current)
            .chain(&self.previous)
            .filter(|secret| secret.version == *version)
            .any(|secret| hmac::verify(&secret.key, &bound, tag).is_ok())
    }

    fn rotate(&mut self, random: &mut dyn Random, now: Instant) {
        let age = now.saturating_duration_since(self.current.made);
        if age < SECRET_LIFETIME {
            return;
        }
        let next = Secret::new(self.current.version.wrapping_add(1), random, now);
        let last = std::mem::replace(&mut self.current, next);
        self.previous = (age < 2 * SECRET_LIFETIME).then_some(last);
    }
}

fn bound(nonce: &[u8], remote: SocketAddr, spi_i: u64) -> Vec<u8> {
    let mut bytes = nonce.to_vec();
    match remote.ip().to_canonical() {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
    bytes.extend_from_slice(&remote.port().to_be_bytes());
    bytes.extend_from_slice(&spi_i.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SeededRandom;

    #[test]
    fn a_cookie_holds_for_its_stranger_only_and_for_a_while() {
        let mut random = SeededRandom::new(1);
        let now = Instant::now();
        let mut jar = CookieJar::new(&mut random, now);
        let remote: SocketAddr = "192.0.2.1:500".parse().expect("address");
        let other: SocketAddr = "192.0.2.2:500".parse().expect("address");
        let nonce = [3; 32];
        let cookie = jar.make(&mut random, now, &nonce, remote, 9);
        let mut holds = |at, cookie: &[u8], nonce: &[u8], remote, spi| {
            jar.recognises(&mut random, now + Duration::from_secs(at), cookie, nonce, remote, spi)
        };
        assert!(holds(0, &cookie, &nonce, remote, 9));
        assert!(!holds(0, &cookie, &nonce, other, 9));
        assert!(!holds(0, &cookie, &nonce, remote, 8));
        assert!(!holds(0, &cookie, &[4; 32], remote, 9));
        assert!(!holds(0, &[], &nonce, remote, 9));
        assert!(!holds(0, &cookie[..20], &nonce, remote, 9));
        assert!(holds(130, &cookie, &nonce, remote, 9), "made under the secret before");
        assert!(!holds(260, &cookie, &nonce, remote, 9), "two secrets ago");
    }
}
