//! SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) over whole words: a digest that nobody without
//! the key can foresee.

/// SipHash-`C`-`D` of `N` words, which are bytes in little-endian order to the original.
#[inline(always)]
pub const fn siphash<const C: u32, const D: u32, const N: usize>(key: &[u64; 2], words: &[u64; N]) -> u64 {
    let [k0, k1] = *key;
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut at = 0;
    while at < N {
        state = absorb::<C>(state, words[at]);
        at += 1;
    }
    let [v0, v1, v2, v3] = absorb::<C>(state, (8 * N as u64) << 56);
    let [v0, v1, v2, v3] = rounds::<D>([v0, v1, v2 ^ 0xff, v3]);
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
const fn absorb<const C: u32>([v0, v1, v2, v3]: [u64; 4], word: u64) -> [u64; 4] {
    let [v0, v1, v2, v3] = rounds::<C>([v0, v1, v2, v3 ^ word]);
    [v0 ^ word, v1, v2, v3]
}

#[inline(always)]
const fn rounds<const ROUNDS: u32>([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    let mut round = 0;
    while round < ROUNDS {
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        round += 1;
    }
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference implementation: key 00 … 0f, input 00 … 07 and 00 … 0f.
    #[test]
    fn reference_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash::<2, 4, 1>(&key, &[0x0706_0504_0302_0100]).to_be(), 0x6224_939a_79f5_f593);
        let two = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash::<2, 4, 2>(&key, &two).to_be(), 0xdb9b_c257_7fcc_2a3f);
    }
}
