//! Verdicts and drop reasons: one counter each, per port.

/// Declares the verdicts once: number, constant and the name under which status and metrics show them.
macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// What became of a packet. Numbers are stable: they index `COUNTERS`.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verdict { $($(#[$doc])* $variant = $number),+ }

        impl Verdict {
            /// Every verdict, in the order of their numbers.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant),+];

            /// The name in status, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$variant => $name),+ }
            }

        }

        /// The numbers that are verdicts': bit by bit, 64 in each word.
        const NUMBERS: [u64; 2] = {
            let mut numbers = [0; 2];
            $(numbers[$number as usize / 64] |= 1 << ($number % 64);)+
            numbers
        };
    };
}

verdicts! {
    /// Forwarded by redirect to another port.
    Forward = 0, "forward";
    /// Handed to the kernel: the gateway's own services, or a neighbour to resolve.
    Pass = 1, "pass";
    /// ESP handed to the user-space engine for decryption.
    Decrypt = 2, "decrypt";
    /// Handed to the user-space engine for encryption.
    Encrypt = 3, "encrypt";
    /// A SYN answered by a challenge: whoever receives at its source address may open the flow.
    Challenge = 4, "syn-challenge";
    /// Frame too short or header lengths that do not fit.
    DropMalformed = 16, "malformed";
    /// An EtherType other than IPv4, IPv6, ARP.
    DropEtherType = 17, "ethertype";
    /// A VLAN tag on a NIC that has no tagged port.
    DropVlan = 18, "vlan";
    /// Entered through an interface that is no port.
    DropNoPort = 19, "no-port";
    /// The source address does not belong to the port it came from.
    DropSpoof = 20, "spoofed-source";
    /// The source address belongs behind a VPN and came in clear (route separation).
    DropClear = 21, "vpn-address-in-clear";
    /// A source or destination that is valid on no wire.
    DropMartian = 22, "martian";
    /// A fragment of what can't be judged in pieces: ESP for the engine, ICMP errors, neighbour discovery (RFC
    /// 6980).
    DropFragment = 23, "fragment";
    /// IPv4 options or IPv6 extension headers that are refused.
    DropOptions = 24, "ip-options";
    /// A protocol the pipeline cannot judge.
    DropProtocol = 25, "protocol";
    /// No rule allows it.
    DropPolicy = 26, "policy";
    /// TCP that opens no flow and belongs to none, or does not fit the flow's state.
    DropTcpState = 27, "tcp-state";
    /// The flow table is full.
    DropFlowTable = 28, "flow-table-full";
    /// Time to live, or hop limit, used up.
    DropTtl = 29, "ttl";
    /// No route, or the route leads to an interface that is no port.
    DropNoRoute = 30, "no-route";
    /// ESP with an SPI that belongs to no SA.
    DropUnknownSpi = 31, "esp-unknown-spi";
    /// ESP in the form (UDP or not) that was not negotiated.
    DropEspEncapsulation = 32, "esp-encapsulation";
    /// ARP or neighbour discovery whose sender does not belong to the port.
    DropNeighbour = 33, "neighbour-spoof";
    /// The gateway is closed: programs attached, maps not filled yet.
    DropClosed = 34, "closed";
    /// Multicast or broadcast that the gateway does not take.
    DropMulticast = 35, "multicast";
    /// Would leave in clear though its destination is behind a VPN.
    DropClearEgress = 36, "clear-egress";
    /// ICMP error that fits no known flow.
    DropIcmpError = 37, "icmp-error";
    /// More than the source's share of packets to the gateway's own services.
    DropRate = 38, "rate-limit";
    /// A map entry that must exist does not: an inconsistency, refused.
    DropInternal = 39, "internal";
    /// A unicast frame for another station's MAC address (a switch flooded it, or a forger wrote it).
    DropOtherHost = 40, "other-host";
    /// A VLAN id that is no port of this trunk.
    DropVlanUnknown = 41, "vlan-unknown";
    /// Two VLAN tags, or one of a service provider (IEEE 802.1ad).
    DropVlanDouble = 42, "vlan-double";
    /// A priority tag: VLAN id 0.
    DropVlanPriority = 43, "vlan-priority";
    /// More new flows than the rule's limit allows.
    DropRuleLimit = 44, "rule-limit";
    /// No VLAN tag on a trunk that has no untagged port.
    DropUntagged = 45, "untagged";
    /// The sender's address is bound to another MAC address.
    DropNeighbourMac = 46, "neighbour-mac";
    /// The sender's address is bound to no MAC address, and none is learned here.
    DropNeighbourUnbound = 47, "neighbour-unbound";
    /// TCP out of the windows that both sides have shown.
    DropTcpWindow = 48, "tcp-window";
    /// TCP that resets, but not with the number its receiver expects next.
    DropTcpReset = 49, "tcp-reset";
    /// A first fragment without the whole transport header.
    DropFragmentTiny = 50, "fragment-tiny";
    /// A fragment that covers what has come already.
    DropFragmentOverlap = 51, "fragment-overlap";
    /// A fragment that reaches beyond the longest packet.
    DropFragmentOversize = 52, "fragment-oversize";
    /// More fragments of one datagram, or more gaps between them, than are followed.
    DropFragmentTooMany = 53, "fragment-too-many";
    /// A fragment whose length, or whose datagram's end, contradicts itself or others.
    DropFragmentInconsistent = 54, "fragment-inconsistent";
    /// A later fragment whose first was refused, or hasn't come.
    DropFragmentOrphan = 55, "fragment-orphan";
    /// More fragmented datagrams than a source's share.
    DropFragmentRate = 56, "fragment-rate";
    /// The port has as many learned bindings as it may.
    DropNeighbourTable = 59, "neighbour-table-full";
    /// The translated ends are another flow's already, and the protocol has no port that could be another.
    DropNatConflict = 60, "nat-conflict";
    /// No free port was found to translate the source to.
    DropNatExhausted = 61, "nat-exhausted";
    /// The source has its quota of flows.
    DropQuotaSource = 80, "quota-source";
    /// The source has its quota of half-open TCP flows.
    DropQuotaHalfOpen = 81, "quota-half-open";
    /// The destination has its quota of half-open TCP flows.
    DropQuotaDestination = 82, "quota-destination";
    /// The zone has its quota of flows.
    DropQuotaZone = 83, "quota-zone";
    /// A SYN that must answer a challenge first, and cannot get it: an extension header or a fragment is in the way.
    DropChallenge = 88, "syn-challenge-impossible";
    /// A RST that answers a challenge as it should: its sender is known now, and the packet has done its work.
    DropChallengeAnswered = 84, "syn-challenge-answered";
    /// A refused packet, by which its source has tried so many doors that it counts as scanning.
    DropScan = 85, "scan";
    /// A new flow, beyond what a source that is scanning may open.
    DropScanLimit = 86, "scan-limit";
    /// More IKE messages that name no IKE SA of ours than there may be.
    DropIkeUnknown = 87, "ike-unknown-spi";
}

