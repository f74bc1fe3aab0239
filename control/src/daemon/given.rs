//! Virtual addresses that peers give us (RFC 7296 section 2.19): the gateway's own, on the VPN's port, while an IKE SA with
//! them lasts. What the administrator translates to "the interface" of that zone is translated to them.

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use sekisho_abi::port::{Network, ZONE_GATEWAY, network_kind};
use sekisho_ike::status::{IkeStatus, Phase};

use super::Daemon;
use super::bringup::Ground;
use crate::causes::told;
use crate::config::Config;
use crate::kernel::{Made, host_prefix};
use crate::nat::{Given, NatSet};

impl Ground {
    /// Every network that has an owner, with the addresses we have been given.
    pub(super) fn networks(&self, config: &Config) -> Vec<(IpAddr, u8, Network)> {
        let configured =
            config.networks().into_iter().map(|(net, owner)| (net.addr(), net.prefix_len(), owner));
        let own = |port| Network { port, zone: ZONE_GATEWAY, kind: network_kind::LOCAL, router: 0 };
        let given = self.given.iter().flat_map(|(port, addresses)| {
            addresses.iter().map(|address| (*address, host_prefix(*address), own(*port)))
        });
        // In rising order of precedence: whoever is given an address of the peer's network has it.
        configured.chain(given).collect()
    }

    /// Puts the addresses that we have been given on the device of the VPNs.
    pub(super) async fn put_given(&mut self) -> anyhow::Result<()> {
        for (port, addresses) in self.given.clone() {
            let Some(device) = self.vpn_device(port).map(|link| link.name.clone()) else { continue };
            for address in addresses {
                if address.is_ipv4() || self.kernel.has_ipv6() {
                    let prefix = host_prefix(address);
                    self.kernel.add_address(&mut self.ledger, &device, address, prefix).await?;
                }
            }
        }
        Ok(())
    }

    /// From now on these addresses are ours. After an error those before still count as held, and the same call tries again.
    async fn hold(&mut self, config: &Config, given: Given) -> anyhow::Result<()> {
        let former = std::mem::replace(&mut self.given, given);
        let outcome = self.change_given(config, &former).await;
        if outcome.is_err() {
            self.given = former;
        }
        outcome
    }

    async fn change_given(&mut self, config: &Config, former: &Given) -> anyhow::Result<()> {
        let rules = config.rules(SystemTime::now())?;
        let networks = self.networks(config);
        self.maps.set_networks(&networks)?;
        self.put_given().await?;
        self.maps.set_nat(NatSet::of(config, &self.given));
        self.maps.set_rules(&rules)?;
        // A route with an address as its source goes with that address: first the routes have another.
        self.route_into_tunnels(config).await?;
        let held: Vec<IpAddr> = self.given.values().flatten().copied().collect();
        let gone: Vec<IpAddr> =
            former.values().flatten().copied().filter(|address| !held.contains(address)).collect();
        let is_gone = |made: &&Made| match made {
            Made::Address { address, prefix, .. } => {
                *prefix == host_prefix(*address) && gone.contains(address)
            }
            _ => false,
        };
        for made in self.ledger.entries().filter(is_gone).cloned().collect::<Vec<_>>() {
            self.kernel.undo(&made).await?;
            self.ledger.strike(&made)?;
        }
        Ok(())
    }
}

impl Daemon {
    /// Looks at what peers have given us, and has the gateway have exactly that.
    pub(super) async fn follow_given(&mut self) {
        let asks = self.config.connections.iter().any(|connection| connection.request.any());
        if !asks && self.ground.given.is_empty() {
            return;
        }
        let (given, refused) = self.given();
        for (connection, why) in refused {
            tracing::error!(connection, "{why}");
            self.tunnels.refuse(Instant::now(), &connection, why, &mut self.endpoint);
        }
        if given == self.ground.given {
            return;
        }
        let all = given.values().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self.ground.hold(&self.config, given).await {
            Ok(()) => tracing::info!(addresses = all, "addresses given by peers are in force"),
            Err(error) => {
                tracing::error!(
                    "addresses given by peers are not in force, and are tried again: {}",
                    told(&error)
                );
            }
        }
    }

    /// The addresses of every established IKE SA, those of the one in use first; and what a peer may not give, with why.
    fn given(&self) -> (Given, Vec<(String, String)>) {
        let has_any =
            |sa: &IkeStatus| sa.phase == Phase::Established && !sa.virtual_addresses.local.is_empty();
        let mut sas: Vec<IkeStatus> = self.endpoint.ike_sas().filter(has_any).collect();
        sas.sort_by_key(|sa| !self.tunnels.uses(sa.connection.as_deref().unwrap_or_default(), sa.ike));
        let (mut given, mut refused) = (Given::new(), Vec::new());
        for sa in &sas {
            let name = sa.connection.as_deref().unwrap_or_default();
            let Some(port) = self.config.asking_port(name) else { continue };
            for &address in &sa.virtual_addresses.local {
                if let Some(why) = self.config.refuses_address(name, address) {
                    let detail = format!(
                        "the peer gives us {address}, {why}: refused and closed; it must take its addresses from another network"
                    );
                    refused.push((name.to_owned(), detail));
                    continue;
                }
                let addresses: &mut Vec<IpAddr> = given.entry(port).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        (given, refused)
    }
}
