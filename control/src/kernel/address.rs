//! Addresses of the ports.

use std::net::IpAddr;

use futures::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::{Kernel, KernelError, Ledger, Made};

impl Kernel {
    /// Puts an address on a port, unless it is there already (then it is not ours, and stays at the end).
    pub async fn add_address(
        &self,
        ledger: &mut Ledger,
        interface: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), KernelError> {
        let made = Made::Address { interface: interface.to_owned(), address, prefix };
        let is_there = self.find_address(interface, address, prefix).await?.is_some();
        if !ledger.note_unless(is_there, made)? {
            return Ok(());
        }
        let index = self.ifindex(interface).await?;
        let mut request = self.handle.address().add(index, address, prefix);
        // The gateway's addresses are its configuration, and IKE binds to them at once: no duplicate address detection.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .map_err(KernelError::netlink(format!("cannot put {address}/{prefix} on {interface}")))
    }

    pub(super) async fn remove_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), KernelError> {
        match self.find_address(interface, address, prefix).await? {
            None => Ok(()),
            Some(message) => self
                .handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(KernelError::netlink(format!("cannot take {address}/{prefix} from {interface}"))),
        }
    }

    /// Addresses of an interface that can be used now: those whose duplicate detection is over and found none.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, KernelError> {
        let mut found = Vec::new();
        let mut addresses = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) =
            addresses.try_next().await.map_err(KernelError::netlink("cannot list addresses"))?
        {
            let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
            if message.header.index != index || message.header.flags.intersects(unusable) {
                continue;
            }
            let (mut local, mut other) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => local = Some(*address),
                    AddressAttribute::Address(address) => other = Some(*address),
                    _ => {}
                }
            }
            found.extend(local.or(other));
        }
        Ok(found)
    }

    async fn find_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<Option<AddressMessage>, KernelError> {
        let index = self.ifindex(interface).await?;
        let mut addresses = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(KernelError::netlink(format!("cannot list the addresses of {interface}")))?
        {
            let same = message.header.index == index
                && message.header.prefix_len == prefix
                && message.attributes.iter().any(|attribute| match attribute {
                    AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => *ip == address,
                    _ => false,
                });
            if same {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}
