//! What either side of a TCP flow may send: sequence and acknowledgment numbers within the windows that the packets of
//! both sides have shown.
//!
//! The bounds are those of Guido van Rooij, *Real Stateful TCP Packet Filtering in IP Filter* (2000), as nf_conntrack
//! has them. For a segment from one side, with the window of that side (`s`) and of the other (`r`):
//!
//! ```text
//!   I    sequence               ≤ s.max_end                  no more than the receiver has offered room for
//!   II   sequence + length      ≥ s.end − r.max_window − 1   nor older than what may still be on its way: a keep-alive's
//!                                                            number is one before that (RFC 9293 section 3.8.4)
//!   III  acknowledgment         ≤ r.end                      only what was sent
//!   IV   acknowledgment         ≥ r.end − max(s.max_window, 66000)
//! ```
//!
//! Nothing needs SACK here: it never moves the right edge (RFC 2018 section 3). Every update takes the same packet again, as
//! it may come by twice: retransmitted, or seen by XDP and once more on its way out of the kernel.

use sekisho_abi::flow::{Window, window_flags};

use crate::parse::Packet;
use crate::tcp::flag::{ACK, FIN, SYN};

/// How far acknowledgments may lag behind, as in nf_conntrack: an unscaled window and a segment. A small window says
/// little about them, as the receiver may have shrunk it.
const LAG: u32 = 66_000;
/// The largest window there is (RFC 7323 section 2.3).
const WINDOW_MAX: u32 = 1 << 30;
/// The largest shift (RFC 7323 section 2.3): a larger one counts as this.
const SCALE_MAX: u8 = 14;

/// Whether `a` comes after `b` in sequence space (RFC 9293 section 3.4).
#[inline(always)]
pub const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// One past the last sequence number of a segment.
#[inline(always)]
pub const fn end(packet: &Packet) -> u32 {
    let controls = (packet.tcp_flags & SYN) >> 1 | packet.tcp_flags & FIN;
    packet.tcp_sequence.wrapping_add(packet.tcp_payload as u32).wrapping_add(controls as u32)
}

/// Whether a segment of the side `s` lies within the bounds.
#[inline(always)]
pub const fn fits(s: &Window, r: &Window, packet: &Packet) -> bool {
    if (s.flags | r.flags) & window_flags::PICKED_UP != 0 {
        return true;
    }
    let lag = if s.max_window > LAG { s.max_window } else { LAG };
    let (ack, newest) = (packet.tcp_acknowledgment, r.end);
    !after(packet.tcp_sequence, s.max_end)
        && !after(s.end.wrapping_sub(r.max_window).wrapping_sub(1), end(packet))
        && (packet.tcp_flags & ACK == 0 || (!after(ack, newest) && !after(newest.wrapping_sub(lag), ack)))
}

/// Whether a segment of the side `s` that begins with this number may have brought about an ICMP error (RFC 5927 section
/// 4.1): it was sent, and may be on its way still.
#[inline(always)]
pub const fn may_be_answered(s: &Window, r: &Window, sequence: u32) -> bool {
    if (s.flags | r.flags) & window_flags::PICKED_UP != 0 {
        return true;
    }
    let lag = if r.max_window > LAG { r.max_window } else { LAG };
    !after(sequence, s.end) && !after(s.end.wrapping_sub(lag), sequence)
}

/// The opener's window after its SYN. Until it is answered, `max_end` is the lowest number that acknowledges it.
#[inline(always)]
pub const fn begun(packet: &Packet) -> Window {
    let max_end = packet.tcp_sequence.wrapping_add(1);
    Window { max_end, max_ack: 0, ..opened(packet) }
}

/// Whether this number acknowledges the opener's SYN; data that went with the SYN may be acknowledged or not (RFC 7413
/// section 3).
#[inline(always)]
pub const fn acknowledges_syn(opener: &Window, ack: u32) -> bool {
    !after(opener.max_end, ack) && !after(ack, opener.end)
}

