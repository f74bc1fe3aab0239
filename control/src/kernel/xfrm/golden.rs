//! Bytes that `ip xfrm` of iproute2 6.1 sent to Linux 6.12, and that kernel's answers, without the netlink header.
//!
//! Recorded in a guest (`cargo xtask vm --kernel 6.12`) with `strace -e trace=sendmsg,recvmsg -xx -s 4096 ip xfrm …`, on a
//! little-endian machine. The commands:
//!
//! ```text
//! state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 reqid 7 mode tunnel flag esn af-unspec replay-window 1024
//!     if_id 0x5e500003 aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0fa0a1a2a3 128
//! state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x1002 reqid 7 mode tunnel flag af-unspec replay-window 1024
//!     if_id 0x5e500003 enc 'cbc(aes)' 0x000102…0f auth-trunc 'hmac(sha256)' 0x000102…1f 128
//!     encap espinudp 4500 4501 0.0.0.0 limit byte-soft 1000 limit packet-hard 2000
//! state add (the first, with dev d0, which was the second device) offload dev d0 dir out
//! state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x1002 … offload dev d0 dir in
//! state get, state delete src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
//! policy add src 10.1.0.0/24 dst 10.2.0.0/16 proto tcp dport 443 dir out priority 1234 if_id 0x5e500003
//!     tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel
//! policy update (the same with dst 192.0.2.9 in the template), policy delete
//! ```
//!
//! The events are what a socket of the groups 1 and 8 read there: of a packet from 10.1.0.1 that found a policy with the
//! template `src 127.0.0.1 dst 240.0.0.1 spi 0x5e`, and of ESP in UDP from port 4501 for an SA that had 4500.

use super::wire::{HEADER, Request};

pub(super) const SA_GCM_ESN: &str = include_str!("testdata/sa-gcm-esn.hex");
pub(super) const SA_CBC_UDP: &str = include_str!("testdata/sa-cbc-udp.hex");
pub(super) const SA_OFFLOAD_OUT: &str = include_str!("testdata/sa-offload-out.hex");
pub(super) const SA_OFFLOAD_IN: &str = include_str!("testdata/sa-offload-in.hex");
pub(super) const GETSA: &str = include_str!("testdata/getsa.hex");
pub(super) const DELSA: &str = include_str!("testdata/delsa.hex");
pub(super) const FOUND_GCM_ESN: &str = include_str!("testdata/found-gcm-esn.hex");
pub(super) const FOUND_CBC_UDP: &str = include_str!("testdata/found-cbc-udp.hex");
pub(super) const NEWPOLICY: &str = include_str!("testdata/newpolicy.hex");
pub(super) const UPDPOLICY: &str = include_str!("testdata/updpolicy.hex");
pub(super) const DELPOLICY: &str = include_str!("testdata/delpolicy.hex");

pub(super) const ACQUIRE: &str = include_str!("testdata/acquire.hex");
pub(super) const MAPPING: &str = include_str!("testdata/mapping.hex");

/// The bytes of a recording.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Holds a request against a recording.
#[track_caller]
pub(super) fn assert_written(mut request: Request, expected: &str) {
    let hex: String = request.finish(1)[HEADER..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected.trim());
}
