//! The MODP groups (RFC 3526): safe primes p with generator 2, exponentiation in constant time.

use std::sync::LazyLock;

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U512, U2048, U3072, U4096, Uint};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::random::Random;

/// Which prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Modulus {
    /// Group 14.
    Bits2048,
    /// Group 15.
    Bits3072,
    /// Group 16.
    Bits4096,
}

impl Modulus {
    /// Length of private exponents in bits. In a group of a safe prime the best attack on a short exponent costs
    /// 2^(bits/2), so twice the group's strength is enough; these are the upper estimates of RFC 3526 section 8
    /// (320, 420, 480), rounded up to whole words.
    const fn exponent_bits(self) -> u32 {
        match self {
            Modulus::Bits2048 => 320,
            Modulus::Bits3072 => 448,
            Modulus::Bits4096 => 512,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Modulus::Bits2048 => 256,
            Modulus::Bits3072 => 384,
            Modulus::Bits4096 => 512,
        }
    }
}

impl Modulus {
    /// Whether 1 < value < p-1, in as many bytes as p has. That is enough for a safe prime (RFC 6989 section 2.1): no other
    /// small subgroup exists.
    pub(super) fn is_public(self, value: &[u8]) -> bool {
        match self {
            Modulus::Bits2048 => in_range(&MODP_2048, value).is_some(),
            Modulus::Bits3072 => in_range(&MODP_3072, value).is_some(),
            Modulus::Bits4096 => in_range(&MODP_4096, value).is_some(),
        }
    }
}

fn in_range<const LIMBS: usize>(params: &FixedMontyParams<LIMBS>, value: &[u8]) -> Option<Uint<LIMBS>> {
    if value.len() != Uint::<LIMBS>::BYTES {
        return None;
    }
    // The length was checked: from_be_slice panics on any other.
    let value = Uint::<LIMBS>::from_be_slice(value);
    let p_minus_1 = params.modulus().as_ref().wrapping_sub(&Uint::ONE);
    (value > Uint::ONE && value < p_minus_1).then_some(value)
}

/// A private exponent. Zeroised when dropped.
pub(super) struct PrivateExponent {
    modulus: Modulus,
    exponent: Zeroizing<U512>,
}

impl PrivateExponent {
    pub(super) fn generate(modulus: Modulus, random: &mut dyn Random) -> Self {
        // All 512 bits are drawn; exponentiation looks at the lowest `exponent_bits`.
        let mut bytes = Zeroizing::new([0; 64]);
        random.fill(bytes.as_mut_slice());
        Self { modulus, exponent: Zeroizing::new(U512::from_be_slice(bytes.as_slice())) }
    }

    /// 2^x mod p, left-padded to the length of p.
    pub(super) fn public(&self) -> Vec<u8> {
        let mut generator = vec![0; self.modulus.bytes()];
        if let Some(last) = generator.last_mut() {
            *last = 2;
        }
        self.power(&generator).map(|public| public.to_vec()).unwrap_or_default()
    }

    /// base^x mod p, left-padded to the length of p; `None` unless the base is a public value ([`Modulus::is_public`]).
    pub(super) fn power(&self, base: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let bits = self.modulus.exponent_bits();
        match self.modulus {
            Modulus::Bits2048 => power(&MODP_2048, base, &self.exponent, bits),
            Modulus::Bits3072 => power(&MODP_3072, base, &self.exponent, bits),
            Modulus::Bits4096 => power(&MODP_4096, base, &self.exponent, bits),
        }
    }
}

fn power<const LIMBS: usize>(
    params: &FixedMontyParams<LIMBS>,
    base: &[u8],
    exponent: &U512,
    exponent_bits: u32,
) -> Option<Zeroizing<Vec<u8>>> {
    let base = in_range(params, base)?;
    let mut result = FixedMontyForm::new(&base, params).pow_bounded_exp(exponent, exponent_bits).retrieve();
    let bytes = Zeroizing::new(result.to_be_bytes().as_ref().to_vec());
    result.zeroize();
    Some(bytes)
}

/// RFC 3526 section 3: 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476).
const PRIME_2048: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AACAA68FFFFFFFFFFFFFFFF";

/// RFC 3526 section 4: 2^3072 - 2^3008 - 1 + 2^64 * ([2^2942 pi] + 1690314).
const PRIME_3072: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
    BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF";

