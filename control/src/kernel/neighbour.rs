//! Neighbours: the permanent ones of the engine's device, and keeping those alive that only XDP uses.

use std::net::IpAddr;

use super::{Kernel, KernelError};
use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState};

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// ifindex.
    pub interface: u32,
    /// Address.
    pub address: IpAddr,
    /// Ethernet address, if known.
    pub mac: Option<[u8; 6]>,
    /// Confirmed lately, or permanent. A stale one still works but should be asked for again.
    pub fresh: bool,
}

impl Kernel {
    /// Sets a permanent entry. It goes with its device, so the ledger need not know it.
    pub async fn set_neighbour(
        &self,
        interface: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), KernelError> {
        self.handle
            .neighbours()
            .add(interface, address)
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(KernelError::netlink(format!("cannot set the neighbour {address}")))
    }

    /// Every usable entry of both families.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, KernelError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut entries = self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) =
                entries.try_next().await.map_err(KernelError::netlink("cannot list the neighbours"))?
            {
                let mut mac = None;
                let mut address = None;
                for attribute in &message.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                            address = Some(IpAddr::V4(*v4));
                        }
                        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                            address = Some(IpAddr::V6(*v6));
                        }
                        NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                        _ => {}
                    }
                }
                let usable = !matches!(
                    message.header.state,
                    NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
                );
                if let Some(address) = address {
                    found.push(Neighbour {
                        interface: message.header.ifindex,
                        address,
                        mac: mac.filter(|_| usable),
                        fresh: matches!(
                            message.header.state,
                            NeighbourState::Reachable
                                | NeighbourState::Permanent
                                | NeighbourState::Noarp
                                | NeighbourState::Delay
                                | NeighbourState::Probe
                                | NeighbourState::Incomplete
                        ),
                    });
                }
            }
        }
        Ok(found)
    }

    /// Asks the kernel to confirm, or find, a neighbour (NTF_USE): what XDP and the engine send does not do so by itself.
    pub async fn probe_neighbour(&self, interface: u32, address: IpAddr) -> Result<(), KernelError> {
        self.handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(KernelError::netlink(format!("cannot ask for the neighbour {address}")))
    }
}
