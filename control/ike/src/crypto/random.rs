//! Where nonces, SPIs, IVs and MODP exponents come from.

use ring::hmac;
use ring::rand::SecureRandom;

/// A source of random bytes, handed into the engine so that a simulation can repeat itself.
pub trait Random: Send {
    /// Fills `out` with bytes nobody can guess.
    fn fill(&mut self, out: &mut [u8]);

    /// A random 32-bit number.
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// A random 64-bit number.
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// `len` random bytes, as for a nonce (RFC 7296 section 2.10: 16 to 256).
    fn next_bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// The kernel's random numbers, through *ring*.
#[derive(Debug)]
pub struct SystemRandom(ring::rand::SystemRandom);

impl SystemRandom {
    /// Ready at once: *ring* waits for the kernel's generator to be seeded on first use.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    /// # Panics
    /// When the kernel has no random numbers to give. Linux's getrandom fails only where a sandbox forbids it; an
    /// engine that went on would make guessable keys, so it stops.
    fn fill(&mut self, out: &mut [u8]) {
        if self.0.fill(out).is_err() {
            panic!("getrandom failed: allow this system call to the daemon; without it no key can be made");
        }
    }
}

/// Repeatable numbers for simulations and tests: HMAC-SHA-256 of a counter under the seed. **Never for production**:
/// whoever knows the 64-bit seed knows every number.
pub struct SeededRandom {
    key: hmac::Key,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl SeededRandom {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &seed.to_be_bytes()),
            counter: 0,
            block: [0; 32],
            used: 32,
        }
    }
}

impl Random for SeededRandom {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.block.len() {
                let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
                for (to, from) in self.block.iter_mut().zip(tag.as_ref()) {
                    *to = *from;
                }
                self.counter = self.counter.wrapping_add(1);
                self.used = 0;
            }
            *byte = self.block.get(self.used).copied().unwrap_or_default();
            self.used += 1;
        }
    }
}

impl std::fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeededRandom(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_whatever_the_portions() {
        let mut whole = [0; 100];
        SeededRandom::new(7).fill(&mut whole);
        let mut random = SeededRandom::new(7);
        let mut portions = Vec::new();
        for len in [1, 31, 33, 35] {
            portions.extend(random.next_bytes(len));
        }
        assert_eq!(portions, whole);
        assert_ne!(SeededRandom::new(8).next_bytes(100), whole);
    }

    #[test]
    fn the_kernel_gives_different_numbers_each_time() {
        let mut random = SystemRandom::new();
        assert_ne!(random.next_bytes(32), random.next_bytes(32));
    }
}
