//! What the fuzz targets share: an allocator that counts, a test PKI, and two gateways' IKE configurations.
//!
//! One file in `fuzz_targets` is one target; its first lines say what it asserts. `cargo xtask fuzz` runs them.

pub mod ike;
pub mod memory;
pub mod pki;
