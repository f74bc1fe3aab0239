//! Room in the kernel's tables of SAs. It doubles them when there are more SAs than buckets, and a packet that looks for its SA
//! in that moment is dropped, whoever's it is (`XfrmOutNoStates`, `XfrmInNoStates`). They never shrink: so they are made large
//! before packets flow, by SAs that lead nowhere and are removed again.

use std::net::{IpAddr, Ipv4Addr};

use sekisho_esp::sa::{SaError, Transform};

use super::refusal::explained;
use super::state::{ASKED, State, StateId};
use super::wire::{Bytes, Received, Request, message};
use super::writer::{Writer, no_keys, unused};

/// SAs of a pair at most: two in use, two that follow them, two that linger.
const SAS_OF_A_PAIR: usize = 6;
/// The fewest buckets: a gateway with one connection has a few more while it is reloaded. The kernel begins with 8.
const BUCKETS_MIN: usize = 64;
/// The most: to fill as many takes a second. Beyond, the kernel doubles its tables when it must.
const BUCKETS_MAX: usize = 16_384;
/// SAs that are made between two looks at how many buckets there are.
const STEP: u32 = 32;
/// The kernel looks whether it must double its tables when an SA comes into a bucket that is not empty, and does so by a task of
/// its own, which may be late: up to so many SAs for a bucket are made.
const SAS_PER_BUCKET_MAX: u32 = 4;
/// Where they lead: addresses that are none (RFC 1112 section 4, class E).
const NOWHERE: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
/// Their first SPI.
const SPI_FIRST: u32 = 0x1000;
/// XFRMA_SAD_HINFO, of the answer to XFRM_MSG_GETSADINFO alone.
const HASH_INFO: u16 = 2;

/// How many buckets so many pairs of SAs need.
pub(super) fn buckets_for(pairs: usize) -> u32 {
    let sas = pairs.saturating_mul(SAS_OF_A_PAIR).clamp(BUCKETS_MIN, BUCKETS_MAX);
    sas.next_power_of_two() as u32
}

/// Has the kernel make so many buckets, at least.
pub(super) fn make(writer: &mut Writer, buckets: u32) -> Result<(), SaError> {
    let mut made = Vec::new();
    let filled = fill(writer, buckets, &mut made);
    let removed = made.iter().map(|id| writer.remove(id)).fold(Ok(()), Result::and);
    filled.and(removed)
}

/// Makes SAs until there are as many buckets. `made`: which, also after an error.
fn fill(writer: &mut Writer, buckets: u32, made: &mut Vec<StateId>) -> Result<(), SaError> {
    let transform = Transform::Aes256Gcm16;
    let keys = no_keys(transform);
    for number in 0..buckets.saturating_mul(SAS_PER_BUCKET_MAX) {
        if number % STEP == 0 && current(writer)? >= buckets {
            return Ok(());
        }
        let id = StateId {
            destination: IpAddr::V4(NOWHERE),
            spi: SPI_FIRST + number,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        made.push(id);
        // Another reqid puts each in another bucket.
        writer.add(&State { reqid: number, ..unused(id, transform, &keys) })?;
    }
    tracing::debug!(buckets, "the kernel has not made its tables of SAs as large");
    Ok(())
}

/// How many buckets the kernel has.
fn current(writer: &mut Writer) -> Result<u32, SaError> {
    let mut request = Request::new(message::GETSADINFO, ASKED);
    request.u32(0);
    let read = |received: &Received<'_>| match received.kind {
        message::NEWSADINFO => read(received.body),
        _ => None,
    };
    let answer = writer.socket().ask(request, read);
    let answer = answer.map_err(|refusal| explained("cannot look at the kernel's tables of SAs", refusal))?;
    Ok(answer.unwrap_or_default())
}

/// Of an XFRM_MSG_NEWSADINFO. Some kernels tell how many there are, and some the highest index.
fn read(body: Bytes<'_>) -> Option<u32> {
    let (_, info) = body.from(4)?.attributes().find(|(kind, _)| *kind == HASH_INFO)?;
    info.u32(0)?.checked_next_power_of_two()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_sas_of_all_pairs_have_room() {
        for (pairs, buckets) in [(0, 64), (10, 64), (11, 128), (1000, 8192), (usize::MAX, 16_384)] {
            assert_eq!(buckets_for(pairs), buckets, "{pairs}");
        }
    }

    #[test]
    fn buckets_are_read() {
        // Flags; the number of SAs; buckets, of at most a million.
        for told in [4095, 4096] {
            let words = [0_u32, 8 | 1 << 16, 3, 12 | 2 << 16, told, 1 << 20];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert_eq!(read(Bytes(&bytes)), Some(4096));
            for length in 0..20 {
                assert_eq!(read(Bytes(&bytes[..length])), None);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(Bytes(&bytes));
        }
    }
}
