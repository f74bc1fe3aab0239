//! The pseudorandom function and prf+ (RFC 7296 sections 2.13 and 3.3.2). All are HMACs with SHA-2 (RFC 4868).

use ring::hmac;
use zeroize::Zeroizing;

use super::suite::Prf;

/// More key material was asked for than prf+ can make (255 blocks). Only a fault of ours can ask for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prf+ cannot make {0} bytes of key material: its 8-bit counter would repeat")]
pub struct PrfPlusExhausted(pub usize);

impl Prf {
    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Prf::HmacSha256 => hmac::HMAC_SHA256,
            Prf::HmacSha384 => hmac::HMAC_SHA384,
            Prf::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// prf(key, part | part | …).
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        self.keyed(&hmac::Key::new(self.algorithm(), key), parts)
    }

    /// prf+(key, seed), its first `len` bytes.
    ///
    /// ```text
    /// prf+ (K,S) = T1 | T2 | T3 | …
    /// T1 = prf (K, S | 0x01),  T2 = prf (K, T1 | S | 0x02), …
    /// ```
    pub fn plus(
        self,
        key: &[u8],
        seed: &[&[u8]],
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>, PrfPlusExhausted> {
        let blocks = u8::try_from(len.div_ceil(self.output_len())).map_err(|_| PrfPlusExhausted(len))?;
        let key = hmac::Key::new(self.algorithm(), key);
        // Sized once for whole blocks: growing would leave copies of keys in freed memory.
        let mut out = Zeroizing::new(Vec::with_capacity(usize::from(blocks) * self.output_len()));
        let mut last = Zeroizing::new(Vec::new());
        for counter in 1..=blocks {
            let counter = [counter];
            let mut parts: Vec<&[u8]> = vec![&last];
            parts.extend(seed);
            parts.push(&counter);
            last = self.keyed(&key, &parts);
            out.extend_from_slice(&last);
        }
        out.truncate(len);
        Ok(out)
    }

    fn keyed(self, key: &hmac::Key, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.sign().as_ref().to_vec())
    }
}
