//! Fragments of IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5): which of a datagram's have come, and
//! whether one more may join them.
//!
//! Only the first fragment says which flow the datagram belongs to; it must hold the whole transport header (RFC 1858, RFC
//! 3128, RFC 7112). The others are judged as it was, once it has been let through. No byte of a datagram goes by twice:
//! what overlaps is dropped, so that receivers have no choice which of two bytes to believe, and if it isn't a plain
//! duplicate, everything that comes after it as well (RFC 5722).

use sekisho_abi::Address;
use sekisho_abi::verdict::Verdict;

use crate::parse::{IPV4_BYTES, Packet};

/// Values of [`Packet::fragment`].
pub mod part {
    /// A whole packet.
    pub const WHOLE: u8 = 0;
    /// The first fragment: offset zero, more to come.
    pub const FIRST: u8 = 1;
    /// Any other.
    pub const LATER: u8 = 2;
    /// A later one that came before the first: let through between hosts whose first fragments were a moment ago.
    pub const EARLY: u8 = 3;
}

/// What the fragments of a datagram have in common, at one port. IPv6 knows them without their protocol (RFC 8200
/// section 4.5), which is zero then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, network byte order.
    pub id_be: u32,
    /// The port they enter by, or [`LEAVING`] and the port they leave by.
    pub port: u16,
    /// IPv4: protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Set in [`FragmentKey::port`] for what the kernel sends.
pub const LEAVING: u16 = 1 << 15;

/// The key of a fragment.
#[inline(always)]
pub const fn key(packet: &Packet, port: u16) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id_be: packet.fragment_id_be,
        port,
        protocol: if packet.version == 4 { packet.protocol } else { 0 },
        reserved: 0,
    }
}

/// Fragments of one datagram: enough for 65,535 bytes over links of 1,280.
const FRAGMENTS_MAX: u8 = 64;
/// Gaps that a datagram's fragments may leave between them, by coming out of order, and one.
const SPANS: usize = 8;
/// How long fragments of a datagram are waited for, nanoseconds: what comes later is of another one.
pub const LIFETIME_NS: u64 = 10_000_000_000;
/// How long a complete datagram is remembered for its duplicates' sake, nanoseconds.
const DUPLICATES_NS: u64 = 1_000_000_000;

/// Bits of [`Datagram::state`].
mod state {
    pub(super) const HAS_FIRST: u8 = 1 << 0;
    pub(super) const DEAD: u8 = 1 << 1;
    pub(super) const COMPLETE: u8 = 1 << 2;
}

/// A datagram of which fragments have come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// The first fragment, once it was let through.
    pub first: Packet,
    /// When the first of them came, nanoseconds of CLOCK_MONOTONIC.
    pub begun_ns: u64,
    /// What has come: begin and end in units of eight bytes.
    spans: [[u16; 2]; SPANS],
    /// Length of the datagram in bytes, its unfragmented headers aside; zero until the last fragment has come.
    end: u16,
    /// Bytes in the first fragment: a sender cuts all others alike.
    cut: u16,
    /// How many have come.
    count: u8,
    state: u8,
    reserved: u16,
}

/// What a fragment covers of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes before it.
    pub offset: u16,
    /// Bytes in it.
    pub length: u16,
    /// Whether it isn't the last.
    pub more: bool,
}

/// The piece that a fragment is, if its own lengths are possible. `length`: bytes behind the IP header, or behind the
/// fragment header of IPv6.
#[inline(always)]
pub const fn piece(offset: u16, length: u32, more: bool) -> Result<Piece, Verdict> {
    if length == 0 || (more && !length.is_multiple_of(8)) {
        return Err(Verdict::DropFragmentInconsistent);
    }
    // The datagram with its header must be a packet (the "ping of death").
    if offset as u32 + length + IPV4_BYTES > u16::MAX as u32 {
        return Err(Verdict::DropFragmentOversize);
    }
    Ok(Piece { offset, length: length as u16, more })
}

