//! Decisions on the packet's way, without a kernel: the programs feed them from packets and maps, tests from slices.
//!
//! Nothing here panics, allocates or loops without a bound, whatever the bytes: the verifier would refuse the programs
//! otherwise, and the host's tests run the same code over every truncation.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod challenge;
pub mod checksum;
pub mod extension;
pub mod flow;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod mss;
pub mod nat;
pub mod neighbour;
pub mod option;
pub mod parse;
pub mod quota;
pub mod rate;
pub mod rewrite;
pub mod scan;
pub mod siphash;
pub mod spoof;
pub mod tcp;
#[cfg(test)]
mod tcp_model;
pub mod trace;
pub mod vlan;
pub mod window;
