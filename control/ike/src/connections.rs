//! The configured connections, found by name and by addresses: one lookup each, however many there are.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Connection, ConnectionName};
use crate::event::Path;

/// Ours and the peer's, as far as a connection names them. IPv4 addresses are never in IPv6 clothes here.
type Addresses = (Option<IpAddr>, Option<IpAddr>);

/// An index of [`EndpointConfig::connections`](crate::config::EndpointConfig::connections), made anew with each other
/// configuration.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    by_name: HashMap<ConnectionName, Arc<Connection>>,
    by_addresses: HashMap<Addresses, Vec<Arc<Connection>>>,
    peers: HashSet<IpAddr>,
}

impl Connections {
    pub(crate) fn new(configured: &[Arc<Connection>]) -> Self {
        let mut index = Self::default();
        for connection in configured {
            // Of two with one name, which the caller should not have configured, the first counts.
            index.by_name.entry(connection.name.clone()).or_insert_with(|| connection.clone());
            let local = connection.local_address.map(|address| address.to_canonical());
            let remote = connection.remote_address.map(|address| address.to_canonical());
            index.by_addresses.entry((local, remote)).or_default().push(connection.clone());
            index.peers.extend(remote);
        }
        index
    }

    /// The one of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Connection>> {
        self.by_name.get(name)
    }

    /// What stands in the place of a connection of an earlier configuration, if it stands there as it was.
    pub(crate) fn successor(&self, former: &Connection) -> Option<Arc<Connection>> {
        self.named(&former.name).filter(|known| known.is_same_as(former)).cloned()
    }

    /// Those that a peer on this path may turn out to be: first those that name both addresses, then those that name the
    /// peer's, then those that name ours; otherwise in the order of the configuration.
    pub(crate) fn for_path(&self, path: Path) -> Vec<Arc<Connection>> {
        let (local, remote) = (path.local.ip().to_canonical(), path.remote.ip().to_canonical());
        let asked = [(Some(local), Some(remote)), (None, Some(remote)), (Some(local), None), (None, None)];
        asked.iter().filter_map(|addresses| self.by_addresses.get(addresses)).flatten().cloned().collect()
    }

    /// Whether a connection names this address as its peer's.
    pub(crate) fn name_peer(&self, address: IpAddr) -> bool {
        self.peers.contains(&address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::connection;

    const OURS: &str = "192.0.2.1";
    const THEIRS: &str = "198.51.100.7";

    fn connections(named: &[(&str, Option<&str>, Option<&str>)]) -> Vec<Arc<Connection>> {
        let address = |text: &str| text.parse().expect("an address");
        let one = |(name, local, remote): &(&str, Option<&str>, Option<&str>)| {
            Arc::new(Connection {
                name: (*name).into(),
                local_address: local.map(address),
                remote_address: remote.map(address),
                ..connection()
            })
        };
        named.iter().map(one).collect()
    }

    fn names(index: &Connections, local: &str, remote: &str) -> Vec<String> {
        let socket = |address: &str| (address.parse::<IpAddr>().expect("an address"), 500).into();
        let path = Path { local: socket(local), remote: socket(remote) };
        index.for_path(path).iter().map(|connection| connection.name.to_string()).collect()
    }

    #[test]
    fn who_names_more_comes_first_then_who_is_written_first() {
        let index = Connections::new(&connections(&[
            ("anybody", None, None),
            ("here", Some(OURS), None),
            ("there", None, Some(THEIRS)),
            ("both", Some(OURS), Some(THEIRS)),
            ("both too", Some(OURS), Some(THEIRS)),
            ("elsewhere", Some("192.0.2.2"), Some(THEIRS)),
        ]));
        assert_eq!(names(&index, OURS, THEIRS), ["both", "both too", "there", "here", "anybody"]);
        assert_eq!(names(&index, OURS, "203.0.113.9"), ["here", "anybody"]);
        assert_eq!(names(&index, "192.0.2.3", "203.0.113.9"), ["anybody"]);
    }

    #[test]
    fn an_address_is_the_same_in_ipv6_clothes() {
        let index = Connections::new(&connections(&[("both", Some(OURS), Some("::ffff:198.51.100.7"))]));
        assert_eq!(names(&index, "::ffff:192.0.2.1", THEIRS), ["both"]);
        assert!(index.name_peer("::ffff:198.51.100.7".parse().expect("an address")));
        assert!(!index.name_peer("198.51.100.8".parse().expect("an address")));
    }

    #[test]
    fn the_successor_is_the_one_that_stands_as_it_was() {
        let former = connections(&[("kept", None, None), ("moved", Some(OURS), None), ("gone", None, None)]);
        let index = Connections::new(&connections(&[("kept", None, None), ("moved", Some(THEIRS), None)]));
        let kept: Vec<_> = former.iter().map(|former| index.successor(former).is_some()).collect();
        assert_eq!(kept, [true, false, false]);
    }
}
