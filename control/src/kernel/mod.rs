//! What the gateway sets in the kernel besides its programs: links, addresses, routes, neighbours, sysctls.
//!
//! Owned by the daemon's one task. Everything made is written into a [`Ledger`] before it is made, so that a stop takes
//! back exactly that, and a start after a crash knows what is its own. What was there before is never touched.

mod address;
mod ethtool;
mod feature;
mod ledger;
mod link;
mod neighbour;
mod route;
mod sysctl;
mod sysfs;
mod watch;
pub mod xfrm;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rtnetlink::Handle;
use sekisho_esp::sa::SaError;
use tokio::task::JoinHandle;

pub use ledger::{Ledger, LedgerError, Made};
pub use link::Link;
pub use neighbour::Neighbour;
pub use route::{NextHop, Route};
pub use watch::Watch;

/// A refused request to the kernel: what was tried, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Netlink.
    #[error("{action}: {source}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A file of the kernel, or an ioctl.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// An interface that the configuration names does not exist.
    #[error("interface {0} does not exist; `ip link` lists those that do")]
    NoInterface(String),
    /// An interface without an Ethernet address.
    #[error("interface {0} is no Ethernet device: a port needs one")]
    NotEthernet(String),
    /// The kernel's IPsec.
    #[error(transparent)]
    Xfrm(#[from] SaError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl KernelError {
    fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> KernelError {
        let action = action.into();
        move |source| KernelError::Netlink { action, source: Box::new(source) }
    }

    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> KernelError {
        let action = action.into();
        move |source| KernelError::Io { action, source }
    }

    /// The kernel's error number, where it gave one.
    fn errno(&self) -> Option<i32> {
        match self {
            KernelError::Netlink { source, .. } => errno(source),
            KernelError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

/// A netlink socket of the namespace the daemon was started in.
pub struct Kernel {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Kernel {
    /// Opens the socket.
    pub fn open() -> Result<Kernel, KernelError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(KernelError::io("cannot open a netlink socket"))?;
        Ok(Kernel { handle, connection: tokio::spawn(connection) })
    }

    /// Takes back one entry of the ledger. What is gone already counts as taken back.
    pub async fn undo(&self, made: &Made) -> Result<(), KernelError> {
        let result = match made {
            Made::Address { interface, address, prefix } => {
                self.remove_address(interface, *address, *prefix).await
            }
            Made::Route(route) => self.remove_route(route).await,
            Made::Link { name } => self.remove_link(name).await,
            Made::Sysctl { key, before } => sysctl::write(key, before),
            Made::Sysfs { interface, name, before } => sysfs::Devices::open()
                .and_then(|devices| devices.write(interface, name, before))
                .map_err(KernelError::io(format!("cannot set {name} of {interface} to {before} again"))),
            Made::Up { interface } => self.set_down(interface).await,
            Made::Xfrm => xfrm::remove_ours().map_err(KernelError::from),
            Made::VlanTagsKept { interface } => ethtool::set_strips_vlan_tags(interface, true)
                .map_err(KernelError::io(format!("cannot switch rx-vlan-offload of {interface} on again"))),
            Made::VlanFilterOff { interface } => feature::set_filters_vlans(interface, true)
                .map_err(KernelError::io(format!("cannot switch rx-vlan-filter of {interface} on again"))),
        };
        match result {
            Err(KernelError::NoInterface(_)) => Ok(()),
            // ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL: it is not there any more.
            Err(error) if matches!(error.errno(), Some(2 | 3 | 19 | 99)) => Ok(()),
            other => other,
        }
    }

    /// Sets a sysctl, noting its former value.
    pub fn set_sysctl(&self, ledger: &mut Ledger, key: &str, value: &str) -> Result<(), KernelError> {
        let before = sysctl::read(key)?;
        let is_in_force = before == value;
        if ledger.note_unless(is_in_force, Made::Sysctl { key: key.to_owned(), before })? {
            sysctl::write(key, value)?;
        }
        Ok(())
    }

    /// Whether this kernel has IPv6 (it has none with `ipv6.disable=1`).
    pub fn has_ipv6(&self) -> bool {
        Path::new("/proc/sys/net/ipv6").exists()
    }

    /// A sysctl's value.
    pub fn sysctl(&self, key: &str) -> Result<String, KernelError> {
        sysctl::read(key)
    }

    /// Has the NIC leave 802.1Q tags in received frames. With the tag taken off beforehand, a tagged frame would look to
    /// XDP as if it belonged to the access port.
    pub fn keep_vlan_tags(&self, ledger: &mut Ledger, interface: &str) -> Result<(), KernelError> {
        let is_done = ethtool::strips_vlan_tags(interface) != Some(true);
        let made = Made::VlanTagsKept { interface: interface.to_owned() };
        if !ledger.note_unless(is_done, made)? {
            return Ok(());
        }
        ethtool::set_strips_vlan_tags(interface, false).map_err(KernelError::io(format!(
            "cannot switch off rx-vlan-offload of {interface}, behind which the filter would not see VLAN tags"
        )))
    }

    /// Has the NIC take in frames of every VLAN: drivers drop those of VLANs that the kernel has no device for.
    pub fn take_every_vlan(&self, ledger: &mut Ledger, interface: &str) -> Result<(), KernelError> {
        let is_done = feature::filters_vlans(interface) != Some(true);
        let made = Made::VlanFilterOff { interface: interface.to_owned() };
        if !ledger.note_unless(is_done, made)? {
            return Ok(());
        }
        feature::set_filters_vlans(interface, false).map_err(KernelError::io(format!(
            "cannot switch off rx-vlan-filter of {interface}, which keeps tagged frames from the filter"
        )))
    }

    /// Makes the kernel hand over whole, checksummed packets on a device whose frames XDP reads.
    pub fn set_offloads_off(&self, interface: &str) -> Result<(), KernelError> {
        ethtool::offloads_off(interface)
            .map_err(KernelError::io(format!("cannot switch off segmentation offloads of {interface}")))
    }

    /// Makes the kernel take together what comes to a device while more is coming: it looks again after `wait`, and wants to be
    /// told of the next packet only when it has found none. So no packet waits longer than that, and a lone one not at all.
    pub fn take_in_batches(
        &self,
        ledger: &mut Ledger,
        interface: &str,
        wait: Duration,
    ) -> Result<(), KernelError> {
        let error = || KernelError::io(format!("cannot have packets of {interface} taken in batches"));
        let devices = sysfs::Devices::open().map_err(error())?;
        let settings =
            [("napi_defer_hard_irqs", "1".to_owned()), ("gro_flush_timeout", wait.as_nanos().to_string())];
        for (name, value) in settings {
            let before = devices.read(interface, name).map_err(error())?;
            let is_in_force = before == value;
            let made = Made::Sysfs { interface: interface.to_owned(), name: name.to_owned(), before };
            if ledger.note_unless(is_in_force, made)? {
                devices.write(interface, name, &value).map_err(error())?;
            }
        }
        Ok(())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Length of a host's prefix.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
