//! Routes, in both directions: those the gateway sets, and the kernel's answer to "which way to this peer?".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};
use rtnetlink::RouteMessageBuilder;
use serde::{Deserialize, Serialize};

use super::{Kernel, KernelError, Ledger, Made, host_prefix};

/// `proto` of every route the gateway sets, to be told apart in `ip route` (free in rtnetlink.h).
const PROTOCOL: u8 = 94;
/// Their metric: replacing a route of ours never replaces one that somebody else set to the same network.
const METRIC: u32 = 94;

/// A route the gateway sets in the main table.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub struct Route {
    /// Network.
    pub destination: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// Next hop.
    pub gateway: IpAddr,
    /// Interface.
    pub interface: String,
    /// The next hop is on the link though no address of ours says so.
    pub onlink: bool,
    /// Source of the gateway's own packets.
    pub source: Option<IpAddr>,
    /// Among routes of ours to the same network: the lowest is taken.
    #[serde(default)]
    pub rank: u32,
    /// Largest packet, if smaller than the device's.
    pub mtu: Option<u16>,
}

/// The way to an address outside, as the kernel would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// ifindex to leave by.
    pub interface: u32,
    /// The neighbour to hand it to: the gateway, or the address itself on the link.
    pub neighbour: IpAddr,
    /// Source the kernel would take.
    pub source: Option<IpAddr>,
    /// Largest packet that gets there, bytes, where the route says so or a router has told.
    pub mtu: Option<u32>,
}

impl Kernel {
    /// Sets a route, replacing one of ours to the same network.
    pub async fn add_route(&self, ledger: &mut Ledger, route: &Route) -> Result<(), KernelError> {
        let made = Made::Route(route.clone());
        ledger.note(made.clone())?;
        let message = self.message(route).await?;
        self.handle.route().add(message).replace().execute().await.map_err(KernelError::netlink(format!(
            "cannot set the route to {}/{} via {}",
            route.destination, route.prefix, route.gateway
        )))?;
        Ok(ledger.strike_replaced(&made)?)
    }

    pub(super) async fn remove_route(&self, route: &Route) -> Result<(), KernelError> {
        let message = self.message(route).await?;
        self.handle.route().del(message).execute().await.map_err(KernelError::netlink(format!(
            "cannot remove the route to {}/{}",
            route.destination, route.prefix
        )))
    }

    /// The way from one of our addresses to `address`, or `None` if there is no route. The source counts where an
    /// administrator routes by it. `leaving`: by this ifindex and no other.
    pub async fn next_hop(
        &self,
        source: IpAddr,
        address: IpAddr,
        leaving: Option<u32>,
    ) -> Result<Option<NextHop>, KernelError> {
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, host_prefix(address))
            .and_then(|message| message.source_prefix(source, host_prefix(source)))
            .map_err(|error| KernelError::Io {
                action: format!("route from {source} to {address}"),
                source: std::io::Error::other(error),
            })?
            .build();
        message.attributes.extend(leaving.map(RouteAttribute::Oif));
        let mut routes = self.handle.route().get(message).execute();
        // ENETUNREACH and EHOSTUNREACH are answers: no way there now.
        let Ok(Some(message)) = routes.try_next().await else { return Ok(None) };
        let mut hop = NextHop { interface: 0, neighbour: address, source: None, mtu: None };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => hop.interface = *index,
                RouteAttribute::Gateway(gateway) => hop.neighbour = ip(gateway).unwrap_or(address),
                RouteAttribute::PrefSource(source) => hop.source = ip(source),
                RouteAttribute::Metrics(metrics) => {
                    hop.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok((hop.interface != 0).then_some(hop))
    }

    async fn message(&self, route: &Route) -> Result<RouteMessage, KernelError> {
        let index = self.ifindex(&route.interface).await?;
        let mut message = match (route.destination, route.gateway) {
            (IpAddr::V4(destination), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination, route.prefix)
                .gateway(gateway)
                .output_interface(index)
                .priority(METRIC.saturating_add(route.rank))
                .build(),
            (IpAddr::V6(destination), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination, route.prefix)
                .gateway(gateway)
                .output_interface(index)
                .priority(METRIC.saturating_add(route.rank))
                .build(),
            (destination, gateway) => {
                return Err(KernelError::Io {
                    action: format!("route to {destination} via {gateway}: families differ"),
                    source: std::io::Error::from_raw_os_error(libc::EINVAL),
                });
            }
        };
        message.header.protocol = RouteProtocol::from(PROTOCOL);
        message.header.scope = RouteScope::Universe;
        if route.onlink {
            message.header.flags |= netlink_packet_route::route::RouteFlags::Onlink;
        }
        if let Some(source) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
        }
        if let Some(mtu) = route.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(u32::from(mtu))]));
        }
        Ok(message)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
