//! Neighbours: the permanent ones of the engine's device, and keeping those alive that only XDP uses.

use std::net::IpAddr;

use super::{Kernel, KernelError};
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

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

impl Neighbour {
    fn of(message: &NeighbourMessage) -> Option<Neighbour> {
        let (mut mac, mut address) = (None, None);
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
        let state = message.header.state;
        let usable =
            !matches!(state, NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None);
        Some(Neighbour {
            interface: message.header.ifindex,
            address: address?,
            mac: mac.filter(|_| usable),
            fresh: matches!(
                state,
                NeighbourState::Reachable
                    | NeighbourState::Permanent
                    | NeighbourState::Noarp
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Incomplete
            ),
        })
    }
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
                found.extend(Neighbour::of(&message));
            }
        }
        Ok(found)
    }

    /// One entry, if there is one: the kernel looks for no other.
    pub async fn neighbour(&self, interface: u32, address: IpAddr) -> Result<Option<Neighbour>, KernelError> {
        let refused = || KernelError::netlink(format!("cannot look for the neighbour {address}"));
        let mut asked = NeighbourMessage::default();
        asked.header.ifindex = interface;
        let (family, destination) = match address {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        asked.header.family = family;
        asked.attributes.push(NeighbourAttribute::Destination(destination));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(asked));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).map_err(refused())?;
        let Some(answer) = answers.next().await else { return Ok(None) };
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => {
                Ok(Neighbour::of(&entry))
            }
            // ENOENT and ENODEV are answers: it is not in the table.
            NetlinkPayload::Error(error) if [-libc::ENOENT, -libc::ENODEV].contains(&error.raw_code()) => {
                Ok(None)
            }
            NetlinkPayload::Error(error) => Err(refused()(rtnetlink::Error::NetlinkError(error))),
            _ => Err(refused()(rtnetlink::Error::UnexpectedMessage(answer))),
        }
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn ip(words: &str) {
        let status = Command::new("ip").args(words.split(' ')).status().expect("ip (package iproute2)");
        assert!(status.success(), "ip {words}");
    }

    async fn entry(kernel: &Kernel, address: &str) -> Option<Neighbour> {
        let address: IpAddr = address.parse().expect("address");
        let all = kernel.neighbours().await.expect("lists");
        all.into_iter().find(|entry| entry.address == address)
    }

    /// In a network namespace of its own, which goes with the thread. Needs root.
    #[test]
    fn a_stale_neighbour_is_asked_for() {
        let thread = std::thread::spawn(|| {
            // SAFETY: plain system call; it moves this thread alone.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "run this test as root");
            ip("link add port0 type veth peer name far0");
            ip("link set far0 up");
            ip("link set port0 up");
            ip("addr add 192.0.2.1/24 dev port0");
            ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev port0 nud stale");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let kernel = Kernel::open().expect("netlink");
                let port = kernel.link("port0").await.expect("port0").index;
                let stale = entry(&kernel, "192.0.2.2").await.expect("the stale one");
                assert_eq!((stale.mac, stale.fresh), (Some([2, 0, 0, 0, 0, 2]), false));
                kernel.probe_neighbour(port, stale.address).await.expect("asks");
                // DELAY, then PROBE: the kernel has it in hand, and its address serves meanwhile.
                let probed = entry(&kernel, "192.0.2.2").await.expect("still there");
                assert_eq!((probed.mac, probed.fresh), (stale.mac, true));
                let found = kernel.neighbour(port, stale.address).await.expect("looks for it alone");
                assert_eq!(found, Some(probed));
                let far = kernel.link("far0").await.expect("far0").index;
                for other in [far, port + far] {
                    assert_eq!(kernel.neighbour(other, stale.address).await.expect("not of it"), None);
                }

                let absent: IpAddr = "192.0.2.3".parse().expect("address");
                assert_eq!(entry(&kernel, "192.0.2.3").await, None);
                assert_eq!(kernel.neighbour(port, absent).await.expect("is not there"), None);
                let v6 = "2001:db8::3".parse().expect("address");
                assert_eq!(kernel.neighbour(port, v6).await.expect("is not there either"), None);
                kernel.probe_neighbour(port, absent).await.expect("asks");
                let unknown = entry(&kernel, "192.0.2.3").await.expect("INCOMPLETE");
                assert_eq!((unknown.mac, unknown.fresh), (None, true));
                assert_eq!(kernel.neighbour(port, absent).await.expect("looks"), Some(unknown));
            });
        });
        thread.join().expect("the thread's own message says what");
    }
}
