//! An orderly stop.

use std::time::{Duration, Instant};

use super::bringup::{self, Ground};
use super::{Daemon, run_directory};
use crate::evidence::Record;

/// How long a stop waits for peers to acknowledge that their SAs are deleted.
const FAREWELL: Duration = Duration::from_secs(2);

impl Daemon {
    /// Says farewell to the peers and takes everything back.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.tunnels.close_all(Instant::now(), &mut self.endpoint);
        let deadline = Instant::now() + FAREWELL;
        loop {
            let now = Instant::now();
            self.tunnels.settle(now, &mut self.endpoint, &mut self.ground.maps, &self.sockets);
            if self.endpoint.ike_sas().next().is_none() && self.endpoint.stats().unacknowledged == 0
                || now >= deadline
            {
                break;
            }
            let due = self.endpoint.poll_timeout().unwrap_or(deadline).min(deadline);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => self.endpoint.handle_timeout(Instant::now()),
                Some(datagram) = self.datagrams.next() => {
                    self.endpoint.handle_datagram(Instant::now(), datagram.path, &datagram.bytes);
                }
            }
        }
        let Daemon {
            config,
            directory,
            ground,
            sweeper,
            filter_events,
            tunnels,
            endpoint,
            sa_events,
            sa_event_thread,
            evidence,
            ..
        } = self;
        // Keys are wiped and AF_XDP sockets closed before the devices go.
        drop((sweeper, filter_events, tunnels, endpoint, sa_events));
        evidence.sink().record(Record::Stop);
        drop(evidence);
        let Ground { kernel, mut ledger, filter, maps, engine, xfrm, .. } = ground;
        drop((engine, xfrm, maps, filter));
        // It may hold the engine for a moment: until it has ended, keys may live.
        if sa_event_thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of SA events had panicked");
        }
        bringup::tear_down(&kernel, &mut ledger, &config, &directory).await?;
        run_directory::remove(&config, &directory);
        tracing::info!("everything taken back");
        Ok(())
    }
}
