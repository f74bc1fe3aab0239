//! The Configuration payload (RFC 7296 sections 2.19 and 3.15), both roles: virtual addresses, name servers, subnets; and
//! what `dynamic` selectors become by it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{ChildConfig, Connection};
use crate::content::Content;
use crate::context::Context;
use crate::established::Established;
use crate::event::{Event, FailureKind, Path};
use crate::pool::{Asker, Pool};
use crate::unique::Uniqueness;
use crate::wire::config::{ConfigAttribute, Configuration};
use crate::wire::id::IdPayload;
use crate::wire::ts::TrafficSelector;
use crate::wire::{ConfigAttributeType, ConfigType, NotifyType, Payload};

/// Name servers and subnets taken from a peer, each.
const MAX_TAKEN: usize = 16;

/// What a peer is given that asks for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Names of pools, by order; one address of each family.
    pub pools: Vec<Arc<str>>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// A peer that asks for no address is refused (FAILED_CP_REQUIRED).
    pub required: bool,
}

/// What we ask a peer for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A virtual IPv4 address.
    pub ipv4: bool,
    /// A virtual IPv6 address.
    pub ipv6: bool,
}

impl Wanted {
    /// Whether anything is asked for.
    pub fn any(self) -> bool {
        self.ipv4 || self.ipv6
    }
}

/// Virtual addresses of one IKE SA, and what came with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualAddresses {
    /// Ours.
    pub local: Vec<IpAddr>,
    /// The peer's.
    pub remote: Vec<IpAddr>,
    /// Name servers that the peer names to us.
    pub dns: Vec<IpAddr>,
}

impl VirtualAddresses {
    fn is_empty(&self) -> bool {
        self.local.is_empty() && self.remote.is_empty()
    }
}

fn attribute(attribute_type: ConfigAttributeType, value: Vec<u8>) -> ConfigAttribute {
    ConfigAttribute { attribute_type, value }
}

fn address_attribute(address: IpAddr) -> ConfigAttribute {
    match address {
        IpAddr::V4(v4) => attribute(ConfigAttributeType::InternalIp4Address, v4.octets().to_vec()),
        // The prefix length is a host's.
        IpAddr::V6(v6) => {
            attribute(ConfigAttributeType::InternalIp6Address, [&v6.octets()[..], &[128]].concat())
        }
    }
}

fn dns_attribute(address: IpAddr) -> ConfigAttribute {
    match address {
        IpAddr::V4(v4) => attribute(ConfigAttributeType::InternalIp4Dns, v4.octets().to_vec()),
        IpAddr::V6(v6) => attribute(ConfigAttributeType::InternalIp6Dns, v6.octets().to_vec()),
    }
}

/// The values of an address, a name server and so on.
fn addresses(configuration: &Configuration, v4: ConfigAttributeType, v6: ConfigAttributeType) -> Vec<IpAddr> {
    let read = |attribute: &ConfigAttribute| match attribute.attribute_type {
        kind if kind == v4 => attribute.ipv4().map(IpAddr::V4),
        kind if kind == v6 => attribute.ipv6().map(IpAddr::V6),
        _ => None,
    };
    let usable =
        |address: &IpAddr| !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    configuration.attributes.iter().filter_map(read).filter(usable).take(MAX_TAKEN).collect()
}

/// Whether a request is for an address, and not for name servers alone.
fn asks_for_address(request: &Configuration) -> bool {
    use ConfigAttributeType::{InternalIp4Address, InternalIp6Address};
    let is_address = |kind| matches!(kind, InternalIp4Address | InternalIp6Address);
    request.attributes.iter().any(|attribute| is_address(attribute.attribute_type))
}

/// CFG_REQUEST of the initiator; nothing where nothing is wanted.
pub(crate) fn request(wanted: Wanted) -> Option<Payload> {
    use ConfigAttributeType::{InternalIp4Address, InternalIp4Dns, InternalIp6Address, InternalIp6Dns};
    let mut asked = Vec::new();
    if wanted.ipv4 {
        asked.extend([InternalIp4Address, InternalIp4Dns]);
    }
    if wanted.ipv6 {
        asked.extend([InternalIp6Address, InternalIp6Dns]);
    }
    let attributes: Vec<_> = asked.into_iter().map(|kind| attribute(kind, Vec::new())).collect();
    let request = Configuration { config_type: ConfigType::Request, attributes };
    wanted.any().then_some(Payload::Configuration(request))
}

