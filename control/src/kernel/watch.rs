//! Word from the kernel that addresses, links or routes have changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{KernelError, Link};

/// What may move an IKE SA.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Changes come in bursts, of routes by the thousand where the gateway speaks BGP: one look answers for all of that time. A link's
/// MTU does not wait for that: of no other change is a packet lost for each moment that it is not followed.
const GATHERED: Duration = Duration::from_millis(50);

/// A netlink socket that listens. What exactly has changed is for the listener to look up: messages may be lost where the
/// kernel has many.
pub struct Watch {
    news: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Watch {
    /// Opens the socket. `links`: those that are known, as they are.
    pub fn open<'a>(links: impl Iterator<Item = &'a Link>) -> Result<Watch, KernelError> {
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(KernelError::io("cannot listen to changes of addresses and routes"))?;
        let news = Arc::new(Notify::new());
        let told = news.clone();
        let mut sizes = Sizes(links.map(|link| (link.index, u32::from(link.mtu))).collect());
        let listening = async move {
            while let Some((message, _)) = messages.next().await {
                if !sizes.change(&message.payload) {
                    tokio::time::sleep(GATHERED).await;
                }
                while let Some(Some((message, _))) = messages.next().now_or_never() {
                    sizes.change(&message.payload);
                }
                told.notify_one();
            }
        };
        Ok(Watch { news, tasks: [tokio::spawn(connection), tokio::spawn(listening)] })
    }

    /// Waits until something has changed since the last time. Cancel-safe.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The MTU of each link, by its ifindex, as the kernel has last told.
struct Sizes(HashMap<u32, u32>);

impl Sizes {
    /// Whether this says that the MTU of a link is another now. Of one that is new there is more to come.
    fn change(&mut self, message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match message {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                let mtu = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                let former = mtu.and_then(|mtu| self.0.insert(link.header.index, mtu));
                former.is_some() && former != mtu
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                self.0.remove(&link.header.index);
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::LinkUnspec;

    use super::*;

    #[test]
    fn another_mtu_is_told_from_other_news() {
        let link = |index, mtu| LinkUnspec::new_with_index(index).mtu(mtu).build();
        let new = |index, mtu| NetlinkPayload::from(RouteNetlinkMessage::NewLink(link(index, mtu)));
        let mut sizes = Sizes(HashMap::from([(3, 1500)]));
        assert!(!sizes.change(&new(3, 1500)), "it came up, or lost its carrier");
        assert!(sizes.change(&new(3, 1400)));
        assert!(!sizes.change(&new(3, 1400)));
        assert!(!sizes.change(&new(4, 9000)), "a new link");
        assert!(sizes.change(&new(4, 1500)));
        let silent = LinkUnspec::new_with_index(4).up().build();
        assert!(!sizes.change(&NetlinkPayload::from(RouteNetlinkMessage::NewLink(silent))));
        assert!(sizes.change(&new(4, 9000)), "what was known is still known");
        assert!(!sizes.change(&NetlinkPayload::from(RouteNetlinkMessage::DelLink(link(4, 9000)))));
        assert!(!sizes.change(&new(4, 1500)), "another link with the number of one that is gone");
        assert!(!sizes.change(&NetlinkPayload::Noop));
    }
}