impl Datagram {
    /// Forgets everything.
    #[inline(always)]
    pub fn begin(&mut self, now_ns: u64) {
        *self = Self { begun_ns: now_ns, ..Self::default() };
    }

    /// Whether this is over, so that a first fragment with the same key begins another datagram.
    #[inline(always)]
    pub const fn is_over(&self, now_ns: u64) -> bool {
        let age = now_ns.saturating_sub(self.begun_ns);
        age > LIFETIME_NS || (self.state & state::COMPLETE != 0 && age > DUPLICATES_NS)
    }

    /// Whether the first fragment was let through.
    #[inline(always)]
    pub const fn has_first(&self) -> bool {
        self.state & (state::HAS_FIRST | state::DEAD) == state::HAS_FIRST
    }

    /// The first fragment was let through.
    #[inline(always)]
    pub fn admit(&mut self, first: &Packet) {
        self.first = *first;
        self.cut = first.fragment_bytes;
        self.state |= state::HAS_FIRST;
    }

    /// Nothing of it goes on any more.
    #[inline(always)]
    pub fn refuse(&mut self) {
        self.state |= state::DEAD;
    }

    /// Puts a piece to the others, or says why it is dropped.
    #[inline(always)]
    pub fn place(&mut self, piece: Piece) -> Result<(), Verdict> {
        let Piece { offset, length, more } = piece;
        if self.state & state::DEAD != 0 {
            return Err(Verdict::DropFragmentOrphan);
        }
        let end = offset.saturating_add(length);
        let (from, to) = (offset / 8, end.div_ceil(8));
        let mut furthest = 0;
        let mut duplicate = false;
        for [begun, ended] in self.spans {
            if from < ended && begun < to {
                if !self.is_copy(piece) || from < begun || to > ended {
                    self.refuse();
                    return Err(Verdict::DropFragmentOverlap);
                }
                duplicate = true;
            }
            if ended > furthest {
                furthest = ended;
            }
        }
        let consistent = match (more, self.end) {
            (false, 0) => to >= furthest,
            (false, known) => end == known,
            (true, 0) => true,
            (true, known) => end < known,
        };
        if !consistent {
            self.refuse();
            return Err(Verdict::DropFragmentInconsistent);
        }
        if duplicate {
            return Err(Verdict::DropFragmentOverlap);
        }
        if self.count >= FRAGMENTS_MAX || !self.join(from, to) {
            self.refuse();
            return Err(Verdict::DropFragmentTooMany);
        }
        self.count = self.count.wrapping_add(1);
        if !more {
            self.end = end;
        }
        let [begun, ended] = self.spans[0];
        if self.end != 0 && begun == 0 && ended == self.end.div_ceil(8) {
            self.state |= state::COMPLETE;
        }
        Ok(())
    }

    /// Whether a piece that has come already may be a duplicate: cut as its sender cuts.
    #[inline(always)]
    const fn is_copy(&self, piece: Piece) -> bool {
        let Piece { offset, length, more } = piece;
        self.cut == 0 || (offset % self.cut == 0 && (length == self.cut || (!more && length < self.cut)))
    }

    /// Adds a span: to one that it continues, else in a free place. The one that begins at zero is kept in the first place.
    #[inline(always)]
    fn join(&mut self, mut from: u16, mut to: u16) -> bool {
        for span in &mut self.spans {
            let [begun, ended] = *span;
            if ended == 0 {
                continue;
            }
            if ended == from {
                from = begun;
                *span = [0, 0];
            } else if begun == to {
                to = ended;
                *span = [0, 0];
            }
        }
        if from == 0 {
            let [begun, ended] = self.spans[0];
            self.spans[0] = [from, to];
            return ended == 0 || self.settle(begun, ended);
        }
        self.settle(from, to)
    }

    #[inline(always)]
    fn settle(&mut self, from: u16, to: u16) -> bool {
        for span in &mut self.spans {
            if span[1] == 0 {
                *span = [from, to];
                return true;
            }
        }
        false
    }
}

