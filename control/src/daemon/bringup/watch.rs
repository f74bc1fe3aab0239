//! What becomes of the ports' interfaces while the gateway runs.

use super::{GONE, Ground, answer_for, interface, takes_ike};
use crate::config::{Config, Port};
use crate::daemon::trunk;
use crate::kernel::{KernelError, Link};

/// What became of the interfaces of the ports and of the tunnels' devices, seen once a second. What does not follow keeps
/// nothing else from it; the first error is told.
pub(in crate::daemon) async fn watch_ports(config: &Config, ground: &mut Ground) -> anyhow::Result<()> {
    let mut changed = false;
    let mut outcome = Ok(());
    for (position, port) in config.ports.iter().enumerate() {
        match watch_port(config, ground, position, port).await {
            Ok(is_other) => changed |= is_other,
            Err(error) => {
                // What it has become before is put in force.
                changed = true;
                outcome = outcome.and(Err(error.context(format!("port {}", port.name))));
            }
        }
    }
    for restored in [
        ground.restore_tunnel(config).await,
        ground.restore_xfrm_interfaces(config).await,
        ground.look_at_policies(),
    ] {
        changed |= !matches!(restored, Ok(false));
        outcome = outcome.and(restored.map(drop));
    }
    if ground.are_links_resized() {
        let resized = ground.resize_tunnels(config).await;
        // One that did not come to be is tried again at the next look, and no rule is compiled for it.
        changed |= resized.is_ok();
        outcome = outcome.and(resized);
    }
    if changed {
        ground.take_in_batches(config);
        ground.put_ports_in_force(config)?;
    }
    outcome
}

/// Says whether a port's interface is otherwise than it was.
async fn watch_port(
    config: &Config,
    ground: &mut Ground,
    position: usize,
    port: &Port,
) -> anyhow::Result<bool> {
    let Some(known) = ground.links.get(position).cloned() else { return Ok(false) };
    if port.vlan.is_some() {
        return trunk::watch(config, ground, position).await;
    }
    let name = &*port.name;
    match ground.kernel.link(&port.interface).await {
        Ok(now) if now == known => return Ok(false),
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
            ground.replace_link(position, now);
        }
        Ok(now) => {
            tracing::warn!(port = name, interface = now.name, "another interface has the port's name: taken");
            let mode = ground.filter.attach_port(&now)?;
            let now = interface(config, port, &now, &ground.kernel, &mut ground.ledger).await?;
            answer_for(config, port, &ground.kernel, &mut ground.ledger).await?;
            ground.replace_link(position, now);
            ground.modes.insert(port.id, mode.name());
            ground.hand_to_engine(position, takes_ike(config, port))?;
        }
        Err(KernelError::NoInterface(_)) if known.index == GONE => return Ok(false),
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
    Ok(true)
}
