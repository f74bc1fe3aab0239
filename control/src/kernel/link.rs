//! Links.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::{Kernel, KernelError, Ledger, Made, errno, ethtool};

/// The kernel lets go of a queue some time after its AF_XDP socket was closed.
const QUEUE_TRIES: u32 = 40;
const QUEUE_WAIT: Duration = Duration::from_millis(50);

/// What the gateway needs to know of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// ifindex.
    pub index: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u16,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Administratively up.
    pub up: bool,
    /// There is a cable, and somebody at its other end.
    pub carrier: bool,
    /// An XDP program runs on it.
    pub xdp: bool,
}

impl Kernel {
    /// Looks an Ethernet link up by name.
    pub async fn link(&self, name: &str) -> Result<Link, KernelError> {
        match self.any_link(name).await? {
            (link, true) => Ok(link),
            (_, false) => Err(KernelError::NotEthernet(name.to_owned())),
        }
    }

    /// A link of any kind as it is now, if there is one of this name.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, KernelError> {
        match self.any_link(name).await {
            Ok((link, _)) => Ok(Some(link)),
            Err(KernelError::NoInterface(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The ifindex of any link.
    pub(super) async fn ifindex(&self, name: &str) -> Result<u32, KernelError> {
        Ok(self.any_link(name).await?.0.index)
    }

    /// Looks a link up by name, and says whether it is an Ethernet device.
    pub(super) async fn any_link(&self, name: &str) -> Result<(Link, bool), KernelError> {
        Ok(parse(name, &self.link_message(name).await?))
    }

    /// All that the kernel says of a link.
    pub(super) async fn link_message(&self, name: &str) -> Result<LinkMessage, KernelError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(KernelError::NoInterface(name.to_owned())),
            Err(error) if errno(&error) == Some(libc::ENODEV) => {
                Err(KernelError::NoInterface(name.to_owned()))
            }
            Err(error) => Err(KernelError::netlink(format!("cannot look up interface {name}"))(error)),
        }
    }

    /// Waits until no XDP program runs on the interface any more: the kernel takes one away some time after its link was
    /// given up. Says whether it has.
    pub async fn await_xdp_gone(&self, name: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.link(name).await {
                Ok(link) if link.xdp && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(link) => return !link.xdp,
                // Gone, and the program with it.
                Err(_) => return true,
            }
        }
    }

    /// Sets a port up, noting it if it was down.
    pub async fn set_up(&self, ledger: &mut Ledger, link: &Link) -> Result<(), KernelError> {
        let made = Made::Up { interface: link.name.clone() };
        if ledger.note_unless(link.up, made)? {
            self.change(LinkUnspec::new_with_index(link.index).up().build(), &link.name).await?;
        }
        Ok(())
    }

    pub(super) async fn set_down(&self, name: &str) -> Result<(), KernelError> {
        let index = self.ifindex(name).await?;
        self.change(LinkUnspec::new_with_index(index).down().build(), name).await
    }

    /// Makes a veth pair, or finds the one a predecessor made, and sets MTU and both ends up. `mac`: what the first end's
    /// MAC address shall be, if not any.
    pub async fn veth_pair(
        &self,
        ledger: &mut Ledger,
        name: &str,
        peer: &str,
        mtu: u16,
        mac: Option<[u8; 6]>,
    ) -> Result<(Link, Link), KernelError> {
        let made = Made::Link { name: name.to_owned() };
        match self.link(name).await {
            Ok(_) if ledger.keep(&made) => {}
            Ok(_) => return Err(not_ours(name)),
            Err(KernelError::NoInterface(_)) => {
                ledger.note(made)?;
                self.handle
                    .link()
                    .add(LinkVeth::new(name, peer).build())
                    .execute()
                    .await
                    .map_err(KernelError::netlink(format!("cannot make the veth pair {name}, {peer}")))?;
            }
            Err(error) => return Err(error),
        }
        for end in [name, peer] {
            let index = self.link(end).await?.index;
            let change = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).up();
            // An end that comes up makes itself a link-local address of its MAC address.
            let change = match mac.filter(|_| end == name) {
                Some(mac) => change.address(mac.to_vec()),
                None => change,
            };
            self.change(change.build(), end).await?;
        }
        Ok((self.link(name).await?, self.link(peer).await?))
    }

    /// Gives a veth pair of the gateway's so many queues each way, and returns both ends as they are then.
    pub async fn set_queues(&self, pair: [&str; 2], queues: u32) -> Result<(Link, Link), KernelError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match ethtool::set_queues(pair, queues) {
                Ok(()) => break,
                // An AF_XDP socket that was closed just now holds its queue for a moment.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && tries < QUEUE_TRIES => {
                    tokio::time::sleep(QUEUE_WAIT).await;
                }
                Err(error) => {
                    let [name, peer] = pair;
                    return Err(KernelError::io(format!(
                        "cannot give {name} and {peer} {queues} queues; write `engine_workers = 1`"
                    ))(error));
                }
            }
        }
        let [name, peer] = pair;
        Ok((self.link(name).await?, self.link(peer).await?))
    }

    /// Sets a device up or down that the gateway has made.
    pub async fn set_running(&self, link: &Link, up: bool) -> Result<(), KernelError> {
        let change = LinkUnspec::new_with_index(link.index);
        self.change(if up { change.up() } else { change.down() }.build(), &link.name).await
    }

    pub(super) async fn remove_link(&self, name: &str) -> Result<(), KernelError> {
        let index = self.ifindex(name).await?;
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(KernelError::netlink(format!("cannot remove {name}")))
    }

    pub(super) async fn change(&self, message: LinkMessage, name: &str) -> Result<(), KernelError> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(KernelError::netlink(format!("cannot change interface {name}")))
    }
}

/// A device has a name that the gateway wants for one of its own.
pub(super) fn not_ours(name: &str) -> KernelError {
    KernelError::Io {
        action: format!(
            "device {name} exists and is not this gateway's; remove it with `ip link del {name}`"
        ),
        source: std::io::Error::from_raw_os_error(libc::EEXIST),
    }
}

/// What the message says, and whether it is an Ethernet device.
pub(super) fn parse(name: &str, message: &LinkMessage) -> (Link, bool) {
    let mut link = Link {
        name: name.to_owned(),
        index: message.header.index,
        mac: [0; 6],
        mtu: 0,
        rx_queues: 1,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        xdp: false,
    };
    let mut ethernet = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = bytes.as_slice().try_into() {
                    link.mac = mac;
                    ethernet = true;
                }
            }
            LinkAttribute::Xdp(facts) => {
                link.xdp = facts
                    .iter()
                    .any(|fact| matches!(fact, LinkXdp::Attached(mode) if *mode != XdpAttached::None));
            }
            LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(*mtu).unwrap_or(u16::MAX),
            _ => {}
        }
    }
    link.rx_queues = ethtool::rx_queues(name);
    (link, ethernet)
}
