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

/// The one that the peer claims to be and, where it says whom it wants (IDr), wants.
pub(crate) fn by_identities(
    candidates: &[Arc<Connection>],
    claimed: &Identification,
    wanted: Option<&Identification>,
) -> Option<Arc<Connection>> {
    let fits = |connection: &&Arc<Connection>| {
        connection.remote_id.matches(claimed)
            && wanted.is_none_or(|wanted| connection.local_id.matches(wanted))
    };
    candidates.iter().find(fits).cloned()
}
