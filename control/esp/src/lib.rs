//! ESP: what an SA is, the transform, and the user-space engine.

pub mod engine;
pub mod sa;
