//! IKEv2 (RFC 7296) without IO.
//!
//! No socket, no clock, no task, no global random numbers: a caller hands in datagrams and the time, and takes out
//! datagrams, events and the next time to be called. See [`Endpoint`].
//!
//! The way of a message: [`endpoint`] finds the IKE SA by SPI; `sa` is its state; `init` (with `cookie`, `nat` and
//! `select`) agrees on keys; `auth` proves identities; `established` holds what is up, with the exchanges
//! `create_child`, `rekey_ike` and `informational` (with `mobike`); `retired` says goodbye. From IKE_AUTH on every message passes
//! `channel`, which opens and seals it and keeps `exchange`'s windows and `fragment`'s pieces.

#![forbid(unsafe_code)]

mod auth;
mod channel;
mod child;
pub mod config;
mod connections;
mod content;
mod context;
mod cookie;
mod create_child;
pub mod crypto;
mod directory;
pub mod endpoint;
mod established;
pub mod event;
mod exchange;
mod followup;
mod fragment;
mod informational;
mod init;
mod intermediate;
mod known;
mod mobike;
pub mod nat;
mod outbox;
mod pool;
mod rate;
mod reauth;
mod rekey_ike;
mod resources;
mod retired;
mod revocation;
mod sa;
mod select;
mod spi;
pub mod status;
mod strangers;
#[cfg(feature = "tamper")]
pub mod tamper;
mod timer;
mod unique;
mod virtual_ip;
pub mod wire;

pub use config::{Connection, EndpointConfig};
pub use endpoint::{CommandError, Endpoint};
pub use event::{ChildSa, Event, Transmit};
pub use known::KnownSpis;
pub use status::{IkeStatus, Stats};