/// Takes the other side's SYN or SYN+ACK: `s` is its window, `r` the opener's. Windows are scaled if both offer it (RFC
/// 7323 section 2.2), and never those of a SYN itself.
#[inline(always)]
pub fn answer(s: &mut Window, r: &mut Window, packet: &Packet) {
    *s = opened(packet);
    s.max_end = packet.tcp_sequence.wrapping_add(1).wrapping_add(r.max_window);
    if (s.flags & r.flags) & window_flags::SCALES == 0 {
        s.scale = 0;
        r.scale = 0;
    }
    if packet.tcp_flags & ACK != 0 {
        acknowledge(s, r, packet.tcp_acknowledgment, packet.tcp_window as u32);
    }
}

/// Takes a segment that fits.
#[inline(always)]
pub fn update(s: &mut Window, r: &mut Window, packet: &Packet) {
    let end = end(packet);
    let shift = if packet.tcp_flags & SYN != 0 { 0 } else { s.scale & 15 };
    let window = (packet.tcp_window as u32) << shift;
    if s.max_window < window {
        s.max_window = window;
    }
    // Stacks go beyond the offered room sometimes. The receiver takes what it likes of it, so it counts as offered.
    let beyond = end.wrapping_sub(s.max_end);
    if after(end, s.max_end) && r.max_window != 0 {
        let grown = r.max_window.saturating_add(beyond);
        r.max_window = if grown > WINDOW_MAX { WINDOW_MAX } else { grown };
    }
    if after(end, s.end) || (s.flags & window_flags::PICKED_UP != 0 && s.max_window == 0) {
        s.end = end;
    }
    // Whoever sends on hasn't reset the flow.
    s.flags &= !window_flags::RESET;
    if packet.tcp_flags & ACK != 0 {
        acknowledge(s, r, packet.tcp_acknowledgment, window);
    }
}

/// The window of a flow's first side where its handshake was not seen.
#[inline(always)]
pub const fn picked_up(packet: &Packet) -> Window {
    Window {
        end: end(packet),
        max_end: end(packet),
        max_window: packet.tcp_window as u32 + 1,
        max_ack: packet.tcp_acknowledgment,
        scale: 0,
        flags: window_flags::PICKED_UP | window_flags::ACKNOWLEDGED,
        reserved: [0; 2],
    }
}

/// The room of the other side grows, and an empty window still has room for a probe of one byte (RFC 9293 section
/// 3.8.6.1).
#[inline(always)]
fn acknowledge(s: &mut Window, r: &mut Window, ack: u32, window: u32) {
    if s.flags & window_flags::ACKNOWLEDGED == 0 || after(ack, s.max_ack) {
        s.max_ack = ack;
        s.flags |= window_flags::ACKNOWLEDGED;
    }
    let edge = ack.wrapping_add(if window == 0 { 1 } else { window });
    if after(edge, r.max_end) {
        r.max_end = edge;
    }
}

/// The window of a side that has just sent its SYN.
#[inline(always)]
const fn opened(packet: &Packet) -> Window {
    let (scale, flags) = match packet.tcp_scale {
        0 => (0, 0),
        offered if offered - 1 > SCALE_MAX => (SCALE_MAX, window_flags::SCALES),
        offered => (offered - 1, window_flags::SCALES),
    };
    Window {
        end: end(packet),
        max_end: end(packet),
        max_window: if packet.tcp_window == 0 { 1 } else { packet.tcp_window as u32 },
        max_ack: 0,
        scale,
        flags,
        reserved: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that data has overtaken on its way, as much of it as the receiver has room for.
    #[test]
    fn a_keep_alive_fits_and_nothing_older() {
        let s = Window { end: 5480, max_end: 5480, max_window: 65_535, ..Window::default() };
        let r = Window { end: 100, max_end: 65_635, max_window: 1480, ..Window::default() };
        for (sequence, expected) in [(4000, true), (3999, true), (3998, false)] {
            let packet = Packet {
                tcp_sequence: sequence,
                tcp_acknowledgment: 100,
                tcp_flags: ACK,
                ..Packet::default()
            };
            assert_eq!(fits(&s, &r, &packet), expected, "{sequence}");
        }
    }
}
