//! ESP (RFC 4303): what an SA is, the transform, and the user-space engine around it.
//!
//! [`sa`] is the seam to the control plane; [`transform`] works on bytes and knows nothing of Linux; [`engine`] owns
//! the AF_XDP sockets and the threads that turn frames into frames.

pub mod engine;
pub mod sa;
pub mod transform;
mod wiped;
