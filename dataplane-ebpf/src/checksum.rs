//! The Internet checksum, updated where a packet is rewritten (RFC 1624).

/// The checksum after one 16-bit word of what it covers went from `old` to `new` (RFC 1624 equation 3:
/// `HC' = ~(~HC + ~m + m')`). All three as numbers, that is after conversion from network byte order.
#[inline(always)]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn same_as_from_scratch(words in prop::collection::vec(1u16.., 10), at in 0usize..10, new in 1u16..) {
            let mut changed = words.clone();
            changed[at] = new;
            prop_assert_eq!(replace(full(&words), words[at], new), full(&changed));
        }
    }
}