/// Makes of a later fragment what the steps behind can judge: the packet that its first was, in this frame. The last one
/// also shows how much there was of TCP.
#[inline(always)]
pub fn complete(packet: &mut Packet, datagram: &Datagram) {
    let first = &datagram.first;
    let before = first.fragment_bytes.wrapping_sub(first.tcp_payload);
    let total = packet.fragment_offset.wrapping_add(packet.fragment_bytes).wrapping_sub(before);
    packet.tcp_payload = if packet.fragment_more == 0 { total } else { first.tcp_payload };
    packet.kind = first.kind;
    packet.protocol = first.protocol;
    packet.spi_be = first.spi_be;
    packet.source_port_be = first.source_port_be;
    packet.destination_port_be = first.destination_port_be;
    packet.tcp_flags = first.tcp_flags;
    packet.tcp_scale = first.tcp_scale;
    packet.tcp_window = first.tcp_window;
    packet.tcp_sequence = first.tcp_sequence;
    packet.tcp_acknowledgment = first.tcp_acknowledgment;
    packet.router_alert = first.router_alert;
}

/// Hosts between which a first fragment was let through a moment ago.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The port they enter by.
    pub port: u16,
    /// Protocol number, as the first fragment's header has it.
    pub protocol: u16,
    /// Zero.
    pub reserved: u32,
}

/// The pair of a fragment.
#[inline(always)]
pub const fn pair_key(packet: &Packet, port: u16) -> PairKey {
    PairKey {
        source: packet.source,
        destination: packet.destination,
        port,
        protocol: packet.protocol as u16,
        reserved: 0,
    }
}

/// Where fragments between them go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// When the last first fragment was let through, nanoseconds of CLOCK_MONOTONIC.
    pub seen_ns: u64,
    /// The generation it was judged by.
    pub generation: u32,
    /// The port it left by, 0 for the gateway.
    pub exit: u16,
    /// How many more may come before their first.
    pub early: u16,
}

