//! Scenarios with real gateways in a lab of namespaces: `cargo xtask perf`.

pub mod bring_up;
