//! Our own addresses towards the peers: which can be used now, and what follows when they change.
//!
//! An uplink counts while its interface is up, has a carrier, and has the address. IKE of an address leaves and arrives by
//! its own interface: with two uplinks, the kernel's best route is not every address's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::bringup::takes_ike;
use super::paths::Look;
use super::{Daemon, bringup};
use crate::causes::told;
use crate::config::Config;

/// Addresses that IKE may use, by which interface (ifindex), best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uplinks {
    addresses: Vec<(IpAddr, u32)>,
}

impl Uplinks {
    /// The interface of an address.
    pub(super) fn interface(&self, address: IpAddr) -> Option<u32> {
        self.addresses.iter().find(|(own, _)| *own == address).map(|(_, ifindex)| *ifindex)
    }

    /// What to begin at instead of `configured`: that itself while it can be used, or nothing is known.
    pub(super) fn usable(&self, configured: IpAddr, may_move: bool) -> IpAddr {
        let fits = |address: &&(IpAddr, u32)| address.0.is_ipv4() == configured.is_ipv4();
        match self.interface(configured) {
            None if may_move => self.addresses.iter().find(fits).map_or(configured, |(address, _)| *address),
            _ => configured,
        }
    }
}

/// Every address that IKE may use, whether or not it can be used now.
pub(super) fn configured(config: &Config) -> impl Iterator<Item = IpAddr> + '_ {
    let ports = config.ports.iter().filter(|port| takes_ike(config, port));
    ports.flat_map(|port| &port.addresses).map(|net| net.addr())
}

impl Daemon {
    /// Looks at ports and addresses, and tells sockets, IKE engine and data path what has changed. `look`: whose way is looked
    /// up where these are as before.
    pub(super) async fn follow_uplinks(&mut self, look: Look) {
        if let Err(error) = bringup::watch_ports(&self.config, &mut self.ground).await {
            tracing::error!("a port's interface changed, and the port does not follow: {}", told(&error));
        }
        let found = match self.usable_addresses().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the addresses of the uplinks could not be looked up");
                return;
            }
        };
        let names: BTreeMap<u32, &str> =
            self.ground.links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let mut held = Vec::new();
        for (address, ifindex) in found {
            let name = names.get(&ifindex).copied().unwrap_or_default();
            match self.sockets.hold(address, ifindex, name) {
                Ok(()) => held.push((address, ifindex)),
                Err(error) => tracing::warn!(%address, %error, "IKE cannot use this address"),
            }
        }
        let uplinks = Uplinks { addresses: held };
        let have_changed = uplinks != self.tunnels.uplinks;
        if have_changed {
            let shown: Vec<String> =
                uplinks.addresses.iter().map(|(address, _)| address.to_string()).collect();
            tracing::info!(addresses = shown.join(", "), "addresses towards the peers");
            let addresses = uplinks.addresses.iter().map(|(address, _)| *address).collect();
            self.tunnels.uplinks = uplinks;
            self.endpoint.set_addresses(Instant::now(), addresses);
        }
        self.refresh_paths(if have_changed { Look::All } else { look }).await;
    }

    async fn usable_addresses(&self) -> anyhow::Result<Vec<(IpAddr, u32)>> {
        let mut found = Vec::new();
        for (port, link) in self.config.ports.iter().zip(&self.ground.links) {
            if !takes_ike(&self.config, port) || !link.up || !link.carrier || link.index == bringup::GONE {
                continue;
            }
            let there = self.ground.kernel.addresses(link.index).await?;
            let own = port.addresses.iter().map(|net| net.addr()).filter(|own| there.contains(own));
            found.extend(own.map(|address| (address, link.index)));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_begins_where_it_can() {
        let address = |text: &str| text.parse::<IpAddr>().expect("address");
        let (first, second, v6) = (address("198.51.100.2"), address("198.51.100.6"), address("2001:db8::2"));
        let uplinks = |all: &[IpAddr]| Uplinks { addresses: all.iter().map(|own| (*own, 4)).collect() };
        assert_eq!(uplinks(&[second, first]).usable(first, true), first);
        assert_eq!(uplinks(&[v6, second]).usable(first, true), second);
        assert_eq!(uplinks(&[v6, second]).usable(first, false), first, "it is told to stay");
        assert_eq!(uplinks(&[v6]).usable(first, true), first, "nothing fits");
        assert_eq!(uplinks(&[]).usable(first, true), first);
    }
}