/// A child as it is offered while our virtual address is not known: any of the families asked for.
pub(crate) fn offered(config: &ChildConfig, connection: &Connection, path: Path) -> ChildConfig {
    let wanted = connection.wants;
    let mut offered = config.clone();
    if config.local_dynamic && wanted.any() {
        offered.local.extend(wanted.ipv4.then(|| TrafficSelector::any(false)));
        offered.local.extend(wanted.ipv6.then(|| TrafficSelector::any(true)));
        offered.local_dynamic = false;
    }
    resolved(&offered, &VirtualAddresses::default(), path)
}

/// A child with addresses in place of `dynamic`: the virtual ones, or where there are none, those of the outside.
fn resolved(config: &ChildConfig, known: &VirtualAddresses, path: Path) -> ChildConfig {
    let fill = |to: &mut Vec<TrafficSelector>, addresses: &[IpAddr], outside: IpAddr| {
        let outside = [outside.to_canonical()];
        let addresses = if addresses.is_empty() { &outside[..] } else { addresses };
        to.extend(addresses.iter().filter_map(|address| TrafficSelector::new(*address, *address).ok()));
    };
    let mut out = ChildConfig { local_dynamic: false, remote_dynamic: false, ..config.clone() };
    if config.local_dynamic {
        fill(&mut out.local, &known.local, path.local.ip());
    }
    if config.remote_dynamic {
        fill(&mut out.remote, &known.remote, path.remote.ip());
    }
    out
}

impl Established {
    /// From now on the children are what the addresses make of them.
    fn resolve_children(&mut self, ctx: &mut Context<'_>) {
        let path = self.channel.path;
        let known = &self.virtual_addresses;
        self.child_configs =
            self.connection.children.iter().map(|config| Arc::new(resolved(config, known, path))).collect();
        if !known.is_empty() {
            ctx.out.event(Event::VirtualAddresses {
                ike: self.handle,
                connection: self.connection.name.clone(),
                addresses: known.clone(),
            });
        }
    }

    /// The responder's part: the answer to the peer's request. The error is what to say in place of a child SA.
    pub(crate) fn assign_addresses(
        &mut self,
        ctx: &mut Context<'_>,
        content: &Content,
    ) -> Result<Option<Payload>, NotifyType> {
        let request = content.configuration.as_ref().filter(|cp| cp.config_type == ConfigType::Request);
        let assigned = self.connection.assigns.clone().unwrap_or_default();
        if assigned.required && !request.is_some_and(asks_for_address) {
            let detail = format!(
                "{} asks for no virtual address, and the connection demands one: have it request one",
                self.remote_id
            );
            self.report(ctx, FailureKind::NoConnection, detail);
            // Nor may it ask for a child later.
            self.child_configs.clear();
            return Err(NotifyType::FailedCpRequired);
        }
        let reply = match request {
            Some(request) => self.answer_request(ctx, request, &assigned)?,
            None => None,
        };
        self.resolve_children(ctx);
        Ok(reply)
    }

    /// Whether the peer's addresses are still ones that it may be given.
    pub(crate) fn may_keep_addresses(&self, pools: &[Pool]) -> bool {
        let assigned = self.connection.assigns.as_ref().map_or(&[][..], |assigned| &assigned.pools);
        let fits = |address: &IpAddr| {
            pools.iter().any(|pool| assigned.contains(&pool.name) && pool.contains(*address))
        };
        self.virtual_addresses.remote.iter().all(fits)
    }

