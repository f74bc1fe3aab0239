//! The frame of the performance suite, `cargo xtask perf`: what a scenario is given, and what becomes of what it records.
//!
//! - [`session`]: what a scenario measures with; [`report`]: what it has recorded; [`statistics`]: what that says
//! - [`machine`], [`cpu`], [`capture`]: the facts beside the figures
//! - [`render`]: the report for readers; [`compare`]: the report against an earlier one

pub mod capture;
pub mod compare;
pub mod cpu;
pub mod machine;
pub mod render;
pub mod report;
pub mod session;
pub mod statistics;
