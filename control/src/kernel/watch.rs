//! Word from the kernel that addresses, links or routes have changed.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::KernelError;

/// What may move an IKE SA.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Changes come in bursts, of routes by the thousand where the gateway speaks BGP: one look answers for all of that time.
const GATHERED: Duration = Duration::from_millis(50);

/// A netlink socket that listens. What exactly has changed is for the listener to look up: messages may be lost where the
/// kernel has many.
pub struct Watch {
    news: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Watch {
    /// Opens the socket.
    pub fn open() -> Result<Watch, KernelError> {
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(KernelError::io("cannot listen to changes of addresses and routes"))?;
        let news = Arc::new(Notify::new());
        let told = news.clone();
        let listening = async move {
            while messages.next().await.is_some() {
                tokio::time::sleep(GATHERED).await;
                while let Some(Some(_)) = messages.next().now_or_never() {}
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
