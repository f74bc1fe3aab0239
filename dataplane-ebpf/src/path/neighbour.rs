//! ARP, neighbour discovery and multicast listeners: checked against the port's networks, then the kernel's. And whose an
//! address is, on ports that bind them to MAC addresses.
//!
//! A binding is learned where an address is first used, unless the configuration has it. It holds until its host has been
//! silent for its lifetime, or an operator has it forgotten. What the address's sender says of itself is held against it:
//! ARP and discovery, and the source of every packet but those on the short way, whose frames come from whom the last
//! one of their flow came from.

use aya_ebpf::bindings::BPF_NOEXIST;
use sekisho_abi::Address;
use sekisho_abi::event::Claim;
use sekisho_abi::flow::Lifetime;
use sekisho_abi::map::Config;
use sekisho_abi::neighbour::{NEIGHBOURS_PER_PORT, Neighbour, NeighbourKey};
use sekisho_abi::port::{Port, port_flags};
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::frame::Aligned;
use sekisho_dataplane::neighbour::{self, Standing};
use sekisho_dataplane::parse::{Ethernet, Packet};
use sekisho_dataplane::spoof::{self, Scope};

use crate::context::{XdpFrame, now_ns};
use crate::maps;
use crate::scratch::Scratch;

/// An ARP packet on a port.
#[inline(always)]
pub(crate) fn arp(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let port = scratch.seen.entered()?;
    has_neighbours(port)?;
    let ethernet = Ethernet::read(frame)?;
    let arp = neighbour::arp(frame, &ethernet)?;
    scratch.sender = ethernet.source;
    scratch.used = [[0; 16]; 2];
    if !arp.probe {
        // Events tell it.
        scratch.seen.packet.source = arp.sender;
        neighbour::claim(maps::network(&arp.sender), port)?;
        scratch.used[0] = arp.sender;
    }
    Ok(())
}

/// A neighbour discovery message on a port.
#[inline(always)]
pub(crate) fn discovery(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let seen = &scratch.seen;
    let port = seen.entered()?;
    has_neighbours(port)?;
    let message = neighbour::discovery(frame, &seen.packet)?;
    let ethernet = Ethernet::read(frame)?;
    neighbour::link_layer(frame, &seen.packet, &ethernet)?;
    if message.router && port.flags & port_flags::UPLINK == 0 {
        return Err(Verdict::DropNeighbour);
    }
    if let Some(Aligned(source)) = &message.source {
        neighbour::claim(maps::network(source), port)?;
    }
    if let Some(Aligned(target)) = &message.target {
        let owner = maps::network(target);
        if message.claims {
            neighbour::claim(owner, port)?;
        } else {
            neighbour::question(owner, port)?;
        }
    }
    // Those of the gateway's own addresses that stand in no table.
    let own = neighbour::link_local(&port.mac);
    if message.own[0] == own || message.own[1] == own {
        return Err(Verdict::DropNeighbour);
    }
    scratch.sender = ethernet.source;
    scratch.used = message.own;
    Ok(())
}

/// A multicast listener message on a port.
#[inline(always)]
pub(crate) fn listener(packet: &Packet, port: &Port) -> Result<Verdict, Verdict> {
    has_neighbours(port)?;
    neighbour::listener(packet)?;
    Ok(Verdict::Pass)
}

#[inline(always)]
fn has_neighbours(port: &Port) -> Result<(), Verdict> {
    if port.flags & port_flags::VPN != 0 { Err(Verdict::DropNeighbour) } else { Ok(()) }
}

