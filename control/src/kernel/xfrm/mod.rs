//! The kernel's own ESP: SAs and policies over netlink, behind [`SaTable`](sekisho_esp::sa::SaTable).
//!
//! Every SA and policy of ours carries the interface id of a VPN port's xfrm interface ([`interface_id`]). By it they are
//! known again after a crash, and nothing without it is ever touched. Messages are written and read here and not by a
//! library, for they hold keys: each buffer is wiped.

mod algorithm;
mod asked;
mod event;
#[cfg(test)]
mod golden;
mod interface;
mod listing;
mod offload;
mod pair;
mod plan;
mod policy;
mod processors;
mod refusal;
mod room;
mod selector;
mod socket;
mod state;
mod table;
mod wire;
mod writer;

use sekisho_esp::sa::{PortId, SaError};

pub use table::{Offloaded, Trap, XfrmTable};

/// What the xfrm interface of a VPN port, its SAs and its policies are tied together by (XFRMA_IF_ID).
pub fn interface_id(port: PortId) -> u32 {
    plan::if_id(port)
}

/// Removes every SA and policy of our xfrm interfaces, whoever has left them.
pub(super) fn remove_ours() -> Result<(), SaError> {
    let mut socket = socket::Socket::open()
        .map_err(|error| refusal::explained("cannot open a socket of XFRM", error.into()))?;
    listing::remove_all(&mut socket, |id| plan::port(id).is_some())
}