/// How many fragments may come before their first, until the next first: what a receiver holds for nothing, if that
/// is refused.
pub const EARLY_MAX: u16 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u16, length: u16, more: bool) -> Piece {
        piece(offset, length.into(), more).expect("possible")
    }

    fn placed(pieces: &[Piece]) -> (Datagram, Result<(), Verdict>) {
        let mut datagram = Datagram::default();
        datagram.admit(&Packet { fragment_bytes: pieces[0].length, ..Packet::default() });
        let mut last = Ok(());
        for &piece in pieces {
            last = datagram.place(piece);
        }
        (datagram, last)
    }

    #[test]
    fn lengths_that_are_possible() {
        assert!(piece(0, 1480, true).is_ok() && piece(1480, 3, false).is_ok());
        assert_eq!(piece(0, 1481, true), Err(Verdict::DropFragmentInconsistent));
        assert_eq!(piece(8, 0, false), Err(Verdict::DropFragmentInconsistent));
        assert_eq!(piece(65_528, 8, false), Err(Verdict::DropFragmentOversize));
        assert_eq!(piece(65_504, 12, false), Err(Verdict::DropFragmentOversize));
        assert!(piece(65_504, 11, false).is_ok(), "65,535 bytes in all");
    }

    #[test]
    fn overlaps() {
        let first = at(0, 1480, true);
        let (datagram, last) = placed(&[first, at(1480, 1480, true), at(1480, 1480, true)]);
        assert_eq!((last, datagram.has_first()), (Err(Verdict::DropFragmentOverlap), true), "a duplicate");
        for overlapping in [at(8, 1480, true), at(1472, 100, false), at(0, 8, true), at(8, 8, true)] {
            let (mut datagram, last) = placed(&[first, overlapping]);
            assert_eq!((last, datagram.has_first()), (Err(Verdict::DropFragmentOverlap), false));
            assert_eq!(datagram.place(at(1480, 1480, true)), Err(Verdict::DropFragmentOrphan));
        }
    }

    #[test]
    fn ends_that_contradict_each_other() {
        let first = at(0, 1480, true);
        for (second, third) in [
            (at(1480, 100, false), at(2000, 100, false)),
            (at(2960, 100, false), at(1480, 200, false)),
            (at(1480, 100, false), at(1584, 8, true)),
            (at(2960, 80, true), at(1480, 100, false)),
        ] {
            let (datagram, last) = placed(&[first, second, third]);
            assert_eq!(
                (last, datagram.has_first()),
                (Err(Verdict::DropFragmentInconsistent), false),
                "{third:?}"
            );
        }
    }

    #[test]
    fn too_many() {
        let mut datagram = Datagram::default();
        for number in 0..64 {
            assert_eq!(datagram.place(at(number * 8, 8, true)), Ok(()));
        }
        assert_eq!(datagram.place(at(512, 8, true)), Err(Verdict::DropFragmentTooMany));
        let mut scattered = Datagram::default();
        let refused = (0..64).find(|number| scattered.place(at(number * 16, 8, true)).is_err());
        assert_eq!(refused, Some(8));
    }

    #[test]
    fn the_last_one_shows_how_much_tcp_there_was() {
        let first = Packet { fragment_bytes: 1480, tcp_payload: 1448, ..Packet::default() };
        let mut datagram = Datagram::default();
        datagram.admit(&first);
        let mut last = Packet { fragment_offset: 1480, fragment_bytes: 20, ..Packet::default() };
        complete(&mut last, &datagram);
        assert_eq!(last.tcp_payload, 1468);
        let mut middle =
            Packet { fragment_offset: 1480, fragment_bytes: 8, fragment_more: 1, ..Packet::default() };
        complete(&mut middle, &datagram);
        assert_eq!(middle.tcp_payload, 1448);
    }

    proptest! {
        /// However the fragments of a datagram come: all go by once, and every byte once.
        #[test]
        fn any_order(cut in 1u16..186, count in 2u16..45, rest in 1u16..8, order in prop::collection::vec(any::<u32>(), 45)) {
            let cut = cut * 8;
            prop_assume!(u32::from(cut) * u32::from(count) < 65_000);
            let mut pieces: Vec<_> = (0..count)
                .map(|number| if number + 1 == count { at(number * cut, rest, false) } else { at(number * cut, cut, true) })
                .zip(order)
                .collect();
            // At most so far from their places that the gaps suffice.
            let mut index = 0;
            pieces.sort_by_cached_key(|(_, shift)| { index += 1; index + shift % 6 });
            let mut datagram = Datagram::default();
            for (piece, _) in &pieces {
                prop_assert_eq!(datagram.place(*piece), Ok(()));
                prop_assert!(datagram.state & state::COMPLETE == 0 || pieces.last().map(|(last, _)| last) == Some(piece));
            }
            prop_assert!(datagram.state & state::COMPLETE != 0);
            for (piece, _) in pieces {
                prop_assert_eq!(datagram.place(piece), Err(Verdict::DropFragmentOverlap));
            }
        }

        /// Whatever comes, no byte goes by twice and none beyond the end.
        #[test]
        fn no_byte_twice(pieces in prop::collection::vec((0u16..100, 1u16..200, any::<bool>()), 0..80)) {
            let mut datagram = Datagram::default();
            let mut passed: Vec<Piece> = Vec::new();
            for (offset, length, more) in pieces {
                let Ok(next) = piece(offset * 8, length.into(), more) else { continue };
                if datagram.place(next).is_ok() {
                    for before in &passed {
                        let apart = next.offset >= before.offset + before.length
                            || before.offset >= next.offset + next.length;
                        prop_assert!(apart, "{before:?} {next:?}");
                        prop_assert!(before.more || next.offset + next.length <= before.offset + before.length);
                    }
                    passed.push(next);
                }
            }
        }
    }
}
