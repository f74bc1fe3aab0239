//! The XDP and tc programs in the running kernel: packet in, verdict and packet out.
//!
//! Nothing is sent. Every test has a network namespace of its own with the devices, routes and neighbours that the
//! programs ask the kernel for, loads the programs with private maps, and runs single frames through them
//! (`BPF_PROG_TEST_RUN`). Needs root:
//!
//! ```text
//! cargo test -p sekisho-tests --test ebpf -- --test-threads=1
//! ```
//!
//! The object is built by the workspace's one way to build it; `SEKISHO_EBPF_OBJECT` names another.

mod attacks;
mod bindings;
mod cost;
mod dump;
mod egress;
mod evidence;
mod explain;
mod flows;
mod forward;
mod fragments;
mod hostile;
mod icmp;
mod kernel_sas;
mod local;
mod nat;
mod neighbours;
mod quotas;
mod races;
mod refused;
mod rules;
mod scans;
mod syn_challenge;
mod tcp;
mod vlan;

use sekisho_tests::filter::{self as lab, packet, test_run};
