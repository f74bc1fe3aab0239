//! Benchmarks of Sekisho; `bench/README.md` says what each figure means. The library holds what several of them need.

pub mod tunnels;
