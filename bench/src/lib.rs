//! Benchmarks of Sekisho. There is nothing in the library: every benchmark is a file of its own under `benches/`.
//!
//! `cargo bench -p sekisho-bench --bench esp`: the ESP transform beside ring's AEAD on the same bytes.