    fn answer_request(
        &mut self,
        ctx: &mut Context<'_>,
        request: &Configuration,
        assigned: &Assigned,
    ) -> Result<Option<Payload>, NotifyType> {
        use ConfigAttributeType::{InternalIp4Address, InternalIp4Dns, InternalIp6Address, InternalIp6Dns};
        let asks = |kind| request.attributes.iter().any(|attribute| attribute.attribute_type == kind);
        let wishes = addresses(request, InternalIp4Address, InternalIp6Address);
        let peer = IdPayload::new(self.remote_id.clone()).body();
        let mut given = Vec::new();
        let families = [(InternalIp4Address, true), (InternalIp6Address, false)];
        for (_, v4) in families.into_iter().filter(|(kind, _)| asks(*kind)) {
            let asker = Asker {
                ike: self.handle,
                peer: &peer,
                wish: wishes.iter().copied().find(|wish| wish.is_ipv4() == v4),
                unique: self.connection.uniqueness != Uniqueness::Never,
            };
            let config = ctx.config;
            let ranges = |name: &Arc<str>| -> Vec<&Pool> {
                let fits = |pool: &&Pool| pool.name == *name && pool.first.is_ipv4() == v4;
                config.pools.iter().filter(fits).collect()
            };
            given.extend(assigned.pools.iter().find_map(|name| ctx.leases.take(&ranges(name), asker)));
        }
        if asks_for_address(request) && given.is_empty() {
            self.child_configs.clear();
            let detail = format!(
                "no virtual address for {}: every one of the connection's pools is in use, or it has none of the family \
                 asked for; give it a larger pool",
                self.remote_id
            );
            self.report(ctx, FailureKind::Overload, detail);
            return Err(NotifyType::InternalAddressFailure);
        }
        let mut attributes: Vec<_> = given.iter().copied().map(address_attribute).collect();
        let dns = assigned.dns.iter().copied();
        attributes.extend(
            dns.filter(|dns| asks(if dns.is_ipv4() { InternalIp4Dns } else { InternalIp6Dns }))
                .map(dns_attribute),
        );
        self.virtual_addresses.remote = given;
        let reply = Configuration { config_type: ConfigType::Reply, attributes };
        Ok(Some(Payload::Configuration(reply)))
    }

    /// The initiator's part: what the peer has given us. `false`: not what we cannot do without.
    pub(crate) fn take_addresses(&mut self, ctx: &mut Context<'_>, content: &Content) -> bool {
        use ConfigAttributeType::{InternalIp4Address, InternalIp4Dns, InternalIp6Address, InternalIp6Dns};
        let wanted = self.connection.wants;
        let reply = content.configuration.as_ref().filter(|cp| cp.config_type == ConfigType::Reply);
        if let Some(reply) = reply.filter(|_| wanted.any()) {
            let found = addresses(reply, InternalIp4Address, InternalIp6Address);
            let of = |v4: bool| found.iter().copied().find(|address| address.is_ipv4() == v4);
            let mut local = Vec::new();
            local.extend(of(true).filter(|_| wanted.ipv4));
            local.extend(of(false).filter(|_| wanted.ipv6));
            let dns = addresses(reply, InternalIp4Dns, InternalIp6Dns);
            self.virtual_addresses = VirtualAddresses { local, remote: Vec::new(), dns };
        }
        self.resolve_children(ctx);
        if wanted.any() && self.virtual_addresses.local.is_empty() {
            let why = content
                .error()
                .map_or_else(|| "and does not say why".to_owned(), |error| format!("with {error}"));
            let detail = format!(
                "the peer gave us no virtual address, {why}: its pool may be used up, or it assigns none; see its log"
            );
            self.report(ctx, FailureKind::RefusedByPeer, detail);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_alone_are_no_address() {
        let asks = |kinds: &[ConfigAttributeType]| {
            let attributes = kinds.iter().map(|kind| attribute(*kind, Vec::new())).collect();
            asks_for_address(&Configuration { config_type: ConfigType::Request, attributes })
        };
        assert!(!asks(&[]));
        assert!(!asks(&[ConfigAttributeType::InternalIp4Dns, ConfigAttributeType::InternalIp6Dns]));
        assert!(asks(&[ConfigAttributeType::InternalIp4Dns, ConfigAttributeType::InternalIp4Address]));
        assert!(asks(&[ConfigAttributeType::InternalIp6Address]));
    }
}