/// RFC 3526 section 5: 2^4096 - 2^4032 - 1 + 2^64 * ([2^3966 pi] + 240904).
const PRIME_4096: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
    BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
    88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6\
    287C59474E6BC05D99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
    93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF";

static MODP_2048: LazyLock<FixedMontyParams<{ U2048::LIMBS }>> =
    LazyLock::new(|| FixedMontyParams::new_vartime(Odd::<U2048>::from_be_hex(PRIME_2048)));
static MODP_3072: LazyLock<FixedMontyParams<{ U3072::LIMBS }>> =
    LazyLock::new(|| FixedMontyParams::new_vartime(Odd::<U3072>::from_be_hex(PRIME_3072)));
static MODP_4096: LazyLock<FixedMontyParams<{ U4096::LIMBS }>> =
    LazyLock::new(|| FixedMontyParams::new_vartime(Odd::<U4096>::from_be_hex(PRIME_4096)));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SeededRandom;

    /// The primes, and powers of 2 and 3 with the exponent 0x0102…40, as SHA-256, computed with another program's
    /// arithmetic from the formulas of RFC 3526 (which that program also found to be safe primes).
    const KNOWN: [(Modulus, &str, &str, &str); 3] = [
        (
            Modulus::Bits2048,
            "d66436f79bbd6b2e38c0ffbd079be904d2641415e2e67140e09448be9a60890e",
            "d7762fd947d870c9de6feb218ba8b28840ba69da4a1a5412df2632c91188710c",
            "5bc7ac1002a53ade15c3eaef7213e0695233b50e60e857740847059b7f97a750",
        ),
        (
            Modulus::Bits3072,
            "48cf8b092fbce4359d9871abf74f98e25b6163379eaa15cd9087e800c6d1c55c",
            "7e53d0c50cdb1bb076e179a5f9ef9e631189a63a3437706d76f2197f95dc90d4",
            "11103b916c95db0cfd940e7d5fa7ac0e6fdf2a7660d6cf8cef25f23648004ca9",
        ),
        (
            Modulus::Bits4096,
            "4ee95187682bcb230ad26a95205f6920e84708f6251b3894329b09ec23919e33",
            "0439872574dafc9b300359ea0dd742c3976ccf9fa56883bdb8268462adedf8cf",
            "411e2b2354fe2bf08a3f9e10bb95f6267c514e37d2a33ea8e2d5a316711b19f2",
        ),
    ];

    fn sha256(bytes: &[u8]) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn small(modulus: Modulus, value: u8) -> Vec<u8> {
        let mut bytes = vec![0; modulus.bytes()];
        *bytes.last_mut().unwrap() = value;
        bytes
    }

    fn prime(modulus: Modulus) -> Vec<u8> {
        match modulus {
            Modulus::Bits2048 => MODP_2048.modulus().as_ref().to_be_bytes().as_ref().to_vec(),
            Modulus::Bits3072 => MODP_3072.modulus().as_ref().to_be_bytes().as_ref().to_vec(),
            Modulus::Bits4096 => MODP_4096.modulus().as_ref().to_be_bytes().as_ref().to_vec(),
        }
    }

    #[test]
    fn primes_and_powers_are_those_of_another_program() {
        let bytes: Vec<u8> = (1..=64).collect();
        for (modulus, p, public, of_three) in KNOWN {
            assert_eq!(sha256(&prime(modulus)), p);
            let private = PrivateExponent { modulus, exponent: Zeroizing::new(U512::from_be_slice(&bytes)) };
            assert_eq!(sha256(&private.public()), public);
            assert_eq!(sha256(&private.power(&small(modulus, 3)).unwrap()), of_three);
        }
    }

    #[test]
    fn values_outside_2_to_p_minus_2_are_refused() {
        for (modulus, ..) in KNOWN {
            let private = PrivateExponent::generate(modulus, &mut SeededRandom::new(1));
            let p = prime(modulus);
            let with_last = |value: u8| {
                let mut bytes = p.clone();
                *bytes.last_mut().unwrap() = value;
                bytes
            };
            assert!(private.power(&small(modulus, 0)).is_none());
            assert!(private.power(&small(modulus, 1)).is_none());
            assert!(private.power(&small(modulus, 2)).is_some());
            // The primes end in 0xff.
            assert!(private.power(&with_last(0xfd)).is_some());
            assert!(private.power(&with_last(0xfe)).is_none());
            assert!(private.power(&p).is_none());
            assert!(private.power(&vec![0xff; modulus.bytes()]).is_none());
        }
    }
}
