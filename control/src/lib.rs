//! The control plane: what `sekishod` and `sekisho` are made of.
//!
//! The way of the configuration: [`config`] (file → checked values) → [`policy`] (rules → map entries) → [`daemon`]
//! (values → [`kernel`], [`filter`], IKE engine, ESP engine). The way back: every counter and state → [`status`] →
//! [`api`] and [`metrics`]; what happens → [`evidence`] → files and watchers ([`feed`]).

pub mod api;
pub mod causes;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod evidence;
pub mod explain;
pub mod feed;
pub mod filter;
pub mod kernel;
pub mod metrics;
pub mod nat;
pub mod neighbours;
pub mod pki;
pub mod policy;
pub mod status;
