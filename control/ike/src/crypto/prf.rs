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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn prf_is_that_of_rfc_4231() {
        // Test cases 1, 2 and 6.
        for (prf, key, data, output) in [
            (
                Prf::HmacSha256,
                [0x0b; 20].as_slice(),
                "Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                Prf::HmacSha384,
                [0x0b; 20].as_slice(),
                "Hi There",
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
            ),
            (
                Prf::HmacSha512,
                [0x0b; 20].as_slice(),
                "Hi There",
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
            ),
            (
                Prf::HmacSha256,
                b"Jefe".as_slice(),
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                Prf::HmacSha384,
                b"Jefe".as_slice(),
                "what do ya want for nothing?",
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                Prf::HmacSha512,
                b"Jefe".as_slice(),
                "what do ya want for nothing?",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
            (
                Prf::HmacSha256,
                [0xaa; 131].as_slice(),
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                Prf::HmacSha384,
                [0xaa; 131].as_slice(),
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
            ),
            (
                Prf::HmacSha512,
                [0xaa; 131].as_slice(),
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
            ),
        ] {
            assert_eq!(hex(&prf.compute(key, &[data.as_bytes()])), output);
            let (head, tail) = data.as_bytes().split_at(3);
            assert_eq!(hex(&prf.compute(key, &[head, &[], tail])), output, "in parts");
        }
    }

    #[test]
    fn prf_plus_is_that_of_another_program() {
        // prf+("key", "seed") by Python's hmac module.
        for (prf, output) in [
            (
                Prf::HmacSha256,
                "a2392e429a99b173341b368bb5ce320bfd483d89567c14ec187c2d77e3c0a208ba45d21d42611712996c0cd4b329ac8681e093a8a5bbbbf0fb8c9d1cf674f7423fe3d2fbd6641ff544749daa37804f04be0b1beba59ddc3867c3016209779fa74e8b8654",
            ),
            (
                Prf::HmacSha384,
                "245b57f46db11477bf9cd2e6adbc6244448af40400d70a9203399a48756b7dbf53087f405e438cf9bbb7d38b34915f6b7dab328fb2580112db91d3da5c383d3c2a4de7974aa900251aced8106d3c00211e0cfff95994a7bb4bd1649b19443e957964c1e1",
            ),
            (
                Prf::HmacSha512,
                "173a6224816997fa5b2129f1c4d26d629028846663e6e27dd28d35d0de3757056e7da6c4214436a07fa827ba4329baf9097b2eddf4c1ea2b89caf65189987801bbb7a7125bce5d65d77bfd4a0705ef9bcb45f76a33f0ed70f5f7ff0f53eaa8c0089d68f852c6a4ef3ab3684a7ee7ec7b3ec15d8f335ce4360f9a3e8bc95a1112ed5c349ee52e1c710369df9aea00919f76d3b178fc6f",
            ),
        ] {
            for len in 0..=output.len() / 2 {
                assert_eq!(hex(&prf.plus(b"key", &[b"se", b"ed"], len).unwrap()), output[..2 * len]);
            }
        }
    }

    #[test]
    fn prf_plus_ends_before_its_counter_repeats() {
        for prf in [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512] {
            let most = 255 * prf.output_len();
            assert_eq!(prf.plus(b"key", &[b"seed"], most).unwrap().len(), most);
            assert_eq!(prf.plus(b"key", &[b"seed"], most + 1), Err(PrfPlusExhausted(most + 1)));
            assert_eq!(prf.plus(b"key", &[b"seed"], usize::MAX), Err(PrfPlusExhausted(usize::MAX)));
        }
    }
}
