//! Whether a packet is one that an operator wants to see.

use sekisho_abi::Address;
use sekisho_abi::trace::Trace;

use crate::parse::Packet;

/// Whether the trace asks for this packet, entered by this port. Both directions of a conversation fit.
#[inline(always)]
pub fn wants(trace: &Trace, packet: &Packet, entry: u16, refused: bool, now_ns: u64) -> bool {
    if now_ns >= trace.until_ns
        || (trace.refused != 0 && !refused)
        || (trace.entry != 0 && trace.entry != entry)
        || (trace.protocol != 0 && trace.protocol != packet.protocol)
        || (trace.port_be != 0
            && trace.port_be != packet.source_port_be
            && trace.port_be != packet.destination_port_be)
    {
        return false;
    }
    let between = |source: &Address, destination: &Address| {
        is_in(source, &trace.network, &trace.mask)
            && is_in(destination, &trace.peer_network, &trace.peer_mask)
    };
    between(&packet.source, &packet.destination) || between(&packet.destination, &packet.source)
}

#[inline(always)]
fn is_in(address: &Address, network: &Address, mask: &Address) -> bool {
    let word = |bytes: &Address, at: usize| {
        let mut word = 0;
        let mut index = 0;
        while index < 8 {
            word = word << 8 | u64::from(bytes[at + index]);
            index += 1;
        }
        word
    };
    word(address, 0) & word(mask, 0) == word(network, 0)
        && word(address, 8) & word(mask, 8) == word(network, 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sekisho_abi::mapped;

    #[test]
    fn a_trace_sees_both_directions_and_nothing_else() {
        let trace = Trace {
            until_ns: 100,
            network: mapped([192, 168, 1, 0]),
            mask: {
                let mut mask = [0xff; 16];
                mask[15] = 0;
                mask
            },
            port_be: 9100_u16.to_be(),
            protocol: 6,
            ..Trace::default()
        };
        let packet = Packet {
            source: mapped([192, 168, 1, 7]),
            destination: mapped([192, 168, 3, 7]),
            source_port_be: 40_000_u16.to_be(),
            destination_port_be: 9100_u16.to_be(),
            protocol: 6,
            ..Packet::default()
        };
        let reply = Packet {
            source: packet.destination,
            destination: packet.source,
            source_port_be: packet.destination_port_be,
            destination_port_be: packet.source_port_be,
            ..packet
        };
        assert!(wants(&trace, &packet, 1, false, 99) && wants(&trace, &reply, 3, false, 99));
        assert!(!wants(&trace, &packet, 1, false, 100), "its time is over");
        assert!(!wants(&Trace { protocol: 17, ..trace }, &packet, 1, false, 0));
        assert!(!wants(&Trace { entry: 2, ..trace }, &packet, 1, false, 0));
        assert!(!wants(&Trace { refused: 1, ..trace }, &packet, 1, false, 0));
        assert!(!wants(&Trace { port_be: 80_u16.to_be(), ..trace }, &packet, 1, false, 0));
        let elsewhere = Packet { source: mapped([192, 168, 2, 7]), ..packet };
        assert!(!wants(&trace, &elsewhere, 1, false, 0));
        assert!(wants(&Trace { until_ns: 1, ..Trace::default() }, &elsewhere, 1, false, 0));
    }
}