impl Verdict {
    /// The verdict with this number. Programs ask it after each of their steps: no call, and no look at any of them.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Verdict> {
        let [low, high] = NUMBERS;
        let numbers = if number < 64 { low } else { high };
        if number < 128 && numbers >> (number % 64) & 1 != 0 {
            // SAFETY: the enum is a `u8`, and this is the number of one of its variants.
            Some(unsafe { core::mem::transmute::<u8, Verdict>(number) })
        } else {
            None
        }
    }

    /// Whether the packet was refused.
    pub const fn is_drop(self) -> bool {
        self as u8 >= 16
    }
}

/// Verdicts per port in `COUNTERS`. A number has seven bits, as events have a use for the eighth.
pub const VERDICTS_MAX: u32 = 128;

/// Index into `COUNTERS`. Port 0 collects what belongs to no port.
#[inline(always)]
pub const fn counter_index(port: u16, verdict: Verdict) -> u32 {
    port as u32 * VERDICTS_MAX + verdict as u32
}

/// Capacity of `COUNTERS`.
pub const COUNTERS_MAX: u32 = crate::map::PORTS_MAX * VERDICTS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_verdict_or_none() {
        for number in 0..=u8::MAX {
            let expected = Verdict::ALL.iter().copied().find(|verdict| *verdict as u8 == number);
            assert_eq!(Verdict::from_number(number), expected, "{number}");
        }
    }
}
