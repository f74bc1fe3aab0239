//! What the maps of the measurements' programs hold. Everything is plain integers in the machine's byte order, but for what
//! stands in frames.
#![cfg_attr(target_arch = "bpf", no_std)]

/// `TEMPLATES`: the first [`HEADER_BYTES`] of a frame, as they lie in memory, and then the length of the whole frame.
pub type Template = [u64; HEADER_WORDS + 1];
/// Bytes that are written into each frame: all headers, for IPv4 and IPv6, and no more than the shortest frame has.
pub const HEADER_BYTES: usize = 64;
/// The same in words.
pub const HEADER_WORDS: usize = HEADER_BYTES / 8;
/// Longest frame, without its checksum: an IP packet of 1500 bytes.
pub const FRAME_MAX: usize = 1514;

/// `ORDER`, by these indices: what `generate` shall do.
pub mod order {
    /// Number of entries.
    pub const FIELDS: usize = 3;
    /// Frames to send in all.
    pub const FRAMES: usize = 0;
    /// Templates in use: one after the other, and then from the first again.
    pub const TEMPLATES: usize = 1;
    /// Nanoseconds between two frames; 0: as fast as it goes.
    pub const INTERVAL_NS: usize = 2;
}

/// `PROGRESS`, by these indices: what `generate` has done. Zeros before it begins.
pub mod progress {
    /// Number of entries.
    pub const FIELDS: usize = 5;
    /// Frames sent.
    pub const SENT: usize = 0;
    /// The next frame's template.
    pub const NEXT: usize = 1;
    /// When the first frame was sent, nanoseconds of CLOCK_MONOTONIC.
    pub const BEGAN_NS: usize = 2;
    /// When the last one was sent; of a flood, one of the last [`CLOCK_EVERY`](super::CLOCK_EVERY).
    pub const LAST_NS: usize = 3;
    /// Paced: when the next one is due.
    pub const DUE_NS: usize = 4;
}

/// A flood looks at the clock once in so many frames (a power of two): looking costs as much as a lookup.
pub const CLOCK_EVERY: u64 = 32;
/// Who is later than this does not make up for it: a burst is not what a paced sender sends. Nanoseconds.
pub const LATE_MAX_NS: u64 = 100_000;

/// `SUNK`, by these indices: what the sinks have counted on one CPU.
pub mod sunk {
    /// Number of entries.
    pub const FIELDS: usize = 2;
    /// Frames.
    pub const FRAMES: usize = 0;
    /// Their bytes, without checksums.
    pub const BYTES: usize = 1;
}

/// Port to which everything is sent that the sinks count: from here on, one for each number of rules.
pub const PORT_FIRST: u16 = 20_000;

/// Whether a frame is one that the sinks count, by its EtherType, the protocol in its IPv4 or IPv6 header, and its ports:
/// UDP with one end at [`PORT_FIRST`] or above, TCP to there. Ports and EtherType in network byte order.
#[inline(always)]
pub const fn is_counted(ethertype_be: u16, protocol: u8, ports_be: [u16; 2]) -> bool {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let ethertype = u16::from_be(ethertype_be);
    let [source, destination] = [u16::from_be(ports_be[0]), u16::from_be(ports_be[1])];
    (ethertype == IPV4 || ethertype == IPV6)
        && match protocol {
            TCP => destination >= PORT_FIRST,
            UDP => source >= PORT_FIRST || destination >= PORT_FIRST,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_strangers_are_not_counted() {
        let ports = |source: u16, destination: u16| [source.to_be(), destination.to_be()];
        assert!(is_counted(0x0800_u16.to_be(), 17, ports(1024, PORT_FIRST)));
        assert!(is_counted(0x86dd_u16.to_be(), 17, ports(PORT_FIRST + 9, 1024)));
        assert!(is_counted(0x0800_u16.to_be(), 6, ports(1024, PORT_FIRST)));
        assert!(!is_counted(0x0800_u16.to_be(), 6, ports(PORT_FIRST, 1024)), "TCP from there");
        assert!(!is_counted(0x0806_u16.to_be(), 17, ports(1024, PORT_FIRST)), "ARP");
        assert!(!is_counted(0x86dd_u16.to_be(), 58, ports(1024, PORT_FIRST)), "neighbour discovery");
        assert!(!is_counted(0x0800_u16.to_be(), 17, ports(67, 68)), "DHCP");
    }
}
