//! Which connection a stranger belongs to: by addresses when IKE_SA_INIT comes, by identities when IKE_AUTH does.

use std::sync::Arc;

use crate::config::{Connection, EndpointConfig};
use crate::event::Path;
use crate::wire::id::Identification;

/// The connections a peer on this path may turn out to be, those that name both addresses first, then those that name
/// the peer's, then those that name ours; otherwise in the order of the configuration.
pub(crate) fn by_addresses(config: &EndpointConfig, path: Path) -> Vec<Arc<Connection>> {
    let (local, remote) = (path.local.ip().to_canonical(), path.remote.ip().to_canonical());
    let fits = |connection: &&Arc<Connection>| {
        connection.local_address.is_none_or(|address| address.to_canonical() == local)
            && connection.remote_address.is_none_or(|address| address.to_canonical() == remote)
    };
    let mut fitting: Vec<_> = config.connections.iter().filter(fits).cloned().collect();
    fitting
        .sort_by_key(|connection| (connection.remote_address.is_none(), connection.local_address.is_none()));
    fitting
}

/// Those that the peer may mean who it claims to be and, where it says whom it wants (IDr), wants: those that name it
/// first, then those that leave the less open; otherwise in the order of `candidates`.
pub(crate) fn by_identities(
    candidates: &[Arc<Connection>],
    claimed: &Identification,
    wanted: Option<&Identification>,
) -> Vec<Arc<Connection>> {
    let fits = |connection: &&Arc<Connection>| {
        connection.remote_id.matches(claimed)
            && wanted.is_none_or(|wanted| connection.local_id.matches(wanted))
    };
    let mut fitting: Vec<_> = candidates.iter().filter(fits).cloned().collect();
    fitting.sort_by_key(|connection| connection.remote_id.openness());
    fitting
}
