//! xfrm interfaces: devices that encrypt what is routed to them, and give out what was decrypted for their interface id.

use netlink_packet_route::link::{InfoData, InfoKind, InfoXfrm, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkXfrm};
use sekisho_esp::sa::PortId;

use super::super::{Kernel, KernelError, Ledger, Link, Made, errno, link};
use super::interface_id;

/// A device that is made and removed again, to see whether the kernel can.
const PROBE: &str = "sekisho-probe";
/// Its port: none has this number.
const PROBE_PORT: PortId = PortId::MAX;

impl Kernel {
    /// Whether this kernel has xfrm interfaces.
    pub async fn can_make_xfrm_interfaces(&self) -> Result<(), KernelError> {
        // One that a predecessor left when it died here.
        self.remove_probe().await?;
        self.make(PROBE, PROBE_PORT).await?;
        self.remove_probe().await
    }

    async fn remove_probe(&self) -> Result<(), KernelError> {
        match self.remove_link(PROBE).await {
            Err(KernelError::NoInterface(_)) => Ok(()),
            other => other,
        }
    }

    /// Notes that SAs and policies will be ours.
    pub fn note_xfrm(&self, ledger: &mut Ledger) -> Result<(), KernelError> {
        Ok(ledger.note(Made::Xfrm)?)
    }

    /// Makes the xfrm interface of a VPN port, or finds the one a predecessor made. It is down at first. A device of its
    /// name that is anything else is an error.
    pub async fn xfrm_interface(
        &self,
        ledger: &mut Ledger,
        name: &str,
        port: PortId,
    ) -> Result<Link, KernelError> {
        let made = Made::Link { name: name.to_owned() };
        match self.link_message(name).await {
            Ok(message) if is_of(&message, port) && ledger.keep(&made) => {
                return Ok(link::parse(name, &message).0);
            }
            Ok(_) => return Err(link::not_ours(name)),
            Err(KernelError::NoInterface(_)) => {}
            Err(error) => return Err(error),
        }
        ledger.note(made)?;
        self.make(name, port).await?;
        Ok(self.any_link(name).await?.0)
    }

    async fn make(&self, name: &str, port: PortId) -> Result<(), KernelError> {
        let message = LinkMessageBuilder::<LinkXfrm>::new(name).if_id(interface_id(port)).build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(|error| {
            let remedy = match errno(&error) {
                Some(libc::EEXIST) => format!(
                    "another device has its interface id {:#x}, perhaps under a new name; `ip -d link` lists it, and `ip \
                     link del` removes it",
                    interface_id(port)
                ),
                _ => "load the module xfrm_interface (CONFIG_XFRM_INTERFACE), or write datapath = \"engine\"".into(),
            };
            KernelError::netlink(format!("cannot make the xfrm interface {name}; {remedy}"))(error)
        })
    }

    /// Sets it up, with an MTU that no port exceeds: the kernel's routes carry the tunnel's.
    pub async fn set_tunnel_up(&self, link: &Link, mtu: u16) -> Result<Link, KernelError> {
        let message = LinkUnspec::new_with_index(link.index).mtu(u32::from(mtu)).up().build();
        self.change(message, &link.name).await?;
        Ok(self.any_link(&link.name).await?.0)
    }
}

/// Whether it is the xfrm interface of this port.
fn is_of(message: &LinkMessage, port: PortId) -> bool {
    let facts = || {
        message.attributes.iter().flat_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(facts) => facts.as_slice(),
            _ => &[],
        })
    };
    let id = InfoXfrm::IfId(interface_id(port));
    facts().any(|fact| matches!(fact, LinkInfo::Kind(InfoKind::Xfrm)))
        && facts().any(|fact| matches!(fact, LinkInfo::Data(InfoData::Xfrm(data)) if data.contains(&id)))
}

#[cfg(test)]
mod tests {
    use rtnetlink::LinkDummy;

    use super::*;

    #[test]
    fn another_device_of_the_name_is_not_ours() {
        let ours = LinkMessageBuilder::<LinkXfrm>::new("sekisho-vpn3").if_id(interface_id(3)).build();
        assert!(is_of(&ours, 3));
        assert!(!is_of(&ours, 4));
        assert!(!is_of(&LinkDummy::new("sekisho-vpn3").build(), 3));
    }
}
