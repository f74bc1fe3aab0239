//! What is in the kernel by interface ids, and taking it away.

use std::collections::BTreeSet;

use sekisho_esp::sa::SaError;

use super::policy::{self, PolicyId};
use super::refusal::explained;
use super::socket::{Refusal, Socket};
use super::state::{self, Found};
use super::wire::message;

/// Removes every SA and policy whose interface id is meant. Nobody else's has one of ours.
pub(super) fn remove_all(socket: &mut Socket, meant: impl Fn(u32) -> bool) -> Result<(), SaError> {
    for id in policies(socket, &meant)? {
        gone(socket.tell(id.delete())).map_err(|refusal| explained("cannot remove a policy", refusal))?;
    }
    let mut states = Vec::new();
    let listed = socket.dump(state::dump(), |received| {
        if received.kind == message::NEWSA {
            states
                .extend(Found::read(received.body).filter(|found| meant(found.if_id)).map(|found| found.id));
        }
    });
    listed.map_err(|refusal| explained("cannot list the kernel's SAs", refusal))?;
    for id in states {
        // What has no SPI is the kernel's own note of an acquire, and ends by itself.
        if id.spi != 0 {
            gone(socket.tell(id.delete())).map_err(|refusal| explained("cannot remove an SA", refusal))?;
        }
    }
    Ok(())
}

/// The policies in the kernel whose interface id is meant.
pub(super) fn policies(
    socket: &mut Socket,
    meant: impl Fn(u32) -> bool,
) -> Result<BTreeSet<PolicyId>, SaError> {
    let mut found = BTreeSet::new();
    let listed = socket.dump(policy::dump(), |received| {
        if received.kind == message::NEWPOLICY {
            found.extend(PolicyId::read(received.body).filter(|id| meant(id.if_id)));
        }
    });
    listed.map_err(|refusal| explained("cannot list the kernel's policies", refusal))?;
    Ok(found)
}

/// What is gone already counts as removed.
pub(super) fn gone(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    match outcome {
        Err(refusal) if matches!(refusal.errno(), libc::ENOENT | libc::ESRCH) => Ok(()),
        other => other,
    }
}
