//! Which of the connections that fit its addresses a peer belongs to, once it has said who it is.

use std::sync::Arc;

use crate::config::Connection;
use crate::wire::id::Identification;

/// Those that the peer may mean who it claims to be and, where it says whom it wants (IDr), wants: those that name it
/// first, then those that leave the less open; otherwise in the order of `candidates`. One that asks the peer for an
/// address is ours to open: a peer that opens it asks for nothing and could give none (RFC 7296 section 2.19).
pub(crate) fn by_identities(
    candidates: &[Arc<Connection>],
    claimed: &Identification,
    wanted: Option<&Identification>,
) -> Vec<Arc<Connection>> {
    let fits = |connection: &&Arc<Connection>| {
        connection.remote_id.matches(claimed)
            && wanted.is_none_or(|wanted| connection.local_id.matches(wanted))
            && !connection.wants.any()
    };
    let mut fitting: Vec<_> = candidates.iter().filter(fits).cloned().collect();
    fitting.sort_by_key(|connection| connection.remote_id.openness());
    fitting
}
