//! The XDP programs' own parser, over any frame: the code is the same as in the kernel, the frame is a slice.
//!
//! Asserts: nothing panics or allocates; what is accepted lies within the frame; a flow has one key in both directions;
//! what MSS clamping would write lies within the TCP header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_abi::verdict::Verdict;
use sekisho_dataplane::parse::{ETHERNET_BYTES, Ethernet, Ipv6, Kind, Packet, ethertype};
use sekisho_dataplane::{flow, icmp, mss, neighbour, parse, spoof, vlan};
use sekisho_fuzz::memory::within;

fuzz_target!(|frame: &[u8]| {
    let _ = within(0, || judge(frame));
});

fn judge(frame: &[u8]) -> Result<(), Verdict> {
    let ethernet = Ethernet::read(frame)?;
    let mut packet = Packet::default();
    match ethernet.ethertype {
        ethertype::ARP => {
            neighbour::arp(frame, &ethernet)?;
            return Ok(());
        }
        ethertype::IPV4 => parse::ipv4(frame, &mut packet)?,
        ethertype::IPV6 => {
            if parse::ipv6(frame, &mut packet)? == Ipv6::Extended {
                parse::ipv6_extended(frame, &mut packet, |walk| walk.step(frame))?;
            }
        }
        kind if vlan::is_tag(kind) => {
            let id = vlan::read(frame)?;
            assert!((1..=4095).contains(&id), "an id that names no VLAN");
            return Ok(());
        }
        _ => return Ok(()),
    }
    within_frame(frame, &packet);

    let [source, destination] = [packet.source, packet.destination].map(|a| spoof::scope(&packet, &a));
    let _ = spoof::martian(&packet, source, destination);
    if packet.has_flow() && packet.source != packet.destination {
        same_flow(&packet);
    }
    match packet.kind {
        Kind::Tcp => clamp(frame, &packet),
        Kind::IcmpError => {
            let mut quoted = Packet::default();
            icmp::quoted(frame, &packet, &mut quoted)?;
        }
        Kind::Neighbour => {
            neighbour::discovery(frame, &packet)?;
            neighbour::link_layer(frame, &packet, &ethernet)?;
        }
        Kind::Listener => neighbour::listener(&packet)?,
        _ => {}
    }
    Ok(())
}

fn within_frame(frame: &[u8], packet: &Packet) {
    let end = ETHERNET_BYTES + u32::from(packet.length);
    assert!(end as usize <= frame.len(), "the packet ends behind the frame");
    let transport = u32::from(packet.transport);
    let header = if packet.version == 4 { parse::IPV4_BYTES } else { parse::IPV6_BYTES };
    assert!(transport >= ETHERNET_BYTES + header && transport <= end, "the transport is not in the packet");
    assert!(matches!(packet.version, 4 | 6));
}

/// The reply's key is the request's.
fn same_flow(packet: &Packet) {
    let (key, from_low) = flow::key(packet);
    let reply = Packet {
        source: packet.destination,
        destination: packet.source,
        source_port_be: packet.destination_port_be,
        destination_port_be: packet.source_port_be,
        ..*packet
    };
    let (back, back_from_low) = flow::key(&reply);
    assert_eq!(key, back);
    assert_ne!(from_low, back_from_low);
}

fn clamp(frame: &[u8], packet: &Packet) {
    let end = ETHERNET_BYTES + u32::from(packet.length);
    let transport = u32::from(packet.transport);
    for limit in [0, 536, 1340] {
        if let Some(change) = mss::clamp(frame, transport, limit, |search| search.step(frame)) {
            assert!(change.offset >= transport + 20 && change.offset + 2 <= end, "outside the options");
            assert_eq!((change.checksum_offset, change.mss), (transport + 16, limit));
        }
    }
}
