//! What becomes of the ports' interfaces while the gateway runs.

use super::{GONE, Ground, answer_for, interface, takes_ike};
use crate::config::Config;
use crate::daemon::trunk;
use crate::kernel::{KernelError, Link};

/// What became of the interfaces of the ports, seen once a second.
pub(in crate::daemon) async fn watch_ports(config: &Config, ground: &mut Ground) -> anyhow::Result<()> {
    let (mut changed, mut resized) = (false, false);
    for (position, port) in config.ports.iter().enumerate() {
        let Some(known) = ground.links.get(position).cloned() else { continue };
        if port.vlan.is_some() {
            changed |= trunk::watch(config, ground, position).await?;
            continue;
        }
        let name = &*port.name;
        match ground.kernel.link(&port.interface).await {
            Ok(now) if now == known => continue,
            Ok(now) if now.index == known.index => {
                tracing::warn!(
                    port = name,
                    interface = now.name,
                    up = now.up,
                    mtu = now.mtu,
                    "interface changed"
                );
                // The kernel has dropped routes, and of IPv6 the addresses, when it went down.
                let back = now.up && now.carrier && !(known.up && known.carrier);
                let now = match back {
                    true => interface(config, port, &now, &ground.kernel, &mut ground.ledger).await?,
                    false => now,
                };
                resized |= now.mtu != known.mtu;
                ground.replace_link(position, now);
            }
            Ok(now) => {
                tracing::warn!(
                    port = name,
                    interface = now.name,
                    "another interface has the port's name: taken"
                );
                let mode = ground.filter.attach_port(&now)?;
                let now = interface(config, port, &now, &ground.kernel, &mut ground.ledger).await?;
                answer_for(config, port, &ground.kernel, &mut ground.ledger).await?;
                ground.replace_link(position, now);
                ground.modes.insert(port.id, mode.name());
                ground.hand_to_engine(position, takes_ike(config, port))?;
            }
            Err(KernelError::NoInterface(_)) if known.index == GONE => continue,
            Err(KernelError::NoInterface(interface)) => {
                tracing::error!(
                    port = name,
                    interface,
                    "interface is gone: the port carries nothing until it is back"
                );
                ground.replace_link(position, Link { index: GONE, ..known });
            }
            Err(error) => return Err(error.into()),
        }
        changed = true;
    }
    // A NIC that was replaced is put in force whatever becomes of these.
    let restored = ground.restore_xfrm_interfaces(config).await;
    changed |= !matches!(restored, Ok(false));
    let resized = if resized { ground.resize_tunnels(config).await } else { Ok(()) };
    if changed {
        ground.put_ports_in_force(config)?;
    }
    restored.and(resized)
}
