//! IKEv2 (RFC 7296) without IO.
//!
//! No socket, no clock, no task, no global random numbers: a caller hands in datagrams and the time, and takes out
//! datagrams, events and the next time to be called. See [`Endpoint`].

#![forbid(unsafe_code)]

pub mod config;
pub mod crypto;
pub mod endpoint;
pub mod event;
pub mod status;
pub mod wire;

pub use config::{Connection, EndpointConfig};
pub use endpoint::{CommandError, Endpoint};
pub use event::{ChildSa, Event, Transmit};
pub use status::{IkeStatus, Stats};
