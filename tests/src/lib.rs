//! The black-box laboratory: a clinic, the internet and a centre as network namespaces, real traffic between them, and
//! the scenarios that the demonstration and the end-to-end suites share.
//!
//! Nothing of this links the product. It starts `sekishod` and `sekisho` as an administrator would and believes only what
//! can be seen from outside: `sekisho status --json`, `/metrics`, logs, and packets on the wires.
//!
//! - [`lab`]: namespaces, cables, processes, and the certainty that all of it goes away again
//! - [`traffic`]: what hosts say to each other, what an attacker injects, and what a tap on a cable sees
//! - [`gateway`]: `sekishod` on one of the lab's gateways
//! - [`strongswan`]: the foreign peer
//! - [`scenario`]: what must hold, each as one function that returns the figure it measured
//! - [`demo`]: the table of `cargo xtask demo`
//!
//! Apart from these stand two that others share with measurements: [`filter`], the programs by themselves, in this kernel, with
//! maps that it fills as the daemon does; and [`initiators`], peers by the thousand, for whom no machine has namespaces: the
//! product's own IKE engine and ESP transform, with sockets of their own around them.

#![deny(unsafe_code)]

pub mod demo;
pub mod filter;
pub mod gateway;
pub mod initiators;
pub mod lab;
pub mod scenario;
pub mod stage;
pub mod strongswan;
pub mod traffic;