/// Which address of the packet's sender is bound: its source, or the router's through which it came. What lies beyond an
/// uplink has neither here.
#[inline(always)]
pub(crate) fn source(frame: &XdpFrame, scratch: &mut Scratch) -> Result<(), Verdict> {
    let packet = &scratch.seen.packet;
    scratch.sender = Ethernet::read(frame)?.source;
    scratch.used = [[0; 16]; 2];
    scratch.used[0] = match spoof::scope(packet, &packet.source) {
        Scope::LinkLocal => packet.source,
        Scope::Unicast => match maps::network(&packet.source) {
            Some(network) if network.router != 0 => {
                *maps::ROUTERS.get(network.router.into()).ok_or(Verdict::DropInternal)?
            }
            Some(_) => packet.source,
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    Ok(())
}

/// Holds one of the addresses that a frame's sender uses against its binding, where the port has bindings.
#[inline(always)]
pub(crate) fn held(scratch: &Scratch, address: &Address) -> Result<(), Verdict> {
    let port = scratch.seen.entered()?;
    if *address == [0; 16] || port.flags & port_flags::BOUND == 0 {
        return Ok(());
    }
    let config = maps::config().ok_or(Verdict::DropInternal)?;
    let now_ns = now_ns();
    let mac = &scratch.sender;
    let key = NeighbourKey { address: *address, port: port.id, reserved: 0 };
    let bound = maps::neighbour(&key);
    let judged = match neighbour::standing(bound.as_deref(), mac, lifetime_ns(config), now_ns) {
        Standing::Own => return Ok(()),
        Standing::Seen => {
            if let Some(bound) = bound {
                bound.seen_ns = now_ns;
            }
            return Ok(());
        }
        Standing::Free => learn(port, &key, Neighbour { seen_ns: now_ns, mac: *mac, flags: 0 }),
        Standing::Foreign => Err(Verdict::DropNeighbourMac),
    };
    if let Err(refused) = judged {
        let bound = maps::neighbour(&key).map_or([0; 6], |bound| bound.mac);
        alarm(&key, *mac, bound, refused, now_ns);
    }
    judged
}

#[inline(always)]
fn lifetime_ns(config: &Config) -> u64 {
    u64::from(config.lifetimes[Lifetime::Neighbour as usize]) * 1_000_000_000
}

/// The address is the sender's from now on. In a port of static bindings hosts still have link-local addresses, by which
/// nothing goes farther than the gateway.
#[inline(always)]
fn learn(port: &Port, key: &NeighbourKey, new: Neighbour) -> Result<(), Verdict> {
    if port.flags & port_flags::BOUND_STATIC != 0 && key.address[0] != 0xfe {
        return Err(Verdict::DropNeighbourUnbound);
    }
    if let Some(expired) = maps::neighbour(key) {
        *expired = new;
        return Ok(());
    }
    let count = maps::NEIGHBOUR_COUNTS.get_ptr_mut(u32::from(port.id)).ok_or(Verdict::DropInternal)?;
    // SAFETY: an entry of an array, which always exists. What CPUs that write at once miscount, the daemon corrects.
    unsafe {
        if *count >= NEIGHBOURS_PER_PORT {
            return Err(Verdict::DropNeighbourTable);
        }
        *count = (*count).wrapping_add(1);
    }
    // Where two come first at once, one of them is.
    maps::NEIGHBOURS.insert(key, new, u64::from(BPF_NOEXIST)).map_err(|_| Verdict::DropNeighbourTable)
}

/// Tells the daemon who used whose address, at most as often as other events of this verdict.
#[inline(always)]
fn alarm(key: &NeighbourKey, mac: [u8; 6], bound: [u8; 6], verdict: Verdict, time_ns: u64) {
    let Some(rate) = maps::ALARM_RATE.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this CPU's own, and outlives the program's run.
    let Some(next_ns) = sekisho_dataplane::rate::EVENTS.admit(unsafe { (*rate).next_ns }, time_ns) else {
        return;
    };
    // SAFETY: as above.
    unsafe { (*rate).next_ns = next_ns };
    let Some(mut entry) = maps::EVENTS.reserve::<Claim>(0) else { return };
    entry.write(Claim {
        time_ns,
        address: key.address,
        mac,
        bound,
        port: key.port,
        verdict: verdict as u8,
        reserved: 0,
    });
    entry.submit(0);
}
